"""The units' exposure, as systemd-analyze counts it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).resolve().parents[2] / "systemd"


@pytest.mark.parametrize(("unit", "most"), [("ec2ssh-agent", 2.6), ("ec2ssh-agent-report", 1.5)])
def test_exposure(unit: str, most: float) -> None:
    argv = ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNITS / f"{unit}.service")]
    printed = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", printed)
    assert found, printed
    assert float(found.group(1)) <= most, printed


def test_the_probe_may_reach_the_hosts_own_addresses() -> None:
    """systemd filters by address on lo, too (systemd.resource-control(5)); instances in tests do not enforce it."""
    assert "\nIPAddressDeny=" not in (UNITS / "ec2ssh-agent.service").read_text()
