"""sshd: its units, main process, listeners, banner, configuration, host keys and the directories it needs.

What costs a run of sshd (`sshd -T`, some 15 ms) is asked again only when a file that it reads has changed, or sshd
failed.
Sources: sshd(8), sshd_config(5), OpenSSH's sshd.c (order of the checks before `-t` and `-T` end).
"""

from __future__ import annotations

import os
import re
from typing import Optional

from ..config import Config
from ..facts import Banner, ConfigTest, Effective, HostKey, Listener, Process, Sshd, UnitState, intruders
from ..host import Host, HostError, NotFound
from ..model import Fact, Seen, Unseen
from ..plain import NamedTuple
from . import banner, journal, sshd_config, systemd
from .systemd import Looked, Systemd

FORBIDDEN = f"{sshd_config.DIRECTORY}/sshd_not_to_be_run"
_PRIVSEP_COMPLAINT = re.compile(r"[Mm]issing privilege separation directory: ([^\s;]+)")
_SESSIONS = tuple(f"/usr/{place}/sshd-session" for place in ("lib/openssh", "libexec/openssh", "lib/ssh", "libexec"))
_PRIVSEP = ("/run/sshd", "/usr/share/empty.sshd", "/var/empty/sshd", "/var/lib/empty", "/var/empty")
_AT_LINE = re.compile(r"(/\S+?)(?: line |: line )(\d+):")
_ALSO_READ = ("/etc/passwd", "/etc/hosts")  # sshd's user, the names in ListenAddress
_NOISE = re.compile(r"@{5,}|^\s*$|^debug\d?:")


class Run(NamedTuple):
    """How this sshd is started: the program, its options, the main configuration file."""

    program: str
    options: tuple[str, ...]
    main: str

    @property
    def dump(self) -> tuple[str, ...]:
        """The command that prints the effective configuration."""
        return (self.program, "-T", *self.options)


class Judged(NamedTuple):
    """What sshd said of its own configuration."""

    test: Fact[ConfigTest]
    effective: Fact[Effective]


def collect(
    host: Host,
    config: Config,
    *,
    units: Systemd,
    listening: Fact[tuple[Listener, ...]],
    probe: float = 0.0,
) -> Sshd:
    """All that is to be known of sshd. `listening` are all listeners of the host."""
    service, socket = _seen(units.service), _seen(units.socket)
    installed = _installed(host, service)
    run = _how(host, _value(installed, ""), service)
    read = _read(host, run.main)
    files: Fact[tuple[tuple[str, str], ...]] = Seen(read.value.files, run.main) if isinstance(read, Seen) else read
    places = read.value.places if isinstance(read, Seen) else sshd_config.places(host, run.main)
    said = sshd_config.effective(read.value.said) if isinstance(read, Seen) else None
    process = _process(host, service)
    main = process.value if isinstance(process, Seen) else None
    privsep = _privsep(host)
    known = said.host_keys if said else sshd_config.DEFAULT_KEYS
    keys = _host_keys(host, known)
    judged = _judge(host, run, hangs_on=None if _failed(service) else _hangs_on(host, run, files, known))
    effective = _settled(judged.effective, said, run.main)
    if isinstance(effective, Seen) and effective.value.host_keys != known:
        keys = _host_keys(host, effective.value.host_keys)
        host.forget(run.dump)
    listeners = _listeners(listening, service, socket)
    port = _port(host, config, listeners=listeners, service=service, socket=socket, effective=effective, main=main)
    sshd = Sshd(
        installed=installed,
        unit=_unit(units.service),
        socket_unit=_unit(units.socket),
        listeners=listeners,
        port=port,
        process=process,
        test=_forgive(judged.test, service, main),
        effective=effective,
        files=files,
        places=Seen(places, run.main),
        host_keys=keys,
        privsep=privsep,
        session=_session(host),
        forbidden=_forbidden(host),
    )
    return sshd._replace(
        banner=_banner(sshd, probe),
        reasons=journal.reasons(host, _unit_names(sshd)) if _troubled(sshd) else Seen((), "not asked: no failure"),
    )


def _seen(fact: Fact[Optional[Looked]]) -> Optional[Looked]:
    return fact.value if isinstance(fact, Seen) else None


def _value(fact: Fact[str], default: str) -> str:
    return fact.value if isinstance(fact, Seen) else default


def _unit(fact: Fact[Optional[Looked]]) -> Fact[UnitState]:
    if isinstance(fact, Unseen):
        return fact
    return Seen(fact.value.state if fact.value else UnitState(""), fact.where)


def _unit_names(sshd: Sshd) -> tuple[str, ...]:
    units = [fact.value.name for fact in (sshd.unit, sshd.socket_unit) if isinstance(fact, Seen)]
    return tuple(name for name in units if name)


# -- how it is started


def _started(service: Optional[Looked]) -> tuple[str, ...]:
    """What the unit starts, from sshd on: another program before it (a shell, `ip vrf exec`) would run it, if asked."""
    start = service.start if service else ()
    return next((start[place:] for place, word in enumerate(start) if word.rpartition("/")[2] == "sshd"), ())


def _installed(host: Host, service: Optional[Looked]) -> Fact[str]:
    try:
        for path in (*_started(service)[:1], host.program("sshd"), "/usr/lib/ssh/sshd"):
            if path and path.startswith("/") and host.exists(path):
                return Seen(path, path)
    except HostError as error:
        return Unseen(f"sshd: {error}")
    return Seen("", "no sshd in " + "/usr/sbin and PATH")


def _how(host: Host, program: str, service: Optional[Looked]) -> Run:
    start = _started(service) or (program, "$SSHD_OPTS", "$OPTIONS")
    files = (*service.environment_files, "/etc/default/ssh", "/etc/sysconfig/sshd") if service else ()
    if service and service.start:
        files = service.environment_files
    variables = [tuple(item.split("=", 1)) for item in (service.environment if service else ()) if "=" in item]
    pairs = [(name, value) for name, value in variables]
    for path in files:
        try:
            pairs += sshd_config.environment(host.read(path).decode("utf-8", "replace"))
        except HostError:
            continue  # EnvironmentFile=-: one that cannot be read gives no options
    options = sshd_config.options(start, tuple(pairs))
    return Run(program, options, sshd_config.main_file(options))


def _read(host: Host, main: str) -> Fact[sshd_config.Read]:
    try:
        return Seen(sshd_config.read(host, main), main)
    except HostError as error:
        return Unseen(f"configuration: {error}")


def _session(host: Host) -> Fact[bool]:
    try:
        return Seen(any(host.exists(path) for path in _SESSIONS), "sshd-session")
    except HostError as error:
        return Unseen(str(error))


def _forbidden(host: Host) -> Fact[bool]:
    try:
        return Seen(host.exists(FORBIDDEN), FORBIDDEN)
    except HostError as error:
        return Unseen(str(error))


# -- what it says of its configuration


def _failed(service: Optional[Looked]) -> bool:
    """sshd ended otherwise than by being stopped: it may know a reason that no file shows."""
    return service is not None and service.state.result not in ("", "success")


def _hangs_on(
    host: Host, run: Run, files: Fact[tuple[tuple[str, str], ...]], keys: tuple[str, ...]
) -> Optional[tuple[object, ...]]:
    """All that `sshd -T` reads, as far as it can be known; None: not even that."""
    try:
        if isinstance(files, Seen):
            named = (run.program, *(path for path, _ in files.value), *keys, *_PRIVSEP, *_ALSO_READ)
            return files.value, *((path, host.stat(path)) for path in named)
    except HostError:
        return None
    return None


def _judge(host: Host, run: Run, *, hangs_on: Optional[tuple[object, ...]]) -> Judged:
    """`sshd -T`, which passes only what `sshd -t` passes; the last answer where nothing that it hangs on changed."""
    if not run.program:
        return Judged(Unseen("sshd is not installed"), Unseen("sshd is not installed"))
    where = " ".join(run.dump)
    if os.geteuid() != 0:
        reason = "sshd reads the host keys for this, which only root may"
        return Judged(Unseen(reason), Unseen(reason))
    try:
        got = host.ask(run.dump, hangs_on) if hangs_on else host.run(run.dump, cap=1 << 20)
        if got.code != 0:
            # Old versions want -C for `-T` where there are Match blocks: only -t decides what is wrong.
            tested = host.run([run.program, "-t", *run.options], deadline=10.0, cap=1 << 20)
            test = complaint(tested.code, tested.err.decode("utf-8", "replace"))
            return Judged(Seen(test, where), Unseen(f"sshd -T: {got.complaint}"))
    except HostError as error:
        return Judged(Unseen(f"sshd -t: {error}"), Unseen(f"sshd -T: {error}"))
    return Judged(
        Seen(complaint(0, got.err.decode("utf-8", "replace")), where), Seen(sshd_config.parse_dump(got.text), where)
    )


def complaint(code: int, text: str) -> ConfigTest:
    """What `sshd -t` printed, the first and the last 600 characters, and the first file and line that it names."""
    lines = [line.strip(" @") for line in text.splitlines() if not _NOISE.search(line)]
    said = "; ".join(dict.fromkeys(lines))
    if len(said) > 1200:
        said = f"{said[:600]} ... {said[-600:]}"  # what ends it comes last
    at = _AT_LINE.search(text)
    return ConfigTest(code == 0, said, at.group(1).rstrip(":") if at else "", int(at.group(2)) if at else 0)


def _forgive(test: Fact[ConfigTest], service: Optional[Looked], main: Optional[Process]) -> Fact[ConfigTest]:
    """systemd makes the RuntimeDirectory= when it starts sshd: while nothing runs its absence is no fault.

    It is the last thing that `sshd -t` looks at, so what comes before has passed.
    """
    if not isinstance(test, Seen) or test.value.good or main:
        return test
    missing = _PRIVSEP_COMPLAINT.search(test.value.complaint)
    if missing and service and missing.group(1).rpartition("/")[2] in service.runtime_directories:
        return Seen(ConfigTest(True, test.value.complaint), test.where)
    return test


def _settled(effective: Fact[Effective], said: Optional[Effective], main: str) -> Fact[Effective]:
    """What `sshd -T` says; where it says nothing, what the files say."""
    if isinstance(effective, Seen) or said is None:
        return effective
    return Seen(said, f"{main} (read; {effective.reason})")


def _host_keys(host: Host, paths: tuple[str, ...]) -> Fact[tuple[HostKey, ...]]:
    try:
        return Seen(tuple(_file(host, path) for path in paths), sshd_config.DIRECTORY)
    except HostError as error:
        return Unseen(f"host keys: {error}")


def _file(host: Host, path: str) -> HostKey:
    got = host.stat(path)
    if got is None:
        return HostKey(path, False)
    return HostKey(path, True, got.mode & 0o7777, got.uid, got.gid, got.size)


def _privsep(host: Host) -> Fact[Optional[HostKey]]:
    """The directory that unprivileged sshd processes chroot to; which one was compiled in. Debian makes /run/sshd."""
    try:
        if host.exists("/etc/debian_version"):
            return Seen(_file(host, _PRIVSEP[0]), _PRIVSEP[0])
        for path in _PRIVSEP:
            if host.exists(path):
                return Seen(_file(host, path), path)
    except HostError as error:
        return Unseen(f"privilege separation directory: {error}")
    return Seen(None, "none of " + ", ".join(_PRIVSEP))


# -- processes and listeners


def _process(host: Host, service: Optional[Looked]) -> Fact[Optional[Process]]:
    """The main process: systemd's, else the pid file's. None: sshd does not run (or only when a client comes)."""
    try:
        pid = service.state.main_pid if service else 0
        pid = pid or systemd.pid_from_file(host)
        return Seen(read_process(host, pid) if pid else None, f"/proc/{pid}" if pid else "no main process")
    except NotFound:
        return Seen(None, "it has just ended")
    except HostError as error:
        return Unseen(f"sshd's process: {error}")


def read_process(host: Host, pid: int) -> Optional[Process]:
    """Raises NotFound, Denied, Failed. None for a zombie. Source: proc_pid_status(5)."""
    fields = {}
    for line in host.read(f"/proc/{pid}/status").decode("utf-8", "replace").splitlines():
        name, _, value = line.partition(":")
        fields[name] = value.strip()
    state = fields.get("State", "?")[:1]
    if state in ("Z", "X"):
        return None
    return Process(pid, fields.get("Name", ""), state in ("T", "t"), fields.get("TracerPid", "0") != "0")


def _names(*units: Optional[Looked]) -> frozenset[str]:
    return frozenset(unit.state.name for unit in units if unit)


def _listeners(
    found: Fact[tuple[Listener, ...]], service: Optional[Looked], socket: Optional[Looked]
) -> Fact[tuple[Listener, ...]]:
    """Those of root, and those of sshd's units whoever owns them."""
    if isinstance(found, Unseen):
        return found
    names = _names(service, socket)
    return Seen(tuple(item for item in found.value if item.uid == 0 or item.unit in names), found.where)


def _port(
    host: Host,
    config: Config,
    *,
    listeners: Fact[tuple[Listener, ...]],
    service: Optional[Looked],
    socket: Optional[Looked],
    effective: Fact[Effective],
    main: Optional[Process],
) -> Fact[tuple[int, ...]]:
    """The ports on which sshd is expected (contracts.md, expect.port)."""
    if config.expect_port is not None:
        return Seen((config.expect_port,), config.where("expect_port"))
    told = _told(socket)
    if told and (isinstance(listeners, Unseen) or any(item.port in told.value for item in listeners.value)):
        return told
    configured = effective.value.ports if isinstance(effective, Seen) else ()
    own = _own_ports(host, listeners, _names(service, socket), main)
    if told and not own:
        return told
    # A root user's forwarded port lives in the same unit where there is no logind: the configured ones go first.
    best = [port for port in configured if port in own] or list(own)
    if best:
        return Seen(tuple(best), "sshd's listeners")
    if configured and isinstance(effective, Seen):
        return Seen(configured, effective.where)
    return Seen((22,), "sshd's default")


def _told(socket: Optional[Looked]) -> Optional[Seen[tuple[int, ...]]]:
    """The ports of an active socket unit. Once its file has changed and systemd has read it again, they are those that
    it will listen on; the sshd that it has started keeps the sockets it was given."""
    state = socket.state if socket else UnitState("")
    ports = tuple(dict.fromkeys(port for port in map(sshd_config.port_of, state.listen) if port))
    return Seen(ports, state.name) if state.active == "active" and ports else None


def _own_ports(
    host: Host, listeners: Fact[tuple[Listener, ...]], names: frozenset[str], main: Optional[Process]
) -> tuple[int, ...]:
    """Ports on which sshd's units, or its main process, listen."""
    found = listeners.value if isinstance(listeners, Seen) else ()
    ports = [item.port for item in found if item.unit and item.unit in names]
    if not ports and main:
        held = _sockets_of(host, main.pid)
        ports = [item.port for item in found if item.inode in held]
    return tuple(dict.fromkeys(ports))


def _sockets_of(host: Host, pid: int) -> frozenset[int]:
    """Inodes of a process's sockets; empty where that may not be read (another user's, or no CAP_SYS_PTRACE)."""
    directory = f"/proc/{pid}/fd"
    found = set()
    try:
        for name in host.listdir(directory):
            target = host.readlink(f"{directory}/{name}")
            if target.startswith("socket:["):
                found.add(int(target[8:-1]))
    except HostError:
        return frozenset()
    return frozenset(found)


# -- banner


def _banner(sshd: Sshd, probe: float) -> Fact[Banner]:
    if not isinstance(sshd.listeners, Seen) or not isinstance(sshd.port, Seen):
        return Unseen("sshd's listeners were not seen")
    others = intruders(sshd)
    mine = [i for port in sshd.port.value for i in sshd.listeners.value if i.port == port and i not in others]
    if not mine:
        return Unseen("nobody listens")
    main = sshd.process.value if isinstance(sshd.process, Seen) else None
    if main and main.stopped and not main.traced:
        return Unseen("sshd is stopped, and answers nobody")  # which to wait for would only delay the repair
    return banner.probe(banner.target(mine), seconds=probe) if probe else Unseen("not probed")


def _troubled(sshd: Sshd) -> bool:
    """sshd ought to run and does not, so the journal may know why; of one that was stopped it has nothing to say."""
    units = [fact.value for fact in (sshd.unit, sshd.socket_unit) if isinstance(fact, Seen) and fact.value.name]
    down = bool(units) and not any(unit.active == "active" for unit in units)
    return down and not all(unit.active == "inactive" and unit.result in ("", "success") for unit in units)
