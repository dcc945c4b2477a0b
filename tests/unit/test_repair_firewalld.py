"""A step of firewalld's: what is set at run time is in no file, and may be the administrator's."""

from __future__ import annotations

from typing import Optional

import pytest

from ec2ssh_agent.host import Ran
from ec2ssh_agent.model import Finding, Severity, Symptom
from ec2ssh_agent.repair import execute, records
from ec2ssh_agent.repair.records import Record, State
from ec2ssh_agent.repair.work import StepFailed
from ec2ssh_agent.steps import Argv, Run, Rung
from fake_host import Call, FakeHost, hanging

FINDING = Finding("firewall-drop", Severity.CRITICAL, Symptom.TIMEOUT, "a rule drops")
ZONE = "/etc/firewalld/zones/public.xml"
NOW: Argv = ("firewall-cmd", "--zone=public")
LATER: Argv = ("firewall-cmd", "--permanent", "--zone=public")
ADD, REMOVE, QUERY = "--add-service=ssh", "--remove-service=ssh", "--query-service=ssh"
ALLOW = Run(((*NOW, ADD), (*LATER, ADD)), ((*LATER, REMOVE), (*NOW, REMOVE)), (ZONE, f"{ZONE}.old"), (), "firewalld")
#: Where it is in the permanent configuration already.
AT_RUN_TIME = Run(((*NOW, ADD),), ((*NOW, REMOVE),), (), (), "firewalld")
BEFORE, SERVICE = b"<target/>\n", b'<service name="ssh"/>\n'
DONE = Ran(0, b"success\n", b"")
NOT_RUNNING = Ran(252, b"", b"FirewallD is not running\n")


class Firewalld(FakeHost):
    """One that firewall-cmd talks to; there is no D-Bus. `runtime` holds what it lets in."""

    def __init__(self) -> None:
        super().__init__({ZONE: BEFORE})
        self.directory("/run")
        self.directory("/var/lib")
        self.runtime: set[str] = set()
        self.command((*NOW, ADD), self._admit)
        self.command((*NOW, REMOVE), self._shut)
        self.command((*NOW, QUERY), lambda call: Ran(0 if "ssh" in self.runtime else 1, b"", b""))
        self.command((*LATER, ADD), lambda call: self._write(self.read(ZONE) + SERVICE))
        self.command((*LATER, REMOVE), lambda call: self._write(self.read(ZONE).replace(SERVICE, b"")))

    def _admit(self, call: Call) -> Ran:
        there = "ssh" in self.runtime
        self.runtime.add("ssh")
        return Ran(0, b"success\n", b"Warning: ALREADY_ENABLED: 'ssh' already in 'public'\n" if there else b"")

    def _shut(self, call: Call) -> Ran:
        there = "ssh" in self.runtime
        self.runtime.discard("ssh")
        return DONE if there else Ran(12, b"", b"Error: NOT_ENABLED: 'ssh' not in 'public'\n")

    def _write(self, content: bytes) -> Ran:
        self.put(ZONE, content)
        return DONE


def applied(host: FakeHost, step: Run) -> Record:
    rung = Rung("firewalld-allow", "why", (step,))
    return execute.apply(host, rung, finding=FINDING, actor="daemon", note=lambda text: None)


def repaired(host: FakeHost, step: Run) -> Record:
    return execute.close(host, applied(host, step), State.VERIFIED)


@pytest.mark.parametrize("step", [ALLOW, AT_RUN_TIME])
@pytest.mark.parametrize("others", [b"", b'<source address="10.0.0.0/8"/>\n'])
def test_what_stays_at_run_time_is_not_said_to_be_undone(step: Run, others: bytes) -> None:
    host = Firewalld()
    record = repaired(host, step)
    host.put(ZONE, host.read(ZONE) + others)
    host.command((*NOW, REMOVE), hanging)
    before = host.read(ZONE)
    with pytest.raises(StepFailed, match="no end within its deadline"):
        execute.undo(host, record)
    assert records.load(host, record.id) == record and host.read(ZONE) == before
    host.command((*NOW, REMOVE), host._shut)
    assert execute.undo(host, record).record.state is State.UNDONE
    assert not host.runtime and host.read(ZONE) == BEFORE + others


@pytest.mark.parametrize("step", [ALLOW, AT_RUN_TIME])
@pytest.mark.parametrize("answer", [NOT_RUNNING, Ran(12, b"", b"Error: NOT_ENABLED: ssh\n"), None])
def test_where_nothing_is_there_at_run_time_nothing_is_missed(step: Run, answer: Optional[Ran]) -> None:
    host = Firewalld()
    record = repaired(host, step)
    host.runtime.clear()  # a reload, a restart, or firewalld is stopped, or gone
    if answer:
        host.command((*NOW, REMOVE), answer)
    else:
        host.scripts.clear()
    assert execute.undo(host, record).record.state is State.UNDONE
    assert host.read(ZONE) == BEFORE


@pytest.mark.parametrize("step", [ALLOW, AT_RUN_TIME])
@pytest.mark.parametrize("asked", [True, False])
def test_what_the_administrator_had_set_at_run_time_is_left(step: Run, asked: bool) -> None:
    host = Firewalld()
    host.runtime.add("ssh")
    if not asked:  # set between the question and the addition
        host.command((*NOW, QUERY), Ran(1, b"", b""))
    record = repaired(host, step)
    assert execute.undo(host, record).record.state is State.UNDONE
    assert host.runtime == {"ssh"} and host.read(ZONE) == BEFORE


@pytest.mark.parametrize("step", [ALLOW, AT_RUN_TIME])
def test_a_record_of_an_earlier_version_is_undone(step: Run) -> None:
    host = Firewalld()
    record = repaired(host, step)
    assert record.saved[0].texts == ()  # nothing more is in it than ever was
    execute.undo(host, records.load(host, record.id))
    assert not host.runtime and host.read(ZONE) == BEFORE


class Killed(BaseException):
    """Nobody's handler sees it."""


def killed(call: Call) -> Ran:
    raise Killed


@pytest.mark.parametrize("step", [ALLOW, AT_RUN_TIME])
@pytest.mark.parametrize("administrator", [False, True])
def test_after_a_crash_nothing_is_taken_back_that_may_be_the_administrators(step: Run, administrator: bool) -> None:
    host = Firewalld()
    host.command((*NOW, ADD), killed)
    with pytest.raises(Killed):
        applied(host, step)
    host.runtime |= {"ssh"} if administrator else set()
    (record,) = execute.recover(host)
    assert host.runtime == ({"ssh"} if administrator else set()) and host.read(ZONE) == BEFORE
    assert record.state is (State.FAILED if administrator else State.UNDONE)
    assert administrator is any("firewall-cmd --zone=public --add-service=ssh" in note for note in record.notes)


def test_after_a_crash_that_left_the_files_written_all_is_taken_back() -> None:
    host = Firewalld()

    host.nodes[ZONE].mtime_ns -= 10**12

    def last(call: Call) -> Ran:
        host.nodes[f"{ZONE}.old"] = host.nodes.pop(ZONE)  # as firewalld keeps it: with its time
        host.put(ZONE, BEFORE + SERVICE)
        raise Killed

    host.command((*LATER, ADD), last)
    with pytest.raises(Killed):
        applied(host, ALLOW)
    assert host.runtime
    (record,) = execute.recover(host)
    assert record.state is State.UNDONE and not host.runtime and host.read(ZONE) == BEFORE
    assert not host.exists(f"{ZONE}.old")


@pytest.mark.parametrize("step", [ALLOW, AT_RUN_TIME])
def test_an_undo_that_is_killed_is_finished(step: Run) -> None:
    host = Firewalld()
    record = repaired(host, step)
    host.command((*NOW, REMOVE), killed)
    with pytest.raises(Killed):
        execute.undo(host, record)
    host.command((*NOW, REMOVE), host._shut)
    (undone,) = execute.recover(host)
    assert undone.state is State.UNDONE and not host.runtime and host.read(ZONE) == BEFORE


def test_a_step_that_fails_half_way_is_taken_back_at_run_time() -> None:
    host = Firewalld()
    host.command((*LATER, ADD), Ran(1, b"", b"Error: read-only file system\n"))
    with pytest.raises(StepFailed, match="read-only.*taken back"):
        applied(host, ALLOW)
    assert not host.runtime and records.all(host)[0].state is State.FAILED
