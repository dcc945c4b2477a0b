"""Values as iptables writes and reads them: numbers, ports, addresses with masks, names (xtables' libxtables).

Everything here raises `ValueError` with a short text for a person; the caller adds the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from . import addresses
from .ruleset import Family, Field, Ranges, Selector, Test

BITS = addresses.BITS
_OCTETS = {str(number): number for number in range(256)}
_PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1, "ipv6-icmp": 58, "icmpv6": 58, "all": 0}
_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_"
ALL_PORTS: Ranges = ((0, 0xFFFF),)


def number(text: str, high: int = 0xFFFFFFFF, low: int = 0) -> int:
    """An unsigned integer as strtoul(3) with base 0 reads it: `22`, `0x16`, `026`."""
    digits = text.lower()
    base = 16 if digits[:2] == "0x" else 8 if digits[:1] == "0" and len(digits) > 1 else 10
    body = digits[2:] if base == 16 else digits
    allowed = "0123456789abcdef"[:base]
    if not body or len(body) > 40 or body.strip(allowed):
        raise ValueError(f"{text[:40]!r} is not a number")
    value = int(body, base)
    if not low <= value <= high:
        raise ValueError(f"{text[:40]} is not between {low} and {high}")
    return value


def span(text: str, high: int = 0xFFFFFFFF, separator: str = ":") -> Ranges:
    """`5`, `5:9`, `5:`, `:9`."""
    first, found, last = text.partition(separator)
    low = number(first, high) if first or not found else 0
    top = number(last, high) if last else high if found else low
    if low > top:
        raise ValueError(f"the range {text[:40]} is backwards")
    return ((low, top),)


def masked(text: str, high: int = 0xFFFFFFFF) -> tuple[int, int]:
    """`VALUE[/MASK]` of marks and the like."""
    value, slash, mask = text.partition("/")
    return number(value, high), number(mask, high) if slash else high


def port(text: str) -> int:
    """A port by number or by the name that services(5) gives it."""
    if text[:1].isdecimal():
        return number(text, 0xFFFF)
    from .names import SERVICES

    if text not in SERVICES:
        raise ValueError(f"the port name {text[:40]!r} is unknown")
    return SERVICES[text]


def ports(text: str, separator: str = ":") -> Ranges:
    """`22`, `ssh`, `1024:65535`, `:1023`, `6000:`; a name may have a hyphen, so a colon is what parts them."""
    first, found, last = text.partition(separator)
    if not found:
        value = port(first)
        return ((value, value),)
    low, top = port(first) if first else 0, port(last) if last else 0xFFFF
    if low > top:
        raise ValueError(f"the port range {text[:40]} is backwards")
    return ((low, top),)


def protocol(text: str) -> int:
    """A protocol by number or name; 0 means every one."""
    value = _PROTOCOLS.get(text)
    if value is not None:
        return value
    if text[:1].isdecimal():
        return number(text, 255)
    from .names import PROTOCOLS

    if text.lower() not in PROTOCOLS:
        raise ValueError(f"the protocol {text[:40]!r} is unknown")
    return PROTOCOLS[text.lower()]


def address(text: str, family: Family) -> int:
    """One numeric address of this family."""
    if family is Family.IPV4:
        try:
            a, b, c, d = text.split(".")
            return _OCTETS[a] << 24 | _OCTETS[b] << 16 | _OCTETS[c] << 8 | _OCTETS[d]
        except (ValueError, KeyError):
            raise ValueError(f"{text[:60]!r} is not an IPv4 address") from None
    if ":" not in text:
        raise ValueError(f"{text[:60]!r} is not an IPv6 address")
    return addresses.parse_address(text)[1]


def _network(text: str, family: Family) -> int:
    """As `address`; IPv4 may leave out octets at the end: `10/8`, `172.16/12`."""
    if family is Family.IPV4 and text.count(".") < 3 and text.replace(".", "0").isdecimal():
        text += ".0" * (3 - text.count("."))
    return address(text, family)


def _mask(text: str, family: Family) -> int:
    bits = BITS[family]
    if text.isdecimal():
        if len(text) > 3 or int(text) > bits:
            raise ValueError(f"/{text[:40]} is longer than {bits} bits")
        return (1 << bits) - (1 << (bits - int(text)))
    return address(text, family)


def prefix(text: str, family: Family) -> tuple[int, int]:
    """`ADDRESS[/MASK]` as (value, mask): prefix length or dotted mask, even one with holes; host bits are cleared."""
    whole, slash, length = text.partition("/")
    mask = _mask(length, family) if slash else (1 << BITS[family]) - 1
    return _network(whole, family) & mask, mask


_HOSTS = {"": 0, **{f"/{length}": (1 << (32 - length)) - 1 for length in range(33)}}


def plain_v4(text: str) -> Optional[tuple[int, int]]:
    """The range of `a.b.c.d[/length]`; None for any other spelling. In a long ruleset nearly all addresses are such."""
    whole, slash, length = text.partition("/")
    try:
        a, b, c, d = whole.split(".")
        value = _OCTETS[a] << 24 | _OCTETS[b] << 16 | _OCTETS[c] << 8 | _OCTETS[d]
        host = _HOSTS[slash + length]
    except (ValueError, KeyError):
        return None
    return value & ~host, value | host


def is_host_name(text: str) -> bool:
    """A name that iptables would look up when it loads the rule: nobody knows what it found."""
    name = text.split("/")[0]
    return ":" not in name and any(c.isalpha() for c in name) and not name.strip(_NAME)


def contiguous(value: int, mask: int, family: Family) -> Optional[tuple[int, int]]:
    """The range of `value`/`mask`, or None where the mask has holes."""
    host = mask ^ ((1 << BITS[family]) - 1)
    return (value, value | host) if host & (host + 1) == 0 else None


def address_test(field: Field, text: str, *, family: Family, negated: bool = False) -> Test:
    """`-s` and its kin: one `ADDRESS[/MASK]`, or several with commas."""
    ranges = []
    for part in text.split(","):
        value, mask = prefix(part, family)
        whole = contiguous(value, mask, family)
        if whole is None:
            if "," in text:
                raise ValueError("a mask with holes in a list")
            return Test(Selector(field, mask), ((value, value),), negated)
        ranges.append(whole)
    return Test(Selector(field), addresses.normal(ranges), negated)


def bits(text: str, names: Mapping[str, int], what: str) -> int:
    """The sum of comma-separated names, in any case."""
    total = 0
    for name in text.split(","):
        if name.upper() not in names:
            raise ValueError(f"{name[:40]!r} is not {what}")
        total |= names[name.upper()]
    return total
