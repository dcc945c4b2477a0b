"""Whole instances on this machine: real systemd, sshd and netfilter in systemd-nspawn, and a real client beside them.

An instance is an overlay in memory over a root file system and over what the package of this tree installs (rootfs.py).
It has two network namespaces, joined by a veth pair whose ends are both called eth0 (outside.py).

No packet leaves the machine. Everything is named after the pid of the test run: what a killed run left behind is
removed by the next. Nothing here waits by sleeping for a fixed time: there are deadlines, generous ones, and polls.
"""

from __future__ import annotations

import contextlib
import difflib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Optional, Union

from outside import CLIENTS4 as CLIENTS4
from outside import CLIENTS6 as CLIENTS6
from outside import SERVER4 as SERVER4
from outside import SERVER6 as SERVER6
from outside import Client as Client
from outside import Login as Login
from outside import Network as Network
from rootfs import CACHE as CACHE
from rootfs import ROOT as ROOT
from rootfs import WORK as WORK
from rootfs import Done as Done
from rootfs import agent_layer as agent_layer
from rootfs import execute as execute
from rootfs import overlay, rootfs, unmount
from rootfs import wait_for as wait_for

PREFIX = "ec2ssh-inst-"


class Snapshot(NamedTuple):
    """What a healthy instance's agent must leave alone, each as name -> value."""

    rules: dict[str, str]
    files: dict[str, str]
    units: dict[str, str]


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


_held = 0


@contextlib.contextmanager
def _slot() -> Iterator[None]:
    """As many test runs of this machine have instances at once as there are processors.

    A run that has an instance may boot more: were it to wait for a second slot, two runs could wait for each other.
    """
    global _held
    CACHE.mkdir(parents=True, exist_ok=True)
    files = [open(CACHE / f"slot-{number}.lock", "w") for number in range(max(2, os.cpu_count() or 1))]

    def free() -> bool:
        for file in files:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
        return False

    with contextlib.ExitStack() as stack:
        for file in files:
            stack.callback(file.close)
        if not _held:
            wait_for("a free slot for an instance", free, 1800)
        _held += 1
        try:
            yield
        finally:
            _held -= 1


# -- instances

_RULES = r"""
for f in '' 6; do
    test -e /proc/net/ip${f}_tables_names || continue
    for t in $(cat /proc/net/ip${f}_tables_names); do
        echo "# ip${f}tables-legacy $t"; ip${f}tables-legacy-save -t $t
    done
done
# By name: iptables-restore makes a table anew, and the order of tables means nothing.
echo '# nft'; nft list tables | sort | while read -r _ family name; do nft -s list table "$family" "$name"; done
echo '# iptables-nft'; iptables-nft-save; echo '# ip6tables-nft'; ip6tables-nft-save
echo '# ipset'; ipset save
"""

_NFT_TABLE = re.compile(r"^(table [^\n]*\{\n)(.*?)^\}$", re.M | re.S)


def _by_name(table: re.Match[str]) -> str:
    """The chains and sets of a table in an order of their own: the kernel's is that in which they were made."""
    parts = sorted(part.strip("\n") for part in table.group(2).split("\n\n"))
    return table.group(1) + "\n\n".join(parts) + "\n}"


_UNITS = r"""
systemctl list-unit-files --no-legend --plain --no-pager
systemctl show --no-pager -p Id -p LoadState -p ActiveState -p SubState -p MainPID -p NRestarts \
    ssh.service ssh.socket ufw.service firewalld.service nftables.service fail2ban.service netfilter-persistent.service
"""


def cgroups(name: str) -> list[Path]:
    """The control groups of that name: one for each hierarchy that systemd uses."""
    top = Path("/sys/fs/cgroup")
    return [place / name for place in (top / "systemd", top / "unified") if place.is_dir()] or [top / name]


def remove_cgroups(name: str) -> None:
    """Removes them, when the last process in them has gone."""
    for group in cgroups(name):
        for directory, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(directory)


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
        # A control group of its own: else two instances' systemds would share a tree, and clear it for each other.
        script = 'for c in $CGROUPS; do mkdir -p "$c" && echo $$ > "$c/cgroup.procs"; done; exec "$@"'
        argv = ["sh", "-c", script, "sh"]
        argv += ["setpriv", "--pdeathsig", "SIGKILL", "systemd-nspawn", "--quiet", "--boot", f"--directory={self.root}"]
        argv += [f"--network-namespace-path=/run/netns/{self.network.server}", f"--machine={self.name}"]
        argv += ["--system-call-filter=bpf"]  # which nspawn keeps from every container; a machine of its own has it
        argv += "--capability=all --resolv-conf=off --timezone=off --register=no --keep-unit --console=pipe".split()
        with open(self.console, "ab") as console:
            self._nspawn = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
                env={**os.environ, "CGROUPS": " ".join(map(str, cgroups(self.network.server)))},
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
        remove_cgroups(self.network.server)
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
            remove_cgroups(self.network.server)
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
        listed = re.sub(r"\[\d+:\d+\]|^# (Generated|Completed).*", "", self.run(_RULES).out, flags=re.M)
        rules = {"ruleset": _NFT_TABLE.sub(_by_name, listed)}
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
        looks = "systemctl --no-pager --failed; ss -tlnp; nft list ruleset | head -100"
        status = self.run(["ec2ssh-agent", "status"], check=False)
        looked = self.run(looks, check=False)
        return "\n".join([looked.out, status.out, status.err, self.journal("-n", "120")])


def _outer(made: Instance, pid: int) -> int:
    """The pid, seen from this machine, of a process of the instance."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            seen = re.search(rf"^NSpid:.*\s{pid}$", (entry / "status").read_text(), re.M)
            if seen and (entry / "ns/pid").readlink() == Path(f"/proc/{made._init}/ns/pid").readlink():
                return int(entry.name)
    raise AssertionError(f"no process {pid} in the instance")


@contextlib.contextmanager
def limited(made: Instance, pid: int, controller: str, value: int) -> Iterator[None]:
    """Keeps a process of the instance, and what it starts meanwhile, to so many bytes ("memory") or tasks ("pids")."""
    top, name, outer = Path("/sys/fs/cgroup"), made.network.server, _outer(made, pid)
    old = (top / controller).is_dir()  # version 1 of control groups has a tree for each controller
    hierarchy = top / controller if old else top
    home = re.search(rf"^\d+:{controller if old else ''}:/(.*)", Path(f"/proc/{outer}/cgroup").read_text(), re.M)
    assert home
    group = hierarchy / f"{name}-limited"
    group.mkdir()
    (group / {"memory": "memory.limit_in_bytes" if old else "memory.max", "pids": "pids.max"}[controller]).write_text(
        str(value)
    )
    procs, children = group / "cgroup.procs", Path(f"/proc/{outer}/task/{outer}/children")
    procs.write_text(str(outer))
    try:
        # What it had started before goes on without a limit.
        started = set(children.read_text().split()) - set(procs.read_text().split())
        wait_for("the end of what was started before", lambda: not started & set(children.read_text().split()), 60)
        yield
    finally:
        for member in (group / "cgroup.procs").read_text().split():
            with contextlib.suppress(ProcessLookupError):
                (hierarchy / home[1] / "cgroup.procs").write_text(member)
        wait_for("an empty control group", lambda: not (group / "cgroup.procs").read_text(), 30)
        group.rmdir()


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
        stack.callback(unmount, memory)
        for part in ("top", "work"):
            (memory / part).mkdir()
        stack.enter_context(overlay(lower, top=memory / "top", work=memory / "work", at=root))
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
