"""A set of sources that a walk takes parts out of, rule by rule.

Ten thousand rules that each drop one address leave ten thousand ranges; to copy them at every rule would make the walk
quadratic. The ranges are kept in chunks, so that taking or adding a small part costs about the square root of the
whole; lower and upper ends in lists of their own, because bisecting plain integers is what bisect is fast at.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Optional

from . import addresses
from .ruleset import Ranges

_CHUNK = 256
#: Up to so many ranges in the set, and beyond so many in the argument, merging tuples is faster.
_FEW, _MANY = 8, 64


class Sources:
    """Mutable; `overlap` looks, `cut` looks and removes, `take` removes."""

    __slots__ = ("_ends", "_highs", "_lows", "_whole")

    def __init__(self, ranges: Ranges) -> None:
        self._whole: Optional[Ranges] = ranges
        self._lows: list[list[int]] = []
        self._highs: list[list[int]] = []
        self._ends: list[int] = []  # the last upper end of each chunk

    def _split(self) -> None:
        whole = self._whole
        if whole is not None:
            chunks = [whole[i : i + _CHUNK] for i in range(0, len(whole), _CHUNK)]
            self._lows = [[low for low, _ in chunk] for chunk in chunks]
            self._highs = [[high for _, high in chunk] for chunk in chunks]
            self._ends = [highs[-1] for highs in self._highs]
            self._whole = None

    def __bool__(self) -> bool:
        return bool(self._ends if self._whole is None else self._whole)

    def all(self) -> Ranges:
        if self._whole is None:
            pairs = zip(self._lows, self._highs)
            self._whole = tuple(item for lows, highs in pairs for item in zip(lows, highs))
            self._lows, self._highs, self._ends = [], [], []
        return self._whole

    def drain(self) -> Ranges:
        """Removes everything; what there was."""
        ranges = self.all()
        self._whole = ()
        return ranges

    def _plainly(self, ranges: Ranges) -> bool:
        return self._whole is not None and len(self._whole) <= _FEW or len(ranges) > _MANY

    def overlap(self, ranges: Ranges) -> Ranges:
        """The part of `ranges` that is in the set."""
        if self._plainly(ranges):
            return addresses.intersect(self.all(), ranges)
        self._split()
        out: list[tuple[int, int]] = []
        for low, high in ranges:
            place = bisect_left(self._ends, low)
            while place < len(self._ends) and self._lows[place][0] <= high:
                self._within(place, low, high, out)
                place += 1
        return tuple(out)

    def _within(self, place: int, low: int, high: int, out: list[tuple[int, int]]) -> tuple[int, int]:
        """The items of a chunk that overlap low–high, by first and last index; what overlaps is put into `out`."""
        lows, highs = self._lows[place], self._highs[place]
        first = bisect_left(highs, low)
        last = bisect_right(lows, high, first)
        if last - first == 1:
            start, end = lows[first], highs[first]
            out.append((start if start > low else low, end if end < high else high))
        elif last > first:
            out.append((max(lows[first], low), highs[first]))
            out.extend(zip(lows[first + 1 : last - 1], highs[first + 1 : last - 1]))
            out.append((lows[last - 1], min(highs[last - 1], high)))
        return first, last

    def take(self, ranges: Ranges) -> None:
        self.cut(ranges)

    def cut(self, ranges: Ranges) -> Ranges:
        """Removes `ranges`; what of them was in the set."""
        if len(ranges) == 1 and self._whole is None:
            low, high = ranges[0]
            place = bisect_left(self._ends, low)
            if place == len(self._ends):
                return ()
            lows, highs = self._lows[place], self._highs[place]
            first = bisect_left(highs, low)
            if lows[first] > high:
                return ()
            if lows[first] < low and high < highs[first]:
                # The usual case, a piece out of the middle of one range.
                lows.insert(first + 1, high + 1)
                highs.insert(first, low - 1)
                if len(lows) > 2 * _CHUNK:
                    self._balance(place)
                return ranges
        if self._plainly(ranges):
            whole = self.all()
            found = addresses.intersect(whole, ranges)
            if found:
                self._whole = addresses.subtract(whole, ranges)
            return found
        self._split()
        out: list[tuple[int, int]] = []
        for low, high in ranges:
            place = bisect_left(self._ends, low)
            while place < len(self._ends) and self._lows[place][0] <= high:
                first, last = self._within(place, low, high, out)
                place = self._remove(place, first, last, hole=(low, high)) if first < last else place + 1
        return tuple(out)

    def _remove(self, place: int, first: int, last: int, *, hole: tuple[int, int]) -> int:
        """Takes a hole out of the items first–last of a chunk; the chunk to look at next."""
        lows, highs = self._lows[place], self._highs[place]
        start, end = lows[first], highs[last - 1]
        new_lows, new_highs = [], []
        if start < hole[0]:
            new_lows.append(start)
            new_highs.append(hole[0] - 1)
        if end > hole[1]:
            new_lows.append(hole[1] + 1)
            new_highs.append(end)
        lows[first:last] = new_lows
        highs[first:last] = new_highs
        if not lows:
            del self._lows[place], self._highs[place], self._ends[place]
            return place
        return self._balance(place)

    def _balance(self, place: int) -> int:
        """After a change of a chunk: its end, and two chunks where it has grown too long."""
        lows, highs = self._lows[place], self._highs[place]
        self._ends[place] = highs[-1]
        if len(lows) <= 2 * _CHUNK:
            return place + 1
        self._lows[place : place + 1] = [lows[:_CHUNK], lows[_CHUNK:]]
        self._highs[place : place + 1] = [highs[:_CHUNK], highs[_CHUNK:]]
        self._ends[place : place + 1] = [highs[_CHUNK - 1], highs[-1]]
        return place + 2

    def add(self, ranges: Ranges) -> None:
        if self._plainly(ranges):
            self._whole = addresses.union(self.all(), ranges)
            return
        self._split()
        for low, high in ranges:
            self._insert(low, high)

    def _insert(self, low: int, high: int) -> None:
        if not self._ends:
            self._lows, self._highs, self._ends = [[low]], [[high]], [high]
            return
        place = min(bisect_left(self._ends, low - 1), len(self._ends) - 1)
        if place + 1 < len(self._ends) and self._lows[place + 1][0] <= high + 1:
            # It reaches into the next chunk.
            self._whole = addresses.union(self.all(), ((low, high),))
            self._split()
            return
        lows, highs = self._lows[place], self._highs[place]
        first = bisect_left(highs, low - 1)
        last = bisect_right(lows, high + 1, first)
        if first < last:
            low, high = min(low, lows[first]), max(high, highs[last - 1])
        lows[first:last] = [low]
        highs[first:last] = [high]
        self._balance(place)
