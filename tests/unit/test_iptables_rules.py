"""One rule at a time: what each match and target of iptables-extensions(8) means in the model."""

from __future__ import annotations

from typing import Optional

import pytest

from ec2ssh_agent.reach import iptables
from ec2ssh_agent.reach.ruleset import (
    Bits,
    CopyMark,
    Element,
    Family,
    Field,
    Item,
    Kind,
    Learn,
    Limiter,
    Lookup,
    Name,
    NoTrack,
    Ranges,
    Recent,
    Selector,
    SetMark,
    Socket,
    Unknown,
    Verdict,
)
from ec2ssh_agent.reach.ruleset import (
    Test as Compare,
)

TCP = Compare(Selector(Field.L4PROTO), ((6, 6),))
SSH = Compare(Selector(Field.DPORT), ((22, 22),))
NEVER = Compare(Selector(Field.L4PROTO), ())
ACCEPT = Verdict(Kind.ACCEPT)
EVERY_PORT: Ranges = ((0, 65535),)
EVERY: Ranges = ((0, (1 << 128) - 1),)
SOME: Ranges = ((1, (1 << 32) - 1),)


def items(words: str, family: Family = Family.IPV4) -> tuple[Item, ...]:
    return iptables.parse_rule(f"-A INPUT {words}", family).items


def is_in(field: Field, *ranges: tuple[int, int], negated: bool = False, mask: Optional[int] = None) -> Compare:
    return Compare(Selector(field, mask), ranges, negated)


def state(*, mask: int, any_set: bool = True) -> Bits:
    return Bits(Selector(Field.CTSTATE), mask, any_set)


TRACKED = state(mask=14)
TEN = 10 << 24

MEANINGS: dict[str, tuple[Item, ...]] = {
    # addresses
    "-s 10.0.0.0/8": (is_in(Field.SADDR, (TEN, TEN + 0xFFFFFF)),),
    "! -s 10.0.0.0/8": (is_in(Field.SADDR, (TEN, TEN + 0xFFFFFF), negated=True),),
    "-s ! 10.0.0.0/8": (is_in(Field.SADDR, (TEN, TEN + 0xFFFFFF), negated=True),),
    "--source 10.1.2.3/255.0.0.0": (is_in(Field.SADDR, (TEN, TEN + 0xFFFFFF)),),
    "-s 10/8": (is_in(Field.SADDR, (TEN, TEN + 0xFFFFFF)),),
    "-d 10.0.0.5": (is_in(Field.DADDR, (TEN + 5, TEN + 5)),),
    "-d 0/0": (is_in(Field.DADDR, (0, 0xFFFFFFFF)),),
    "-s 10.0.0.5/255.0.0.255": (is_in(Field.SADDR, (TEN + 5, TEN + 5), mask=0xFF0000FF),),
    "-s 10.0.0.1,10.0.0.2": (is_in(Field.SADDR, (TEN + 1, TEN + 2)),),
    "-s gateway.example.net": (Unknown("the host name gateway.example.net"),),
    # interfaces
    "-i eth0": (Name(False, ("eth0",)),),
    "! -i eth+": (Name(False, ("eth*",), True),),
    "-o wg+": (Name(True, ("wg*",)),),
    "-i +": (),
    "! -i +": (NEVER,),
    # protocols
    "-p tcp": (TCP,),
    "-p 6": (TCP,),
    "! -p udp": (is_in(Field.L4PROTO, (17, 17), negated=True),),
    "-p all": (),
    "-p vrrp": (is_in(Field.L4PROTO, (112, 112)),),
    "-f": (is_in(Field.FRAGMENT, (1, 1)),),
    "! -f": (is_in(Field.FRAGMENT, (1, 1), negated=True),),
    # tcp and udp
    "-p tcp -m tcp --dport 22": (TCP, SSH),
    "-p tcp --dport ssh": (TCP, SSH),
    "-p tcp --destination-port 22": (TCP, SSH),
    "-p tcp -m tcp ! --dport 22": (TCP, SSH._replace(negated=True)),
    "-p tcp -m tcp --dport ! 22": (TCP, SSH._replace(negated=True)),
    "-p tcp -m tcp --sport 1024:": (TCP, is_in(Field.SPORT, (1024, 65535))),
    "-p tcp -m tcp --dport :1023": (TCP, is_in(Field.DPORT, (0, 1023))),
    "-p tcp -m tcp --dport ftp-data:ssh": (TCP, is_in(Field.DPORT, (20, 22))),
    "-p tcp --syn": (TCP, is_in(Field.TCPFLAGS, (2, 2), mask=23)),
    "-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN": (TCP, is_in(Field.TCPFLAGS, (2, 2), mask=23, negated=True)),
    "-p tcp -m tcp --tcp-flags ALL NONE": (TCP, is_in(Field.TCPFLAGS, (0, 0), mask=63)),
    "-p tcp -m tcp --tcp-option 8": (TCP, Compare(Selector(Field.TCPOPTION, key=8), ((1, 1),))),
    "-p udp -m udp --dport 53": (is_in(Field.L4PROTO, (17, 17)), is_in(Field.DPORT, (53, 53))),
    "-p tcp -m multiport --dports 22,80,443": (TCP, is_in(Field.DPORT, (22, 22), (80, 80), (443, 443))),
    "-p tcp -m multiport ! --dports 20:22,ssh,23": (TCP, is_in(Field.DPORT, (20, 23), negated=True)),
    "-p tcp -m multiport --dport 22,80": (TCP, is_in(Field.DPORT, (22, 22), (80, 80))),
    "-p TCP --dport 22": (TCP, SSH),
    "-m multiport --sports 1024:65535 -p tcp": (TCP, is_in(Field.SPORT, (1024, 65535))),
    "-p tcp -m multiport --sports 1024:65535": (TCP, is_in(Field.SPORT, (1024, 65535))),
    "-p tcp -m multiport --ports 22": (
        TCP,
        Lookup(
            (Selector(Field.SPORT), Selector(Field.DPORT)),
            (Element((((22, 22),), EVERY_PORT)), Element((EVERY_PORT, ((22, 22),)))),
            name="multiport",
        ),
    ),
    "-p icmp -m icmp --icmp-type 8": (is_in(Field.L4PROTO, (1, 1)), is_in(Field.ICMP_TYPE, (8, 8))),
    "-p icmp --icmp-type echo-request": (is_in(Field.L4PROTO, (1, 1)), is_in(Field.ICMP_TYPE, (8, 8))),
    "-p icmp --icmp-type any": (is_in(Field.L4PROTO, (1, 1)),),
    "-p sctp -m sctp --dport 22": (is_in(Field.L4PROTO, (132, 132)), NEVER),
    # connection tracking
    "-m conntrack --ctstate NEW": (state(mask=8),),
    "-m conntrack ! --ctstate INVALID,UNTRACKED": (state(mask=65, any_set=False),),
    "-m state --state RELATED,ESTABLISHED": (state(mask=6),),
    "-m state ! --state NEW": (state(mask=8, any_set=False),),
    "-m conntrack --ctstate NEW,DNAT": (
        Lookup(
            (Selector(Field.CTSTATE, 8), Selector(Field.CTNAT, 32)),
            (Element((SOME, EVERY)), Element((EVERY, SOME))),
            name="ctstate",
        ),
    ),
    "-m conntrack --ctstate NEW --ctproto 6": (state(mask=8), is_in(Field.CTPROTO, (6, 6))),
    "-m conntrack --ctproto tcp": (TRACKED, is_in(Field.CTPROTO, (6, 6))),
    "-m conntrack --ctstate NEW,INVALID --ctproto 6": (
        Unknown("conntrack: INVALID or UNTRACKED together with other options"),
    ),
    "-m conntrack --ctstatus NONE": (TRACKED, Bits(Selector(Field.CTSTATUS), 0)),
    "-m conntrack ! --ctstatus SEEN_REPLY,ASSURED": (TRACKED, Bits(Selector(Field.CTSTATUS), 6, False)),
    "-m conntrack --ctdir REPLY": (TRACKED, is_in(Field.CTDIR, (1, 1))),
    "-m conntrack --ctorigsrc 10.0.0.0/8": (TRACKED, is_in(Field.CT_ORIG_SADDR, (TEN, TEN + 0xFFFFFF))),
    "-m conntrack ! --ctorigdst 10.0.0.5": (TRACKED, is_in(Field.CT_ORIG_DADDR, (TEN + 5, TEN + 5), negated=True)),
    "-m conntrack --ctrepldst 10.0.0.5": (TRACKED, is_in(Field.CT_ORIG_SADDR, (TEN + 5, TEN + 5))),
    "-m conntrack --ctorigdstport 22": (TRACKED, is_in(Field.CT_ORIG_DPORT, (22, 22))),
    "-m conntrack --ctreplsrcport 22": (
        TRACKED,
        Lookup(
            (Selector(Field.CTDIR), Selector(Field.DPORT, 0xFFFF), Selector(Field.SPORT, 0xFFFF)),
            (Element((((0, 0),), ((22, 22),), EVERY)), Element((((1, 1),), EVERY, ((22, 22),)))),
            name="conntrack tuple",
        ),
    ),
    "-m conntrack --ctexpire 10:20": (TRACKED, is_in(Field.CTEXPIRATION, (10, 20))),
    # the rest of the packet
    "-m addrtype --dst-type LOCAL": (is_in(Field.DADDR_TYPE, (2, 2)),),
    "-m addrtype ! --src-type UNICAST,BROADCAST --limit-iface-in": (
        is_in(Field.SADDR_TYPE, (1, 1), (3, 3), negated=True),
    ),
    "-m iprange --src-range 10.0.0.1-10.0.0.9": (is_in(Field.SADDR, (TEN + 1, TEN + 9)),),
    "-m iprange --src-range 10.0.0.9-10.0.0.1": (is_in(Field.SADDR),),
    "-m iprange ! --dst-range 10.0.0.1-10.0.0.9": (is_in(Field.DADDR, (TEN + 1, TEN + 9), negated=True),),
    "-m mark --mark 0x1": (is_in(Field.MARK, (1, 1), mask=0xFFFFFFFF),),
    "-m mark ! --mark 0x10/0xf0": (is_in(Field.MARK, (16, 16), mask=0xF0, negated=True),),
    "-m connmark --mark 0x1/0x1": (TRACKED, is_in(Field.CTMARK, (1, 1), mask=1)),
    "-m connmark --mark 0x1 -m mark --mark 0x2": (
        TRACKED,
        is_in(Field.CTMARK, (1, 1), mask=0xFFFFFFFF),
        is_in(Field.MARK, (2, 2), mask=0xFFFFFFFF),
    ),
    "-m pkttype ! --pkt-type broadcast": (is_in(Field.PKTTYPE, (1, 1), negated=True),),
    "-m ttl --ttl-lt 5": (is_in(Field.TTL, (0, 4)),),
    "-m ttl --ttl-gt 250": (is_in(Field.TTL, (251, 255)),),
    "-m ttl ! --ttl-eq 64": (is_in(Field.TTL, (64, 64), negated=True),),
    "-m dscp --dscp 0x2e": (is_in(Field.DSCP, (46, 46)),),
    "-m dscp --dscp-class AF31": (is_in(Field.DSCP, (26, 26)),),
    "-m tos --tos 0x10/0x3f": (is_in(Field.DSCP, (4, 4), mask=15),),
    "-m tos --tos Minimize-Delay": (is_in(Field.DSCP, (4, 4), mask=15),),
    "-m length --length 40:60": (is_in(Field.LENGTH, (40, 60)),),
    "-m rpfilter --invert": (is_in(Field.FIB_IIF, (1, 1), negated=True),),
    "-m rpfilter --loose": (is_in(Field.SADDR_TYPE, (1, 1)),),
    "-m ecn --ecn-tcp-cwr": (is_in(Field.TCPFLAGS, (128, 128), mask=128),),
    '-m comment --comment "it\\"s -j DROP" -j ACCEPT': (ACCEPT,),
    "-m comment --comment 'a b' -j ACCEPT": (ACCEPT,),
    "-m policy --dir in --pol none": (),
    "-m policy --dir in --pol ipsec --proto esp": (NEVER,),
    "-m helper --helper ftp": (NEVER,),
    # limiters: what the first SYN of an idle source gets
    "-m limit --limit 3/min --limit-burst 5": (Limiter("limit", True),),
    "-m hashlimit --hashlimit-upto 5/sec --hashlimit-name x": (Limiter("hashlimit", True),),
    "-m hashlimit --hashlimit-above 5/sec --hashlimit-mode srcip --hashlimit-name x": (Limiter("hashlimit", False),),
    "-m hashlimit ! --hashlimit 5/sec --hashlimit-name x": (Limiter("hashlimit", False),),
    "-m limit --limit 3/hour": (Limiter("limit", True, 5),),
    "-m limit": (Limiter("limit", True, 5),),
    "-m limit --limit 3/day": (Limiter("limit", True, 5),),
    "-m limit --limit 1/hour --limit-burst 39": (Limiter("limit", True, 1),),  # 39 hours overflow
    "-m limit --limit 2/min --limit-burst 100": (Limiter("limit", True),),
    "-m limit --limit 1/m --limit-burst 2": (Limiter("limit", True, 2),),
    "-m hashlimit --hashlimit-above 3/d --hashlimit-mode srcip --hashlimit-burst 1 --hashlimit-name x": (
        Limiter("hashlimit", False, 1, "hashlimit x", True),
    ),
    "-m hashlimit --hashlimit-upto 512kb/min --hashlimit-name x": (Limiter("hashlimit", True),),
    "-m connlimit --connlimit-above 3 --connlimit-mask 32 --connlimit-saddr": (Limiter("connlimit", False),),
    "-m connlimit --connlimit-above 0": (Limiter("connlimit", True),),
    "-m connlimit --connlimit-upto 3": (Limiter("connlimit", True),),
    "-m connlimit --connlimit-upto 0": (Limiter("connlimit", False),),
    "-m connlimit ! --connlimit-above 3": (Limiter("connlimit", True),),
    "-m quota --quota 1000": (Limiter("quota", True),),
    "-m recent --set --name SSH --mask 255.255.255.255 --rsource": (Recent("set", "SSH"),),
    "-m recent ! --rcheck --seconds 60 --hitcount 4 --rdest": (Recent("rcheck", "DEFAULT", 4, False, True),),
    # what nobody can know
    "-m string --string abc --algo bm --to 65535": (Unknown("string: --string abc --algo bm --to 65535"),),
    "-m owner ! --uid-owner 0": (Unknown("owner: ! --uid-owner 0"),),
    "-m physdev --physdev-is-bridged": (Unknown("physdev: --physdev-is-bridged"),),
    "-m mac --mac-source 00:11:22:33:44:55": (Unknown("mac: --mac-source 00:11:22:33:44:55"),),
    "-m tcpmss --mss 1:500": (Unknown("tcpmss: --mss 1:500"),),
    "-m geoip ! --source-country CN,RU -j DROP": (
        Unknown("the match geoip is not known: ! --source-country CN,RU"),
        Verdict(Kind.DROP),
    ),
    "-m set --match-set blocked src": (Unknown("the contents of ipset blocked are not known"),),
    "-m socket --transparent": (Socket("socket --transparent"),),
    # targets
    "-j ACCEPT": (ACCEPT,),
    "-j DROP -m comment --comment after": (Verdict(Kind.DROP),),
    "-j RETURN": (Verdict(Kind.RETURN),),
    "-j fail2ban": (Verdict(Kind.JUMP, "fail2ban"),),
    "-g other": (Verdict(Kind.GOTO, "other"),),
    "-j REJECT": (Verdict(Kind.REJECT, reject="port-unreachable"),),
    "-j REJECT --reject-with tcp-reset": (Verdict(Kind.REJECT, reject="tcp-reset"),),
    "-j REJECT --reject-with icmp-admin-prohibited": (Verdict(Kind.REJECT, reject="admin-prohibited"),),
    "-j REJECT --reject-with icmp-proto-unreachable": (Verdict(Kind.REJECT, reject="prot-unreachable"),),
    "-j LOG --log-prefix \"[drop] \" --log-level 7": (),
    "-j NFLOG --nflog-group 2": (),
    "-j MARK --set-xmark 0x1/0xffffffff": (SetMark(False, 0xFFFFFFFF, 1),),
    "-j MARK --set-mark 0x1/0xf0": (SetMark(False, 0xF1, 1),),
    "-j MARK --and-mark 0xff": (SetMark(False, 0xFFFFFF00, 0),),
    "-j MARK --or-mark 0xff": (SetMark(False, 0xFF, 0xFF),),
    "-j MARK --xor-mark 0xff": (SetMark(False, 0, 0xFF),),
    "-j CONNMARK --set-xmark 0x2/0xff": (SetMark(True, 0xFF, 2),),
    "-j CONNMARK --save-mark --nfmask 0xff --ctmask 0xf0": (CopyMark(True, 0xF0, 0xFF),),
    "-j CONNMARK --restore-mark --mask 0xff": (CopyMark(False, 0xFF, 0xFF),),
    "-j NOTRACK": (NoTrack(),),
    "-j CT --notrack": (NoTrack(),),
    "-j CT --helper ftp": (),
    "-j CT --zone 3": (Verdict(Kind.UNKNOWN, reason="CT --zone: the connection is tracked in another zone"),),
    "-j DNAT --to-destination 10.0.0.5:2222": (Verdict(Kind.DNAT, to=((TEN + 5, TEN + 5),), ports=((2222, 2222),)),),
    "-j DNAT --to-destination 10.0.0.5-10.0.0.9": (Verdict(Kind.DNAT, to=((TEN + 5, TEN + 9),)),),
    "-j DNAT --to-destination :22": (Verdict(Kind.DNAT, ports=((22, 22),)),),
    "-j REDIRECT --to-ports 22": (Verdict(Kind.REDIRECT, ports=((22, 22),)),),
    "-j REDIRECT": (Verdict(Kind.REDIRECT),),
    "-j MASQUERADE --random": (Verdict(Kind.SNAT),),
    "-j SNAT --to-source 1.2.3.4": (Verdict(Kind.SNAT, to=((0x01020304, 0x01020304),)),),
    "-j NFQUEUE --queue-num 1 --queue-bypass": (Verdict(Kind.QUEUE, reason="a program decides (NFQUEUE)"),),
    "-j TCPMSS --clamp-mss-to-pmtu": (),
}  # fmt: skip


@pytest.mark.parametrize("words", MEANINGS)
def test_a_rule_means(words: str) -> None:
    assert items(words) == MEANINGS[words]


def test_a_rule_of_ipv6_means() -> None:
    six = Family.IPV6
    low = 0x20010DB8 << 96
    assert items("-s 2001:db8::/32", six) == (is_in(Field.SADDR, (low, low | (1 << 96) - 1)),)
    assert items("-s 2001:db8::/ffff:ffff::", six) == items("-s 2001:db8::/32", six)
    assert items("-p ipv6-icmp -m icmp6 --icmpv6-type 135", six) == (
        is_in(Field.L4PROTO, (58, 58)),
        is_in(Field.ICMPV6_TYPE, (135, 135)),
    )
    assert items("-p icmpv6 --icmpv6-type neighbour-solicitation", six)[1] == is_in(Field.ICMPV6_TYPE, (135, 135))
    assert items("-p icmpv6 -m icmpv6 --icmpv6-type 135", six)[1] == is_in(Field.ICMPV6_TYPE, (135, 135))
    coded = Lookup(
        (Selector(Field.ICMPV6_TYPE), Selector(Field.ICMP_CODE)), (Element((((135, 135),), ((1, 1),))),), name="icmp"
    )
    assert items("-p icmpv6 --icmpv6-type 135/1", six)[1] == coded
    assert items("-p icmpv6 ! --icmpv6-type 135/1", six)[1] == coded._replace(negated=True)
    # Unlike IPv4's, IPv6's types are conditions, and a local address is unicast, too (xt_addrtype.c).
    assert items("-m addrtype --src-type UNICAST", six) == (is_in(Field.SADDR_TYPE, (1, 2)),)
    assert items("-m addrtype --src-type UNICAST,LOCAL", six) == (is_in(Field.SADDR_TYPE, (2, 2)),)
    assert items("-m addrtype ! --dst-type MULTICAST,LOCAL", six) == (Compare(Selector(Field.DADDR_TYPE), (), True),)
    assert items("-m hl --hl-eq 255", six) == (is_in(Field.TTL, (255, 255)),)
    assert items("-m frag --fragid 0", six) == (NEVER,)
    assert items("-j REJECT --reject-with icmp6-adm-prohibited", six) == (
        Verdict(Kind.REJECT, reject="admin-prohibited"),
    )
    assert items("-j DNAT --to-destination [2001:db8::5]:22", six) == (
        Verdict(Kind.DNAT, to=((low + 5, low + 5),), ports=((22, 22),)),
    )
    assert items("-j DNAT --to-destination 2001:db8::5", six) == (Verdict(Kind.DNAT, to=((low + 5, low + 5),)),)
    assert items("-j DNAT --to-destination :22", six) == (Verdict(Kind.DNAT, ports=((22, 22),)),)


def test_a_target_that_is_neither_chain_nor_known_may_do_anything() -> None:
    rule = iptables.parse_rule("-A INPUT -j TARPIT --tarpit", Family.IPV4, chains=("INPUT", "other"))
    assert rule.items == (Verdict(Kind.UNKNOWN, reason="the target TARPIT is not known"),)
    jump = iptables.parse_rule("-A INPUT -j other", Family.IPV4, chains=("INPUT", "other"))
    assert jump.items == (Verdict(Kind.JUMP, "other"),)


def test_set_targets_teach_the_sets_that_are_known() -> None:
    sets = iptables.parse_ipsets("create s hash:ip,port family inet\n")
    rule = iptables.parse_rule("-A INPUT -j SET --add-set s src,dst --exist", Family.IPV4, sets)
    key = (Selector(Field.SADDR), Selector(Field.L4PROTO), Selector(Field.DPORT))
    assert rule.items == (Learn("s", key),)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("-s 10.0.0.300 -j DROP", "'10.0.0.300' is not an IPv4 address"),
        ("-s 10.0.0.0/33", "/33 is longer than 32 bits"),
        ("-s 2001:db8::1", "'2001:db8::1' is not an IPv4 address"),
        ("-s", "-s lacks its value"),
        ("-s 1.2.3.4 -s 1.2.3.5", "-s twice"),
        ("-p tcp --dport 99999", "99999 is not between 0 and 65535"),
        ("-p tcp --dport sssh", "the port name 'sssh' is unknown"),
        ("-p tcp --dport 30:20", "the port range 30:20 is backwards"),
        ("-p tcp --dprot 22", "'--dprot' is not understood"),
        ("-p tcpp", "the protocol 'tcpp' is unknown"),
        ("-j ACCEPT -j DROP", "two targets"),
        ("-m conntrack --ctstate NWE", "'NWE' is not a state"),
        ("-j REJECT --reject-with icmp-nothing", "'icmp-nothing' is no kind of rejection"),
        ("-j ACCEPT !", "! stands before no option"),
        ("! -m tcp -p tcp", "! stands before no option"),
        ("! -j ACCEPT", "! stands before no option"),
        ("-m limit ! --limit 3/min", "--limit cannot be negated"),
        ("-m ttl ! --ttl-lt 5", "--ttl-lt cannot be negated"),
        ("-j REJECT ! --reject-with tcp-reset", "--reject-with cannot be negated"),
        ("-j DNAT --to-destination somewhere", "'somewhere' is not an IPv4 address"),
        ("-p tcp -m tcp -m multiport --dport 22", "multiport takes one of --sports, --dports, --ports"),
        ("-m recent --name x", "recent takes one of --set, --rcheck, --update, --remove"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_its_reason(words: str, reason: str) -> None:
    with pytest.raises(iptables.IptablesError) as caught:
        items(words)
    assert caught.value.reason == reason
    assert words in str(caught.value)
