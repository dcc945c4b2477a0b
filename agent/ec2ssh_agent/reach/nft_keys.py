"""What nftables rules look at, and how their JSON writes it: keys, types and values (libnftables-json(5)).

A `Key` is what a selector expression (`{"payload": …}`, `{"meta": …}`, `{"ct": …}`, …) asks of the packet. nft leaves
out of its listing the dependencies that follow from a key (`tcp dport` loads only where the protocol is tcp); they are
in `requires`. Sources: nftables' src/{meta,ct,proto,exthdr,fib,tcpopt}.c, net/netfilter/nft_*.c.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Optional

from ..plain import NamedTuple
from . import addresses, names, values
from .ruleset import Family, Field, Item, Ranges, Selector, Test

#: Expressions nested deeper than this are not rules that nft printed.
DEPTH = 40


class NotUnderstood(Exception):
    """An expression outside what is modelled; the text says what, for a person."""


class Type(NamedTuple):
    """How values of a key are written: `names` for numbers, `family` for addresses."""

    bits: int
    names: Mapping[str, int] = {}
    family: Optional[Family] = None
    numbers: bool = True  # False: only the names mean anything (the model has numbers of its own)

    @property
    def whole(self) -> Ranges:
        return ((0, (1 << self.bits) - 1),)


class What(enum.Enum):
    FIELD = "field"
    INTERFACE = "interface"
    CONSTANT = "constant"  # what every packet asked about has: no IP options, no extension headers
    ABSENT = "absent"  # not there in any packet asked about: the kernel ends the rule, whatever it is compared with
    UNKNOWN = "unknown"


class Key(NamedTuple):
    what: What
    selector: Selector = Selector(Field.L4PROTO)
    type: Type = Type(32)
    output: bool = False  # INTERFACE
    constant: int = 0
    open: int = 0  # CONSTANT: the bits that differ from packet to packet
    reason: str = ""
    requires: tuple[Item, ...] = ()


def _choices(text: str) -> dict[str, int]:
    words = text.split()
    return {name: int(number, 0) for name, number in zip(words[::2], words[1::2])}


NUMBER = Type(32)
PORT = Type(16, names.SERVICES)
PROTOCOL = Type(8, names.PROTOCOLS)
IPV4 = Type(32, {}, Family.IPV4)
IPV6 = Type(128, {}, Family.IPV6)
STATE = Type(32, _choices("invalid 1 established 2 related 4 new 8 untracked 64"))
_STATUS = Type(32, _choices("expected 1 seen-reply 2 assured 4 confirmed 8 snat 16 dnat 32 dying 512"))
_DIRECTION = Type(8, _choices("original 0 reply 1"))
_PKTTYPE = Type(8, _choices("host 0 unicast 0 broadcast 1 multicast 2 other 3"))
FLAGS = Type(8, _choices("fin 1 syn 2 rst 4 psh 8 ack 16 urg 32 ecn 64 cwr 128"))
_FIB = Type(
    32,
    _choices(
        "unspec 0 unicast 1 local 2 broadcast 3 anycast 4 multicast 5 blackhole 6 unreachable 7 prohibit 8 throw 9"
        " nat 10 xresolve 11"
    ),
)
# NFPROTO_* for both; ethertypes that no packet of ours has get numbers that NFPROTO does not use.
_NFPROTO = Type(8, _choices("inet 1 ipv4 2 arp 3 netdev 5 bridge 7 ipv6 10"))
_ETHERTYPE = Type(
    16,
    _choices("ip 2 ip6 10 arp 3 vlan 254 8021q 254 8021ad 253 0x0800 2 0x800 2 0x86dd 10 2048 2 34525 10"),
    None,
    False,
)
_ICMP = Type(
    8,
    _choices(
        "echo-reply 0 destination-unreachable 3 source-quench 4 redirect 5 echo-request 8 router-advertisement 9"
        " router-solicitation 10 time-exceeded 11 parameter-problem 12 timestamp-request 13 timestamp-reply 14"
        " info-request 15 info-reply 16 address-mask-request 17 address-mask-reply 18"
    ),
)
_ICMPV6 = Type(
    8,
    _choices(
        "destination-unreachable 1 packet-too-big 2 time-exceeded 3 parameter-problem 4 echo-request 128 echo-reply 129"
        " mld-listener-query 130 mld-listener-report 131 mld-listener-done 132 mld-listener-reduction 132"
        " nd-router-solicit 133 nd-router-advert 134 nd-neighbor-solicit 135 nd-neighbor-advert 136 nd-redirect 137"
        " router-renumbering 138 ind-neighbor-solicit 141 ind-neighbor-advert 142 mld2-listener-report 143"
    ),
)
_ICMP_CODE = Type(
    8,
    _choices(
        "net-unreachable 0 host-unreachable 1 prot-unreachable 2 port-unreachable 3 frag-needed 4 net-prohibited 9"
        " host-prohibited 10 admin-prohibited 13"
    ),
)
_ICMPV6_CODE = Type(
    8, _choices("no-route 0 admin-prohibited 1 addr-unreachable 3 port-unreachable 4 policy-fail 5 reject-route 6")
)
_DSCP = Type(
    6,
    {
        **{f"cs{number}": number << 3 for number in range(8)},
        **{f"af{klass}{drop}": klass << 3 | drop << 1 for klass in range(1, 5) for drop in range(1, 4)},
        **_choices("df 0 be 0 ef 46 va 44 lephb 1"),
    },
)
_OPTIONS = _choices(
    "eol 0 nop 1 maxseg 2 mss 2 window 3 sack-perm 4 sack-permitted 4 sack 5 sack0 5 sack1 5 sack2 5 sack3 5"
    " timestamp 8 md5sig 19 mptcp 30 fastopen 34"
)
BOOLEAN = Type(1, _choices("exists 1 missing 0"))

_V4: tuple[Item, ...] = (Test(Selector(Field.NFPROTO), ((2, 2),)),)
_V6: tuple[Item, ...] = (Test(Selector(Field.NFPROTO), ((10, 10),)),)


def _protocol(number: int) -> tuple[Item, ...]:
    return (Test(Selector(Field.L4PROTO), ((number, number),)),)


_TCP, _ICMP4, _ICMP6 = _protocol(6), _protocol(1), _protocol(58)
#: A conntrack entry is there: else the kernel ends the rule.
_TRACKED: tuple[Item, ...] = (Test(Selector(Field.CTSTATE), ((2, 2), (4, 4), (8, 8))),)
REQUIRES: Mapping[str, tuple[Item, ...]] = {"ip": _V4, "ip6": _V6, "tcp": _TCP, "ipv4": _V4, "ipv6": _V6}


def _field(field: Field, kind: Type, requires: tuple[Item, ...] = ()) -> Key:
    return Key(What.FIELD, Selector(field), kind, requires=requires)


def unknown(reason: str, requires: tuple[Item, ...] = ()) -> Key:
    return Key(What.UNKNOWN, reason=reason, requires=requires)


def absent(requires: tuple[Item, ...] = ()) -> Key:
    return Key(What.ABSENT, requires=requires)


def _constant(value: int, kind: Type = NUMBER, requires: tuple[Item, ...] = ()) -> Key:
    return Key(What.CONSTANT, type=kind, constant=value, requires=requires)


_PAYLOAD = {
    ("ip", "saddr"): _field(Field.SADDR, IPV4, _V4),
    ("ip", "daddr"): _field(Field.DADDR, IPV4, _V4),
    ("ip", "protocol"): _field(Field.L4PROTO, PROTOCOL, _V4),
    ("ip", "ttl"): _field(Field.TTL, Type(8), _V4),
    ("ip", "dscp"): _field(Field.DSCP, _DSCP, _V4),
    ("ip", "length"): _field(Field.LENGTH, Type(16), _V4),
    ("ip", "version"): _constant(4, Type(4), _V4),
    ("ip", "hdrlength"): _constant(5, Type(4), _V4),
    ("ip", "frag-off"): Key(What.CONSTANT, type=Type(16), open=0x4000, requires=_V4),  # whole; with or without DF
    ("ip6", "saddr"): _field(Field.SADDR, IPV6, _V6),
    ("ip6", "daddr"): _field(Field.DADDR, IPV6, _V6),
    ("ip6", "nexthdr"): _field(Field.L4PROTO, PROTOCOL, _V6),
    ("ip6", "hoplimit"): _field(Field.TTL, Type(8), _V6),
    ("ip6", "dscp"): _field(Field.DSCP, _DSCP, _V6),
    ("ip6", "version"): _constant(6, Type(4), _V6),
    ("tcp", "sport"): _field(Field.SPORT, PORT, _TCP),
    ("tcp", "dport"): _field(Field.DPORT, PORT, _TCP),
    ("tcp", "flags"): _field(Field.TCPFLAGS, FLAGS, _TCP),
    ("th", "sport"): _field(Field.SPORT, PORT),  # of whatever protocol
    ("th", "dport"): _field(Field.DPORT, PORT),
    ("icmp", "type"): _field(Field.ICMP_TYPE, _ICMP, _ICMP4),
    ("icmp", "code"): _field(Field.ICMP_CODE, _ICMP_CODE, _ICMP4),
    ("icmpv6", "type"): _field(Field.ICMPV6_TYPE, _ICMPV6, _ICMP6),
    ("icmpv6", "code"): _field(Field.ICMP_CODE, _ICMPV6_CODE, _ICMP6),
}
#: Headers of a protocol that neither a SYN nor a neighbour solicitation has; with fields that nobody needs to know.
_OTHER_PROTOCOLS = {"udp": 17, "udplite": 136, "sctp": 132, "dccp": 33, "ah": 51, "esp": 50, "comp": 108, "igmp": 2}
_HEADERS = {"ip": _V4, "ip6": _V6, "tcp": _TCP, "icmp": _ICMP4, "icmpv6": _ICMP6}

_META = {
    "l4proto": _field(Field.L4PROTO, PROTOCOL),
    "nfproto": _field(Field.NFPROTO, _NFPROTO),
    "protocol": _field(Field.NFPROTO, _ETHERTYPE),
    "mark": _field(Field.MARK, NUMBER),
    "length": _field(Field.LENGTH, NUMBER),
    "pkttype": _field(Field.PKTTYPE, _PKTTYPE),
    "iifname": Key(What.INTERFACE),
    "oifname": Key(What.INTERFACE, output=True),
    "iif": Key(What.INTERFACE, selector=Selector(Field.IIF)),
    "oif": Key(What.INTERFACE, selector=Selector(Field.OIF), output=True),
    # Under an XFRM policy the whole link is uncertain (Link.bypass); else no packet comes by IPsec.
    "ipsec": _constant(0, BOOLEAN),
    "secpath": _constant(0, BOOLEAN),
}

_CT = {
    "state": _field(Field.CTSTATE, STATE),
    "status": _field(Field.CTSTATUS, _STATUS, _TRACKED),
    "mark": _field(Field.CTMARK, NUMBER, _TRACKED),
    "direction": _field(Field.CTDIR, _DIRECTION, _TRACKED),
    "expiration": _field(Field.CTEXPIRATION, NUMBER, _TRACKED),
    "l3proto": _field(Field.NFPROTO, _NFPROTO, _TRACKED),
    "protocol": _field(Field.CTPROTO, PROTOCOL, _TRACKED),
    # Without a helper the kernel ends the rule; ssh's connections have none.
    "helper": absent(),
}


def mapping(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise NotUnderstood("an expression that is no object")
    return value


def text_of(value: object) -> str:
    """For a message: a string as it is, cut; anything else by its kind."""
    return value[:60] if isinstance(value, str) else type(value).__name__


def payload(body: dict[str, object]) -> Key:
    protocol, name = body.get("protocol"), body.get("field")
    if "tunnel" in body:
        return unknown("an inner packet", _protocol(17))
    if not isinstance(protocol, str) or not isinstance(name, str):
        base = (body.get("base"), body.get("offset"), body.get("len"))
        if base == ("th", 16, 16):
            return _PAYLOAD["th", "dport"]
        if base == ("th", 0, 16):
            return _PAYLOAD["th", "sport"]
        return unknown("raw payload")
    key = _PAYLOAD.get((protocol, name))
    if key:
        return key
    if protocol in _OTHER_PROTOCOLS:
        return absent(_protocol(_OTHER_PROTOCOLS[protocol]))
    what = f"{protocol} {name}"[:60]
    return unknown(what, _HEADERS.get(protocol, ()))


def meta(body: dict[str, object]) -> Key:
    name = body.get("key")
    key = _META.get(name) if isinstance(name, str) else None
    return key or unknown(f"meta {text_of(name)}")


def ct(body: dict[str, object], family: str) -> Key:
    name, direction = body.get("key"), body.get("dir")
    if not isinstance(name, str):
        return unknown("ct")
    if direction is None and name in _CT:
        return _CT[name]
    version, _, part = name.rpartition(" ")
    if part in ("saddr", "daddr") and direction == "original":
        version = version or str(body.get("family") or family)
        field = Field.CT_ORIG_SADDR if part == "saddr" else Field.CT_ORIG_DADDR
        if version == "ip":
            return _field(field, IPV4, _TRACKED + _V4)
        if version == "ip6":
            return _field(field, IPV6, _TRACKED + _V6)
    if name == "proto-dst" and direction == "original":
        return _field(Field.CT_ORIG_DPORT, PORT, _TRACKED)
    if name in ("l3proto", "protocol") and direction in ("original", "reply"):
        return _CT[name]
    return unknown(f"ct {text_of(direction) + ' ' if direction else ''}{name[:40]}")


def fib(body: dict[str, object]) -> Key:
    """`fib saddr type`, `fib saddr . iif oif exists` (reverse path). Marks are not followed into policy routing."""
    listed = body.get("flags")
    flags = [listed] if isinstance(listed, str) else listed if isinstance(listed, list) else []
    result = body.get("result")
    if result == "type" and ("saddr" in flags) != ("daddr" in flags):
        return _field(Field.SADDR_TYPE if "saddr" in flags else Field.DADDR_TYPE, _FIB)
    if result in ("oif", "oifname", "check") and "saddr" in flags and "iif" in flags:
        return _field(Field.FIB_IIF, BOOLEAN)
    return unknown(f"fib {' . '.join(text_of(flag) for flag in flags[:4])} {text_of(result)}")


def tcp_option(body: dict[str, object]) -> Key:
    name = body.get("name")
    kind = _OPTIONS.get(name) if isinstance(name, str) else body.get("base")
    if not isinstance(kind, int):
        return unknown(f"tcp option {text_of(name)}", _TCP)
    selector = Selector(Field.TCPOPTION, key=kind)
    exists = "base" in body and (body.get("offset"), body.get("len")) == (0, 8)
    if "field" not in body and ("name" in body or exists):
        return Key(What.FIELD, selector, BOOLEAN)  # missing from what is not TCP, too (nft_exthdr_tcp_eval)
    return unknown(f"tcp option {name or kind} {text_of(body.get('field'))}", (*_TCP, Test(selector, ((1, 1),))))


def headers(kind: str, body: dict[str, object]) -> Key:
    """IPv6 extension headers, IP options, SCTP chunks: the packets asked about have none (nft_exthdr.c)."""
    requires = {"exthdr": _V6, "ip option": _V4}.get(kind, ())
    return absent(requires) if "field" in body else _constant(0, BOOLEAN, requires)


# -- values


def value(kind: Type, given: object, depth: int = 0) -> int:
    """One number. Raises NotUnderstood."""
    if depth > DEPTH:
        raise NotUnderstood("an expression nested too deeply")
    if isinstance(given, int):
        number: Optional[int] = int(given) if kind.numbers else kind.names.get(str(given), 252)
    elif isinstance(given, str):
        number = _named(kind, given)
    elif isinstance(given, list):
        number = 0
        for part in given:
            number |= value(kind, part, depth + 1)
    elif isinstance(given, dict) and len(given) == 1 and isinstance(given.get("|"), list):
        return value(kind, given["|"], depth + 1)
    else:
        raise NotUnderstood(f"the value {text_of(given)}")
    if number is None or not 0 <= number < 1 << kind.bits:
        raise NotUnderstood(f"the value {text_of(given)}")
    return number


def _named(kind: Type, text: str) -> Optional[int]:
    if kind.family:
        try:
            return values.address(text, kind.family)
        except ValueError:
            raise NotUnderstood(f"the address {text[:60]}") from None
    number = kind.names.get(text)
    if number is None and kind.numbers:
        try:
            return values.number(text, (1 << kind.bits) - 1)
        except ValueError:
            return None
    return number


def plain(given: object) -> object:
    """An element without its timeout, counter and comment."""
    if isinstance(given, dict) and isinstance(given.get("elem"), dict):
        return given["elem"].get("val")
    return given


def span(kind: Type, given: object) -> tuple[int, int]:
    """One value, a prefix, or a range. Raises NotUnderstood."""
    given = plain(given)
    if isinstance(given, dict):
        if isinstance(given.get("prefix"), dict):
            return _prefix(kind, given["prefix"])
        bounds = given.get("range")
        if isinstance(bounds, list) and len(bounds) == 2:
            low, high = value(kind, bounds[0]), value(kind, bounds[1])
            if low > high:
                raise NotUnderstood("a range that is backwards")
            return low, high
    number = value(kind, given)
    return number, number


def _prefix(kind: Type, body: dict[str, object]) -> tuple[int, int]:
    length = body.get("len")
    if not isinstance(length, int) or not 0 <= length <= kind.bits:
        raise NotUnderstood("a prefix without its length")
    number = value(kind, body.get("addr"))
    host = (1 << (kind.bits - length)) - 1
    return number & ~host, number | host


def spans(kind: Type, given: list[object]) -> Ranges:
    return addresses.normal([span(kind, element) for element in given])


def pattern(given: object) -> str:
    """An interface's name, or a prefix of names with `*`."""
    given = plain(given)
    if not isinstance(given, (str, int)) or isinstance(given, bool):
        raise NotUnderstood(f"the interface {text_of(given)}")
    name = str(given)
    if name.endswith("\\*") or not name:
        raise NotUnderstood(f"the interface {name[:20]!r}")
    return name
