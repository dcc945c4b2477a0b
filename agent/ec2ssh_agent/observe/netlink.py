"""Netlink dumps: rtnetlink(7), and what else speaks the same format. One request, all its answers, within a deadline.

Source: netlink(7), include/uapi/linux/netlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
from typing import NamedTuple

from ..host import Denied, Failed, HostError, NotFound, TimedOut, TooLarge

_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_REQUEST, _DUMP = 0x001, 0x300
_DUMP_INTERRUPTED = 0x010
_ERROR, _DONE = 2, 3
_NESTED = 0xC000  # NLA_F_NESTED | NLA_F_NET_BYTEORDER
_ABSENT = (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.ENOENT, errno.ENODEV, errno.EINVAL)


class Message(NamedTuple):
    kind: int  # RTM_NEWLINK and the like
    payload: bytes


def attributes(data: bytes, start: int = 0) -> dict[int, bytes]:
    """The attributes from `start` on, by type (the last of a type counts); broken ones end the list."""
    found: dict[int, bytes] = {}
    end = len(data)
    while start + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > end:
            break
        found[kind & ~_NESTED] = data[start + 4 : start + length]
        start += (length + 3) & ~3
    return found


def text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def number(data: bytes) -> int:
    """An attribute of 1, 2, 4 or 8 bytes in host order."""
    return int.from_bytes(data, sys.byteorder)


def dump(protocol: int, kind: int, payload: bytes, *, deadline: float = 2.0, cap: int = 32 << 20) -> list[Message]:
    """All messages that a dump request gives. A dump that a change interrupted is made again.

    Raises Denied, NotFound (this kernel has no such protocol or object), TimedOut after `deadline` seconds, TooLarge
    over `cap` bytes, Failed.
    """
    end = time.monotonic() + deadline
    for _ in range(5):
        messages, interrupted = _dump_once(protocol, kind, payload, end, cap)
        if not interrupted:
            return messages
    raise Failed(f"netlink {protocol}: changed all the while")


def _dump_once(protocol: int, kind: int, payload: bytes, end: float, cap: int) -> tuple[list[Message], bool]:
    messages: list[Message] = []
    interrupted, size = False, 0
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
            sock.settimeout(max(0.001, end - time.monotonic()))
            sock.sendto(_HEADER.pack(_HEADER.size + len(payload), kind, _REQUEST | _DUMP, 1, 0) + payload, (0, 0))
            while True:
                left = end - time.monotonic()
                if left <= 0:
                    raise TimedOut(f"netlink {protocol}: no end within its deadline")
                sock.settimeout(left)
                data = sock.recv(1 << 18)
                size += len(data)
                if size > cap:
                    raise TooLarge(f"netlink {protocol}: a dump of more than {cap} bytes")
                done, broken = _split(data, messages, protocol)
                interrupted = interrupted or broken
                if done:
                    return messages, interrupted
    except socket.timeout as error:
        raise TimedOut(f"netlink {protocol}: no answer within its deadline") from error
    except OSError as error:
        raise translate(error.errno or 0, f"netlink {protocol}") from error


def _split(data: bytes, messages: list[Message], protocol: int) -> tuple[bool, bool]:
    """Appends the messages of one datagram; whether the dump is done, and whether it was interrupted."""
    position, interrupted = 0, False
    while position + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, position)
        if length < _HEADER.size or position + length > len(data):
            raise Failed(f"netlink {protocol}: a message cut short")
        interrupted = interrupted or bool(flags & _DUMP_INTERRUPTED)
        payload = data[position + _HEADER.size : position + length]
        if kind in (_DONE, _ERROR):
            code = -struct.unpack_from("=i", payload)[0] if len(payload) >= 4 else 0
            if code:
                raise translate(code, f"netlink {protocol}")
            return True, interrupted
        messages.append(Message(kind, payload))
        position += (length + 3) & ~3
    return False, interrupted


def translate(code: int, what: str) -> HostError:
    """The exception for an errno."""
    said = f"{what}: {os.strerror(code)}"
    if code in (errno.EPERM, errno.EACCES):
        return Denied(said)
    return NotFound(said) if code in _ABSENT else Failed(said)
