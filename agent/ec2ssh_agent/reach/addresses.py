"""Sets of addresses (and of ports, marks, anything integer) as sorted, disjoint, not touching, inclusive ranges.

All operations are linear merges of their sorted inputs. An address is an integer; its family says of how many bits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Optional

from .ruleset import Family, Ranges, Selector

#: A masked address may stand for very many ranges; beyond these it is "may".
_MOST_RANGES = 65536
BITS = {Family.IPV4: 32, Family.IPV6: 128}
#: What follows the address of a prefix, by the binary logarithm of its size.
_SUFFIXES = {family: ("", *(f"/{bits - place}" for place in range(1, bits + 1))) for family, bits in BITS.items()}
SPACE: dict[Family, Ranges] = {family: ((0, (1 << bits) - 1),) for family, bits in BITS.items()}


def normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Any ranges in any order, as sorted, disjoint and not touching ones; an empty range (low > high) is left out."""
    items = ranges if isinstance(ranges, list) and len(ranges) == 1 else sorted(ranges)
    if len(items) == 1:
        return tuple(items) if items[0][0] <= items[0][1] else ()
    merged: list[tuple[int, int]] = []
    for low, high in items:
        if low > high:
            continue
        if merged and low <= merged[-1][1] + 1:
            if high > merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def union(left: Ranges, right: Ranges) -> Ranges:
    if not left or not right:
        return left or right
    return normal(left + right)


def intersect(left: Ranges, right: Ranges) -> Ranges:
    if not left or not right:
        return ()
    out: list[tuple[int, int]] = []
    i = j = 0
    while i < len(left) and j < len(right):
        low = max(left[i][0], right[j][0])
        high = min(left[i][1], right[j][1])
        if low <= high:
            out.append((low, high))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return tuple(out)


def subtract(left: Ranges, right: Ranges) -> Ranges:
    if not left or not right:
        return left
    out: list[tuple[int, int]] = []
    j = 0
    for low, high in left:
        while j < len(right) and right[j][1] < low:
            j += 1
        k = j
        while k < len(right) and right[k][0] <= high:
            if right[k][0] > low:
                out.append((low, right[k][0] - 1))
            low = right[k][1] + 1
            k += 1
        if low <= high:
            out.append((low, high))
    return tuple(out)


def complement(ranges: Ranges, family: Family) -> Ranges:
    return subtract(SPACE[family], ranges)


def contains(ranges: Ranges, value: int) -> bool:
    low, high = 0, len(ranges)
    while low < high:
        middle = (low + high) // 2
        if ranges[middle][1] < value:
            low = middle + 1
        else:
            high = middle
    return low < len(ranges) and ranges[low][0] <= value


_DOTTED = re.compile(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})", re.ASCII)
_GROUP = re.compile(r"[0-9A-Fa-f]{1,4}")


def _parse_v4(text: str) -> int:
    match = _DOTTED.fullmatch(text)
    octets = [int(part) for part in match.groups()] if match else [256]
    if max(octets) > 255 or any(len(part) > 1 and part[0] == "0" for part in text.split(".")):
        raise ValueError(f"not an address: {text[:60]}")
    return int.from_bytes(bytes(octets), "big")


def _parse_v6(text: str) -> int:
    head, gap, tail = text.partition("::")
    halves = []
    for half in (head, tail):
        groups = half.split(":") if half else []
        if groups and "." in groups[-1] and (half is tail or not gap):
            dotted = _parse_v4(groups.pop())
            groups += [f"{dotted >> 16:x}", f"{dotted & 0xFFFF:x}"]
        halves.append(groups)
    groups = halves[0] + ["0"] * (8 - len(halves[0]) - len(halves[1]) if gap else 0) + halves[1]
    if len(groups) != 8 or (gap and len(halves[0]) + len(halves[1]) > 7) or not all(map(_GROUP.fullmatch, groups)):
        raise ValueError(f"not an address: {text[:60]}")
    return int("".join(group.zfill(4) for group in groups), 16)


def parse_address(text: str) -> tuple[Family, int]:
    """An address as a person writes it (RFC 4291, section 2.2). Raises ValueError."""
    if ":" in text:
        return Family.IPV6, _parse_v6(text)
    return Family.IPV4, _parse_v4(text)


def prefix_range(family: Family, address: int, length: int) -> tuple[int, int]:
    """The range of a prefix, whatever host bits `address` has."""
    host = (1 << (BITS[family] - length)) - 1
    return address & ~host, address | host


def parse_cidr(text: str) -> tuple[Family, tuple[int, int]]:
    """`10.0.0.0/8`, `2001:db8::/32`, or one address. Raises ValueError, for host bits that are set too."""
    address, slash, length = text.partition("/")
    family, value = parse_address(address)
    if not slash:
        return family, (value, value)
    if not length.isdecimal() or int(length) > BITS[family]:
        raise ValueError(f"not a prefix length: {text[:60]}")
    low, high = prefix_range(family, value, int(length))
    if low != value:
        raise ValueError(f"{text[:60]} has host bits set; {cidrs(((low, high),), family)[0]} is meant?")
    return family, (low, high)


def format_address(address: int, family: Family) -> str:
    """As RFC 5952 writes it: lower case, the longest run of two or more zero groups as `::`."""
    if family is Family.IPV4:
        return f"{address >> 24}.{address >> 16 & 255}.{address >> 8 & 255}.{address & 255}"
    groups = [address >> shift & 0xFFFF for shift in range(112, -1, -16)]
    if groups[:5] == [0] * 5 and groups[5] == 0xFFFF:
        return "::ffff:" + format_address(address & 0xFFFFFFFF, Family.IPV4)
    best, length, start = -1, 1, 0
    for end in range(9):
        if end == 8 or groups[end]:
            if end - start > length:
                best, length = start, end - start
            start = end + 1
    texts = [f"{group:x}" for group in groups]
    if best < 0:
        return ":".join(texts)
    return ":".join(texts[:best]) + "::" + ":".join(texts[best + length :])


def cidrs(ranges: Ranges, family: Family) -> tuple[str, ...]:
    """The minimal sorted list of prefixes that cover just `ranges`. A single address has no `/32`."""
    bits = BITS[family]
    suffixes = _SUFFIXES[family]
    out = []
    for low, high in ranges:
        while low <= high:
            # The largest aligned block that starts at `low` and does not reach beyond `high`.
            place = (high - low + 1).bit_length() - 1
            if low and low & -low < 1 << place:
                place = (low & -low).bit_length() - 1
            if bits == 32:  # as format_address, without the call: lists have a hundred thousand prefixes
                out.append(f"{low >> 24}.{low >> 16 & 255}.{low >> 8 & 255}.{low & 255}{suffixes[place]}")
            else:
                out.append(format_address(low, family) + suffixes[place])
            low += 1 << place
    return tuple(out)


def preimage(selector: Selector, ranges: Ranges, bits: int) -> Optional[Ranges]:
    """The values whose selected part lies in `ranges`; None where they are too many ranges to tell."""
    full = (1 << bits) - 1
    mask = full if selector.mask is None else selector.mask & full
    if mask == full and not selector.xor and not selector.shift:
        return ranges
    if selector.shift:
        low_bits = (1 << selector.shift) - 1
        ranges = tuple((low << selector.shift, high << selector.shift | low_bits) for low, high in ranges)
    out: list[tuple[int, int]] = []
    for low, high in ranges:
        high = min(high, full)
        while low <= high:
            # An aligned block: `size` low bits are free, those above are fixed.
            size = min((low & -low).bit_length() - 1 if low else bits, (high - low + 1).bit_length() - 1)
            value = (low ^ selector.xor) >> size << size
            low += 1 << size
            free = (full & ~mask) >> size << size
            if value & free:
                continue  # a bit that the mask clears is never 1
            while free >> size & 1:
                free &= ~(1 << size)
                size += 1
            if len(out) + (1 << bin(free).count("1")) > _MOST_RANGES:
                return None
            part = 0
            while True:
                out.append((value | part, value | part | (1 << size) - 1))
                part = part - free & free
                if not part:
                    break
    return normal(out)
