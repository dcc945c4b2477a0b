"""The live reader on a real kernel: one generation, both of iptables-nft's faces, sets and chains only when met."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from namespace import Namespace, namespace

READER = Path(__file__).with_name("nft_reader.py")


@pytest.fixture
def host() -> Iterator[Namespace]:
    with namespace() as made:
        made.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
        yield made


def read(host: Namespace, *sources: str, **asked: object) -> Any:
    done = subprocess.run(
        host.argv(sys.executable, str(READER)),
        input=json.dumps({"sources": sources, **asked}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_no_rules_at_all(host: Namespace) -> None:
    got = read(host, "1.2.3.4")
    assert got["tables"] == {}
    assert got["outcomes"] == {"1.2.3.4": "connected"}
    assert got["ran"] == []
    assert got["generation"] >= 1


def test_rules_of_iptables_nft_in_its_own_words_and_native_ones_as_they_are(host: Namespace) -> None:
    host.run("iptables-nft", "-P", "INPUT", "DROP")
    host.run("iptables-nft", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
    host.run("iptables-nft", "-A", "INPUT", "-s", "192.0.2.0/24", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
    host.run("nft", "add set ip filter bad { type ipv4_addr; elements = { 192.0.2.7 }; }")
    host.run("nft", "insert rule ip filter INPUT ip saddr @bad counter drop")
    got = read(host, "192.0.2.6", "192.0.2.7", "198.51.100.1")
    assert got["tables"] == {
        "iptables-nft ip filter": {
            "INPUT": [
                "ip saddr @bad counter drop",
                "-A INPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT",
                "-A INPUT -s 192.0.2.0/24 -p tcp -m tcp --dport 22 -j ACCEPT",
            ]
        }
    }
    assert got["outcomes"] == {"192.0.2.6": "connected", "192.0.2.7": "timeout", "198.51.100.1": "timeout"}


def test_without_iptables_its_extensions_are_unknown_the_rest_is_not(host: Namespace) -> None:
    host.run("iptables-nft", "-A", "INPUT", "-s", "192.0.2.0/24", "-j", "DROP")
    host.run("iptables-nft", "-A", "INPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP")
    got = read(host, "192.0.2.6", "198.51.100.1", without=["iptables-nft-save", "iptables-save"])
    assert got["outcomes"] == {"192.0.2.6": "timeout", "198.51.100.1": "uncertain"}


def test_without_nft_the_rules_of_iptables_are_read(host: Namespace) -> None:
    host.run("iptables-nft", "-P", "INPUT", "DROP")
    host.run("iptables-nft", "-A", "INPUT", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT")
    host.run("iptables-nft", "-A", "INPUT", "-s", "192.0.2.0/24", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
    host.run("ip6tables-nft", "-A", "INPUT", "-p", "ipv6-icmp", "-j", "ACCEPT")
    got = read(host, "192.0.2.6", "198.51.100.1", without=["nft"])
    assert got["outcomes"] == {"192.0.2.6": "connected", "198.51.100.1": "timeout"}
    assert set(got["tables"]) == {"iptables-nft ip filter", "iptables-nft ip6 filter"}


@pytest.mark.parametrize(
    ("added", "reason"),
    [
        ("add table ip t", "table ip t"),
        (
            "insert rule ip filter INPUT ip saddr { 192.0.2.1, 192.0.2.3 } counter drop",
            "a rule of chain INPUT of table ip filter",
        ),
        ("insert rule ip filter INPUT ip saddr 192.0.2.1 drop", "a rule of chain INPUT of table ip filter"),
        ("insert rule ip filter INPUT ct state new counter drop", "a rule of chain INPUT of table ip filter"),
        ("insert rule ip filter INPUT tcp sequence 5 counter drop", "a rule of chain INPUT of table ip filter"),
        ("add chain ip filter x { type filter hook input priority 5; }", "chain x of table ip filter"),
        ("add chain ip filter OUTPUT { type filter hook output priority 5; }", "chain OUTPUT of table ip filter"),
    ],
)
def test_without_nft_rules_that_iptables_prints_wrongly_are_unseen(host: Namespace, added: str, reason: str) -> None:
    host.run("iptables-nft", "-A", "INPUT", "-p", "tcp", "--dport", "22", "-j", "ACCEPT")
    host.run("nft", added)
    assert read(host, without=["nft"])["unseen"] == f"nft is not installed, and iptables cannot print {reason}"


def test_a_reset_for_one_version_of_ip(host: Namespace) -> None:
    host.run("nft", "add table inet t; add chain inet t i { type filter hook input priority 0; }")
    host.run("nft", "add rule inet t i meta nfproto ipv6 tcp dport 22 reject with tcp reset")
    assert "nfproto" not in host.run("nft", "list", "ruleset")
    assert read(host, "192.0.2.1")["outcomes"] == {"192.0.2.1": "connected"}
    host.run("nft", "add rule inet t i meta protocol ip tcp dport 22 reject with tcp reset")
    assert read(host, "192.0.2.1")["outcomes"] == {"192.0.2.1": "refused"}


def test_legacy_rules_are_read_where_there_are_any_and_never_made(host: Namespace) -> None:
    host.run("nft", "add table ip t")
    got = read(host)
    assert not any("legacy" in command for command in got["ran"])
    assert host.run("cat", "/proc/net/ip_tables_names") == ""
    host.run(
        "iptables-legacy", "-A", "INPUT", "-s", "192.0.2.0/24", "-j", "REJECT", "--reject-with", "icmp-host-prohibited"
    )
    got = read(host, "192.0.2.1", "192.0.3.1")
    assert got["outcomes"] == {"192.0.2.1": "unreachable", "192.0.3.1": "connected"}
    assert host.run("cat", "/proc/net/ip_tables_names") == "filter\n"
    assert "iptables-legacy ip filter" in got["tables"]


def test_the_contents_of_ipsets(host: Namespace) -> None:
    host.run("ipset", "create", "inner", "hash:net")
    host.run("ipset", "add", "inner", "192.0.2.0/24")
    host.run("ipset", "create", "outer", "list:set")
    host.run("ipset", "add", "outer", "inner")
    host.run("iptables-nft", "-A", "INPUT", "-m", "set", "--match-set", "outer", "src", "-j", "DROP")
    got = read(host, "192.0.2.1", "192.0.3.1")
    assert got["outcomes"] == {"192.0.2.1": "timeout", "192.0.3.1": "connected"}


def test_elements_are_fetched_only_of_sets_that_the_packet_meets(host: Namespace) -> None:
    host.run(
        "nft", "-f", "-",
        stdin="""table inet t {
          set met { type ipv4_addr; flags interval; elements = { 192.0.2.0/24 }; }
          set beyond { type ipv4_addr; elements = { 192.0.2.1 }; }
          map verdicts { type ipv4_addr : verdict; elements = { 198.51.100.1 : drop }; }
          chain input { type filter hook input priority 0;
            ip saddr @met accept
            ip saddr vmap @verdicts
            tcp dport 80 ip saddr @beyond drop
            tcp dport 22 accept
            ip saddr @beyond drop
          }
        }""",
    )  # fmt: skip
    got = read(host, "192.0.2.1", "198.51.100.1", "198.51.100.2")
    assert got["outcomes"] == {"192.0.2.1": "connected", "198.51.100.1": "timeout", "198.51.100.2": "connected"}
    fetched = {command for command in got["ran"] if " list set " in command or " list map " in command}
    assert fetched == {"nft -j list set inet t met", "nft -j list map inet t verdicts"}


def test_an_ingress_chain_is_for_its_devices(host: Namespace) -> None:
    host.run(
        "nft", "-f", "-",
        stdin="""table netdev t {
          chain here { type filter hook ingress device "eth0" priority 0; ip saddr 192.0.2.1 drop; }
          chain there { type filter hook ingress devices = { eth1, lo } priority 0; ip saddr 192.0.2.2 drop; }
        }""",
    )  # fmt: skip
    got = read(host, "192.0.2.1", "192.0.2.2")
    assert got["outcomes"] == {"192.0.2.1": "timeout", "192.0.2.2": "connected"}


RULES = "flush ruleset; table ip t { chain i { type filter hook input priority 0; ip saddr 192.0.2.%d drop; }; }"


def test_rules_that_change_while_they_are_read_are_read_again(host: Namespace) -> None:
    host.run("nft", RULES % 1)
    got = read(host, "192.0.2.1", "192.0.2.2", change=f"nft '{RULES % 2}'", times=1)
    assert got["outcomes"] == {"192.0.2.1": "connected", "192.0.2.2": "timeout"}
    assert got["ran"].count("nft -j -t list ruleset") == 2


def test_rules_that_never_stand_still_are_unseen(host: Namespace) -> None:
    host.run("iptables-nft", "-A", "INPUT", "-s", "192.0.2.1", "-j", "DROP")
    got = read(host, change="iptables-nft -A INPUT -s 192.0.2.2 -j DROP", times=100)
    assert got["unseen"] == "the rules were changed while they were read, 10 times in a row"


def test_what_was_read_is_read_again_only_after_a_change(host: Namespace) -> None:
    host.run("iptables-nft", "-A", "INPUT", "-s", "192.0.2.1", "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP")
    between = ["true", "iptables-nft -F", "nft add chain ip filter INPUT '{ policy drop; }'", "true"]
    got = read(host, "192.0.2.1", "192.0.2.2", between=between)
    programs = ["nft -j -t list ruleset", "iptables-nft-save"]
    assert got["ran"] == programs
    shut, free = "timeout", "connected"
    assert got["later"] == [
        [{"192.0.2.1": shut, "192.0.2.2": free}, []],
        [{"192.0.2.1": free, "192.0.2.2": free}, programs],
        [{"192.0.2.1": shut, "192.0.2.2": shut}, programs],
        [{"192.0.2.1": shut, "192.0.2.2": shut}, []],
    ]
    quota = "nft add rule ip filter INPUT quota over 1 mbytes drop"
    assert [ran for _, ran in read(host, between=[quota, "true"])["later"]] == [programs, programs[:1]]


def test_other_rules_may_change_all_the_time(host: Namespace) -> None:
    host.run("iptables-nft", "-A", "INPUT", "-s", "192.0.2.1", "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP")
    host.run("nft", "table inet x { chain y { }; }")
    host.run("nft", "table ip t { set s { type ipv4_addr; elements = { 192.0.2.2 }; }; "
             "chain i { type filter hook input priority 0; ip saddr @s drop; }; }")  # fmt: skip
    got = read(host, "192.0.2.1", "192.0.2.2", "192.0.2.3", change="nft add rule inet x y drop", times=100)
    assert got["outcomes"] == {"192.0.2.1": "timeout", "192.0.2.2": "timeout", "192.0.2.3": "connected"}


def test_a_set_that_changes_while_it_is_fetched_is_read_again(host: Namespace) -> None:
    text = "flush ruleset; table ip t { set s { type ipv4_addr; elements = { 192.0.2.%d }; };"
    text += " chain i { type filter hook input priority 0; ip saddr @s drop; }; }"
    host.run("nft", text % 1)
    got = read(host, "192.0.2.1", "192.0.2.2", change=f"nft '{text % 2}'", times=2)
    assert got["outcomes"] == {"192.0.2.1": "connected", "192.0.2.2": "timeout"}


def _services(count: int) -> str:
    lines = ["*nat", ":PREROUTING ACCEPT", ":INPUT ACCEPT", ":OUTPUT ACCEPT", ":POSTROUTING ACCEPT", ":SERVICES -"]
    lines += [f":SVC-{number} -" for number in range(count)] + [":NODEPORTS -"]
    lines += ["-A PREROUTING -m comment --comment services -j SERVICES", "-A OUTPUT -j SERVICES"]
    for number in range(count):
        address = f"10.96.{number >> 8}.{number & 255}"
        comment = f"-m comment --comment svc{number}"
        lines.append(f"-A SERVICES -d {address}/32 -p tcp {comment} -m tcp --dport 80 -j SVC-{number}")
        lines.append(f"-A SVC-{number} {comment} -j MARK --set-xmark 0x4000/0x4000")
        lines.append(f"-A SVC-{number} -p tcp {comment} -j DNAT --to-destination 172.16.0.1:8080")
    lines.append("-A SERVICES -m addrtype --dst-type LOCAL -j NODEPORTS")
    lines.append("-A NODEPORTS -p tcp -s 192.0.2.9 --dport 22 -j DNAT --to-destination 172.16.0.1:22")
    lines += ["COMMIT", "*filter", ":INPUT DROP", ":FORWARD ACCEPT", ":OUTPUT ACCEPT"]
    lines += ["-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-A INPUT -p tcp --dport 22 -j ACCEPT"]
    return "\n".join([*lines, "COMMIT", ""])


def test_on_a_large_host_only_chains_that_the_packet_enters_are_read(host: Namespace) -> None:
    host.run("iptables-nft-restore", stdin=_services(1000))
    got = read(host, "192.0.2.1", "192.0.2.9")
    assert got["outcomes"] == {"192.0.2.1": "connected", "192.0.2.9": "uncertain"}
    listed = {command.split()[-1] for command in got["ran"] if " list chain " in command}
    assert listed == {"PREROUTING", "INPUT", "OUTPUT", "POSTROUTING", "SERVICES", "NODEPORTS"}
    assert not any("ruleset" in command or command.startswith("iptables-nft-save") for command in got["ran"])


def test_a_dormant_table_of_a_large_host_decides_nothing(host: Namespace) -> None:
    host.run("iptables-nft-restore", stdin=_services(1000))
    host.run("nft", "table ip filter { flags dormant; }")
    host.run("nft", "table ip off { flags dormant; chain i { type filter hook input priority 0; policy drop; }; }")
    assert read(host, "192.0.2.1")["outcomes"] == {"192.0.2.1": "connected"}
