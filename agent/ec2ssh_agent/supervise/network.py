"""Changes of links, addresses, routes and routing rules: rtnetlink(7) notifications."""

from __future__ import annotations

import errno
import struct
from _socket import MSG_DONTWAIT

from ..netlink import ROUTE, attributes, messages, open_socket

_GROUPS = (1, 5, 7, 8, 9, 11, 19)  # RTNLGRP_ LINK, IPV4_IFADDR, _ROUTE, _RULE, IPV6_IFADDR, _ROUTE, _RULE
_NEWLINK, _NEWADDR, _DELADDR, _DELLINK = 16, 20, 21, 17
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, type, index, flags, changed
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix, flags, scope, index
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS, _IFLA_IFNAME = 1, 2, 8, 3
_REMEMBERED = 1024


class Network:
    """Says that something changed. A router advertisement announces the same address, with a new lifetime, again and
    again, and a driver its link: what is told twice is no change."""

    def __init__(self) -> None:
        """Raises OSError."""
        self._socket = open_socket(ROUTE, _GROUPS)
        self._told: dict[bytes, bytes] = {}

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def read(self) -> bool:
        """Raises OSError."""
        changed = False
        while True:
            try:
                data = self._socket.recv(1 << 16, MSG_DONTWAIT)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True  # some were lost
                continue
            for message in messages(data):
                changed = self._news(message.type, message.body) or changed

    def _news(self, kind: int, body: bytes) -> bool:
        if kind not in (_NEWLINK, _DELLINK, _NEWADDR, _DELADDR):
            return True
        if kind in (_NEWLINK, _DELLINK):
            family, _, index, flags, _ = _LINK.unpack_from(body)
            names = [value for number, value in attributes(body, _LINK.size) if number == _IFLA_IFNAME]
            key, value = b"link%d %d" % (family, index), b"%d " % flags + b"".join(names)
        else:
            key, value = body[: _ADDRESS.size], b""
            key = key[:2] + key[3:]  # without the flags: they are the value
            for number, attribute in attributes(body, _ADDRESS.size):
                if number in (_IFA_ADDRESS, _IFA_LOCAL):
                    key += attribute
                elif number == _IFA_FLAGS:
                    value = attribute
        if kind in (_DELLINK, _DELADDR):
            self._told.pop(key, None)
            return True
        if self._told.get(key) == value:
            return False
        if len(self._told) >= _REMEMBERED:
            self._told.clear()
        self._told[key] = value
        return True
