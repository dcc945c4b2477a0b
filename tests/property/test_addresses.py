"""Sets of addresses against the standard library's ipaddress and Python's own sets."""

from __future__ import annotations

import ipaddress
import os
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ec2ssh_agent.reach import addresses
from ec2ssh_agent.reach.ruleset import Family

SMALL = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8).map(addresses.normal)


def members(ranges: addresses.Ranges) -> set[int]:
    return {value for low, high in ranges for value in range(low, high + 1)}


@given(SMALL, SMALL)
def test_operations_are_those_of_sets(left: addresses.Ranges, right: addresses.Ranges) -> None:
    for operation, expected in (
        (addresses.union, members(left) | members(right)),
        (addresses.intersect, members(left) & members(right)),
        (addresses.subtract, members(left) - members(right)),
    ):
        got = operation(left, right)
        assert members(got) == expected
        assert got == addresses.normal(got), "sorted, disjoint, not touching"


@given(SMALL, st.integers(0, 61))
def test_contains(ranges: addresses.Ranges, value: int) -> None:
    assert addresses.contains(ranges, value) == (value in members(ranges))


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_addresses_are_written_and_read_as_the_standard_library_does(address: ipaddress.IPv4Address) -> None:
    family = Family.IPV4 if address.version == 4 else Family.IPV6
    text = addresses.format_address(int(address), family)
    assert int(ipaddress.ip_address(text)) == int(address)
    assert addresses.parse_address(str(address)) == (family, int(address))
    assert addresses.parse_address(text) == (family, int(address))


def test_ipv6_is_written_as_rfc_5952_says() -> None:
    seed = int(os.environ.get("EC2SSH_SEED") or random.randrange(1 << 32))
    print(f"seed {seed}")
    chosen = random.Random(seed)
    for _ in range(2000):
        value = sum(chosen.choice((0, 0, 1, 0xFFFF)) << 16 * place for place in range(8))
        if value >> 32 == 0xFFFF:
            continue  # ::ffff:a.b.c.d, which the standard library writes in hexadecimal before Python 3.13
        assert addresses.format_address(value, Family.IPV6) == str(ipaddress.IPv6Address(value))


@given(st.lists(st.ip_addresses(v=4), min_size=2, max_size=2))
def test_cidrs_are_minimal(ends: list[ipaddress.IPv4Address]) -> None:
    low, high = sorted(ends)
    expected = [str(net).replace("/32", "") for net in ipaddress.summarize_address_range(low, high)]
    assert list(addresses.cidrs(((int(low), int(high)),), Family.IPV4)) == expected


@given(st.text(alphabet="0123456789abcdef:./ ", max_size=40))
def test_parsing_accepts_what_the_standard_library_accepts(text: str) -> None:
    try:
        expected = int(ipaddress.ip_address(text))
    except ValueError:
        with pytest.raises(ValueError, match=r"."):
            addresses.parse_address(text)
    else:
        assert addresses.parse_address(text)[1] == expected
