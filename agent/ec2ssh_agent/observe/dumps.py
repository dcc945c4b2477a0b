"""Whole netlink dumps: rtnetlink(7), and what else speaks the same format. Errors are the host's.

A dump needs no deadline: the kernel makes it inside send(2) and recv(2).
"""

from __future__ import annotations

import errno
import os
import sys

from .. import netlink
from ..host import Denied, Failed, HostError, NotFound, TooLarge
from ..netlink import Message

_INTERRUPTED = 0x10  # NLM_F_DUMP_INTR: something changed meanwhile
_MOST = 500_000  # messages
_ABSENT = (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT, errno.ENOENT, errno.ENODEV, errno.EINVAL)


def dump(protocol: int, kind: int, body: bytes) -> list[Message]:
    """All messages that a dump request gives. One that a change interrupted is made again.

    Raises Denied, NotFound (this kernel has no such protocol or object), TooLarge, Failed.
    """
    for _ in range(5):
        try:
            messages = _once(protocol, kind, body)
        except OSError as error:
            raise translate(error.errno or 0, f"netlink {protocol}") from error
        if not any(message.flags & _INTERRUPTED for message in messages):
            return messages
    raise Failed(f"netlink {protocol}: changed all the while")


def _once(protocol: int, kind: int, body: bytes) -> list[Message]:
    messages: list[Message] = []
    with netlink.open_socket(protocol) as via:
        for message in netlink.ask(via, kind, body, dump=True):
            messages.append(message)
            if len(messages) > _MOST:
                raise TooLarge(f"netlink {protocol}: a dump of more than {_MOST} messages")
    return messages


def attributes(data: bytes, start: int = 0) -> dict[int, bytes]:
    """The attributes from `start` on, by type; the last of a type counts."""
    return dict(netlink.attributes(data, start))


def text(data: bytes) -> str:
    return data.partition(b"\0")[0].decode("utf-8", "replace")


def number(data: bytes) -> int:
    """An attribute of 1, 2, 4 or 8 bytes in host order; 0 for none."""
    return int.from_bytes(data, sys.byteorder)


def translate(code: int, what: str) -> HostError:
    """The exception for an errno."""
    said = f"{what}: {os.strerror(code)}"
    if code in (errno.EPERM, errno.EACCES):
        return Denied(said)
    return NotFound(said) if code in _ABSENT else Failed(said)
