"""The machine around sshd: what else keeps a login out or a repair from working, and who is at work on it.

Cheap enough to be looked at in every pass: a few files, and one walk over /proc's command names.
Sources: pam_nologin(8), proc(5), ioctl_iflags(2), sd_booted(3), org.freedesktop.login1(5), cloud-init's boot stages.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
import struct
from collections.abc import Callable, Iterator, Sequence

from ..facts import Machine
from ..host import Denied, Host, HostError, NotFound
from ..model import Fact, Seen, T, Unseen
from ..plain import NamedTuple
from ..quick import sha256
from .systemd import Systemd, present

_NOLOGIN = ("/run/nologin", "/etc/nologin")
_CONNTRACK = "/proc/sys/net/netfilter/nf_conntrack"
_GETFLAGS = 0x80086601 if struct.calcsize("l") == 8 else 0x80046601  # FS_IOC_GETFLAGS
_IMMUTABLE, _APPEND_ONLY = 0x10, 0x20
_FIREWALLD_ZONES = "/etc/firewalld/zones"
_WRITTEN = (
    "/etc/hosts.allow",
    "/etc/hosts.deny",
    "/etc/ssh/sshd_config",
    "/etc/ufw/user.rules",
    "/etc/ufw/user6.rules",
)

#: Command names (15 bytes at most) that are at work as long as they run.
_TOOLS = re.compile(
    r"ufw|firewall-cmd|firewall-offli|netfilter-persi|shorewall6?|ferm|csf|"
    r"(?:ip6?tables|ebtables|arptables)(?:-.*)?|xtables-(?!monitor).*|"
    r"apt|apt-get|aptitude|dpkg|dpkg-preconfigu|needrestart|dnf5?|yum|rpm|zypper|transactional-u|"
    r"cloud-init|cloud-config|ansible-playboo|puppet-agent-r|chef-client|salt-call"
)
#: Interpreters and long-lived agents, whose argument list tells whether they are at work.
_ASK = re.compile(r"nft|python.*|ruby.*|puppet|salt-minion|unattended-upgr|perl|cinc-client")
_AT_WORK = re.compile(
    rb"AnsiballZ_|ansible-tmp|puppet agent: applying|puppet[ \0]+apply|ProcessPayload|salt-call|chef-client|"
    rb"(?:^|/)unattended-upgrade(?:\0|$)|/cloud-init\0|/ufw\0|/firewall-cmd\0|^(?:[^\0]*/)?nft\0"
)
_ROOT = re.compile(rb"^Uid:\t0\t0\t", re.M)
_ENDED = re.compile(rb"^State:\t[ZX]", re.M)
_RESTING = re.compile(rb"--daemonize|-i\0\d+|--interval|unattended-upgrade-shutdown|\0monitor(?:\0|$)")


class _Process(NamedTuple):
    pid: int
    name: str


def collect(host: Host, units: Systemd) -> Machine:
    """Everything in facts.Machine."""
    return Machine(
        nologin=_look(lambda: next((Seen(True, path) for path in _NOLOGIN if host.exists(path)), Seen(False))),
        free_bytes=_look(lambda: Seen(host.free("/var")[0], "/var")),
        free_inodes=_look(lambda: Seen(host.free("/var")[1], "/var")),
        conntrack=_look(lambda: conntrack(host)),
        target=units.target,
        stopping=units.stopping,
        busy=busy(host),
        immutable=_look(lambda: immutable(host)),
        cloud_init_done=_look(lambda: cloud_init_done(host)),
        identity=_look(lambda: identity(host)),
        systemd=_look(lambda: Seen(present(host), "/run/systemd/system")),
        pressure=_look(lambda: pressure(host)),
        users=_look(lambda: users(host)),
    )


def _look(look: Callable[[], Fact[T]]) -> Fact[T]:
    try:
        return look()
    except HostError as error:
        return Unseen(str(error))


def _line(host: Host, path: str) -> str:
    return host.read(path, cap=4096).decode("utf-8", "replace").strip()


def conntrack(host: Host) -> Fact[tuple[int, int]]:
    """Entries, and how many fit; (0, 0) where connections are not tracked."""
    try:
        count, most = (_line(host, f"{_CONNTRACK}_{name}") for name in ("count", "max"))
    except NotFound:
        return Seen((0, 0), "connections are not tracked")
    return Seen((int(count), int(most)), f"{_CONNTRACK}_count")


def pressure(host: Host) -> Fact[float]:
    """Percent of the last ten seconds in which something waited for a CPU.

    Where the kernel has no PSI, or has it switched off: percent of those that want a CPU for whom there is none, by the
    load average of the last minute. One that is stuck on each CPU makes nobody wait.
    """
    with contextlib.suppress(HostError):  # no such file, or EOPNOTSUPP
        match = re.search(r"some avg10=([0-9.]+)", _line(host, "/proc/pressure/cpu"))
        if match:
            return Seen(float(match.group(1)), "/proc/pressure/cpu")
    match = re.match(r"[0-9.]+", _line(host, "/proc/loadavg"))
    if not match:
        return Unseen("no PSI, no load average")
    load = float(match.group())
    return Seen(100.0 * max(0.0, 1.0 - (os.cpu_count() or 1) / load) if load else 0.0, "/proc/loadavg")


# -- who is at work


def _processes(host: Host) -> Iterator[_Process]:
    for name in host.listdir("/proc"):
        if name.isdigit():
            try:
                yield _Process(int(name), _line(host, f"/proc/{name}/comm"))
            except HostError:
                continue  # it has ended meanwhile, or /proc hides it


def busy(host: Host) -> Fact[tuple[str, ...]]:
    """Firewall tools, package managers, cloud-init and configuration management at work, as `name (pid)`."""
    return _look(lambda: _busy(host))


def _busy(host: Host) -> Fact[tuple[str, ...]]:
    found, any_seen = [], False
    for process in _processes(host):
        any_seen = True
        known = _TOOLS.fullmatch(process.name) or (_ASK.fullmatch(process.name) and _at_work(host, process.pid))
        if known and works_here(host, process.pid):
            found.append(f"{process.name} ({process.pid})")
    return Seen(tuple(found), "/proc") if any_seen else Unseen("/proc shows no process")


def works_here(host: Host, pid: int) -> bool:
    """Whether it is root's, has not ended, and is in this network namespace: others change no rules, and install
    nothing that matters here; and whoever calls a program `apt` must not hold up repairs.

    The real and the effective user: a set-user-ID program runs by whatever name an ordinary user links it to, and
    /proc/PID itself belongs to root where a process is not dumpable. sudo becomes root altogether, and waits so for
    what it runs. What nobody has waited for keeps its name. Source: proc_pid_status(5), proc_pid_exe(5), namespaces(7).
    """
    try:
        status = host.read(f"/proc/{pid}/status")
    except HostError:
        return False  # it has ended meanwhile
    if not _ROOT.search(status) or _ENDED.search(status):
        return False
    try:
        program = host.stat(f"/proc/{pid}/exe")
        if program and program.mode & stat.S_ISUID:
            return False
        return host.readlink(f"/proc/{pid}/ns/net") == host.readlink("/proc/self/ns/net")
    except HostError:
        return True  # who is not root does not see that of another


def _at_work(host: Host, pid: int) -> bool:
    try:
        arguments = host.read(f"/proc/{pid}/cmdline", cap=1 << 16)
    except HostError:
        return False  # it has ended meanwhile
    return bool(_AT_WORK.search(arguments)) and not _RESTING.search(arguments)


# -- what may not be written


def immutable(host: Host) -> Fact[tuple[str, ...]]:
    """Of the files that a repair might write, those with chattr +i or +a."""
    zones = tuple(f"{_FIREWALLD_ZONES}/{name}" for name in host.listdir(_FIREWALLD_ZONES) if name.endswith(".xml"))
    found, hidden = [], []
    for path in (*_WRITTEN, *zones):
        try:
            if flags(host, path) & (_IMMUTABLE | _APPEND_ONLY):
                found.append(path)
        except Denied as error:
            hidden.append(str(error))
    if hidden and not found:
        return Unseen(hidden[0])
    return Seen(tuple(found), "FS_IOC_GETFLAGS")


def flags(host: Host, path: str) -> int:
    """The inode flags of a file; 0 where there is none or its file system has no flags. Raises Denied."""
    try:
        descriptor = os.open(host.path(path), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise Denied(f"{path}: {error.strerror}") from error
        return 0
    try:
        return int(struct.unpack_from("=I", fcntl.ioctl(descriptor, _GETFLAGS, b"\0" * 8))[0])
    except OSError:
        return 0  # ENOTTY and its kin: this file system has no flags
    finally:
        os.close(descriptor)


# -- the instance


def cloud_init_done(host: Host) -> Fact[bool]:
    """Nothing of cloud-init's is to come any more in this boot: it has ended, is switched off, or is not installed."""
    for path in ("/run/cloud-init/result.json", "/etc/cloud/cloud-init.disabled", "/run/cloud-init/disabled"):
        if host.exists(path):
            return Seen(True, path)
    if host.program("cloud-init") is None:
        return Seen(True, "cloud-init is not installed")
    return Seen(False, "no /run/cloud-init/result.json")


def identity(host: Host) -> Fact[str]:
    """What tells this instance from others made of the same image: EC2's id, cloud-init's, else a hash of machine-id.

    machine-id(5) asks that the id itself is not passed on.
    """
    for path in (
        "/sys/class/dmi/id/board_asset_tag",
        "/run/cloud-init/.instance-id",
        "/var/lib/cloud/data/instance-id",
    ):
        try:
            value = _line(host, path)
        except HostError:
            continue  # not this kind of machine, or not readable: the next source
        if re.fullmatch(r"i-[0-9a-f]{8,32}", value) or ("cloud" in path and value and len(value) < 128):
            return Seen(value, path)
    machine = host.read("/etc/machine-id", cap=4096).strip()
    if not machine:
        return Unseen("/etc/machine-id is empty")
    return Seen("machine-" + sha256(b"ec2ssh-agent:" + machine).hexdigest()[:32], "/etc/machine-id")


def users(host: Host) -> Fact[tuple[str, ...]]:
    """Sessions of people, as `name since` with seconds of the epoch: logind's, else those in utmp."""
    directory = "/run/systemd/sessions"
    found = []
    for name in host.listdir(directory):
        if name.endswith(".ref"):
            continue
        try:
            fields = dict(_pairs(_line(host, f"{directory}/{name}")))
        except NotFound:
            continue  # logged out meanwhile
        if fields.get("CLASS") == "user" and fields.get("STATE") != "closing":
            found.append(f"{fields.get('USER', '?')} {int(fields.get('REALTIME', '0')) // 1_000_000}")
    if found:
        return Seen(tuple(found), directory)
    try:
        return Seen(tuple(utmp(host.read("/run/utmp"))), "/run/utmp")
    except NotFound:
        return Seen((), directory)


def _pairs(content: str) -> Iterator[tuple[str, str]]:
    for line in content.splitlines():
        name, equals, value = line.partition("=")
        if equals:
            yield name, value


_UTMP = struct.Struct("=hxxi32s4s32s256shhiii4i20x")  # utmp(5)
_USER_PROCESS = 7


def utmp(content: bytes) -> Iterator[str]:
    """The logins of /run/utmp, as `users` gives them."""
    for at in range(0, len(content) - _UTMP.size + 1, _UTMP.size):
        entry: Sequence[object] = _UTMP.unpack_from(content, at)
        kind, name, seconds = entry[0], entry[4], entry[9]
        if kind == _USER_PROCESS and isinstance(name, bytes):
            yield f"{name.partition(bytes(1))[0].decode('utf-8', 'replace')} {seconds}"
