"""The document of `reach` piece by piece: a policy of a long ruleset may decide millions of prefixes, and neither they
nor their text need be in memory at once.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from .reach import addresses, printed
from .reach.question import Answer, Deciding, Reach, Trace
from .reach.ruleset import Family, Ranges

_AT_ONCE = 1_000  # rules, or ranges
_PIECE = 1 << 16  # characters, about
_EMPTY = '"sources": []'


def pieces(reach: Reach, traces: tuple[Trace, ...]) -> Iterator[str]:
    """The text of `reach.to_json`, on one line without its end."""
    waiting: list[str] = []
    size = 0
    for piece in _pieces(reach, traces):
        waiting.append(piece)
        size += len(piece)
        if size > _PIECE:
            yield "".join(waiting)
            waiting, size = [], 0
    yield "".join(waiting)


def _pieces(reach: Reach, traces: tuple[Trace, ...]) -> Iterator[str]:
    rest = printed.to_json(Reach((), reach.unseen), traces)
    yield f'{{"schema": {json.dumps(rest["schema"])}, "answers": ['
    for number, answer in enumerate(reach.answers):
        yield ", " if number else ""
        yield from _answer(answer)
    yield f'], "unseen": {json.dumps(rest["unseen"])}, "from": {json.dumps(rest["from"])}}}'


def _answer(answer: Answer) -> Iterator[str]:
    family = answer.family
    empty = answer._replace(sources=(), rules=(), nd=answer.nd._replace(rules=()))
    # Keys come in the order that they are made in: what is long stands in the last three.
    head = {key: value for key, value in printed.answer_json(empty).items() if key not in ("sources", "nd", "rules")}
    yield f'{json.dumps(head)[:-1]}, "sources": {{'
    for number, (outcome, ranges) in enumerate(answer.sources):
        yield f'{", " if number else ""}"{outcome.value}": ['
        yield from _prefixes(ranges, family)
        yield "]"
    yield f'}}, "nd": {{"blocked": {json.dumps(answer.nd.blocked)}, "rules": ['
    yield from _rules(answer.nd.rules, family)
    yield ']}, "rules": ['
    yield from _rules(answer.rules, family)
    yield "]}"


def _rules(rules: Sequence[Deciding], family: Family) -> Iterator[str]:
    """Some hundred at once: without their sources, which then come where the empty lists stand."""
    for start in range(0, len(rules), _AT_ONCE):
        some = rules[start : start + _AT_ONCE]
        bare = [printed.deciding_json(rule._replace(sources=()), family) for rule in some]
        # No string of the text has this in it: quotes within strings are escaped.
        between = json.dumps(bare)[1:-1].split(_EMPTY)
        yield f"{', ' if start else ''}{between[0]}"
        for rule, after in zip(some, between[1:]):
            yield '"sources": ['
            yield from _prefixes(rule.sources, family)
            yield f"]{after}"


def _prefixes(ranges: Ranges, family: Family) -> Iterator[str]:
    for start in range(0, len(ranges), _AT_ONCE):
        text = '", "'.join(addresses.cidrs(ranges[start : start + _AT_ONCE], family))
        yield f'{", " if start else ""}"{text}"'
