"""sd_notify(3): READY, STATUS, WATCHDOG, RELOADING, STOPPING. Without systemd it does nothing."""

from __future__ import annotations

import os
import time
from _socket import AF_UNIX, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_DGRAM, socket

from ..plain import TYPE_CHECKING, say

if TYPE_CHECKING:
    from collections.abc import MutableMapping


_AWAITED = ("READY", "RELOADING")  # systemd waits for these


class Notifier:
    """Takes its variables out of `environment`: what the daemon starts is not to speak for it."""

    def __init__(self, environment: MutableMapping[str, str]) -> None:
        address = environment.pop("NOTIFY_SOCKET", "")
        usec = environment.pop("WATCHDOG_USEC", "")
        pid = environment.pop("WATCHDOG_PID", "")
        mine = not pid or pid == str(os.getpid())
        # Seconds between two signs of life: half of what systemd waits. Infinite: it does not wait.
        self.every = int(usec) / 2e6 if usec.isdigit() and int(usec) and mine else float("inf")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._socket = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC) if address else None
        self._status = ""
        self._unsaid: tuple[str, ...] = ()  # of what it waits for

    def ready(self, status: str) -> None:
        self._status = status
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS={_line(status)}")

    def reloading(self) -> None:
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._send(f"RELOADING=1\nMAINPID={os.getpid()}\nMONOTONIC_USEC={microseconds}")

    def status(self, text: str) -> None:
        if text != self._status:
            self._status = text
            self._send(f"STATUS={_line(text)}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def _send(self, text: str) -> None:
        if not self._socket:
            return
        texts = (*self._unsaid, text)
        try:
            for waiting in texts:
                self._socket.sendto(waiting.encode(errors="replace"), MSG_DONTWAIT, self._address)
            self._unsaid = ()
        except OSError as error:
            # systemd is restarting itself, or behind with reading; it gets the next one, and before it the last two
            # that it waits for.
            self._unsaid = tuple(waiting for waiting in texts if waiting.startswith(_AWAITED))[-2:]
            say(f"systemd was not told {text.split(chr(10))[0]}: {error.strerror}")


def _line(text: str) -> str:
    return " ".join(text.split())
