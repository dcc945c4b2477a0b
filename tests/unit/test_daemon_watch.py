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


def test_what_lies_elsewhere_is_watched_with_all_above_it() -> None:
    files = (("/etc/ssh/sshd_config", "0"), ("/opt/ssh/conf/a.conf", "0"))
    sshd = Sshd(files=Seen(files), places=Seen(("/etc/ssh/sshd_config.d", "/opt/ssh/conf")))
    assert daemon._directories(sshd) == (
        ("/opt/ssh/conf", (), "sshd-config"),
        ("/", ("opt",), "sshd-config"),
        ("/etc/ssh", ("sshd_config",), "sshd-config"),
        ("/opt", ("ssh",), "sshd-config"),
        ("/opt/ssh", ("conf",), "sshd-config"),
        ("/opt/ssh/conf", ("a.conf",), "sshd-config"),
    )


def test_without_a_unit_nobody_restarts_it() -> None:
    assert not daemon.restarts_itself(Sshd(unit=Unseen("no D-Bus"), process=Seen(Process(7, "sshd"))))
