"""A host with nftables rules and a client that has every address, in two network namespaces, with real connections."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from namespace import Namespace, namespace

PROBE = Path(__file__).with_name("nft_probe.py")
PORT, OTHER = 22, 2200
V4, V6 = "10.0.5.20", "2001:db8:5::20"
_MAC_HOST, _MAC_CLIENT = "02:00:00:00:05:20", "02:00:00:00:05:01"


class World:
    """`host` has the rules; `ask` connects to it."""

    def __init__(self, host: Namespace, client: Namespace, prober: subprocess.Popen[str]) -> None:
        self.host = host
        self.client = client
        self._prober = prober

    def load(self, text: str) -> Optional[str]:
        """Replaces the rules; nft's complaint, where it has one."""
        done = subprocess.run(
            self.host.argv("nft", "-f", "-"), input="flush ruleset\n" + text, capture_output=True, text=True, timeout=60
        )
        return done.stderr if done.returncode else None

    def listing(self) -> bytes:
        return self.host.run("nft", "-j", "list", "ruleset").encode()

    def ask(self, sources: list[str], *, port: int = PORT, wait: float = 0.0) -> list[Optional[str]]:
        """What each source lives through, None: it cannot be asked."""
        wanted = [[source, V6 if ":" in source else V4, port] for source in sources]
        assert self._prober.stdin and self._prober.stdout
        self._prober.stdin.write(json.dumps({"wanted": wanted, "wait": wait}) + "\n")
        self._prober.stdin.flush()
        answers: list[Optional[str]] = json.loads(self._prober.stdout.readline())
        return answers


_SETTINGS = """
net.ipv4.icmp_msgs_per_sec=1000000 net.ipv4.icmp_msgs_burst=100000 net.ipv4.icmp_ratelimit=0
net.ipv6.icmp.ratelimit=0 net.ipv6.conf.eth0.accept_dad=0
net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=0
""".split()


def _wire(host: Namespace, client: Namespace) -> None:
    peer = f"peer name eth0 address {_MAC_CLIENT} netns {client.pid}"
    host.run("ip", "link", "add", "eth0", "address", _MAC_HOST, "type", "veth", *peer.split())
    for each in (host, client):
        each.run("sysctl", "-qw", *_SETTINGS)
        each.run("ip", "link", "set", "eth0", "up")
    host.run("sh", "-c", f"""set -e
        ip address add {V4}/32 dev eth0; ip address add {V6}/128 dev eth0 nodad
        ip neighbour replace 10.0.5.1 lladdr {_MAC_CLIENT} nud permanent dev eth0
        ip neighbour replace fe80::1 lladdr {_MAC_CLIENT} nud permanent dev eth0
        ip route add default via 10.0.5.1 dev eth0 onlink
        ip -6 route add default via fe80::1 dev eth0""")  # fmt: skip
    client.run("sh", "-c", f"""set -e
        ip neighbour replace {V4} lladdr {_MAC_HOST} nud permanent dev eth0
        ip neighbour replace {V6} lladdr {_MAC_HOST} nud permanent dev eth0
        ip route add {V4}/32 dev eth0; ip -6 route add {V6}/128 dev eth0
        ip route add local 0.0.0.0/0 dev lo table 100; ip rule add iif eth0 lookup 100
        ip -6 route add local ::/0 dev lo table 100; ip -6 rule add iif eth0 lookup 100""")  # fmt: skip


def _started(within: Namespace, *argv: str) -> subprocess.Popen[str]:
    made = subprocess.Popen(
        within.argv(sys.executable, str(PROBE), *argv),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert made.stdout and made.stdout.readline() == "ready\n"
    return made


@contextlib.contextmanager
def world(*, other: int = OTHER, host: Optional[Namespace] = None) -> Iterator[World]:
    """`other`: the second port that something listens on; `host`: a namespace that is there already."""
    with contextlib.ExitStack() as stack:
        host, client = host or stack.enter_context(namespace()), stack.enter_context(namespace())
        _wire(host, client)
        started = [_started(host, "serve", str(PORT), str(other)), _started(client)]
        try:
            yield World(host, client, started[1])
        finally:
            for process in started:
                process.kill()
                process.wait()
                for pipe in (process.stdin, process.stdout):
                    if pipe:
                        pipe.close()
