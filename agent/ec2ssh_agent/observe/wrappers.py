"""hosts.allow and hosts.deny, and whether this sshd asks libwrap at all.

libwrap is linked by sshd on Debian 11 and 12, by sshd-session on Debian 13, and by neither on RHEL 8+ and Amazon Linux:
hosts.deny means nothing there. The programs' DT_NEEDED entries are read; ldd would run them.
"""

from __future__ import annotations

import struct
from typing import Optional

from ..facts import Wrappers
from ..host import Host, HostError, NotFound
from ..model import Fact, Seen, Unseen

_CAP = 1 << 20
_PROGRAM_CAP = 32 << 20
_PROGRAMS = ("/usr/sbin/sshd", "/usr/lib/openssh/sshd-session", "/usr/libexec/openssh/sshd-session")
_LOAD, _DYNAMIC = 1, 2  # p_type
_END, _NEEDED, _STRTAB = 0, 1, 5  # d_tag


def collect(host: Host) -> Wrappers:
    """Both files (1 MiB at most each) and `linked`; what cannot be read is Unseen."""
    return Wrappers(_file(host, "/etc/hosts.allow"), _file(host, "/etc/hosts.deny"), _linked(host))


def _file(host: Host, path: str) -> Fact[Optional[bytes]]:
    try:
        return Seen(host.read(path, cap=_CAP), path)
    except NotFound:
        return Seen(None, path)
    except HostError as error:
        return Unseen(str(error))


def _linked(host: Host) -> Fact[bool]:
    """Whether one of sshd's programs needs libwrap. Unseen where one that may cannot be read."""
    found: Fact[bool] = Unseen("no sshd is installed")
    for path in _PROGRAMS:
        try:
            names = needed(host.read(path, cap=_PROGRAM_CAP))
        except NotFound:
            continue
        except (HostError, ValueError) as error:
            found = Unseen(f"{path}: {error}")
            continue
        if any(name.startswith(b"libwrap.so") for name in names):
            return Seen(True, path)
        if found == Unseen("no sshd is installed"):
            found = Seen(False, path)
    return found


def needed(content: bytes) -> tuple[bytes, ...]:
    """The shared libraries that an ELF program names (DT_NEEDED, elf(5)). Raises ValueError for what is none."""
    if content[:4] != b"\x7fELF" or len(content) < 64 or content[4] not in (1, 2) or content[5] not in (1, 2):
        raise ValueError("not an ELF file")
    wide, order = content[4] == 2, "<" if content[5] == 1 else ">"
    try:
        loads, dynamic = _segments(content, order, wide)
        return _names(content, order + ("qQ" if wide else "iI"), loads, dynamic)
    except struct.error as error:
        raise ValueError(f"a damaged ELF file: {error}") from error


_Segment = tuple[int, int, int]  # file offset, virtual address, size in the file


def _segments(content: bytes, order: str, wide: bool) -> tuple[list[_Segment], Optional[_Segment]]:
    """The loaded segments and the dynamic one."""
    table = struct.unpack_from(order + ("Q" if wide else "I"), content, 32 if wide else 28)[0]
    size, count = struct.unpack_from(order + "HH", content, 54 if wide else 42)
    loads, dynamic = [], None
    for number in range(count):
        place = table + number * size
        if wide:
            kind, _, offset, address, _, length = struct.unpack_from(order + "IIQQQQ", content, place)
        else:
            kind, offset, address, _, length = struct.unpack_from(order + "IIIII", content, place)
        if kind == _LOAD:
            loads.append((offset, address, length))
        elif kind == _DYNAMIC:
            dynamic = (offset, address, length)
    return loads, dynamic


def _names(content: bytes, entry: str, loads: list[_Segment], dynamic: Optional[_Segment]) -> tuple[bytes, ...]:
    if dynamic is None:
        return ()  # statically linked
    offsets, strings = [], None
    for tag, value in struct.iter_unpack(entry, _part(content, dynamic[0], dynamic[2])):
        if tag == _END:
            break
        if tag == _NEEDED:
            offsets.append(value)
        elif tag == _STRTAB:
            strings = value
    start = next((value - address + offset for offset, address, size in loads
                  for value in [strings] if value is not None and address <= value < address + size), None)  # fmt: skip
    if start is None:
        raise ValueError("a damaged ELF file: no string table")
    return tuple(_string(content, start + offset) for offset in offsets)


def _part(content: bytes, offset: int, size: int) -> bytes:
    part = content[offset : offset + size]
    if len(part) != size:
        raise ValueError("a damaged ELF file: it ends too early")
    return part


def _string(content: bytes, start: int) -> bytes:
    end = content.find(b"\0", start, start + 4096)
    if end < 0:
        raise ValueError("a damaged ELF file: a name without end")
    return content[start:end]
