"""Reads sshd's banner now and then, inside the supervisor: a forked pass a minute would cost fifty times as much.

It sends its own identification before it closes, which leaves one line at level info in sshd's log; closing at once
would leave an error.
"""

from __future__ import annotations

import errno
from _socket import AF_INET, AF_INET6, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM, socket

from ..plain import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Optional

WAIT = 12.0  # seconds: libwrap's refusal sleeps five, a name look-up that times out about ten
_IDENTIFICATION = b"SSH-2.0-ec2ssh-agent\r\n"
_PENDING = (errno.EINPROGRESS, errno.EAGAIN)


class Probe:
    """One connection at a time. The answer is "banner", "refused", "closed" or "silent"."""

    def __init__(self) -> None:
        self._socket: Optional[socket] = None
        self.answer: Optional[str] = None
        self.until = float("inf")

    def begin(self, address: tuple[str, int], now: float) -> None:
        """Connects. Raises OSError where there is no such address."""
        self.close()
        self.answer = None
        family = AF_INET6 if ":" in address[0] else AF_INET
        self._socket = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC)
        self.until = now + WAIT
        code = self._socket.connect_ex(address)
        if code and code not in _PENDING:
            self._end("refused")

    def fileno(self) -> int:
        return self._socket.fileno() if self._socket else -1

    def read(self) -> Optional[str]:
        """After an event or after `until`: the answer, once there is one."""
        if self._socket:
            try:
                data = self._socket.recv(256)
                if data:
                    self._socket.send(_IDENTIFICATION)
                self._end("banner" if data else "closed")
            except BlockingIOError:
                return None
            except OSError as error:
                self._end("refused" if error.errno == errno.ECONNREFUSED else "closed")
        return self.answer

    def give_up(self) -> None:
        self._end("silent")

    def _end(self, answer: str) -> None:
        self.answer = answer
        self.close()

    def close(self) -> None:
        if self._socket:
            self._socket.close()
        self._socket = None
        self.until = float("inf")
