"""Which processes are started in an instance, and by whom, as the kernel tells (cn_proc: linux/cn_proc.h, connector.h).

Nothing in the instance notices: no tracer stops it. Needs root, and to be in the machine's first namespaces.
"""

from __future__ import annotations

import collections
import os
import socket
import struct
import threading
from pathlib import Path
from typing import Optional

from harness import Instance

_CONNECTOR, _PROC = 11, 1  # NETLINK_CONNECTOR; CN_IDX_PROC, which is CN_VAL_PROC and the multicast group, too
_LISTEN = struct.pack("=IHHII4I2HI", 40, 3, 0, 0, 0, _PROC, _PROC, 0, 0, 4, 0, 1)  # NLMSG_DONE; PROC_CN_MCAST_LISTEN
_EVENT = struct.Struct("=2IQ4I")  # what, cpu, nanoseconds; of a fork: parent's and child's pid and tgid
_FORK = 1


class Started:
    """`by` counts them by the name of the program that forked, until closed; those below one process counts `below`."""

    def __init__(self, made: Instance) -> None:
        self._namespace = os.readlink(f"/proc/{made._init}/ns/pid")
        self._parents: list[tuple[int, int]] = []
        self.by: collections.Counter[str] = collections.Counter()
        self._failed: Optional[OSError] = None
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, _CONNECTOR)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 8 << 20)  # SO_RCVBUFFORCE: none is to be lost
        self._socket.bind((0, _PROC))
        self._socket.send(_LISTEN)
        self._socket.settimeout(0.5)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def close(self) -> None:
        self._closed.set()
        self._thread.join()
        self._socket.close()
        if self._failed:
            raise self._failed

    def below(self, pid: int) -> int:
        """How many were started by this process, or by what it started; pids as this machine counts them."""
        known, count = {pid}, 0
        for parent, child in self._parents:
            if parent in known:
                known.add(child)
                count += 1
        return count

    def _read(self) -> None:
        while not self._closed.is_set():
            try:
                data = self._socket.recv(1 << 16)
            except socket.timeout:
                continue
            except OSError as error:  # ENOBUFS: some were lost
                self._failed = error
                return
            what, _, _, _, parent, child, process = _EVENT.unpack_from(data, 36)
            if what == _FORK and child == process:  # else a thread
                self._started(parent, child)

    def _started(self, parent: int, child: int) -> None:
        """What ends within a moment may be gone: then the other of the two tells where it was."""
        for pid, link in ((child, "pid"), (parent, "pid_for_children")):
            try:
                if os.readlink(f"/proc/{pid}/ns/{link}") != self._namespace:
                    return
                name = Path(f"/proc/{parent}/comm").read_text().strip()
            except OSError:
                continue
            self.by[name] += 1
            self._parents.append((parent, child))
            return
        self.by["what had ended, here or elsewhere"] += 1
