"""Whole instances on this machine: real systemd, sshd and netfilter in systemd-nspawn, and a real client beside them.

A root file system is made once by mmdebstrap and kept in CACHE; what the package of this tree installs is a layer over
it, made once for each content of the package; an instance is an overlay in memory over both. Each instance has two
network namespaces, joined by a veth pair whose ends are both called eth0:

    client  10.0.5.1, 10.0.5.30, 203.0.113.7, 198.51.100.9         2001:db8:5::1, ::30, 2001:db8:ffff::7
    server  10.0.5.20/24, default route to 10.0.5.1                2001:db8:5::20/64, default route to 2001:db8:5::1

No packet leaves the machine. Everything is named after the pid of the test run: what a killed run left behind is
removed by the next. Nothing here waits by sleeping for a fixed time: there are deadlines, generous ones, and polls.
"""

from __future__ import annotations

import contextlib
import ctypes
import difflib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Optional, Union

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path("/var/cache/ec2ssh-agent")
WORK = Path("/var/tmp")
PREFIX = "ec2ssh-inst-"

SERVER4, SERVER6 = "10.0.5.20", "2001:db8:5::20"
CLIENTS4 = ("10.0.5.1", "10.0.5.30", "203.0.113.7", "198.51.100.9")
CLIENTS6 = ("2001:db8:5::1", "2001:db8:5::30", "2001:db8:ffff::7")

PACKAGES = (
    "systemd systemd-sysv dbus openssh-server openssh-client iproute2 iptables nftables ufw firewalld ipset procps "
    "python3 python3-psutil python3-systemd python3-requests python3-jeepney python3-iptables sudo e2fsprogs"
).split()

# What an instance's own packages would do by themselves and a test must not meet: firewalld is enabled by its package.
CUSTOMISE = """set -e
systemctl --root="$1" -q disable firewalld.service
systemctl --root="$1" -q mask apt-daily.timer apt-daily-upgrade.timer e2scrub_all.timer e2scrub_reap.service \
    dpkg-db-backup.timer systemd-tmpfiles-clean.timer man-db.timer fstrim.timer
echo nameserver 127.0.0.1 > "$1/etc/resolv.conf"
echo instance > "$1/etc/hostname"
printf '127.0.0.1 localhost instance\\n::1 localhost\\n' > "$1/etc/hosts"
mkdir -p -m 0700 "$1/root/.ssh"
# OpenSSH 9.8 and later refuse for a while whoever connects often without logging in, as the tests' clients do.
if chroot "$1" /usr/sbin/sshd -T -o PerSourcePenalties=no >/dev/null 2>&1; then
    echo PerSourcePenaltyExemptList 10.0.5.0/24,203.0.113.0/24,198.51.100.0/24,2001:db8::/32 \
        > "$1/etc/ssh/sshd_config.d/10-test-clients.conf"
fi
rm -f "$1"/etc/machine-id "$1"/var/log/*.log
"""

SSH_OPTIONS = (
    "-F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "
    "-o IdentitiesOnly=yes -o ControlMaster=no"
).split()


class Done(NamedTuple):
    """What a command gave: exit status (negative: the signal), both outputs as text."""

    code: int
    out: str
    err: str


class Login(NamedTuple):
    """A whole `ssh`: whether it came in, what it printed on stderr, how long it took in seconds."""

    ok: bool
    stderr: str
    seconds: float


class Snapshot(NamedTuple):
    """What a healthy instance's agent must leave alone, each as name -> value."""

    rules: dict[str, str]
    files: dict[str, str]
    units: dict[str, str]


def execute(
    argv: Sequence[object], *, check: bool = True, stdin: Optional[bytes] = None, deadline: float = 120.0
) -> Done:
    """Runs a program of this machine in a process group of its own, which is killed at the deadline (seconds)."""
    words = [str(word) for word in argv]
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # Files, not pipes: a daemon that a command leaves behind would hold a pipe open for ever.
        process = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL if stdin is None else subprocess.PIPE,
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            process.communicate(stdin, timeout=deadline)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if isinstance(error, subprocess.TimeoutExpired):
                raise AssertionError(
                    f"no end within {deadline:g} s: {' '.join(words)}\n{_text(out)}{_text(err)}"
                ) from None
            raise
        done = Done(process.returncode, _text(out), _text(err))
    if check and done.code:
        raise AssertionError(f"exit status {done.code}: {' '.join(words)}\n{done.out}{done.err}")
    return done


def _text(file: object) -> str:
    assert hasattr(file, "seek") and hasattr(file, "read")
    file.seek(0)
    return bytes(file.read()).decode("utf-8", "replace")


def wait_for(what: str, look: Callable[[], bool], seconds: float = 60.0, *, every: float = 0.05) -> float:
    """Polls until `look` is true; gives the seconds it took. Raises AssertionError after `seconds`."""
    started = time.monotonic()
    while not look():
        if time.monotonic() - started > seconds:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(every)
    return time.monotonic() - started


# -- root file systems


@contextlib.contextmanager
def _locked(name: str) -> Iterator[None]:
    CACHE.mkdir(parents=True, exist_ok=True)
    with open(CACHE / f"{name}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def rootfs(suite: str = "bookworm", extra: Sequence[str] = ()) -> Path:
    """A root file system of a Debian release with what PACKAGES and `extra` name; made once, then only read."""
    packages = sorted({*PACKAGES, *extra})
    digest = hashlib.sha256("\n".join([suite, *packages, CUSTOMISE]).encode()).hexdigest()[:12]
    made = CACHE / f"rootfs-{suite}-{digest}"
    with _locked(f"rootfs-{suite}"):
        if not made.is_dir():
            new = made.with_suffix(".new")
            shutil.rmtree(new, ignore_errors=True)
            argv = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={','.join(packages)}", suite, new]
            execute(argv, deadline=1200)
            execute(["sh", "-c", CUSTOMISE, "sh", new])
            new.rename(made)
    return made


def tree_digest() -> str:
    """The content of everything that the package is built from."""
    digest = hashlib.sha256()
    for directory in ("agent", "packaging", "systemd"):
        for path in sorted((ROOT / directory).rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(ROOT)}\0{path.stat().st_mode:o}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def package() -> Path:
    """The .deb of this tree, built once for each content."""
    directory = CACHE / "packages" / tree_digest()
    with _locked("package"):
        found = sorted(directory.glob("*.deb"))
        if not found:
            directory.mkdir(parents=True, exist_ok=True)
            found = [Path(execute([ROOT / "packaging" / "build-deb", directory]).out.strip())]
    return found[0]


def agent_layer(base: Path) -> Path:
    """What installing the package adds to a root file system, as a layer over it."""
    deb = package()
    made = CACHE / "layers" / f"{base.name}-{tree_digest()}"
    with _locked("layer"):
        if not made.is_dir():
            made.parent.mkdir(parents=True, exist_ok=True)
            for old in sorted(made.parent.glob(f"{base.name}-*"), key=lambda path: path.stat().st_mtime)[:-8]:
                shutil.rmtree(old, ignore_errors=True)
            with tempfile.TemporaryDirectory(dir=made.parent, prefix="new-") as name:
                top, work, merged = (Path(name) / part for part in ("top", "work", "merged"))
                for directory in (top, work, merged):
                    directory.mkdir(mode=0o755)
                with _overlay([base], top=top, work=work, at=merged):
                    shutil.copy(deb, merged / "tmp" / deb.name)
                    execute(["chroot", merged, "dpkg", "-i", f"/tmp/{deb.name}"], deadline=300)
                    (merged / "tmp" / deb.name).unlink()
                top.rename(made)
    return made


@contextlib.contextmanager
def _overlay(lower: Sequence[Path], *, top: Path, work: Path, at: Path) -> Iterator[None]:
    options = f"lowerdir={':'.join(map(str, lower))},upperdir={top},workdir={work}"
    execute(["mount", "-t", "overlay", "-o", options, "overlay", at])
    try:
        yield
    finally:
        _unmount(at)


def _unmount(path: Path) -> None:
    def gone() -> bool:
        return execute(["umount", path], check=False).code == 0 or not os.path.ismount(path)

    wait_for(f"umount {path}", gone, 30)


def _raise_limits() -> None:
    """Every instance's systemd and udev take some twenty inotify instances of root's, of which there are 128."""
    limit = Path("/proc/sys/fs/inotify/max_user_instances")
    if int(limit.read_text()) < 4096:
        limit.write_text("4096\n")


# -- what a killed run left behind


def sweep() -> None:
    """Ends the instances, removes namespaces, mounts and directories of test runs whose process is gone.

    They would not only be litter: each instance holds a dozen of the 128 inotify instances that a user may have.
    """
    for pid in _left():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for name in _names(Path("/run/netns")):
        execute(["ip", "netns", "delete", name], check=False)
    for name in _names(WORK):
        for line in reversed(Path("/proc/self/mounts").read_text().splitlines()):
            point = line.split(" ")[1]
            if point.startswith(f"{WORK}/{name}/"):
                execute(["umount", "-l", point], check=False)
        shutil.rmtree(WORK / name, ignore_errors=True)


def _left() -> Iterator[int]:
    """The pid 1 of each instance whose test run is gone: known by the overlay that is its root."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "comm").read_text() != "systemd\n":
                continue
            root = next(line for line in (entry / "mountinfo").read_text().splitlines() if line.split()[4] == "/")
            run = re.search(rf"upperdir={WORK}/{PREFIX}(\d+)-", root)
            if run and not os.path.isdir(f"/proc/{run.group(1)}"):
                yield int(entry.name)


def _names(directory: Path) -> list[str]:
    found = [path.name for path in directory.glob(f"{PREFIX}*")] if directory.is_dir() else []
    return [name for name in found if not os.path.isdir(f"/proc/{name[len(PREFIX) :].split('-')[0]}")]


@contextlib.contextmanager
def _slot() -> Iterator[None]:
    """At most as many instances at once, over all test runs of this machine, as there are processors."""
    CACHE.mkdir(parents=True, exist_ok=True)
    files = [open(CACHE / f"slot-{number}.lock", "w") for number in range(max(2, os.cpu_count() or 1))]

    def free() -> bool:
        for file in files:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        return False

    try:
        wait_for("a free slot for an instance", free, 1800)
        yield
    finally:
        for file in files:
            file.close()


# -- networks

_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """Two namespaces and the wire between them. `server` and `client` are names for `ip -n`."""

    def __init__(self, name: str) -> None:
        self.server, self.client = f"{name}s", f"{name}c"
        try:
            self._make()
        except BaseException:
            self.delete()
            raise

    def _make(self) -> None:
        for name in (self.server, self.client):
            execute(["ip", "netns", "add", name])
        server, client = ["ip", "-n", self.server], ["ip", "-n", self.client]
        execute([*server, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.client])
        execute([*server, "address", "add", f"{SERVER4}/24", "dev", "eth0"])
        execute([*server, "address", "add", f"{SERVER6}/64", "dev", "eth0", "nodad"])
        for address in CLIENTS4:
            length = 24 if address.startswith("10.0.5.") else 32
            execute([*client, "address", "add", f"{address}/{length}", "dev", "eth0"])
        for number, address in enumerate(CLIENTS6):
            length = 64 if address.startswith("2001:db8:5:") else 128
            # The others are deprecated, or the kernel would take the last for new connections.
            lifetime = [] if number == 0 else ["preferred_lft", "0"]
            execute([*client, "address", "add", f"{address}/{length}", "dev", "eth0", "nodad", *lifetime])
        for end in (server, client):
            execute([*end, "link", "set", "lo", "up"])
            execute([*end, "link", "set", "eth0", "up"])
        execute([*server, "route", "add", "default", "via", CLIENTS4[0]])
        execute([*server, "-6", "route", "add", "default", "via", CLIENTS6[0], "dev", "eth0"])

    def delete(self) -> None:
        for name in (self.server, self.client):
            if os.path.exists(f"/run/netns/{name}"):
                execute(["ip", "netns", "delete", name], check=False)

    @contextlib.contextmanager
    def _inside(self, name: str) -> Iterator[None]:
        """This thread in a namespace: sockets made here stay in it."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{name}") as there:
            if _libc.setns(there.fileno(), 0x40000000):
                raise OSError(ctypes.get_errno(), f"setns {name}")
            try:
                yield
            finally:
                if _libc.setns(home.fileno(), 0x40000000):
                    raise OSError(ctypes.get_errno(), "setns back")

    def socket(self, family: int) -> socket.socket:
        with self._inside(self.client):
            return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

    def flush_neighbours(self) -> None:
        for name in (self.client, self.server):
            execute(["ip", "-n", name, "neighbour", "flush", "all"], check=False)


_CONNECT = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ENOPROTOOPT: "unreachable",
    errno.EACCES: "unreachable",
    errno.ETIMEDOUT: "timeout",
}


class Client:
    """Somebody outside. `source` is one of CLIENTS4 or CLIENTS6, `to` SERVER4 or SERVER6."""

    def __init__(self, network: Network, key: Path) -> None:
        self.network, self.key = network, key

    def ssh(
        self, command: str = "true", *, to: str = SERVER4, source: str = "", port: int = 22, timeout: float = 15.0
    ) -> Login:
        """A real login as root by key."""
        argv: list[object] = ["nsenter", f"--net=/run/netns/{self.network.client}", "ssh", *SSH_OPTIONS, "-i", self.key]
        argv += ["-o", f"ConnectTimeout={max(1, round(timeout))}", "-p", port, *(["-b", source] if source else [])]
        started = time.monotonic()
        done = execute([*argv, f"root@{to}", command], check=False, deadline=timeout + 30)
        return Login(done.code == 0, done.err.strip(), time.monotonic() - started)

    def symptom(
        self, *, to: str = SERVER4, source: str = "", port: int = 22, timeout: float = 4.0, banner: float = 9.0
    ) -> str:
        """What one new connection lives through until sshd's banner.

        connected, timeout (no connection within `timeout` seconds, which spans two retransmissions of the SYN, so
        that an ICMP error that was lost is met again), refused, unreachable, closed (opened, then ended without a
        banner), silent (opened, then nothing within `banner` seconds; libwrap sleeps 5 before it closes).
        """
        if ":" in to:
            self.network.flush_neighbours()
        with self.network.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) as tried:
            if source:
                tried.bind((source, 0))
            tried.settimeout(timeout)
            try:
                tried.connect((to, port))
            except socket.timeout:
                return "timeout"
            except OSError as error:
                if error.errno in _CONNECT:
                    return _CONNECT[error.errno]
                raise
            tried.settimeout(banner)
            try:
                got = tried.recv(255)
                if got.startswith(b"SSH-"):
                    # An answer, so that sshd does not log an error for a scanner's connect and close.
                    tried.sendall(b"SSH-2.0-ec2ssh-agent-test\r\n")
                    return "connected"
                return "closed"  # the end, or words such as MaxStartups'
            except socket.timeout:
                return "silent"
            except ConnectionError:
                return "closed"

    def wait_symptom(self, wanted: str, seconds: float = 60.0, *, to: str = SERVER4, source: str = "") -> None:
        """Waits until a new connection lives through `wanted`."""
        seen: list[str] = []

        def look() -> bool:
            seen.append(self.symptom(to=to, source=source))
            return seen[-1] == wanted

        try:
            wait_for(f"symptom {wanted}", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; the last were {seen[-5:]}") from None

    def wait_ssh(self, seconds: float = 60.0, *, to: str = SERVER4, source: str = "", port: int = 22) -> float:
        """Waits until sshd's banner comes: a new connection every 20 ms. Gives the seconds it took."""
        return wait_for(
            f"sshd's banner from {to} for {source or 'the client'}",
            lambda: self._banner(to, source, port),
            seconds,
            every=0.02,
        )

    def _banner(self, to: str, source: str, port: int) -> bool:
        with self.network.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) as tried:
            if source:
                tried.bind((source, 0))
            # A client that met a DROP sends its SYN again only after a second: a new connection tells sooner.
            tried.settimeout(0.1)
            try:
                tried.connect((to, port))
                tried.settimeout(2.0)
                if not tried.recv(255).startswith(b"SSH-"):
                    return False
                tried.sendall(b"SSH-2.0-ec2ssh-agent-test\r\n")
                return True
            except OSError:
                return False


# -- instances

_RULES = r"""
for f in '' 6; do
    test -e /proc/net/ip${f}_tables_names || continue
    for t in $(cat /proc/net/ip${f}_tables_names); do
        echo "# ip${f}tables-legacy $t"; ip${f}tables-legacy-save -t $t
    done
done
echo '# nft'; nft -s list ruleset
echo '# iptables-nft'; iptables-nft-save; echo '# ip6tables-nft'; ip6tables-nft-save
echo '# ipset'; ipset save
"""

_UNITS = r"""
systemctl list-unit-files --no-legend --plain --no-pager
systemctl show --no-pager -p Id -p LoadState -p ActiveState -p SubState -p MainPID -p NRestarts \
    ssh.service ssh.socket ufw.service firewalld.service nftables.service fail2ban.service netfilter-persistent.service
"""


class Instance:
    """A booted system. `root` is its file system, seen from this machine; `client` is somebody outside."""

    def __init__(self, *, name: str, directory: Path, root: Path) -> None:
        self.name, self.directory, self.root = name, directory, root
        self.console = directory / "console"
        self.key = directory / "key"
        self._generation = 0
        self._nspawn: Optional[subprocess.Popen[bytes]] = None
        self._init = 0
        self.network: Network
        self.client: Client

    # -- its life

    def start(self) -> None:
        """Boots it in a fresh pair of namespaces, and waits until systemd has done all that it had to."""
        try:
            self._boot()
        except AssertionError as error:
            # Not what is tested: a machine that is short of something for a moment may boot it the second time.
            print(f"{error}\n{self.console.read_text(errors='replace')[-4000:]}\nbooting once more")
            self.kill()
            self._boot()

    def _boot(self) -> None:
        self._generation += 1
        self.network = Network(f"{self.name}-{self._generation}")
        self.client = Client(self.network, self.key)
        argv = ["setpriv", "--pdeathsig", "SIGKILL", "systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}"]
        argv += [f"--network-namespace-path=/run/netns/{self.network.server}", f"--machine={self.name}"]
        argv += "--capability=all --resolv-conf=off --timezone=off --register=no --keep-unit --console=pipe".split()
        with open(self.console, "ab") as console:
            self._nspawn = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
            )
        wait_for("pid 1 of the instance", self._found, 60, every=0.02)
        wait_for("the system bus", lambda: self._state() not in ("", "offline", "unknown"), 60)
        wait_for("the end of the boot", lambda: self._state() in ("running", "degraded", "maintenance"), 120)

    def _found(self) -> bool:
        assert self._nspawn
        if self._nspawn.poll() is not None:
            raise AssertionError(f"systemd-nspawn ended: {self.console.read_text(errors='replace')[-2000:]}")
        waiting = [self._nspawn.pid]
        while waiting:
            pid = waiting.pop()
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                status = Path(f"/proc/{pid}/status").read_text()
                inner = re.search(r"^NSpid:.*\s(\d+)$", status, re.M)
                if pid != self._nspawn.pid and inner and inner.group(1) == "1":
                    self._init = pid
                    return "systemd" in status.splitlines()[0] and "nspawn" not in status.splitlines()[0]
                waiting += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return False

    def _state(self) -> str:
        return self.run(["systemctl", "is-system-running"], check=False).out.strip()

    def stop(self) -> None:
        """Powers it off (after 30 s: kills it) and deletes its namespaces."""
        nspawn = self._nspawn
        if nspawn is not None and nspawn.poll() is None:
            if self._init:
                os.kill(self._init, signal.SIGRTMIN + 4)  # systemd(1): power off
            try:
                nspawn.wait(30)
            except subprocess.TimeoutExpired:
                nspawn.kill()
                nspawn.wait()
        self._nspawn, self._init = None, 0
        self.network.delete()

    def kill(self) -> None:
        """Ends it at once, as when the power fails, and deletes its namespaces."""
        if self._nspawn is not None:
            # pid 1 first: it takes all of its processes along, which the end of systemd-nspawn would leave running.
            if self._init and self._nspawn.poll() is None:
                os.kill(self._init, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._nspawn.wait(0 if not self._init else 20)
            self._nspawn.kill()
            self._nspawn.wait()
        self._nspawn, self._init = None, 0
        if hasattr(self, "network"):
            self.network.delete()

    def reboot(self) -> None:
        """Down and up again, into fresh namespaces: the kernel's rules are gone, files stay."""
        self.stop()
        self.start()

    # -- inside

    def run(
        self,
        command: Union[str, Sequence[object]],
        *,
        check: bool = True,
        stdin: Union[bytes, str, None] = None,
        deadline: float = 120.0,
    ) -> Done:
        """A command, or a line for sh, as root in the instance."""
        words: list[object] = ["sh", "-c", command] if isinstance(command, str) else [*command]
        environment = ["env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
        environment += ["HOME=/root", "LC_ALL=C.UTF-8", "USER=root", "TERM=dumb"]
        given = stdin.encode() if isinstance(stdin, str) else stdin
        inside: list[object] = ["nsenter", "-t", self._init, "-a", *environment, *words]
        return execute(inside, check=check, stdin=given, deadline=deadline)

    def agent(self, *arguments: object, check: bool = False, deadline: float = 120.0) -> Done:
        """`ec2ssh-agent ARGUMENTS`."""
        return self.run(["ec2ssh-agent", *arguments], check=check, deadline=deadline)

    def write(self, path: str, text: Union[str, bytes], mode: int = 0o644) -> None:
        """A file as root's; its directories are made. Not atomic, as an editor's write is not."""
        content = text.encode() if isinstance(text, str) else text
        script = 'set -e; mkdir -p "$(dirname "$1")"; cat > "$1"; chmod "$2" "$1"'
        self.run(["sh", "-c", script, "sh", path, f"{mode:o}"], stdin=content)

    def read(self, path: str) -> str:
        return self.run(["cat", "--", path]).out

    def journal(self, *arguments: str) -> str:
        return self.run(["journalctl", "--no-pager", "-q", "-o", "short-precise", *arguments], check=False).out

    # -- what it is like

    def snapshot(self) -> Snapshot:
        """Every ruleset without counters, every file below /etc, the state of units."""
        rules = {"ruleset": re.sub(r"\[\d+:\d+\]|^# (Generated|Completed).*", "", self.run(_RULES).out, flags=re.M)}
        units: dict[str, str] = {}
        for number, line in enumerate(self.run(_UNITS).out.splitlines()):
            name, _, state = line.partition(" ") if "=" not in line else (f"{number:04}", "", line)
            units[name] = " ".join(state.split())
        return Snapshot(rules, self._files(), units)

    def _files(self) -> dict[str, str]:
        files: dict[str, str] = {}
        for path in sorted((self.root / "etc").rglob("*")):
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                if path.is_symlink():
                    content = f"-> {os.readlink(path)}"
                elif path.is_file():
                    content = hashlib.sha256(path.read_bytes()).hexdigest()
                else:
                    content = "other"
                files[f"/{path.relative_to(self.root)}"] = (
                    f"{status.st_mode:o} {status.st_uid}:{status.st_gid} {content}"
                )
        return files

    @staticmethod
    def diff(before: Snapshot, after: Snapshot) -> list[str]:
        """What changed between two snapshots, a line for each thing; empty when nothing did."""
        lines: list[str] = []
        for old, new in ((before.rules, after.rules), (before.files, after.files), (before.units, after.units)):
            for name in sorted({*old, *new}):
                if old.get(name) == new.get(name):
                    continue
                if name == "ruleset":
                    lines += list(
                        difflib.unified_diff(old[name].splitlines(), new[name].splitlines(), lineterm="", n=0)
                    )
                else:
                    lines.append(f"{name}: {old.get(name, 'absent')} became {new.get(name, 'absent')}")
        return lines

    def describe(self) -> str:
        """For a failed test: what the instance has to say."""
        if not self._init:
            return f"the instance is not running\n{self.console.read_text(errors='replace')[-2000:]}"
        looks = "systemctl --no-pager --failed; ss -tlnp; nft list ruleset"
        status = self.run(["ec2ssh-agent", "status"], check=False)
        looked = self.run(looks, check=False)
        return "\n".join([looked.out, status.out, status.err, self.journal("-n", "120")])


@contextlib.contextmanager
def boot(
    suite: str = "bookworm",
    *,
    agent: bool = True,
    config: str = "",
    enabled: bool = True,
    extra: Sequence[str] = (),
    prepare: Optional[Callable[[Path], None]] = None,
) -> Iterator[Instance]:
    """A running instance; it and all that belongs to it are gone afterwards.

    With `agent` the package of this tree is installed; `config` is its agent.conf.d/50-test.conf; without `enabled`
    its units do not start at boot. `extra` names more Debian packages; `prepare` changes files before the boot.
    """
    sweep()
    _raise_limits()
    base = rootfs(suite, extra)
    lower = [agent_layer(base), base] if agent else [base]
    with _slot(), contextlib.ExitStack() as stack:
        name = f"{PREFIX}{os.getpid()}-{secrets.token_hex(2)}"
        directory = WORK / name
        directory.mkdir(mode=0o755)
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        memory, root = directory / "memory", directory / "root"
        memory.mkdir()
        root.mkdir()
        execute(["mount", "-t", "tmpfs", "-o", "size=2G,mode=0755", name, memory])
        stack.callback(_unmount, memory)
        for part in ("top", "work"):
            (memory / part).mkdir()
        stack.enter_context(_overlay(lower, top=memory / "top", work=memory / "work", at=root))
        made = Instance(name=name, directory=directory, root=root)
        _personalise(made, config=config if agent else "", enabled=enabled or not agent)
        if prepare:
            prepare(root)
        stack.callback(made.kill)
        try:
            made.start()
            yield made
        except BaseException:
            if made._nspawn and made._nspawn.poll() is None:
                print(made.describe())
            raise


def _personalise(made: Instance, *, config: str, enabled: bool) -> None:
    """Its own machine id, host keys and client key."""
    root = made.root
    (root / "etc/machine-id").write_text(f"{secrets.token_hex(16)}\n")
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()
    execute(["ssh-keygen", "-q", "-A", "-f", root])
    execute(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", made.key])
    (root / "root/.ssh/authorized_keys").write_text(made.key.with_suffix(".pub").read_text())
    if config:
        drop_in = root / "etc/ec2ssh-agent/agent.conf.d/50-test.conf"
        drop_in.parent.mkdir(parents=True, exist_ok=True)
        drop_in.write_text(config)
    if not enabled:
        for link in (root / "etc/systemd/system").glob("*.wants/ec2ssh-agent*"):
            link.unlink()
