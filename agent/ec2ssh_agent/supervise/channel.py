"""The worker's side of what joins it to the supervisor. It tells ("busy", seconds), ("crash", text), ("watch", a
WatchList's fields) and, where another pass is to follow, ("rest", CPU seconds of this one); then it hears a Wake.

Each goes as its length and what marshal makes of it: both ends are one interpreter, forked, and json would cost the
supervisor a megabyte. Where no supervisor started the process (the commands `check` and `repair`), `busy` does nothing.
"""

from __future__ import annotations

import gc
import marshal
import os
import select
import struct
import sys

from .. import netlink
from ..netlink import NETFILTER, open_socket
from ..plain import TYPE_CHECKING, signal
from .watch import Wake

if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, Optional

    from .watch import WatchList

    Worker = Callable[[str, str, Wake], WatchList]

LENGTH = struct.Struct("=I")
_DEAR = 0.25  # seconds of CPU of a pass: beside it a new worker costs little, and the memory of this one much

_pipe = -1
_stopping = _resting = False
_own: list[tuple[int, int]] = []


class busy:
    """`with busy(seconds):` around an owner's tool, which must not be killed midway and takes that long at most.

    The generations of nf_tables that pass meanwhile are this pass's own doing (WatchList.own).
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._before = 0

    def __enter__(self) -> None:
        self._before = generation()
        _send(("busy", self._seconds))

    def __exit__(self, *raised: object) -> None:
        _send(("busy", 0.0))
        _own.append((self._before, generation()))


def generation() -> int:
    """Of nf_tables, now; 0 where there is none to be asked for."""
    try:
        with open_socket(NETFILTER) as via:
            return netlink.generation(via)
    except OSError:
        return 0


def stopping() -> bool:
    """SIGTERM came: finish or roll back the step at hand, begin no other."""
    return _stopping


def framed(message: tuple[Any, ...]) -> bytes:
    data = marshal.dumps(message)
    return LENGTH.pack(len(data)) + data


def _send(message: tuple[str, Any]) -> None:
    data = framed(message)
    while data and _pipe >= 0:
        data = data[os.write(_pipe, data) :]


def _readable(seconds: Optional[float] = None) -> bool:
    return bool(select.select((_pipe,), (), (), seconds)[0])


def _stop(number: int, frame: Optional[FrameType]) -> None:
    global _stopping
    _stopping = True
    if _resting and not _readable(0.0):
        os._exit(0)  # no pass is being made, nor asked for


def be_expendable(path: str = "/proc/self/oom_score_adj") -> None:
    """What the unit's OOMScoreAdjust protects is the supervisor: where memory runs short a pass is a program like any
    other, and so are its tools. Source: proc_pid_oom_score_adj(5); raising it needs no capability."""
    with open(path, "rb", buffering=0) as file:
        protected = int(file.read()) < 0
    if protected:
        with open(path, "wb", buffering=0) as file:
            file.write(b"0")


def _next(before: float) -> tuple[Optional[Wake], float]:
    """Waits for another pass's wake; none once the supervisor wants none, nor where a pass is dear. `before`, and what
    comes with it: seconds of CPU that this process has used."""
    global _resting
    import resource

    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        used += usage.ru_utime + usage.ru_stime
    _resting = True
    if _stopping or used - before > _DEAR:
        return None, used
    _send(("rest", used - before))
    _readable()
    _resting = False
    data = b""
    while len(data) < LENGTH.size or len(data) < LENGTH.size + LENGTH.unpack_from(data)[0]:
        part = os.read(_pipe, 1 << 16)
        if not part:
            return None, used
        data += part
    return Wake(*marshal.loads(data[LENGTH.size :])), used  # noqa: S302 - from this program's own parent


def be_worker(pipe: int, worker: Worker, config_path: str, root: str, wake: Wake) -> None:
    """Makes the pass in the forked child, and those that it is to stay for, and ends the process; whatever is raised
    is a crash, and reported as such."""
    global _pipe
    status = 1
    try:
        _pipe = pipe
        os.setsid()
        be_expendable()
        signal.set_wakeup_fd(-1)  # the supervisor's: here that number is closed, and may come to be another file
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, _stop)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # only 0, 1, 2 and the pipe stay open
        os.closerange(3, pipe)
        os.closerange(pipe + 1, 1024)
        gc.disable()  # a pass is over before its cycles matter; collecting doubles the time to parse a large ruleset
        more: Optional[Wake] = wake
        used = 0.0
        while more:
            _own.clear()
            _send(("watch", tuple(worker(config_path, root, more)._replace(own=tuple(_own)))))
            more, used = _next(used) if more.stay else (None, used)
        status = 0
    finally:
        try:
            kind, error, trace = sys.exc_info()
            if status and kind is not None and error is not None:
                _send(("crash", f"{kind.__name__}: {error}"[:300]))
                sys.excepthook(kind, error, trace)
            for stream in (sys.stdout, sys.stderr):
                if stream:
                    stream.flush()
        finally:
            os._exit(status)  # whatever is raised: a child that went on would be a second supervisor
