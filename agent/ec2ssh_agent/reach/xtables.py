"""What the tables of xtables matches and targets are made of.

An extension is known by its name; it has options, each with a number of arguments, and says what they mean as items.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Optional

from ..plain import NamedTuple
from .ipsets import IpSet
from .ruleset import Family, Item


class Option(NamedTuple):
    """One option of an extension as the rule has it, under its usual name."""

    name: str
    negated: bool
    values: tuple[str, ...]

    @property
    def value(self) -> str:
        return self.values[0]


Options = tuple[Option, ...]


class Context(NamedTuple):
    """What the meaning of a rule depends on besides its words.

    `chains` None: not known; a target that is no extension is then taken for a chain. `learned`: ipsets that rules
    add to while packets pass.
    """

    family: Family
    ipsets: Mapping[str, IpSet]
    chains: Optional[Collection[str]] = None
    learned: frozenset[str] = frozenset()


class Known(NamedTuple):
    """An option: its usual name, how many arguments it takes, and whether `!` may stand before it."""

    name: str
    arguments: int
    inverts: bool


class Extension(NamedTuple):
    """`options` None: an extension whose options are not known; what they say is then never known either."""

    options: Optional[dict[str, Known]]
    build: Callable[[Options, Context], tuple[Item, ...]]


def options(text: str) -> dict[str, Known]:
    """`!--dport|--destination-port=1 --bare` as a table; `!` marks those that may be negated."""
    table = {}
    for word in text.split():
        names, _, count = word.lstrip("!").partition("=")
        first, *others = names.split("|")
        for name in (first, *others):
            table[name] = Known(first, int(count or 0), word[0] == "!")
    return table
