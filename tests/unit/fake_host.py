"""A host in memory for tests: a file tree, scripted commands and a clock, with host.Host's methods and errors.

    host = FakeHost({"/etc/hosts.deny": b"ALL: ALL\\n"})
    host.command(["ufw", "status"], Ran(0, b"Status: active\\n", b""))   # an argv prefix; the longest one wins
    host.command(["ufw", "--force", "enable"], lambda call: ...)         # gets the Call, gives a Ran, may raise

A command that no script fits is NotFound, as a program that is not installed. `calls` records every run, `changes`
every write. `full` makes writes fail as a full disk does, `denied` holds paths (and what is below) that give Denied.
"""

from __future__ import annotations

import contextlib
import posixpath
import stat as modes
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Optional, Union

from ec2ssh_agent.host import Denied, Failed, Host, Locked, NotFound, Ran, Stat, TimedOut, TooLarge


class Call(NamedTuple):
    argv: tuple[str, ...]
    stdin: bytes = b""
    deadline: float = 10.0
    environment: tuple[tuple[str, str], ...] = ()


Script = Union[Ran, Callable[[Call], Ran]]


class Node:
    """A file, directory or symlink: `mode` holds the type, too."""

    def __init__(self, inode: int, mode: int, content: bytes = b"", uid: int = 0, gid: int = 0) -> None:
        self.inode, self.mode, self.content, self.uid, self.gid = inode, mode, content, uid, gid
        self.immutable = False
        self.mtime_ns = 0
        self.device = 0

    @property
    def directory(self) -> bool:
        return modes.S_ISDIR(self.mode)

    @property
    def symlink(self) -> bool:
        return modes.S_ISLNK(self.mode)


class FakeHost(Host):
    """Paths are absolute and normal. Parents of a file that is put are made."""

    def __init__(self, files: Mapping[str, bytes] = {}, *, root: str = "/", start: float = 1_700_000_000.0) -> None:
        super().__init__(root)
        self.nodes: dict[str, Node] = {"/": Node(1, modes.S_IFDIR | 0o755)}
        self.scripts: dict[tuple[str, ...], Script] = {}
        self.calls: list[Call] = []
        self.changes: list[tuple[str, str]] = []  # (replace, append, remove, rmdir, mkdir, chmod or chown; path)
        self.denied: set[str] = set()
        self.full = False
        self.locked: set[str] = set()
        self.space: tuple[int, int] = (10 << 30, 1_000_000)
        self.epoch, self.boot, self.asleep = start, 1000.0, 0.0
        self.slept: list[float] = []
        self._inodes = 1
        for path, content in files.items():
            self.put(path, content)

    # -- what tests set up

    def put(self, path: str, content: bytes = b"", *, mode: int = 0o644, uid: int = 0, gid: int = 0) -> Node:
        return self._add(path, modes.S_IFREG | mode, content, uid=uid, gid=gid)

    def directory(self, path: str, *, mode: int = 0o755, uid: int = 0, gid: int = 0) -> Node:
        return self._add(path, modes.S_IFDIR | mode, uid=uid, gid=gid)

    def link(self, path: str, target: str) -> Node:
        return self._add(path, modes.S_IFLNK | 0o777, target.encode())

    def immutable(self, path: str) -> None:
        """chattr +i: every change of it is Denied."""
        self.nodes[path].immutable = True

    def installed(self, *programs: str) -> None:
        """Programs that `program` finds, in /usr/sbin or at the absolute path given."""
        for name in programs:
            path = name if name.startswith("/") else f"/usr/sbin/{name}"
            self.put(path, b"\x7fELF", mode=0o755)

    def command(self, argv: Sequence[str], script: Script) -> None:
        self.scripts[tuple(argv)] = script

    def text(self, path: str) -> str:
        return self.read(path).decode("utf-8", "replace")

    @property
    def ran(self) -> list[tuple[str, ...]]:
        return [call.argv for call in self.calls]

    def snapshot(self) -> dict[str, tuple[int, int, int, bytes]]:
        """Path to mode, uid, gid and content: what must be the same where nothing may change."""
        return {path: (node.mode, node.uid, node.gid, node.content) for path, node in self.nodes.items()}

    def _add(self, path: str, mode: int, content: bytes = b"", *, uid: int = 0, gid: int = 0) -> Node:
        assert path.startswith("/") and posixpath.normpath(path) == path, path
        parent = posixpath.dirname(path)
        if parent not in self.nodes:
            self._add(parent, modes.S_IFDIR | 0o755)
        self._inodes += 1
        node = Node(self._inodes, mode, content, uid, gid)
        node.mtime_ns = int(self.epoch * 1e9)
        self.nodes[path] = node
        return node

    def path(self, path: str) -> str:
        """What goes round the host (an ioctl on a path) finds nothing of this machine."""
        return f"{self.root}/nonexistent/fake-host{path}"

    # -- clock

    def now(self) -> float:
        return self.epoch

    def monotonic(self) -> float:
        return self.boot

    def suspended(self) -> float:
        return self.asleep

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        self.epoch += seconds
        self.boot += seconds

    # -- files

    def _real(self, path: str, *, last: bool = True, depth: int = 0) -> str:
        """The path with its symlinks followed, those of its last part only with `last`."""
        if depth > 40:
            raise Failed(f"{path}: Too many levels of symbolic links")
        if path == "/":
            return path
        above, name = posixpath.split(path)
        full = posixpath.join(self._real(above, depth=depth), name)
        node = self.nodes.get(full)
        if node and node.symlink and last:
            target = posixpath.normpath(posixpath.join(posixpath.dirname(full), node.content.decode()))
            return self._real(target, depth=depth + 1)
        return full

    def _permit(self, path: str) -> None:
        for denied in self.denied:
            if path == denied or path.startswith(denied + "/"):
                raise Denied(f"{path}: Permission denied")

    def _node(self, path: str, *, follow: bool = True) -> Node:
        self._permit(path)
        node = self.nodes.get(self._real(path, last=follow))
        if node is None:
            raise NotFound(f"{path}: No such file or directory")
        return node

    def read(self, path: str, *, cap: int = 1 << 20, follow: bool = True) -> bytes:
        node = self._node(path, follow=follow)
        if not modes.S_ISREG(node.mode):
            raise Failed(f"{path}: not a regular file")
        if len(node.content) > cap:
            raise TooLarge(f"{path}: larger than {cap} bytes")
        return node.content

    def stat(self, path: str, *, follow: bool = True) -> Optional[Stat]:
        try:
            node = self._node(path, follow=follow)
        except NotFound:
            return None
        return Stat(node.mode, node.uid, node.gid, len(node.content), node.mtime_ns, 1, node.inode, node.device)

    def listdir(self, path: str) -> tuple[str, ...]:
        try:
            if not self._node(path).directory:
                return ()
        except NotFound:
            return ()
        real = self._real(path)
        names = (name for name in self.nodes if name != "/")
        return tuple(sorted(posixpath.basename(name) for name in names if posixpath.dirname(name) == real))

    def readlink(self, path: str) -> str:
        node = self._node(path, follow=False)
        if not node.symlink:
            raise Failed(f"{path}: Invalid argument")
        return node.content.decode()

    def free(self, path: str) -> tuple[int, int]:
        self._permit(path)
        return (0, self.space[1]) if self.full else self.space

    def _change(self, kind: str, path: str, node: Optional[Node]) -> None:
        self._permit(path)
        above = self.nodes.get(self._real(posixpath.dirname(path)))
        if (node and node.immutable) or (above and above.immutable and kind not in ("chmod", "chown", "append")):
            raise Denied(f"{path}: Operation not permitted")
        if self.full and kind in ("replace", "append", "mkdir"):
            raise Failed(f"{path}: No space left on device")
        self.changes.append((kind, path))

    def replace(self, path: str, content: bytes, *, mode: int = 0o644, like: bool = True, sync: bool = True) -> None:
        old = self.nodes.get(self._real(path, last=False))
        if old and not modes.S_ISREG(old.mode):
            raise Failed(f"{path}: not a regular file")
        if self._real(posixpath.dirname(path)) not in self.nodes:
            raise NotFound(f"{path}: No such file or directory")
        self._change("replace", path, old)
        real = self._real(path, last=False)
        if old and like:
            self.put(real, content, mode=modes.S_IMODE(old.mode), uid=old.uid, gid=old.gid)
        else:
            self.put(real, content, mode=mode)

    def append(self, path: str, content: bytes, *, mode: int = 0o640) -> None:
        node = self.nodes.get(self._real(path, last=False))
        if node and not modes.S_ISREG(node.mode):
            raise Failed(f"{path}: Too many levels of symbolic links")
        self._change("append", path, node)
        if node:
            node.content += content
        else:
            self.put(self._real(path, last=False), content, mode=mode)

    def remove(self, path: str) -> None:
        real = self._real(path, last=False)
        node = self.nodes.get(real)
        if node is None:
            return
        if node.directory:
            raise Failed(f"{path}: Is a directory")
        self._change("remove", path, node)
        del self.nodes[real]

    def rmdir(self, path: str) -> None:
        real = self._real(path, last=False)
        node = self.nodes.get(real)
        if node is None:
            return
        if not node.directory:
            raise NotFound(f"{path}: Not a directory")
        if self.listdir(path):
            raise Failed(f"{path}: Directory not empty")
        self._change("rmdir", path, node)
        del self.nodes[real]

    def mkdir(self, path: str, mode: int = 0o755, *, sync: bool = True) -> None:
        real = self._real(path)
        if real in self.nodes:
            return
        self._change("mkdir", path, None)
        self.directory(real, mode=mode)

    def chmod(self, path: str, mode: int) -> None:
        node = self._node(path)
        self._change("chmod", path, node)
        node.mode = modes.S_IFMT(node.mode) | mode

    def chown(self, path: str, uid: int, gid: int) -> None:
        node = self._node(path, follow=False)
        self._change("chown", path, node)
        node.uid, node.gid = uid, gid

    @contextlib.contextmanager
    def lock(self, path: str, *, wait: float = 0.0, mode: int = 0o600, for_good: bool = False) -> Iterator[None]:
        """`locked` holds the paths that somebody else has locked."""
        if path in self.locked:
            self.sleep(wait)
            raise Locked(f"{path}: locked by pid 4711 (other)")
        self.locked.add(path)
        try:
            yield
        finally:
            self.locked.discard(path)

    # -- commands

    def program(self, name: str) -> Optional[str]:
        for directory in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"):
            node = self.nodes.get(f"{directory}/{name}")
            if node and node.mode & 0o111 and not node.directory:
                return f"{directory}/{name}"
        return f"/usr/sbin/{name}" if any(key[0] in (name, f"/usr/sbin/{name}") for key in self.scripts) else None

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        deadline: float = 10.0,
        cap: int = 64 << 20,
        environment: Mapping[str, str] = {},
    ) -> Ran:
        call = Call(tuple(argv), stdin, deadline, tuple(sorted(environment.items())))
        self.calls.append(call)
        if self.root:
            raise Failed(f"{argv[0]}: not run for an attached volume")
        script = self._script(call.argv)
        if script is None:
            raise NotFound(f"{argv[0]}: not installed")
        got = script if isinstance(script, Ran) else script(call)
        if len(got.out) + len(got.err) > cap:
            raise TooLarge(f"{argv[0]}: printed more than {cap} bytes")
        return got

    def _script(self, argv: tuple[str, ...]) -> Optional[Script]:
        """The script with the longest prefix; a program may be scripted by name and called by path, or the reverse."""
        names: Iterable[str] = (argv[0], posixpath.basename(argv[0]), f"/usr/sbin/{argv[0]}", f"/usr/bin/{argv[0]}")
        for length in range(len(argv), 0, -1):
            for name in names:
                found = self.scripts.get((name, *argv[1:length]))
                if found is not None:
                    return found
        return None


def hanging(call: Call) -> Ran:
    """A script for a command that does not end within its deadline."""
    raise TimedOut(f"{call.argv[0]}: no end within its deadline; killed")
