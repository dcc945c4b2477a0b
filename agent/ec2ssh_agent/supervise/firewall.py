"""Changes of the rules: NEWGEN of nf_tables as it happens; the legacy tables, of which the kernel says nothing, by
a fingerprint.

Binding to the multicast group, like any use of nf_tables, may load the module nf_tables. No legacy table is ever
loaded: only those that /proc/net/ip_tables_names lists are asked for.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import time
from _socket import (
    AF_INET,
    AF_INET6,
    IPPROTO_IP,
    IPPROTO_IPV6,
    IPPROTO_RAW,
    MSG_DONTWAIT,
    SOCK_CLOEXEC,
    SOCK_RAW,
    SOL_SOCKET,
    socket,
)

from ..netlink import NETFILTER, NEWGEN, Generation, generation, generation_of, messages, open_socket
from ..plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Optional, Union

    Buffer = Union[bytearray, mmap.mmap]

_GROUP = 7  # NFNLGRP_NFTABLES
_ATTACH_FILTER = 26
# The 16 bits at offset 4, the message's type, which classic BPF reads as big-endian: pass NEWGEN, drop the rest.
# Without it a restore of 10,000 rules overflows the socket's buffer.
_FILTER = struct.pack(
    "=HBBIHBBIHBBIHBBI",
    *(0x28, 0, 0, 4),
    *(0x15, 0, 1, struct.unpack("!H", struct.pack("=H", NEWGEN))[0]),
    *(0x06, 0, 0, 0xFFFFFFFF),
    *(0x06, 0, 0, 0),
)


class Rules:
    """NEWGEN messages, and the generation for whoever looks (the pulse)."""

    def __init__(self) -> None:
        """Raises OSError (no nf_tables, no CAP_NET_ADMIN)."""
        self._asking = open_socket(NETFILTER)
        try:
            self.generation = generation(self._asking)
            self._listening = open_socket(NETFILTER)
            code = ctypes.create_string_buffer(_FILTER)
            program = struct.pack("@HP", len(_FILTER) // 8, ctypes.addressof(code))
            self._listening.setsockopt(SOL_SOCKET, _ATTACH_FILTER, program)
            self._listening.setsockopt(270, 1, _GROUP)
        except OSError:
            self._asking.close()
            raise

    def fileno(self) -> int:
        return self._listening.fileno()

    def close(self) -> None:
        self._asking.close()
        self._listening.close()

    def read(self) -> list[Generation]:
        """The generations since; empty where nothing changed. Raises OSError."""
        found: list[Generation] = []
        while True:
            try:
                data = self._listening.recv(1 << 12, MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # Some were lost, and with them who made them. The number is there to be asked for.
                self.generation = generation(self._asking)
                found.append(Generation(self.generation, 0, ""))
                continue
            found.extend(generation_of(message.body) for message in messages(data) if message.type == NEWGEN)
        if found:
            self.generation = found[-1].id
        return found

    def moved(self) -> bool:
        """Whether the generation is another one than at the last look. Raises OSError."""
        before, self.generation = self.generation, generation(self._asking)
        return before != self.generation


_FAMILIES = ((AF_INET, IPPROTO_IP, "/proc/net/ip_tables_names"),
             (AF_INET6, IPPROTO_IPV6, "/proc/net/ip6_tables_names"))  # fmt: skip
_GET_INFO, _GET_ENTRIES = 64, 65  # IPT_SO_GET_…; the same for IPv6
# struct ipt_entry and ip6t_entry: where their counters and the offset of the next entry stand
_LAYOUT: dict[int, tuple[int, int]] = {AF_INET: (88, 96), AF_INET6: (140, 152)}
_LARGE = 1 << 16  # bytes of a table that are given back to the kernel after a look: malloc would keep them
_DEAR, _DEAR_SHARE = 0.0005, 0.001  # a look that takes more CPU than that (seconds) is made for that share of the time


class _Size(NamedTuple):
    family: int
    level: int
    name: str
    entries: int
    length: int  # bytes


class Legacy:
    """A fingerprint of the legacy tables without their counters; of large ones, between two such looks, their sizes."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._sockets: dict[int, socket] = {}
        self._lists: dict[str, int] = {}  # descriptors, kept open: a look every second is to cost little
        self._sizes: list[_Size] = []
        self._known: Optional[list[int]] = None
        self._not_before = 0.0

    def close(self) -> None:
        for made in self._sockets.values():
            made.close()
        for descriptor in self._lists.values():
            os.close(descriptor)
        self._sockets, self._lists = {}, {}

    def moved(self, now: float) -> Optional[bool]:
        """Whether they changed since the last look (the first one says no); None: too dear to look closer so soon.

        Raises OSError.
        """
        begin = time.thread_time()
        closer = now >= self._not_before
        sizes: list[_Size] = []
        found: list[int] = []
        try:
            for family, level, path in _FAMILIES:
                for name in self._names(path):
                    sizes.append(_Size(family, level, name, *self._size(family, level, name)))
                    if closer:
                        found.append(self._fingerprint(sizes[-1]))
        except OSError:
            self.close()  # the list of a module that was taken out stays dead: the next look opens the one there is
            raise
        before, self._sizes = self._sizes, sizes
        if not closer:
            return sizes != before or None
        took = time.thread_time() - begin
        self._not_before = now + (took / _DEAR_SHARE if took > _DEAR else 0.0)
        known, self._known = self._known, found
        return known is not None and (found, sizes) != (known, before)

    def _names(self, path: str) -> list[str]:
        """The tables that exist; none where the kernel has no legacy tables."""
        if path not in self._lists:
            try:
                self._lists[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return []
        return os.pread(self._lists[path], 1 << 12, 0).decode().split()

    def _size(self, family: int, level: int, name: str) -> tuple[int, int]:
        """The number of its entries, and their bytes."""
        info = self._ask(family, level, _GET_INFO, name.encode(), 84)
        count, size = struct.unpack_from("=II", info, 76)
        return count, size

    def _fingerprint(self, of: _Size) -> int:
        """A hash. A table that changed since its size was read (EAGAIN) is read at the next look."""
        question = struct.pack("=32sI", of.name.encode(), of.length)
        entries = self._ask(of.family, of.level, _GET_ENTRIES, question, 40 + of.length)
        return _hash(memoryview(entries)[40:], *_LAYOUT[of.family])

    def _ask(self, family: int, level: int, option: int, question: bytes, size: int) -> Buffer:
        via = self._sockets.get(family)
        if via is None:
            via = self._sockets[family] = socket(family, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW)
        buffer: Buffer = bytearray(size) if size < _LARGE else mmap.mmap(-1, size)
        buffer[: len(question)] = question
        length = ctypes.c_uint32(size)
        raw = (ctypes.c_char * size).from_buffer(buffer)
        if self._libc.getsockopt(via.fileno(), level, option, raw, ctypes.byref(length)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return buffer


def _hash(entries: memoryview, next_at: int, counters_at: int) -> int:
    found, at, end = 0, 0, len(entries)
    while at + counters_at + 16 <= end:
        (step,) = struct.unpack_from("=H", entries, at + next_at + 2)
        if step < counters_at + 16:
            break
        found = hash((found, bytes(entries[at : at + counters_at]), bytes(entries[at + counters_at + 16 : at + step])))
        at += step
    return found
