"""The units' exposure, as systemd-analyze counts it."""

from __future__ import annotations

import re
import subprocess
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
