"""The worker's side of its pipe to the supervisor, which carries JSON lines: `{"busy": seconds}`, `{"crash": text}`,
`{"watch": {…}}`.

Where no supervisor started the process (the commands `check` and `repair`), `busy` does nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Callable, Optional

from .watch import Wake, WatchList

Worker = Callable[[str, str, Wake], WatchList]

_pipe = -1
_stopping = False


@contextlib.contextmanager
def busy(seconds: float) -> Iterator[None]:
    """While an owner's tool is at work, which must not be killed midway: at most so long."""
    _send(json.dumps({"busy": seconds}))
    try:
        yield
    finally:
        _send(json.dumps({"busy": 0}))


def stopping() -> bool:
    """SIGTERM came: finish or roll back the step at hand, begin no other."""
    return _stopping


def _send(line: str) -> None:
    data = line.encode() + b"\n"
    while data and _pipe >= 0:
        data = data[os.write(_pipe, data) :]


def _stop(number: int, frame: Optional[FrameType]) -> None:
    global _stopping
    _stopping = True


def be_worker(pipe: int, worker: Worker, config_path: str, root: str, wake: Wake) -> None:
    """Makes the pass in the forked child and ends the process; whatever is raised is a crash, and reported as such."""
    global _pipe
    status = 1
    try:
        _pipe = pipe
        os.setsid()
        for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, _stop)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__  # only 0, 1, 2 and the pipe stay open
        os.closerange(3, pipe)
        os.closerange(pipe + 1, 1024)
        _send(f'{{"watch": {worker(config_path, root, wake).to_json()}}}')
        status = 0
    finally:
        kind, error, trace = sys.exc_info()
        if status and kind is not None and error is not None:
            _send(json.dumps({"crash": f"{kind.__name__}: {error}"[:300]}))
            sys.excepthook(kind, error, trace)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
