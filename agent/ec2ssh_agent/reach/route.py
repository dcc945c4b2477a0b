"""What routing says of a source: whether its packets are taken in at all, and which way the reply leaves.

Sources: ip_route_input_slow and fib_validate_source (net/ipv4), ip6_rcv_core (net/ipv6), fib_rules.c; measured
(facts.md). Martian sources are dropped before INPUT: the client waits in vain.
"""

from __future__ import annotations

from typing import Optional

from ..plain import NamedTuple
from . import addresses
from .packet import Mapping
from .question import Link, Local, Question, Route, RoutingRule
from .ruleset import Family, Ranges
from .sources import Sources

_LOOPBACK = {Family.IPV4: ((0x7F000000, 0x7FFFFFFF),), Family.IPV6: ((1, 1),)}
_MULTICAST = {Family.IPV4: ((0xE0000000, 0xEFFFFFFF),), Family.IPV6: ((0xFF << 120, (1 << 128) - 1),)}
_NO_HOST_V4 = ((0, 0), (0xFFFFFFFF, 0xFFFFFFFF))
_V4_MAPPED = ((0xFFFF << 32, (0xFFFF << 32) + 0xFFFFFFFF),)
_LOCAL_TABLE, _MAIN_TABLE, _DEFAULT_TABLE = 255, 254, 253


class Way(NamedTuple):
    """Where replies to `ranges` go. `device` "" : nowhere. `doubt`: why that cannot be known."""

    ranges: Ranges
    device: str
    doubt: str = ""


def own(question: Question, family: Family) -> Ranges:
    """Every address of the host; 127/8 and ::1 as well."""
    locals_ = [*question.local, *(local for link in question.links for local in link.addresses)]
    return addresses.union(
        addresses.normal((a.address, a.address) for a in locals_ if a.family is family), _LOOPBACK[family]
    )


def _broadcasts(question: Question) -> Ranges:
    locals_ = [*question.local, *(local for link in question.links for local in link.addresses)]
    return addresses.normal(
        (high, high)
        for _, high in (
            addresses.prefix_range(Family.IPV4, a.address, a.prefix)
            for a in locals_
            if a.family is Family.IPV4 and a.prefix < 31
        )
    )


def types(question: Question, family: Family) -> Mapping:
    """Every address's type (inet_addr_type, xt_addrtype): LOCAL 2, BROADCAST 3, MULTICAST 5, UNICAST 1, :: 0."""
    local = own(question, family)
    multicast = _MULTICAST[family]
    broadcast: Ranges = ()
    if family is Family.IPV4:
        broadcast = addresses.subtract(addresses.union(_broadcasts(question), _NO_HOST_V4), local)
    nowhere: Ranges = ((0, 0),) if family is Family.IPV6 else ()
    taken = addresses.normal(local + multicast + broadcast + nowhere)
    return ((0, nowhere), (2, local), (3, broadcast), (5, multicast), (1, addresses.complement(taken, family)))


def martians(question: Question, family: Family) -> tuple[tuple[str, Ranges], ...]:
    """Sources that never get in, whatever the rules say, and why."""
    found = [("the host's own address, or loopback", own(question, family)), ("multicast", _MULTICAST[family])]
    if family is Family.IPV4:
        found.append(("broadcast, or no address", addresses.union(_broadcasts(question), _NO_HOST_V4)))
    else:
        found += [("no address", ((0, 0),)), ("IPv4-mapped", _V4_MAPPED)]
    return tuple((f"martian source: {name}", ranges) for name, ranges in found)


def _rules(question: Question, family: Family) -> list[RoutingRule]:
    rules = [rule for rule in question.rules if rule.family is family]
    if not rules:
        tables = ((0, _LOCAL_TABLE), (32766, _MAIN_TABLE), (32767, _DEFAULT_TABLE))
        rules = [RoutingRule(family, priority, table) for priority, table in tables]
    return sorted(rules, key=lambda rule: rule.priority)


def _applies(rule: RoutingRule, local: int, mark: int) -> Optional[bool]:
    """Whether a rule's selectors, its destination apart, fit a packet of this host's own; None: cannot be known."""
    if rule.other:
        return None
    fits = (not rule.iif or rule.iif == "lo") and not rule.oif
    fits = fits and (rule.source is None or rule.source[0] <= local <= rule.source[1])
    if rule.mask or rule.mark:
        if mark < 0:
            return None
        fits = fits and mark & (rule.mask or 0xFFFFFFFF) == rule.mark
    return fits


def ways(question: Question, link: Link, local: Local, mark: int) -> tuple[Way, ...]:
    """Which way replies from `local` with that packet mark leave, for every remote address."""
    family = local.family
    out: list[Way] = []
    left: Ranges = addresses.SPACE[family]
    jumping: Optional[int] = None
    for rule in _rules(question, family):
        if jumping is not None and rule.priority < jumping or not left:
            continue
        jumping = None
        applies = _applies(rule, local.address, mark)
        chosen = addresses.intersect(left, (rule.destination,) if rule.destination else addresses.SPACE[family])
        if rule.negated and applies is not None:
            chosen = addresses.subtract(left, chosen) if applies else left
        elif applies is False:
            continue
        if not chosen or rule.action == "nop":
            continue
        text = f"policy rule {rule.priority}: {rule.other or rule.action}"
        if applies is None or rule.action not in ("table", "goto") or rule.action == "goto" and chosen != left:
            out.append(Way(chosen, link.name, text))
            left = addresses.subtract(left, chosen)
        elif rule.action == "goto":
            jumping = rule.target
        else:
            found = _table(question, rule, family, chosen)
            out += found
            for way in found:
                left = addresses.subtract(left, way.ranges)
    if left:
        out.append(Way(left, ""))
    return tuple(out)


def _table(question: Question, rule: RoutingRule, family: Family, chosen: Ranges) -> list[Way]:
    """What a routing table says of the addresses in `chosen`: longest prefix, then lowest metric (fib_trie.c)."""
    routes = [route for route in question.routes if route.family is family and route.table == rule.table]
    routes.sort(key=lambda route: (route.destination[1] - route.destination[0], route.metric))
    left = Sources(chosen)
    by_way: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for route in routes:
        got = left.overlap((route.destination,))
        if not got:
            continue
        left.take(got)
        if route.kind == "throw" or _suppressed(rule, route, family):
            continue
        doubt = "" if route.kind in ("unicast", "local", "broadcast", "multicast", "anycast") else f"{route.kind} route"
        by_way.setdefault((route.device, doubt), []).extend(got)
    return [Way(addresses.normal(ranges), device, doubt) for (device, doubt), ranges in by_way.items()]


def _suppressed(rule: RoutingRule, route: Route, family: Family) -> bool:
    size = (route.destination[1] - route.destination[0]).bit_length()
    return addresses.BITS[family] - size <= rule.suppress


def fib(ways_: tuple[Way, ...], link: Link) -> Mapping:
    """1 for the sources whose route back leaves by the link, 0 for the others; () where that cannot be known."""
    if any(way.doubt for way in ways_):
        return ()
    back = addresses.normal(item for way in ways_ if way.device == link.name for item in way.ranges)
    other = addresses.normal(item for way in ways_ if way.device != link.name for item in way.ranges)
    return ((1, back), (0, other))
