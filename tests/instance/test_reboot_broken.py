"""An instance whose breakage outlives a reboot: the agent, started with it, mends it before anybody has to wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from harness import Instance, boot, execute


def _enable(root: Path, *units: str) -> None:
    execute(["systemctl", f"--root={root}", "-q", "enable", *units])


def _nftables(root: Path) -> None:
    table = "table inet filter {\n chain input {\n  type filter hook input priority filter; policy drop;\n }\n}\n"
    (root / "etc/nftables.conf").write_text(f"#!/usr/sbin/nft -f\nflush ruleset\n{table}")
    _enable(root, "nftables.service")


def _iptables(root: Path) -> None:
    """What iptables-persistent does with rules.v4 and rules.v6."""
    rules = "*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"
    (root / "etc/iptables").mkdir()
    for name in ("rules.v4", "rules.v6"):
        (root / "etc/iptables" / name).write_text(rules)
    (root / "etc/systemd/system/netfilter-persistent.service").write_text(
        "[Unit]\nDefaultDependencies=no\nBefore=network-pre.target shutdown.target\nWants=network-pre.target\n"
        "[Service]\nType=oneshot\nRemainAfterExit=yes\n"
        "ExecStart=/usr/sbin/iptables-restore /etc/iptables/rules.v4\n"
        "ExecStart=/usr/sbin/ip6tables-restore /etc/iptables/rules.v6\n"
        "[Install]\nWantedBy=multi-user.target\n"
    )
    _enable(root, "netfilter-persistent.service")


def _ufw(root: Path) -> None:
    path = root / "etc/ufw/ufw.conf"
    path.write_text(path.read_text().replace("ENABLED=no", "ENABLED=yes"))


def _firewalld(root: Path) -> None:
    path = root / "etc/firewalld/firewalld.conf"
    path.write_text(path.read_text().replace("DefaultZone=public", "DefaultZone=drop"))
    _enable(root, "firewalld.service")


def _disabled(root: Path) -> None:
    execute(["systemctl", f"--root={root}", "-q", "disable", "ssh.service"])


def _up_since(made: Instance) -> float:
    """When sshd came up, on the clock that this machine and the instance share."""
    text = made.run("systemctl show -P ExecMainStartTimestampMonotonic ssh.service").out
    return int(text) / 1e6


@pytest.mark.parametrize("breaks", [_nftables, _iptables, _ufw, _firewalld, _disabled], ids=lambda f: f.__name__[1:])
def test_mended_at_boot(breaks: Callable[[Path], None]) -> None:
    with boot(prepare=breaks) as made:
        for _ in range(2):
            made.client.wait_ssh(60)
            took = time.monotonic() - _up_since(made)
            print(f"{breaks.__name__[1:]}: a client got in {took:.2f} s after sshd's start")
            assert made.client.ssh().ok
            # 2 s is what is wanted; the bound is for a machine that is busy with other things.
            assert took < 20
            made.reboot()
