"""The worker's side of its pipe to the supervisor: ("busy", seconds), ("crash", text), ("watch", a WatchList's fields).

Each goes as its length and what marshal makes of it: both ends are one interpreter, forked, and json would cost the
supervisor a megabyte. Where no supervisor started the process (the commands `check` and `repair`), `busy` does nothing.
"""

from __future__ import annotations

import gc
import marshal
import os
import struct
import sys

from .. import netlink
from ..netlink import NETFILTER, open_socket
from ..plain import TYPE_CHECKING, signal

if TYPE_CHECKING:
    from types import FrameType
    from typing import Any, Callable, Optional

    from .watch import Wake, WatchList

    Worker = Callable[[str, str, Wake], WatchList]

LENGTH = struct.Struct("=I")

_pipe = -1
_stopping = False
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


def _send(message: tuple[str, Any]) -> None:
    data = marshal.dumps(message)
    data = LENGTH.pack(len(data)) + data
    while data and _pipe >= 0:
        data = data[os.write(_pipe, data) :]


def _stop(number: int, frame: Optional[FrameType]) -> None:
    global _stopping
    _stopping = True


def be_expendable(path: str = "/proc/self/oom_score_adj") -> None:
    """What the unit's OOMScoreAdjust protects is the supervisor: where memory runs short a pass is a program like any
    other, and so are its tools. Source: proc_pid_oom_score_adj(5); raising it needs no capability."""
    with open(path, "rb", buffering=0) as file:
        protected = int(file.read()) < 0
    if protected:
        with open(path, "wb", buffering=0) as file:
            file.write(b"0")


def be_worker(pipe: int, worker: Worker, config_path: str, root: str, wake: Wake) -> None:
    """Makes the pass in the forked child and ends the process; whatever is raised is a crash, and reported as such."""
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
        _send(("watch", tuple(worker(config_path, root, wake)._replace(own=tuple(_own)))))
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
