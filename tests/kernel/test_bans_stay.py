"""Openings in rulesets with bans on the real kernel: who is banned stays out, before, after, and after `undo`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

from differential import question
from ec2ssh_agent import opening
from ec2ssh_agent.assessment import Gap
from ec2ssh_agent.reach import addresses, analyse, ipsets, iptables, nftables
from ec2ssh_agent.reach.ruleset import Backend, Family, Ranges, Ruleset
from ec2ssh_agent.steps import Rung
from namespace import Namespace
from nft_world import OTHER, PORT
from nft_world import World as Wire
from nft_world import world as wired
from repair_world import World, said, world

BANNED, GOOD, LATER = "198.51.100.9", "203.0.113.7", "198.51.100.77"
QUESTION = question(OTHER)
NFT = f"""
table inet filter {{
  set f2b-set {{ type ipv4_addr; elements = {{ {BANNED} }}; }}
  chain f2b-sshd {{ ip saddr {BANNED} reject; return; }}
  chain input {{ type filter hook input priority 0; policy drop; %s; }}
}}"""
XTABLES = f"""
ipset create f2b-set hash:ip
ipset add f2b-set {BANNED}
$t -P INPUT DROP
$t -N f2b-sshd
$t -A f2b-sshd -s {BANNED} -j REJECT
$t -A f2b-sshd -j RETURN
"""
LO, WALL = "$t -A INPUT -i lo -j ACCEPT", "$t -A INPUT -p tcp --dport 22 -j DROP"
JUMP = "$t -A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd"
SET = "$t -A INPUT -p tcp -m multiport --dports 22 -m set --match-set f2b-set src -j REJECT"


class Case(NamedTuple):
    """`ban`: the command that bans another address; `few`: only 300 networks are let in, a set of nft's."""

    backend: Backend
    rules: str
    ban: str
    few: bool = False


def native(rules: str) -> str:
    return f"nft -f - <<'E'\n{NFT % rules}\nE\n"


def xtables(tool: str, *rules: str) -> str:
    return "\n".join((XTABLES, *rules)).replace("$t", tool)


IN_CHAIN = f"nft insert rule inet filter f2b-sshd ip saddr {LATER} reject"
IN_SET = f"nft add element inet filter f2b-set '{{ {LATER} }}'"
CASES = {
    "nft": Case(Backend.NFTABLES, native("tcp dport 22 jump f2b-sshd; ct state established accept"), IN_CHAIN),
    "nft, accepts first": Case(
        Backend.NFTABLES, native("iifname lo accept; tcp dport 22 jump f2b-sshd; counter"), IN_CHAIN
    ),
    "nft, a wall first": Case(Backend.NFTABLES, native("tcp dport 22 drop; tcp dport 22 jump f2b-sshd"), IN_CHAIN),
    "nft, a set": Case(Backend.NFTABLES, native("tcp dport 22 ip saddr @f2b-set reject; iifname lo accept"), IN_SET),
    "nft, some": Case(Backend.NFTABLES, native("tcp dport 22 jump f2b-sshd; iifname lo accept"), IN_CHAIN, True),
    "nft, a wall first, some": Case(
        Backend.NFTABLES, native("tcp dport 22 drop; tcp dport 22 jump f2b-sshd"), IN_CHAIN, True
    ),
}
# nft rules of somebody's in a table of iptables': nft opens it.
MIXED_BAN = f"iptables-nft -I f2b-sshd -s {LATER} -j DROP"
MIXED = "nft add rule ip filter INPUT ct state established accept"
for ending, first, last in (("", JUMP, WALL), (", a wall first", WALL, JUMP)):
    made = xtables("iptables-nft", LO, first, MIXED, last)
    CASES[f"nft in iptables' table{ending}"] = Case(Backend.NFTABLES, made, MIXED_BAN)
for variant in (Backend.IPTABLES_NFT, Backend.LEGACY):
    name = variant.value
    chain, member = f"{name} -I f2b-sshd -s {LATER} -j REJECT", f"ipset add f2b-set {LATER}"
    CASES[name] = Case(variant, xtables(name, LO, JUMP, WALL), chain)
    CASES[f"{name}, a wall first"] = Case(variant, xtables(name, WALL, JUMP), chain)
    CASES[f"{name}, a set"] = Case(variant, xtables(name, SET, WALL), member)


@pytest.fixture
def place() -> Iterator[World]:
    with world() as made:
        yield made


def read(place: World, backend: Backend) -> Ruleset:
    tool = "iptables-nft" if backend is Backend.NFTABLES else backend.value
    listing = place.sh("nft -j list ruleset").encode()
    sets = ipsets.parse(place.sh("ipset save"))
    saved = iptables.parse(place.sh(f"{tool}-save"), family=Family.IPV4, backend=backend, ipsets=sets)
    return nftables.parse(nftables.load(listing), saved=saved.tables) if backend is Backend.NFTABLES else saved


def wanted(*, few: bool) -> Ranges:
    if not few:
        return opening.everybody(Gap("eth0", Family.IPV4, PORT, (), ()), lambda ruleset: analyse(QUESTION, ruleset))
    some = [f"10.{number}.0.0/24" for number in range(250)] + [f"10.0.{2 * number}.0/24" for number in range(1, 50)]
    some += [f"{address}/32" for address in (BANNED, GOOD, LATER)]
    return addresses.normal(addresses.parse_cidr(text)[1] for text in some)


def opened(place: World, case: Case) -> Rung:
    ruleset = read(place, case.backend)
    gap = Gap("eth0", Family.IPV4, PORT, wanted(few=case.few), ())
    found = opening.find(
        gap, analyse(QUESTION, ruleset), ruleset, lambda changed: analyse(QUESTION, changed), alone=True
    )
    assert found
    return Rung("open", "", tuple(step for item in found for step in opening.steps(item)))


def connects(wire: Wire, source: str, *, wait: float = 0.5) -> bool:
    return wire.ask([source], wait=wait) == ["connected"]


@pytest.mark.parametrize("name", CASES)
def test_who_is_banned_stays_out(place: World, name: str) -> None:
    case = CASES[name]
    with wired(host=Namespace(place.pid)) as wire:
        assert connects(wire, BANNED, wait=4.0), "nobody is banned yet"
        place.sh(case.rules)
        before = place.listing()
        assert not connects(wire, BANNED) and not connects(wire, GOOD)
        change = said(place.drive("apply", rung=opened(place, case)))["records"][0]["id"]
        assert connects(wire, GOOD, wait=4.0) and connects(wire, LATER, wait=4.0)
        assert not connects(wire, BANNED)
        place.sh(case.ban)
        assert not connects(wire, LATER), "a ban of later on counts as well"
        said(place.drive("undo", id=change))
        assert not connects(wire, BANNED) and not connects(wire, GOOD)
        left = [line for line in place.listing().splitlines() if line not in before.splitlines()]
        assert all(LATER in line for line in left), left
