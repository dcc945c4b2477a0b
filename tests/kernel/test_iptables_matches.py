"""Each match and target by itself, as iptables loads it into the kernel: the analysis says what a connection lives
through, for both variants of iptables and both families.

The random rulesets of test_differential_iptables.py mix what is common; here is what is rare, option by option.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Optional

import pytest

from ec2ssh_agent.reach import analyse, iptables
from ec2ssh_agent.reach.addresses import contains, parse_address, parse_cidr
from ec2ssh_agent.reach.question import Answer, Link, Listening, Local, Outcome, Question, Route
from ec2ssh_agent.reach.ruleset import Backend, Family
from nft_world import OTHER, PORT, V4, V6, World, world

QUESTION = Question(
    PORT,
    (Link("eth0", 2, (Local(Family.IPV4, parse_address(V4)[1], 32), Local(Family.IPV6, parse_address(V6)[1], 128))),),
    tuple(Listening(family, 0, port, True) for family in Family for port in (PORT, OTHER)),
    (
        Route(Family.IPV4, parse_cidr("0.0.0.0/0")[1], "eth0"),
        Route(Family.IPV6, parse_cidr("::/0")[1], "eth0"),
    ),
)
SOURCES = {
    Family.IPV4: ["10.0.0.1", "10.0.5.21", "192.0.2.1", "192.0.2.9", "192.0.2.10", "203.0.113.7", "240.0.0.1"],
    Family.IPV6: ["2001:db8:1::1", "2001:db8:1::9", "2001:db8:1::a", "2001:db8:5::21", "fd00::7"],
}
SETS = """\
create plain4 hash:ip family inet
add plain4 192.0.2.1
create nets4 hash:net family inet
add nets4 192.0.2.0/24
add nets4 192.0.2.8/31 nomatch
add nets4 192.0.2.9
create ports4 hash:ip,port family inet
add ports4 192.0.2.1,tcp:22
add ports4 192.0.2.9,tcp:23
add ports4 10.0.0.1,udp:22
create wide4 hash:net,port family inet
add wide4 10.0.0.0/8,tcp:20-22
create faces4 hash:net,iface family inet
add faces4 192.0.2.0/24,eth0
add faces4 10.0.0.0/8,eth1
create masked4 hash:ip family inet netmask 24
add masked4 192.0.2.77
create numbers bitmap:port range 0-1024
add numbers 22
create block4 bitmap:ip range 192.0.2.0-192.0.2.255
add block4 192.0.2.9
create pairs4 hash:net,net family inet
add pairs4 192.0.2.0/24,10.0.5.20
create triples4 hash:ip,port,net family inet
add triples4 192.0.2.1,tcp:22,10.0.0.0/8
create plain6 hash:ip family inet6
add plain6 2001:db8:1::9
create nets6 hash:net family inet6
add nets6 2001:db8:1::/64
add nets6 2001:db8:1::9 nomatch
create all list:set
add all plain4
add all ports4
add all plain6
"""

#: Matches, for a rule that refuses. What is the same for both families.
BOTH = """
-p tcp --dport 22 | -p tcp --sport 1024: | ! -p udp | -p all | -i eth0 | ! -i eth0 | -i eth+ | -i lo+ | -i +
-p tcp --syn | -p tcp ! --syn | -p tcp --tcp-flags ALL SYN | -p tcp --tcp-flags ACK NONE | -p tcp --tcp-flags ALL ALL
-p tcp --tcp-option 2 | -p tcp --tcp-option 8 | -p tcp ! --tcp-option 4 | -p tcp --tcp-option 19
-p tcp -m multiport --dports 20:22,80 | -p tcp -m multiport ! --dports 22 | -p tcp -m multiport --ports 22
-p tcp -m multiport --sports 1024:65535 | -p tcp -m multiport --ports 1:21 | -p tcp -m multiport ! --ports 22,80
-m state --state NEW | -m state ! --state NEW | -m conntrack --ctstate INVALID,UNTRACKED | -m conntrack --ctstate DNAT
-m conntrack ! --ctstate SNAT | -m conntrack --ctproto 6 | -m conntrack ! --ctproto tcp | -m conntrack --ctdir ORIGINAL
-m conntrack --ctdir REPLY | -m conntrack --ctstatus NONE | -m conntrack ! --ctstatus NONE
-m conntrack --ctstatus CONFIRMED | -m conntrack ! --ctstatus SEEN_REPLY,ASSURED | -m conntrack --ctorigdstport 22
-m conntrack --ctreplsrcport 22 | -m conntrack --ctorigsrcport 1024:65535 | -m conntrack ! --ctrepldstport 1:1023
-m conntrack --ctstate NEW --ctproto 17
-m addrtype --src-type LOCAL | -m addrtype ! --src-type UNICAST | -m addrtype --dst-type LOCAL
-m addrtype --dst-type LOCAL --limit-iface-in | -m addrtype --src-type UNICAST,LOCAL --dst-type LOCAL
-m addrtype ! --dst-type UNICAST,MULTICAST | -m addrtype ! --src-type UNICAST,LOCAL | -m addrtype --dst-type UNICAST
-m addrtype --dst-type MULTICAST,LOCAL
-m mark --mark 0 | -m mark ! --mark 0 | -m mark --mark 0/0xf0 | -m mark --mark 1/0xf0 | -m connmark --mark 0
-m connmark ! --mark 1 | -m connmark ! --mark 0
-m pkttype --pkt-type unicast | -m pkttype ! --pkt-type multicast | -m pkttype --pkt-type broadcast
-p tcp -m ecn --ecn-tcp-cwr | -p tcp -m ecn ! --ecn-tcp-ece | -m policy --dir in --pol none
-m policy --dir in --pol ipsec --proto esp | -m helper --helper ftp | -m helper ! --helper ftp
-m limit --limit 1/hour | -m limit --limit 100/sec --limit-burst 100
-m hashlimit --hashlimit-upto 1000/sec --hashlimit-mode srcip --hashlimit-name a
-m hashlimit --hashlimit-above 1000/sec --hashlimit-burst 1000 --hashlimit-mode srcip --hashlimit-name b
-m connlimit --connlimit-above 5 | -m connlimit --connlimit-above 0 | -m connlimit --connlimit-upto 0
-m connlimit --connlimit-upto 1 | -m connlimit ! --connlimit-above 0
-m recent --name r1 --set | -m recent --name r2 ! --set | -m recent --name r3 --rcheck
-m recent --name r4 ! --rcheck --seconds 60 | -m recent --name r5 --update --hitcount 3
-m recent --name r6 ! --remove | -m comment --comment "it's -j DROP"
""".replace("\n", " | ").split(" | ")  # fmt: skip
ONLY = {
    Family.IPV4: """
-s 192.0.2.1 | -s 192.0.2.0/29 | ! -s 192.0.2.0/24 | -s 192.0.2.1/255.0.0.255 | -s 0/0 | -s 10/8 | -d 10.0.5.20
! -d 10.0.5.20 | -f | ! -f | -p icmp | -m iprange --src-range 192.0.2.2-192.0.2.9 | -m iprange ! --src-range 10.0.0.1
-m iprange --dst-range 10.0.5.20-10.0.5.30 | -m conntrack --ctorigsrc 192.0.2.0/24
-m conntrack ! --ctorigsrc 192.0.2.9
-m conntrack --ctorigdst 10.0.5.20 | -m conntrack --ctreplsrc 10.0.5.20 | -m conntrack ! --ctreplsrc 10.0.0.0/8
-m conntrack --ctrepldst 192.0.2.1 | -m set --match-set plain4 src | -m set ! --match-set plain4 src
-m set --match-set plain4 dst | -m set --match-set nets4 src | -m set --match-set ports4 src,dst
-m set ! --match-set ports4 src,dst | -m set --match-set ports4 src,src | -m set --match-set wide4 src,dst
-m set --match-set faces4 src,src | -m set --match-set masked4 src | -m set --match-set numbers dst
-m set --match-set numbers src | -m set --match-set block4 src | -m set --match-set pairs4 src,dst
-m set --match-set triples4 src,dst,dst | -m set --match-set plain6 src | -m set ! --match-set plain6 src
-m set --match-set all src | -m set --match-set all src,dst | -m set ! --match-set all src,dst
-m set --match-set ports4 src
""".replace("\n", " | ").split(" | "),
    Family.IPV6: """
-s 2001:db8:1::1 | -s 2001:db8:1::/125 | ! -s 2001:db8:1::/64 | -d 2001:db8:5::20
-s ::/0 | -p icmpv6 | -m iprange --src-range 2001:db8:1::2-2001:db8:1::9 | -m conntrack --ctorigsrc 2001:db8:1::/64
-m conntrack --ctreplsrc 2001:db8:5::20 | -m conntrack ! --ctrepldst fd00::/8 | -m set --match-set plain6 src
-m set --match-set nets6 src | -m set --match-set plain4 src | -m set --match-set all src | -m frag --fragid 0
-m frag ! --fragid 0 | -m rt --rt-type 0 | -m rt ! --rt-type 0 | -m hbh --hbh-len 8 | -m dst ! --dst-len 8
""".replace("\n", " | ").split(" | "),
}  # fmt: skip

#: Whole tables, {to}, {any} and {some} standing for the host, every address and some sources.
TABLES = [
    "*nat -A PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 2200 COMMIT",
    "*nat -A PREROUTING -p tcp --dport 22 -j REDIRECT --to-ports 2299 COMMIT",
    "*nat -A PREROUTING -s {some} -p tcp --dport 22 -j REDIRECT --to-ports 2200 COMMIT "
    "*filter -A INPUT -m conntrack --ctstate DNAT -j REJECT COMMIT",
    "*nat -A PREROUTING -s {some} -p tcp --dport 22 -j REDIRECT --to-ports 2200 COMMIT "
    "*filter -A INPUT -p tcp -m conntrack --ctorigdstport 22 ! --ctreplsrcport 22 -j REJECT COMMIT",
    "*nat -A PREROUTING -p tcp --dport 22 -j DNAT --to-destination {host} COMMIT *filter -A INPUT -j ACCEPT COMMIT",
    "*raw -A PREROUTING -s {some} -j NOTRACK COMMIT *filter -A INPUT -m state --state NEW -j REJECT COMMIT",
    "*raw -A PREROUTING -s {some} -j CT --notrack COMMIT *filter -A INPUT -m state --state UNTRACKED -j REJECT COMMIT",
    "*raw -A PREROUTING -s {some} -j NOTRACK COMMIT *filter -A INPUT -m connmark ! --mark 1 -j REJECT COMMIT",
    "*raw -A PREROUTING -m state --state INVALID -s {some} -j MARK --set-mark 3 COMMIT "
    "*filter -A INPUT -m mark --mark 3 -j REJECT COMMIT",
    "*mangle -A PREROUTING -s {some} -j MARK --set-xmark 0x5/0xff -A PREROUTING -j MARK --or-mark 0x8 "
    "-A INPUT -m mark --mark 0xd -j MARK --and-mark 0x1 COMMIT *filter -A INPUT -m mark --mark 0x1 -j REJECT COMMIT",
    "*mangle -A PREROUTING -s {some} -j MARK --set-mark 0x3/0x1 -A PREROUTING -j MARK --xor-mark 0x1 COMMIT "
    "*filter -A INPUT -m mark --mark 2 -j REJECT COMMIT",
    "*mangle -A PREROUTING -s {some} -j CONNMARK --set-mark 0x7 -A INPUT -j CONNMARK --restore-mark --mask 0x3 COMMIT "
    "*filter -A INPUT -m mark --mark 0x3 -j REJECT COMMIT",
    "*mangle -A PREROUTING -s {some} -j MARK --set-mark 0x9 "
    "-A PREROUTING -j CONNMARK --save-mark --nfmask 0x8 --ctmask 0xff COMMIT "
    "*filter -A INPUT -m connmark --mark 0x8 -j REJECT COMMIT",
    "*filter :user - [0:0] -A INPUT -g user -A INPUT -j REJECT -A user -s {some} -j RETURN -A user -j ACCEPT COMMIT",
    "*filter :INPUT DROP [0:0] :user - [0:0] -A INPUT -j user -A INPUT -j ACCEPT -A user -s {some} -j REJECT COMMIT",
    "*filter -A INPUT -m recent --set --name one -A INPUT -m recent --rcheck --seconds 60 --name one -j REJECT COMMIT",
    "*filter -A INPUT -m recent --set --name two -A INPUT -m recent --update --hitcount 2 --name two -j REJECT COMMIT",
    "*filter -A INPUT -s {some} -j REJECT COMMIT",
    "*security -A INPUT -s {some} -j DROP COMMIT",
    "*filter -A OUTPUT -d {some} -p tcp --sport 22 -m conntrack --ctdir REPLY -j DROP COMMIT",
    "*filter -A OUTPUT -p tcp -m conntrack --ctreplsrc {host} --ctrepldst {some} -j DROP COMMIT",
    "*mangle -A POSTROUTING -d {some} -p tcp --tcp-flags SYN,ACK SYN,ACK -j DROP COMMIT",
    "*filter -A INPUT -s {some} -m state --state ESTABLISHED -j DROP COMMIT",
    "*filter -A INPUT -j LOG -A INPUT -s {some} -j NFLOG -A INPUT -s {some} -j REJECT COMMIT",
]
_WORDS = {
    Family.IPV4: {"host": V4, "some": "192.0.2.0/24", "other": "10.9.9.9"},
    Family.IPV6: {"host": V6, "some": "2001:db8:1::/64", "other": "2001:db8:9::9"},
}
_EMPTY = "".join(f"*{table}\n:OUTPUT ACCEPT\nCOMMIT\n" for table in ("nat", "mangle", "raw", "security"))
_EMPTY += "*filter\n:INPUT ACCEPT\nCOMMIT\n"
_PREFIX = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
_VARIANT = {Backend.LEGACY: "legacy", Backend.IPTABLES_NFT: "nft"}


@pytest.fixture(scope="module")
def place() -> Iterator[World]:
    with world() as made:
        for block in SETS.split("create ")[1:]:
            # Not every kernel has every type; rules that ask for a set that is not there are refused.
            subprocess.run(made.host.argv("ipset", "restore"), input=f"create {block}".encode(), capture_output=True)
        yield made


def _refusing(rule: str) -> str:
    """An RST is seen at once, an ICMPv6 error only after the SYN's retransmission; but RST needs -p tcp."""
    if "-p " in rule and "-p tcp" not in rule:
        return rule
    return rule.replace("-j REJECT", f"{'' if '-p tcp' in rule else '-p tcp '}-j REJECT --reject-with tcp-reset")


def _lines(text: str) -> str:
    """A table in one line as iptables-restore wants it."""
    for start in ("*", "-A ", ":", "COMMIT"):
        text = text.replace(f" {start}", f"\n{start}")
    return "".join(f"{_refusing(line)}\n" for line in text.split("\n"))


def _compare(place: World, text: str, *, family: Family, backend: Backend) -> Optional[list[str]]:
    """What differs; None: this kernel does not take it. The rules are read as the tool prints them, and as written."""
    program = f"{_PREFIX[family]}-{_VARIANT[backend]}"
    loaded = subprocess.run(place.host.argv(f"{program}-restore"), input=text.encode(), capture_output=True)
    if loaded.returncode:
        return None
    saved = place.host.run(f"{program}-save")
    seen = place.ask(SOURCES[family])
    place.host.run("sh", "-c", "conntrack -F 2>/dev/null; true")
    ipsets = iptables.parse_ipsets(place.host.run("ipset", "save"))
    parsed = [iptables.parse(written, family=family, backend=backend, ipsets=ipsets) for written in (saved, text)]
    answers = [item for rules in parsed for item in analyse(QUESTION, rules).answers if item.family is family]
    wrong = _differing(answers, SOURCES[family], seen)
    if wrong:
        # What is late on a busy machine is no difference: what differs does so again, however long one waits.
        wrong = _differing(answers, list(wrong), place.ask(list(wrong), wait=4.0))
        place.host.run("sh", "-c", "conntrack -F 2>/dev/null; true")
    place.host.run(f"{program}-restore", stdin=_EMPTY)
    return list(wrong.values())


def _differing(answers: list[Answer], sources: list[str], seen: list[Optional[str]]) -> dict[str, str]:
    """Source -> what the kernel does to it that one of the answers does not say."""
    wrong = {}
    for source, lived in zip(sources, seen):
        found = "closed" if lived == "ECONNRESET" else lived  # opened, then reset: ended without a banner
        for outcome, others in (_said(answer, source) for answer in answers):
            if found and found != outcome.value and found not in others:
                wrong[source] = f"{source}: kernel {found}, reach {outcome.value}"
    return wrong


def _said(answer: Answer, source: str) -> tuple[Outcome, set[str]]:
    """The outcome, and what a limiter that is no longer idle may make of it."""
    value = parse_address(source)[1]
    (outcome,) = (outcome for outcome, ranges in answer.sources if contains(ranges, value))
    rules = [rule for rule in answer.rules if contains(rule.sources, value)]
    return outcome, {one.value for rule in rules if rule.rate_limited for one in rule.possible}


def _judge(place: World, texts: list[str], *, family: Family, backend: Backend) -> None:
    found = {text: _compare(place, text, family=family, backend=backend) for text in texts}
    wrong = [f"{text}{sorted(set(differences))}" for text, differences in found.items() if differences]
    assert not wrong, "\n".join(wrong)
    refused = [text for text, differences in found.items() if differences is None]
    print("this kernel does not take:\n", *refused)
    assert len(refused) < len(texts) / 4, "\n".join(refused)


@pytest.mark.parametrize("backend", _VARIANT, ids=lambda backend: backend.value)
@pytest.mark.parametrize("family", Family, ids=lambda family: family.value)
def test_each_match(place: World, family: Family, backend: Backend) -> None:
    matches = filter(None, [*BOTH, *ONLY[family]])
    texts = [_lines(f"*filter -A INPUT {match} -j REJECT COMMIT") for match in matches]
    _judge(place, texts, family=family, backend=backend)


@pytest.mark.parametrize("backend", _VARIANT, ids=lambda backend: backend.value)
@pytest.mark.parametrize("family", Family, ids=lambda family: family.value)
def test_each_target(place: World, family: Family, backend: Backend) -> None:
    texts = [_lines(table.format(**_WORDS[family])) for table in TABLES]
    _judge(place, texts, family=family, backend=backend)
