"""Who listens on TCP: SOCK_DIAG, with the unit told by the socket's cgroup where the kernel gives it (5.9 and later).

A socket belongs to the cgroup that its maker was in: sshd's unit; or, under socket activation, systemd's own
(`init.scope`). Hosts with version 1 cgroups only tell none.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterator
from typing import Optional

from ..facts import Listener
from ..host import Host, HostError
from ..model import Fact, Seen, Unseen
from ..netlink import SOCK_DIAG, Listening, listening, open_socket
from ..reach.ruleset import Family

_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")  # cgroup2 alone, and beside version 1 (systemd's hybrid)
_DEPTH, _LOOKED_AT = 4, 2000
_UNITS = (".service", ".socket", ".scope", ".slice")
_NEAR = {"init.scope": 0, "system.slice": 1}  # where sshd is; the rest after them


def listeners(host: Optional[Host] = None) -> Fact[tuple[Listener, ...]]:
    """All TCP sockets in LISTEN of this network namespace, both families, by address and port."""
    host = host or Host()
    if host.root:
        return Unseen("an attached volume has no sockets")
    try:
        with open_socket(SOCK_DIAG) as via:
            found = listening(via)
    except OSError as error:
        return Unseen(f"SOCK_DIAG: {error.strerror or error}")
    # Units matter for root's listeners alone; a port of anybody else's is never sshd's.
    units = units_of({one.cgroup for one in found if not one.uid} - {0}, host)
    made = (_listener(one, units.get(one.cgroup, "")) for one in found)
    return Seen(tuple(sorted(made, key=lambda one: (one.family.value, one.port, one.address))), "SOCK_DIAG")


def _listener(one: Listening, unit: str) -> Listener:
    return Listener(
        family=Family.IPV4 if one.family == socket.AF_INET else Family.IPV6,
        address=int.from_bytes(one.address, "big"),
        port=one.port,
        v6only=one.v6only,
        uid=one.uid,
        inode=one.inode,
        queue=one.queue,
        backlog=one.backlog,
        device=_interface(one.interface),
        unit=unit,
    )


def _interface(index: int) -> str:
    """The interface that a socket is bound to; "" for any."""
    if not index:
        return ""
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"if{index}"  # gone since


def units_of(ids: Collection[int], host: Host) -> dict[int, str]:
    """Unit by cgroup id, which is the inode of its directory; of those ids that are found."""
    wanted = set(ids)
    found: dict[int, str] = {}
    mount = next((path for path in _MOUNTS if host.exists(f"{path}/cgroup.controllers")), None)
    if not wanted or mount is None:
        return found
    for count, (inode, unit) in enumerate(_tree(mount, host)):
        if inode in wanted:
            found[inode] = unit
            wanted.discard(inode)
        if not wanted or count >= _LOOKED_AT:
            break
    return found


def _tree(mount: str, host: Host) -> Iterator[tuple[int, str]]:
    """Inode and unit of the cgroups below `mount`, the nearest first."""
    level = [mount]
    for _ in range(_DEPTH):
        below: list[str] = []
        for parent in level:
            try:
                names = [name for name in host.listdir(parent) if name.endswith(_UNITS)]
            except HostError:
                continue  # gone since
            for name in sorted(names, key=lambda name: _NEAR.get(name, 2)):
                path = os.path.join(parent, name)
                seen = host.stat(path)
                if seen and seen.directory:
                    yield seen.inode, name
                    below.append(path)
        level = below
