"""sshd's units as systemd sees them, by D-Bus; without systemd, what its SysV script and pid file say.

systemd's private socket comes first: it answers root when the bus daemon is down. Else the system bus.
Source: org.freedesktop.systemd1(5).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Optional

from ..facts import UnitState
from ..host import Denied, Failed, Host, HostError, NotFound
from ..model import Fact, Seen, Unseen
from ..plain import NamedTuple
from .dbus import SYSTEM_BUS, SYSTEMD, Bus, Call, Refused, get

_SERVICE = "org.freedesktop.systemd1"
_MANAGER = "/org/freedesktop/systemd1"
_UNIT, _UNIT_SERVICE, _UNIT_SOCKET = (f"{_SERVICE}.{kind}" for kind in ("Unit", "Service", "Socket"))
SERVICES = ("ssh.service", "sshd.service")
SOCKETS = ("ssh.socket", "sshd.socket")
_TARGETS = ("rescue.target", "emergency.target")
_SOON, _LATE = 0.5, 0.005  # seconds
#: One that does not answer so soon has more to do than to restart sshd: a look goes on without it (seconds).
_BUSY = 0.3


class Looked(NamedTuple):
    """A unit, and of it what only observation needs."""

    state: UnitState
    control_group: str = ""
    start: tuple[str, ...] = ()  # the argument list of ExecStart, variables not expanded
    environment: tuple[str, ...] = ()
    environment_files: tuple[str, ...] = ()
    runtime_directories: tuple[str, ...] = ()


class Systemd(NamedTuple):
    """What one conversation with systemd gave. A unit that does not exist is None."""

    service: Fact[Optional[Looked]]
    socket: Fact[Optional[Looked]]
    target: Fact[str]  # rescue, emergency or ""
    stopping: Fact[bool]


def present(host: Host) -> bool:
    """systemd is pid 1 (sd_booted(3))."""
    return host.exists("/run/systemd/system")


def object_path(unit: str) -> str:
    """The unit's D-Bus path: every byte that is no letter or digit becomes _xx."""
    return f"{_MANAGER}/unit/" + "".join(c if c.isalnum() and c.isascii() else f"_{ord(c):02x}" for c in unit)


def connect(host: Host, *, deadline: float = 2.0) -> Bus:
    """Raises HostError."""
    try:
        return Bus(host, SYSTEMD, deadline=deadline)
    except (NotFound, Denied, Failed):
        return Bus(host, SYSTEM_BUS, deadline=deadline)


def collect(host: Host) -> Systemd:
    """sshd's service and socket, and the state of the whole, in at most 2 × 2 s."""
    if not present(host):
        script = _masked(host) or sysv(host)
        none = Unseen("systemd is not pid 1")
        return Systemd(script, Seen(None, "no systemd"), Seen("", "no systemd"), none)
    try:
        with connect(host) as bus:
            return _converse(bus, suspended=host.suspended())
    except HostError as error:
        unseen = Unseen(f"systemd: {error}")
        return Systemd(unseen, unseen, unseen, unseen)


def _converse(bus: Bus, *, suspended: float) -> Systemd:
    names = [*SERVICES, *SOCKETS, *_TARGETS]
    listed, state = bus.ask(
        [
            Call(_SERVICE, _MANAGER, f"{_SERVICE}.Manager", "ListUnitsByNames", "as", (names,)),
            get(_SERVICE, _MANAGER, f"{_SERVICE}.Manager", "SystemState"),
        ]
    )
    if isinstance(listed, Refused):
        raise listed
    units = {entry[0]: entry for entry in listed[0]}
    target = next((name[: -len(".target")] for name in _TARGETS if units.get(name, _NONE)[3] == "active"), "")
    stopping: Fact[bool] = Unseen(f"systemd: {state}")
    if not isinstance(state, Refused):
        stopping = Seen(_value(state, "") == "stopping", "systemd: SystemState")
    service = choose([units[name] for name in SERVICES if name in units])
    socket = choose([units[name] for name in SOCKETS if name in units])
    return Systemd(
        Seen(_service(bus, service, suspended=suspended) if service else None, "systemd"),
        Seen(_socket(bus, units[socket], suspended=suspended) if socket else None, "systemd"),
        Seen(target, "systemd"),
        stopping,
    )


def restarting(host: Host) -> bool:
    """Whether systemd waits to restart a killed sshd by itself (Restart=); false where it cannot be asked.

    A restart that is due soon is awaited, and systemd asked again then: its timers have 250 ms of slack, which end
    with whatever else wakes it. Source: sd_event_add_time(3), accuracy.
    """
    if not present(host):
        return False
    name = ""
    with contextlib.suppress(HostError), connect(host, deadline=_BUSY + _SOON) as bus:
        name = _restarting(bus)
        if name:
            wanted = ((_UNIT_SERVICE, "RestartUSec", 0), (_UNIT, "StateChangeTimestampMonotonic", 0))
            due = sum(_properties(bus, name, wanted, suspended=host.suspended())) / 1e6
            left = due - host.monotonic()
            if 0 < left < _SOON:
                host.sleep(left + _LATE)
                _restarting(bus)
    return bool(name)


def _restarting(bus: Bus) -> str:
    """sshd's unit, if that is what systemd waits to restart. Raises HostError."""
    call = Call(_SERVICE, _MANAGER, f"{_SERVICE}.Manager", "ListUnitsByNames", "as", (list(SERVICES),))
    return next((entry[0] for entry in bus.one(call)[0] if entry[4].startswith("auto-restart")), "")


_NONE = ("", "", "not-found", "inactive", "")


def choose(entries: Sequence[Any]) -> str:
    """Of ListUnitsByNames' entries the name of the unit that is sshd's: one that exists, best one that is active."""
    existing = [entry for entry in entries if entry[2] != "not-found"]
    busy = [entry for entry in existing if entry[3] != "inactive"] or [e for e in existing if e[2] == "loaded"]
    return str((busy or existing)[0][0]) if existing else ""


def _value(answer: Any, default: Any) -> Any:
    """A property's value; the default where this version of systemd does not know the property."""
    return default if isinstance(answer, Refused) else answer[0][1]


def _properties(bus: Bus, unit: str, wanted: Sequence[tuple[str, str, Any]], *, suspended: float) -> list[Any]:
    """Values of (interface, property, default) in order. Times are given by CLOCK_BOOTTIME, as Host.monotonic."""
    path = object_path(unit)
    answers = bus.ask([get(_SERVICE, path, interface, name) for interface, name, _ in wanted])
    values = [(name, _value(answer, default)) for answer, (_, name, default) in zip(answers, wanted)]
    asleep = int(suspended * 1e6)
    return [value + asleep if value and name.endswith("TimestampMonotonic") else value for name, value in values]


_COMMON: tuple[tuple[str, str, Any], ...] = (
    (_UNIT, "Id", ""),
    (_UNIT, "LoadState", "not-found"),
    (_UNIT, "ActiveState", "inactive"),
    (_UNIT, "SubState", ""),
    (_UNIT, "UnitFileState", ""),
    (_UNIT, "Job", (0, "/")),
    (_UNIT, "InactiveExitTimestampMonotonic", 0),
)


def _state(values: Sequence[Any], result: str) -> UnitState:
    name, load, active, sub, file_state, job, since = values
    return UnitState(
        name, load, active, sub, file_state=file_state or "", result=result, job=bool(job[0]), since=int(since)
    )


def _service(bus: Bus, unit: str, *, suspended: float) -> Looked:
    wanted: tuple[tuple[str, str, Any], ...] = (
        (_UNIT_SERVICE, "Result", ""),
        (_UNIT_SERVICE, "MainPID", 0),
        (_UNIT_SERVICE, "ExecMainStatus", 0),
        (_UNIT_SERVICE, "Restart", "no"),
        (_UNIT_SERVICE, "ControlGroup", ""),
        (_UNIT_SERVICE, "ExecStart", []),
        (_UNIT_SERVICE, "Environment", []),
        (_UNIT_SERVICE, "EnvironmentFiles", []),
        (_UNIT_SERVICE, "RuntimeDirectory", []),
        (_UNIT, "StateChangeTimestampMonotonic", 0),
    )
    values = _properties(bus, unit, (*_COMMON, *wanted), suspended=suspended)
    common, (result, pid, status, restart, group, start, variables, files, runtime, changed) = values[:7], values[7:]
    state = _state(common, result)._replace(
        main_pid=int(pid), exit_status=int(status), restart=restart, changed=int(changed)
    )
    return Looked(
        state,
        control_group=group,
        start=tuple(start[0][1]) if start else (),
        environment=tuple(variables),
        environment_files=tuple(entry[0] for entry in files),
        runtime_directories=tuple(runtime),
    )


def _socket(bus: Bus, entry: Sequence[Any], *, suspended: float) -> Looked:
    """An entry of ListUnitsByNames. One that is not in use is not in systemd's memory: asking for its properties makes
    systemd read its file for each of them (17 ms), so only whether it is enabled is asked."""
    unit, load, active, sub, job = entry[0], entry[2], entry[3], entry[4], entry[7]
    if active == "inactive":
        (answer,) = bus.ask([Call(_SERVICE, _MANAGER, f"{_SERVICE}.Manager", "GetUnitFileState", "s", (unit,))])
        file_state = "" if isinstance(answer, Refused) else str(answer[0])
        return Looked(UnitState(unit, load, active, sub, file_state=file_state, job=bool(job)))
    wanted: tuple[tuple[str, str, Any], ...] = (
        (_UNIT_SOCKET, "Result", ""),
        (_UNIT_SOCKET, "ControlGroup", ""),
        (_UNIT_SOCKET, "Listen", []),
    )
    values = _properties(bus, unit, (*_COMMON, *wanted), suspended=suspended)
    result, group, listen = values[7:]
    streams = tuple(address for kind, address in listen if kind == "Stream")
    return Looked(_state(values[:7], result)._replace(listen=streams), control_group=group)


def _masked(host: Host) -> Optional[Fact[Optional[Looked]]]:
    """Of an attached volume: sshd's unit, if it is masked there."""
    for name in SERVICES if host.root else ():
        path = f"/etc/systemd/system/{name}"
        try:
            if host.readlink(path) == "/dev/null":
                return Seen(Looked(UnitState(name, "masked", file_state="masked")), path)
        except HostError:
            continue  # no such link: not masked
    return None


def sysv(host: Host) -> Fact[Optional[Looked]]:
    """The SysV script, active where the pid file names a running sshd."""
    try:
        script = next((path for path in ("/etc/init.d/ssh", "/etc/init.d/sshd") if host.exists(path)), "")
        if not script:
            return Seen(None, "no systemd, no /etc/init.d/ssh")
        pid = pid_from_file(host)
        state = UnitState(script.rpartition("/")[2], "loaded", "active" if pid else "inactive", main_pid=pid)
        return Seen(Looked(state), script)
    except HostError as error:
        return Unseen(f"SysV: {error}")


def pid_from_file(host: Host) -> int:
    """The pid in /run/sshd.pid if an sshd has it, else 0. Raises Denied, Failed."""
    try:
        pid = host.read("/run/sshd.pid", cap=64).strip()
        if pid.isdigit() and host.read(f"/proc/{int(pid)}/comm", cap=64).strip() == b"sshd":
            return int(pid)
    except NotFound:
        return 0
    return 0
