"""`ipset save`: each type of set, exceptions, lists, and what cannot be looked into."""

from __future__ import annotations

import pytest

from ec2ssh_agent.reach import ipsets, iptables
from ec2ssh_agent.reach.ruleset import Element, Family, Field, IfName, Item, Lookup, Selector, Unknown

TEN = 10 << 24
SADDR, DADDR = Selector(Field.SADDR), Selector(Field.DADDR)
PROTOCOL, DPORT = Selector(Field.L4PROTO), Selector(Field.DPORT)
TCP = ((6, 6),)
EVERY = ((0, (1 << 128) - 1),)


def lookup(saved: str, flags: str, *, name: str = "s", negated: str = "") -> Item:
    sets = iptables.parse_ipsets(saved)
    rule = iptables.parse_rule(f"-A INPUT -m set {negated}--match-set {name} {flags}", Family.IPV4, sets)
    return rule.items[0]


def test_addresses() -> None:
    saved = "create s hash:ip family inet hashsize 1024 maxelem 65536\nadd s 10.0.0.2\nadd s 10.0.0.1 timeout 60\n"
    assert lookup(saved, "src") == Lookup((SADDR,), (Element((((TEN + 1, TEN + 2),),)),), name="s")
    assert lookup(saved, "dst", negated="! ") == Lookup((DADDR,), (Element((((TEN + 1, TEN + 2),),)),), True, name="s")


def test_a_netmask_widens_addresses() -> None:
    assert lookup("create s hash:ip family inet netmask 24\nadd s 10.0.0.0\n", "src") == Lookup(
        (SADDR,), (Element((((TEN, TEN + 255),),)),), name="s"
    )


def test_the_longest_prefix_decides() -> None:
    saved = "create s hash:net family inet\nadd s 10.0.0.0/8\nadd s 10.0.0.0/24 nomatch\nadd s 10.0.0.7\n"
    assert lookup(saved, "src") == Lookup(
        (SADDR,), (Element((((TEN + 7, TEN + 7), (TEN + 256, TEN + 0xFFFFFF)),)),), name="s"
    )


def test_addresses_and_ports() -> None:
    saved = "create s hash:ip,port family inet\nadd s 10.0.0.1,tcp:22\nadd s 10.0.0.2,tcp:22\nadd s 10.0.0.1,udp:53\n"
    assert lookup(saved, "src,dst") == Lookup(
        (SADDR, PROTOCOL, DPORT),
        (
            Element((((TEN + 1, TEN + 2),), TCP, ((22, 22),))),
            Element((((TEN + 1, TEN + 1),), ((17, 17),), ((53, 53),))),
        ),
        name="s",
    )


def test_networks_and_interfaces() -> None:
    saved = "create s hash:net,iface family inet\nadd s 10.0.0.0/8,eth0\nadd s 0.0.0.0/0,wg wildcard\n"
    assert lookup(saved, "src,src") == Lookup(
        (SADDR, IfName(False)),
        (
            Element((((TEN, TEN + 0xFFFFFF),), ("eth0",))),
            # The longest prefix decides, whatever its interface.
            Element((((0, TEN - 1), (TEN + 0x1000000, 0xFFFFFFFF)), ("wg*",))),
        ),
        name="s",
    )


def test_bitmaps() -> None:
    assert lookup("create s bitmap:ip range 10.0.0.0-10.0.0.255\nadd s 10.0.0.9\n", "src") == Lookup(
        (SADDR,), (Element((((TEN + 9, TEN + 9),),)),), name="s"
    )
    assert lookup("create s bitmap:port range 0-65535\nadd s 22\nadd s 80-90\n", "dst") == Lookup(
        (PROTOCOL, DPORT),
        (Element((((6, 6), (17, 17)), ((22, 22),))), Element((((6, 6), (17, 17)), ((80, 90),)))),
        name="s",
    )


def test_a_list_asks_its_members() -> None:
    saved = (
        "create a hash:ip family inet\nadd a 10.0.0.1\ncreate b hash:net,port family inet\nadd b 10.0.0.0/8,tcp:22\n"
        "create six hash:ip family inet6\nadd six 2001:db8::1\ncreate s list:set size 8\nadd s a\nadd s b\nadd s six\n"
    )
    assert lookup(saved, "src,dst") == Lookup(
        (SADDR, PROTOCOL, DPORT),
        (
            Element((((TEN + 1, TEN + 1),), EVERY, EVERY)),
            Element((((TEN, TEN + 0xFFFFFF),), TCP, ((22, 22),))),
        ),
        name="s",
    )
    # With one flag the pair of b is never complete.
    assert lookup(saved, "src") == Lookup((SADDR,), (Element((((TEN + 1, TEN + 1),),)),), name="s")


def test_a_set_of_the_other_family_never_matches() -> None:
    saved = "create s hash:ip family inet6\nadd s 2001:db8::1\n"
    assert lookup(saved, "src") == Lookup((SADDR,), (), name="s")


def test_rules_that_add_make_a_set_dynamic() -> None:
    sets = iptables.parse_ipsets("create s hash:ip family inet\n")
    text = "*filter\n-A INPUT -m set --match-set s src -j DROP\n-A INPUT -j SET --add-set s src\nCOMMIT\n"
    first = iptables.parse(text, family=Family.IPV4, ipsets=sets).tables[0].chains["INPUT"].rules[0]
    assert first.items[0] == Lookup((SADDR,), (), name="s", dynamic=True)


@pytest.mark.parametrize(
    ("saved", "reason"),
    [
        ("create s hash:mac\nadd s 00:11:22:33:44:55\n", "ipset s: sets of type hash:mac are not understood"),
        ("create s list:set\nadd s gone\n", "the set gone, member of s, is not among those given"),
        ("create s list:set\ncreate t list:set\nadd s t\n", "the list s holds another list"),
        (
            "create s hash:net,net family inet\nadd s 10.0.0.0/8,10.0.0.0/8 nomatch\n",
            "ipset s: exceptions in a set of pairs of networks are not understood",
        ),
    ],
)
def test_what_cannot_be_told_is_unknown(saved: str, reason: str) -> None:
    assert lookup(saved, "src,dst") == Unknown(reason)


@pytest.mark.parametrize("line", ["add s 10.0.0.1", "flush s", "create s hash:ip\nadd s 10.0.0.1,22", "create s"])
def test_an_error_names_the_line(line: str) -> None:
    with pytest.raises(ipsets.IpSetError, match=rf"line {line.count(chr(10)) + 1}: "):
        ipsets.parse(line)
