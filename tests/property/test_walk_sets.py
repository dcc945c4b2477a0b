"""The walk over all sources at once says of each what a walk of that source alone says; and what its answers promise.

Rulesets are random trees of model rules; seeds are printed.
"""

from __future__ import annotations

import os
import random

from ec2ssh_agent.reach import addresses, analyse, trace
from ec2ssh_agent.reach.question import Answer, Link, Listening, Local, Outcome, Question, Route
from ec2ssh_agent.reach.ruleset import (
    Backend,
    Chain,
    CopyMark,
    Element,
    Family,
    Field,
    Item,
    Kind,
    Learn,
    Limiter,
    Lookup,
    MapMark,
    NoTrack,
    Ranges,
    Recent,
    Rule,
    Ruleset,
    Selector,
    SetMark,
    Table,
    Unknown,
    Verdict,
    VerdictMap,
)
from ec2ssh_agent.reach.ruleset import (
    Test as Match,
)

LOCAL = Local(Family.IPV4, (10 << 24) + 20, 24)
QUESTION = Question(
    22,
    (Link("eth0", 2, (LOCAL,)),),
    (Listening(Family.IPV4, 0, 22), Listening(Family.IPV4, 0, 222)),
    (Route(Family.IPV4, (0, (1 << 32) - 1), "eth0"),),
)
_TERMINAL = (Kind.ACCEPT, Kind.DROP, Kind.REJECT)
_REJECTS = ("tcp-reset", "port-unreachable", "host-prohibited")


class _Maker:
    """Makes one ruleset; `edges` are the addresses at which its answers may change."""

    def __init__(self, chosen: random.Random) -> None:
        self.random = chosen
        self.edges: list[int] = [LOCAL.address, 127 << 24, 224 << 24]

    def ranges(self) -> Ranges:
        ends = [self.random.randrange(1 << 32) for _ in range(self.random.choice((1, 1, 2, 4)))]
        made = addresses.normal(
            (end, min(end + self.random.choice((0, 255, 1 << 24, 1 << 30)), (1 << 32) - 1)) for end in ends
        )
        self.edges += [edge for pair in made for edge in pair]
        return made

    def lookup(self, data: bool, *values: object) -> Lookup:
        left = addresses.SPACE[Family.IPV4]
        elements = []
        for _ in range(self.random.randrange(1, 5)):
            part = addresses.intersect(self.ranges(), left)
            left = addresses.subtract(left, part)
            if part:
                value = self.random.choice(values) if data else None
                elements.append(Element((part,), value))  # type: ignore[arg-type]
        return Lookup(
            (Selector(self.random.choice((Field.SADDR, Field.SADDR, Field.DADDR))),), tuple(elements), name="s"
        )

    def match(self) -> Item:
        kind = self.random.randrange(14)
        negated = self.random.random() < 0.2
        if kind < 5:
            return Match(Selector(self.random.choice((Field.SADDR, Field.SADDR, Field.DADDR))), self.ranges(), negated)
        if kind == 5:
            mask = self.random.choice((0xFFFF0000, 0x1, 0xFF000003))
            return Match(Selector(Field.SADDR, mask), ((0, self.random.randrange(1 << 32)),), negated)
        if kind == 6:
            return self.lookup(False)
        if kind == 7:
            return Match(Selector(self.random.choice((Field.MARK, Field.CTMARK))), ((1, 2),), negated)
        if kind == 8:
            return Match(Selector(Field.CTSTATE), self.random.choice((((2, 2),), ((8, 8),), ((1, 2),))), negated)
        if kind == 9:
            return Match(
                Selector(Field.SPORT), self.random.choice((((0, 1023),), ((1024, 65535),), ((0, 4000),))), negated
            )
        if kind == 10:
            return Limiter("limit", self.random.random() < 0.7)
        if kind == 11:
            return Recent(self.random.choice(("set", "rcheck", "update")), "r", 0, True, negated)
        if kind == 12:
            return Unknown("a coin")
        return Match(Selector(Field.SADDR_TYPE), ((1, 1),), negated)

    def action(self) -> Item:
        mark = self.random.randrange(3)
        return self.random.choice(
            (
                SetMark(False, 0xFFFFFFFF, mark),
                SetMark(True, 0xFFFFFFFF, mark),
                CopyMark(True),
                CopyMark(False),
                MapMark(False, self.lookup(True, 1, 2, 3)),
                NoTrack(),
                Learn("learned", (Selector(Field.SADDR),)),
            )
        )

    def verdict(self, callees: list[str]) -> Item:
        if callees and self.random.random() < 0.4:
            return Verdict(self.random.choice((Kind.JUMP, Kind.JUMP, Kind.GOTO)), self.random.choice(callees))
        kind = self.random.choice((*_TERMINAL, Kind.DROP, Kind.RETURN, Kind.CONTINUE, Kind.QUEUE, Kind.UNKNOWN))
        verdict = Verdict(kind, reject=self.random.choice(_REJECTS) if kind is Kind.REJECT else "")
        if self.random.random() < 0.1:
            return VerdictMap(self.lookup(True, verdict, Verdict(Kind.ACCEPT), Verdict(Kind.RETURN)))
        return verdict

    def rule(self, callees: list[str], number: int) -> Rule:
        items = [self.match() for _ in range(self.random.choice((0, 1, 1, 1, 2, 3)))]
        if self.random.random() < 0.3:
            items.insert(self.random.randrange(len(items) + 1), self.action())
        if self.random.random() < 0.8:
            items.append(self.verdict(callees))
        return Rule(tuple(items), f"rule {number}", number)

    def table(self, name: str, backend: Backend, bases: tuple[tuple[str, int, str], ...]) -> Table:
        chains = {}
        callees = [f"u{number}" for number in range(self.random.randrange(4))]
        for place, callee in enumerate(callees):
            rules = [self.rule(callees[place + 1 :], n) for n in range(1, self.random.randrange(1, 5))]
            chains[callee] = Chain(callee, tuple(rules))
        for hook, priority, kind in bases:
            rules = [self.rule(callees, n) for n in range(1, self.random.randrange(2, 8))]
            policy = Kind.DROP if self.random.random() < 0.15 else Kind.ACCEPT
            chains[hook] = Chain(hook, tuple(rules), hook, priority, kind, policy)
        return Table("ip", name, backend, chains)

    def ruleset(self) -> Ruleset:
        tables = [
            self.table("filter", Backend.LEGACY, (("input", 0, "filter"), ("output", 0, "filter"))),
            self.table("raw", Backend.LEGACY, (("prerouting", -300, "filter"),)),
        ]
        if self.random.random() < 0.4:
            tables.append(self.table("other", Backend.NFTABLES, (("input", self.random.choice((0, 5)), "filter"),)))
        return Ruleset(tuple(tables))

    def sources(self, count: int) -> list[int]:
        near = sorted({edge + step for edge in self.edges for step in (-1, 0, 1) if 0 <= edge + step < 1 << 32})
        return self.random.sample(near, min(count, len(near))) + [self.random.randrange(1 << 32) for _ in range(3)]


def _seeds(count: int) -> list[int]:
    first = int(os.environ.get("EC2SSH_SEED") or random.randrange(1 << 31))
    print(f"EC2SSH_SEED={first}")
    return list(range(first, first + count))


def _said(answer: Answer, source: int) -> tuple[Outcome, frozenset[Outcome]]:
    outcome = next(o for o, ranges in answer.sources if addresses.contains(ranges, source))
    return outcome, frozenset(
        p for rule in answer.rules if addresses.contains(rule.sources, source) for p in rule.possible
    )


def _size(ranges: Ranges) -> int:
    return sum(high - low + 1 for low, high in ranges)


def _promises(answer: Answer) -> None:
    """The lists are disjoint, minimal and cover the space; the rules part every outcome (connected: per base chain)."""
    listed = [item for _, ranges in answer.sources for item in ranges]
    assert addresses.normal(listed) == addresses.SPACE[answer.family] and _size(tuple(listed)) == 1 << 32
    for outcome, ranges in answer.sources:
        assert addresses.normal(ranges) == ranges
        parts = [rule.sources for rule in answer.rules if rule.outcome is outcome]
        assert addresses.normal(item for part in parts for item in part) == ranges
        if outcome is not Outcome.CONNECTED:
            assert sum(map(_size, parts)) == _size(ranges)
            continue
        chains = {(rule.stage, rule.hook, rule.table, rule.backend, rule.priority) for rule in answer.rules}
        for chain in chains:
            mine = [
                rule.sources
                for rule in answer.rules
                if rule.outcome is outcome and chain == (rule.stage, rule.hook, rule.table, rule.backend, rule.priority)
            ]
            assert sum(map(_size, mine)) == _size(addresses.normal(item for part in mine for item in part))


def test_all_sources_at_once_and_each_alone_agree() -> None:
    for seed in _seeds(120):
        maker = _Maker(random.Random(seed))
        ruleset = maker.ruleset()
        (answer,) = analyse(QUESTION, ruleset).answers
        _promises(answer)
        for source in maker.sources(20):
            alone = trace(QUESTION, ruleset, None, Family.IPV4, source, LOCAL.address, "eth0")
            assert _said(answer, source) == (alone.outcome, frozenset(alone.possible)), (seed, source)


def _decided(ruleset: Ruleset, source: int) -> dict[tuple[str, str], int]:
    """For each base chain, the last rule that the source's packets got to, where none of them got to its end."""
    path = trace(QUESTION, ruleset, None, Family.IPV4, source, LOCAL.address, "eth0").path
    last: dict[tuple[str, str], int] = {}
    for visit in path:
        if visit.table is None or visit.chain is None:
            continue
        key = (visit.table, visit.chain)
        number = 1 << 20 if visit.rule is None or visit.verdict == "return" else visit.rule
        last[key] = max(last.get(key, 0), number)
    return {key: number for key, number in last.items() if number < 1 << 20}


def test_rules_after_the_deciding_one_change_nothing() -> None:
    for seed in _seeds(80):
        maker = _Maker(random.Random(seed))
        ruleset = maker.ruleset()
        for source in maker.sources(6):
            before = trace(QUESTION, ruleset, None, Family.IPV4, source, LOCAL.address, "eth0")
            if before.outcome is Outcome.UNCERTAIN or len(before.possible) > 1:
                continue
            if before.outcome is Outcome.TIMEOUT and before.path and before.path[-1].stage != "syn":
                continue  # what was lost after the SYN is sent again, which the path tells only if it changes anything
            ends = _decided(ruleset, source)
            tables = []
            for table in ruleset.tables:
                chains = dict(table.chains)
                for name, chain in table.chains.items():
                    end = ends.get((table.label, name))
                    ending = end is not None and _ends(chain.rules[end - 1])
                    if chain.hook and end is not None and ending:
                        others = tuple(maker.rule([], end + n) for n in range(1, 4))
                        chains[name] = chain._replace(rules=chain.rules[:end] + others)
                tables.append(table._replace(chains=chains))
            after = trace(QUESTION, Ruleset(tuple(tables)), None, Family.IPV4, source, LOCAL.address, "eth0")
            assert (after.outcome, after.path) == (before.outcome, before.path), (seed, source)


def _ends(rule: Rule) -> bool:
    return bool(rule.items) and isinstance(rule.items[-1], Verdict) and rule.items[-1].kind in _TERMINAL


def test_local_addresses_that_are_walked_together_answer_alike() -> None:
    for seed in _seeds(40):
        chosen = random.Random(seed)
        maker = _Maker(chosen)
        base = maker.ruleset()
        # Rules that tell some of them apart, by ranges, masks and sets.
        locals_ = tuple(Local(Family.IPV4, (10 << 24) + 20 + n, 24) for n in range(9))
        rules = []
        for number in range(1, 5):
            low = (10 << 24) + 18 + chosen.randrange(10)
            mask = chosen.choice((None, None, 0xFFFFFFFC, 0xFFFFFF05))
            ranges = ((low, low + chosen.randrange(4)),)
            test: Item = Match(Selector(Field.DADDR, mask), ranges, chosen.random() < 0.3)
            if chosen.random() < 0.3:
                test = Lookup((Selector(Field.DADDR, mask),), (Element((ranges,)),))
            rules.append(Rule((test, maker.match(), Verdict(chosen.choice((Kind.DROP, Kind.ACCEPT)))), "local", number))
        extra = Chain("locals", tuple(rules), "input", -9, "filter", Kind.ACCEPT)
        ruleset = Ruleset((*base.tables, Table("ip", "locals", Backend.NFTABLES, {"locals": extra})))
        asked = QUESTION._replace(links=(Link("eth0", 2, locals_),))
        together = analyse(asked, ruleset)
        assert sorted(to for answer in together.answers for to in answer.to) == [local.address for local in locals_]
        for answer in together.answers:
            for to in answer.to:
                link = Link("eth0", 2, tuple(sorted(locals_, key=lambda local: local.address != to))[:1])
                (alone,) = analyse(asked._replace(links=(link,), local=locals_), ruleset).answers
                assert (alone.sources, alone.rules) == (answer.sources, answer.rules), (seed, to)
