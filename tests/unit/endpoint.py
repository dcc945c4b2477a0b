"""An endpoint for the tests of delivery: it does what it is told to, be it hostile, and remembers what it got."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, Optional


class Got(NamedTuple):
    method: str
    path: str
    headers: Mapping[str, str]  # names in lower case
    raw: bytes

    @property
    def body(self) -> bytes:
        return gzip.decompress(self.raw) if self.headers.get("content-encoding") == "gzip" else self.raw


#: Given the request and the connection, writes the whole answer.
Behaviour = Callable[[Got, socket.socket], None]


def reply(status: str = "200 OK", headers: str = "", body: bytes = b"") -> Behaviour:
    """A proper answer, after which the connection is closed."""
    head = f"HTTP/1.1 {status}\r\n{headers}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"

    def answer(got: Got, connection: socket.socket) -> None:
        connection.sendall(head.encode() + body)

    return answer


def forever(first: bytes, again: bytes, pause: float = 0.0) -> Behaviour:
    """Sends `first`, then `again` for ever (or 40 s), as fast as it is taken or with a pause."""

    def behaviour(got: Got, connection: socket.socket) -> None:
        end = time.monotonic() + 40
        connection.sendall(first)
        while time.monotonic() < end:
            if again:
                connection.sendall(again)
            time.sleep(pause)

    return behaviour


class Hostile(NamedTuple):
    """`line` is what `status` is to say of it, as far as that is the same everywhere, `refused`: for good."""

    behaviour: Behaviour
    line: str
    refused: bool = False


#: "bad TLS" behaves; its certificate is to be one that nobody vouches for.
HOSTILE = {
    "hangs": Hostile(forever(b"", b"", 1.0), "no whole answer within 2 s"),
    "endless body": Hostile(forever(b"HTTP/1.1 500 No\r\n\r\n", b"x" * 65536), "500 No: xxx"),
    "500": Hostile(reply("500 Internal Server Error"), "500 Internal Server Error"),
    "429": Hostile(reply("429 Too Many Requests", "Retry-After: 99999999\r\n"), "429 Too Many Requests"),
    "301": Hostile(
        forever(b"HTTP/1.1 301 Moved Permanently\r\nLocation: https://elsewhere.example/\r\n\r\n", b"x" * 65536),
        "301 Moved Permanently: a re",
        True,
    ),
    "401": Hostile(reply("401 Unauthorized", body=b"no such token"), "401 Unauthorized: no such token", True),
    "bad TLS": Hostile(reply(), "TLS: "),
    "slow bytes": Hostile(forever(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.3), "no whole answer within 2 s"),
    "1 GB header": Hostile(forever(b"HTTP/1.1 200 OK\r\nX: ", b"x" * (1 << 20)), "got more than 65536 bytes"),
}


class Server:
    """Accepts until it is closed; one thread a connection, one request a connection."""

    def __init__(self, listener: socket.socket, behaviour: Behaviour, tls: Optional[ssl.SSLContext]) -> None:
        self.listener, self.behaviour, self.tls = listener, behaviour, tls
        self.connections = 0
        self.got: list[Got] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        # A client that gives up, or that dislikes the certificate, is what some of the tests are about.
        with contextlib.suppress(OSError, ValueError):
            connection.settimeout(20)
            if self.tls:
                connection = self.tls.wrap_socket(connection, server_side=True)
            got = _read(connection)
            with self.lock:
                self.got.append(got)
            self.behaviour(got, connection)
        connection.close()


def _read(connection: socket.socket) -> Got:
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(65536)
        if not part:
            raise ValueError("closed")
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    while len(body) < int(headers.get("content-length", "0")):
        body += connection.recv(65536)
    method, path, _ = first.split(" ")
    return Got(method, path, headers, body)


@contextlib.contextmanager
def serving(
    behaviour: Optional[Behaviour] = None, *, tls: Optional[ssl.SSLContext] = None, unix: str = "", ipv6: bool = False
) -> Iterator[Server]:
    family = socket.AF_UNIX if unix else socket.AF_INET6 if ipv6 else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.bind(unix or ("::1" if ipv6 else "127.0.0.1", 0))
    with serving_on(listener, behaviour, tls=tls) as server:
        yield server


@contextlib.contextmanager
def serving_on(
    listener: socket.socket, behaviour: Optional[Behaviour] = None, *, tls: Optional[ssl.SSLContext] = None
) -> Iterator[Server]:
    """On a socket that is bound, and that it closes."""
    listener.listen(256)
    server = Server(listener, behaviour or reply(), tls)
    try:
        yield server
    finally:
        server.closing.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def url(server: Server, scheme: str = "http", path: str = "/in") -> str:
    return f"{scheme}://127.0.0.1:{server.listener.getsockname()[1]}{path}"


def authority(directory: Path, *, name: str = "127.0.0.1") -> None:
    """A private CA (ca.pem), and a server's and a client's certificate by it (server.pem, client.pem with .key)."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA")
    for who in ("server", "client"):
        openssl("req", *key[:-2], "-keyout", f"{who}.key", "-out", f"{who}.csr", "-subj", f"/CN={who}")
        extension = directory / f"{who}.ext"
        extension.write_text(f"subjectAltName=IP:{name}\n")
        openssl("x509", "-req", "-in", f"{who}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial",
                "-days", "2", "-extfile", extension.name, "-out", f"{who}.pem")  # fmt: skip
