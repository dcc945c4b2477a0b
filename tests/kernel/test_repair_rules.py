"""Rules on the real kernel: put in, found, taken out; killed at every change, rolled back; listings the same after."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ec2ssh_agent.reach.ruleset import Backend
from ec2ssh_agent.steps import Insert, Rung
from repair_world import World, kill_everywhere, said, standing, world

TCP = ("-p", "tcp", "--dport", "22", "-j", "ACCEPT")
NETWORKS = tuple(f"10.{i}.0.0/16" for i in range(20))
NETWORKS6 = tuple(f"2001:db8:{i:x}::/48" for i in range(1, 20))

BASE = {
    "iptables-nft": "iptables-nft -P INPUT DROP; iptables-nft -A INPUT -i lo -j ACCEPT",
    "iptables-legacy": "iptables-legacy -P INPUT DROP; iptables-legacy -A INPUT -i lo -j ACCEPT",
    "ip6tables": "ip6tables-nft -P INPUT DROP; ip6tables-nft -A INPUT -p ipv6-icmp -j ACCEPT",
    "ip6tables-legacy": "ip6tables-legacy -P INPUT DROP",
    "nft": (
        "nft add table inet filter;"
        "nft add chain inet filter input '{ type filter hook input priority 0; policy drop; }';"
        "nft add set inet filter bad '{ type ipv4_addr; }'; nft add rule inet filter input iif lo accept comment other"
    ),
    "none": "true",
}

CASES: dict[str, tuple[str, tuple[Insert, ...]]] = {
    "nft variant": ("iptables-nft", (Insert(Backend.IPTABLES_NFT, "ip", "filter", "INPUT", TCP),)),
    "legacy": ("iptables-legacy", (Insert(Backend.LEGACY, "ip", "filter", "INPUT", TCP),)),
    "v6": ("ip6tables", (
        Insert(Backend.IPTABLES_NFT, "ip6", "filter", "INPUT", ("-i", "eth0", "-s", "2001:db8::/32", *TCP)),
        Insert(Backend.IPTABLES_NFT, "ip6", "filter", "INPUT",
               ("-p", "ipv6-icmp", "--icmpv6-type", "neighbour-solicitation", "-j", "ACCEPT")),
    )),
    "legacy v6": ("ip6tables-legacy", (
        Insert(Backend.LEGACY, "ip6", "filter", "INPUT", ("-i", "eth0", "-s", "2001:db8::/32", *TCP)),
        Insert(Backend.LEGACY, "ip6", "filter", "INPUT",
               ("-p", "ipv6-icmp", "--icmpv6-type", "neighbour-solicitation", "-j", "ACCEPT")),
        Insert(Backend.LEGACY, "ip6", "filter", "INPUT", TCP, networks=NETWORKS6),
    )),
    "second place": ("iptables-nft", (Insert(Backend.IPTABLES_NFT, "ip", "filter", "INPUT", TCP, position=2),)),
    "second place, legacy": ("iptables-legacy", (Insert(Backend.LEGACY, "ip", "filter", "INPUT", TCP, position=2),)),
    "set": ("iptables-nft", (Insert(Backend.IPTABLES_NFT, "ip", "filter", "INPUT", TCP, networks=NETWORKS),)),
    "set, legacy": ("iptables-legacy", (Insert(Backend.LEGACY, "ip", "filter", "INPUT", TCP, networks=NETWORKS),)),
    "replies": ("iptables-nft", (
        Insert(Backend.IPTABLES_NFT, "ip", "filter", "OUTPUT", ("-p", "tcp", "--sport", "22", "-j", "ACCEPT"),
               networks=("0.0.0.0/0",), source=False),
        Insert(Backend.IPTABLES_NFT, "ip", "raw", "PREROUTING", TCP),
    )),
    "nft": ("nft", (Insert(Backend.NFTABLES, "inet", "filter", "input", ("tcp", "dport", "22", "accept")),)),
    "nft set": ("nft", (
        Insert(Backend.NFTABLES, "inet", "filter", "input", ("tcp", "dport", "22", "accept"), networks=NETWORKS),
        Insert(Backend.NFTABLES, "inet", "filter", "input", ("tcp", "dport", "22", "accept"), networks=NETWORKS6),
    )),
    "no table yet": ("none", (Insert(Backend.IPTABLES_NFT, "ip", "mangle", "PREROUTING", TCP),)),
}  # fmt: skip


@pytest.fixture
def place() -> Iterator[World]:
    with world() as made:
        yield made


@pytest.mark.parametrize("case", CASES)
def test_put_in_and_taken_out(place: World, case: str) -> None:
    base, steps = CASES[case]
    place.sh(BASE[base])
    before = place.listing()
    made = said(place.drive("apply", rung=Rung("open", "", steps)))
    change = made["records"][0]["id"]
    added = standing(place.listing(), before)
    comment = f'"ec2ssh-agent:{change}"'
    assert len([line for line in added if comment in line]) == len(steps), added
    assert not standing(before, place.listing()), "an unrelated rule went away"
    for _ in range(2):
        assert said(place.drive("undo", id=change))["records"][0]["state"] == "undone"
        assert place.listing() == before


KILLED = ["nft variant", "legacy", "set", "nft set", "no table yet"]


@pytest.mark.parametrize("case", KILLED)
def test_killed_at_some_changes(place: World, case: str) -> None:
    base, steps = CASES[case]
    place.sh(BASE[base])
    kill_everywhere(place, Rung("open", "", steps), every=11)


@pytest.mark.slow
@pytest.mark.parametrize("case", KILLED)
def test_killed_at_every_change(place: World, case: str) -> None:
    base, steps = CASES[case]
    place.sh(BASE[base])
    kill_everywhere(place, Rung("open", "", steps), every=1)
