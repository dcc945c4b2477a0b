"""The wire of an instance, and somebody outside at its other end.

client  10.0.5.1, 10.0.5.30, 203.0.113.7, 198.51.100.9         2001:db8:5::1, ::30, 2001:db8:ffff::7
server  10.0.5.20/24, default route to 10.0.5.1                2001:db8:5::20/64, default route to 2001:db8:5::1
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from rootfs import execute, wait_for

SERVER4, SERVER6 = "10.0.5.20", "2001:db8:5::20"
CLIENTS4 = ("10.0.5.1", "10.0.5.30", "203.0.113.7", "198.51.100.9")
CLIENTS6 = ("2001:db8:5::1", "2001:db8:5::30", "2001:db8:ffff::7")

SSH_OPTIONS = (
    "-F none -o BatchMode=yes -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR "
    "-o IdentitiesOnly=yes -o ControlMaster=no"
).split()


class Login(NamedTuple):
    """A whole `ssh`: whether it came in, what it printed on stderr, how long it took in seconds."""

    ok: bool
    stderr: str
    seconds: float


_libc = ctypes.CDLL(None, use_errno=True)


class Network:
    """Two namespaces and the wire between them. `server` and `client` are names for `ip -n`."""

    def __init__(self, name: str) -> None:
        self.server, self.client = f"{name}s", f"{name}c"
        try:
            self._make()
        except BaseException:
            self.delete()
            raise

    def _make(self) -> None:
        for name in (self.server, self.client):
            execute(["ip", "netns", "add", name])
        server, client = ["ip", "-n", self.server], ["ip", "-n", self.client]
        execute([*server, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", self.client])
        execute([*server, "address", "add", f"{SERVER4}/24", "dev", "eth0"])
        execute([*server, "address", "add", f"{SERVER6}/64", "dev", "eth0", "nodad"])
        for address in CLIENTS4:
            length = 24 if address.startswith("10.0.5.") else 32
            execute([*client, "address", "add", f"{address}/{length}", "dev", "eth0"])
        for number, address in enumerate(CLIENTS6):
            length = 64 if address.startswith("2001:db8:5:") else 128
            # The others are deprecated, or the kernel would take the last for new connections.
            lifetime = [] if number == 0 else ["preferred_lft", "0"]
            execute([*client, "address", "add", f"{address}/{length}", "dev", "eth0", "nodad", *lifetime])
        for end in (server, client):
            execute([*end, "link", "set", "lo", "up"])
            execute([*end, "link", "set", "eth0", "up"])
        execute([*server, "route", "add", "default", "via", CLIENTS4[0]])
        execute([*server, "-6", "route", "add", "default", "via", CLIENTS6[0], "dev", "eth0"])

    def delete(self) -> None:
        for name in (self.server, self.client):
            if os.path.exists(f"/run/netns/{name}"):
                execute(["ip", "netns", "delete", name], check=False)

    @contextlib.contextmanager
    def _inside(self, name: str) -> Iterator[None]:
        """This thread in a namespace: sockets made here stay in it."""
        with open("/proc/thread-self/ns/net") as home, open(f"/run/netns/{name}") as there:
            if _libc.setns(there.fileno(), 0x40000000):
                raise OSError(ctypes.get_errno(), f"setns {name}")
            try:
                yield
            finally:
                if _libc.setns(home.fileno(), 0x40000000):
                    raise OSError(ctypes.get_errno(), "setns back")

    def socket(self, family: int) -> socket.socket:
        with self._inside(self.client):
            return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)

    def flush_neighbours(self) -> None:
        for name in (self.client, self.server):
            execute(["ip", "-n", name, "neighbour", "flush", "all"], check=False)


_CONNECT = {
    errno.ECONNREFUSED: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.ENOPROTOOPT: "unreachable",
    errno.EACCES: "unreachable",
    errno.ETIMEDOUT: "timeout",
}


class Client:
    """Somebody outside. `source` is one of CLIENTS4 or CLIENTS6, `to` SERVER4 or SERVER6, `port` 0: this client's."""

    def __init__(self, network: Network, key: Path, port: int = 22) -> None:
        self.network, self.key, self.port = network, key, port

    def ssh(
        self, command: str = "true", *, to: str = SERVER4, source: str = "", port: int = 0, timeout: float = 15.0
    ) -> Login:
        """A real login as root by key."""
        argv: list[object] = ["nsenter", f"--net=/run/netns/{self.network.client}", "ssh", *SSH_OPTIONS, "-i", self.key]
        argv += [
            "-o",
            f"ConnectTimeout={max(1, round(timeout))}",
            "-p",
            port or self.port,
            *(["-b", source] if source else []),
        ]
        started = time.monotonic()
        done = execute([*argv, f"root@{to}", command], check=False, deadline=timeout + 30)
        return Login(done.code == 0, done.err.strip(), time.monotonic() - started)

    def symptom(
        self, *, to: str = SERVER4, source: str = "", port: int = 0, timeout: float = 4.0, banner: float = 9.0
    ) -> str:
        """What one new connection lives through until sshd's banner.

        connected, timeout (no connection within `timeout` seconds, which spans two retransmissions of the SYN, so
        that an ICMP error that was lost is met again), refused, unreachable, closed (opened, then ended without a
        banner), silent (opened, then nothing within `banner` seconds; libwrap sleeps 5 before it closes).
        """
        if ":" in to:
            self.network.flush_neighbours()
        with self.network.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) as tried:
            if source:
                tried.bind((source, 0))
            tried.settimeout(timeout)
            try:
                tried.connect((to, port or self.port))
            except socket.timeout:
                return "timeout"
            except OSError as error:
                if error.errno in _CONNECT:
                    return _CONNECT[error.errno]
                raise
            tried.settimeout(banner)
            try:
                got = tried.recv(255)
                if got.startswith(b"SSH-"):
                    # An answer, so that sshd does not log an error for a scanner's connect and close.
                    tried.sendall(b"SSH-2.0-ec2ssh-agent-test\r\n")
                    return "connected"
                return "closed"  # the end, or words such as MaxStartups'
            except socket.timeout:
                return "silent"
            except ConnectionError:
                return "closed"

    def wait_symptom(self, wanted: str, seconds: float = 60.0, *, to: str = SERVER4, source: str = "") -> None:
        """Waits until a new connection lives through `wanted`."""
        seen: list[str] = []

        def look() -> bool:
            seen.append(self.symptom(to=to, source=source))
            return seen[-1] == wanted

        try:
            wait_for(f"symptom {wanted}", look, seconds)
        except AssertionError as error:
            raise AssertionError(f"{error}; the last were {seen[-5:]}") from None

    def wait_ssh(self, seconds: float = 60.0, *, to: str = SERVER4, source: str = "", port: int = 0) -> float:
        """Waits until sshd's banner comes: a new connection every 20 ms. Gives the seconds it took."""
        return wait_for(
            f"sshd's banner from {to} for {source or 'the client'}",
            lambda: self._banner(to, source, port),
            seconds,
            every=0.02,
        )

    def _banner(self, to: str, source: str, port: int) -> bool:
        with self.network.socket(socket.AF_INET6 if ":" in to else socket.AF_INET) as tried:
            if source:
                tried.bind((source, 0))
            # A client that met a DROP sends its SYN again only after a second: a new connection tells sooner.
            tried.settimeout(0.1)
            try:
                tried.connect((to, port or self.port))
                tried.settimeout(2.0)
                if not tried.recv(255).startswith(b"SSH-"):
                    return False
                tried.sendall(b"SSH-2.0-ec2ssh-agent-test\r\n")
                return True
            except OSError:
                return False
