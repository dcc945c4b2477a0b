"""A set of sources that a walk takes parts out of, rule by rule.

Ten thousand rules that each drop one address leave ten thousand ranges; to copy them at every rule would make the walk
quadratic. The ranges are kept in chunks, so that taking a small part costs about the square root of the whole.
"""

from __future__ import annotations

from bisect import bisect_left
from typing import Optional

from . import addresses
from .ruleset import Ranges

_CHUNK = 512


class Sources:
    """Mutable; `overlap` looks, `take` removes."""

    __slots__ = ("_chunks", "_ends", "_whole")

    def __init__(self, ranges: Ranges) -> None:
        self._whole: Optional[Ranges] = ranges
        self._chunks: list[list[tuple[int, int]]] = []
        self._ends: list[int] = []

    def _split(self) -> None:
        whole = self._whole
        if whole is not None:
            self._chunks = [list(whole[i : i + _CHUNK]) for i in range(0, len(whole), _CHUNK)]
            self._ends = [chunk[-1][1] for chunk in self._chunks]
            self._whole = None

    def __bool__(self) -> bool:
        return bool(self._chunks if self._whole is None else self._whole)

    def all(self) -> Ranges:
        if self._whole is None:
            self._whole = tuple(item for chunk in self._chunks for item in chunk)
            self._chunks, self._ends = [], []
        return self._whole

    def add(self, ranges: Ranges) -> None:
        self._whole = addresses.union(self.all(), ranges)

    def overlap(self, ranges: Ranges) -> Ranges:
        """The part of `ranges` that is in the set."""
        if self._whole is not None and len(self._whole) <= 8 or len(ranges) > 64:
            return addresses.intersect(self.all(), ranges)
        self._split()
        out: list[tuple[int, int]] = []
        for low, high in ranges:
            place = bisect_left(self._ends, low)
            while place < len(self._chunks) and self._chunks[place][0][0] <= high:
                first, last = self._bounds(self._chunks[place], low, high)
                out += [(max(low, item[0]), min(high, item[1])) for item in self._chunks[place][first:last]]
                place += 1
        return tuple(out)

    def take(self, ranges: Ranges) -> None:
        """Removes `ranges`."""
        if self._whole is not None and len(self._whole) <= 8 or len(ranges) > 64:
            self._whole = addresses.subtract(self.all(), ranges)
            return
        self._split()
        for low, high in ranges:
            place = bisect_left(self._ends, low)
            while place < len(self._chunks) and self._chunks[place][0][0] <= high:
                first, last = self._bounds(self._chunks[place], low, high)
                if first == last:
                    place += 1
                    continue
                self._cut(place, first, last, (low, high))
                # The chunk may be gone or in two: what is left of it ends beyond `high`, or before `low`.
                place = bisect_left(self._ends, low)

    @staticmethod
    def _bounds(chunk: list[tuple[int, int]], low: int, high: int) -> tuple[int, int]:
        first = bisect_left(chunk, (low, low))
        if first and chunk[first - 1][1] >= low:
            first -= 1
        return first, bisect_left(chunk, (high + 1, high + 1), first)

    def _cut(self, place: int, first: int, last: int, hole: tuple[int, int]) -> None:
        chunk = self._chunks[place]
        chunk[first:last] = addresses.subtract(tuple(chunk[first:last]), (hole,))
        if not chunk:
            del self._chunks[place], self._ends[place]
        elif len(chunk) > 2 * _CHUNK:
            self._chunks[place : place + 1] = [chunk[:_CHUNK], chunk[_CHUNK:]]
            self._ends[place : place + 1] = [chunk[_CHUNK - 1][1], chunk[-1][1]]
        else:
            self._ends[place] = chunk[-1][1]
