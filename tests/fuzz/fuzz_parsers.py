"""Coverage-guided fuzzing of what reads other people's text: each parser ends with its data or with its own error.

    pip install atheris                      (3.1 was used; CPython 3.11)
    PYTHONPATH=agent python tests/fuzz/fuzz_parsers.py iptables -max_total_time=600 -max_len=4096

Targets: iptables, ipsets, nftables, wrappers. RESULTS.md has the figures. What it finds becomes a test in tests/unit.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import atheris  # type: ignore[import-not-found]

with atheris.instrument_imports():
    from ec2ssh_agent.reach import ipsets, iptables, nftables, wrappers
    from ec2ssh_agent.reach.ruleset import Family

_SETS = ipsets.parse("create s hash:ip,port family inet\nadd s 10.0.0.1,22\n")


def _iptables(data: bytes) -> None:
    """The first byte chooses the family, and whether a table is open already."""
    text = data[1:].decode("utf-8", "surrogateescape")
    family = Family.IPV6 if data[:1] > b"\x7f" else Family.IPV4
    head = "*filter\n:user - [0:0]\n-A INPUT " if data[:1] and data[0] & 1 else ""
    try:
        iptables.parse(head + text, family=family, ipsets=_SETS)
    except iptables.IptablesError:
        return


def _ipsets(data: bytes) -> None:
    try:
        ipsets.parse(data.decode("utf-8", "surrogateescape"))
    except ipsets.IpSetError:
        return


def _nftables(data: bytes) -> None:
    try:
        nftables.parse(nftables.load(data))
    except nftables.NftablesError:
        return


def _wrappers(data: bytes) -> None:
    allow, _, deny = data.partition(b"\xff")
    for family in Family:
        wrappers.evaluate(wrappers.parse(allow, deny), family=family)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "iptables": _iptables,
    "ipsets": _ipsets,
    "nftables": _nftables,
    "wrappers": _wrappers,
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: fuzz_parsers.py {'|'.join(TARGETS)} [libFuzzer options]")
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
