"""What commands say when they end half-way."""

from __future__ import annotations

import pytest

from ec2ssh_agent import administer
from ec2ssh_agent.host import Ran
from ec2ssh_agent.model import AgentError, Finding, Severity, Symptom
from ec2ssh_agent.repair import execute
from ec2ssh_agent.repair.records import State
from ec2ssh_agent.steps import Rung, Write
from fake_host import FakeHost


def test_a_purge_that_fails_says_that_the_daemon_is_stopped() -> None:
    host = FakeHost({"/etc/hosts.allow": b""})
    host.command(["systemctl", "stop"], Ran(0, b"", b""))
    said: list[str] = []
    finding = Finding("wrappers-deny", Severity.CRITICAL, Symptom.CLOSED, "refused")
    for path in ("/etc/hosts.allow", "/etc/other"):
        rung = Rung("allow", "why", (Write(path, b"sshd : ALL\n", "sed"),))
        record = execute.apply(host, rung, finding=finding, actor="daemon", note=said.append)
        execute.close(host, record, State.VERIFIED)
    host.denied.add("/etc/hosts.allow")
    with pytest.raises(AgentError) as raised:
        administer.purge(host, undo_first=True)

    text = str(raised.value)
    assert "stopped; systemctl start" in text and text.count(" undone") == 1
