"""The only door to the operating system: run, read, replace, a root prefix, a clock.

Everything above takes a `Host`; tests hand in a fake one. A command is an argument list, never a shell line; it gets
no standard input but what is passed, `LC_ALL=C.UTF-8`, a deadline, a cap on its output and a process group of its own,
which is killed at the deadline.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import marshal
import os
import select
import signal
import stat
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from .model import AgentError
from .plain import NamedTuple

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT = 32 << 10  # bytes of an answer that is kept at most: the supervisor holds it between the passes


class HostError(AgentError):
    """The operating system said no."""

    exit_status = 3


class NotFound(HostError):
    """No such file, directory or program."""


class Denied(HostError):
    """Not permitted."""


class TimedOut(HostError):
    """A command did not end in time and was killed with its group."""


class TooLarge(HostError):
    """A file or an output is larger than its cap."""


class Locked(HostError):
    """Somebody else holds a lock, and still did at the end of the wait."""


class Failed(HostError):
    """Any other error of the operating system, or a command that exited non-zero where it must not."""


class Ran(NamedTuple):
    """What a command gave: exit status (negative: the signal), standard output, standard error."""

    code: int
    out: bytes
    err: bytes

    @property
    def text(self) -> str:
        return self.out.decode("utf-8", "replace")

    @property
    def complaint(self) -> str:
        """The last words of the command, for a person: one line, 300 characters at most."""
        lines = [line for line in self.err.decode("utf-8", "replace").splitlines() if line.strip()]
        return (lines[-1].strip() if lines else f"exit status {self.code}")[:300]


class Stat(NamedTuple):
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    links: int
    inode: int
    device: int = 0  # of a device node: its own number

    @property
    def regular(self) -> bool:
        return stat.S_ISREG(self.mode)

    @property
    def directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def symlink(self) -> bool:
        return stat.S_ISLNK(self.mode)


def _translate(error: OSError, what: str) -> HostError:
    text = f"{what}: {os.strerror(error.errno) if error.errno else error}"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return NotFound(text)
    if error.errno in (errno.EACCES, errno.EPERM):
        return Denied(text)
    return Failed(text)


@contextlib.contextmanager
def _errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translate(error, what) from error


class Host:
    """The machine, or with `root` an attached volume: files below it, and no commands that would act on the machine."""

    def __init__(self, root: str = "/", kept: bytes = b"") -> None:
        """`kept`: another Host's, of this boot."""
        self.root = root.rstrip("/")
        # From this program's own pipe.
        self._kept: dict[tuple[str, ...], tuple[str, bytes, bytes]] = marshal.loads(kept) if kept else {}  # noqa: S302

    # -- clock

    def now(self) -> float:
        """Seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since boot, suspend included: it never jumps, and is the same for every process."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)

    def suspended(self) -> float:
        """Seconds since boot that the machine was suspended: CLOCK_MONOTONIC, which systemd tells, leaves them out."""
        return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    # -- files

    def path(self, path: str) -> str:
        """Where it lies on this machine. Raises NotFound where a file says a name that no file can have."""
        if "\0" in path:
            raise NotFound(f"{path!r}: not a name")
        return self.root + path

    def read(self, path: str, *, cap: int = 1 << 20, follow: bool = True) -> bytes:
        """The bytes of a regular file. Raises NotFound, Denied, TooLarge (over `cap` bytes), Failed."""
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (0 if follow else os.O_NOFOLLOW)
        with _errors(path):
            descriptor = os.open(self.path(path), flags)
            with open(descriptor, "rb", buffering=0) as file:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise Failed(f"{path}: not a regular file")
                parts: list[bytes] = []
                size = 0
                while True:
                    part = file.read(min(1 << 20, cap + 1 - size))
                    if not part:
                        return b"".join(parts)
                    parts.append(part)
                    size += len(part)
                    if size > cap:
                        raise TooLarge(f"{path}: larger than {cap} bytes")

    def stat(self, path: str, *, follow: bool = True) -> Optional[Stat]:
        """None where there is nothing. Raises Denied, Failed."""
        try:
            with _errors(path):
                got = os.stat(self.path(path), follow_symlinks=follow)
        except NotFound:
            return None
        times_and_links = (got.st_mtime_ns, got.st_nlink, got.st_ino, got.st_rdev)
        return Stat(got.st_mode, got.st_uid, got.st_gid, got.st_size, *times_and_links)

    def exists(self, path: str) -> bool:
        return self.stat(path) is not None

    def listdir(self, path: str) -> tuple[str, ...]:
        """Sorted names; empty where there is no such directory. Raises Denied, Failed."""
        try:
            with _errors(path):
                return tuple(sorted(os.listdir(self.path(path))))
        except NotFound:
            return ()

    def readlink(self, path: str) -> str:
        with _errors(path):
            return os.readlink(self.path(path))

    def free(self, path: str) -> tuple[int, int]:
        """Bytes and inodes free at `path`; inodes -1 where the file system does not count them."""
        with _errors(path):
            got = os.statvfs(self.path(path))
        return got.f_bavail * got.f_frsize, got.f_favail if got.f_files else -1

    def replace(self, path: str, content: bytes, *, mode: int = 0o644, like: bool = True, sync: bool = True) -> None:
        """Puts `content` at `path` atomically: a new file beside it, synced, renamed over it, the directory synced.

        With `like` an existing file's owner, mode and extended attributes (ACL, SELinux label) are kept; a symlink at
        `path` is refused. Raises HostError, and then `path` is as it was.
        """
        target = self.path(path)
        temporary = f"{target}.ec2ssh-agent.{os.getpid()}"
        with _errors(path):
            old = None
            with contextlib.suppress(FileNotFoundError):
                old = os.lstat(target)
            if old and not stat.S_ISREG(old.st_mode):
                raise Failed(f"{path}: not a regular file")
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                with open(descriptor, "wb") as file:
                    file.write(content)
                    if old and like:
                        if (old.st_uid, old.st_gid) != (os.geteuid(), os.getegid()):
                            os.fchown(descriptor, old.st_uid, old.st_gid)
                        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
                        _copy_attributes(target, descriptor)
                    else:
                        os.fchmod(descriptor, mode)
                    file.flush()
                    if sync:
                        os.fsync(descriptor)
                os.rename(temporary, target)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise
            if sync:
                self._sync_directory(os.path.dirname(target))

    def append(self, path: str, content: bytes, *, mode: int = 0o640) -> None:
        with _errors(path):
            flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(self.path(path), flags, mode)
            with open(descriptor, "ab") as file:
                file.write(content)

    def remove(self, path: str) -> None:
        """Removes a file; nothing where there is none."""
        with _errors(path), contextlib.suppress(FileNotFoundError):
            os.unlink(self.path(path))

    def rmdir(self, path: str) -> None:
        with _errors(path), contextlib.suppress(FileNotFoundError):
            os.rmdir(self.path(path))

    def mkdir(self, path: str, mode: int = 0o755, *, sync: bool = True) -> None:
        """Makes a directory (its parents too, 0755); an existing one is left as it is."""
        target = self.path(path)
        with _errors(path):
            os.makedirs(os.path.dirname(target), 0o755, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                os.mkdir(target, mode)
                os.chmod(target, mode)
                if sync:
                    self._sync_directory(os.path.dirname(target))

    def chmod(self, path: str, mode: int) -> None:
        with _errors(path):
            os.chmod(self.path(path), mode)

    def chown(self, path: str, uid: int, gid: int) -> None:
        with _errors(path):
            os.chown(self.path(path), uid, gid, follow_symlinks=False)

    @contextlib.contextmanager
    def lock(self, path: str, *, wait: float = 0.0, mode: int = 0o600, for_good: bool = False) -> Iterator[None]:
        """Holds flock(2) on `path`, made where missing; it stays. Children that `run` starts do not inherit it. With
        `for_good` the program that this process becomes by execve(2) holds it on, to its end.

        One that is there is held on a file system that has become read-only, too.

        Raises Locked, naming the holder, when it is not free within `wait` seconds; Denied, NotFound (no directory).
        """
        with _errors(path):
            flags = os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                descriptor = os.open(self.path(path), os.O_RDWR | os.O_CREAT | flags, mode)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
                descriptor = os.open(self.path(path), os.O_RDONLY | flags)
        try:
            end = self.monotonic() + wait
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if self.monotonic() >= end:
                        raise Locked(f"{path}: locked by {_holder(descriptor)}") from error
                self.sleep(0.02)
            os.set_inheritable(descriptor, for_good)
            yield
        finally:
            os.close(descriptor)

    @staticmethod
    def _sync_directory(path: str) -> None:
        descriptor = os.open(path or "/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    # -- commands

    def program(self, name: str) -> Optional[str]:
        """The absolute path of an executable in PATH, or None."""
        for directory in PATH.split(":"):
            path = f"{directory}/{name}"
            if os.access(self.path(path), os.X_OK):
                return path
        return None

    def run(
        self,
        argv: Sequence[str],
        *,
        stdin: bytes = b"",
        deadline: float = 10.0,
        cap: int = 64 << 20,
        environment: Mapping[str, str] = {},
    ) -> Ran:
        """Runs a program to its end. Raises NotFound, TimedOut (`deadline` in seconds), TooLarge, Failed."""
        if self.root:
            raise Failed(f"{argv[0]}: not run for an attached volume")
        variables = {"PATH": PATH, "LC_ALL": "C.UTF-8", "HOME": "/root", **environment}
        program = argv[0] if argv[0].startswith("/") else self.program(argv[0])
        if program is None:
            raise NotFound(f"{argv[0]}: not installed")
        with _errors(argv[0]):
            process = subprocess.Popen(  # noqa: S603 - a list of words, never a shell's line
                [program, *argv[1:]],
                stdin=subprocess.PIPE if stdin else subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=variables,
                cwd="/",
                start_new_session=True,
            )
        try:
            out, err = _converse(process, stdin, time.monotonic() + deadline, cap, argv[0])
            return Ran(process.wait(), out, err)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def ask(
        self, argv: Sequence[str], hangs_on: tuple[object, ...], *, deadline: float = 10.0, cap: int = 1 << 20
    ) -> Ran:
        """As `run`, for a program that changes nothing; or what it said the last time, where that was no error and
        all that it hangs on is the same since: `hangs_on`, taken before this call."""
        name, key = tuple(argv), repr(hangs_on)
        before, out, err = self._kept.get(name, ("", b"", b""))
        if before == key:
            return Ran(0, out, err)
        ran = self.run(argv, deadline=deadline, cap=cap)
        self.forget(argv)
        if not ran.code and len(ran.out) + len(ran.err) <= _KEPT:
            self._kept[name] = key, ran.out, ran.err
        return ran

    def forget(self, argv: Sequence[str]) -> None:
        """It hangs on more than was told: the next `ask` runs it."""
        self._kept.pop(tuple(argv), None)

    @property
    def kept(self) -> bytes:
        """The answers, for the Host of the next pass."""
        return marshal.dumps(self._kept)


def _converse(process: subprocess.Popen[bytes], stdin: bytes, end: float, cap: int, name: str) -> tuple[bytes, bytes]:
    """Feeds and reads a process until both outputs are closed and it ended."""
    assert process.stdout and process.stderr
    collected: dict[int, list[bytes]] = {process.stdout.fileno(): [], process.stderr.fileno(): []}
    poll = select.poll()
    for descriptor in collected:
        poll.register(descriptor, select.POLLIN)
    sink = process.stdin.fileno() if process.stdin else -1
    if sink >= 0:
        os.set_blocking(sink, False)
        poll.register(sink, select.POLLOUT)
    view, size, open_outputs = memoryview(stdin), 0, len(collected)
    while open_outputs:
        left = end - time.monotonic()
        if left <= 0:
            raise TimedOut(f"{name}: no end within its deadline; killed")
        for descriptor, _ in poll.poll(left * 1000):
            if descriptor == sink:
                try:
                    view = view[os.write(sink, view[:65536]) :]
                except BrokenPipeError:
                    view = view[len(view) :]  # it ended without reading all; its exit status says why
                if not view:
                    poll.unregister(sink)
                    assert process.stdin
                    process.stdin.close()
                    sink = -1
                continue
            part = os.read(descriptor, 1 << 18)
            if not part:
                poll.unregister(descriptor)
                open_outputs -= 1
            collected[descriptor].append(part)
            size += len(part)
            if size > cap:
                raise TooLarge(f"{name}: printed more than {cap} bytes")
    _await(process, end, name)
    out, err = (b"".join(parts) for parts in collected.values())
    return out, err


def _await(process: subprocess.Popen[bytes], end: float, name: str) -> None:
    """Its end, as soon as it comes: subprocess would look for it again and again, a millisecond too late each time."""
    with contextlib.suppress(AttributeError, OSError):  # a kernel before 5.3, or a Python made for one
        descriptor = os.pidfd_open(process.pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(max(0.0, end - time.monotonic()) * 1000)
        finally:
            os.close(descriptor)
    try:
        process.wait(max(0.0, end - time.monotonic()))
    except subprocess.TimeoutExpired as error:
        raise TimedOut(f"{name}: no end within its deadline; killed") from error


def _holder(descriptor: int) -> str:
    """Who holds the flock on an open file, by proc_locks(5): `1: FLOCK ADVISORY WRITE 708 00:13:1234 0 EOF`."""
    inode = str(os.fstat(descriptor).st_ino)
    with contextlib.suppress(OSError), open("/proc/locks", encoding="ascii", errors="replace") as locks:
        for line in locks:
            fields = line.split()
            if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].split(":")[2] == inode:
                with open(f"/proc/{int(fields[4])}/comm", encoding="utf-8", errors="replace") as name:
                    return f"pid {fields[4]} ({name.read().strip()})"
    return "another process"


def _copy_attributes(source: str, descriptor: int) -> None:
    """Extended attributes: ACLs and security labels. File systems without them are no error."""
    try:
        names = os.listxattr(source, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.ENOTSUP, errno.ENOSYS):
            return
        raise
    for name in names:
        os.setxattr(descriptor, name, os.getxattr(source, name, follow_symlinks=False))
