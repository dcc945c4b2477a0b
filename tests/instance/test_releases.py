"""The package on the other Debian releases: Python 3.9 and 3.13, their systemd, OpenSSH, nftables and libwrap."""

from __future__ import annotations

import json

import pytest

from daemon import findings, wait_daemon
from harness import Instance, boot, wait_for

CONFIG = "[watch]\ninterval = 1m\n"

# What breaks it, for a client of either family; the finding; what puts it back.
_CHAIN = "chain inet own input { type filter hook input priority 0; policy drop; }"
FAULTS = (
    (
        "for t in iptables ip6tables; do $t -I INPUT -p tcp --dport 22 -j DROP; done",
        "firewall-drop",
        "for t in iptables ip6tables; do $t -F INPUT; done",
    ),
    (f"nft 'add table inet own; add {_CHAIN}'", "firewall-drop", "nft delete table inet own"),
    ("systemctl stop ssh.service", "sshd-not-running", "true"),
    ("printf 'ALL: ALL\\n' > /etc/hosts.deny", "wrappers-deny", ": > /etc/hosts.deny; : > /etc/hosts.allow"),
    ("ufw --force enable", "firewall-drop", "ufw --force disable; ufw --force reset"),
)

IMPORT_ALL = """
import importlib, pkgutil, sys
import ec2ssh_agent
for module in pkgutil.walk_packages(ec2ssh_agent.__path__, "ec2ssh_agent."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(sys.version_info[:2])
"""


def _mended(made: Instance, command: str, finding: str) -> None:
    made.run(command)
    made.client.wait_ssh(60)
    wait_for("the record", lambda: any(r["finding"] == finding for r in _repairs(made)), 30)
    wait_for("health", lambda: not any(f["severity"] == "critical" for f in findings(made).values()), 30)
    assert made.client.ssh().ok, command


def _repairs(made: Instance) -> list[dict[str, str]]:
    return list(json.loads(made.agent("status", "--json").out)["repairs"])


@pytest.mark.parametrize(("suite", "python"), [("bullseye", "(3, 9)"), ("trixie", "(3, 13)")])
def test_it_runs_and_repairs(suite: str, python: str) -> None:
    with boot(suite, config=CONFIG) as made:
        wait_daemon(made)
        assert made.run(["python3", "-I", "-W", "error::SyntaxWarning", "-c", IMPORT_ALL]).out.strip() == python
        for command, finding, back in FAULTS:
            _mended(made, command, finding)
            made.run(back)
            made.client.wait_ssh(60)
        assert "Traceback" not in made.journal("-u", "ec2ssh-agent")
