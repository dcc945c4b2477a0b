"""Records, apply, undo, recover on a host in memory: order of writes, distrust, full disks, limits, the audit line."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import pytest

from ec2ssh_agent import administer
from ec2ssh_agent.codec import Garbage, decode, encode
from ec2ssh_agent.host import Failed, Host, Locked, Ran
from ec2ssh_agent.model import AgentError, Finding, Severity, Symptom
from ec2ssh_agent.reach.ruleset import Backend
from ec2ssh_agent.repair import execute, records
from ec2ssh_agent.repair.audit import MESSAGE_ID, audit
from ec2ssh_agent.repair.records import CHANGES, OPEN, BadRecord, NoSuchChange, Record, State
from ec2ssh_agent.repair.work import StepFailed
from ec2ssh_agent.steps import Directory, Disable, HostKeys, Insert, Mode, Run, Rung, Step, Write
from fake_host import Call, FakeHost, hanging

FINDING = Finding("wrappers-deny", Severity.CRITICAL, Symptom.CLOSED, "hosts.deny refuses", subject="ALL")
ALLOW = Write("/etc/hosts.allow", b"sshd2 sshd : ALL: allow\n")
STEPS: tuple[Step, ...] = (
    Run((("ufw", "allow", "22"),), (("ufw", "delete", "22"),), ("/etc/ufw/user.rules",), (("ufw", "reload"),), "ufw"),
    Insert(Backend.NFTABLES, "inet", "filter", "input", ("accept",), ("10.0.0.0/8",), False, 2),
    Write("/etc/x", bytes(range(256)), "shown"),
    Mode("/etc/x", 0o600, 0, 5),
    Directory("/run/sshd", 0o755),
    HostKeys((("rsa", "/etc/ssh/k"),)),
    Disable(("iptables",), "ufw", (("inet", "f"),)),
)  # fmt: skip


def furnish(host: FakeHost) -> None:
    host.put("/etc/hosts.allow", b"ALL: 10.\n")
    host.put("/proc/sys/kernel/random/boot_id", b"b\n")
    host.directory("/var/lib")
    host.directory("/run")


def machine() -> FakeHost:
    host = FakeHost()
    furnish(host)
    return host


def rung(*steps: Step) -> Rung:
    return Rung("wrappers-allow", "because", steps, "step 3")


def apply(host: FakeHost, *steps: Step, said: Optional[list[str]] = None) -> Record:
    note = (said if said is not None else []).append
    return execute.apply(host, rung(*steps), finding=FINDING, actor="daemon", note=note)


def test_every_step_survives_the_disk() -> None:
    record = Record("20260101T000000-ab12", 1.5, State.OPEN, "f", "f:s", "r", "w", "daemon", STEPS)
    again = decode(Record, json.loads(json.dumps(encode(record))))
    assert again == record and [type(step) for step in again.steps] == [type(step) for step in STEPS]


@pytest.mark.parametrize(
    "change",
    [{"id": 7}, {"state": "odd"}, {"time": "now"}, {"steps": {}}, {"steps": [{"kind": "Shell"}]}, {"steps": [None]},
     {"saved": [{"time": 1, "files": [{"path": "/x", "exists": True, "content": "%%%"}]}]}],
)  # fmt: skip
def test_garbage_is_said_to_be(change: dict[str, object]) -> None:
    record = Record("20260101T000000-ab12", 1.5, State.OPEN, "f", "f:s", "r", "w", "daemon", STEPS)
    with pytest.raises(Garbage):
        decode(Record, {**encode(record), **change})


def test_the_record_stands_before_the_change() -> None:
    host, said = machine(), list[str]()
    record = apply(host, ALLOW, said=said)
    order = [path for kind, path in host.changes if kind == "replace"]
    path = f"{CHANGES}/{record.id}/record.json"
    assert order == [f"{OPEN}/{record.id}", path, "/etc/hosts.allow", path]
    assert record.state is State.APPLIED and said
    assert host.stat(CHANGES).mode & 0o777 == 0o700  # type: ignore[union-attr]
    assert host.stat(path).mode & 0o777 == 0o600  # type: ignore[union-attr]
    assert records.unfinished(host) == (record.id,)
    closed = execute.close(host, record, State.VERIFIED, ("seen",))
    assert records.unfinished(host) == ()
    assert records.load(host, record.id) == closed
    assert (closed.finding, closed.fault, closed.actor, closed.document) == (
        "wrappers-deny", "wrappers-deny:ALL", "daemon", "step 3",
    )  # fmt: skip


def test_undo_is_exact_and_can_be_repeated() -> None:
    host = machine()
    record = execute.close(host, apply(host, ALLOW, Directory("/run/sshd", 0o755)), State.VERIFIED)
    assert execute.stands(host, record)
    undone = execute.undo(host, record)
    assert undone.record.state is State.UNDONE and not execute.stands(host, record)
    assert host.read("/etc/hosts.allow") == b"ALL: 10.\n" and not host.exists("/run/sshd")
    assert execute.undo(host, undone.record).record.state is State.UNDONE
    assert execute.undo(host, record).record.state is State.UNDONE


def test_what_is_open_is_rolled_back_and_what_is_closed_is_not() -> None:
    host = machine()
    kept = execute.close(host, apply(host, ALLOW), State.VERIFIED)
    lost = apply(host, Write("/etc/hosts.allow", b"ALL: ALL\n"))
    assert [record.state for record in execute.recover(host)] == [State.UNDONE]
    assert host.read("/etc/hosts.allow") == ALLOW.content
    assert execute.recover(host) == ()
    assert records.load(host, kept.id).state is State.VERIFIED
    assert records.load(host, lost.id).state is State.UNDONE


def test_a_full_disk_stops_the_repair_before_it_begins() -> None:
    host = machine()
    host.full = True
    with pytest.raises(StepFailed, match="No space left"):
        apply(host, ALLOW)
    assert host.read("/etc/hosts.allow") == b"ALL: 10.\n"
    host.full = False
    assert execute.recover(host) == () and records.all(host) == ()


class Filling(FakeHost):
    """Its disk takes so many writes."""

    left = 0

    def replace(self, path: str, content: bytes, *, mode: int = 0o644, like: bool = True, sync: bool = True) -> None:
        self.left -= 1
        self.full = self.left < 0
        super().replace(path, content, mode=mode, like=like, sync=sync)


@pytest.mark.parametrize("writes", range(1, 12))
def test_a_disk_that_fills_up_meanwhile_leaves_all_as_before(writes: int) -> None:
    host = Filling()
    furnish(host)
    before = host.read("/etc/hosts.allow")
    host.left = writes
    try:
        execute.close(host, apply(host, ALLOW), State.VERIFIED)
        assert writes >= 5
    except (StepFailed, Failed):
        host.left = 1000
        execute.recover(host)
        assert host.read("/etc/hosts.allow") == before
    assert records.unfinished(host) == ()


@pytest.mark.parametrize("where", [CHANGES, "record", "directory"])
@pytest.mark.parametrize(("mode", "uid"), [(0o777, 0), (0o720, 0), (0o700, 1000)])
def test_records_that_others_can_write_are_not_believed(where: str, mode: int, uid: int) -> None:
    host = machine()
    record = execute.close(host, apply(host, ALLOW), State.VERIFIED)
    path = {"record": f"{CHANGES}/{record.id}/record.json", "directory": f"{CHANGES}/{record.id}"}.get(where, where)
    host.chmod(path, mode)
    host.chown(path, uid, 0)
    with pytest.raises(BadRecord, match="others than root"):
        records.load(host, record.id)


def test_a_record_behind_a_symlink_is_not_believed() -> None:
    host = machine()
    record = execute.close(host, apply(host, ALLOW), State.VERIFIED)
    path = f"{CHANGES}/{record.id}/record.json"
    host.put("/home/eve/record.json", host.read(path))
    host.remove(path)
    host.link(path, "/home/eve/record.json")
    with pytest.raises(BadRecord):
        records.load(host, record.id)
    told: list[str] = []
    assert records.all(host, note=told.append) == () and len(told) == 1


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "20260101T000000-zzzz", "20260101T000000-ab12/x", "x\n"])
def test_only_ids_are_looked_up(name: str) -> None:
    with pytest.raises(NoSuchChange):
        records.load(machine(), name)


def test_a_garbled_open_record_is_told_and_put_aside() -> None:
    host, told = machine(), list[str]()
    record = apply(host, ALLOW)
    host.put(f"{CHANGES}/{record.id}/record.json", b'{"id": ', mode=0o600)
    assert execute.recover(host, note=told.append) == ()
    assert told and records.unfinished(host) == ()
    assert records.all(host) == ()
    apply(host, ALLOW)  # and the agent goes on


def test_a_step_that_hangs_is_taken_back() -> None:
    host = machine()
    host.put("/etc/ufw/user.rules", b"*filter\n")
    host.command(("ufw", "allow"), hanging)
    host.command(("ufw", "delete"), Ran(0, b"", b""))
    waited: list[float] = []

    @contextlib.contextmanager
    def busy(seconds: float) -> Iterator[None]:
        waited.append(seconds)
        yield

    step = Run((("ufw", "allow", "22"),), (("ufw", "delete", "allow", "22"),), ("/etc/ufw/user.rules",), owner="ufw")
    with pytest.raises(StepFailed, match="no end within its deadline"):
        execute.apply(host, rung(ALLOW, step), finding=FINDING, actor="d", note=lambda t: None, busy=busy)
    assert host.read("/etc/hosts.allow") == b"ALL: 10.\n"
    assert ("ufw", "delete", "allow", "22") in host.ran
    assert set(waited) == {30.0} and {call.deadline for call in host.calls if call.argv[0] == "ufw"} == {30.0}
    assert records.all(host)[0].state is State.FAILED


def given_up(host: FakeHost) -> Record:
    """A change that could not be rolled back, time and again."""
    record, told = apply(host, ALLOW), list[str]()
    host.denied = {"/etc/hosts.allow"}
    for _ in range(2 * execute.TRIES):
        execute.recover(host, note=told.append)
    assert records.load(host, record.id).tries == 1, "at once again: one and the same reason"
    for _ in range(execute.TRIES - 1):
        assert records.unfinished(host) == (record.id,)
        host.advance(execute.APART)
        execute.recover(host, note=told.append)
    assert len(told) == 3 * execute.TRIES - 1
    host.denied = set()
    return records.load(host, record.id)


def test_recovery_that_fails_is_tried_again_and_given_up_in_the_end() -> None:
    host = machine()
    record = given_up(host)
    assert records.unfinished(host) == () and record.state is State.FAILED
    assert len(record.notes) <= 20


def test_what_recovery_gave_up_is_kept_and_can_be_undone() -> None:
    host = machine()
    record = given_up(host)
    for number in range(records.KEEP + 1):
        host.advance(1.0)
        execute.undo(host, apply(host, Directory(f"/run/d{number}", 0o755)))
    assert host.read("/etc/hosts.allow") == ALLOW.content and execute.undoable(host, record)
    assert [change["id"] for change in administer.undoable(host)["changes"]] == [record.id]
    assert administer.undo(host, None)["undone"] == record.id
    assert host.read("/etc/hosts.allow") == b"ALL: 10.\n"
    assert administer.undoable(host)["text"] == "nothing to undo\n"


def test_undoing_what_recovery_gave_up_can_fail_and_be_tried_again() -> None:
    host = machine()
    record = given_up(host)
    host.denied = {"/etc/hosts.allow"}
    with pytest.raises(AgentError):
        execute.undo(host, record)
    assert records.load(host, record.id) == record and records.unfinished(host) == ()


def test_recovery_leaves_what_somebody_else_wrote() -> None:
    host = machine()
    record = apply(host, ALLOW)
    host.put("/etc/hosts.allow", b"sshd: 192.0.2.\n")
    (closed,) = execute.recover(host)
    assert host.read("/etc/hosts.allow") == b"sshd: 192.0.2.\n"
    assert closed.state is State.FAILED and any("left as it is" in note for note in closed.notes)
    assert records.load(host, record.id) == closed


def test_a_file_that_changed_since_the_plan_read_it_is_not_overwritten() -> None:
    host = machine()
    for read, fits in ((b"", False), (b"ALL: ALL\n", False), (b"ALL: 10.\n", True)):
        step = ALLOW._replace(read=read)
        if fits:
            assert apply(host, step).state is State.APPLIED
        else:
            with pytest.raises(StepFailed, match="changed since it was looked at; nothing was done"):
                apply(host, step)
        assert (host.read("/etc/hosts.allow") == ALLOW.content) is fits
    assert apply(host, Write("/etc/new", b"x", read=b"")).state is State.APPLIED


class Edited(FakeHost):
    """Somebody writes hosts.allow while the change is put on record."""

    def replace(self, path: str, content: bytes, *, mode: int = 0o644, like: bool = True, sync: bool = True) -> None:
        super().replace(path, content, mode=mode, like=like, sync=sync)
        if path.endswith("/record.json"):
            self.put("/etc/hosts.allow", b"sshd: 192.0.2.1 : deny\n")


def test_a_file_that_changes_while_the_change_is_recorded_is_not_overwritten() -> None:
    host = Edited()
    furnish(host)
    with pytest.raises(StepFailed, match="changed since it was saved"):
        apply(host, ALLOW)
    assert host.read("/etc/hosts.allow") == b"sshd: 192.0.2.1 : deny\n" and records.unfinished(host) == ()


def test_undo_refuses_and_changes_nothing() -> None:
    host = machine()
    record = execute.close(host, apply(host, Directory("/run/sshd", 0o755), ALLOW), State.VERIFIED)
    host.put("/etc/hosts.allow", b"sshd: 192.0.2.\n")
    with pytest.raises(execute.ChangedSince, match="192.0.2") as refused:
        execute.undo(host, record)
    assert refused.value.exit_status == 3
    assert host.exists("/run/sshd") and records.load(host, record.id) == record


def test_undo_removes_no_file_that_was_deleted_and_a_mode_that_was_set_since() -> None:
    host = machine()
    record = execute.close(host, apply(host, Mode("/etc/hosts.allow", 0o600, 0, 0)), State.VERIFIED)
    host.chmod("/etc/hosts.allow", 0o640)
    with pytest.raises(execute.ChangedSince, match="0640"):
        execute.undo(host, record)
    host.chmod("/etc/hosts.allow", 0o600)
    assert execute.undo(host, record).record.state is State.UNDONE
    assert host.stat("/etc/hosts.allow").mode & 0o777 == 0o644  # type: ignore[union-attr]


def test_a_service_that_was_started_stays_and_undo_says_so() -> None:
    host = machine()
    host.command(("systemctl",), Ran(0, b"", b""))
    record = execute.close(
        host, apply(host, Run((("systemctl", "start", "ssh.service"),), owner="systemd")), State.VERIFIED
    )
    assert not execute.stands(host, record)
    undone = execute.undo(host, record)
    assert "systemctl start ssh.service" in undone.notes[0] and undone.record.notes[1] == undone.notes[0]


def test_records_are_bounded_but_for_what_stands() -> None:
    host = machine()
    standing = execute.close(host, apply(host, ALLOW), State.VERIFIED)
    for number in range(records.KEEP + 20):
        host.advance(1.0)
        record = apply(host, Directory(f"/run/d{number}", 0o755))
        execute.undo(host, record)
    for number in range(records.KEEP + 20):
        host.advance(1.0)
        record = execute.close(host, apply(host, Directory(f"/run/e{number}", 0o755)), State.VERIFIED)
        host.rmdir(f"/run/e{number}")  # somebody reverts it
    found = records.all(host)
    assert sum(record.state is State.UNDONE for record in found) == records.KEEP
    assert sum(record.state is State.VERIFIED for record in found) == records.KEEP + 1
    assert found[-1].id == standing.id
    assert [record.id for record in found] == sorted((record.id for record in found), reverse=True)
    assert len(records.all(host, most=10)) == 10


def test_two_agents_never_repair_at_once() -> None:
    host = machine()
    with execute.lock(host):
        with pytest.raises(execute.Busy) as refused:
            with execute.lock(host, wait=2.0):
                raise AssertionError("both have it")
    assert refused.value.exit_status == 3 and sum(host.slept) == 2.0
    with execute.lock(host):
        assert "/run/ec2ssh-agent/lock" in host.locked


def test_the_change_is_named_in_what_is_typed() -> None:
    host, said = machine(), list[str]()
    host.command(("tool",), Ran(0, b"", b""))
    record = apply(host, Run((("tool", "comment", "ec2ssh-agent:@CHANGE@"),)), said=said)
    assert ("tool", "comment", f"ec2ssh-agent:{record.id}") in host.ran
    assert said == list(execute.typed(record)) == [f"tool comment ec2ssh-agent:{record.id}"]


def test_a_tool_that_says_no_is_quoted() -> None:
    host = machine()
    host.command(("nft",), lambda call: Ran(1, b"", b"/dev/stdin:1:5-9: Error: syntax error\nadd rul\n    ^^^\n"))
    with pytest.raises(StepFailed, match="Error: syntax error"):
        apply(host, Run((("nft", "-f", "-"),)))


def test_owners_are_given_ten_times_what_they_take() -> None:
    host = machine()
    deadlines: dict[str, float] = {}

    def run(call: Call) -> Ran:
        deadlines[call.argv[0]] = call.deadline
        return Ran(0, b"", b"")

    for owner, tool in (("ufw", "ufw"), ("firewalld", "firewall-cmd"), ("systemd", "systemctl"), ("", "true")):
        host.command((tool,), run)
        apply(host, Run(((tool,),), owner=owner))
    assert deadlines == {"ufw": 30.0, "firewall-cmd": 30.0, "systemctl": 60.0, "true": 20.0}


def _record() -> Record:
    return Record("20260101T000000-ab12", 1.5, State.OPEN, "f", "f:s", "rung", "w", "daemon", STEPS)


def test_the_journal_gets_a_line_with_its_id(tmp_path: Path) -> None:
    (tmp_path / "run/systemd/journal").mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journal:
        journal.bind(str(tmp_path / "run/systemd/journal/socket"))
        audit(Host(str(tmp_path)), _record(), ("nft insert rule x", "MESSAGE_ID=forged\nPRIORITY=0"))
        got = journal.recv(1 << 16)
    fields = [line for line in got.split(b"\n") if line.startswith((b"MESSAGE_ID=", b"EC2SSH_", b"PRIORITY="))]
    assert f"MESSAGE_ID={MESSAGE_ID}".encode() in fields and b"EC2SSH_CHANGE=20260101T000000-ab12" in fields
    assert b"EC2SSH_ACTOR=daemon" in fields and b"EC2SSH_FAULT=f:s" in fields
    # A line feed in a value is data: its length stands before it, so that nothing of it becomes a field.
    name, _, rest = got[got.index(b"MESSAGE\n") :].partition(b"\n")
    length = int.from_bytes(rest[:8], "little")
    assert (
        name == b"MESSAGE" and rest[8 : 8 + length].endswith(b"forged\nPRIORITY=0") and rest[8 + length :][:1] == b"\n"
    )


def test_without_a_journal_there_is_syslog_or_standard_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    audit(Host(str(tmp_path)), _record(), ("nft insert rule x",))
    assert "rung for f:s, change 20260101T000000-ab12: nft insert rule x" in capfd.readouterr().err
    (tmp_path / "dev").mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as log:
        log.bind(str(tmp_path / "dev/log"))
        audit(Host(str(tmp_path)), _record(), ("a\nb",))
        assert log.recv(1 << 16).startswith(b"<85>ec2ssh-agent[")


def test_the_real_lock_names_its_holder_and_ends_with_it(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    script = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.flock(f, 2); print('held', flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout and other.stdout.readline() == "held\n"
        with pytest.raises(Locked, match=f"locked by pid {other.pid} \\("):
            with host.lock("/lock", wait=0.1):
                raise AssertionError("both have it")
        other.communicate("\n")
    with host.lock("/lock"):
        with pytest.raises(Locked), host.lock("/lock"):
            raise AssertionError("both have it")
    with host.lock("/lock"):
        assert (tmp_path / "lock").exists()


def test_a_lock_for_good_is_held_by_the_program_that_the_process_becomes(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    script = """if True:
        import os, sys
        from ec2ssh_agent.host import Host
        with Host(sys.argv[1]).lock("/lock", for_good=sys.argv[2] == "for good"):
            os.execlp("sh", "sh", "-c", "echo became; read line")"""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(__file__).resolve().parents[2] / "agent")}
    for how, held in (("for good", True), ("", False)):
        argv = [sys.executable, "-c", script, str(tmp_path), how]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as other:
            assert other.stdout and other.stdout.readline() == "became\n"
            with contextlib.ExitStack() as stack:
                if held:
                    stack.enter_context(pytest.raises(Locked, match=f"locked by pid {other.pid} \\("))
                stack.enter_context(host.lock("/lock"))
            other.communicate("\n")
    with host.lock("/lock"):
        assert (tmp_path / "lock").exists()


def test_the_latest_is_the_latest_within_a_second_and_when_the_clock_goes_back() -> None:
    host, made = machine(), list[str]()
    for clock in (1_800_000_000.9, 1_800_000_000.9, 1_800_000_000.9, 1_768_000_000.0, 1_800_000_001.0):
        host.epoch = clock
        made.append(apply(host, ALLOW._replace(path=f"/etc/{len(made)}")).id)
    assert records.ids(host) == tuple(reversed(made)) == tuple(sorted(made, reverse=True))


def test_a_name_that_is_no_date_is_not_an_id() -> None:
    host = machine()
    host.directory(f"{CHANGES}/99999999T999999-ffff")
    assert apply(host, ALLOW).id < "3"
