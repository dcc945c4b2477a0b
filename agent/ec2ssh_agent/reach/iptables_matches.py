"""The matches of iptables-extensions(8), as items of the model.

A match here is as exact as the model can say it. What hangs on more than the canonical SYN and the rules (time, owner,
payload, ...) is `Unknown`, which the walk answers with "uncertain" where it matters. What only packets other than TCP
and neighbour discovery can have (SCTP chunks, AH, ESP, IPv6 extension headers) never matches.

Sources: iptables-extensions(8), net/netfilter/xt_*.c, net/ipv4/netfilter/ipt_*.c, net/ipv6/netfilter/ip6t_*.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from . import addresses, ipsets, limits, values
from .ruleset import (
    Bits,
    Element,
    Family,
    Field,
    Item,
    Limiter,
    Lookup,
    Ranges,
    Recent,
    Selector,
    Socket,
    Test,
    Unknown,
)
from .xtables import Context, Extension, Option, Options, options

_ALL: Ranges = ((0, (1 << 128) - 1),)
_SOME: Ranges = ((1, (1 << 32) - 1),)
#: A match that nothing passes: no value lies in no range.
NEVER = Test(Selector(Field.L4PROTO), ())

Built = tuple[Item, ...]


def _each(read: Callable[[Option, Context], Built]) -> Callable[[Options, Context], Built]:
    """For a match whose options are conditions that must all hold."""

    def build(given: Options, context: Context) -> Built:
        return tuple(item for option in given for item in read(option, context))

    return build


def _fixed(*items: Item) -> Callable[[Options, Context], Built]:
    return lambda given, context: items


def _test(field: Field, ranges: Ranges, option: Option) -> Built:
    return (Test(Selector(field), ranges, option.negated),)


# --- tcp, udp, multiport, ICMP -----------------------------------------------------------------------------------

_FLAGS = {"FIN": 1, "SYN": 2, "RST": 4, "PSH": 8, "ACK": 16, "URG": 32, "ALL": 63, "NONE": 0}


def _ports(option: Option, context: Context) -> Built:
    if option.name in ("--sport", "--dport"):
        return _test(Field.SPORT if option.name == "--sport" else Field.DPORT, values.ports(option.value), option)
    if option.name == "--tcp-option":
        kind = values.number(option.value, 255, 1)
        return (Test(Selector(Field.TCPOPTION, key=kind), ((1, 1),), option.negated),)
    mask, wanted = ("SYN,RST,ACK,FIN", "SYN") if option.name == "--syn" else option.values
    looked, value = (values.bits(text, _FLAGS, "a TCP flag") for text in (mask, wanted))
    return (Test(Selector(Field.TCPFLAGS, looked), ((value, value),), option.negated),)


def _multiport(given: Options, context: Context) -> Built:
    if len(given) != 1:
        raise ValueError("multiport takes one of --sports, --dports, --ports")
    option = given[0]
    wanted = addresses.normal(pair for part in option.value.split(",") for pair in values.ports(part))
    if option.name != "--ports":
        return _test(Field.SPORT if option.name == "--sports" else Field.DPORT, wanted, option)
    either = (Element((wanted, values.ALL_PORTS)), Element((values.ALL_PORTS, wanted)))
    return (Lookup((Selector(Field.SPORT), Selector(Field.DPORT)), either, option.negated, name="multiport"),)


_ICMP = {
    "echo-reply": 0, "pong": 0, "destination-unreachable": 3, "network-unreachable": 3, "host-unreachable": 3,
    "protocol-unreachable": 3, "port-unreachable": 3, "fragmentation-needed": 3, "source-route-failed": 3,
    "network-unknown": 3, "host-unknown": 3, "network-prohibited": 3, "host-prohibited": 3,
    "tos-network-unreachable": 3, "tos-host-unreachable": 3, "communication-prohibited": 3,
    "host-precedence-violation": 3, "precedence-cutoff": 3, "source-quench": 4, "redirect": 5, "network-redirect": 5,
    "host-redirect": 5, "tos-network-redirect": 5, "tos-host-redirect": 5, "echo-request": 8, "ping": 8,
    "router-advertisement": 9, "router-solicitation": 10, "time-exceeded": 11, "ttl-exceeded": 11,
    "ttl-zero-during-transit": 11, "ttl-zero-during-reassembly": 11, "parameter-problem": 12, "ip-header-bad": 12,
    "required-option-missing": 12, "timestamp-request": 13, "timestamp-reply": 14, "address-mask-request": 17,
    "address-mask-reply": 18,
}  # fmt: skip
_ICMPV6 = {
    "destination-unreachable": 1, "no-route": 1, "communication-prohibited": 1, "beyond-scope": 1,
    "address-unreachable": 1, "port-unreachable": 1, "failed-policy": 1, "reject-route": 1, "packet-too-big": 2,
    "time-exceeded": 3, "ttl-exceeded": 3, "ttl-zero-during-transit": 3, "ttl-zero-during-reassembly": 3,
    "parameter-problem": 4, "bad-header": 4, "unknown-header-type": 4, "unknown-option": 4, "echo-request": 128,
    "ping": 128, "echo-reply": 129, "pong": 129, "mld-listener-query": 130, "mld-listener-report": 131,
    "mld-listener-done": 132, "mld-listener-reduction": 132, "router-solicitation": 133, "router-advertisement": 134,
    "neighbour-solicitation": 135, "neighbor-solicitation": 135, "neighbour-advertisement": 136,
    "neighbor-advertisement": 136, "redirect": 137,
}  # fmt: skip


#: Codes of the types that a rejection may have: names of those alone are of one code.
_ICMP_CODES = {
    Field.ICMP_TYPE: {
        "network-unreachable": 0, "host-unreachable": 1, "protocol-unreachable": 2, "port-unreachable": 3,
        "fragmentation-needed": 4, "source-route-failed": 5, "network-unknown": 6, "host-unknown": 7,
        "network-prohibited": 9, "host-prohibited": 10, "tos-network-unreachable": 11, "tos-host-unreachable": 12,
        "communication-prohibited": 13, "host-precedence-violation": 14, "precedence-cutoff": 15,
    },
    Field.ICMPV6_TYPE: {
        "no-route": 0, "communication-prohibited": 1, "beyond-scope": 2, "address-unreachable": 3,
        "port-unreachable": 4, "failed-policy": 5, "reject-route": 6,
    },
}  # fmt: skip


def _icmp(field: Field, names: dict[str, int]) -> Callable[[Option, Context], Built]:
    def read(option: Option, context: Context) -> Built:
        kind, slash, code = option.value.partition("/")
        if kind in ("any", "255"):
            return (NEVER,) if option.negated else ()
        number = names[kind] if kind in names and not slash else values.number(kind, 255)
        codes = values.span(code, 255) if slash else ((0, 255),)
        if kind in _ICMP_CODES[field] and not slash:
            codes = ((_ICMP_CODES[field][kind],) * 2,)
        if codes == ((0, 255),):
            return _test(field, ((number, number),), option)
        wanted = Element((((number, number),), codes))
        return (Lookup((Selector(field), Selector(Field.ICMP_CODE)), (wanted,), option.negated, name="icmp"),)

    return read


# --- conntrack ---------------------------------------------------------------------------------------------------

_STATES = {"INVALID": 1, "ESTABLISHED": 2, "RELATED": 4, "NEW": 8, "UNTRACKED": 64}
_STATUS_STATES = {"SNAT": 16, "DNAT": 32}
_STATUS = {"NONE": 0, "EXPECTED": 1, "SEEN_REPLY": 2, "ASSURED": 4, "CONFIRMED": 8}
#: The packet has a connection; without one, xt_conntrack's options other than --ctstate fail, negated ones too.
_TRACKED = Bits(Selector(Field.CTSTATE), 2 | 4 | 8)


def _state(option: Option) -> Built:
    mask = values.bits(option.value, {**_STATES, **{name: bit << 8 for name, bit in _STATUS_STATES.items()}}, "a state")
    states, status = mask & 0xFF, mask >> 8
    if not status:
        return (Bits(Selector(Field.CTSTATE), states, not option.negated),)
    key = (Selector(Field.CTSTATE, states), Selector(Field.CTNAT, status))
    return (Lookup(key, (Element((_SOME, _ALL)), Element((_ALL, _SOME))), option.negated, name="ctstate"),)


def _by_direction(original: Field, reply: Field, ranges: Ranges, *, negated: bool, mask: int) -> Built:
    """What one tuple of the connection holds, found in the packet: in one field going, in the other coming back."""
    key = (Selector(Field.CTDIR), Selector(original, mask), Selector(reply, mask))
    rows = (Element((((0, 0),), ranges, _ALL)), Element((((1, 1),), _ALL, ranges)))
    return (Lookup(key, rows, negated, name="conntrack tuple"),)


_CT_PORTS = {
    "--ctorigsrcport": (Field.SPORT, Field.DPORT),
    "--ctreplsrcport": (Field.DPORT, Field.SPORT),
    "--ctrepldstport": (Field.SPORT, Field.DPORT),
}


def _tuple(option: Option, context: Context) -> Built:
    if option.name == "--ctorigdstport":
        return _test(Field.CT_ORIG_DPORT, values.ports(option.value), option)
    if option.name in _CT_PORTS:
        going, coming = _CT_PORTS[option.name]
        return _by_direction(going, coming, values.ports(option.value), negated=option.negated, mask=0xFFFF)
    if values.is_host_name(option.value):
        return (Unknown(f"the host name {option.value[:60]}"),)
    if option.name == "--ctreplsrc":
        # Whom the reply comes from: where the packet goes after DNAT.
        value, mask = values.prefix(option.value, context.family)
        return _by_direction(Field.DADDR, Field.SADDR, ((value, value),), negated=option.negated, mask=mask)
    field = Field.CT_ORIG_DADDR if option.name == "--ctorigdst" else Field.CT_ORIG_SADDR
    return (values.address_test(field, option.value, family=context.family, negated=option.negated),)


def _ct(option: Option, context: Context) -> Built:
    if option.name == "--ctstate":
        return _state(option)
    if option.name == "--ctstatus":
        mask = values.bits(option.value, _STATUS, "a status")
        return (Bits(Selector(Field.CTSTATUS), mask, not option.negated),)
    if option.name == "--ctproto":
        number = values.protocol(option.value)
        return _test(Field.CTPROTO, ((number, number),), option)
    if option.name == "--ctexpire":
        return _test(Field.CTEXPIRATION, values.span(option.value), option)
    if option.name == "--ctdir":
        direction = {"ORIGINAL": 0, "REPLY": 1}.get(option.value.upper())
        if direction is None:
            raise ValueError(f"{option.value[:40]!r} is no direction")
        return _test(Field.CTDIR, ((direction, direction),), option)
    return _tuple(option, context)


def _conntrack(given: Options, context: Context) -> Built:
    items = tuple(item for option in given for item in _ct(option, context))
    states = [option for option in given if option.name == "--ctstate"]
    if len(states) == len(given):
        return items
    if states:
        mask = values.bits(states[0].value, {**_STATES, "SNAT": 0, "DNAT": 0}, "a state")
        if (mask & (1 | 64) != 0) != states[0].negated:
            # Then a packet without a connection passes, whatever the other options say: not a conjunction any more.
            return (Unknown("conntrack: INVALID or UNTRACKED together with other options"),)
        return items
    return (_TRACKED, *items)


def _connmark(option: Option, context: Context) -> Built:
    value, mask = values.masked(option.value)
    return (_TRACKED, Test(Selector(Field.CTMARK, mask), ((value, value),), option.negated))


# --- addresses, marks, sizes -------------------------------------------------------------------------------------

_TYPES = ("UNSPEC", "UNICAST", "LOCAL", "BROADCAST", "ANYCAST", "MULTICAST", "BLACKHOLE", "UNREACHABLE", "PROHIBIT",
          "THROW", "NAT", "XRESOLVE")  # fmt: skip


def _addrtype(option: Option, context: Context) -> Built:
    # --limit-iface-in asks the same of one interface's addresses; the question is to an address of that interface.
    if option.name.startswith("--limit"):
        return ()
    numbers = {name: number for number, name in enumerate(_TYPES)}
    names = option.value.upper().split(",")
    strange = [name for name in names if name not in numbers]
    if strange:
        raise ValueError(f"{strange[0][:40]!r} is not an address type")
    chosen = {numbers[name] for name in names}
    wanted = [(number, number) for number in (chosen if context.family is Family.IPV4 else _types_v6(set(names)))]
    return _test(
        Field.SADDR_TYPE if option.name == "--src-type" else Field.DADDR_TYPE, addresses.normal(wanted), option
    )


def _types_v6(names: set[str]) -> set[int]:
    """match_type6() of xt_addrtype.c: types are conditions, not alternatives, and a local address is unicast, too."""
    left = set(range(len(_TYPES)))
    for name, those in (("UNICAST", {1, 2}), ("MULTICAST", {5}), ("UNSPEC", {0})):
        if name in names:
            left &= those
    by_route = {number for number, name in ((2, "LOCAL"), (4, "ANYCAST"), (7, "UNREACHABLE")) if name in names}
    return left & by_route if by_route else left


def _iprange(option: Option, context: Context) -> Built:
    low, dash, high = option.value.partition("-")
    first = values.address(low, context.family)
    last = values.address(high, context.family) if dash else first
    # iptables takes a range that is backwards; no address lies in it.
    ranges = addresses.normal(((first, last),))
    return _test(Field.SADDR if option.name == "--src-range" else Field.DADDR, ranges, option)


def _mark(option: Option, context: Context) -> Built:
    value, mask = values.masked(option.value)
    return (Test(Selector(Field.MARK, mask), ((value, value),), option.negated),)


_PACKETS = {"unicast": 0, "host": 0, "broadcast": 1, "multicast": 2, "otherhost": 3}


def _pkttype(option: Option, context: Context) -> Built:
    name = option.value.lower()
    kind = _PACKETS[name] if name in _PACKETS else values.number(option.value, 7)
    return _test(Field.PKTTYPE, ((kind, kind),), option)


def _ttl(option: Option, context: Context) -> Built:
    value = values.number(option.value, 255)
    kind = option.name[-2:]
    ranges = ((value, value),) if kind == "eq" else ((0, value - 1),) if kind == "lt" else ((value + 1, 255),)
    return _test(Field.TTL, addresses.normal(ranges), option)


def _dscp_class(text: str) -> int:
    name = text.upper()
    if name in ("EF", "BE"):
        return 46 if name == "EF" else 0
    if name[:2] == "CS" and name[2:] in tuple("01234567"):
        return int(name[2:]) * 8
    if name[:2] == "AF" and name[2:] in [f"{a}{b}" for a in "1234" for b in "123"]:
        return int(name[2]) * 8 + int(name[3]) * 2
    raise ValueError(f"{text[:40]!r} is not a DSCP class")


def _dscp(option: Option, context: Context) -> Built:
    value = values.number(option.value, 63) if option.name == "--dscp" else _dscp_class(option.value)
    return _test(Field.DSCP, ((value, value),), option)


_TOS = {
    "MINIMIZE-DELAY": 16,
    "MAXIMIZE-THROUGHPUT": 8,
    "MAXIMIZE-RELIABILITY": 4,
    "MINIMIZE-COST": 2,
    "NORMAL-SERVICE": 0,
}


def _tos(option: Option, context: Context) -> Built:
    named = _TOS.get(option.value.upper())
    value, mask = (named, 0x3F) if named is not None else values.masked(option.value, 255)
    if mask & 3 and value & 3:
        return (Unknown("tos: the ECN bits"),)
    return (Test(Selector(Field.DSCP, mask >> 2), ((value >> 2, value >> 2),), option.negated),)


def _length(option: Option, context: Context) -> Built:
    return _test(Field.LENGTH, values.span(option.value, 0xFFFF), option)


def _ecn(option: Option, context: Context) -> Built:
    if option.name == "--ecn-ip-ect":
        return (Unknown("ecn: the ECN bits of the IP header"),)
    bit = 128 if option.name == "--ecn-tcp-cwr" else 64
    return (Test(Selector(Field.TCPFLAGS, bit), ((bit, bit),), option.negated),)


# --- limiters ----------------------------------------------------------------------------------------------------


def _hashlimit(given: Options, context: Context) -> Built:
    names = {option.name: option for option in given}
    limit = names.get("--hashlimit-upto") or names.get("--hashlimit-above")
    if limit is None:
        raise ValueError("hashlimit without --hashlimit-upto or --hashlimit-above")
    plain = Limiter("hashlimit", (limit.name == "--hashlimit-above") == limit.negated)
    if "--hashlimit-htable-expire" in names or "--hashlimit-rate-match" in names:
        return (plain,)  # what was used of it is forgotten before it is filled again
    name = names["--hashlimit-name"].value if "--hashlimit-name" in names else ""
    named = plain._replace(name=f"hashlimit {name}", each_way="--hashlimit-mode" in names)
    return _bounded(plain, named, limit.value, names.get("--hashlimit-burst"))


def _limit(given: Options, context: Context) -> Built:
    names = {option.name: option for option in given}
    limit = Limiter("limit", True)
    return _bounded(
        limit, limit, names["--limit"].value if "--limit" in names else "3/hour", names.get("--limit-burst")
    )


def _bounded(plain: Limiter, named: Limiter, rate: str, given: Optional[Option]) -> Built:
    """`plain` where one connection's packets do not use the limit up, else `named` with its burst."""
    meant = limits.xt_rate(rate)
    if meant is None:
        return (plain,)
    burst = limits.xt_at_once(*meant, values.number(given.value) if given and given.value.isdecimal() else limits.BURST)
    return (named._replace(burst=burst) if burst else plain,)


def _connlimit(given: Options, context: Context) -> Built:
    """The new connection counts itself: it is the first of its source."""
    for option in given:
        if option.name in ("--connlimit-upto", "--connlimit-above"):
            above = (option.name == "--connlimit-above") != option.negated
            limit = values.number(option.value)
            return (Limiter("connlimit", limit < 1 if above else limit >= 1),)
    raise ValueError("connlimit without --connlimit-upto or --connlimit-above")


def _quota(given: Options, context: Context) -> Built:
    return tuple(Limiter("quota", not option.negated) for option in given)


def _recent(given: Options, context: Context) -> Built:
    names = {option.name: option for option in given}
    ops = [name for name in ("--set", "--rcheck", "--update", "--remove") if name in names]
    if len(ops) != 1:
        raise ValueError("recent takes one of --set, --rcheck, --update, --remove")
    hits = values.number(names["--hitcount"].value) if "--hitcount" in names else 0
    name = names["--name"].value if "--name" in names else "DEFAULT"
    return (Recent(ops[0][2:], name, hits, "--rdest" not in names, names[ops[0]].negated),)


# --- ipset, routing, the rest ------------------------------------------------------------------------------------


def flags(text: str) -> tuple[str, ...]:
    """`src,dst` of set matches and targets."""
    found = tuple(text.split(","))
    if not set(found) <= {"src", "dst"} or len(found) > 6:
        raise ValueError(f"{text[:40]!r} is not a list of src and dst")
    return found


def _set(given: Options, context: Context) -> Built:
    items: list[Item] = []
    for option in given:
        if option.name != "--match-set":
            if option.name != "--update-counters":
                return (Unknown(f"set: {option.name}"),)
            continue
        name, wanted = option.values[0], flags(option.values[1])
        found = context.ipsets.get(name)
        if found is None:
            items.append(Unknown(f"the contents of ipset {name[:60]} are not known"))
            continue
        items.append(
            ipsets.match(
                found,
                context.ipsets,
                wanted,
                family=context.family,
                negated=option.negated,
                dynamic=name in context.learned,
            )
        )
    return tuple(items)


def _rpfilter(given: Options, context: Context) -> Built:
    names = {option.name for option in given}
    if "--validmark" in names:
        return (Unknown("rpfilter --validmark: the route of the mark"),)
    if "--loose" in names:
        # Any interface will do: the source must be an address that packets are routed to.
        kinds: Ranges = ((1, 2),) if "--accept-local" in names else ((1, 1),)
        return (Test(Selector(Field.SADDR_TYPE), kinds, "--invert" in names),)
    return (Test(Selector(Field.FIB_IIF), ((1, 1),), "--invert" in names),)


def _policy(given: Options, context: Context) -> Built:
    """The canonical SYN comes without IPsec; an XFRM policy in the path makes everything uncertain by itself."""
    for option in given:
        if option.name == "--pol":
            return () if option.value == "none" else (NEVER,)
    raise ValueError("policy without --pol")


def _helper(given: Options, context: Context) -> Built:
    """No helper brings connections to sshd; xt_helper then gives what `!` says."""
    return () if any(option.negated for option in given) else (NEVER,)


def unknown(name: str) -> Callable[[Options, Context], Built]:
    def build(given: Options, context: Context) -> Built:
        words = " ".join(
            f"{'! ' if option.negated else ''}{option.name} {' '.join(option.values)}".strip() for option in given
        )
        return (Unknown(f"{name}: {words[:120]}" if words else name),)

    return build


def _socket(given: Options, context: Context) -> Built:
    return (Socket(" ".join(["socket", *(option.name for option in given)])),)


_PORTS = "!--sport|--source-port=1 !--dport|--destination-port=1"
_PORT_EXTENSION = Extension(options(_PORTS), _each(_ports))

MATCHES: dict[str, Extension] = {
    "tcp": Extension(options(f"{_PORTS} !--tcp-flags=2 !--syn !--tcp-option=1"), _each(_ports)),
    "udp": _PORT_EXTENSION,
    "udplite": _PORT_EXTENSION,
    "sctp": Extension(options(f"{_PORTS} !--chunk-types=2"), _fixed(NEVER)),
    "dccp": Extension(options(f"{_PORTS} !--dccp-types=1 !--dccp-option=1"), _fixed(NEVER)),
    "multiport": Extension(
        options("!--sports|--source-ports=1 !--dports|--destination-ports=1 !--ports=1"), _multiport
    ),
    "icmp": Extension(options("!--icmp-type=1"), _each(_icmp(Field.ICMP_TYPE, _ICMP))),
    "icmp6": Extension(options("!--icmpv6-type=1"), _each(_icmp(Field.ICMPV6_TYPE, _ICMPV6))),
    "conntrack": Extension(
        options(
            "!--ctstate=1 !--ctproto=1 !--ctorigsrc=1 !--ctorigdst=1 !--ctreplsrc=1 !--ctrepldst=1 !--ctorigsrcport=1 "
            "!--ctorigdstport=1 !--ctreplsrcport=1 !--ctrepldstport=1 !--ctstatus=1 !--ctexpire=1 --ctdir=1"
        ),
        _conntrack,
    ),
    "state": Extension(options("!--state=1"), _each(lambda option, context: _state(option))),
    "connmark": Extension(options("!--mark=1"), _each(_connmark)),
    "mark": Extension(options("!--mark=1"), _each(_mark)),
    "addrtype": Extension(options("!--src-type=1 !--dst-type=1 --limit-iface-in --limit-iface-out"), _each(_addrtype)),
    "iprange": Extension(options("!--src-range=1 !--dst-range=1"), _each(_iprange)),
    "pkttype": Extension(options("!--pkt-type=1"), _each(_pkttype)),
    "ttl": Extension(options("!--ttl-eq|--ttl=1 --ttl-lt=1 --ttl-gt=1"), _each(_ttl)),
    "hl": Extension(options("!--hl-eq|--hl=1 --hl-lt=1 --hl-gt=1"), _each(_ttl)),
    "dscp": Extension(options("!--dscp=1 !--dscp-class=1"), _each(_dscp)),
    "tos": Extension(options("!--tos=1"), _each(_tos)),
    "length": Extension(options("!--length=1"), _each(_length)),
    "ecn": Extension(options("!--ecn-tcp-cwr !--ecn-tcp-ece !--ecn-ip-ect=1"), _each(_ecn)),
    "limit": Extension(options("--limit=1 --limit-burst=1"), _limit),
    "hashlimit": Extension(
        options(
            "!--hashlimit-upto|--hashlimit=1 !--hashlimit-above=1 --hashlimit-burst=1 --hashlimit-mode=1 "
            "--hashlimit-srcmask=1 --hashlimit-dstmask=1 --hashlimit-name=1 --hashlimit-htable-size=1 "
            "--hashlimit-htable-max=1 --hashlimit-htable-expire=1 --hashlimit-htable-gcinterval=1 "
            "--hashlimit-rate-match --hashlimit-rate-interval=1"
        ),
        _hashlimit,
    ),
    "connlimit": Extension(
        options("!--connlimit-upto=1 !--connlimit-above=1 --connlimit-mask=1 --connlimit-saddr --connlimit-daddr"),
        _connlimit,
    ),
    "quota": Extension(options("!--quota=1"), _quota),
    "recent": Extension(
        options(
            "!--set !--rcheck !--update !--remove --name=1 --seconds=1 --hitcount=1 --rttl --rsource --rdest "
            "--mask=1 --reap"
        ),
        _recent,
    ),
    "set": Extension(
        options(
            "!--match-set|--set=2 --return-nomatch !--update-counters !--update-subcounters !--packets-eq=1 "
            "--packets-lt=1 --packets-gt=1 !--bytes-eq=1 --bytes-lt=1 --bytes-gt=1"
        ),
        _set,
    ),
    "rpfilter": Extension(options("--loose --validmark --accept-local --invert"), _rpfilter),
    "policy": Extension(
        options(
            "--dir=1 --pol=1 --strict !--reqid=1 !--spi=1 !--proto=1 !--mode=1 !--tunnel-src=1 !--tunnel-dst=1 --next"
        ),
        _policy,
    ),
    "helper": Extension(options("!--helper=1"), _helper),
    "socket": Extension(options("--transparent --nowildcard --restore-skmark"), _socket),
    "comment": Extension(options("--comment=1"), _fixed()),
    "nfacct": Extension(options("--nfacct-name=1"), _fixed()),
    "mac": Extension(options("!--mac-source=1"), unknown("mac")),
    "tcpmss": Extension(options("!--mss=1"), unknown("tcpmss")),
    "ah": Extension(options("!--ahspi=1 !--ahlen=1 --ahres"), _fixed(NEVER)),
    "esp": Extension(options("!--espspi=1"), _fixed(NEVER)),
    "ipcomp": Extension(options("!--ipcompspi=1 --compres"), _fixed(NEVER)),
    "frag": Extension(options("!--fragid=1 !--fraglen=1 --fragres --fragfirst --fragmore --fraglast"), _fixed(NEVER)),
    "rt": Extension(
        options("!--rt-type=1 !--rt-segsleft=1 !--rt-len=1 --rt-0-res --rt-0-addrs=1 --rt-0-not-strict"), _fixed(NEVER)
    ),  # fmt: skip
    "hbh": Extension(options("!--hbh-len=1 --hbh-opts=1"), _fixed(NEVER)),
    "dst": Extension(options("!--dst-len=1 --dst-opts=1"), _fixed(NEVER)),
    "mh": Extension(options("!--mh-type=1"), _fixed(NEVER)),
    "owner": Extension(
        options(
            "!--uid-owner=1 !--gid-owner=1 --pid-owner=1 --sid-owner=1 --cmd-owner=1 --suppl-groups !--socket-exists"
        ),
        unknown("owner"),
    ),
    "string": Extension(options("!--string=1 !--hex-string=1 --algo=1 --from=1 --to=1 --icase"), unknown("string")),
    "time": Extension(
        options(
            "--datestart=1 --datestop=1 --timestart=1 --timestop=1 !--monthdays=1 !--weekdays=1 --kerneltz "
            "--contiguous --utc --localtz"
        ),
        unknown("time"),
    ),
    "statistic": Extension(options("--mode=1 !--probability=1 !--every=1 --packet=1"), unknown("statistic")),
    "physdev": Extension(
        options("!--physdev-in=1 !--physdev-out=1 !--physdev-is-in !--physdev-is-out !--physdev-is-bridged"),
        unknown("physdev"),
    ),
}


def implied(protocol: int, family: Family) -> str:
    """The match that `-p` alone loads when an option asks for it."""
    names = {
        6: "tcp",
        17: "udp",
        1: "icmp",
        58: "icmp6",
        132: "sctp",
        33: "dccp",
        136: "udplite",
        51: "ah",
        50: "esp",
        135: "mh",
    }
    return names.get(protocol, "")
