"""From what a walk noted to answers: disjoint lists of sources by outcome, and for each part the rule that decided."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Optional

from ..plain import NamedTuple
from . import addresses
from .journey import Journey, neighbours
from .notes import Key, Notes, Spot
from .question import Answer, Deciding, Link, Local, Neighbours, Outcome, Question, Trace
from .ruleset import Family, Ranges, Ruleset
from .sources import Sources
from .walk import POSSIBLE, policy_text
from .wrappers import Decision

Wrappers = Optional[dict[Family, tuple[Decision, ...]]]


class _Part(NamedTuple):
    """Sources for which just these outcomes are possible."""

    possible: tuple[Outcome, ...]
    ranges: Ranges


def _parts(notes: Notes, whole: Ranges) -> list[_Part]:
    may: dict[Outcome, list[tuple[int, int]]] = {}
    for (outcome, _), ranges in notes.ends.items():
        may.setdefault(outcome, []).extend(ranges)
    if not notes.forked:
        # Every source went one way.
        return [_Part((outcome,), addresses.normal(may[outcome])) for outcome in POSSIBLE if outcome in may]
    parts = [_Part((), whole)]
    for outcome in POSSIBLE:
        if outcome not in may:
            continue
        chosen = addresses.normal(may[outcome])
        halves = []
        for part in parts:
            halves.append(_Part((*part.possible, outcome), addresses.intersect(part.ranges, chosen)))
            halves.append(_Part(part.possible, addresses.subtract(part.ranges, chosen)))
        parts = [part for part in halves if part.ranges]
    return parts


def _deciding(
    spot: Spot, outcome: Outcome, *, possible: tuple[Outcome, ...], limited: bool, sources: Ranges
) -> Deciding:
    base = spot.base
    if base is None:
        return Deciding(
            outcome,
            possible,
            limited,
            sources,
            spot.stage,
            backend=spot.backend,
            table=spot.table,
            rule=spot.line,
            text=spot.text,
            cause=spot.cause,
        )
    rule = spot.rule
    return Deciding(
        outcome,
        possible,
        limited,
        sources,
        base.stage,
        base.hook,
        base.chain.priority,
        (rule.backend if rule is not None else None) or base.table.backend,
        base.table.label,
        spot.chain,
        None if rule is None else rule.number,
        None if rule is None else rule.handle,
        policy_text(base) if rule is None else rule.text,
    )


class _Composer:
    """`free`: what the walk found where limiters may go either way; None: none was met."""

    def __init__(self, strict: Notes, free: Optional[Notes], whole: Ranges) -> None:
        self.notes = strict
        self.parts = _parts(strict, whole)
        self.free = [] if free is None else [(part.possible, Sources(part.ranges)) for part in _parts(free, whole)]
        self.sources: dict[Outcome, Ranges] = {}
        for outcome in Outcome:
            chosen = [p.ranges for p in self.parts if p.possible == (outcome,)]
            if outcome is Outcome.UNCERTAIN:
                chosen = [p.ranges for p in self.parts if len(p.possible) != 1]
            one = len(chosen) == 1
            self.sources[outcome] = chosen[0] if one else addresses.normal(item for part in chosen for item in part)

    def rules(self) -> Iterator[Deciding]:
        for outcome in Outcome:
            if not self.sources[outcome]:
                continue
            if outcome is Outcome.CONNECTED:
                yield from self._connected()
            elif outcome is Outcome.UNCERTAIN:
                for part in self.parts:
                    if len(part.possible) != 1:
                        yield from self._uncertain(part)
            else:
                ends = [(key, ranges) for (end, key), ranges in self.notes.ends.items() if end is outcome]
                if self.notes.forked:
                    # What surely ends their way is named before what may end it, too.
                    doubted = {key for key, _ in self.notes.doubts}
                    ends.sort(key=lambda item: item[0] in doubted)
                    yield from self._share(_Part((outcome,), self.sources[outcome]), ends)
                    continue
                for key, ranges in ends:
                    # Every source went one way: what ended here is nobody else's.
                    yield from self._entries(key, (outcome,), addresses.normal(ranges))

    def _share(self, part: _Part, claims: Iterable[tuple[Key, Iterable[tuple[int, int]]]]) -> Iterator[Deciding]:
        """The part's sources, each to the first that claims it."""
        left = Sources(part.ranges)
        for key, claimed in claims:
            ranges = left.cut(addresses.normal(claimed))
            if ranges:
                yield from self._entries(key, part.possible, ranges)

    def _entries(self, key: Key, possible: tuple[Outcome, ...], ranges: Ranges) -> Iterator[Deciding]:
        spot = self.notes.spots[key]
        outcome = possible[0] if len(possible) == 1 else Outcome.UNCERTAIN
        if not self.free:
            yield _deciding(spot, outcome, possible=possible, limited=False, sources=ranges)
        for more, sources in self.free:
            chosen = sources.overlap(ranges)
            if chosen:
                yield _deciding(spot, outcome, possible=more, limited=more != possible, sources=chosen)

    def _connected(self) -> Iterator[Deciding]:
        """For each base chain passed, the sources by the rule that let them through."""
        part = _Part((Outcome.CONNECTED,), self.sources[Outcome.CONNECTED])
        alone = Sources(part.ranges)
        for claims in self.notes.accepts.values():
            if self.notes.forked:
                yield from self._share(part, claims)
            else:
                yield from self._intersected(part, claims)
            if alone:
                alone.take(addresses.normal(item for _, ranges in claims for item in ranges))
        left = alone.all()
        ends = [(key, left) for (outcome, key) in self.notes.ends if outcome is Outcome.CONNECTED]
        yield from self._share(_Part(part.possible, left), ends)

    def _intersected(self, part: _Part, claims: list[tuple[Key, Ranges]]) -> Iterator[Deciding]:
        """As _share, where no two claims overlap."""
        sources = Sources(part.ranges)
        for key, claimed in claims:
            ranges = claimed if claimed == part.ranges else sources.overlap(claimed)
            if ranges:
                yield from self._entries(key, part.possible, ranges)

    def _uncertain(self, part: _Part) -> Iterator[Deciding]:
        """By the first rule of which nobody can know whether it matches; else the first that ends one of the ways."""
        claims: dict[Key, list[tuple[int, int]]] = {}
        for key, ranges in self.notes.doubts:
            claims.setdefault(key, []).extend(ranges)
        for (_, key), found in self.notes.ends.items():
            claims.setdefault(key, []).extend(found)
        yield from self._share(part, claims.items())


def _journeys(
    question: Question,
    ruleset: Ruleset,
    wrappers: Wrappers,
    *,
    link: Link,
    local: Local,
    sources: Ranges,
    log: bool = False,
) -> tuple[Journey, Optional[Journey]]:
    """The way as idle limiters have it, and, where one was met, the way with limiters going either way."""
    journey = Journey(question, ruleset, wrappers, link=link, local=local, log=log)
    journey.run(sources)
    if not journey.scene.limited:
        return journey, None
    free = Journey(question, ruleset, wrappers, link=link, local=local, free=True)
    free.run(sources)
    return journey, free


def answer(
    question: Question, ruleset: Ruleset, wrappers: Wrappers, *, link: Link, local: Local
) -> tuple[Answer, set[tuple[str, str]]]:
    """The answer for one local address, and the sets whose contents are wanted."""
    whole = addresses.SPACE[local.family]
    journey, free = _journeys(question, ruleset, wrappers, link=link, local=local, sources=whole)
    composer = _Composer(journey.notes, free.notes if free else None, whole)
    missing = journey.scene.missing | (free.scene.missing if free else set())
    nd = Neighbours()
    if local.family is Family.IPV6:
        nd = _neighbours(journey)
    sources = tuple(composer.sources.items())
    rules = tuple(composer.rules())
    if link.bypass:
        sources = tuple((outcome, whole if outcome is Outcome.UNCERTAIN else ()) for outcome in Outcome)
        text = f"in the packet's path: {', '.join(link.bypass)}"
        rules = (Deciding(Outcome.UNCERTAIN, POSSIBLE, False, whole, "syn", text=text),)
    return Answer(link.name, local.family, (local.address,), question.port, sources, nd, rules), missing


def _neighbours(journey: Journey) -> Neighbours:
    rules: list[Deciding] = []
    blocked = neighbours(journey)
    for walk in blocked:
        for (outcome, key), ranges in walk.notes.ends.items():
            spot = walk.notes.spots[key]
            sources = addresses.normal(ranges)
            rules.append(_deciding(spot, outcome, possible=(outcome,), limited=False, sources=sources))
    return Neighbours(bool(blocked), tuple(rules))


def trace(question: Question, ruleset: Ruleset, wrappers: Wrappers, *, link: Link, local: Local, address: int) -> Trace:
    """One source's way, rule by rule."""
    whole: Ranges = ((address, address),)
    journey, free = _journeys(question, ruleset, wrappers, link=link, local=local, sources=whole, log=True)
    strict = _parts(journey.notes, whole)[0].possible
    possible = strict if free is None else _parts(free.notes, whole)[0].possible
    outcome = strict[0] if len(strict) == 1 else Outcome.UNCERTAIN
    if link.bypass:
        outcome, possible, strict = Outcome.UNCERTAIN, POSSIBLE, POSSIBLE
    return Trace(
        address,
        local.family,
        local.address,
        link.name,
        question.port,
        outcome,
        possible,
        possible != strict,
        tuple(journey.walk.visits or ()),
    )
