"""Which local addresses no rule can tell apart: they are walked once.

A host may have fifty addresses and ten thousand rules that name none of them. Sorted, the addresses fall into runs; an
edge of a range that lies between two of them parts a run.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Optional

from .addresses import BITS, preimage
from .question import Link, Local, Question
from .ruleset import Bits, Family, Field, Item, Lookup, MapMark, Ranges, Ruleset, Selector, Test, VerdictMap

_FIELDS = frozenset((Field.SADDR, Field.DADDR, Field.CT_ORIG_SADDR, Field.CT_ORIG_DADDR))
#: Groups that neighbours are solicited in: what names one parts the addresses that it is made of.
_SOLICITED = (0xFF02 << 112 | 0x1FF000000, 0xFF02 << 112 | 0x1FFFFFFFF)


class _Runs:
    def __init__(self, addresses: Sequence[int]) -> None:
        self.addresses = addresses
        self.cuts: set[int] = set()  # before the n-th address

    def part(self, ranges: Optional[Ranges]) -> None:
        """`ranges` None: anything may be told apart."""
        last = len(self.addresses)
        if ranges is None:
            self.cuts.update(range(last))
            return
        if len(ranges) > last:
            # Of many ranges only those near an address matter.
            near = {bisect_left(ranges, (address, address)) for address in self.addresses}
            ranges = tuple(ranges[i] for n in near for i in (n - 1, n) if 0 <= i < len(ranges))
        for low, high in ranges:
            first, beyond = bisect_left(self.addresses, low), bisect_right(self.addresses, high)
            if first < beyond:
                self.cuts.update((first, beyond))
            if low <= _SOLICITED[1] and high >= _SOLICITED[0] and (low > _SOLICITED[0] or high < _SOLICITED[1]):
                self.part(None)


def _look(item: Item, runs: _Runs, family: Family) -> None:
    bits = BITS[family]
    if isinstance(item, (Lookup, VerdictMap, MapMark)):
        lookup = item if isinstance(item, Lookup) else item.lookup
        for place, selector in enumerate(lookup.selectors):
            if isinstance(selector, Selector) and selector.field in _FIELDS:
                for element in lookup.elements or ():
                    ranges: Ranges = element.parts[place]  # type: ignore[assignment]  # names stand at an IfName
                    runs.part(preimage(selector, ranges, bits))
    elif isinstance(item, Test) and item.selector.field in _FIELDS:
        runs.part(preimage(item.selector, item.ranges, bits))
    elif isinstance(item, Bits) and item.selector.field in _FIELDS:
        runs.part(None)


def groups(question: Question, ruleset: Ruleset, link: Link) -> Iterator[list[Local]]:
    """The link's addresses, those together that are surely answered alike."""
    for family in Family:
        locals_ = sorted((a for a in link.addresses if a.family is family), key=lambda local: local.address)
        if len(locals_) < 2:
            yield from ([local] for local in locals_)
            continue
        runs = _Runs([local.address for local in locals_])
        for listener in question.listeners:
            runs.part(((listener.address, listener.address),))
        for rule in question.rules:
            if rule.family is family and rule.source is not None:
                runs.part((rule.source,))
        seen: set[int] = set()
        for table in ruleset.tables:
            for chain in table.chains.values():
                for each in chain.rules:
                    for item in each.items:
                        if id(item) not in seen:
                            seen.add(id(item))
                            _look(item, runs, family)
        run: list[Local] = []
        for place, local in enumerate(locals_):
            if run and (place in runs.cuts or local.prefix != run[0].prefix):
                yield run
                run = []
            run.append(local)
        yield run
