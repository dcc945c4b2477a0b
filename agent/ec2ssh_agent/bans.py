"""Bans of fail2ban's and the like in a ruleset: which rules they are, who is banned, where an opening leaves them be.

Pure. A ban is a jump to a chain whose name says so, a rule that shuts out the members of a set whose name says so, or
all of a table whose name says so (`BANS`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Optional

from .diagnose import BANS, FIREWALL, blockers
from .plain import NamedTuple
from .reach import addresses
from .reach.question import Answer
from .reach.ruleset import Backend, Chain, Family, Field, Kind, Ranges, Rule, Ruleset, Table, Test, Verdict

_SHUT = (Kind.DROP, Kind.REJECT)
#: `ip saddr @f2b-sshd`, `--match-set f2b-sshd src`, but not their opposites.
_MEMBERS = re.compile(rf"(?:(?<!!= )@|(?<!! )--match-set )(?:{'|'.join(BANS)})")


class Place(NamedTuple):
    """Where an opening goes: `position` from 1; in nft `after` or `before` the rule with a handle, 0: in front of all.

    `chains`: those of bans that come further behind, which are to be asked before the opening accepts.
    """

    position: int
    after: int = 0
    before: int = 0
    chains: tuple[str, ...] = ()


def _target(rule: Rule) -> str:
    """The chain that a rule leads to, or ""."""
    last = rule.items[-1] if rule.items else None
    return last.target if isinstance(last, Verdict) and last.kind in (Kind.JUMP, Kind.GOTO) else ""


def _kind(rule: Rule) -> Optional[Kind]:
    """How a rule ends; None: the packet goes on to the next."""
    last = rule.items[-1] if rule.items else None
    return last.kind if isinstance(last, Verdict) else None


def _bans(rule: Rule) -> bool:
    return _target(rule).startswith(BANS) or _kind(rule) in _SHUT and bool(_MEMBERS.search(rule.text))


def place(chain: Chain, backend: Backend, meant: dict[Field, int]) -> Place:
    """Behind the bans that stand before whatever may shut somebody out; `meant`: the opening's packets.

    nft is told the place by a rule's handle: without one, the opening goes in front of all.
    """
    position = 1
    for number, rule in enumerate(chain.rules, 1):
        if _bans(rule):
            position = number + 1
        elif _kind(rule) is not Kind.ACCEPT:
            break
    after = before = 0
    if backend is Backend.NFTABLES and position > 1:
        after = chain.rules[position - 2].handle or 0
        position = position if after else 1
    behind = [rule for rule in chain.rules[position - 1 :] if _kind(rule) is Kind.JUMP and _bans(rule)]
    chains = tuple(dict.fromkeys(_target(rule) for rule in behind if _concerns(rule, meant)))
    if backend is Backend.NFTABLES and chains:
        before = next((rule.handle for rule in chain.rules[position - 1 :] if rule.handle), 0)
        chains = chains if before else ()
    return Place(position, 0 if before else after, before, chains)


def _concerns(rule: Rule, meant: dict[Field, int]) -> bool:
    """Whether the rule may match such packets: bans of mail's clients are not sshd's."""
    for item in rule.items:
        if isinstance(item, Test) and not item.negated and item.selector.mask is None and item.selector.field in meant:
            value = meant[item.selector.field]
            if not any(first <= value <= last for first, last in item.ranges):
                return False
    return True


def banned(ruleset: Ruleset, answers: Callable[[Ruleset], list[Answer]], family: Family) -> Ranges:
    """Whom the bans alone would keep out, wherever they stand; `answers` of a ruleset, for the port in question."""
    alone = _alone(ruleset)
    found: Ranges = ()
    for answer in answers(alone) if alone.tables else ():
        for rule in blockers(answer, addresses.SPACE[family], FIREWALL):
            found = addresses.union(found, rule.sources)
    return found


def _alone(ruleset: Ruleset) -> Ruleset:
    """The ruleset without any rule that is neither a ban nor leads to one."""
    whole = (table if table.name.startswith(BANS) else _stripped(table) for table in ruleset.tables)
    return Ruleset(tuple(table for table in whole if table))


def _stripped(table: Table) -> Optional[Table]:
    kept = {name for name in table.chains if name.startswith(BANS)}
    while True:  # what a chain of bans leads to belongs to it
        more = {_target(rule) for name in kept for rule in table.chains[name].rules} & table.chains.keys()
        if more <= kept:
            break
        kept |= more
    leading = {name for name, chain in table.chains.items() if any(map(_bans, chain.rules))} - kept
    if not leading:
        return None
    while True:
        more = {n for n, chain in table.chains.items() if any(_target(rule) in leading for rule in chain.rules)} - kept
        if more <= leading:
            break
        leading |= more
    chains = {}
    for name, chain in table.chains.items():
        rules = tuple(rule for rule in chain.rules if _bans(rule) or _target(rule) in leading)
        chains[name] = chain if name in kept else chain._replace(rules=rules, policy=Kind.ACCEPT)
    return table._replace(chains=chains)
