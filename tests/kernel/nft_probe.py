"""A client with every address, in the client's network namespace.

Each line of standard input is a JSON object: `wanted`, a list of [source, destination, port], and how long to `wait`
(seconds, 0: the usual); each line of output is the list of what they lived through: connected (a banner came), timeout,
refused, unreachable, closed, or null where the kernel does not let it be that source. With `serve PORT...` it is the
server, in the host's namespace.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import json
import select
import socket
import sys
import time
from typing import Optional

IP_TRANSPARENT, IPV6_TRANSPARENT = 19, 75
#: Past the first retransmission of the SYN: an ICMPv6 error that comes back within connect(2) is lost.
WAIT = 1.35
_UNREACHABLE = (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ENOPROTOOPT, errno.EACCES)


def start(source: str, destination: str, port: int) -> tuple[Optional[socket.socket], Optional[str]]:
    v6 = ":" in source
    made = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    made.setsockopt(socket.IPPROTO_IPV6 if v6 else socket.IPPROTO_IP, IPV6_TRANSPARENT if v6 else IP_TRANSPARENT, 1)
    try:
        made.bind((source, 0))
        code = made.connect_ex((destination, port))
    except OSError:
        made.close()
        return None, None
    if made.getsockname()[0] != source or code not in (0, errno.EINPROGRESS):
        made.close()
        return None, None
    return made, None


def probe(wanted: list[tuple[str, str, int]], wait: float) -> list[Optional[str]]:
    answers: list[Optional[str]] = [None] * len(wanted)
    open_sockets: dict[int, tuple[int, socket.socket, bool]] = {}
    poll = select.poll()
    for place, (source, destination, port) in enumerate(wanted):
        made, _ = start(source, destination, port)
        if made:
            answers[place] = "timeout"
            open_sockets[made.fileno()] = (place, made, False)
            poll.register(made.fileno(), select.POLLOUT)
    end = time.monotonic() + wait
    while open_sockets and time.monotonic() < end:
        for descriptor, _ in poll.poll(max(1.0, (end - time.monotonic()) * 1000)):
            place, made, established = open_sockets[descriptor]
            if not established:
                if connected(made):
                    open_sockets[descriptor] = (place, made, True)
                    poll.modify(descriptor, select.POLLIN)
                    continue
                answers[place] = outcome(made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR))
            else:
                answers[place] = banner(made)
            poll.unregister(descriptor)
            made.close()
            del open_sockets[descriptor]
    for _, made, _ in open_sockets.values():
        made.close()
    return answers


def connected(made: socket.socket) -> bool:
    """SO_ERROR would tell an ICMP error about a later packet, too, which connect(2) does not."""
    try:
        made.getpeername()
    except OSError:
        return False
    return True


def outcome(code: int) -> str:
    if code == errno.ECONNREFUSED:
        return "refused"
    if code == errno.ECONNRESET:
        return "closed"  # connect(2) succeeded: before that, an RST refuses
    return "unreachable" if code in _UNREACHABLE else "timeout" if code == errno.ETIMEDOUT else errno.errorcode[code]


def banner(made: socket.socket) -> str:
    try:
        return "connected" if made.recv(64) else "closed"
    except OSError as error:
        return outcome(error.errno or 0)


def serve(ports: list[int]) -> None:
    listeners = {}
    poll = select.poll()
    for port in ports:
        for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            made = socket.socket(family, socket.SOCK_STREAM)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((address, port))
            made.listen(4096)
            listeners[made.fileno()] = made
            poll.register(made.fileno(), select.POLLIN)
    # As sshd, it does not close: the FIN would take along a banner that a rule for ESTABLISHED alone has dropped.
    kept: collections.deque[socket.socket] = collections.deque(maxlen=600)
    print("ready", flush=True)
    while True:
        for descriptor, _ in poll.poll():
            accepted, _ = listeners[descriptor].accept()
            with contextlib.suppress(ConnectionError):
                accepted.send(b"SSH-2.0-probe\r\n")
            kept.append(accepted)


def main() -> None:
    if sys.argv[1:2] == ["serve"]:
        serve([int(port) for port in sys.argv[2:]])
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        print(json.dumps(probe(asked["wanted"], asked["wait"] or WAIT)), flush=True)


main()
