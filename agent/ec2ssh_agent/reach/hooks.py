"""Which base chains run at a hook, in which order, whether their order can matter, and what of a rule acts."""

from __future__ import annotations

from ..model import AgentError
from ..plain import NamedTuple
from .packet import name_matches
from .ruleset import (
    Chain,
    CopyMark,
    Family,
    Item,
    Kind,
    Learn,
    Limiter,
    MapMark,
    NoTrack,
    Recent,
    Ruleset,
    SetMark,
    Table,
    Verdict,
    VerdictMap,
)

MOST_RULES = 250_000
_CONNTRACK = -200
_NAT_PRIORITY = {"prerouting": -100, "input": 100, "output": -100, "postrouting": 100}
_FAMILIES = {Family.IPV4: ("ip", "inet"), Family.IPV6: ("ip6", "inet")}
ACTIONS = frozenset((SetMark, CopyMark, MapMark, NoTrack, Learn, Recent))
#: Verdicts of which it does not matter who gives them first.
_COMMUTING = frozenset(Kind) - {Kind.REJECT, Kind.DNAT, Kind.REDIRECT, Kind.UNKNOWN}


class AnalysisError(AgentError):
    """A ruleset that cannot be walked: a loop, a jump to nowhere, or too much of it."""


class Step(NamedTuple):
    """What runs at one place of a hook: a base chain, conntrack, or NAT with its chains."""

    priority: int
    kind: str  # chain, conntrack, nat
    bases: tuple[tuple[Table, Chain], ...] = ()


def check_size(ruleset: Ruleset) -> None:
    count = sum(len(chain.rules) for table in ruleset.tables for chain in table.chains.values())
    if count > MOST_RULES:
        raise AnalysisError(f"{count} rules are more than the {MOST_RULES} that are analysed")


def steps_of(ruleset: Ruleset, hook: str, *, family: Family, device: str) -> tuple[tuple[Step, ...], ...]:
    """What runs at a hook, by priority; what has the same priority is one group."""
    steps: list[Step] = []
    nat: list[tuple[Table, Chain]] = []
    on_device = hook in ("ingress", "egress")
    for table in ruleset.tables:
        for chain in table.chains.values():
            if chain.hook != hook:
                continue
            if on_device:
                if table.family not in ("netdev", "inet") or not name_matches(device, chain.devices):
                    continue
            elif table.family not in _FAMILIES[family]:
                continue
            if chain.type == "nat":
                nat.append((table, chain))
            else:
                steps.append(Step(chain.priority, "chain", ((table, chain),)))
    if hook in ("prerouting", "output"):
        steps.append(Step(_CONNTRACK, "conntrack"))
    if hook in _NAT_PRIORITY:
        nat.sort(key=lambda pair: (pair[1].priority, pair[1].order))
        steps.append(Step(_NAT_PRIORITY[hook], "nat", tuple(nat)))
    steps.sort(key=lambda step: (step.priority, step.bases[0][1].order if step.bases else 0))
    groups: list[list[Step]] = []
    for step in steps:
        if groups and groups[-1][0].priority == step.priority:
            groups[-1].append(step)
        else:
            groups.append([step])
    return tuple(tuple(group) for group in groups)


def counts(limit: Limiter, items: tuple[Item, ...], place: int) -> bool:
    """Whether something hangs on how much of a limit is used: on a rule's own one that only logs, nothing does."""
    return limit.burst > 0 and (bool(limit.name) or place + 1 < len(items))


def commutes(table: Table) -> bool:
    """Whether the table only lets pass or drops: then it may run before or after others of that kind."""
    return all(_commutes(item) for chain in table.chains.values() for rule in chain.rules for item in rule.items)


def _commutes(item: Item) -> bool:
    if isinstance(item, Verdict):
        return item.kind in _COMMUTING
    if isinstance(item, VerdictMap):
        elements = item.lookup.elements or ()
        return all(not isinstance(e.data, Verdict) or e.data.kind in _COMMUTING for e in elements)
    return type(item) not in ACTIONS
