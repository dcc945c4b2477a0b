"""`ipset save` as data: which packets each set holds.

Sources: ipset(8), net/netfilter/ipset/ of the kernel. In a `hash:net` set the longest prefix that holds an address
decides, and `nomatch` makes it an exception. Timeouts count down while packets come and go; an element that is listed
is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Optional, Union

from ..model import AgentError
from ..plain import NamedTuple
from . import addresses, values
from .ruleset import Element, Family, Field, IfName, Lookup, Match, Ranges, Selector, Unknown

Part = Union[Ranges, tuple[str, ...]]
_EVERY: Ranges = ((0, (1 << 128) - 1),)
_CAP = 2_000_000
_PARTS = {"ip": 1, "net": 1, "port": 2, "iface": 1, "mark": 1}


class IpSet(NamedTuple):
    """`parts`: ip, net, port (protocol and port), iface, mark, in the order of the type's name.

    `elements` None: what is in it cannot be told in ranges (`reason`). A list's `members` are other sets.
    `family` None: holds no addresses, fits both.
    """

    name: str
    type: str
    family: Optional[Family]
    parts: tuple[str, ...]
    elements: Optional[tuple[Element, ...]] = ()
    members: tuple[str, ...] = ()
    reason: str = ""


class IpSetError(AgentError):
    """A line of `ipset save` that cannot be read."""


class _Draft:
    """A set while its lines are read."""

    def __init__(self, name: str, kind: str, words: dict[str, str]) -> None:
        self.name, self.kind = name, kind
        self.parts = tuple(kind.partition(":")[2].split(",")) if kind != "list:set" else ()
        family = Family.IPV6 if words.get("family") == "inet6" else Family.IPV4
        self.family: Optional[Family] = family if {"ip", "net"} & set(self.parts) else None
        self.netmask = int(words["netmask"]) if words.get("netmask", "").isdecimal() else None
        self.reason = "" if set(self.parts) <= set(_PARTS) else f"sets of type {kind} are not understood"
        if "bitmask" in words or ("netmask" in words and self.netmask is None):
            self.reason = "a set with a bit mask is not understood"
        self.markmask = values.number(words["markmask"]) if "markmask" in words else 0xFFFFFFFF
        # Per rest of the element (everything but its first address): (prefix length, range, nomatch).
        self.found: dict[tuple[Part, ...], list[tuple[int, tuple[int, int], bool]]] = {}
        self.members: list[str] = []

    def add(self, entry: str, words: list[str]) -> None:
        if self.kind == "list:set":
            self.members.append(entry)
            return
        if self.reason:
            return
        texts = entry.split(",")
        if len(texts) != len(self.parts):
            raise ValueError(f"{entry[:60]!r} is no element of a {self.kind}")
        nomatch = "nomatch" in words
        length, first, rest = 0, (0, 0), []
        for place, (part, text) in enumerate(zip(self.parts, texts)):
            if place == 0 and part in ("ip", "net"):
                length, first = self._addresses(text)
            else:
                rest += self._part(part, text, "wildcard" in words)
        if nomatch and self.parts.count("net") > 1:
            self.reason = "exceptions in a set of pairs of networks are not understood"
        self.found.setdefault(tuple(rest), []).append((length, first, nomatch))

    def _addresses(self, text: str) -> tuple[int, tuple[int, int]]:
        family = self.family or Family.IPV4
        bits = values.BITS[family]
        low, dash, high = text.partition("-")
        if dash:
            return bits, (values.address(low, family), values.address(high, family))
        whole = text if "/" in text or self.netmask is None else f"{text}/{self.netmask}"
        value, mask = values.prefix(whole, family)
        found = values.contiguous(value, mask, family)
        if found is None:
            raise ValueError(f"{text[:60]} has a mask with holes")
        return bin(mask).count("1"), found

    def _part(self, part: str, text: str, wildcard: bool) -> list[Part]:
        if part in ("ip", "net"):
            return [(self._addresses(text)[1],)]
        if part == "iface":
            if text.startswith("physdev:"):
                self.reason = "bridge ports in a set are not understood"
            return [(text + "*" * wildcard,)]
        if part == "mark":
            mark = values.number(text)
            return [((mark, mark),)]
        protocol, colon, port = text.rpartition(":")
        if protocol in ("icmp", "icmpv6", "ipv6-icmp"):
            if self.family is Family.IPV6:
                self.reason = "ICMP types in a set are not understood"
            return [((1, 1),), values.ALL_PORTS]
        number = values.protocol(protocol) if colon else 6
        return [((number, number),), values.ports(port, "-")]

    def _hidden(self, found: list[tuple[int, tuple[int, int], bool]]) -> list[tuple[int, tuple[int, int], bool]]:
        """An interface's networks, and as exceptions those of the others: the longest prefix decides, with whatever
        interface it was added (mtype_test_cidrs of ip_set_hash_gen.h ends at the first network that it finds).
        """
        mine = {pair for _, pair, _ in found}
        others = {(length, pair) for each in self.found.values() for length, pair, _ in each if pair not in mine}
        return found + [(length, pair, True) for length, pair in others]

    def finish(self) -> IpSet:
        if self.kind == "list:set":
            return IpSet(self.name, self.kind, None, (), (), tuple(self.members))
        if self.reason:
            return IpSet(self.name, self.kind, self.family, self.parts, None, (), self.reason)
        elements = []
        for rest, found in self.found.items():
            if self.kind == "bitmap:port":
                # The set looks at the ports of either protocol; `ipset save` writes none.
                elements.append(Element((((6, 6), (17, 17)), rest[1])))
            elif self.kind == "hash:net,iface":
                elements.append(Element((_longest_prefix(self._hidden(found)), *rest)))
            elif self.parts[0] in ("ip", "net"):
                elements.append(Element((_longest_prefix(found), *rest)))
            else:
                elements.append(Element(rest))
        return IpSet(self.name, self.kind, self.family, self.parts, tuple(elements))


def _longest_prefix(found: list[tuple[int, tuple[int, int], bool]]) -> Ranges:
    """The addresses whose longest prefix in the list is no exception."""
    if not any(nomatch for _, _, nomatch in found):
        return addresses.normal(pair for _, pair, _ in found)
    held: Ranges = ()
    for length in sorted({item[0] for item in found}):
        held = addresses.union(held, addresses.normal(pair for size, pair, no in found if size == length and not no))
        held = addresses.subtract(held, addresses.normal(pair for size, pair, no in found if size == length and no))
    return held


_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')


def parse(text: str) -> dict[str, IpSet]:
    """The output of `ipset save`, by name. Raises IpSetError with the number of the line that cannot be read."""
    if text.count("\n") > _CAP:
        raise IpSetError(f"ipset: more than {_CAP} lines")
    drafts: dict[str, _Draft] = {}
    for number, raw in enumerate(text.split("\n"), 1):
        line = raw.strip()
        if not line or line.startswith("#") or line == "COMMIT":
            continue
        try:
            _line(line, drafts)
        except ValueError as error:
            raise IpSetError(f"ipset: line {number}: {error}: {line[:120]}") from error
    return {name: draft.finish() for name, draft in drafts.items()}


def _line(line: str, drafts: dict[str, _Draft]) -> None:
    words = line.split() if '"' not in line else [a or b for a, b in _WORD.findall(line)]
    command, rest = words[0], words[1:]
    if command in ("create", "-N") and len(rest) >= 2:
        drafts[rest[0]] = _Draft(rest[0], rest[1], dict(zip(rest[2:], rest[3:])))
    elif command in ("add", "-A") and len(rest) >= 2:
        if rest[0] not in drafts:
            raise ValueError(f"the set {rest[0][:60]!r} was not created")
        drafts[rest[0]].add(rest[1], rest[2:])
    else:
        raise ValueError("neither create nor add")


class _Unreadable(ValueError):
    """Why a set cannot be looked into."""


def selectors(parts: tuple[str, ...], flags: tuple[str, ...]) -> tuple[Union[Selector, IfName], ...]:
    """What of the packet the parts are compared with, `flags` being src or dst for each."""
    out: list[Union[Selector, IfName]] = []
    for part, flag in zip(parts, flags):
        source = flag == "src"
        if part in ("ip", "net"):
            out.append(Selector(Field.SADDR if source else Field.DADDR))
        elif part == "port":
            out += [Selector(Field.L4PROTO), Selector(Field.SPORT if source else Field.DPORT)]
        elif part == "iface":
            out.append(IfName(output=not source))
        else:
            out.append(Selector(Field.MARK))
    return tuple(out)


def _leaves(found: IpSet, sets: Mapping[str, IpSet]) -> Iterator[IpSet]:
    if found.type != "list:set":
        yield found
    for member in found.members:
        if member not in sets:
            raise _Unreadable(f"the set {member}, member of {found.name}, is not among those given")
        # A list cannot hold lists (ip_set_list_set.c), so this ends.
        if sets[member].type == "list:set":
            raise _Unreadable(f"the list {found.name} holds another list")
        yield sets[member]


def match(
    found: IpSet, sets: Mapping[str, IpSet], flags: tuple[str, ...], *, family: Family, negated: bool, dynamic: bool
) -> Match:
    """`-m set --match-set NAME FLAGS` as a lookup, or Unknown with the reason."""
    try:
        return _lookup(found, sets, flags, family)._replace(negated=negated, dynamic=dynamic)
    except _Unreadable as error:
        return Unknown(str(error))


def _lookup(found: IpSet, sets: Mapping[str, IpSet], flags: tuple[str, ...], family: Family) -> Lookup:
    """Members of a list may look at different things: the key is the union, and an element leaves the rest open."""
    fitting = []
    for leaf in _leaves(found, sets):
        if leaf.elements is None:
            raise _Unreadable(f"ipset {leaf.name}: {leaf.reason}")
        # A set of the other family, or with more parts than flags, never matches (ip_set_test).
        if leaf.family in (None, family) and len(leaf.parts) <= len(flags):
            fitting.append((selectors(leaf.parts, flags), leaf.elements))
    key = tuple(dict.fromkeys(selector for chosen, _ in fitting for selector in chosen)) or (Selector(Field.SADDR),)
    elements = []
    for chosen, rows in fitting:
        if len(set(chosen)) != len(chosen):
            raise _Unreadable(f"ipset {found.name}: one part of the packet twice in a key")
        places = [chosen.index(selector) if selector in chosen else None for selector in key]
        open_parts: list[Part] = [("*",) if isinstance(selector, IfName) else _EVERY for selector in key]
        elements += [
            Element(tuple(open_parts[i] if place is None else row.parts[place] for i, place in enumerate(places)))
            for row in rows
        ]
    return Lookup(key, tuple(elements), name=found.name)
