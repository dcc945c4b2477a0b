"""What commands say when they end half-way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from ec2ssh_agent import administer, memory, passes
from ec2ssh_agent.host import Ran
from ec2ssh_agent.model import AgentError, Finding, Severity, Symptom
from ec2ssh_agent.repair import execute, records
from ec2ssh_agent.repair.records import Record, State
from ec2ssh_agent.steps import Rung, Write
from fake_host import FakeHost

FINDING = Finding("wrappers-deny", Severity.CRITICAL, Symptom.CLOSED, "refused")


class Killed(BaseException):
    """Nobody's handler sees it."""


class Doomed(FakeHost):
    """Killed when it is about to write one of `deadly`."""

    deadly: tuple[str, ...] = ()

    def replace(self, path: str, content: bytes, *, mode: int = 0o644, like: bool = True, sync: bool = True) -> None:
        if path in self.deadly:
            raise Killed
        super().replace(path, content, mode=mode, like=like, sync=sync)


def applied(host: FakeHost) -> Record:
    """hosts.allow, with a line of the agent's in front."""
    host.put("/etc/hosts.allow", b"ALL: 10.\n")
    host.put("/proc/sys/kernel/random/boot_id", b"b\n")
    rung = Rung("hosts-allow", "why", (Write("/etc/hosts.allow", b"sshd : ALL\nALL: 10.\n"),))
    return execute.apply(host, rung, finding=FINDING, actor="daemon", note=lambda text: None)


def repaired(host: FakeHost) -> Record:
    return execute.close(host, applied(host), State.VERIFIED)


@pytest.mark.parametrize("deadly", ["/etc/hosts.allow", memory.COPY, memory.PATH])
def test_undo_that_is_killed_leaves_nothing_that_the_daemon_repairs_again(deadly: str) -> None:
    host = Doomed()
    record = repaired(host)
    host.deadly = (deadly,)
    with pytest.raises(Killed):
        administer.undo(host, None)
    host.deadly = ()
    execute.recover(host)
    taken_back = records.load(host, record.id).state is State.UNDONE
    assert taken_back is (deadly == "/etc/hosts.allow")
    assert memory.is_silenced(passes.recall(host), record.fault) or not taken_back


@contextlib.contextmanager
def nobody(seconds: float) -> Iterator[None]:
    yield


def test_what_a_crash_left_is_rolled_back_when_the_pause_is_over() -> None:
    host = FakeHost()
    record = applied(host)
    administer.pause(host, "1h")
    (note,) = passes.recover(host, busy=nobody)
    assert "when the pause is over, in 3600 s" in note
    assert host.text("/etc/hosts.allow") == "sshd : ALL\nALL: 10.\n" and records.unfinished(host) == (record.id,)
    host.advance(3600.0)
    passes.recover(host, busy=nobody)
    assert host.text("/etc/hosts.allow") == "ALL: 10.\n" and records.unfinished(host) == ()


@pytest.mark.parametrize("state", [State.UNDONE, State.FAILED, State.APPLIED])
def test_only_what_was_rolled_back_is_said_to_be(state: State) -> None:
    host = FakeHost()
    applied(host)
    if state is State.FAILED:
        host.put("/etc/hosts.allow", b"sshd: 192.0.2.\n")
    if state is State.APPLIED:
        host.denied = {"/etc/hosts.allow"}
    (note,) = passes.recover(host, busy=nobody)
    said = {
        State.UNDONE: "rolled back at the next start",
        State.FAILED: "left as it is",
        State.APPLIED: "not rolled back:",
    }
    assert said[state] in note and bool(records.unfinished(host)) is (state is State.APPLIED)


def test_undo_that_is_refused_silences_nothing() -> None:
    host = FakeHost()
    record = repaired(host)
    host.put("/etc/hosts.allow", b"sshd: 192.0.2.\n")
    with pytest.raises(execute.ChangedSince):
        administer.undo(host, record.id)
    assert not memory.is_silenced(passes.recall(host), record.fault)
    host.put("/etc/hosts.allow", b"sshd : ALL\nALL: 10.\n")
    administer.undo(host, record.id)
    assert memory.is_silenced(passes.recall(host), record.fault) and host.text("/etc/hosts.allow") == "ALL: 10.\n"


def test_a_purge_that_fails_says_that_the_daemon_is_stopped() -> None:
    host = FakeHost({"/etc/hosts.allow": b""})
    host.command(["systemctl", "stop"], Ran(0, b"", b""))
    said: list[str] = []
    for path in ("/etc/hosts.allow", "/etc/other"):
        rung = Rung("allow", "why", (Write(path, b"sshd : ALL\n", "sed"),))
        record = execute.apply(host, rung, finding=FINDING, actor="daemon", note=said.append)
        execute.close(host, record, State.VERIFIED)
    host.denied.add("/etc/hosts.allow")
    with pytest.raises(AgentError) as raised:
        administer.purge(host, undo_first=True)

    text = str(raised.value)
    assert "stopped; systemctl start" in text and text.count(" undone") == 1
