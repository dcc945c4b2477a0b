"""The units' exposure, as systemd-analyze counts it."""

from __future__ import annotations

import re
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "systemd"


@pytest.mark.parametrize(("unit", "most"), [("ec2ssh-agent", 2.5), ("ec2ssh-agent-report", 1.5)])
def test_exposure(unit: str, most: float) -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / f"{unit}.service")]
    printed = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", printed)
    assert found, printed
    assert float(found.group(1)) <= most, printed


@pytest.mark.parametrize("address", ["127.0.0.1", "10.0.5.20", "172.31.9.9", "::1", "2600:1f18::9", "169.254.169.253"])
def test_the_probe_may_reach_the_hosts_own_addresses_and_its_resolver(address: str) -> None:
    """systemd filters by address on lo, too (systemd.resource-control(5)); instances in tests do not enforce it."""
    line = next(line for line in (UNITS / "ec2ssh-agent.service").read_text().split("\n") if "IPAddressAllow=" in line)
    words = {"localhost": "127.0.0.0/8 ::1/128", "link-local": "169.254.0.0/16 fe80::/64"}
    allowed = " ".join(words.get(word, word) for word in line.partition("=")[2].split()).split()
    assert any(ip_address(address) in ip_network(network) for network in allowed)
    assert not any(ip_address("8.8.8.8") in ip_network(network) for network in allowed)
