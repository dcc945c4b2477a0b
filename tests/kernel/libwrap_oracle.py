"""Asks libwrap.so.0 itself: each line of standard input is a JSON query, each line of output the answer.

A query has the keys allow, deny (paths), client (address), name (host name), user, server (address) and port.
The answer: "granted", "refused", or "gone" (the process became another one: `twist`). All is handed to libwrap as text,
so that it looks nothing up; each query is a process of its own, as each of sshd's is. Run it in a network namespace of
its own, all the same. The kernel's struct request_info is larger in no version than 4 KiB.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import sys

_FILE, _DAEMON, _USER, _CLIENT_NAME, _CLIENT_ADDR, _SERVER_NAME, _SERVER_ADDR, _SERVER_SIN = 1, 2, 3, 4, 5, 7, 8, 9


def _ask(library: ctypes.CDLL, query: dict[str, str]) -> bool:
    allow, deny = (ctypes.create_string_buffer(query[table].encode()) for table in ("allow", "deny"))
    ctypes.c_void_p.in_dll(library, "hosts_allow_table").value = ctypes.addressof(allow)
    ctypes.c_void_p.in_dll(library, "hosts_deny_table").value = ctypes.addressof(deny)
    request = ctypes.create_string_buffer(4096)
    port = struct.pack("=HH", socket.AF_INET, socket.htons(int(query["port"]))) + bytes(24)
    sockaddr = ctypes.create_string_buffer(port)
    library.request_init(
        ctypes.byref(request),
        _FILE, 0,
        _DAEMON, b"sshd",
        _USER, query["user"].encode(),
        _CLIENT_NAME, query["name"].encode(),
        _CLIENT_ADDR, query["client"].encode(),
        _SERVER_NAME, b"unknown",
        _SERVER_ADDR, query["server"].encode(),
        _SERVER_SIN, ctypes.byref(sockaddr),
        0,
    )  # fmt: skip
    return bool(library.hosts_access(ctypes.byref(request)))


def main() -> None:
    library = ctypes.CDLL("libwrap.so.0")
    sink = os.open(os.devnull, os.O_RDWR)
    for line in sys.stdin:
        query = json.loads(line)
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            for descriptor in (0, 1, 2):
                os.dup2(sink, descriptor)
            os.write(writer, b"granted" if _ask(library, query) else b"refused")
            os._exit(0)
        os.close(writer)
        answer = os.read(reader, 16).decode()
        os.close(reader)
        os.waitpid(pid, 0)
        print(answer or "gone", flush=False)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
