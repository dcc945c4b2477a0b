"""Netlink as far as the agent speaks it: one request and its answers, listening sockets, the nf_tables generation.

The supervisor and observe/ share it, so it imports next to nothing: `_socket` is what socket.py wraps, without the
enumerations and selectors that cost 0.5 MB. Sources: netlink(7), sock_diag(7), and the
kernel's include/uapi/linux/{netlink,inet_diag,netfilter/nf_tables}.h.
"""

from __future__ import annotations

import errno
import os
import struct
from _socket import AF_INET, AF_INET6, AF_NETLINK, IPPROTO_TCP, MSG_DONTWAIT, SOCK_CLOEXEC, SOCK_RAW, socket

from .plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Optional

ROUTE, SOCK_DIAG, NETFILTER = 0, 4, 12  # protocols
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_REQUEST, _DUMP = 0x1, 0x300
_ERROR, _DONE = 2, 3
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port id
_ATTRIBUTE = struct.Struct("=HH")
_BUFFER = 1 << 16

NEWGEN, _GETGEN = 0x0A0F, 0x0A10  # NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_…GEN
_GEN_ID, _GEN_PID, _GEN_NAME = 1, 2, 3

_BY_FAMILY = 20  # SOCK_DIAG_BY_FAMILY
_ESTABLISHED, _CLOSE_WAIT, _LISTEN = 1 << 1, 1 << 8, 1 << 10
_DIAG_REQUEST = struct.Struct("=BBBxI48x")  # family, protocol, extensions, states, any socket
# family, state, …, source port, …, source, …, interface, …, accept queue, its limit, uid, inode
_DIAG_ANSWER = struct.Struct("=BB2x2s2x16s16xI12xIIII")
_V6ONLY, _CGROUP_ID = 11, 21


class Message(NamedTuple):
    type: int
    sequence: int
    body: bytes
    flags: int = 0


class Generation(NamedTuple):
    """The nf_tables generation, and who made it (in the outer pid namespace)."""

    id: int
    pid: int
    program: str


class Listening(NamedTuple):
    """A TCP socket in LISTEN (struct inet_diag_msg). `address` is 4 or 16 bytes; `cgroup` 0 where not told."""

    family: int
    address: bytes
    port: int
    interface: int
    queue: int
    backlog: int
    uid: int
    inode: int
    v6only: bool
    cgroup: int


class Netlink(socket):
    """A netlink socket that a `with` closes."""

    def __enter__(self) -> Netlink:
        return self

    def __exit__(self, *raised: object) -> None:
        self.close()


def open_socket(protocol: int, groups: Sequence[int] = ()) -> Netlink:
    """A netlink socket, member of those multicast groups. Raises OSError."""
    made = Netlink(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol)
    try:
        made.bind((0, 0))
        for group in groups:
            made.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
    except OSError:
        made.close()
        raise
    return made


def messages(data: bytes) -> Iterator[Message]:
    """The messages of one datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield Message(kind, sequence, data[at + _HEADER.size : at + length], flags)
        at += (length + 3) & ~3


def attributes(data: bytes, at: int) -> Iterator[tuple[int, bytes]]:
    """Type (without its flag bits) and value of the attributes that start at offset `at`."""
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & 0x3FFF, data[at + _ATTRIBUTE.size : at + length]
        at += (length + 3) & ~3


_sequence = 0


def ask(via: socket, kind: int, body: bytes, *, dump: bool = False) -> Iterator[Message]:
    """Sends a request and yields its answers: of a dump all, else one. Raises OSError, the kernel's refusal too.

    The kernel answers before send(2) returns and goes on with a dump inside recv(2), so nothing here can wait.
    """
    global _sequence
    _sequence = (_sequence + 1) & 0xFFFFFFFF
    flags = _REQUEST | (_DUMP if dump else 0)
    via.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, _sequence, 0) + body)
    while True:
        for message in messages(via.recv(_BUFFER, MSG_DONTWAIT)):
            if message.sequence != _sequence:
                continue  # what an earlier request that failed half-way left behind
            if message.type == _DONE:
                return
            if message.type == _ERROR:
                code = -struct.unpack_from("=i", message.body)[0]
                if code:
                    raise OSError(code, os.strerror(code))
                return
            yield message
            if not dump:
                return


def generation_of(body: bytes) -> Generation:
    """A NEWGEN message."""
    number, pid, program = 0, 0, ""
    for kind, value in attributes(body, 4):
        if kind == _GEN_ID:
            number = int.from_bytes(value, "big")
        elif kind == _GEN_PID:
            pid = int.from_bytes(value, "big")
        elif kind == _GEN_NAME:
            program = value.rstrip(b"\0").decode("utf-8", "replace")
    return Generation(number, pid, program)


def generation(via: socket) -> int:
    """The nf_tables generation id of this network namespace (CAP_NET_ADMIN). Raises OSError."""
    for message in ask(via, _GETGEN, b"\0\0\0\0"):
        if message.type == NEWGEN:
            return generation_of(message.body).id
    raise OSError(errno.ENOMSG, "no generation in the answer")


def _sockets(via: socket, states: int) -> Iterator[bytes]:
    """The TCP sockets of both families in those states, as struct inet_diag_msg and its attributes. Raises OSError."""
    for family in (AF_INET, AF_INET6):
        try:
            for message in ask(via, _BY_FAMILY, _DIAG_REQUEST.pack(family, IPPROTO_TCP, 0, states), dump=True):
                yield message.body
        except FileNotFoundError:
            # No tcp_diag for this family: with IPv6 switched off there is nothing to miss.
            if family == AF_INET:
                raise


def listening(via: socket, ports: Optional[Sequence[int]] = None) -> list[Listening]:
    """The TCP listeners of both families, on those ports only where given. Raises OSError.

    The kernel walks only its table of listeners (0.03 ms beside 20,000 connections).
    """
    wanted = None if ports is None else {port.to_bytes(2, "big") for port in ports}
    return [_listening(body) for body in _sockets(via, _LISTEN) if wanted is None or body[4:6] in wanted]


def waiting(via: socket, port: int) -> frozenset[bytes]:
    """The connections to a local TCP port that nobody has accepted yet. Raises OSError.

    Each as the kernel names it (struct inet_diag_sockid). One that was not accepted belongs to no file: inode 0.
    """
    at = port.to_bytes(2, "big")
    found = (body for body in _sockets(via, _ESTABLISHED | _CLOSE_WAIT) if body[4:6] == at)
    return frozenset(body[4:52] for body in found if not _DIAG_ANSWER.unpack_from(body)[-1])


def accepted(via: socket, port: int, peer: int) -> bool:
    """Whether a program has accepted a connection from port `peer` to a local TCP port. Raises OSError."""
    ends = port.to_bytes(2, "big") + peer.to_bytes(2, "big")
    found = [body for body in _sockets(via, _ESTABLISHED | _CLOSE_WAIT) if body[4:8] == ends]
    return any(_DIAG_ANSWER.unpack_from(body)[-1] for body in found)


def _listening(body: bytes) -> Listening:
    family, _, port, address, interface, queue, backlog, uid, inode = _DIAG_ANSWER.unpack_from(body)
    v6only, cgroup = False, 0
    for kind, value in attributes(body, _DIAG_ANSWER.size):
        if kind == _V6ONLY:
            v6only = value != b"\0"
        elif kind == _CGROUP_ID:
            cgroup = int.from_bytes(value, "little" if struct.pack("=H", 1)[0] else "big")
    return Listening(
        family,
        address[:4] if family == AF_INET else address,
        int.from_bytes(port, "big"),
        interface,
        queue,
        backlog,
        uid,
        inode,
        v6only,
        cgroup,
    )
