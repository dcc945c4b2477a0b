"""D-Bus calls with a deadline, pipelined: many questions, one wait.

jeepney makes and reads the messages. Its own connection waits without end for the bus's first answer, so the socket is
handled here. Source: the D-Bus specification (message protocol, SASL EXTERNAL).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Sequence
from typing import Any, Optional

from jeepney.low_level import HeaderFields, Message, MessageType, calc_msg_size
from jeepney.wrappers import DBusAddress, new_method_call

from ..host import Denied, Failed, Host, HostError, NotFound, TimedOut, TooLarge
from ..plain import NamedTuple

SYSTEM_BUS = "/run/dbus/system_bus_socket"
#: systemd's own socket: root may ask it without a bus daemon.
SYSTEMD = "/run/systemd/private"
_CAP = 16 << 20
_SIGNAL = 4  # the message type, second byte of a header


class Call(NamedTuple):
    service: str
    path: str
    interface: str
    method: str
    signature: Optional[str] = None
    body: tuple[Any, ...] = ()


class Refused(HostError):
    """The other side answered with an error; `name` is D-Bus's, `text` what it says."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}"[:300])
        self.name, self.text = name, text


def get(service: str, path: str, interface: str, name: str) -> Call:
    """The call that reads one property; its answer is (signature, value)."""
    return Call(service, path, "org.freedesktop.DBus.Properties", "Get", "ss", (interface, name))


class Bus:
    """One connection; every use of it ends by the deadline (seconds) that it was opened with."""

    def __init__(self, host: Host, path: str = SYSTEM_BUS, *, deadline: float = 2.0) -> None:
        """Raises NotFound (no such socket), Denied, TimedOut, Failed."""
        self._end = time.monotonic() + deadline
        self._name = path
        self._serial = 0
        self._buffer = b""
        if host.stat(path) is None:
            raise NotFound(f"{path}: no such socket")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            self._guard(lambda: self._socket.connect(host.path(path)))
            self._authenticate()
            if path == SYSTEM_BUS:
                self.ask([Call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello")])
        except HostError:
            self._socket.close()
            raise

    def __enter__(self) -> Bus:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def _guard(self, act: Any) -> Any:
        """Does something with the socket; an OSError becomes ours."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimedOut(f"{self._name}: no answer within its deadline")
        self._socket.settimeout(left)
        try:
            return act()
        except socket.timeout as error:
            raise TimedOut(f"{self._name}: no answer within its deadline") from error
        except PermissionError as error:
            raise Denied(f"{self._name}: {error.strerror}") from error
        except OSError as error:
            raise Failed(f"{self._name}: {error.strerror}") from error

    def _authenticate(self) -> None:
        # BEGIN before the answer, as sd-bus does: a busy systemd would read it and the first call at once, and leave
        # the call in its buffer until more comes (systemd's bus-socket.c, bus_socket_auth_verify_server).
        identity = str(os.geteuid()).encode().hex().encode()
        self._guard(lambda: self._socket.sendall(b"\0AUTH EXTERNAL " + identity + b"\r\nBEGIN\r\n"))
        while b"\r\n" not in self._buffer:
            self._more()
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        if not line.startswith(b"OK"):
            raise Denied(f"{self._name}: not let in")

    def _more(self) -> None:
        part: bytes = self._guard(lambda: self._socket.recv(1 << 16))
        if not part:
            raise Failed(f"{self._name}: closed by the other side")
        self._buffer += part
        if len(self._buffer) > _CAP:
            raise TooLarge(f"{self._name}: an answer of more than {_CAP} bytes")

    def ask(self, calls: Sequence[Call]) -> list[Any]:
        """The answers in the calls' order: the body, a tuple, or a Refused (not raised).

        Raises TimedOut, Failed: then none of the answers is known.
        """
        first, out = self._serial + 1, []
        for call in calls:
            self._serial += 1
            address = DBusAddress(call.path, call.service, call.interface)
            message = new_method_call(address, call.method, call.signature, call.body)
            out.append(message.serialise(serial=self._serial))
        self._guard(lambda: self._socket.sendall(b"".join(out)))
        answers: dict[int, Any] = {}
        while len(answers) < len(calls):
            serial, answer = self._receive()
            if first <= serial <= self._serial:
                answers[serial] = answer
        return [answers[first + number] for number in range(len(calls))]

    def one(self, call: Call) -> Any:
        """The body of one call's answer. Raises Refused, too."""
        answer = self.ask([call])[0]
        if isinstance(answer, Refused):
            raise answer
        return answer

    def _size(self) -> int:
        if self._buffer[:1] not in (b"l", b"B"):
            raise Failed(f"{self._name}: an answer that is not D-Bus")
        return int(calc_msg_size(self._buffer))

    def _receive(self) -> tuple[int, Any]:
        """The next message: the serial that it answers (0: none, a signal) and its body or Refused."""
        while len(self._buffer) < 16 or len(self._buffer) < self._size():
            self._more()
        size = self._size()
        raw, self._buffer = self._buffer[:size], self._buffer[size:]
        if raw[1] == _SIGNAL:
            return 0, None  # systemd tells everybody of every unit it looks at: not worth parsing
        try:
            message = Message.from_buffer(raw)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            raise Failed(f"{self._name}: an answer that is not D-Bus") from error
        fields = message.header.fields
        if message.header.message_type is MessageType.error:
            name = str(fields.get(HeaderFields.error_name, ""))
            said = str(message.body[0]) if message.body else ""
            return int(fields.get(HeaderFields.reply_serial, 0)), Refused(name, said)
        return int(fields.get(HeaderFields.reply_serial, 0)), message.body
