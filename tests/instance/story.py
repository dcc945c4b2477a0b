"""The whole story of one fault: SSH worked, is broken, is mended by the daemon, and the repair is taken back."""

from __future__ import annotations

import re
from typing import Any

from daemon import findings, set_mode, status, wait_daemon
from faults import Fault
from harness import Instance, wait_for

CONFIG = """\
[watch]
interval = 1m
[repair]
mode = off
baseline_after = 1s
max_attempts = 20
"""


def mended(made: Instance, fault: Fault, *, first: bool) -> None:
    """The whole story of one fault."""
    if first:
        set_mode(made, "off", more="baseline_after = 1h\n")
        made.agent("purge", check=True)
    else:
        set_mode(made, "off")
        assert made.client.ssh(to=fault.to).ok, "before the fault"
        wait_daemon(made)
        wait_for("a baseline", lambda: _has_baseline(made), 60, every=0.3)
    made.run(fault.breaks)
    try:
        assert made.client.symptom(to=fault.to) == fault.symptom
        wait_for(f"the finding {fault.finding}", lambda: fault.finding in findings(made), 30)
        found = findings(made)[fault.finding]
        assert found["symptom"] == fault.symptom
        broken, known = made.snapshot(), {repair["id"] for repair in status(made)["repairs"]}

        set_mode(made, "repair", more="baseline_after = 1h\n")
        made.client.wait_ssh(40, to=fault.to)
        wait_for("health", lambda: not any(f["severity"] == "critical" for f in findings(made).values()), 30)
        login = made.client.ssh(to=fault.to)
        assert login.ok, login.stderr
        document = status(made)
        made_since = [r for r in document["repairs"] if r["id"] not in known]
        verified = [r["finding"] for r in made_since if r["outcome"] == "verified"]
        assert fault.finding in verified, made_since
        page = made.agent("status").out
        assert fault.finding in page and re.search(r"verified in \d", page), page
        undone(made, broken)
    finally:
        set_mode(made, "off")
        made.run(fault.heal, check=False)
        made.agent("resume")
    made.client.wait_ssh(40, to=fault.to)


def no_traceback(made: Instance) -> None:
    text = made.journal("-u", "ec2ssh-agent*")
    at = text.find("Traceback")
    assert at < 0, text[max(0, at - 1000) : at + 4000]


def _has_baseline(made: Instance) -> bool:
    """By each family of which it has an address."""
    document = status(made)
    held = {(way["interface"], way["family"]) for way in document["baseline"]}
    return held >= {(answer["interface"], answer["family"]) for answer in document["reach"]["answers"] if answer["to"]}


def undone(made: Instance, broken: Any) -> None:
    """`undo`, of every change of this repair, brings rules and files back to what they were just before."""
    set_mode(made, "off")
    while True:
        done = made.agent("undo")
        if done.code:
            assert "nothing to undo" in done.err, done.err
            break
    after = made.snapshot()
    lines = [line for line in Instance.diff(broken, after) if "60-mode.conf" not in line and not _unit(line)]
    assert not lines, "\n".join(lines)


def _unit(line: str) -> bool:
    """That sshd runs again is no file and no rule; `undo` does not stop it."""
    return bool(re.match(r"\d{4}: ", line))
