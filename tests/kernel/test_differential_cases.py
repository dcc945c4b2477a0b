"""Rulesets that each pin one thing down that the kernel does with a connection: the analysis says the same.

Nothing here is expected of the kernel: it is asked, every time.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Optional

import pytest

from differential import said
from ec2ssh_agent.reach import analyse
from ec2ssh_agent.reach.ruleset import Backend, Family
from iptables_rulesets import Made
from iptables_world import OTHER, QUESTION, Layer, differences, load, read
from nft_world import V6, World, world

SOURCES = {
    Family.IPV4: ["192.0.2.1", "198.51.100.1", "0.0.0.1", "240.0.0.1", "10.0.5.1", "223.255.255.255"],
    Family.IPV6: ["2001:db8:2::1", "2001:db8:51::1", "fd00::1", "2000::1"],
}
A, B = "-s 192.0.2.0/24", "-s 198.51.100.0/24"
OUT_A, OUT_B = "-d 192.0.2.0/24", "-d 198.51.100.0/24"
CASES = {
    "reject of the SYN, each kind": [
        f"filter: -A INPUT {A} -j REJECT --reject-with icmp-host-prohibited",
        f"filter: -A INPUT {B} -p tcp -j REJECT --reject-with tcp-reset",
    ],
    "the RST of a rejection is RELATED": [
        f"filter: -A INPUT {A} -p tcp -j REJECT --reject-with tcp-reset",
        "filter: -A OUTPUT -m state --state RELATED -j DROP",
        f"filter: -A INPUT {B} -j REJECT",
    ],
    "an ICMP error has its type and code": [
        f"filter: -A INPUT {A} -j REJECT --reject-with icmp-host-prohibited",
        f"filter: -A INPUT {B} -j REJECT",
        "filter: -A INPUT -s 10.0.0.0/8 -j REJECT --reject-with icmp-net-unreachable",
        "filter: -A OUTPUT -p icmp --icmp-type port-unreachable -j DROP",
        "filter: -A OUTPUT -p icmp --icmp-type 3/0 -j DROP",
    ],
    "an ICMP error has its connection's protocol": [
        f"filter: -A INPUT {A} -j REJECT",
        f"filter: -A INPUT {B} -p tcp -j REJECT --reject-with tcp-reset",
        f"filter: -A OUTPUT {OUT_A} -m conntrack --ctproto tcp -j DROP",
        f"filter: -A OUTPUT {OUT_B} -m conntrack ! --ctproto tcp -j DROP",
    ],
    "an untracked SYN's RST is INVALID": [
        f"raw: -A PREROUTING {A} -j CT --notrack",
        "filter: -A INPUT -p tcp -j REJECT --reject-with tcp-reset",
        "filter: -A OUTPUT -m state --state INVALID -j DROP",
    ],
    "the RST of a closed port is ESTABLISHED": [
        "nat: -A PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 333",
        f"filter: -A OUTPUT {OUT_A} -m state --state ESTABLISHED -j DROP",
        f"filter: -A OUTPUT {OUT_B} -m state --state RELATED -j DROP",
    ],
    "reset of the ACK": [
        f"filter: -A INPUT {A} -p tcp -m state --state ESTABLISHED -j REJECT --reject-with tcp-reset",
        f"filter: -A INPUT {B} -p tcp -m state --state ESTABLISHED -j REJECT",
    ],
    "reject of the reply": [
        f"filter: -A OUTPUT {OUT_A} -p tcp --sport 22 -j REJECT",
        f"filter: -A OUTPUT {OUT_B} -p tcp --sport 22 -j REJECT --reject-with tcp-reset",
    ],
    "the RST of a rejected reply is rejected itself": [
        "filter: -A OUTPUT -p tcp --sport 22 -j REJECT --reject-with tcp-reset",
        f"filter: -A OUTPUT {A} -j REJECT --reject-with icmp-host-prohibited",
        f"filter: -A INPUT -i lo {B} -p tcp --tcp-flags RST RST -j REJECT",
        "filter: -A INPUT -s 10.0.0.0/8 -p tcp --tcp-flags RST RST -j DROP",
    ],
    "picked up in the middle": [
        "raw: -A PREROUTING -p tcp -j CT --notrack",
        f"filter: -A OUTPUT {OUT_A} -m conntrack --ctorigdstport 22 -j DROP",
        f"filter: -A OUTPUT {OUT_B} -m conntrack --ctorigdst 198.51.100.0/24 -j DROP",
        "filter: -A OUTPUT -d 10.0.0.0/8 -m conntrack --ctdir ORIGINAL -j DROP",
    ],
    "reject of the banner": [
        f"filter: -A OUTPUT {OUT_A} -p tcp --tcp-flags PSH PSH -j REJECT",
        f"filter: -A OUTPUT {OUT_B} -p tcp --tcp-flags PSH PSH -j DROP",
    ],
    "a redirected connection whose ACK is untracked": [
        "nat: -A PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 222",
        f"raw: -A PREROUTING {A} -p tcp --tcp-flags SYN,ACK ACK -j CT --notrack",
        f"raw: -A OUTPUT {OUT_B} -p tcp -j CT --notrack",
    ],
    "an ACK that is the first that conntrack sees is redirected": [
        "raw: -A PREROUTING -p tcp --syn -j CT --notrack",
        f"nat: -A PREROUTING {A} -p tcp --dport 22 -j REDIRECT --to-ports 333",
        f"nat: -A PREROUTING {B} -p tcp --dport 22 -j REDIRECT --to-ports 222",
        "nat: -A PREROUTING -s 10.0.0.0/8 -p tcp --dport 22 -j REDIRECT --to-ports 22",
        f"filter: -A OUTPUT {OUT_B} -p tcp --tcp-flags RST RST -m state --state ESTABLISHED -j DROP",
    ],
    "a redirected connection seen before and after NAT": [
        f"nat: -A PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports {OTHER}",
        f"filter: -A INPUT {A} -p tcp --dport 22 -j DROP",
        f"mangle: -A PREROUTING {B} -p tcp --dport {OTHER} -j DROP",
        f"mangle: -A POSTROUTING {OUT_A} -p tcp --sport 22 -j DROP",
        f"filter: -A OUTPUT -d 10.0.0.0/8 -p tcp --sport {OTHER} -j DROP",
    ],
    "half tracked": [
        "raw: -A PREROUTING -p tcp --syn -j CT --notrack",
        f"filter: -A INPUT {A} -m state --state NEW -j DROP",
        f"filter: -A OUTPUT {OUT_B} -p tcp --syn -m state --state INVALID -j DROP",
        "filter: -A OUTPUT -d 10.0.0.0/8 -p tcp --tcp-flags SYN,ACK SYN,ACK -m state --state INVALID -j DROP",
    ],
    "reply untracked": [
        "raw: -A OUTPUT -p tcp --sport 22 -j CT --notrack",
        f"filter: -A INPUT {A} -m state --state INVALID -j DROP",
        f"filter: -A INPUT {B} -m state --state ESTABLISHED -j DROP",
    ],
    "a mark of the SYN is not the reply's": [
        f"mangle: -A PREROUTING {A} -j MARK --set-mark 1",
        "filter: -A OUTPUT -m mark --mark 1 -j DROP",
        f"mangle: -A PREROUTING {B} -m state --state NEW -j CONNMARK --set-mark 2",
        "mangle: -A OUTPUT -j CONNMARK --restore-mark",
        "mangle: -A POSTROUTING -m mark --mark 2 -j DROP",
    ],
    "recent counts this connection's own packets": [
        f"filter: -A INPUT {A} -m recent --set --name r",
        "filter: -A INPUT -m recent --rcheck --hitcount 2 --name r -j DROP",
    ],
    "goto falls to the policy": [
        "filter: :INPUT DROP",
        "filter: :u - [0:0]",
        f"filter: -A INPUT {A} -g u",
        f"filter: -A INPUT {B} -j u",
        "filter: -A INPUT -j ACCEPT",
        "filter: -A u -p udp -j ACCEPT",
    ],
    "a SYN that is sent again, as its SYN-ACK was lost": [
        f"filter: -A INPUT {A} -p tcp -m conntrack --ctstate ESTABLISHED -j REJECT",
        f"filter: -A INPUT {B} -p tcp --syn -m conntrack --ctstatus SEEN_REPLY -j REJECT --reject-with tcp-reset",
        "filter: -A INPUT -s 10.0.0.0/8 -p tcp --syn -m conntrack --ctstatus ASSURED -j REJECT",
        "filter: -A INPUT -s 240.0.0.0/4 -p tcp --syn -m conntrack --ctstate ESTABLISHED -j DROP",
        "filter: -A OUTPUT -p tcp --sport 22 -j DROP",
    ],
    "a SYN that is sent again, as its SYN-ACK was rejected": [
        f"filter: -A INPUT {A} -p tcp -m conntrack --ctstate ESTABLISHED -j REJECT",
        f"nat: -A PREROUTING {B} -p tcp --dport 22 -j REDIRECT --to-ports {OTHER}",
        f"filter: -A INPUT {B} -p tcp --dport {OTHER} -m conntrack --ctstate ESTABLISHED -j REJECT",
        f"filter: -A OUTPUT {OUT_A} -p tcp --sport 22 -j REJECT --reject-with tcp-reset",
        "filter: -A OUTPUT -p tcp -j REJECT",
    ],
    "what is sent again meets the mark that the first packet left": [
        f"filter: -A OUTPUT {OUT_A} -p tcp -m connmark ! --mark 7 -j CONNMARK --set-mark 6",
        f"filter: -A OUTPUT {OUT_A} -p tcp -m connmark --mark 6 -j CONNMARK --set-mark 7",
        f"filter: -A INPUT {B} -p tcp ! --syn -m connmark --mark 7 -j ACCEPT",
        f"filter: -A INPUT {B} -p tcp ! --syn -j CONNMARK --set-mark 7",
        f"filter: -A INPUT {B} -p tcp ! --syn -j DROP",
        "raw: -A OUTPUT -d 10.0.0.0/8 -p tcp -j DROP",
        "filter: -A INPUT -s 10.0.0.0/8 -p tcp -m connmark --mark 5 -j REJECT",
        "filter: -A INPUT -s 10.0.0.0/8 -p tcp -j CONNMARK --set-mark 5",
    ],
    "SNAT on the way in": [
        f"nat: -A INPUT {A} -p tcp -j SNAT --to-source 10.9.9.9",
        f"nat: -A INPUT {B} -p tcp -j SNAT --to-source 10.9.9.8",
        "nat: -A INPUT -s 10.0.0.0/8 -p tcp -j SNAT --to-source 10.0.5.20",
        "nat: -A INPUT -s 240.0.0.0/4 -p tcp -j SNAT --to-source 10.9.9.9",
        "raw: -A OUTPUT -d 10.9.9.8 -j DROP",
        f"filter: -A OUTPUT {OUT_A} -m conntrack ! --ctstate SNAT -j DROP",
        "filter: -A OUTPUT -d 10.0.0.0/8 -o eth0 -j DROP",
        "filter: -A OUTPUT -d 240.0.0.0/4 -j REJECT",
    ],
    "whom security sees of a client that SNAT makes another of": [
        f"nat: -A INPUT {A} -p tcp -j SNAT --to-source 10.9.9.9",
        "security: -A INPUT -s 10.9.9.9 -j DROP",
        f"security: -A INPUT {B} -j DROP",
    ],
    "status and direction": [
        f"filter: -A INPUT {A} -m conntrack --ctstatus ASSURED -j DROP",
        f"filter: -A OUTPUT {OUT_B} -m conntrack --ctstatus ASSURED -p tcp --tcp-flags SYN SYN -j DROP",
        "filter: -A OUTPUT -d 10.0.0.0/8 -m conntrack --ctdir ORIGINAL -j DROP",
        "filter: -A INPUT -s 240.0.0.0/4 -m conntrack ! --ctstatus CONFIRMED -p tcp --syn -j DROP",
    ],
}


BACKENDS = (Backend.LEGACY, Backend.IPTABLES_NFT)


@pytest.fixture(scope="module")
def places() -> Iterator[list[World]]:
    """One for each backend: they wait for their timeouts together."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(world(other=OTHER)) for _ in BACKENDS]


def text(lines: list[str], family: Family) -> str:
    tables: dict[str, list[str]] = {}
    for line in lines:
        table, _, rule = line.partition(": ")
        tables.setdefault(table, []).append(rule)
    whole = "\n".join("\n".join([f"*{table}", *rules, "COMMIT"]) for table, rules in tables.items()) + "\n"
    if family is Family.IPV6:
        for old, new in (
            ("192.0.2.0/24", "2001:db8:2::/48"),
            ("198.51.100.0/24", "2001:db8:51::/48"),
            ("10.0.0.0/8", "fd00::/8"),
            ("240.0.0.0/4", "2000::/16"),
            ("10.9.9.", "fd09::"),
            ("10.0.5.20", V6),
            ("icmp-host-prohibited", "icmp6-adm-prohibited"),
            ("icmp-net-unreachable", "icmp6-no-route"),
            ("-p icmp --icmp-type port-unreachable", "-p ipv6-icmp --icmpv6-type port-unreachable"),
            ("-p icmp --icmp-type 3/0", "-p ipv6-icmp --icmpv6-type 1/0"),
        ):
            whole = whole.replace(old, new)
    return whole


def wrong(place: World, backend: Backend, lines: list[str]) -> list[str]:
    wanted = [Layer(family, backend, Made(text(lines, family), "", edges=(), unknowable=False)) for family in Family]
    refused = load(place, wanted)
    if refused:
        return [refused]
    return differences(place, wanted, [source for family in Family for source in SOURCES[family]])


@pytest.mark.parametrize("name", CASES)
def test_the_analysis_says_what_the_kernel_does(places: list[World], name: str) -> None:
    with ThreadPoolExecutor(len(BACKENDS)) as pool:
        found = list(pool.map(wrong, places, BACKENDS, [CASES[name]] * len(BACKENDS)))
    assert found == [[] for _ in BACKENDS], "\n".join(line for lines in found for line in lines)


def lives_as_said(places: list[World], text: str, sources: list[str], *, wait: float) -> list[dict[str, Optional[str]]]:
    """What each source lives through with those rules, once per backend; the answer is to say the same of all."""
    lives = []
    for place, backend in zip(places, BACKENDS):
        layer = Layer(Family.IPV4, backend, Made(text, "", edges=(), unknowable=False))
        assert load(place, [layer]) is None
        reach = analyse(QUESTION, read([layer], {layer.save: place.host.run(layer.save)}, ""))
        lived = dict(zip(sources, place.ask(sources, wait=wait)))
        assert lived == {source: said(reach, source).outcome.value for source in sources}
        lives.append(lived)
    return lives


@pytest.mark.parametrize("burst", [1, 2, 3])
def test_a_connections_own_packets_use_up_a_burst(places: list[World], burst: int) -> None:
    """Asked once, of limits that are new: the answer is that for an idle source. What is left of earlier connections is
    of other sources.
    """
    limits = {
        f"192.0.{burst}.1": f"-m limit --limit 1/hour --limit-burst {burst}",
        f"192.0.{burst}.2": f"-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst {burst} --hashlimit-name x",
        f"192.0.{burst}.3": f"-m hashlimit --hashlimit-upto 2/hour --hashlimit-burst {burst} --hashlimit-name y"
        " --hashlimit-mode srcip",
        f"192.0.{burst}.4": f"-m hashlimit --hashlimit-upto 3/sec --hashlimit-burst {burst} --hashlimit-name z",
    }
    rules = [f"-A INPUT -s {source} -p tcp --dport 22 {limit} -j ACCEPT" for source, limit in limits.items()]
    text = "\n".join(["*filter", ":INPUT DROP [0:0]", *rules, "COMMIT", ""])
    lives_as_said(places, text, list(limits), wait=3.0)


def test_a_syn_that_is_dropped_is_sent_again(places: list[World]) -> None:
    """And finds that a limit or a list knows of the first one. Asked once, as above."""
    once = {
        "192.0.2.11": "-m limit --limit 1/hour --limit-burst 1",
        "192.0.2.12": "-m hashlimit --hashlimit-upto 1/hour --hashlimit-burst 2 --hashlimit-name w",
        "192.0.2.13": "-m recent --name syn ! --update",
        "192.0.2.14": "-m recent --name syn --update",
    }
    rules = [f"-A INPUT -s {source} -p tcp --syn {match} -j DROP" for source, match in once.items()]
    rules.insert(3, "-A INPUT -p tcp --syn -m recent --name syn --set")
    rules.insert(2, "-A INPUT -s 192.0.2.13 -p tcp --syn -m recent --name first ! --update -j first")
    text = "\n".join(
        ["*filter", ":first - [0:0]", *rules, "-A first -m recent --name first --set -j DROP", "COMMIT", ""]
    )
    for lived in lives_as_said(places, text, list(once), wait=8.0):
        assert "connected" in lived.values()
