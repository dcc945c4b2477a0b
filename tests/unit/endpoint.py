"""An endpoint on loopback for the tests of delivery: it does what it is told to, and remembers what it got."""

from __future__ import annotations

import contextlib
import gzip
import socket
import ssl
import subprocess
import threading
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


class Server:
    """Accepts until it is closed; one thread a connection, one request a connection."""

    def __init__(self, listener: socket.socket, behaviour: Behaviour, tls: Optional[ssl.SSLContext]) -> None:
        self.listener, self.behaviour, self.tls = listener, behaviour, tls
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
