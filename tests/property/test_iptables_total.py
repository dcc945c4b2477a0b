"""The parsers end with a ruleset or with their own error, whatever the text is."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec2ssh_agent.reach import ipsets, iptables
from ec2ssh_agent.reach.iptables_matches import MATCHES
from ec2ssh_agent.reach.iptables_targets import TARGETS
from ec2ssh_agent.reach.ruleset import Family, Ruleset

_OPTIONS = sorted({option for e in [*MATCHES.values(), *TARGETS.values()] for option in e.options or {}})
_WORDS = [
    "-A", "-I", "INPUT", "OUTPUT", "user", "-s", "-d", "-i", "-o", "-p", "-f", "-m", "-j", "-g", "!", "tcp", "udp",
    "icmp", "ipv6-icmp", "22", "ssh", "1:2", "10.0.0.0/8", "10.0.0.1-10.0.0.2", "2001:db8::/32", "eth0", "+", "NEW",
    "SYN", "0x1/0xff", "0", "src", "src,dst", "s", '"a b"', "'", '"', "[0:0]", "*filter", "*nat", ":user - [0:0]",
    "COMMIT", "#", "\r", "-c", "\\", "::", "[::1]:22", ",", "/", "-", "--", "255.255.0.255", "1e9", "٣", "0x",
]  # fmt: skip
_IPSET_WORDS = [
    "create", "add", "hash:ip", "hash:net,iface", "list:set", "bitmap:port", "nomatch", "timeout", "netmask", "family",
    "inet6", "tcp:22", "10.0.0.1,tcp:22",
]  # fmt: skip
_SETS = ipsets.parse("create s hash:ip,port family inet\nadd s 10.0.0.1,22\n")
_families = st.sampled_from(list(Family))
_word = st.one_of(st.sampled_from(_WORDS + _OPTIONS + list(MATCHES) + list(TARGETS)), st.text(max_size=8))
_lines = st.lists(st.lists(_word, max_size=12).map(" ".join), max_size=8)


def _total(text: str, family: Family) -> None:
    try:
        assert isinstance(iptables.parse(text, family=family, ipsets=_SETS), Ruleset)
    except iptables.IptablesError as error:
        assert len(str(error)) < 1000


@settings(max_examples=400, deadline=None)
@given(st.one_of(st.text(), st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape"))), _families)
def test_any_text(text: str, family: Family) -> None:
    _total(text, family)
    _total("*filter\n-A INPUT " + text, family)


@settings(max_examples=800, deadline=None)
@given(_lines, _families)
def test_words_of_the_language_in_any_order(lines: list[str], family: Family) -> None:
    _total("*filter\n:user - [0:0]\n" + "\n".join(lines), family)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(sorted(MATCHES)), st.lists(_word, max_size=6), _families)
def test_matches_with_any_options(name: str, words: list[str], family: Family) -> None:
    _total("*filter\n-A INPUT -p tcp -m " + " ".join([name, *words]) + " -j ACCEPT", family)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.lists(st.sampled_from(_WORDS + _IPSET_WORDS), max_size=8).map(" ".join)))
def test_any_ipset_lines(lines: list[str]) -> None:
    try:
        ipsets.parse("\n".join(lines))
    except ipsets.IpSetError as error:
        assert len(str(error)) < 1000


def test_equal_rules_share_their_matches() -> None:
    seed = int(os.environ.get("EC2SSH_SEED") or random.randrange(1 << 32))
    print(f"seed {seed}")
    chosen = random.Random(seed)
    lines = [f"-A INPUT -s {chosen.randrange(1, 223)}.0.0.{i}/32 -p tcp -m tcp --dport 22 -j DROP" for i in range(200)]
    rules = iptables.parse("*filter\n" + "\n".join(lines), family=Family.IPV4).tables[0].chains["INPUT"].rules
    assert {id(rule.items[2]) for rule in rules} == {id(rules[0].items[2])}


_PIECES = [
    "-s 10.0.0.0/8", "! -d 192.0.2.7", "-i eth0", "-p tcp", "-p tcp -m tcp --dport 22", "--dport 22", "! --dport ssh",
    "-m tcp --dport 22", "-m state --state NEW", "-m conntrack ! --ctstate INVALID", "-m limit --limit 3/min",
    "-m comment --comment x", '-m comment --comment "a -j b"', "-m comment --comment 'a -m b'", "-m geoip --cc CN",
    "-m mark --mark 1", "-m connmark --mark 2", "-j ACCEPT", "-j user", "-g user", "-j REJECT --reject-with tcp-reset",
    "-j LOG --log-prefix \"x -m y\"", "-m multiport --dports 22,80", "--mark 3", "-m", "!", "-m tcp",
    "-m multiport --dport 22,80",
]  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), max_size=6).map(" ".join))
def test_a_rule_means_in_a_table_what_it_means_alone(words: str) -> None:
    """Where rests and parts are looked up, and where it is read word by word."""
    line = f"-A INPUT {words}".strip()
    chains = ("INPUT", "FORWARD", "OUTPUT", "user")
    try:
        text = f"*filter\n:user - [0:0]\n{line}\n{line}"
        first, second = iptables.parse(text, family=Family.IPV4).tables[0].chains["INPUT"].rules
    except iptables.IptablesError:
        with pytest.raises(iptables.IptablesError):
            iptables.parse_rule(line, Family.IPV4, chains=chains)
    else:
        assert first.items == second.items
        # iptables' own options may come in another order; the kernel looks at them first either way.
        alone = iptables.parse_rule(line, Family.IPV4, chains=chains).items
        assert sorted(map(repr, first.items)) == sorted(map(repr, alone))
