"""What sshd answers a local connection: its banner, silence, or an end without one.

After the banner the probe names itself and closes: one info line in sshd's log, where closing at once logs an error.
Source: RFC 4253 section 4.2.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from ..facts import Banner, Listener
from ..model import Fact, Seen, Unseen
from ..netlink import SOCK_DIAG, Netlink, accepted, listening, open_socket, waiting
from ..plain import NamedTuple
from ..reach.ruleset import Family
from . import PROBE

_T = TypeVar("_T")
_GREETING = b"SSH-2.0-ec2ssh-agent\r\n"
_MOST = 255  # RFC 4253: the longest identification line
#: On this machine itself a connection is made at once, or it is dropped: waiting for it would only delay the repair.
_CONNECT = 0.3
_STILL = 0.5  # seconds at least, between two looks at who waits


class Target(NamedTuple):
    family: Family
    address: str
    port: int


def target(listeners: Sequence[Listener]) -> Target:
    """Where to knock: loopback of a listener on any address, IPv4 first; else a listener's own address."""
    first = listeners[0].port
    mine = [item for item in listeners if item.port == first]
    for item in mine:
        if item.address == 0 and (item.family is Family.IPV4 or not item.v6only):
            return Target(Family.IPV4, "127.0.0.1", first)
    for item in mine:
        if item.family is Family.IPV4:
            return Target(Family.IPV4, socket.inet_ntop(socket.AF_INET, item.address.to_bytes(4, "big")), first)
    address = mine[0].address or 1
    return Target(Family.IPV6, socket.inet_ntop(socket.AF_INET6, address.to_bytes(16, "big")), first)


def probe(at: Target, *, seconds: float = PROBE) -> Fact[Banner]:
    """Connects and reads a line. Unseen where the connection itself fails other than by being refused.

    A connection that does not come about tells of the loopback's firewall, or of an accept queue that is full: nobody
    takes from it where most of those that wait still do at the end.
    """
    where = f"{at.address} port {at.port}"
    family = socket.AF_INET if at.family is Family.IPV4 else socket.AF_INET6
    started = time.monotonic()
    with socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.settimeout(min(seconds, _CONNECT))
        try:
            sock.connect((at.address, at.port))
        except ConnectionRefusedError:
            return Seen(Banner("", time.monotonic() - started, refused=True), where)
        except socket.timeout:
            if _stands_still(at.port, started + seconds):
                return Seen(Banner("", time.monotonic() - started), where)
            return Unseen(f"{where}: no connection within {min(seconds, _CONNECT):g} s")
        except OSError as error:
            return Unseen(f"{where}: {error.strerror}")
        try:
            line, ended, before = _line(sock, at.port, started + seconds)
        except OSError as error:
            if error.errno != errno.ECONNRESET:
                return Unseen(f"{where}: {error.strerror}")
            line, ended, before = b"", True, _Queue()
        taken = not (line or ended) and _taken(sock, at.port, before)
    took = time.monotonic() - started
    return Seen(Banner(line.decode("utf-8", "replace"), took, ended=ended and not line, taken=taken), where)


class _Queue(NamedTuple):
    """An accept queue: the connections that wait in it, and for how many more there is room."""

    waiting: frozenset[bytes] = frozenset()
    room: int = 0


def _asked(question: Callable[[Netlink], _T], otherwise: _T) -> _T:
    """What sock_diag(7) answers; `otherwise` where it cannot be asked: what is not seen is not known."""
    try:
        with open_socket(SOCK_DIAG) as via:
            return question(via)
    except OSError:
        return otherwise


def _queue(port: int) -> _Queue:
    """Empty where it cannot be looked at."""

    def look(via: Netlink) -> _Queue:
        # The room first: who comes between the two looks was there before, and found room.
        used = [one for one in listening(via, (port,)) if one.queue]
        room = sum(max(0, one.backlog + 1 - one.queue) for one in used)  # the kernel lets in one more
        return _Queue(waiting(via, port), room)

    return _asked(look, _Queue())


def _taken(sock: socket.socket, port: int, before: _Queue) -> bool:
    """Whether the connection was accepted, or is only not at the head of a queue that somebody takes from."""

    def look(via: Netlink) -> bool:
        return accepted(via, port, sock.getsockname()[1]) or bool(before.waiting) and _moves(via, port, before)

    return _asked(look, False)


def _moves(via: Netlink, port: int, before: _Queue) -> bool:
    """Whether somebody takes from the queue: most that waited do no more, or more came than there was room for.

    Raises OSError.
    """
    now = waiting(via, port)
    return 2 * len(before.waiting & now) <= len(before.waiting) or len(now - before.waiting) > before.room


def _stands_still(port: int, end: float) -> bool:
    """Whether at `end` most of those still wait that do now; False where nobody does."""
    before = _queue(port)
    if not before.waiting:
        return False
    time.sleep(max(_STILL, end - time.monotonic()))
    return _asked(lambda via: not _moves(via, port, before), False)


def _line(sock: socket.socket, port: int, end: float) -> tuple[bytes, bool, _Queue]:
    """The first line, whether the connection was ended, and who waited where none came at once. Raises OSError."""
    got, before = b"", None
    while b"\n" not in got and len(got) < _MOST:
        left = end - time.monotonic()
        if left <= 0:
            return got.strip(), False, before or _Queue()
        sock.settimeout(left if before else min(left, _CONNECT))
        try:
            part = sock.recv(_MOST - len(got))
        except socket.timeout:
            before = before or _queue(port)
            continue
        if not part:
            return got.strip(), True, _Queue()
        got += part
    line = got.partition(b"\n")[0].strip()
    if line.startswith(b"SSH-"):
        sock.sendall(_GREETING)
    return line, False, before or _Queue()
