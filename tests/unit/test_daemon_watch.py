"""What a pass tells the supervisor of sshd's unit."""

from __future__ import annotations

from typing import Optional

import pytest

from ec2ssh_agent import daemon
from ec2ssh_agent.facts import Process, Sshd, UnitState
from ec2ssh_agent.model import Seen, Unseen


@pytest.mark.parametrize(
    ("restart", "main_pid", "process", "expected"),
    [
        ("on-failure", 7, Process(7, "sshd"), True),
        ("on-failure", 0, None, True),  # systemd is about to
        ("on-failure", 0, Process(7, "sshd"), False),  # somebody started it by hand
        ("no", 7, Process(7, "sshd"), False),
    ],
)
def test_systemd_restarts_an_sshd_of_its_own(
    restart: str, main_pid: int, process: Optional[Process], expected: bool
) -> None:
    unit = UnitState("ssh.service", restart=restart, main_pid=main_pid)
    assert daemon.restarts_itself(Sshd(unit=Seen(unit), process=Seen(process))) is expected


def test_without_a_unit_nobody_restarts_it() -> None:
    assert not daemon.restarts_itself(Sshd(unit=Unseen("no D-Bus"), process=Seen(Process(7, "sshd"))))
