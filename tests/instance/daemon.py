"""What the instance tests ask of a running daemon."""

from __future__ import annotations

import json
from typing import Any

from harness import Instance, wait_for

_MODE = "/etc/ec2ssh-agent/agent.conf.d/60-mode.conf"


def set_mode(made: Instance, mode: str, *, more: str = "") -> None:
    made.write(_MODE, f"[repair]\nmode = {mode}\n{more}")
    made.run("systemctl reload ec2ssh-agent.service")


def status(made: Instance) -> dict[str, Any]:
    done = made.agent("status", "--json")
    assert done.out, done.err
    document: dict[str, Any] = json.loads(done.out)
    return document


def findings(made: Instance) -> dict[str, dict[str, Any]]:
    return {finding["id"]: finding for finding in status(made)["findings"]}


def wait_baseline(made: Instance) -> None:
    """Until the daemon has seen who gets in for as long as it takes."""
    wait_daemon(made)
    wait_for("a baseline", lambda: len(status(made)["baseline"]) == 2, 60, every=0.3)


def wait_daemon(made: Instance) -> None:
    """Until it has published what its first pass saw."""
    wait_for("the daemon's first pass", lambda: made.agent("status").code != 3, 60)


def open_records(made: Instance) -> str:
    """Of changes that are under way. The directory is made by the first."""
    return made.run("ls /var/lib/ec2ssh-agent/open", check=False).out


def main_pid(made: Instance) -> str:
    return made.run("systemctl show -P MainPID ec2ssh-agent.service").out.strip()
