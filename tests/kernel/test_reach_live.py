"""`reach` without files: the rules, addresses and listeners of the network namespace that it runs in."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ec2ssh_agent.reach import addresses
from namespace import Namespace, namespace

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "agent/ec2ssh_agent/schemas/reach.json").read_text())
LISTENER = """
import socket, time
for host, family in (("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)):
    made = socket.socket(family)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind((host, 22))
    made.listen()
    globals()[host] = made
print("ready", flush=True)
time.sleep(300)
"""


@contextlib.contextmanager
def instance() -> Iterator[Namespace]:
    """A namespace with an address outside, default routes, and somebody who listens on port 22."""
    with namespace() as inside:
        for words in (
            "link add eth0 type veth peer name peer0",
            "link set peer0 up",
            "link set eth0 up",
            "address add 198.51.100.2/24 dev eth0",
            "address add 2001:db8::2/64 dev eth0 nodad",
            "route add default via 198.51.100.1",
            "-6 route add default via 2001:db8::1",
        ):
            inside.run("ip", *words.split())
        listener = subprocess.Popen(inside.argv(sys.executable, "-c", LISTENER), stdout=subprocess.PIPE, text=True)
        try:
            assert listener.stdout and listener.stdout.readline() == "ready\n"
            yield inside
        finally:
            listener.kill()
            listener.wait()
            if listener.stdout:
                listener.stdout.close()


def reach(inside: Namespace, *options: str) -> tuple[int, Any, str]:
    argv = inside.argv("env", f"PYTHONPATH={ROOT / 'agent'}", sys.executable, "-m", "ec2ssh_agent", "reach")
    done = subprocess.run([*argv, *options], capture_output=True, text=True, timeout=120)
    assert "Traceback" not in done.stderr, done.stderr
    if "--json" not in options:
        return done.returncode, done.stdout, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
    return done.returncode, document, done.stderr


def outcome(document: Any, address: str) -> str:
    family, value = addresses.parse_address(address)
    (answer,) = (item for item in document["answers"] if item["family"] == family.value)
    (found,) = (
        name
        for name, sources in answer["sources"].items()
        if any(low <= value <= high for low, high in (addresses.parse_cidr(source)[1] for source in sources))
    )
    return str(found)


def test_an_open_instance() -> None:
    with instance() as inside:
        status, document, _ = reach(inside, "--json", "--port", "22")
    assert (status, document["unseen"]) == (0, [])
    assert [(item["interface"], item["family"], item["port"]) for item in document["answers"]] == [
        ("eth0", "ipv4", 22),
        ("eth0", "ipv6", 22),
    ]
    assert (outcome(document, "8.8.8.8"), outcome(document, "2001:db8:1::1")) == ("connected", "connected")


def test_the_rules_of_all_tools_together() -> None:
    with instance() as inside:
        inside.run(
            "ipset", "restore", stdin="create bad hash:net\nadd bad 203.0.113.0/24\nadd bad 203.0.113.7 nomatch\n"
        )
        inside.run("iptables-nft", "-A", "INPUT", "-m", "set", "--match-set", "bad", "src", "-j", "DROP")
        inside.run("iptables-legacy", "-A", "INPUT", "-s", "192.0.2.0/24", "-j", "REJECT")
        inside.run("nft", "-f", "-", stdin="""table inet own {
            set guests { type ipv4_addr; flags interval; elements = { 10.0.0.0/8 } }
            chain in { type filter hook input priority 10; ip saddr @guests reject with icmp admin-prohibited; }
        }""")  # fmt: skip
        status, document, _ = reach(inside, "--json", "--port", "22")
        path, page, _ = reach(inside, "--port", "22", "--from", "203.0.113.9")
    assert status == 0
    sources = ("203.0.113.9", "203.0.113.7", "192.0.2.5", "10.1.1.1", "8.8.8.8")
    assert [outcome(document, source) for source in sources] == [
        "timeout", "connected", "refused", "unreachable", "connected",
    ]  # fmt: skip
    deciding = {(r["backend"], r["outcome"]) for r in document["answers"][0]["rules"] if r["rule"]}
    assert deciding == {("iptables-nft", "timeout"), ("iptables-legacy", "refused"), ("nftables", "unreachable")}
    assert path == 2
    assert "-A INPUT -m set --match-set bad src -j DROP" in page


@pytest.mark.parametrize(
    ("rules", "status"),
    [
        ("", 0),
        ("meta nfproto ipv6 tcp dport 22 drop", 1),  # one of the ways in is shut
        ("tcp dport 22 drop", 2),
        ("icmpv6 type nd-neighbor-solicit drop", 1),
    ],
)
def test_exit_status(rules: str, status: int) -> None:
    with instance() as inside:
        chain = f"chain in {{ type filter hook input priority 0; {rules}\n }}"
        inside.run("nft", "-f", "-", stdin=f"table inet own {{\n{chain}\n}}\n")
        assert reach(inside, "--port", "22")[0] == status


def test_other_questions() -> None:
    with instance() as inside:
        status, document, _ = reach(inside, "--json", "--port", "23", "--to", "198.51.100.2")
        assert (status, [item["to"] for item in document["answers"]]) == (2, [["198.51.100.2"]])
        assert outcome(document, "8.8.8.8") == "refused"
        status, page, _ = reach(inside, "--interface", "eth9")
        assert (status, page.splitlines()[0]) == (3, "eth9 ipv4: not judged: no such interface")
        status, _, complaint = reach(inside, "--to", "192.0.2.9")
        assert (status, complaint) == (64, "ec2ssh-agent: --to: no external interface has this address\n")
