"""What a walk finds out on its way: which sources end where, by which rule, and where nobody can know.

A `Spot` is a place that decides: a rule, a policy, or the kernel itself. Ranges are appended as they come and put in
order once, when the answer is composed.
"""

from __future__ import annotations

from typing import Optional

from ..plain import NamedTuple
from .question import Cause, Outcome
from .ruleset import Backend, Chain, Ranges, Rule, Table


class Base(NamedTuple):
    """A base chain at its hook on one leg of the way; `number` in the order of the walk."""

    number: int
    stage: str
    hook: str
    table: Table
    chain: Chain


class Spot(NamedTuple):
    """`base` None: the kernel, not a rule, for the reason in `text`."""

    base: Optional[Base]
    chain: str = ""
    rule: Optional[Rule] = None
    stage: str = ""
    text: str = ""
    backend: Backend = Backend.KERNEL
    table: Optional[str] = None
    line: Optional[int] = None
    cause: Optional[Cause] = None


#: Names a Spot, and is cheap to hash: number of the base chain, chain, number of the rule (0: policy).
Key = tuple[int, str, int]


class Notes:
    def __init__(self) -> None:
        self.spots: dict[Key, Spot] = {}
        self.ends: dict[tuple[Outcome, Key], list[tuple[int, int]]] = {}
        self.doubts: list[tuple[Key, Ranges]] = []
        self.accepts: dict[int, list[tuple[Key, Ranges]]] = {}  # by number of the base chain
        #: By the local address and port that they were sent to.
        self.translated: dict[tuple[int, int], list[tuple[Key, Ranges]]] = {}
        #: While a list: the sources of timeouts of which is already known what decided.
        self.silent: Optional[list[tuple[int, int]]] = None
        self.forked = False  # whether a source may have gone more than one way

    def kernel(self, stage: str, text: str, cause: Optional[Cause] = None) -> Key:
        """A key for what no rule decides."""
        key = (-1, f"{stage}: {text}", 0)
        self.spots.setdefault(key, Spot(None, stage=stage, text=text, cause=cause))
        return key

    def end(self, outcome: Outcome, key: Key, ranges: Ranges) -> None:
        if outcome is Outcome.TIMEOUT and self.silent is not None:
            self.silent.extend(ranges)
        elif ranges:
            self.ends.setdefault((outcome, key), []).extend(ranges)

    def doubt(self, key: Key, ranges: Ranges) -> None:
        if ranges:
            self.forked = True
            self.doubts.append((key, ranges))

    def accept(self, key: Key, ranges: Ranges) -> None:
        if ranges:
            self.accepts.setdefault(key[0], []).append((key, ranges))
