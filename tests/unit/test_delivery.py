"""Delivery to real servers on loopback: a private CA, client certificates, HMAC, a unix socket, and hostility."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import re
import resource
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3

from ec2ssh_agent import status
from ec2ssh_agent.config import Config
from ec2ssh_agent.host import Host
from ec2ssh_agent.report import delivery, spool
from ec2ssh_agent.report.delivery import Answer, Endpoint, Misconfigured, Outcome
from ec2ssh_agent.report.formats import Request
from ec2ssh_agent.report.reporter import Reporter
from endpoint import HOSTILE, Behaviour, Got, authority, forever, reply, serving, url
from status_example import example

BODY = json.dumps({"schema": "ec2ssh-agent.report/1", "text": "x" * 3000}).encode()
ID = "0b8a4a3e-3c1c-4a1e-9b59-0b6d5f6f9d11"


def send(config: Config, *, whole: float = delivery.WHOLE) -> Answer:
    return Endpoint(Host(), config).send(Request("", BODY), id=ID, now=1_795_875_300.0, whole=whole)


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("ca")
    authority(directory)
    return directory


def tls(ca: Path, *, client: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(ca / "server.pem", ca / "server.key")
    if client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca / "ca.pem")
    return context


def file(directory: Path, name: str, content: str) -> str:
    path = directory / name
    path.write_text(content)
    return str(path)


def test_https_with_private_ca_client_certificate_token_and_signature(tmp_path: Path, ca: Path) -> None:
    config = Config(
        report_ca_file=str(ca / "ca.pem"), report_client_cert=str(ca / "client.pem"),
        report_client_key=str(ca / "client.key"), report_token_file=file(tmp_path, "token", "s3cret\n"),
        report_hmac_key_file=file(tmp_path, "key", "k3y\n"),
    )  # fmt: skip
    with serving(reply("202 Accepted"), tls=tls(ca, client=True)) as server:
        answer = send(config._replace(report_url=url(server, "https")))
        assert answer == Answer(Outcome.DELIVERED, "202 Accepted", code=202)
    (got,) = server.got
    assert (got.method, got.path, got.body) == ("POST", "/in", BODY)
    assert got.headers["content-encoding"] == "gzip" and len(got.raw) < len(BODY)
    assert got.headers["idempotency-key"] == ID
    assert got.headers["authorization"] == "Bearer s3cret"
    mac = hmac.new(b"k3y", b"1795875300." + got.raw, hashlib.sha256).hexdigest()
    assert got.headers["x-ec2ssh-signature"] == f"t=1795875300,sha256={mac}"


def test_a_certificate_that_nobody_vouches_for(ca: Path) -> None:
    with serving(tls=tls(ca)) as server:
        answer = send(Config(report_url=url(server, "https")))
        assert answer.outcome is Outcome.RETRY and answer.text.startswith("TLS: ") and "certificate" in answer.text
        assert server.got == []


def test_a_certificate_of_another_host(ca: Path) -> None:
    with serving(tls=tls(ca)) as server:
        there = url(server, "https").replace("127.0.0.1", "localhost")
        answer = send(Config(report_url=there, report_ca_file=str(ca / "ca.pem")))
        assert answer.outcome is Outcome.RETRY and answer.text.startswith("TLS: ")
        assert server.got == []


def test_a_server_that_wants_a_client_certificate_and_gets_none(ca: Path) -> None:
    with serving(tls=tls(ca, client=True)) as server:
        answer = send(Config(report_url=url(server, "https"), report_ca_file=str(ca / "ca.pem")))
        assert answer.outcome is Outcome.RETRY and server.got == []


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    with serving(unix=path) as server:
        answer = send(Config(report_url="http+unix://" + path.replace("/", "%2F") + "/v1/in?a=b"))
        assert answer == Answer(Outcome.DELIVERED, "200 OK", code=200)
    assert server.got[0].path == "/v1/in?a=b" and server.got[0].body == BODY


def test_the_reason_is_the_innermost_errors_without_objects() -> None:
    inner = OSError("<urllib3.connection.HTTPSConnection object at 0x7ffbedb6dcd0>: [Errno 111] Connection refused")
    assert delivery._reason(ValueError(inner)) == "[Errno 111] Connection refused"
    assert delivery._reason(ValueError("no > way")) == "no > way"
    assert delivery._reason(ValueError(ValueError("Connection aborted.", OSError("timed out")))) == "timed out"
    late = urllib3.exceptions.ConnectTimeoutError(urllib3.HTTPSConnectionPool("h"), "Connection to h timed out.")
    assert delivery._reason(late) == "Connection to h timed out."


def test_ipv6() -> None:
    with serving(ipv6=True) as server:
        there = url(server).replace("127.0.0.1", "[::1]")
        assert send(Config(report_url=there)).outcome is Outcome.DELIVERED
    assert server.got[0].headers["host"].startswith("[::1]:")


@contextlib.contextmanager
def environment() -> Iterator[None]:
    """What is set within is gone afterwards."""
    before = dict(os.environ)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def test_a_proxy() -> None:
    with environment(), serving() as server, serving(reply("202 From Proxy")) as proxy:
        os.environ["http_proxy"] = url(proxy, path="")
        assert send(Config(report_url="http://endpoint.invalid/in")).text == "202 From Proxy"
        assert proxy.got[0].path == "http://endpoint.invalid/in"
        # What is for this instance does not leave it, whatever the variables say.
        assert send(Config(report_url=url(server))).text == "200 OK"
        os.environ["no_proxy"] = "endpoint.invalid"
        assert send(Config(report_url="http://endpoint.invalid/in")).outcome is Outcome.RETRY and len(proxy.got) == 1
        del os.environ["no_proxy"]
        # Through a proxy, too, TLS is with the endpoint: the proxy is asked for a tunnel, and gives none.
        os.environ["https_proxy"] = url(proxy, path="")
        assert send(Config(report_url="https://endpoint.invalid/in")).outcome is Outcome.RETRY
        assert (proxy.got[-1].method, proxy.got[-1].path) == ("CONNECT", "endpoint.invalid:443")
        assert len(server.got) == 1


def test_a_unix_socket_that_is_not_there(tmp_path: Path) -> None:
    answer = send(Config(report_url="http+unix://" + str(tmp_path / "no").replace("/", "%2F") + "/in"))
    assert answer.outcome is Outcome.RETRY and "No such file" in answer.text


def test_nobody_listens() -> None:
    with serving() as server:
        there = url(server)
    answer = send(Config(report_url=there))
    assert answer.outcome is Outcome.RETRY and "refused" in answer.text.lower()


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("200 OK", Outcome.DELIVERED), ("204 No Content", Outcome.DELIVERED), ("400 Bad Request", Outcome.PARKED),
        ("401 Unauthorized", Outcome.PARKED), ("404 Not Found", Outcome.PARKED), ("413 Too Large", Outcome.PARKED),
        ("408 Request Timeout", Outcome.RETRY), ("429 Too Many Requests", Outcome.RETRY),
        ("500 Internal Server Error", Outcome.RETRY), ("503 Service Unavailable", Outcome.RETRY),
        ("301 Moved Permanently", Outcome.PARKED), ("304 Not Modified", Outcome.PARKED),
    ],
)  # fmt: skip
def test_what_an_answer_means(status: str, outcome: Outcome) -> None:
    with serving(reply(status, body=b"" if status[0] == "2" else b"why\x1b[31m it is so\nmore")) as server:
        answer = send(Config(report_url=url(server)))
    assert answer.outcome is outcome and answer.text.startswith(status)
    assert answer.text.isprintable()


def test_retry_after() -> None:
    with serving(reply("503 Busy", "Retry-After: 120\r\n")) as server:
        assert send(Config(report_url=url(server))).retry_after == 120
    now = 1_795_875_300.0
    assert delivery.retry_after({"Retry-After": "Sat, 28 Nov 2026 14:16:00 GMT"}, now) == 60
    for value in ("", "soon", "-5", "9" * 400, "Sat, 28 Nov 9999999 14:16:00 GMT"):
        assert delivery.retry_after({"Retry-After": value}, now) >= 0


@pytest.mark.parametrize("status", ["400 Bad Request", "500 No"])
def test_an_endpoint_that_sends_back_what_it_got_tells_no_secret(tmp_path: Path, status: str) -> None:
    def behaviour(got: Got, connection: socket.socket) -> None:
        said = f"got {got.headers.get('authorization')} {got.path}".encode()
        reply(status, body=said)(got, connection)

    with serving(behaviour) as server:
        there = url(server, path="/in?key=s3cr3t")
        token = file(tmp_path, "token", "t0k3n-of-mine\n")
        first = send(Config(report_url=there, report_token_file=token))
        second = send(Config(report_url=there.replace("//", "//user:pass%40word@")))
    for answer in (first, second):
        assert answer.text.startswith(f"{status}: got ") and "(hidden)" in answer.text
        assert not re.search("t0k3n|s3cr3t|pass|dXNlcjpwYXNzQHdvcmQ", answer.text)


def test_an_endpoint_that_names_the_key_or_the_password_alone_tells_no_secret() -> None:
    with serving(reply("403 No", body=b"neither s3cr3t/1 nor s3cr3t%2F1 nor p@ssword is right")) as server:
        there = url(server, path="/in?v=2&key=s3cr3t%2F1").replace("//", "//user:p%40ssword@")
        answer = send(Config(report_url=there))
    assert answer.text == "403 No: neither (hidden) nor (hidden) nor (hidden) is right"


def test_a_token_that_comes_back_cut_off_is_no_less_a_secret(tmp_path: Path) -> None:
    token = "eyJhbGciOiJIUzI1NiJ9." + "0123456789abcdef" * 400  # more than is read of a body

    def behaviour(got: Got, connection: socket.socket) -> None:
        reply("403 No", body=f"not {token[:40]}, nor {got.headers['authorization']}".encode())(got, connection)

    with serving(behaviour) as server:
        answer = send(Config(report_url=url(server), report_token_file=file(tmp_path, "token", token)))
    assert answer.text == "403 No: not (hidden), nor Bearer (hidden)"


def test_a_proxy_that_cannot_be_used_tells_no_secret() -> None:
    for there in ("http://user:passw0rd@exa mple:99999", "http://user:p@ssw0rd@127.0.0.1:1", "user:passw0rd@a:99999",
                  "socks9://user:passw0rd@a"):  # fmt: skip
        with environment():
            os.environ["https_proxy"] = there
            answer = send(Config(report_url="https://endpoint.invalid/in"))
        assert answer.outcome is Outcome.RETRY and answer.text
        assert "ssw0rd" not in answer.text, answer.text


def test_an_address_that_cannot_be_used_tells_no_secret() -> None:
    for there in ("https://user:passw0rd@exa mple/?key=s3cr3t", "https://user:passw0rd@127.0.0.1:1/?key=s3cr3t",
                  "https://user:passw0rd@a:99999/?key=s3cr3t", "https://user:passw0rd@/?key=s3cr3t"):  # fmt: skip
        answer = send(Config(report_url=there))
        assert answer.outcome is Outcome.RETRY and answer.text
        assert "passw0rd" not in answer.text and "s3cr3t" not in answer.text, answer.text


def test_a_redirect_on_the_same_host_is_followed_and_no_other() -> None:
    def behaviour(got: Got, connection: socket.socket) -> None:
        target = {"/in": "/there", "/away": "http://localhost:1/there", "/loop": "/loop"}.get(got.path)
        answer = reply("307 Temporary Redirect", f"Location: {target}\r\n") if target else reply()
        answer(got, connection)

    with serving(behaviour) as server:
        assert send(Config(report_url=url(server))).outcome is Outcome.DELIVERED
        assert server.got[-1].path == "/there" and server.got[-1].body == BODY
        away = send(Config(report_url=url(server, path="/away")))
        assert away.outcome is Outcome.PARKED and "another host" in away.text
        assert send(Config(report_url=url(server, path="/loop"))).outcome is Outcome.PARKED
        assert len(server.got) == 7


def test_an_endpoint_that_does_not_take_gzip() -> None:
    def behaviour(got: Got, connection: socket.socket) -> None:
        reply("415 Unsupported Media Type" if "content-encoding" in got.headers else "200 OK")(got, connection)

    with serving(behaviour) as server:
        answer = send(Config(report_url=url(server)))
    assert answer == Answer(Outcome.DELIVERED, "200 OK", plain=True, code=200)
    assert server.got[1].raw == BODY


# -- hostility: bounded time, bounded memory, a clear line


@contextlib.contextmanager
def in_bounds(seconds: float, mebibytes: int) -> Iterator[None]:
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert time.monotonic() - started < seconds
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < mebibytes << 10


@pytest.mark.parametrize(
    ("behaviour", "outcome"),
    [
        (forever(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 65536), Outcome.DELIVERED),
        (forever(b"HTTP/1.1 500 No\r\n\r\n", b"x" * 65536), Outcome.RETRY),
        (forever(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65536), Outcome.RETRY),
        (forever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 1000), Outcome.RETRY),
        (forever(b"\x16\x03\x01 garbage", b"\0" * 65536), Outcome.RETRY),
        (reply("999 \x1b]0;title\x07"), Outcome.RETRY),
        (lambda got, connection: None, Outcome.RETRY),
        (forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), Outcome.RETRY),
        (forever(b"HTTP/1.1 500 No\r\nTransfer-Encoding: chunked\r\n\r\n", b"f" * 65536), Outcome.RETRY),
        (forever(b"HTTP/1.1 302 Found\r\nLocation: /there\r\n\r\n", b"x" * 65536), Outcome.PARKED),
        (forever(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /in\r\n\r\n", b"x" * 65536), Outcome.PARKED),
    ],
    ids=["endless body", "endless error", "endless header line", "endless headers", "garbage", "odd status", "closes",
         "endless 100 Continue", "endless chunk size", "endless redirect", "endless redirects"],
)  # fmt: skip
def test_a_hostile_endpoint(behaviour: Behaviour, outcome: Outcome) -> None:
    with serving(behaviour) as server, in_bounds(15, 64):
        answer = send(Config(report_url=url(server)), whole=10.0)
        assert answer.outcome is outcome and answer.text and answer.text.isprintable() and len(answer.text) <= 200


def test_one_byte_now_and_then_ends_at_the_deadline_of_the_whole() -> None:
    # Each byte comes before the read's time-out.
    with serving(forever(b"HTTP/1.1 200 OK\r\nX: ", b"x", 0.3)) as server, in_bounds(8, 32):
        answer = send(Config(report_url=url(server)), whole=2.0)
        assert answer == Answer(Outcome.RETRY, "no whole answer within 2 s")


def test_a_server_that_hangs() -> None:
    with serving(forever(b"", b"", 1.0)) as server, in_bounds(8, 32):
        assert send(Config(report_url=url(server)), whole=2.0).outcome is Outcome.RETRY


@pytest.mark.parametrize("headers", ["Content-Length: 99\r\n", "Transfer-Encoding: chunked\r\n"])
def test_a_body_that_does_not_come_changes_nothing_of_what_the_status_says(headers: str) -> None:
    """4xx is parked, Retry-After holds: by the deadline, or where the connection is cut off."""
    cases = (("401 No\r\n", Outcome.PARKED, 0.0), ("503 No\r\nRetry-After: 9\r\n", Outcome.RETRY, 9.0))
    for lines, outcome, asked in cases:
        head = f"HTTP/1.1 {lines}{headers}\r\n".encode()
        for behaviour in (forever(head, b"", 1.0), lambda got, connection, head=head: connection.sendall(head)):
            with serving(behaviour) as server, in_bounds(8, 32):
                answer = send(Config(report_url=url(server)), whole=1.5)
            assert answer == Answer(outcome, f"{lines[:3]} No", asked, code=int(lines[:3]))


def test_cookies_are_not_kept() -> None:
    """A hundred of 64 KiB with each answer, over a long queue, would be the end of the reporter."""
    with serving(reply("200 OK", "Set-Cookie: a=b\r\nSet-Cookie: c=d; Path=/\r\n")) as server:
        endpoint = Endpoint(Host(), Config(report_url=url(server)))
        for _ in range(2):
            endpoint.send(Request("", BODY), id=ID, now=1_795_875_300.0)
        assert len(endpoint.session.cookies) == 0
    assert len(server.got) == 2 and not any("cookie" in got.headers for got in server.got)


class Quick(Endpoint):
    """Its deadline of the whole is two seconds."""

    def send(
        self, request: Request, *, id: str, now: float, plain: bool = False, binary: bool = False, whole: float = 2.0
    ) -> Answer:
        return super().send(request, id=id, now=now, plain=plain, binary=binary, whole=whole)


@pytest.mark.parametrize("name", HOSTILE)
def test_status_has_a_clear_line_for_a_hostile_endpoint(tmp_path: Path, ca: Path, name: str) -> None:
    """Through the reporter, the spool and the status page; the report waits or is parked, the next pass goes on."""
    behaviour, line, refused = HOSTILE[name]
    host, document = Host(str(tmp_path)), example()
    for path in (spool.REPORTER, "/run/ec2ssh-agent"):
        Path(host.path(path)).mkdir(parents=True)
    bad = name == "bad TLS"  # of a CA that the reporter does not know
    with serving(behaviour, tls=tls(ca) if bad else None) as server, in_bounds(20, 64):
        there = url(server, "https" if bad else "http")
        config = Config(report_url=there, identity_imds="off")
        id = spool.enqueue(host, config, document, None, "change")
        reporter = Reporter(host, config)
        reporter.endpoint = Quick(host, config)
        reporter.run(only=id)
    page = status.render({**document, "report": spool.summary(host, config)}, width=80, colour=False)
    told = " ".join(page.partition("the endpoint's last answer: ")[2].split())
    assert told.startswith(line) or line in told, page
    assert (f"{int(not refused)} waiting" in page) and ("1 refused for good" in page) is refused, page
    assert spool.enqueue(host, config, document, None, "repair")


# -- what cannot be used


def test_credentials_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="No such file"):
        Endpoint(Host(), Config(report_url="https://a/", report_token_file=str(tmp_path / "no")))
    with pytest.raises(Misconfigured, match="empty"):
        Endpoint(Host(), Config(report_url="https://a/", report_hmac_key_file=file(tmp_path, "key", "\n")))
    with pytest.raises(Misconfigured, match="one line"):
        Endpoint(Host(), Config(report_url="https://a/", report_token_file=file(tmp_path, "t", "a\r\nX: y\n")))
    with pytest.raises(Misconfigured, match="http://"):
        Endpoint(Host(), Config(report_url="http://a/", report_token_file=file(tmp_path, "t", "token")))
    with pytest.raises(Misconfigured, match="/nowhere/ca.pem: no CA certificate: No such file or directory"):
        Endpoint(Host(), Config(report_url="https://a/", report_ca_file="/nowhere/ca.pem"))


@pytest.mark.parametrize("there", ["https://", "https://[::1", "https://exa mple/", "http+unix://", "https://a:99999/"])
def test_an_address_that_is_none(there: str) -> None:
    answer = send(Config(report_url=there))
    assert answer.outcome is Outcome.RETRY and answer.text
