"""Interfaces, addresses, routes of all tables and policy rules, by rtnetlink; each interface's effective rp_filter.

Sources: rtnetlink(7), include/uapi/linux/{if_link,if_addr,rtnetlink,fib_rules}.h, Documentation/networking/ip-sysctl.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Iterator
from typing import Optional

from ..facts import Address, Interface, Network
from ..host import Host, HostError, NotFound
from ..model import Fact, Seen, Unseen
from ..netlink import Message
from ..plain import NamedTuple
from ..reach.question import Route, RoutingRule
from ..reach.ruleset import Family
from .dumps import attributes, dump, number, text

_GETLINK, _GETADDR, _GETROUTE, _GETRULE, _GETNEXTHOP = 18, 22, 26, 34, 106
_NEWLINK, _NEWADDR, _NEWROUTE, _NEWRULE, _NEWNEXTHOP = 16, 20, 24, 32, 104
_LINK, _ADDRESS, _ROUTE = struct.Struct("=BxHiII"), struct.Struct("=BBBBI"), struct.Struct("=BBBBBBBBI")
_NEXTHOP = struct.Struct("=HBBi")
_FAMILIES = {socket.AF_INET: Family.IPV4, socket.AF_INET6: Family.IPV6}
_BITS = {Family.IPV4: 32, Family.IPV6: 128}
_SCOPES = {0: "global", 200: "site", 253: "link", 254: "host", 255: "nowhere"}
_UP, _LOOPBACK, _LOWER_UP = 0x1, 0x8, 0x10000
_TENTATIVE_OR_FAILED = 0x40 | 0x08  # IFA_F_TENTATIVE, IFA_F_DADFAILED: not usable (yet)
_ROUTE_TYPES = {1: "unicast", 2: "local", 3: "broadcast", 4: "anycast", 5: "multicast"}
_ROUTE_TYPES.update({6: "blackhole", 7: "unreachable", 8: "prohibit", 9: "throw"})
_DEAD, _CLONED = 0x1, 0x200
_RULE_ACTIONS = {1: "table", 2: "goto", 3: "nop", 6: "blackhole", 7: "unreachable", 8: "prohibit"}
_RULE_INVERTED = 0x2
#: TCP options with the setting of tcp(7) that lets the kernel agree to them.
_TCP_OPTIONS = {3: "tcp_window_scaling", 4: "tcp_sack", 8: "tcp_timestamps"}
_RP_FILTER = 8  # IPV4_DEVCONF_RP_FILTER, counted from 1


class Hardware(NamedTuple):
    """One link of the dump, before its addresses are known."""

    interface: Interface
    xdp: bool


def links(messages: Iterable[Message]) -> tuple[Hardware, ...]:
    """RTM_NEWLINK messages. `rp_filter` is the interface's own value here."""
    found = []
    for message in messages:
        if message.type != _NEWLINK or len(message.body) < _LINK.size:
            continue
        _, _, index, flags, _ = _LINK.unpack_from(message.body)
        given = attributes(message.body, _LINK.size)
        kind = text(attributes(given.get(18, b"")).get(1, b""))
        configured = attributes(attributes(given.get(26, b"")).get(socket.AF_INET, b"")).get(1, b"")
        own = configured[4 * (_RP_FILTER - 1) : 4 * _RP_FILTER]
        interface = Interface(
            name=text(given.get(3, b"")),
            index=index,
            up=bool(flags & _UP),
            carrier=bool(flags & _LOWER_UP),
            kind=kind,
            rp_filter=number(own),
            loopback=bool(flags & _LOOPBACK),
            master=number(given.get(10, b"")),
        )
        attached = attributes(given.get(43, b"")).get(2, b"\0")
        found.append(Hardware(interface, attached != b"\0"))
    return tuple(found)


def addresses(messages: Iterable[Message]) -> tuple[tuple[int, Address], ...]:
    """RTM_NEWADDR messages: (index of the interface, address)."""
    found = []
    for message in messages:
        if message.type != _NEWADDR or len(message.body) < _ADDRESS.size:
            continue
        number_of_family, prefix, flags, scope, index = _ADDRESS.unpack_from(message.body)
        family = _FAMILIES.get(number_of_family)
        given = attributes(message.body, _ADDRESS.size)
        raw = given.get(2) or given.get(1)  # IFA_LOCAL: on a point-to-point link IFA_ADDRESS is the peer's
        if family is None or not raw:
            continue
        flags = number(given[8]) if 8 in given else flags
        value = int.from_bytes(raw, "big")
        tentative = bool(flags & _TENTATIVE_OR_FAILED)
        found.append((index, Address(family, value, prefix, _SCOPES.get(scope, str(scope)), tentative)))
    return tuple(found)


def _network(family: Family, raw: bytes, length: int) -> tuple[int, int]:
    """First and last address of a prefix."""
    hosts = (1 << (_BITS[family] - length)) - 1
    first = int.from_bytes(raw, "big") & ~hosts
    return first, first | hosts


def _devices(given: dict[int, bytes], groups: dict[int, tuple[int, ...]]) -> Iterator[int]:
    """Indices of the interfaces that a route leaves by; 0 for none (blackhole and its kin)."""
    if 4 in given:
        yield number(given[4])
    elif 9 in given:
        yield from _hops(given[9])
    elif 30 in given:
        yield from groups.get(number(given[30]), (0,))
    else:
        yield 0


def _hops(data: bytes) -> Iterator[int]:
    position = 0
    while position + _NEXTHOP.size <= len(data):
        length, flags, _, index = _NEXTHOP.unpack_from(data, position)
        if length < _NEXTHOP.size:
            return
        if not flags & _DEAD:
            yield index
        position += (length + 3) & ~3


def nexthops(messages: Iterable[Message]) -> dict[int, tuple[int, ...]]:
    """Nexthop objects (ip-nexthop(8)): id to interface indices; groups resolved."""
    single: dict[int, tuple[int, ...]] = {}
    grouped: dict[int, list[int]] = {}
    for message in messages:
        given = attributes(message.body, 8)
        if message.type != _NEWNEXTHOP or 1 not in given:
            continue
        if 2 in given:
            members = given[2]
            grouped[number(given[1])] = [number(members[at : at + 4]) for at in range(0, len(members), 8)]
        else:
            single[number(given[1])] = (number(given.get(5, b"")),)
    groups = {name: tuple(index for one in ids for index in single.get(one, ())) for name, ids in grouped.items()}
    return {**single, **groups}


def routes(
    messages: Iterable[Message], names: dict[int, str], groups: Optional[dict[int, tuple[int, ...]]] = None
) -> tuple[Route, ...]:
    """RTM_NEWROUTE messages; a multipath route is one Route a device. Dead ones and cached clones are left out."""
    found = []
    for message in messages:
        if message.type != _NEWROUTE or len(message.body) < _ROUTE.size:
            continue
        kinds = _ROUTE.unpack_from(message.body)
        family, length, table, kind, flags = _FAMILIES.get(kinds[0]), kinds[1], kinds[4], kinds[7], kinds[8]
        if family is None or flags & (_DEAD | _CLONED):
            continue
        given = attributes(message.body, _ROUTE.size)
        table = number(given[15]) if 15 in given else table
        metric = number(given.get(6, b""))
        destination = _network(family, given.get(1, b""), length)
        for index in _devices(given, groups or {}):
            device = names.get(index, "")
            found.append(Route(family, destination, device, _ROUTE_TYPES.get(kind, str(kind)), table, metric))
    return tuple(found)


def rules(messages: Iterable[Message]) -> tuple[RoutingRule, ...]:
    """RTM_NEWRULE messages, by family and priority. What a RoutingRule cannot say is named in `other`."""
    found = []
    for message in messages:
        if message.type != _NEWRULE or len(message.body) < _ROUTE.size:
            continue
        header = _ROUTE.unpack_from(message.body)
        family = _FAMILIES.get(header[0])
        if family is None:
            continue  # multicast routing has rules of its own
        _, to_length, from_length, tos, table, _, _, action, flags = header
        given = attributes(message.body, _ROUTE.size)
        name = _RULE_ACTIONS.get(action, str(action))
        mark = number(given.get(10, b""))
        rule = RoutingRule(
            family=family,
            priority=number(given.get(6, b"")),
            table=number(given[15]) if 15 in given else table,
            source=_network(family, given[2], from_length) if from_length else None,
            destination=_network(family, given[1], to_length) if to_length else None,
            iif=text(given.get(3, b"")),
            oif=text(given.get(17, b"")),
            mark=mark,
            mask=number(given.get(16, b"")) if 10 in given or 16 in given else 0,
            action=name,
            negated=bool(flags & _RULE_INVERTED),
            target=number(given.get(4, b"")),
            suppress=_suppress(given),
            other=_other(given, tos),
        )
        found.append(rule)
    return tuple(sorted(found, key=lambda rule: (rule.family.value, rule.priority)))


def _suppress(given: dict[int, bytes]) -> int:
    """FRA_SUPPRESS_PREFIXLEN: routes of at most this length are passed over; -1 where there is none."""
    value = number(given.get(14, b"\xff\xff\xff\xff"))
    return -1 if value == 0xFFFFFFFF else value


def _other(given: dict[int, bytes], tos: int) -> str:
    """Selectors that cannot be evaluated here. A range of users that holds root is none: sshd's sockets are root's."""
    said = [f"tos {tos}"] if tos else []
    if 20 in given:
        low, high = struct.unpack_from("=II", given[20])
        said += [f"uidrange {low}-{high}"] if low > 0 else []
    if number(given.get(22, b"\6")) != socket.IPPROTO_TCP:
        said.append(f"ipproto {number(given[22])}")
    for kind, name in ((23, "sport"), (24, "dport")):
        if kind in given:
            said.append("{} {}-{}".format(name, *struct.unpack_from("=HH", given[kind])))
    if number(given.get(19, b"\0")):
        said.append("l3mdev")
    return ", ".join(said)


def read_links() -> tuple[Hardware, ...]:
    """The links of this network namespace, without statistics. Raises HostError."""
    skip_statistics = struct.pack("=HHI", 8, 29, 8)  # IFLA_EXT_MASK: RTEXT_FILTER_SKIP_STATS
    return links(dump(socket.NETLINK_ROUTE, _GETLINK, _LINK.pack(0, 0, 0, 0, 0) + skip_statistics))


def collect(host: Host) -> Fact[Network]:
    """The network of this namespace."""
    try:
        everywhere = _all_rp_filter(host)
        hardware = read_links()
        by_index: dict[int, list[Address]] = {}
        for index, address in addresses(dump(socket.NETLINK_ROUTE, _GETADDR, _ADDRESS.pack(0, 0, 0, 0, 0))):
            by_index.setdefault(index, []).append(address)
        interfaces = tuple(
            one.interface._replace(
                addresses=tuple(by_index.get(one.interface.index, ())),
                rp_filter=max(one.interface.rp_filter, everywhere),
            )
            for one in hardware
        )
        names = {interface.index: interface.name for interface in interfaces}
        return Seen(Network(interfaces, _read_routes(names), _read_rules(), _tcp_options(host)), "rtnetlink")
    except HostError as error:
        return Unseen(f"network: {error}")


def _all_rp_filter(host: Host) -> int:
    try:
        content = host.read("/proc/sys/net/ipv4/conf/all/rp_filter").strip()
    except NotFound as error:
        raise NotFound("no network of a running kernel") from error
    return int(content) if content.isdigit() else 0


def _tcp_options(host: Host) -> tuple[int, ...]:
    return tuple(kind for kind, name in _TCP_OPTIONS.items() if _agrees(host, name))


def _agrees(host: Host, name: str) -> bool:
    try:
        return host.read(f"/proc/sys/net/ipv4/{name}").strip() != b"0"
    except NotFound:
        return True  # a container before Linux 4.15 does not see its host's


def _read_routes(names: dict[int, str]) -> tuple[Route, ...]:
    messages: list[Message] = []
    for family in _FAMILIES:
        messages += _if_any(_GETROUTE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
    return routes(messages, names, nexthops(_if_any(_GETNEXTHOP, struct.pack("=BBBBI", 0, 0, 0, 0, 0))))


def _read_rules() -> tuple[RoutingRule, ...]:
    messages: list[Message] = []
    for family in _FAMILIES:
        messages += _if_any(_GETRULE, _ROUTE.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
    return rules(messages)


def _if_any(kind: int, payload: bytes) -> list[Message]:
    """A kernel without IPv6, policy rules or nexthop objects has none of them."""
    try:
        return dump(socket.NETLINK_ROUTE, kind, payload)
    except NotFound:
        return []
