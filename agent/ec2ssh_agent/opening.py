"""The smallest opening of a ruleset that lets a gap's sources in: which rule in front of which base chain.

Pure. It is rehearsed on the model before anybody types it: rules are put in front of the base chains that decide, the
analysis is asked again, until nothing of the firewall stands between the wanted sources and sshd. It may take several:
`accept` ends only its own base chain, and behind INPUT stands OUTPUT.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Optional

from . import bans
from .assessment import Gap
from .diagnose import FIREWALL, admitted, banned, blockers, possible
from .plain import NamedTuple
from .reach import addresses, with_rule
from .reach.question import Answer, Deciding, Reach
from .reach.ruleset import (
    Backend,
    Chain,
    Family,
    Field,
    Item,
    Kind,
    Name,
    Ranges,
    Rule,
    Ruleset,
    Selector,
    Table,
    Test,
    Verdict,
)
from .steps import Insert

Rehearse = Callable[[Ruleset], Reach]

_TCP, _ICMPV6 = 6, 58
_NFPROTO = {Family.IPV4: 2, Family.IPV6: 10}
#: More networks than this go into a set of their own.
_INLINE = {Backend.NFTABLES: 256}
_INLINE_XTABLES = 8
#: Base chains that may stand in one way; more is a ruleset that this does not understand.
_ROUNDS = 12


class Opening(NamedTuple):
    """A rule in `chain`, at `place`. `way`: in (to the port), out (from it), nd (neighbour discovery)."""

    backend: Backend
    family: Family
    table_family: str
    table: str
    chain: str
    place: bans.Place
    way: str
    port: int
    interface: str  # "": whatever interface
    networks: Ranges  # (): whatever source


def find(
    gap: Gap, reach: Reach, ruleset: Ruleset, rehearse: Rehearse, *, alone: bool, before: Optional[Reach] = None
) -> Optional[tuple[Opening, ...]]:
    """The openings that together let all of `gap.wanted` pass the firewall, as the rehearsal proves; None if none do.

    `alone`: the gap's interface is the only external one, so that the rule need not name it. `before`: who gets
    in without the owner's rule that is rehearsed in `ruleset` already. Nobody who is banned, and did not get in, may.
    """
    answers = _answers(gap, reach)
    everyone = everybody(gap, rehearse)
    networks = restricted(gap, rehearse)
    out = bans.banned(ruleset, lambda changed: _answers(gap, rehearse(changed)), gap.family)
    wanted = addresses.subtract(gap.wanted, out)
    if not wanted:
        return None
    allowed = addresses.subtract(addresses.union(wanted, addresses.complement(everyone, gap.family)), out)
    for answer in answers if before is None else _answers(gap, before):
        allowed = addresses.union(allowed, admitted(answer))
    made: list[Opening] = []
    for _ in range(_ROUNDS):
        walls = [(rule, "nd") for a in answers if a.nd.blocked for rule in a.nd.rules]
        walls += [
            (rule, "out" if rule.stage == "reply" else "in")
            for answer in answers
            for rule in blockers(answer, wanted, FIREWALL)
            if not banned(rule)
        ]
        if not walls:
            break
        new = _new(walls, gap, ruleset, made, "" if alone else gap.interface, networks)
        if not new:
            return None
        for opening in new:
            ruleset = _with(ruleset, opening)
        made += new
        answers = _answers(gap, rehearse(ruleset))
        if not answers:
            return None
    else:
        return None
    if any(addresses.subtract(admitted(answer), allowed) for answer in answers):
        return None  # it would let in more than was asked for, or who is banned
    return tuple(made)


def everybody(gap: Gap, rehearse: Rehearse) -> Ranges:
    """All sources that would get in, or be refused by the host itself, if there were no rule."""
    found: Ranges = ()
    for answer in _answers(gap, rehearse(Ruleset(()))):
        found = addresses.union(found, possible(answer))
    return found


def restricted(gap: Gap, rehearse: Rehearse) -> Ranges:
    """The sources that a rule must name; empty: it is for everybody."""
    everyone = everybody(gap, rehearse)
    return gap.wanted if not everyone or addresses.subtract(everyone, gap.wanted) else ()


def _answers(gap: Gap, reach: Reach) -> list[Answer]:
    way = (gap.interface, gap.family, gap.port)
    return [a for a in reach.answers if (a.interface, a.family, a.port) == way]


def _with(ruleset: Ruleset, opening: Opening) -> Ruleset:
    """The ruleset with the opening in it, and with what asks the bans before it."""
    label, position = f"{opening.table_family} {opening.table}", opening.place.position
    rules = [*(model(opening, ban=chain) for chain in opening.place.chains), model(opening)]
    for rule in reversed(rules):
        ruleset = with_rule(ruleset, label, opening.backend, opening.chain, rule, position)
    return ruleset


def _new(
    walls: list[tuple[Deciding, str]], gap: Gap, ruleset: Ruleset, made: list[Opening], interface: str, networks: Ranges
) -> list[Opening]:
    new: list[Opening] = []
    for rule, way in walls:
        side = Field.SPORT if way == "out" else Field.DPORT
        meant = {Field.NFPROTO: _NFPROTO[gap.family], Field.L4PROTO: _TCP, side: gap.port}
        for table, chain in base_chains(ruleset, rule):
            place = bans.place(chain, rule.backend, meant)
            opening = Opening(
                rule.backend, gap.family, table.family, table.name, chain.name,
                place._replace(chains=()) if way == "nd" else place, way, gap.port,
                interface if way != "nd" else "", networks if way != "nd" else (),
            )  # fmt: skip
            if not any(opening._replace(place=other.place) == other for other in (*new, *made)):
                new.append(opening)
    return new


def base_chains(ruleset: Ruleset, rule: Deciding) -> list[tuple[Table, Chain]]:
    """The base chain that led to the rule: of its table, at its hook and priority."""
    return [
        (table, chain)
        for table in ruleset.tables
        if table.label == rule.table and (table.backend is rule.backend or rule.backend is Backend.NFTABLES)
        for chain in table.chains.values()
        if chain.hook == rule.hook and chain.priority == rule.priority
    ]


def model(opening: Opening, *, ban: str = "") -> Rule:
    """The rule as the analysis sees it; `ban`: that asks a chain of bans about the opening's packets."""
    items: list[Item] = [Test(Selector(Field.NFPROTO), ((_NFPROTO[opening.family],) * 2,))]
    if opening.way == "nd":
        items += [
            Test(Selector(Field.L4PROTO), ((_ICMPV6, _ICMPV6),)),
            Test(Selector(Field.ICMPV6_TYPE), ((135, 136),)),
        ]
    else:
        port = ((opening.port, opening.port),)
        inward = opening.way == "in"
        items.append(Test(Selector(Field.L4PROTO), ((_TCP, _TCP),)))
        items.append(Test(Selector(Field.DPORT if inward else Field.SPORT), port))
        if opening.networks and not ban:
            items.append(Test(Selector(Field.SADDR if inward else Field.DADDR), opening.networks))
        if opening.interface:
            items.append(Name(not inward, (opening.interface,)))
    items.append(Verdict(Kind.JUMP, ban) if ban else Verdict(Kind.ACCEPT))
    return Rule(tuple(items), "the opening", opening.place.position)


def steps(opening: Opening) -> tuple[Insert, ...]:
    """The step (or, for a few networks in xtables, the two types of neighbour discovery, bans, steps) that make it.

    The bans come first: at no time is somebody let in who is banned.
    """
    if opening.backend is Backend.NFTABLES:
        return (*(_nft(opening, ban=chain) for chain in opening.place.chains), _nft(opening))
    interface = (("-i" if opening.way == "in" else "-o"), opening.interface) if opening.interface else ()
    accept = ("-j", "ACCEPT")
    if opening.way == "nd":
        types = ("neighbour-solicitation", "neighbour-advertisement")
        return tuple(_xtables(opening, ("-p", "ipv6-icmp", "--icmpv6-type", name, *accept)) for name in types)
    words = ("-p", "tcp", "--dport" if opening.way == "in" else "--sport", str(opening.port))
    first, number = opening.place.position, len(opening.place.chains)
    asked = [
        _xtables(opening, (*interface, *words, "-j", chain))._replace(position=first + offset)
        for offset, chain in enumerate(opening.place.chains)
    ]
    opening = opening._replace(place=opening.place._replace(position=first + number))
    networks = addresses.cidrs(opening.networks, opening.family)
    if len(networks) > _INLINE_XTABLES:
        whole = _xtables(opening, (*interface, *words, *accept))
        return (*asked, whole._replace(networks=networks, source=opening.way == "in"))
    option = "-s" if opening.way == "in" else "-d"
    where: list[tuple[str, ...]] = [(option, network) for network in networks] or [()]
    return (*asked, *(_xtables(opening, (*interface, *one, *words, *accept)) for one in where))


def _xtables(opening: Opening, spec: tuple[str, ...]) -> Insert:
    place = (opening.backend, opening.table_family, opening.table, opening.chain)
    return Insert(*place, spec, position=opening.place.position)


def _nft(opening: Opening, *, ban: str = "") -> Insert:
    whole = Insert(
        opening.backend, opening.table_family, opening.table, opening.chain, (),
        after=opening.place.after, before=opening.place.before,
    )  # fmt: skip
    if opening.way == "nd":
        spec = ("icmpv6", "type", "{", "nd-neighbor-solicit,", "nd-neighbor-advert", "}", "accept")
        return whole._replace(spec=spec)
    words: tuple[str, ...] = ()
    networks = () if ban else addresses.cidrs(opening.networks, opening.family)
    inward = opening.way == "in"
    if opening.interface:
        words += ("iifname" if inward else "oifname", f'"{opening.interface}"')
    many = len(networks) > _INLINE[Backend.NFTABLES]
    if networks and not many:
        key = ("ip" if opening.family is Family.IPV4 else "ip6", "saddr" if inward else "daddr")
        words += (*key, "{", *(f"{network}," for network in networks[:-1]), networks[-1], "}")
    elif opening.table_family == "inet":
        words += ("meta", "nfproto", opening.family.value)
    elif opening.table_family == "netdev":
        words += ("meta", "protocol", "ip" if opening.family is Family.IPV4 else "ip6")
    words += ("tcp", "dport" if inward else "sport", str(opening.port), *(("jump", ban) if ban else ("accept",)))
    return whole._replace(spec=words, networks=networks if many else (), source=inward)
