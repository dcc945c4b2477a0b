"""Sets of addresses (and of ports, marks, anything integer) as sorted, disjoint, not touching, inclusive ranges.

All operations are linear merges of their sorted inputs. An address is an integer; its family says of how many bits.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable

from .ruleset import Family, Ranges

BITS = {Family.IPV4: 32, Family.IPV6: 128}
SPACE: dict[Family, Ranges] = {family: ((0, (1 << bits) - 1),) for family, bits in BITS.items()}
_AF = {Family.IPV4: socket.AF_INET, Family.IPV6: socket.AF_INET6}


def normal(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Any ranges in any order, as sorted, disjoint and not touching ones; an empty range (low > high) is left out."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
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


def parse_address(text: str) -> tuple[Family, int]:
    """An address as a person writes it. Raises ValueError."""
    family = Family.IPV6 if ":" in text else Family.IPV4
    try:
        return family, int.from_bytes(socket.inet_pton(_AF[family], text), "big")
    except (OSError, ValueError) as error:
        raise ValueError(f"not an address: {text[:60]}") from error


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
    return socket.inet_ntop(_AF[family], address.to_bytes(BITS[family] // 8, "big"))


def cidrs(ranges: Ranges, family: Family) -> tuple[str, ...]:
    """The minimal sorted list of prefixes that cover just `ranges`. A single address has no `/32`."""
    bits = BITS[family]
    out = []
    for low, high in ranges:
        while low <= high:
            # The largest aligned block that starts at `low` and does not reach beyond `high`.
            size = min(low & -low if low else 1 << bits, 1 << ((high - low + 1).bit_length() - 1))
            length = bits - size.bit_length() + 1
            out.append(format_address(low, family) + (f"/{length}" if length < bits else ""))
            low += size
    return tuple(out)
