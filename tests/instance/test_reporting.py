"""Reports of a whole instance: through its own units, to an HTTPS endpoint outside, past a firewall and a reboot."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import hmac
import http.server
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from daemon import wait_baseline
from harness import CLIENTS4, Instance, boot, wait_for
from terminal import Terminal

PORT = 8443
KEY = b"k3y"
CONFIG = f"""\
[repair]
settle = 0s
baseline_after = 1s
[report]
interval = 30s
url = https://{CLIENTS4[0]}:{PORT}/in
ca_file = /etc/ec2ssh-agent/ca.pem
hmac_key_file = /etc/ec2ssh-agent/credentials/key
[identity]
imds = off
"""


class Endpoint(http.server.ThreadingHTTPServer):
    """HTTPS with a certificate of a private CA; it takes what is signed with the key, and keeps it."""

    daemon_threads = True

    def __init__(self, made: Instance, ca: Path) -> None:
        super().__init__((CLIENTS4[0], PORT), Handler, bind_and_activate=False)
        self.reports: list[dict[str, Any]] = []
        self.socket.close()
        plain = made.network.socket(socket.AF_INET)
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(ca / "server.pem", ca / "server.key")
        # The handshake is the handler's: a client that stalls must not keep the others out.
        self.socket = context.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
        self.server_bind()
        self.server_activate()

    def server_bind(self) -> None:
        self.socket.bind(self.server_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that the firewall cut off."""


class Handler(http.server.BaseHTTPRequestHandler):
    server: Endpoint
    timeout = 20

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["Content-Length"]))
        seconds, _, mac = self.headers["X-EC2SSH-Signature"].removeprefix("t=").partition(",sha256=")
        good = hmac.compare_digest(mac, hmac.new(KEY, f"{seconds}.".encode() + raw, hashlib.sha256).hexdigest())
        body = gzip.decompress(raw) if self.headers.get("Content-Encoding") == "gzip" else raw
        if good:
            self.server.reports.append(json.loads(body))
        self.send_response(202 if good else 403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""


@contextlib.contextmanager
def endpoint(made: Instance, ca: Path) -> Iterator[list[dict[str, Any]]]:
    with Endpoint(made, ca) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.reports
        server.shutdown()


def authority(directory: Path) -> None:
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True, timeout=60)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *new, "-days", "2", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA")
    openssl("req", *new, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    (directory / "ext").write_text(f"subjectAltName=IP:{CLIENTS4[0]}\n")
    openssl("x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "ext", "-out", "server.pem")  # fmt: skip


def prepare(root: Path, ca: Path) -> None:
    shutil.copy(ca / "ca.pem", root / "etc/ec2ssh-agent/ca.pem")
    credentials = root / "etc/ec2ssh-agent/credentials"
    credentials.mkdir(mode=0o755)
    (credentials / "key").write_bytes(KEY)
    groups = (line.split(":") for line in (root / "etc/group").read_text().splitlines())
    shutil.chown(credentials / "key", 0, next(int(fields[2]) for fields in groups if fields[0] == "ec2ssh-agent"))
    (credentials / "key").chmod(0o640)


def kinds(reports: list[dict[str, Any]]) -> list[str]:
    return [report["kind"] for report in reports]


def test_reports_of_an_instance(tmp_path: Path) -> None:
    authority(tmp_path)
    with boot(config=CONFIG, prepare=lambda root: prepare(root, tmp_path)) as made:
        with endpoint(made, tmp_path) as reports:
            wait_for("the first report", lambda: "change" in kinds(reports), 60)
            wait_baseline(made)
            _test_report(made)
            _locked_out(made, reports)
        # Nobody answers; what happens now is told after the reboot.
        made.run("mv /etc/ssh/sshd_config /etc/ssh/sshd_config.away; echo Nonsense > /etc/ssh/sshd_config")
        wait_for("a report that waits", lambda: bool(waiting(made)), 60)
        made.run("mv /etc/ssh/sshd_config.away /etc/ssh/sshd_config; systemctl reload ec2ssh-agent")
        waits = waiting(made)
        made.reboot()
        with endpoint(made, tmp_path) as reports:
            wait_for("the report from before the reboot", lambda: waits <= {r["id"] for r in reports}, 120)
            numbers = [report["sequence"] for report in reports if report["kind"] != "heartbeat"]
            assert numbers == sorted(numbers)
        assert "ec2ssh-agent-report" not in made.run("systemctl --no-pager --failed", check=False).out


def waiting(made: Instance) -> set[str]:
    names = made.run("ls /var/lib/ec2ssh-agent/spool").out.split()
    acknowledged = set(made.run("ls /var/lib/ec2ssh-agent-report").out.split())
    ids = {name[-41:-5] for name in names if name.startswith("0") and name.endswith(".json")}
    return ids - acknowledged


def _test_report(made: Instance) -> None:
    """Also while the reporter's own run waits for the next heartbeat, which it does at an interval of half a minute."""
    done = made.agent("report", "--test")
    assert (done.code, done.out) == (0, f"delivered to https://{CLIENTS4[0]}:{PORT}/in: 202 Accepted\n"), done.err
    made.run("chmod 0600 /etc/ec2ssh-agent/credentials/key")
    done = made.agent("report", "--test")
    assert done.code == 1 and "Permission denied" in done.out, (done.out, done.err)
    made.run("chmod 0640 /etc/ec2ssh-agent/credentials/key")


def blocks(text: str) -> int:
    """How many have been printed to their last line."""
    return len(re.findall(r"^-+ ec2ssh-agent -+\n(?:.+\n)*?-+\n", text, re.M))


def _somebody_is_logged_in(made: Instance, console: Terminal) -> None:
    """The block is for a console on which nobody works; a getty that waits there is nobody."""
    unit = "ec2ssh-agent-console.service"
    console.login()
    made.run(f"systemctl start {unit}")  # waits for what the agent may just have started, too
    before = console.text()
    made.run(f"systemctl start {unit}")
    assert console.text() == before
    wait_for("why", lambda: "somebody is logged in" in made.journal("-u", unit), 30)
    console.logout()
    console.getty()
    made.run(f"systemctl start {unit}")
    wait_for("the block beside a getty", lambda: blocks(console.text()) > blocks(before), 30)
    made.run("systemctl stop test-getty")


def _locked_out(made: Instance, reports: list[dict[str, Any]]) -> None:
    """A firewall that shuts out SSH and the endpoint: SSH is repaired, the report waits, the console has it."""
    console = Terminal(made)
    made.run(
        "nft 'table inet shut { chain input { type filter hook input priority filter; policy accept;"
        f" tcp sport {PORT} drop; tcp dport 22 drop; }}; }}'"
    )
    wait_for("SSH", lambda: made.client.symptom(timeout=1.5) == "connected", 60)
    wait_for("a repair that waits", lambda: "-repair-" in made.run("ls /var/lib/ec2ssh-agent/spool").out, 30)
    # One that was under way may have arrived, and its answer not.
    assert "repair" not in kinds(reports)
    count = len(reports)
    wait_for("the block on the console", lambda: blocks(console.text()) > 0, 30)
    block = console.text()
    assert "firewall" in block and CLIENTS4[0] not in block and "dport" not in block
    _somebody_is_logged_in(made, console)
    # The administrator lets the endpoint's answers in again.
    made.run("nft flush chain inet shut input")
    wait_for("the report of the repair", lambda: "repair" in kinds(reports), 180)
    repair = next(report for report in reports if report["kind"] == "repair")
    assert repair["repairs"][0]["outcome"] == "verified" and repair["health"] in ("ok", "degraded")
    assert len({report["id"] for report in reports[count:]}) == len(reports[count:])
