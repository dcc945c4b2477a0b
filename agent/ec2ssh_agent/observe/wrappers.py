"""hosts.allow and hosts.deny, and whether this sshd asks libwrap at all: by the DT_NEEDED entries of its programs.

Debian 12 links libwrap into sshd, Debian 13 into sshd-session only. The programs are not run (ldd would run them).
Source: elf(5).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Optional

from ..facts import Wrappers
from ..host import Host, HostError, NotFound
from ..model import Fact, Seen, Unseen

ALLOW, DENY = "/etc/hosts.allow", "/etc/hosts.deny"
_PROGRAMS = (
    "/usr/sbin/sshd",
    "/usr/lib/openssh/sshd-session",
    "/usr/libexec/openssh/sshd-session",
    "/usr/lib/ssh/sshd-session",
)
_CAP = 1 << 20
_PROGRAM_CAP = 32 << 20
_LOAD, _DYNAMIC = 1, 2  # p_type
_NEEDED, _STRTAB = 1, 5  # d_tag


def collect(host: Host) -> Wrappers:
    """Changes nothing; raises nothing that a host can do."""
    return Wrappers(_table(host, ALLOW), _table(host, DENY), _linked(host))


def _table(host: Host, path: str) -> Fact[Optional[bytes]]:
    try:
        return Seen(host.read(path, cap=_CAP), path)
    except NotFound:
        return Seen(None, path)
    except HostError as error:
        return Unseen(str(error))


def _linked(host: Host) -> Fact[bool]:
    found: Fact[bool] = Seen(False, "no sshd")
    for path in _PROGRAMS:
        try:
            names = tuple(needed(host.read(path, cap=_PROGRAM_CAP)))
        except NotFound:
            continue
        except HostError as error:
            return Unseen(str(error))
        except (ValueError, struct.error, IndexError) as error:
            return Unseen(f"{path}: not an ELF program: {error}")
        if any(name.startswith(b"libwrap.so") for name in names):
            return Seen(True, path)
        found = Seen(False, path)
    return found


def needed(content: bytes) -> Iterator[bytes]:
    """The libraries that an ELF program names. Raises ValueError, struct.error."""
    if content[:4] != b"\x7fELF" or content[4] not in (1, 2) or content[5] not in (1, 2):
        raise ValueError("no ELF header")
    wide, order = content[4] == 2, "<" if content[5] == 1 else ">"
    at, size, count = (
        (struct.unpack_from(order + "Q", content, 32)[0], *struct.unpack_from(order + "HH", content, 54))
        if wide
        else (struct.unpack_from(order + "I", content, 28)[0], *struct.unpack_from(order + "HH", content, 42))
    )
    segments = []
    for number in range(count):
        place = at + number * size
        if wide:
            kind, _, offset, address, _, length = struct.unpack_from(order + "IIQQQQ", content, place)
        else:
            kind, offset, address, _, length = struct.unpack_from(order + "IIIII", content, place)
        segments.append((kind, offset, address, length))
    for kind, offset, _, length in segments:
        if kind == _DYNAMIC:
            yield from _names(content, order + ("qQ" if wide else "iI"), offset, length, segments)


def _names(
    content: bytes, layout: str, offset: int, length: int, segments: list[tuple[int, int, int, int]]
) -> Iterator[bytes]:
    end = min(offset + length, len(content))
    entries = list(struct.iter_unpack(layout, content[offset : end - (end - offset) % struct.calcsize(layout)]))
    table = next((value for tag, value in entries if tag == _STRTAB), None)
    if table is None:
        return
    start = next(o + table - a for kind, o, a, size in segments if kind == _LOAD and a <= table < a + size)
    for tag, value in entries:
        if tag == _NEEDED:
            place = start + value
            yield content[place : content.index(b"\0", place)]
