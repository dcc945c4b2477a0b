"""systemd and firewalld over D-Bus: a server on a socket below a root directory, that answers, refuses or hangs."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from jeepney import DBusAddress
from jeepney.low_level import HeaderFields, Message, calc_msg_size
from jeepney.wrappers import new_error, new_method_return, new_signal

from ec2ssh_agent import memory
from ec2ssh_agent.host import Host
from ec2ssh_agent.memory import Clock, Memory
from ec2ssh_agent.model import Seen, Unseen
from ec2ssh_agent.observe import dbus, firewalld, systemd
from ec2ssh_agent.reach.ruleset import Backend, Ruleset, Table
from ec2ssh_agent.repair.firewalld import add, there
from ec2ssh_agent.repair.work import Context, StepFailed
from test_policy import FAULT, held

#: (interface, member, body) to (signature, body), or None for an error.
Answer = Callable[[str, str, tuple[Any, ...]], Optional[tuple[str, tuple[Any, ...]]]]


def _read(client: socket.socket, buffer: bytes) -> tuple[Optional[Message], bytes]:
    while len(buffer) < 16 or len(buffer) < calc_msg_size(buffer):
        part = client.recv(65536)
        if not part:
            return None, b""
        buffer += part
    size = calc_msg_size(buffer)
    return Message.from_buffer(buffer[:size]), buffer[size:]


def _talk(client: socket.socket, answer: Answer, error: str) -> None:
    buffer = b""
    while not buffer.endswith(b"\r\nBEGIN\r\n"):  # which is not to come together with the first call
        assert (part := client.recv(65536))
        buffer += part
    assert buffer.startswith(b"\0AUTH EXTERNAL ")
    client.sendall(b"OK 0123456789abcdef\r\n")
    buffer = b""
    serial = 0
    while True:
        message, buffer = _read(client, buffer)
        if message is None:
            return
        fields = message.header.fields
        got = answer(str(fields.get(HeaderFields.interface)), str(fields[HeaderFields.member]), message.body)
        reply = new_error(message, "org.example.No", "s", (error,)) if got is None else new_method_return(message, *got)
        for each in (new_signal(DBusAddress("/x", interface="x.y"), "Noise", "s", ("n",)), reply):
            serial += 1
            client.sendall(each.serialise(serial=serial))


@contextlib.contextmanager
def serving(
    root: Path, path: str, answer: Optional[Answer], *, error: str = "no", host: type[Host] = Host
) -> Iterator[Host]:
    """A host whose socket at `path` answers; with None it takes connections and says nothing."""
    at = root / path.lstrip("/")
    at.parent.mkdir(parents=True, exist_ok=True)
    (root / "run/systemd/system").mkdir(parents=True, exist_ok=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(at))
    server.listen()

    def loop() -> None:
        with contextlib.suppress(OSError):  # closed: the test is over
            while True:
                client = server.accept()[0]
                if answer:
                    with client, contextlib.suppress(ConnectionError):
                        _talk(client, answer, error)

    thread = threading.Thread(target=loop, daemon=True)
    thread.start()
    try:
        yield host(str(root))
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        thread.join(10)


@pytest.fixture
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("r")  # short: a socket's path has 107 bytes


def a_systemd(entries: list[tuple[str, str, str, str]], properties: dict[str, Any], state: str = "running") -> Answer:
    def answer(interface: str, member: str, body: tuple[Any, ...]) -> Optional[tuple[str, tuple[Any, ...]]]:
        if member == "ListUnitsByNames":
            rows = [
                (n, "d", load, active, sub, "", "/", 0, "", "/") for n, load, active, sub in entries if n in body[0]
            ]
            return "a(ssssssouso)", (rows,)
        if member == "GetUnitFileState":
            return "s", ("disabled",)
        if member == "Get" and body[1] == "SystemState":
            return "v", (("s", state),)
        if member == "Get" and body[1] in properties:
            return "v", (properties[body[1]],)
        return None

    return answer


RUNNING = {
    "Id": ("s", "ssh.service"),
    "LoadState": ("s", "loaded"),
    "ActiveState": ("s", "active"),
    "SubState": ("s", "running"),
    "UnitFileState": ("s", "enabled"),
    "Job": ("(uo)", (7, "/org/freedesktop/systemd1/job/7")),
    "MainPID": ("u", 46),
    "Restart": ("s", "on-failure"),
    "Result": ("s", "success"),
    "ControlGroup": ("s", "/system.slice/ssh.service"),
    "ExecStart": ("a(sasbttttuii)", [("/usr/sbin/sshd", ["/usr/sbin/sshd", "-D"], False, 0, 0, 0, 0, 0, 0, 0)]),
    "EnvironmentFiles": ("a(sb)", [("/etc/default/ssh", True)]),
}


@pytest.mark.parametrize("path", [dbus.SYSTEMD, dbus.SYSTEM_BUS])
def test_units_by_either_socket(root: Path, path: str) -> None:
    entries = [("ssh.service", "loaded", "active", "running"), ("sshd.service", "not-found", "inactive", "dead")]
    entries += [("ssh.socket", "masked", "inactive", "dead"), ("rescue.target", "loaded", "active", "active")]
    plain = a_systemd(entries, RUNNING, state="stopping")

    def answer(interface: str, member: str, body: tuple[Any, ...]) -> Optional[tuple[str, tuple[Any, ...]]]:
        return ("s", (":1.1",)) if member == "Hello" else plain(interface, member, body)

    with serving(root, path, answer) as host:
        got = systemd.collect(host)
    assert isinstance(got.service, Seen) and got.service.value
    state = got.service.value.state
    assert (state.name, state.main_pid, state.job, state.file_state) == ("ssh.service", 46, True, "enabled")
    assert got.service.value.start == ("/usr/sbin/sshd", "-D")
    assert got.service.value.environment_files == ("/etc/default/ssh",)
    assert isinstance(got.socket, Seen) and got.socket.value and got.socket.value.state.load == "masked"
    assert got.target == Seen("rescue", "systemd")
    assert isinstance(got.stopping, Seen) and got.stopping.value


def test_no_such_units_are_none(root: Path) -> None:
    entries = [(name, "not-found", "inactive", "dead") for name in (*systemd.SERVICES, *systemd.SOCKETS)]
    with serving(root, dbus.SYSTEMD, a_systemd(entries, {})) as host:
        got = systemd.collect(host)
    assert got.service == Seen(None, "systemd") and got.socket == Seen(None, "systemd")


def test_the_unit_that_is_in_use_is_chosen() -> None:
    def entry(name: str, load: str, active: str) -> tuple[str, str, str, str]:
        return name, "", load, active

    masked, active = entry("ssh.service", "masked", "inactive"), entry("sshd.service", "loaded", "active")
    assert systemd.choose([masked, active]) == "sshd.service"
    assert systemd.choose([masked, entry("sshd.service", "not-found", "inactive")]) == "ssh.service"
    assert systemd.choose([entry("ssh.service", "loaded", "failed"), entry("sshd.service", "loaded", "inactive")]) == (
        "ssh.service"
    )
    assert systemd.choose([]) == ""


def test_a_hanging_systemd_is_unseen_in_time(root: Path) -> None:
    with serving(root, dbus.SYSTEMD, None) as host:
        started = time.monotonic()
        got = systemd.collect(host)
    assert isinstance(got.service, Unseen) and "deadline" in got.service.reason
    assert 1.5 < time.monotonic() - started < 6


def test_no_bus_at_all(root: Path) -> None:
    (root / "run/systemd/system").mkdir(parents=True)
    assert isinstance(systemd.collect(Host(str(root))).service, Unseen)


def test_without_systemd_its_script_and_pid_file_tell(root: Path) -> None:
    (root / "etc/init.d").mkdir(parents=True)
    (root / "etc/init.d/ssh").write_text("#!/bin/sh\n")
    (root / "run").mkdir()
    (root / "run/sshd.pid").write_text("12\n")
    (root / "proc/12").mkdir(parents=True)
    (root / "proc/12/comm").write_text("sshd\n")
    got = systemd.collect(Host(str(root)))
    assert isinstance(got.service, Seen) and got.service.value
    assert (got.service.value.state.active, got.service.value.state.main_pid) == ("active", 12)
    (root / "proc/12/comm").write_text("other\n")
    again = systemd.collect(Host(str(root)))
    assert isinstance(again.service, Seen) and again.service.value
    assert again.service.value.state.active == "inactive"
    assert isinstance(got.stopping, Unseen)


def test_the_path_of_a_unit() -> None:
    assert systemd.object_path("ssh@1-é.service") == ("/org/freedesktop/systemd1/unit/ssh_401_2d_e9_2eservice")


# -- firewalld

ZONE = {
    "services": ("as", ["ssh"]),
    "ports": ("a(ss)", [("2222", "tcp")]),
    "rules_str": ("as", ['rule family="ipv4" accept']),
    "target": ("s", "default"),
}


def a_firewalld(owned: bool = True, panic: bool = False) -> Answer:
    answers: dict[str, tuple[str, tuple[Any, ...]]] = {
        "Hello": ("s", (":1.1",)),
        "NameHasOwner": ("b", (owned,)),
        "queryPanicMode": ("b", (panic,)),
        "getDefaultZone": ("s", ("public",)),
        "getActiveZones": ("a{sa{sas}}", ({"drop": {"interfaces": ["eth0"], "sources": ["10.0.0.0/8"]}},)),
        "getZoneSettings2": ("a{sv}", (ZONE,)),
        "getZoneByName": ("o", ("/org/fedoraproject/FirewallD1/config/zone/1",)),
        "getSettings2": ("a{sv}", ({"target": ("s", "DROP")},)),
    }
    return lambda interface, member, body: answers.get(member)


def installed(root: Path) -> None:
    program = root / "usr/sbin/firewalld"
    program.parent.mkdir(parents=True)
    program.write_text("")
    program.chmod(0o755)


NO_RULES = Seen(Ruleset(()))


def test_firewalld_zones_now_and_permanently(root: Path) -> None:
    installed(root)
    left = Seen(Ruleset((Table("inet", "firewalld_policy_drop", Backend.NFTABLES, {}),)))
    with serving(root, dbus.SYSTEM_BUS, a_firewalld(panic=True)) as host:
        got = firewalld.collect(host, left)
    assert isinstance(got, Seen) and got.value
    assert (got.value.running, got.value.panic, got.value.default_zone, got.value.policy_drop) == (
        True,
        True,
        "public",
        True,
    )
    drop, public = got.value.zones
    assert (drop.name, drop.interfaces, drop.sources) == ("drop", ("eth0",), ("10.0.0.0/8",))
    assert (public.services, public.ports, public.rich_rules) == (
        ("ssh",),
        (("2222", "tcp"),),
        ('rule family="ipv4" accept',),
    )
    assert [zone.target for zone in got.value.permanent] == ["DROP", "DROP"]


def test_firewalld_that_does_not_run_or_is_not_there(root: Path) -> None:
    with serving(root, dbus.SYSTEM_BUS, a_firewalld(owned=False)) as host:
        assert firewalld.collect(host, NO_RULES) == Seen(None, "firewalld is not installed")
        installed(root)
        got = firewalld.collect(host, NO_RULES)
        assert isinstance(got, Seen) and got.value and not got.value.running


def test_a_firewalld_that_hangs_or_refuses_is_unseen(root: Path) -> None:
    installed(root)
    started = time.monotonic()
    with serving(root, dbus.SYSTEM_BUS, None) as host:
        assert isinstance(firewalld.collect(host, NO_RULES), Unseen)
    assert time.monotonic() - started < 6


def test_a_firewalld_that_refuses_is_unseen(root: Path) -> None:
    installed(root)
    whole = a_firewalld()
    with serving(root, dbus.SYSTEM_BUS, lambda i, m, b: None if m == "getZoneSettings2" else whole(i, m, b)) as host:
        got = firewalld.collect(host, NO_RULES)
    assert isinstance(got, Unseen) and "org.example.No" in got.reason


@pytest.mark.parametrize(
    "said", [b"l\x02\0\1" + b"\xff" * 200, b"HTTP/1.1 400 Bad Request\r\n\r\n", b"l\x02\0\1" + bytes(60)]
)
def test_what_is_not_d_bus_is_unseen(root: Path, said: bytes) -> None:
    installed(root)
    at = root / "run/dbus"
    at.mkdir(parents=True)
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(at / "system_bus_socket"))
    server.listen()

    def babble() -> None:
        with server, server.accept()[0] as client, contextlib.suppress(OSError):
            client.sendall(b"OK x\r\n" + said)
            client.recv(1000)

    thread = threading.Thread(target=babble, daemon=True)
    thread.start()
    assert isinstance(firewalld.collect(Host(str(root)), NO_RULES), Unseen)
    thread.join(10)


def test_systemd_is_asked_again_when_its_restart_of_sshd_is_due(root: Path) -> None:
    """That ends the slack of its timer."""
    asked: list[float] = []
    began = Host("").monotonic()
    changed = int(time.monotonic() * 1e6)
    properties = {"RestartUSec": ("t", 200_000), "StateChangeTimestampMonotonic": ("t", changed)}
    waiting = a_systemd([("ssh.service", "loaded", "activating", "auto-restart")], properties)

    def answer(interface: str, member: str, body: tuple[Any, ...]) -> Optional[tuple[str, tuple[Any, ...]]]:
        if member == "ListUnitsByNames":
            asked.append(Host("").monotonic() - began)
        return waiting(interface, member, body)

    with serving(root, dbus.SYSTEMD, answer) as host:
        assert systemd.restarting(host)
        assert len(asked) == 2 and asked[1] >= 0.2, asked
        properties["RestartUSec"] = ("t", 42_000_000)
        assert systemd.restarting(host) and len(asked) == 3, "too long to wait for"


class Hibernated(Host):
    """It was for an hour: CLOCK_MONOTONIC is an hour behind the time since boot."""

    def monotonic(self) -> float:
        return super().monotonic() + 3600.0

    def suspended(self) -> float:
        return super().suspended() + 3600.0


def test_after_a_hibernation_systemd_restarts_a_killed_sshd_as_before(root: Path) -> None:
    changed = ("t", int(time.monotonic() * 1e6))
    entries = [("ssh.service", "loaded", "activating", "auto-restart")]
    states = {"ActiveState": ("s", "activating"), "SubState": ("s", "auto-restart"), "RestartUSec": ("t", 200_000)}
    times = {"InactiveExitTimestampMonotonic": changed, "StateChangeTimestampMonotonic": changed}
    answer = a_systemd(entries, {**RUNNING, **states, **times})
    with serving(root, dbus.SYSTEMD, answer, host=Hibernated) as host:
        assert systemd.restarting(host) and time.monotonic() >= changed[1] / 1e6 + 0.2, "it is waited for"
        got = systemd.collect(host).service
    assert isinstance(got, Seen) and got.value
    assert got.value.state.changed == pytest.approx(changed[1] + host.suspended() * 1e6, abs=1000)
    clock = Clock(host.now(), changed[1] / 1e6 + host.suspended() + 0.25)
    hold = held(
        memory.verdict(Memory("i-1"), unhealthy=True, boot=clock.boot - 0.4),
        clock=clock,
        fault=FAULT._replace(id="sshd-not-running", subject=""),
        unit=got.value.state,
    )
    assert hold and hold.seconds == pytest.approx(0.75, abs=0.01) and "systemd" in hold.why


@pytest.mark.parametrize("sub", ["running", "dead"])
def test_an_sshd_that_systemd_does_not_restart_is_waited_for_by_nobody(root: Path, sub: str) -> None:
    with serving(root, dbus.SYSTEMD, a_systemd([("ssh.service", "loaded", "active", sub)], {})) as host:
        assert not systemd.restarting(host)
    assert not systemd.restarting(Host(str(root))), "nobody answers"


def test_a_systemd_that_does_not_answer_holds_up_a_look_at_a_killed_sshd_for_less_than_any_other(root: Path) -> None:
    with serving(root, dbus.SYSTEMD, None) as host:
        began = time.monotonic()
        assert not systemd.restarting(host)
        assert time.monotonic() - began < 1.5, "the others wait for 2 s"


@pytest.mark.parametrize(
    "wanted, call",
    [
        ("--add-service=ssh", ("addService", ("drop", "ssh", 0))),
        ("--add-port=2222/tcp", ("addPort", ("drop", "2222", "tcp", 0))),
        ('--add-rich-rule=rule family="ipv4" accept', ("addRichRule", ("drop", 'rule family="ipv4" accept', 0))),
    ],
)
def test_firewalld_is_told_what_firewall_cmd_would_tell_it(root: Path, wanted: str, call: tuple[str, Any]) -> None:
    asked: list[tuple[str, Any]] = []
    patience: list[float] = []

    @contextlib.contextmanager
    def busy(seconds: float) -> Iterator[None]:
        patience.append(seconds)
        yield

    def answer(interface: str, member: str, body: tuple[Any, ...]) -> Optional[tuple[str, tuple[Any, ...]]]:
        if member == "Hello":
            return "s", (":1.1",)
        asked.append((member, body))
        assert interface == firewalld.ZONE
        return ("s", ("drop",)) if len(asked) == 1 else None

    with serving(root, dbus.SYSTEM_BUS, answer) as host:
        context = Context(host, "20260101T000000-ab12", busy)
        command = ("firewall-cmd", "--zone=drop", wanted)
        assert add(context, command) and asked == [call] and patience == [30.0]
        assert not add(context, command) and len(asked) == 2, "refused: firewall-cmd is to say why"
        for other in (
            ("firewall-cmd", "--permanent", *command[1:]),
            ("firewall-cmd", "--state"),
            ("ufw", *command[1:]),
        ):
            assert not add(context, other)
        assert not add(context, ("firewall-cmd", "--zone=drop", wanted.replace("add", "remove"))) and len(asked) == 2


@pytest.mark.parametrize(
    "wanted, call",
    [
        ("--add-service=ssh", ("queryService", ("drop", "ssh"))),
        ("--add-port=2222/tcp", ("queryPort", ("drop", "2222", "tcp"))),
        ('--add-rich-rule=rule family="ipv4" accept', ("queryRichRule", ("drop", 'rule family="ipv4" accept'))),
    ],
)
def test_firewalld_is_asked_what_is_in_force_and_says_so(root: Path, wanted: str, call: tuple[str, Any]) -> None:
    asked: list[tuple[str, Any]] = []

    def answer(interface: str, member: str, body: tuple[Any, ...]) -> Optional[tuple[str, tuple[Any, ...]]]:
        if member == "Hello":
            return "s", (":1.1",)
        asked.append((member, body))
        return ("b", (body[0] == "drop",)) if member.startswith("query") else None

    with serving(root, dbus.SYSTEM_BUS, answer) as host:
        context = Context(host, "20260101T000000-ab12", _undisturbed)
        command, other = ("firewall-cmd", "--zone=drop", wanted), ("firewall-cmd", "--zone=public", wanted)
        later = ("firewall-cmd", "--permanent", *command[1:])
        assert there(context, (command, later, other)) == (command,) and asked[0] == call and len(asked) == 2
        assert there(context, (later, ("ufw", "reload"))) == () and len(asked) == 2
    with serving(root / "2", dbus.SYSTEM_BUS, answer, error="ALREADY_ENABLED: 'ssh' already in 'drop'") as host:
        context = Context(host, "20260101T000000-ab12", _undisturbed)
        assert add(context, command) is False, "firewall-cmd would say success"


def _undisturbed(seconds: float) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


def test_a_firewalld_that_does_not_answer_is_not_told_again_by_firewall_cmd(root: Path) -> None:
    command = ("firewall-cmd", "--zone=drop", "--add-service=ssh")
    with serving(root, dbus.SYSTEM_BUS, None) as host, pytest.raises(StepFailed, match="no answer"):
        add(Context(host, "20260101T000000-ab12", _undisturbed), command, deadline=0.2)
    with serving(root / "2", dbus.SYSTEM_BUS, None) as host, pytest.raises(StepFailed, match="no answer"):
        there(Context(host, "20260101T000000-ab12", _undisturbed), (command,), deadline=0.2)
    nobody = Context(Host(str(root / "nowhere")), "20260101T000000-ab12", _undisturbed)
    assert not add(nobody, command), "no bus"
