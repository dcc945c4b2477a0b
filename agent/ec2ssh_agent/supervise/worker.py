"""The supervisor's side of a pass: the forked worker, its channel, its deadline, its end.

Where passes follow each other, under a flood of changes, the worker rests between them: most of what a pass costs is
its imports.

The worker leads a session and a process group; the programs that it runs lead groups of their own (host.py). So
"killed with its group" means the tree below it. A worker that is killed while an owner's tool is at work (`busy`) dies
alone: the tool ends its work, and the next pass looks at what it left.
"""

from __future__ import annotations

import marshal
import os
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socketpair

from ..plain import TYPE_CHECKING, signal
from .channel import LENGTH, be_worker, framed
from .watch import WatchList

if TYPE_CHECKING:
    from typing import Optional

    from .channel import Worker
    from .watch import Wake

GRACE = 2.0  # seconds from SIGTERM to SIGKILL
_LARGEST = 4 << 20  # bytes that a pass may write
_REST = 6.0  # seconds that a worker waits for another pass
_MOST = 30  # passes of one worker: what it collects is gone with it
_SIGNALS = (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)


class Pass:
    """A pass that is being made. `watch` is what it handed back, `trouble` why it did not; where it `rests`, the worker
    waits for the next one, not beyond `until`, and `cost` (seconds of CPU) is known before it ends."""

    def __init__(self, worker: Worker, config_path: str, root: str, *, wake: Wake, now: float, deadline: float) -> None:
        """Forks. Raises OSError."""
        self._made = 0
        self._charged = 0.0  # seconds of CPU, of this worker's earlier passes
        self._begin(wake, now=now, deadline=deadline)
        ours, theirs = socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        self._pipe, end = ours.detach(), theirs.detach()
        os.set_blocking(self._pipe, False)
        # The child must not take a signal for the supervisor's before it has its own handlers.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            self.pid = os.fork()
            if not self.pid:
                be_worker(end, worker, config_path, root, wake)
        except OSError:
            os.close(self._pipe)
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            os.close(end)

    def _begin(self, wake: Wake, *, now: float, deadline: float) -> None:
        self.wake = wake
        self.watch: Optional[WatchList] = None
        self.trouble = ""
        self.deadline = now + deadline
        self.rests, self.until = False, float("inf")
        self.cost = 0.0
        self._made += 1
        self._tool = False  # an owner's tool is at work
        self._left = 0.0  # of the deadline, meanwhile
        self._asked = False  # SIGTERM was sent
        self._kill_at = 0.0
        self._kills = 0  # SIGKILL was sent
        self._buffer = b""
        self._size = 0

    def again(self, wake: Wake, *, now: float, deadline: float) -> bool:
        """The resting worker makes another pass; false where it cannot any more."""
        data = framed(tuple(wake))
        try:
            taken = self._made < _MOST and os.write(self._pipe, data) == len(data)
        except (BlockingIOError, BrokenPipeError):
            taken = False
        if taken:
            self._begin(wake, now=now, deadline=deadline)
        return taken

    def dismiss(self) -> None:
        """Ends a worker that rests, and so is in the middle of nothing. It is still to be reaped."""
        os.kill(self.pid, signal.SIGKILL)
        self.close()

    def close(self) -> None:
        os.close(self._pipe)

    def fileno(self) -> int:
        return self._pipe

    def read(self, now: float) -> bool:
        """Takes in what the worker wrote; false once it will write no more."""
        while True:
            try:
                data = os.read(self._pipe, 1 << 16)
            except BlockingIOError:
                return True
            except ConnectionResetError:
                data = b""  # it ended without having read what it was sent
            if not data:
                return False
            self._size += len(data)
            if self._size > _LARGEST:
                self.trouble = "the pass wrote too much"
                continue
            self._buffer += data
            while len(self._buffer) >= LENGTH.size:
                end = LENGTH.size + LENGTH.unpack_from(self._buffer)[0]
                if len(self._buffer) < end:
                    break
                frame, self._buffer = self._buffer[LENGTH.size : end], self._buffer[end:]
                self._take(frame, now)

    def _take(self, frame: bytes, now: float) -> None:
        try:
            kind, value = marshal.loads(frame)  # noqa: S302 - from this program's own child
            if kind == "busy":
                self._busy(float(value), now)
            elif kind == "crash":
                self.trouble = str(value)
            elif kind == "watch":
                self.watch = WatchList(*value)
            elif kind == "rest" and not self._asked:
                self.rests, self.until, self.cost = True, now + _REST, float(value)
                self._charged += self.cost
                self.watch = None if self.trouble else self.watch
        except (EOFError, ValueError, TypeError) as error:
            self.trouble = f"the pass wrote nonsense: {error}"

    def _busy(self, seconds: float, now: float) -> None:
        """The tool's time is not the pass's: the deadline moves by what it took."""
        if seconds and not self._tool:
            self._tool = True
            self._left = max(0.0, self.deadline - now)
            self.deadline = now + seconds + GRACE
            self._kill_at = max(self._kill_at, self.deadline)
        elif self._tool and not seconds:
            self._tool = False
            self.deadline = now + self._left

    def stop(self, now: float, *, within: float) -> None:
        """Asks the worker to finish or roll back in so many seconds; an owner's tool keeps its time."""
        if not self._asked:
            os.kill(self.pid, signal.SIGTERM)
            self._asked = True
            self._kill_at = max(now + within, self.deadline) if self._tool else now + within

    @property
    def next(self) -> float:
        """When `enforce` has something to do."""
        return self._kill_at if self._asked else self.deadline

    def enforce(self, now: float) -> None:
        """Past its deadline: SIGTERM, then SIGKILL to all that it started."""
        if now < self.next:
            return
        if self._asked:
            self._kill()
            self._kills += 1
            self._kill_at = now + GRACE
        else:
            self.trouble = "the pass took too long"
            self.stop(now, within=GRACE)

    @property
    def stuck(self) -> bool:
        """Past its deadline, and not even SIGKILL ended it within GRACE seconds."""
        return self._kills > 1

    def _kill(self) -> None:
        victims = [self.pid]
        if not self._tool:
            os.kill(self.pid, signal.SIGSTOP)  # that it starts no more
            victims += _descendants(self.pid)
        for pid in reversed(victims):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it ended meanwhile

    def ended(self, status: int, used: float) -> None:
        """It was reaped with that wait status, having used that much CPU: takes in what is left, and says why there is
        no watch list."""
        self.read(0.0)
        self.cost = max(0.0, used - self._charged)
        self.close()
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            self.trouble = self.trouble or f"the pass was killed by signal {-code}"
        elif code or self.watch is None:
            self.trouble = self.trouble or f"the pass ended with status {code} and handed back nothing"
        if self.trouble:
            self.watch = None


def _descendants(pid: int) -> list[int]:
    """The processes below `pid`; what made itself a daemon is not among them. Source: proc(5), children."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", "rb", buffering=0) as file:
                found += [int(child) for child in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return found  # it ended meanwhile
    for child in tuple(found):
        found += _descendants(child)
    return found
