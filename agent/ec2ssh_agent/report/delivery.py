"""One report to one endpoint, over HTTPS, HTTP or a unix socket. Runs unprivileged; imported by the reporter alone.

Nothing of the endpoint is trusted: certificates are always verified, redirects go to no other host, of a body 4 KiB are
read, http.client bounds the headers (64 KiB a line, 100 of them), no cookie is kept, and the whole exchange has a
deadline, which an alarm enforces against a peer that sends one byte now and then.
"""

from __future__ import annotations

import base64
import contextlib
import enum
import gzip
import hashlib
import hmac
import os
import re
import signal
import socket
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING, Any, Optional
from urllib.parse import unquote, urljoin, urlsplit

from .. import __version__
from ..config import Config
from ..host import Host, HostError
from ..model import AgentError
from ..plain import NamedTuple
from .formats import Request, address

if TYPE_CHECKING:
    from requests import Response, Session

#: Seconds: to connect, between two bytes, and for the whole exchange.
CONNECT, READ, WHOLE = 5.0, 10.0, 30.0
_BODY_CAP = 4096
_REDIRECTS = 3
_COMPRESS_FROM = 1024
#: What is shorter is no secret, and may stand in any text; of a longer one so many characters give it away.
_SECRET, _BEGINNING = 4, 12
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")
_RETRIED = (408, 425, 429)
_NOT_UNDERSTOOD = (400, 415)
_JSON = "application/json"
_PROTOBUF = "application/x-protobuf"


class Outcome(enum.Enum):
    DELIVERED = "delivered"
    PARKED = "parked"  # refused for good: sending the same again would be refused again
    RETRY = "retry"


class Answer(NamedTuple):
    """`text` is one printable line for a person, `code` HTTP's, if there was any answer.

    `plain`: the endpoint does not take gzip; `binary`: it was sent protobuf, not OTLP's JSON.
    """

    outcome: Outcome
    text: str
    retry_after: float = 0.0
    plain: bool = False
    binary: bool = False
    code: int = 0


class Misconfigured(AgentError):
    """The [report] section or its credentials cannot be used."""


class TooSlow(Exception):
    """The whole exchange took too long. No OSError: urllib3 would take it for one of the connection's."""


def _unix_adapter() -> Any:
    """What serves http+unix://%2Frun%2Fthing.sock/path for requests, of any version from 2.25 on."""
    import urllib3
    import urllib3.connection
    from requests.adapters import HTTPAdapter

    class Connection(urllib3.connection.HTTPConnection):
        def __init__(self, path: str) -> None:
            super().__init__("localhost", timeout=READ)
            self.path = path

        def connect(self) -> None:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(READ)
            self.sock.connect(self.path)

    class Pool(urllib3.HTTPConnectionPool):
        def __init__(self, path: str) -> None:
            super().__init__("localhost", timeout=READ)
            self.path = path

        def _new_conn(self) -> Any:
            return Connection(self.path)

    class Adapter(HTTPAdapter):
        def get_connection_with_tls_context(
            self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
        ) -> Any:
            return self.get_connection(request.url)

        def get_connection(self, url: Any, proxies: Any = None) -> Any:
            return Pool(unquote(urlsplit(url).netloc))

        def request_url(self, request: Any, proxies: Any) -> str:
            return str(request.path_url)

    return Adapter()


def session() -> Session:
    """For talking to strangers: no ~/.netrc, no REQUESTS_CA_BUNDLE, no proxy that the request does not name, no cookies
    (they would pile up over a queue), and no look at where a redirect leads, before which requests reads all its body.
    """
    from http.cookiejar import DefaultCookiePolicy

    import requests

    class Bare(requests.Session):
        def get_redirect_target(self, resp: Any) -> None:
            return None

    made = Bare()
    made.trust_env = False
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    return made


# -- the endpoint


class Endpoint:
    """The configured endpoint, with its credentials. Raises Misconfigured."""

    def __init__(self, host: Host, config: Config) -> None:
        self.url = config.report_url
        self.token = _secret(host, config.report_token_file).decode("ascii", "replace")
        self.key = _secret(host, config.report_hmac_key_file)
        if self.token and not re.fullmatch(r"[\x21-\x7e]+", self.token):
            raise Misconfigured(f"{config.report_token_file}: a token is one line of printable ASCII")
        if self.token and self.url.startswith("http://") and not _loopback(self.url):
            raise Misconfigured("[report] token_file: a token is not sent over http:// to another host")
        self.proxies: Mapping[str, str] = {}
        self.session = session()
        self.session.mount("http+unix://", _unix_adapter())
        if self.url.startswith("https://"):
            _try_certificates(host, config)
        bundle = config.report_ca_file or next((path for path in _BUNDLES if host.exists(path)), "")
        self.session.verify = host.path(bundle) if bundle else True
        if config.report_client_cert:
            cert, key = host.path(config.report_client_cert), config.report_client_key
            self.session.cert = (cert, host.path(key)) if key else cert

    def send(
        self, request: Request, *, id: str, now: float, plain: bool = False, binary: bool = False, whole: float = WHOLE
    ) -> Answer:
        """Sends one request, with `id` as its idempotency key. Never raises for what an endpoint or a network does.

        `plain`, `binary`: what an earlier answer said of the endpoint.
        """
        import requests
        import urllib3

        try:
            with deadline(whole):
                answer = self._negotiated(request, id, now, plain, binary)
        except TooSlow:
            answer = Answer(Outcome.RETRY, f"no whole answer within {whole:g} s")
        except requests.exceptions.SSLError as error:
            answer = Answer(Outcome.RETRY, f"TLS: {_reason(error)}")
        except (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            answer = Answer(Outcome.RETRY, f"{type(error).__name__}: {_reason(error)}")
        return answer._replace(text=_line(self._without_secrets(answer.text)))

    def _without_secrets(self, text: str) -> str:
        """Everybody may read the answer in status.json; an endpoint may send back what it got, an error the URL."""
        query = self.url.partition("?")[2]
        secrets = [self.token, query, *(part.partition("=")[2] for part in query.split("&"))]
        for url in (self.url, *self.proxies.values()):
            userinfo = "".join(re.findall(r"(?:^|//)([^/?#]*)@", url)[:1])
            secrets += [userinfo, base64.b64encode(unquote(userinfo).encode()).decode(), userinfo.partition(":")[2]]
        for secret in (*secrets, *map(unquote, secrets)):
            text = _hidden(text, secret) if len(secret) >= _SECRET else text
        return text

    def _negotiated(self, request: Request, id: str, now: float, plain: bool, binary: bool) -> Answer:
        """OTLP goes as what the receiver took before, first as JSON, and where that is refused as protobuf, or the
        other way round: not every receiver knows both, and another may be there now."""

        def send(binary: bool) -> Answer:
            encoded, kind = (request.binary(), _PROTOBUF) if binary else (request, _JSON)
            return self._send(encoded, id, now, plain, kind)._replace(binary=binary)

        answer = send(binary and bool(request.otlp))
        if request.otlp and answer.code in _NOT_UNDERSTOOD:
            other = send(not binary)
            return other if other.outcome is Outcome.DELIVERED else answer
        return answer

    def _send(self, request: Request, id: str, now: float, plain: bool, kind: str) -> Answer:
        url = address(self.url, request.path)
        compressed = request.compress and not plain and len(request.body) >= _COMPRESS_FROM
        body = gzip.compress(request.body, 6, mtime=0) if compressed else request.body
        headers = {**self._headers(body, id, now), "Content-Type": kind}
        if compressed:
            headers["Content-Encoding"] = "gzip"
        for _ in range(_REDIRECTS + 1):
            self.proxies = _proxies(url)
            _try_proxy(url, self.proxies)
            response = self.session.post(
                url, data=body, headers=headers, proxies=self.proxies, timeout=(CONNECT, READ),
                allow_redirects=False, stream=True,
            )  # fmt: skip
            with contextlib.closing(response):
                if response.status_code in (307, 308) and "location" in response.headers:
                    target = urljoin(url, response.headers["location"])
                    if not _same_host(url, target):
                        return Answer(Outcome.PARKED, _said(response, "redirects to another host"))
                    url = target
                    continue
                if response.status_code == 415 and compressed:
                    return self._send(request, id, now, True, kind)._replace(plain=True)
                return _answer(response, now)
        return Answer(Outcome.PARKED, f"more than {_REDIRECTS} redirects")

    def _headers(self, body: bytes, id: str, now: float) -> dict[str, str]:
        headers = {
            "Idempotency-Key": id,
            "User-Agent": f"ec2ssh-agent/{__version__}",
            "Accept-Encoding": "identity",
        }
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if self.key:
            headers["X-EC2SSH-Signature"] = signature(self.key, body, int(now))
        return headers


def signature(key: bytes, body: bytes, seconds: int) -> str:
    """contracts.md: over the time, a dot and the body as it is on the wire (compressed, if it is)."""
    mac = hmac.new(key, f"{seconds}.".encode() + body, hashlib.sha256)
    return f"t={seconds},sha256={mac.hexdigest()}"


def _secret(host: Host, path: str) -> bytes:
    if not path:
        return b""
    try:
        content = host.read(path, cap=1 << 16).strip()
    except HostError as error:
        raise Misconfigured(str(error)) from error
    if not content:
        raise Misconfigured(f"{path}: empty")
    return content


def _try_certificates(host: Host, config: Config) -> None:
    """Raises Misconfigured for files that OpenSSL does not take: amidst a connection its error would name none, and it
    would ask whoever is at a terminal for the password of a key that has one.
    """
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca, cert, key = config.report_ca_file, config.report_client_cert, config.report_client_key

    def no_password() -> str:
        raise Misconfigured(f"{key or cert}: the key has a password, and nobody is there to give it")

    if key and not cert:
        raise Misconfigured("[report] client_key: there is no client_cert")
    with _named(f"{ca}: no CA certificate"):
        if ca and os.path.isdir(host.path(ca)):
            context.load_verify_locations(capath=host.path(ca))
        elif ca:
            context.load_verify_locations(host.path(ca))
    for path in filter(None, (cert, key)):
        _secret(host, path)
    with _named(f"{' and '.join(filter(None, (cert, key)))}: no certificate with its key"):
        if cert:
            context.load_cert_chain(host.path(cert), host.path(key) if key else None, no_password)


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Raises Misconfigured for what OpenSSL says, without its tags."""
    try:
        yield
    except OSError as error:
        why = re.sub(r"^\[[^]]*\] | \(_ssl\.c:\d+\)$", "", error.strerror or str(error))
        raise Misconfigured(f"{what}: {why}") from error


def _proxies(url: str) -> dict[str, str]:
    """The proxies that the environment names for a URL. Raises ValueError."""
    from requests.utils import get_environ_proxies

    if "+unix" in url or _loopback(url):
        return {}  # what is for this instance leaves it by no proxy: its token may be in clear
    found: dict[str, str] = get_environ_proxies(url, no_proxy=None)
    return found


def _try_proxy(url: str, proxies: Mapping[str, str]) -> None:
    """With a user and no host requests would fail in its own code. Raises InvalidProxyURL, ValueError."""
    from requests.exceptions import InvalidProxyURL
    from requests.utils import select_proxy

    chosen = select_proxy(url, proxies)
    if chosen and not urlsplit(chosen if "//" in chosen else f"//{chosen}").hostname:
        raise InvalidProxyURL(f"the proxy variable for {urlsplit(url).scheme}:// names no host")


def _hidden(text: str, secret: str) -> str:
    """Without `secret`, also where the text holds only the beginning of it, because it was cut."""
    first, *others = text.split(secret[:_BEGINNING])
    rest = secret[_BEGINNING:]
    return "(hidden)".join([first, *(part[len(os.path.commonprefix([part, rest])) :] for part in others)])


def _loopback(url: str) -> bool:
    return urlsplit(url).hostname in ("localhost", "127.0.0.1", "::1")


def _same_host(url: str, target: str) -> bool:
    """Whether a redirect stays: the same scheme, host and port."""
    left, right = urlsplit(url), urlsplit(target)
    return (left.scheme, left.netloc.rpartition("@")[2]) == (right.scheme, right.netloc.rpartition("@")[2])


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Raises TooSlow in the main thread when the block takes longer; again each second, should a library swallow it."""

    def ring(number: int, frame: Optional[FrameType]) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


# -- the answer


def _answer(response: Response, now: float) -> Answer:
    code = response.status_code
    if 200 <= code < 300:
        return Answer(Outcome.DELIVERED, _said(response), code=code)
    if code >= 500 or code in _RETRIED:
        return Answer(Outcome.RETRY, _said(response), retry_after(response.headers, now), code=code)
    why = "a redirect that is not followed" if 300 <= code < 400 else ""
    return Answer(Outcome.PARKED, _said(response, why), code=code)


def retry_after(headers: Mapping[str, str], now: float) -> float:
    """Seconds that the endpoint asks for (RFC 9110, 10.2.3): a number, or a date."""
    value = headers.get("Retry-After", "").strip()
    if value.isascii() and value.isdecimal():
        return float(value[:9])
    import email.utils

    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now) if value else 0.0
    except (ValueError, TypeError, OverflowError):
        return 0.0


def _said(response: Response, why: str = "") -> str:
    """`503 Service Unavailable: the first line of the body`, as it came."""
    text = f"{response.status_code} {response.reason or ''}".strip()
    if why:
        return f"{text}: {why}"
    first = _first_line(response) if response.status_code >= 300 else ""
    return f"{text}: {first}" if first else text


def _first_line(response: Response) -> str:
    """Of its body; empty where none comes: what the status means holds without it."""
    import urllib3

    try:
        body = response.raw.read(_BODY_CAP, decode_content=False) or b""
    except (urllib3.exceptions.HTTPError, OSError, ValueError, TooSlow):
        return ""
    return str(body.decode("utf-8", "replace").strip().partition("\n")[0])


def _reason(error: BaseException) -> str:
    """The innermost error's words: requests wraps them in several coats."""
    inner: Any = error
    for _ in range(8):
        deeper = [e for e in (getattr(inner, "reason", None), *inner.args) if isinstance(e, BaseException)]
        if not deeper:
            break
        inner = deeper[0]
    # urllib3 has the connection in front: as another argument, or as text, `<urllib3.connection.… object at 0x7f…>: `.
    words = inner if isinstance(inner, OSError) or not inner.args else inner.args[-1]
    return re.sub(r"^<[^>]* object at 0x[0-9a-f]+>:? ", "", str(words))


def _line(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)[:200].strip()
