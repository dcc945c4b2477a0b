"""A status document (contracts.md) of an instance whose firewall shuts SSH, for tests of what leaves the instance."""

from __future__ import annotations

from typing import Any


def example() -> dict[str, Any]:
    rule = {
        "outcome": "timeout", "possible": ["timeout"], "rate_limited": False, "sources": ["0.0.0.0/0"], "stage": "syn",
        "hook": "input", "priority": 0, "backend": "iptables-nft", "table": "ip filter", "chain": "INPUT", "rule": 3,
        "handle": 12, "text": "-A INPUT -s 203.0.113.0/24 -j DROP",
    }  # fmt: skip
    outcomes = ("connected", "timeout", "refused", "unreachable", "closed", "uncertain")
    sources: dict[str, list[str]] = {name: [] for name in outcomes}
    answer = {
        "interface": "eth0", "family": "ipv4", "to": ["10.0.5.20"], "port": 22,
        "sources": {**sources, "timeout": ["0.0.0.0/0"]}, "nd": {"blocked": False, "rules": []}, "rules": [rule],
    }  # fmt: skip
    finding = {
        "id": "firewall-drop", "severity": "critical", "symptom": "timeout",
        "summary": "the firewall drops SSH from everyone outside",
        "evidence": ["ip filter INPUT rule 3: -A INPUT -s 203.0.113.0/24 -j DROP"],
        "document": "1", "repair": "`ufw allow 22/tcp` opens it",
    }  # fmt: skip
    repair = {
        "id": "20261128T141459-1", "time": "2026-11-28T14:14:59Z", "finding": "firewall-drop", "outcome": "undone",
        "seconds": 0.4, "commands": ["ufw allow 22/tcp"], "notes": ["it did not help"],
    }  # fmt: skip
    return {
        "schema": "ec2ssh-agent.status/1",
        "agent": {"version": "0.1.0", "pid": 321, "started": "2026-11-28T14:00:00Z", "pass_ms": 41},
        "instance": {"id": "i-0123456789abcdef0", "source": "dmi"},
        "health": "unreachable",
        "summary": "nobody outside gets in",
        "ssh": {"port": 22, "listeners": ["0.0.0.0:22", "[::]:22"], "unit": "ssh.service", "pid": 500,
                "banner": "SSH-2.0-OpenSSH_9.2p1 Debian-2", "libwrap": True},
        "reach": {"answers": [answer], "unseen": [{"interface": "eth0", "family": "ipv6", "reason": "no address"}]},
        "firewall": {"owner": "ufw", "backends": ["iptables-nft"]},
        "findings": [finding],
        "repairs": [repair],
        "circuit": {},
        "report": {"url": "https://health.example/in", "waiting": 3, "parked": 0, "dropped": 0,
                   "delivered": "2026-11-28T14:10:00Z", "last": "200 OK"},
        "updated": "2026-11-28T14:15:00Z",
        "valid_until": "2026-11-28T14:46:00Z",
    }  # fmt: skip
