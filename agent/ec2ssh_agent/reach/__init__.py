"""Who can reach the port, and what the others see: pure functions of a ruleset and a question, without I/O.

`analyse` answers for all sources at once, `trace` tells one source's way.

- addresses, sources: sets of addresses; ruleset, question: the model, what is asked and what comes back
- iptables, nftables, ipsets, wrappers: texts and listings to the model
- packet: what matches see of a packet; walk: base chains (the theory of it all); hooks: which ones, in which order
- route: what is martian, which way replies leave; journey: the whole way; answer: the lists, and who decided
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Optional

from . import alike
from . import answer as _answer
from .hooks import AnalysisError, check_size
from .printed import to_json
from .question import Answer, Question, Reach, Trace
from .ruleset import Backend, Family, Rule, Ruleset
from .wrappers import Decision

__all__ = ["AnalysisError", "analyse", "merged", "to_json", "trace", "with_rule"]


def analyse(
    question: Question, ruleset: Ruleset, wrappers: Optional[dict[Family, tuple[Decision, ...]]] = None
) -> Reach:
    """Who gets in, on every link, family and local address of the question.

    `wrappers`: what hosts.allow and hosts.deny decide, by family, for all its addresses; None: sshd does not ask
    libwrap. Raises AnalysisError where the ruleset is a loop, has a jump to nowhere, or is too much.
    """
    check_size(ruleset)
    answers: list[Answer] = []
    missing: set[tuple[str, str]] = set()
    for link in question.links:
        first = len(answers)
        for group in alike.groups(question, ruleset, link):
            found, wanted = _answer.answer(question, ruleset, wrappers, link=link, local=group[0])
            found = found._replace(to=tuple(local.address for local in group))
            missing |= wanted
            for place in range(first, len(answers)):
                other = answers[place]
                if other._replace(to=found.to) == found:
                    answers[place] = other._replace(to=tuple(sorted((*other.to, *found.to))))
                    break
            else:
                answers.append(found)
    return Reach(tuple(answers), question.unseen, frozenset(missing))


def merged(parts: Iterable[Reach]) -> Reach:
    """The answers to questions about several ports or interfaces, as one."""
    all_ = tuple(parts)
    return Reach(
        tuple(answer for part in all_ for answer in part.answers),
        tuple(dict.fromkeys(item for part in all_ for item in part.unseen)),
        frozenset().union(*(part.missing_sets for part in all_)),
    )


def trace(
    question: Question,
    ruleset: Ruleset,
    wrappers: Optional[dict[Family, tuple[Decision, ...]]],
    family: Family,
    address: int,
    to: int,
    interface: str,
) -> Trace:
    """The way of one source to one local address of one link. Raises ValueError if the question has no such link."""
    check_size(ruleset)
    for link in question.links:
        for local in link.addresses:
            if (link.name, local.family, local.address) == (interface, family, to):
                return _answer.trace(question, ruleset, wrappers, link=link, local=local, address=address)
    raise ValueError(f"{interface} has no such address")


def with_rule(ruleset: Ruleset, table_label: str, backend: Backend, chain: str, rule: Rule, position: int) -> Ruleset:
    """A copy with `rule` at `position` (from 1) of a chain; the rules after it count one more. For rehearsals.

    Raises ValueError if there is no such table, chain or position.
    """
    for place, table in enumerate(ruleset.tables):
        if (table.label, table.backend) != (table_label, backend) or chain not in table.chains:
            continue
        old = table.chains[chain]
        if not 1 <= position <= len(old.rules) + 1:
            raise ValueError(f"{table_label} {chain} has no position {position}")
        after = tuple(other._replace(number=other.number + 1) for other in old.rules[position - 1 :])
        new = old._replace(rules=(*old.rules[: position - 1], rule._replace(number=position), *after))
        changed = table._replace(chains={**table.chains, chain: new})
        return Ruleset((*ruleset.tables[:place], changed, *ruleset.tables[place + 1 :]))
    raise ValueError(f"there is no chain {chain} in {table_label} ({backend.value})")
