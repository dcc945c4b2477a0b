"""Debian's Prometheus, Alertmanager, node_exporter and VictoriaMetrics, run on loopback from a cache; OpenTelemetry's
own protocol.

The packages are downloaded and unpacked, not installed: no service of theirs starts here. Alertmanager wants its files
below /usr/share: each program runs in a mount namespace in which they seem to be there.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

CACHE = Path("/var/cache/ec2ssh-agent/monitoring")
_PACKAGES = ("prometheus", "prometheus-alertmanager", "prometheus-node-exporter")
_PROTOCOL = "opentelemetry-proto"
_TRIXIE = "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] http://deb.debian.org/debian trixie main\n"


def programs() -> Path:
    """The directory with prometheus, promtool, prometheus-alertmanager and prometheus-node-exporter."""
    with _cached("programs") as directory:
        if directory:
            subprocess.run(["apt-get", "-qq", "download", *_PACKAGES], cwd=directory, check=True, timeout=300)
            for package in directory.glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, directory / "root"], check=True, timeout=120)
    return CACHE / "programs/root/usr/bin"


def victoria_metrics() -> Path:
    """Debian 13's VictoriaMetrics, which receives OTLP and answers PromQL.

    Debian takes the OTLP receiver out of its Prometheus, in 13 and after; Debian 12's VictoriaMetrics has none yet.
    """
    with _cached("trixie-victoria-metrics") as directory:
        if directory:
            (directory / "sources.list").write_text(_TRIXIE)
            for part in ("lists/partial", "cache/archives/partial"):
                (directory / part).mkdir(parents=True, exist_ok=True)
            options = {
                "Dir::Etc::SourceList": directory / "sources.list", "Dir::Etc::SourceParts": "-",
                "Dir::State::Lists": directory / "lists", "Dir::Cache": directory / "cache",
                "APT::Sandbox::User": "root",
            }  # fmt: skip
            apt = ["apt-get", "-qq", *(word for key, value in options.items() for word in ("-o", f"{key}={value}"))]
            subprocess.run([*apt, "update"], check=True, timeout=300)
            subprocess.run([*apt, "download", "victoria-metrics"], cwd=directory, check=True, timeout=300)
            for package in directory.glob("*.deb"):
                subprocess.run(["dpkg-deb", "-x", package, directory / "root"], check=True, timeout=120)
                package.unlink()
    return CACHE / "trixie-victoria-metrics/root/usr/bin/victoria-metrics"


def protocol() -> Path:
    """The directory with the Python module opentelemetry.proto, made by OpenTelemetry from its definitions."""
    with _cached("protocol") as directory:
        if directory:
            pip = (sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", "install")
            subprocess.run([*pip, "--target", directory / "lib", _PROTOCOL], check=True, timeout=300)
    return CACHE / "protocol/lib"


@contextlib.contextmanager
def _cached(name: str) -> Iterator[Optional[Path]]:
    """A directory to fill, or None where that is done."""
    directory = CACHE / name
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (directory / "complete").exists():
            yield None
        else:
            yield directory
            (directory / "complete").touch()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def running(log: Path, *argv: object, ready: str) -> Iterator[None]:
    """A server, until it answers 200 at `ready`; ended at the end."""
    share = CACHE / "programs/root/usr/share"
    script = f'mount -t overlay overlay -o lowerdir={share}:/usr/share /usr/share && exec "$@"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", *map(str, argv)]
    with open(log, "wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            eventually(lambda: fetch(ready) is not None, f"{argv[0]} is not ready: see {log}")
            yield
        finally:
            process.terminate()


def fetch(url: str) -> Any:
    """JSON, or text; None where the server does not answer or says no."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            body = response.read()
    except OSError:
        return None
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


def eventually(true: Callable[[], object], otherwise: str, *, seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, otherwise
        time.sleep(0.1)
