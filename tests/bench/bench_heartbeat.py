"""What a heartbeat costs: /usr/bin/python3 tests/bench/bench_heartbeat.py [--runs N]

The program that the timer starts, from its start to its end, each time with a heartbeat to send: to an HTTPS server on
loopback with a certificate of a private CA and a signature's key. CPU (user and system) and memory are the child's own.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "agent"), str(ROOT / "tests/unit")]

from endpoint import Server, authority, serving, url  # noqa: E402
from status_example import example  # noqa: E402

INTERVAL = 300.0


def prepare(root: Path, server: Server, ca: Path, format: str) -> None:
    for path in ("run/ec2ssh-agent", "var/lib/ec2ssh-agent-report", "etc/ec2ssh-agent"):
        (root / path).mkdir(parents=True)
    (root / "etc/key").write_text("k3y\n")
    (root / "etc/ca.pem").write_bytes((ca / "ca.pem").read_bytes())
    (root / "run/ec2ssh-agent/status.json").write_text(json.dumps({**example(), "valid_until": "2099-01-01T00:00:00Z"}))
    (root / "etc/ec2ssh-agent/agent.conf").write_text(
        f"[repair]\nmode = off\n[report]\nurl = {url(server, 'https')}\nformat = {format}\nca_file = /etc/ca.pem\n"
        "hmac_key_file = /etc/key\n[identity]\nimds = off\n"
    )


def once(root: Path) -> tuple[float, float]:
    """(seconds of CPU, peak of memory in MB)"""
    (root / "var/lib/ec2ssh-agent-report/state.json").unlink(missing_ok=True)
    command = ["/usr/bin/python3", "-I", "-c", START.format(agent=str(ROOT / "agent")), f"--root={root}"]
    pid = os.posix_spawn(command[0], command, {"PATH": os.environ["PATH"]})
    _, status, used = os.wait4(pid, 0)
    assert status == 0, status
    return used.ru_utime + used.ru_stime, used.ru_maxrss / 1024


START = "import sys; sys.path.insert(0, {agent!r}); from ec2ssh_agent.report.reporter import main; sys.exit(main())"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(ROOT / "agent")], check=True)
    for format in ("json", "otlp", "alertmanager"):
        with contextlib.ExitStack() as stack:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ec2ssh-bench-")))
            ca = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ec2ssh-bench-")))
            authority(ca)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(ca / "server.pem", ca / "server.key")
            server = stack.enter_context(serving(tls=context))
            prepare(root, server, ca, format)
            once(root)
            measured = [once(root) for _ in range(runs)]
            assert len(server.got) == runs + 1
        spent, memory = sorted(cpu for cpu, _ in measured), max(peak for _, peak in measured)
        median = spent[runs // 2]
        print(
            f"{format}: {median * 1000:.0f} ms of CPU in the median ({spent[0] * 1000:.0f} to {spent[-1] * 1000:.0f}), "
            f"{memory:.0f} MB at most; every {INTERVAL:.0f} s: {median / INTERVAL:.3%} of one core"
        )


if __name__ == "__main__":
    main()
