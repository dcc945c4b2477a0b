"""Mistakes in the reporter's configuration or environment, through the real program: a line, and the report waits.

With the mistake mended, the same report goes out.
"""

from __future__ import annotations

import json
import os
import pty
import ssl
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pytest

import ec2ssh_agent
from ec2ssh_agent.config import Config
from ec2ssh_agent.host import Host
from ec2ssh_agent.report import spool
from endpoint import Server, authority, serving, url
from status_example import example

PLACE = "/etc/ec2ssh-agent"


class Life(NamedTuple):
    """An instance below a directory, of which one report waits."""

    directory: Path
    host: Host
    id: str

    def write(self, lines: str) -> None:
        (self.directory / f"{PLACE}/agent.conf".lstrip("/")).write_text(
            f"[repair]\nmode = off\n[report]\n{lines}\n[identity]\nimds = off\n"
        )

    def command(self) -> list[str]:
        return ["/usr/bin/python3", "-m", "ec2ssh_agent.report.reporter", f"--root={self.directory}", "--now"]

    def environment(self, more: Mapping[str, str]) -> dict[str, str]:
        package = str(Path(ec2ssh_agent.__file__).parent.parent)
        return {"PATH": os.environ["PATH"], "PYTHONPATH": package, **more}

    def run(self, lines: str, variables: Mapping[str, str]) -> str:
        """What the endpoint's last answer was, as `status` shows it."""
        self.write(lines)
        ran = subprocess.run(
            self.command(), env=self.environment(variables), stdin=subprocess.DEVNULL, capture_output=True, timeout=60
        )
        assert ran.returncode == 0 and b"Traceback" not in ran.stderr, ran.stderr.decode()
        told = spool.summary(self.host, Config(report_url="https://a/"))["last"]
        assert json.loads(ran.stdout)["answer"] == told
        return str(told)

    def waits(self) -> bool:
        return [entry.id for entry in spool.entries(self.host)] == [self.id] and not spool.acknowledgement(
            self.host, self.id
        )


@pytest.fixture
def life(tmp_path: Path) -> Life:
    host = Host(str(tmp_path))
    for path in (spool.REPORTER, "/run/ec2ssh-agent", PLACE):
        Path(host.path(path)).mkdir(parents=True)
    Path(host.path("/run/ec2ssh-agent/status.json")).write_text(json.dumps(example()))
    return Life(tmp_path, host, spool.enqueue(host, Config(), example(), None, "change"))


def credentials(life: Life) -> Path:
    """A CA's directory, with a client's key that has a password, too."""
    directory = life.directory / PLACE.lstrip("/")
    authority(directory)
    lock = "openssl ec -aes128 -passout pass:x -in client.key -out locked.key; cat client.pem locked.key > both.pem"
    subprocess.run(["sh", "-ec", lock], cwd=directory, check=True, capture_output=True, timeout=60)
    return directory


def tls(directory: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    return context


def arrived(life: Life, server: Server) -> bool:
    said = spool.acknowledgement(life.host, life.id)
    keys = [got.headers["idempotency-key"] for got in server.got]
    return bool(said and not said.parked) and keys.count(life.id) == 1


#: The variable's value, and what is said of it.
PROXIES = {
    "http://user:passw0rd@": "InvalidProxyURL: the proxy variable for http:// names no host",
    "user:passw0rd@": "InvalidProxyURL: the proxy variable for http:// names no host",
    "http://": "InvalidProxyURL: the proxy variable for http:// names no host",
    "http://[::1": "Invalid IPv6 URL",
    "http://a:99999": "Failed to parse: http://a:99999",
    "http://.a..b": "",
    "http://user:passw0rd@\N{ACCOUNT OF}": "contains invalid characters",
    "http://user:passw0rd\N{EURO SIGN}@127.0.0.1:1": "",
    "http://user:passw0rd@127.0.0.1:1": "Connection refused",
}


def test_a_proxy_variable_that_is_none(life: Life) -> None:
    lines = "url = http://endpoint.invalid/in"
    for value, line in PROXIES.items():
        told = life.run(lines, {"http_proxy": value})
        assert told and line in told and "passw0rd" not in told and "0x7" not in told, (value, told)
        assert life.waits(), value
    with serving() as proxy:
        assert life.run(lines, {"http_proxy": url(proxy, path="")}) == "200 OK"
        assert arrived(life, proxy)


@pytest.mark.parametrize(
    "there",
    ["https://[::1", "https://\N{ACCOUNT OF}/", "https://.a..b/", "https://a:99999/",
     "https://user:passw0rd\N{EURO SIGN}@127.0.0.1:1/", "https://user:passw0rd@", "http+unix://%2Fnowhere/in"],
)  # fmt: skip
def test_an_address_that_is_none(life: Life, there: str) -> None:
    told = life.run(f"url = {there}", {})
    assert told and told != "none yet" and "passw0rd" not in told
    assert life.waits()


def test_files_that_cannot_be_used(life: Life) -> None:
    """Each is named. OpenSSL is not left to find out: of a key with a password it would ask for that."""
    directory = credentials(life)
    (directory / "garbage").write_bytes(bytes(range(256)))
    (directory / "empty").write_bytes(b"")
    (directory / "lines").write_bytes(b"a\r\nX: y\n")
    (directory / "hashed").mkdir()
    good = f"ca_file = {PLACE}/ca.pem\n"
    cases = {
        "token_file = {}/nowhere": "{}/nowhere: No such file or directory",
        "token_file = {}/lines": "{}/lines: a token is one line of printable ASCII",
        "token_file = {}/garbage": "{}/garbage: a token is one line of printable ASCII",
        "hmac_key_file = {}/empty": "{}/empty: empty",
        "hmac_key_file = {}": "{}: Is a directory",
        "ca_file = {}/nowhere": "{}/nowhere: no CA certificate: No such file or directory",
        "ca_file = {}/garbage": "{}/garbage: no CA certificate: ",
        "ca_file = {}/hashed": "TLS: ",
        "client_cert = {}/nowhere": "{}/nowhere: No such file or directory",
        "client_key = {}/client.key": "[report] client_key: there is no client_cert",
        "client_cert = {}/client.pem": "{}/client.pem: no certificate with its key: ",
        "client_cert = {}/both.pem": "{}/both.pem: the key has a password, and nobody is there to give it",
        "client_cert = {}/client.pem\nclient_key = {}/locked.key": "{}/locked.key: the key has a password, and nobody",
        "client_cert = {}/client.pem\nclient_key = {}/server.key": "server.key: no certificate with its key: ",
    }
    with serving(tls=tls(directory)) as server:
        there = f"url = {url(server, 'https')}\n"
        for lines, line in cases.items():
            lines = lines.format(PLACE, PLACE)
            told = life.run(there + ("" if "ca_file" in lines else good) + lines, {})
            assert line.format(PLACE) in told, (lines, told)
            assert life.waits() and server.got == [], lines
        assert life.run(there + good, {}) == "200 OK" and arrived(life, server)


def test_a_key_with_a_password_asks_nobody_at_a_terminal(life: Life) -> None:
    credentials(life)
    life.write(f"url = https://127.0.0.1:1/\nclient_cert = {PLACE}/both.pem")
    command, environment = life.command(), life.environment({})
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(command[0], command, environment)
    shown = b""
    while b"\n" not in shown and b"pass phrase" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    os.waitpid(pid, 0)
    assert b"pass phrase" not in shown and json.loads(shown)["answer"].startswith(f"{PLACE}/both.pem: the key has")


def test_variables_of_other_programs_change_nothing(life: Life) -> None:
    """No other CA, no user of ~/.netrc, and no file with the connection's keys."""
    directory = credentials(life)
    netrc = directory / "netrc"
    netrc.write_text("machine 127.0.0.1 login somebody password passw0rd\n")
    keys = directory / "keys"
    nowhere = dict.fromkeys(("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"), "/nowhere/file")
    with serving(tls=tls(directory)) as server:
        there = f"url = {url(server, 'https')}\n"
        # A CA that the environment alone trusts is not trusted.
        variables = {"REQUESTS_CA_BUNDLE": str(directory / "ca.pem"), "SSL_CERT_FILE": str(directory / "ca.pem")}
        assert life.run(there, variables).startswith("TLS: ") and life.waits()
        more = {"NETRC": str(netrc), "HOME": str(directory), "SSLKEYLOGFILE": str(keys)}
        (directory / ".netrc").write_text(netrc.read_text())
        assert life.run(there + f"ca_file = {PLACE}/ca.pem", {**nowhere, **more}) == "200 OK"
        assert arrived(life, server)
        assert not any("authorization" in got.headers for got in server.got) and not keys.exists()
