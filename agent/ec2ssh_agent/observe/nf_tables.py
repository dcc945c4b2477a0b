"""What nf_tables says itself, by netlink, where the programs that print its rules do not.

nft prints no devices of ingress chains in JSON (1.0.6), forgets `meta nfproto` in rules that end in `reject with tcp
reset`, and may not be installed where iptables-nft is. That in turn prints rules that are not its own wrongly, and says
nothing: `unprintable` tells whether there are any.

Source: include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Optional

from .. import netlink
from ..host import Failed
from ..plain import NamedTuple

_GETTABLE, _GETCHAIN, _GETRULE = 0x0A01, 0x0A04, 0x0A07
_ALL_FAMILIES = b"\0\0\0\0"  # struct nfgenmsg
_FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}  # NFPROTO_*
_DORMANT = 1
_HOOK, _DEVICE, _DEVICES, _PREFIX = 4, 3, 4, 2
_META_PROTOCOL, _META_NFPROTO = 1, 15
_VERSIONS = {b"\x02": 2, b"\x0a": 10, b"\x08\x00": 2, b"\x86\xdd": 10}
_TCP_RESET = 1

_BUILTIN = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")  # by number of the hook
_IPTABLES = {"filter": (0,), "nat": (-100, 100), "mangle": (-150,), "raw": (-300,), "security": (50,)}
_OWN = frozenset(("counter", "match", "target", "immediate", "payload", "cmp", "bitwise", "meta", "limit", "log"))
_OWN_META = frozenset((4, 5, 6, 7, 16))  # iif, oif, iifname, oifname, l4proto
_PORTS_AND_FLAGS = frozenset(((0, 2), (2, 2), (0, 4), (13, 1)))  # of the transport header: offset, length


class Expression(NamedTuple):
    name: str
    data: dict[int, bytes]

    def number(self, kind: int) -> int:
        return int.from_bytes(self.data.get(kind, b""), "big")


class Raw(NamedTuple):
    """A rule as the kernel holds it."""

    family: str
    table: str
    chain: str
    handle: int
    expressions: tuple[Expression, ...]


def tables() -> tuple[tuple[str, str, bool], ...]:
    """Family, name, whether dormant. Raises HostError, as all here."""
    found = []
    for message in _ask(_GETTABLE):
        body = dict(netlink.attributes(message.body, 4))
        dormant = bool(int.from_bytes(body.get(2, b""), "big") & _DORMANT)
        found.append((_family(message), _string(body.get(1, b"")), dormant))
    return tuple(found)


def more_rules_than(limit: int) -> bool:
    """Counts as far as the limit, without looking at the rules."""
    return any(number >= limit for number, _ in enumerate(_ask(_GETRULE)))


def devices() -> dict[tuple[str, str, str], tuple[str, ...]]:
    """The devices of ingress and egress chains by (family, table, chain); with `*` for a prefix of names."""
    found = {}
    for message in _ask(_GETCHAIN):
        body = dict(netlink.attributes(message.body, 4))
        hook = dict(netlink.attributes(body.get(_HOOK, b""), 0))
        names = [_string(hook[_DEVICE])] if _DEVICE in hook else []
        for kind, value in netlink.attributes(hook.get(_DEVICES, b""), 0):
            names.append(_string(value) + ("*" if kind == _PREFIX else ""))
        if names:
            place = (_family(message), _string(body.get(1, b"")), _string(body.get(3, b"")))
            found[place] = tuple(sorted(set(names)))
    return found


def versions(family: str, table: str, chain: str) -> dict[int, int]:
    """By handle, the NFPROTO that a rule with a TCP reset is for, where it is for one."""
    found = {}
    for rule in rules(family, table, chain):
        last = rule.expressions[-1] if rule.expressions else None
        if last and last.name == "reject" and last.number(1) == _TCP_RESET:
            for before, after in zip(rule.expressions, rule.expressions[1:]):
                version = _VERSIONS.get(_compared(after))
                if before.name == "meta" and before.number(2) in (_META_PROTOCOL, _META_NFPROTO) and version:
                    found[rule.handle] = version
    return found


def _compared(expression: Expression) -> bytes:
    """What `cmp eq` compares with."""
    if expression.name != "cmp" or expression.number(2) != 0:
        return b""
    return dict(netlink.attributes(expression.data.get(3, b""), 0)).get(1, b"")


def rules(family: str = "", table: str = "", chain: str = "") -> Iterator[Raw]:
    """All rules, or those of one chain."""
    wanted = b""
    if chain:
        wanted = _attribute(1, table.encode() + b"\0") + _attribute(2, chain.encode() + b"\0")
    for message in _ask(_GETRULE, family, wanted):
        body = dict(netlink.attributes(message.body, 4))
        expressions = tuple(_expression(value) for _, value in netlink.attributes(body.get(4, b""), 0))
        yield Raw(
            _family(message),
            _string(body.get(1, b"")),
            _string(body.get(2, b"")),
            int.from_bytes(body.get(3, b""), "big"),
            expressions,
        )


def _expression(value: bytes) -> Expression:
    body = dict(netlink.attributes(value, 0))
    return Expression(_string(body.get(1, b"")), dict(netlink.attributes(body.get(2, b""), 0)))


def unprintable(modern: bool) -> Optional[str]:
    """What iptables-nft-save would print wrongly or not at all, None: nothing.

    `modern`: it is 1.8.8 or later, and makes (and prints) comparisons of ports and flags without an extension.
    """
    for family, name, dormant in tables():
        if family not in ("ip", "ip6") or name not in _IPTABLES or dormant:
            return f"table {family} {name}"
    for message in _ask(_GETCHAIN):
        body = dict(netlink.attributes(message.body, 4))
        table, chain = _string(body.get(1, b"")), _string(body.get(3, b""))
        if _HOOK in body and not _builtin(table, chain, dict(netlink.attributes(body[_HOOK], 0))):
            return f"chain {chain} of table {_family(message)} {table}"
    for rule in rules():
        if not _printable(rule, modern):
            return f"a rule of chain {rule.chain} of table {rule.family} {rule.table}"
    return None


def _builtin(table: str, chain: str, hook: dict[int, bytes]) -> bool:
    number = int.from_bytes(hook.get(1, b"\xff"), "big")
    priority = int.from_bytes(hook.get(2, b""), "big", signed=True)
    return number < len(_BUILTIN) and _BUILTIN[number] == chain and priority in _IPTABLES[table]


def _printable(rule: Raw, modern: bool) -> bool:
    names = [expression.name for expression in rule.expressions]
    return "counter" in names and all(_own(expression, modern) for expression in rule.expressions)


def _own(expression: Expression, modern: bool) -> bool:
    if expression.name == "meta":
        return expression.number(2) in _OWN_META
    if expression.name == "payload":
        if expression.number(2) == 1:  # of the network header: addresses, protocol, fragments
            return True
        return modern and (expression.number(3), expression.number(4)) in _PORTS_AND_FLAGS
    return expression.name in _OWN


def _ask(kind: int, family: str = "", attributes: bytes = b"") -> Iterator[netlink.Message]:
    number = next((number for number, name in _FAMILIES.items() if name == family), 0)
    try:
        with netlink.open_socket(netlink.NETFILTER) as via:
            yield from netlink.ask(via, kind, bytes((number,)) + _ALL_FAMILIES[1:] + attributes, dump=True)
    except OSError as error:
        raise Failed(f"nf_tables: {error.strerror}") from error


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _family(message: netlink.Message) -> str:
    return _FAMILIES.get(message.body[0], "unknown")


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode("utf-8", "replace")
