"""One packet of the handshake as the kernel's matches see it, from every source address at once.

A `Packet` is what all sources send alike; a `State` is what rules made of it so far; the remote address is left open,
and so is the remote port within `State.ports`. A match is answered for all sources together: True, False, None (may
match or not: nobody can know), the set of sources that match, or a `Split` (it hangs on the remote port).

What a packet does not have fails its match, negated or not (nft: NFT_BREAK; xt matches return false): a port of an
ICMP packet, a connection mark where there is no connection. An interface that is not there has the name "" and the
index 0, so a negated match succeeds (nft_meta.c).

Sources: net/netfilter/{nft_meta,nft_ct,nft_lookup,nft_dynset,xt_conntrack,xt_recent,xt_addrtype,xt_connmark}.c.
"""

from __future__ import annotations

from typing import Optional, Union

from ..plain import NamedTuple
from . import addresses
from .question import Link, Local
from .ruleset import (
    Bits,
    CopyMark,
    Element,
    Family,
    Field,
    IfName,
    Item,
    Learn,
    Limiter,
    Lookup,
    MapMark,
    Name,
    NoTrack,
    Ranges,
    Recent,
    Selector,
    SetMark,
    Test,
    Verdict,
)

INVALID, ESTABLISHED, RELATED, NEW, UNTRACKED = 1, 2, 4, 8, 64
_WITH_CONNECTION = (ESTABLISHED, RELATED, NEW)

_ALL_BITS = 0xFFFFFFFF

#: Limits whose use is counted, each of which may double what has to be walked; the others never run dry.
_MOST_LIMITS = 16


class Conn:
    """What conntrack knows of the connection between two packets: nothing, the SYN, both directions."""

    NONE, SYN, OPEN = 0, 1, 2


class State(NamedTuple):
    """What rules can change and later rules see. The first four are the packet's, the rest the connection's."""

    mark: int = 0  # -1: unknown; so for `ctmark`
    track: int = 0  # the bit of CTSTATE; 0: conntrack has not seen the packet yet
    inside: bool = False  # the packet carries the translated local address and port
    oif: str = ""
    conn: int = Conn.NONE
    ctmark: int = 0
    nat: Optional[tuple[int, int]] = None  # local address and port after DNAT or REDIRECT
    alias: int = -1  # whom SNAT on the way in makes this host take the client for; -1: nobody else
    aliased: bool = False  # the packet carries it
    ports: Ranges = ((1024, 65535),)  # of the remote end
    # What this connection's packets put into sets, and whether the limit that the element carries lets them go on.
    learned: frozenset[tuple[str, "Key", Optional[bool]]] = frozenset()
    recent: tuple[tuple[str, bool, int], ...] = ()  # xt_recent: list, of the remote end, hits
    spent: frozenset[tuple[object, int]] = frozenset()  # of limits: what this connection's packets have used of them
    turned: bool = False  # conntrack saw one of our packets first: to it, we are the client


class Packet(NamedTuple):
    name: str
    stage: str
    outbound: bool
    protocol: int = 6
    flags: Optional[int] = None
    icmp: Optional[int] = None
    code: int = 0  # of ICMP
    options: frozenset[int] = frozenset()
    agreed: frozenset[int] = frozenset()  # options that are there if this host agrees to them (Question.tcp_options)
    multicast: bool = False  # to the solicited-node group
    attached: bool = False  # an answer of the kernel that carries its cause's connection: RELATED from the start
    again: bool = False  # sent a second time: conntrack knows the connection, if it let the first one through
    looped: bool = False  # an answer to this host, in the remote end's name, over lo

    @property
    def inward(self) -> bool:
        """Whether it goes from the remote end's address to this host's."""
        return self.looped or not self.outbound


SYN = Packet("syn", "syn", False, flags=2, options=frozenset((2, 3, 4, 8)))
SYN_AGAIN = SYN._replace(again=True)
SYN_ACK = Packet("syn-ack", "reply", True, flags=18, options=frozenset((2,)), agreed=frozenset((3, 4, 8)))
ACK = Packet("ack", "ack", False, flags=16, agreed=frozenset((8,)))
BANNER = Packet("banner", "reply", True, flags=24, agreed=frozenset((8,)))
NO_LISTENER = Packet("rst", "reply", True, flags=20)
STRAY_RESET = Packet("rst", "reply", True, flags=4)
RESET = Packet("rst", "reply", True, flags=20, attached=True)
RESET_ACK = Packet("rst", "reply", True, flags=4, attached=True)
LOOPED_OUT = Packet("rst", "reply", True, flags=4, attached=True, looped=True)
LOOPED_IN = LOOPED_OUT._replace(outbound=False)
SOLICITATION_IN = Packet("neighbour-solicitation", "syn", False, protocol=58, icmp=135, multicast=True)
ADVERTISEMENT_IN = Packet("neighbour-advertisement", "syn", False, protocol=58, icmp=136)
SOLICITATION_OUT = Packet("neighbour-solicitation", "reply", True, protocol=58, icmp=135, multicast=True)
ADVERTISEMENT_OUT = Packet("neighbour-advertisement", "reply", True, protocol=58, icmp=136)


_CODES = {
    Family.IPV4: {
        "net-unreachable": 0, "no-route": 0, "host-unreachable": 1, "prot-unreachable": 2, "port-unreachable": 3,
        "net-prohibited": 9, "host-prohibited": 10, "admin-prohibited": 13,
    },
    Family.IPV6: {
        "no-route": 0, "admin-prohibited": 1, "addr-unreachable": 3, "host-unreachable": 3, "port-unreachable": 4,
        "policy-fail": 5, "reject-route": 6,
    },
}  # fmt: skip


def knows_error(how: str, family: Family) -> bool:
    return not how or how in _CODES[family]


def icmp_error(how: str, family: Family) -> Packet:
    """The ICMP error of `reject with HOW`, of `icmpx` as well (nft(8)); without a word it is port-unreachable."""
    code = _CODES[family][how or "port-unreachable"]
    v4 = family is Family.IPV4
    return Packet("icmp", "reply", True, protocol=1 if v4 else 58, icmp=3 if v4 else 1, code=code, attached=True)


class Split(NamedTuple):
    """The remote ports in `ports` may match differently from the others: look at both parts on their own."""

    ports: Ranges


Found = Union[bool, None, Ranges, Split]


class _Open(NamedTuple):
    """A value that is not one number."""

    name: str


REMOTE = _Open("the remote address")
PORTS = _Open("the remote port")
UNKNOWN = _Open("unknown")
OPTIONS = _Open("TCP options")

#: For values that follow from the remote address (its type, its route): each value with the addresses that have it.
Mapping = tuple[tuple[int, Ranges], ...]
Value = Union[int, _Open, Mapping, None]
Key = tuple[Union[int, str, _Open, Ranges], ...]

#: Outcome of an action: the state after it, for which sources (None: all), and whether the rule goes on (None: may).
Acted = tuple[State, Optional[Ranges], Optional[bool]]


class Scene:
    """What stays the same on the whole way: interface, local address and port, and what follows from the remote one."""

    def __init__(
        self,
        *,
        family: Family,
        link: Link,
        local: Local,
        port: int,
        indexes: dict[str, int],
        own: Ranges,
        types: Mapping,
        tcp_options: frozenset[int],
        free: bool,
    ) -> None:
        self.family = family
        self.link = link
        self.local = local
        self.port = port
        self.indexes = indexes
        self.own = own  # every address of the host in this family
        self.types = types
        self.tcp_options = tcp_options  # that this host agrees to
        self.free = free  # limiters and dynamic sets may go either way
        self.fib: Mapping = ()  # 1: the route back leaves by the interface; () = unknown
        self.limited = False  # a limiter, or something like one, was met
        self.limits: set[object] = set()  # those whose use is counted
        self.missing: set[tuple[str, str]] = set()
        self.table = ""  # label of the table that is being walked
        self.cache: dict[tuple[object, ...], tuple[Lookup, list[tuple[object, Union[bool, Ranges]]]]] = {}


def name_matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(pattern == name or pattern[-1:] == "*" and name.startswith(pattern[:-1]) for pattern in patterns)


def _mixed(target: int, clear: int, source: int, keep: int) -> int:
    """xt_connmark.c: the target's bits outside `clear`, xor the source's within `keep`."""
    if target < 0 and clear != _ALL_BITS or source < 0 and keep:
        return -1
    return (target & ~clear ^ source & keep) & _ALL_BITS


def _selected(selector: Selector, value: int) -> int:
    if selector.mask is not None:
        value &= selector.mask
    return (value ^ selector.xor) >> selector.shift


class View:
    """A packet in one state at one hook. `iif` and `oif` are names, "" where there is none."""

    def __init__(self, scene: Scene, packet: Packet, state: State, *, iif: str, oif: str) -> None:
        self.scene = scene
        self.packet = packet
        self.state = state
        self.iif = iif
        self.oif = oif
        self.values = self._values()

    def _values(self) -> dict[Field, Value]:
        scene, packet, state = self.scene, self.packet, self.state
        v4 = scene.family is Family.IPV4
        remote: Value = state.alias if state.aliased else REMOTE
        address, port = (state.nat if state.nat and state.inside else None) or (scene.local.address, scene.port)
        local: Value = address
        local_type: Value = 2
        if packet.multicast and not packet.outbound:
            local, local_type = 0xFF02 << 112 | 0x1FF000000 | address & 0xFFFFFF, 5
        values: dict[Field, Value] = {
            Field.L4PROTO: packet.protocol,
            Field.NFPROTO: 2 if v4 else 10,
            Field.MARK: UNKNOWN if state.mark < 0 else state.mark,
            Field.CTSTATE: state.track or INVALID,
            Field.CTNAT: self._natted(),
            Field.FRAGMENT: 0,
            Field.TCPOPTION: OPTIONS,
            Field.IIF: scene.indexes.get(self.iif, UNKNOWN) if self.iif else 0,
            Field.OIF: scene.indexes.get(self.oif, UNKNOWN) if self.oif else 0,
            Field.PKTTYPE: 2 if packet.multicast and not packet.outbound else 0,
            Field.DSCP: UNKNOWN,
            Field.TTL: 255 if packet.icmp in (135, 136) else UNKNOWN,
            Field.LENGTH: UNKNOWN,
        }
        if packet.inward:
            values.update({Field.SADDR: remote, Field.DADDR: local})
            values.update({Field.SADDR_TYPE: self._of_remote(scene.types), Field.DADDR_TYPE: local_type})
            values[Field.FIB_IIF] = UNKNOWN if packet.looped else self._of_remote(scene.fib)
        else:
            values.update({Field.SADDR: local, Field.DADDR: remote, Field.SADDR_TYPE: 2})
            values[Field.DADDR_TYPE] = self._of_remote(scene.types)
        if packet.protocol == 6:
            ports: tuple[Value, Value] = (PORTS, port) if packet.inward else (port, PORTS)
            values[Field.SPORT], values[Field.DPORT] = ports
            values[Field.TCPFLAGS] = packet.flags
        else:
            values[Field.ICMP_TYPE if packet.protocol == 1 else Field.ICMPV6_TYPE] = packet.icmp
            values[Field.ICMP_CODE] = packet.code
            # nft's `th dport` takes the bytes at a port's place for one, whatever the protocol.
            values[Field.SPORT] = values[Field.DPORT] = UNKNOWN
        if state.track in _WITH_CONNECTION:
            values.update(self._connection())
        return values

    def _of_remote(self, mapping: Mapping) -> Value:
        if not self.state.aliased or not mapping:
            return mapping or UNKNOWN
        return next(number for number, ranges in mapping if addresses.contains(ranges, self.state.alias))

    def _connection(self) -> dict[Field, Value]:
        scene, packet, state = self.scene, self.packet, self.state
        status = self._natted()
        if state.track == ESTABLISHED or state.track == RELATED and state.conn == Conn.OPEN:
            # SEEN_REPLY and CONFIRMED; the client's first ACK makes it ASSURED (nf_conntrack_proto_tcp.c).
            status |= 10 if packet.flags in (2, 18, 20) or packet.looped else 14
        local: tuple[Value, Value] = (scene.local.address, scene.port)
        source, destination = (local, (REMOTE, PORTS)) if state.turned else ((REMOTE, PORTS), local)
        return {
            Field.CTMARK: UNKNOWN if state.ctmark < 0 else state.ctmark,
            Field.CTSTATUS: status,
            Field.CTPROTO: 6,
            Field.CTDIR: int(packet.inward is state.turned),
            Field.CT_ORIG_SADDR: source[0],
            Field.CT_ORIG_DADDR: destination[0],
            Field.CT_ORIG_DPORT: destination[1],
            Field.CTEXPIRATION: UNKNOWN,
        }

    def _natted(self) -> int:
        """SNAT and DNAT, as bits of the connection's status; what changes nothing leaves none (nf_nat_core.c)."""
        state = self.state
        if not self.tracked:
            return 0
        translated = state.nat not in (None, (self.scene.local.address, self.scene.port))
        return (32 if translated else 0) | (16 if state.alias >= 0 else 0)

    @property
    def tracked(self) -> bool:
        return self.state.track in _WITH_CONNECTION

    # Matches

    def match(self, item: object) -> Found:
        if isinstance(item, Test):
            return self.test(item)
        if isinstance(item, Name):
            return name_matches(self.oif if item.output else self.iif, item.patterns) is not item.negated
        if isinstance(item, Lookup):
            return self._lookup(item)
        if isinstance(item, Bits):
            return self._bits(item)
        if isinstance(item, Limiter):
            self.scene.limited = True
            return None if self.scene.free else item.idle
        return None  # Unknown, Socket

    def test(self, item: Test) -> Found:
        selector = item.selector
        value = self.values.get(selector.field)
        if value is OPTIONS:
            packet = self.packet
            agreed = selector.key in packet.agreed and selector.key in self.scene.tcp_options
            value = int(agreed or selector.key in packet.options)
        if type(value) is int:
            if selector.mask is not None or selector.xor or selector.shift:
                value = _selected(selector, value)
            ranges = item.ranges
            if len(ranges) == 1:
                return (ranges[0][0] <= value <= ranges[0][1]) is not item.negated
            return addresses.contains(ranges, value) is not item.negated
        if value is None:
            return False
        return self._among(selector, value, ranges=item.ranges, negated=item.negated)

    def leading(self, items: tuple[Item, ...]) -> tuple[int, Optional[Ranges]]:
        """A rule's tests up to the first item that takes more: its place, and the sources that got there (None: all).

        () : nobody did. Most rules of most rulesets end here, so the plain tests are done on the spot.
        """
        get = self.values.get
        part: Optional[Ranges] = None
        place = 0
        for item in items:
            if type(item) is not Test:
                break
            selector, ranges, negated = item
            value = get(selector.field)
            if type(value) is int and selector.mask is None and len(ranges) == 1 and not selector.xor | selector.shift:
                low, high = ranges[0]
                if (low <= value <= high) is negated:
                    return place, ()
            elif value is REMOTE and selector.mask is None and not negated and not selector.xor | selector.shift:
                part = ranges if part is None else addresses.intersect(part, ranges)
            else:
                found = self.test(item)
                if found is None or isinstance(found, Split):
                    break
                if found is False or found == ():
                    return place, ()
                if found is not True:
                    part = found if part is None else addresses.intersect(part, found)
            place += 1
        return place, part

    def _among(self, selector: Selector, value: Value, *, ranges: Ranges, negated: bool) -> Found:
        """A test of a value that is not one number."""
        family = self.scene.family
        if value is REMOTE:
            found = addresses.preimage(selector, ranges, addresses.BITS[family])
            if found is None:
                return None
            return addresses.complement(found, family) if negated else found
        if value is PORTS:
            chosen = addresses.preimage(selector, ranges, 16)
            assert chosen is not None  # at most 65,536 ports
            return self._ports(chosen, negated)
        if value is UNKNOWN or isinstance(value, (_Open, int)) or value is None:
            return None
        passing = [
            part for number, part in value if addresses.contains(ranges, _selected(selector, number)) is not negated
        ]
        return addresses.normal(item for part in passing for item in part)

    def _ports(self, chosen: Ranges, negated: bool) -> Found:
        inside = addresses.intersect(self.state.ports, chosen)
        if not inside:
            return negated
        if inside == self.state.ports:
            return not negated
        return Split(inside)

    def _bits(self, item: Bits) -> Found:
        value = self.values.get(item.selector.field)
        if type(value) is int:
            return bool(_selected(item.selector, value) & item.mask) is item.any_set
        if value is None:
            return False
        plain = not item.selector.xor and not item.selector.shift
        if not plain:
            return None
        mask = item.mask if item.selector.mask is None else item.mask & item.selector.mask
        return self._among(Selector(item.selector.field, mask), value, ranges=((0, 0),), negated=item.any_set)

    # Sets

    def key(self, selectors: tuple[Union[Selector, IfName], ...]) -> Optional[Key]:
        """What this packet's key in a set is made of; None where a part is missing or unknown."""
        out: list[Union[int, str, _Open, Ranges]] = []
        for selector in selectors:
            if isinstance(selector, IfName):
                out.append(self.oif if selector.output else self.iif)
                continue
            value = self.values.get(selector.field)
            if type(value) is int:
                out.append(_selected(selector, value))
            elif value is PORTS:
                out.append(self.state.ports)
            elif value is REMOTE:
                out.append(REMOTE)
            else:
                return None
        return tuple(out)

    def _lookup(self, item: Lookup) -> Found:
        if any(isinstance(s, Selector) and self.values.get(s.field) is None for s in item.selectors):
            return False
        if item.dynamic:
            self.scene.limited = True
            if self.scene.free:
                return None
            key = self.key(item.selectors)
            for name, entry, passes in self.state.learned:
                if (name, entry) == (item.name, key):
                    return False if item.negated else passes
        found = self.elements(item)
        if found is None or isinstance(found, Split):
            return found
        if any(ranges is True for _, ranges in found):
            return not item.negated
        if not found:
            return item.negated
        parts = [part for _, part in found if not isinstance(part, bool)]
        ranges = parts[0] if len(parts) == 1 else addresses.normal(item for part in parts for item in part)
        return addresses.complement(ranges, self.scene.family) if item.negated else ranges

    def elements(self, item: Lookup) -> Union[list[tuple[object, Union[bool, Ranges]]], Split, None]:
        """For each datum (None in a plain set) the sources that find it (True: all); None: the contents are unknown."""
        if item.elements is None:
            if item.name:
                self.scene.missing.add((self.scene.table, item.name))
            return None
        values: list[Union[Value, str]] = []
        for selector in item.selectors:
            if isinstance(selector, IfName):
                values.append(self.oif if selector.output else self.iif)
                continue
            value = self.values.get(selector.field)
            if value is None:
                return []
            values.append(_selected(selector, value) if type(value) is int else value)
        split = self._cut(item, values)
        if split is not None:
            return split
        # The walk keeps every lookup alive, so its id names it.
        ports = self.state.ports if PORTS in values else ()
        cache_key = (id(item), ports, self.packet.inward, *(v for v in values if isinstance(v, (int, str))))
        known = self.scene.cache.get(cache_key)
        if known is None:
            found = self._search(item, values)
            if found is None:
                return None
            known = self.scene.cache[cache_key] = (item, found)
        return known[1]

    def _cut(self, item: Lookup, values: list[Union[Value, str]]) -> Optional[Split]:
        """Where an element holds a part of the remote ports only, that part."""
        for place, value in enumerate(values):
            if value is not PORTS:
                continue
            selector = item.selectors[place]
            assert isinstance(selector, Selector)
            for element in item.elements or ():
                chosen = addresses.preimage(selector, _ranges(element, place), 16) or ()
                inside = addresses.intersect(self.state.ports, chosen)
                if inside and inside != self.state.ports:
                    return Split(inside)
        return None

    def _search(
        self, item: Lookup, values: list[Union[Value, str]]
    ) -> Optional[list[tuple[object, Union[bool, Ranges]]]]:
        found: dict[object, list[tuple[int, int]]] = {}
        everyone: dict[object, bool] = {}
        for element in item.elements or ():
            ranges = self._element(item, element, values)
            if ranges is None:
                return None
            if ranges is True or ranges == addresses.SPACE[self.scene.family]:
                everyone.setdefault(element.data, True)
            elif not isinstance(ranges, bool):
                found.setdefault(element.data, []).extend(ranges)
        out: list[tuple[object, Union[bool, Ranges]]] = []
        left: Optional[Ranges] = None
        for data, parts in found.items():
            ranges = addresses.normal(parts)
            if len(found) + len(everyone) > 1:
                # Elements of a map do not overlap, but a catch-all element (last) takes what the others leave.
                left = addresses.SPACE[self.scene.family] if left is None else left
                ranges, left = addresses.intersect(left, ranges), addresses.subtract(left, ranges)
            out.append((data, ranges))
        for data in list(everyone)[:1]:
            out.append((data, True if left is None else left))
        return out

    def _element(self, item: Lookup, element: Element, values: list[Union[Value, str]]) -> Union[bool, Ranges, None]:
        """The sources for which the element is this packet's; None: cannot be told."""
        found: Union[bool, Ranges] = True
        unknown = False
        for place, value in enumerate(values):
            part = element.parts[place]
            if isinstance(value, str):
                if not name_matches(value, tuple(str(pattern) for pattern in part)):
                    return False
                continue
            ranges = _ranges(element, place)
            if type(value) is int:
                if not addresses.contains(ranges, value):
                    return False
                continue
            selector = item.selectors[place]
            assert isinstance(selector, Selector)
            got = self._among(selector, value, ranges=ranges, negated=False)
            if got is None or isinstance(got, Split):
                unknown = True
                continue
            if isinstance(got, bool):
                if not got:
                    return False
                continue
            found = got if found is True or isinstance(found, bool) else addresses.intersect(found, got)
        return None if unknown and found else found

    # Actions

    def act(self, item: object, place: tuple[int, ...]) -> Union[list[Acted], Split]:
        """What an action, at that place of the ruleset, makes of the packet; the sources that no part names leave the
        rule.
        """
        state = self.state
        if isinstance(item, SetMark):
            return self._set_mark(item)
        if isinstance(item, CopyMark):
            if not self.tracked:
                # Nothing to copy from ends the rule, nothing to copy to does not (nft_ct.c, xt_connmark.c).
                return [(state, None, True)] if item.to_ct else []
            if item.to_ct:
                return [(state._replace(ctmark=_mixed(state.ctmark, item.ctmask, state.mark, item.nfmask)), None, True)]
            return [(state._replace(mark=_mixed(state.mark, item.nfmask, state.ctmark, item.ctmask)), None, True)]
        if isinstance(item, MapMark):
            return self._map_mark(item)
        if isinstance(item, NoTrack):
            # Too late once conntrack has seen the packet (nft_notrack.c, xt_CT.c).
            return [(state if state.track else state._replace(track=UNTRACKED), None, True)]
        if isinstance(item, Learn):
            return self._learn(item)
        if isinstance(item, Limiter):
            return [self._spend(item, (item.name, item.each_way and self.packet.inward) if item.name else place)]
        assert isinstance(item, Recent)
        return self._recent(item)

    def _set_mark(self, item: SetMark) -> list[Acted]:
        state = self.state
        if item.ct and not self.tracked:
            return [(state, None, True)]
        old = state.ctmark if item.ct else state.mark
        if old < 0 and item.mask & _ALL_BITS != _ALL_BITS:
            new = -1
        else:
            new = (old & ~item.mask | item.value if item.or_mode else old & ~item.mask ^ item.value) & _ALL_BITS
        return [(state._replace(ctmark=new) if item.ct else state._replace(mark=new), None, True)]

    def _map_mark(self, item: MapMark) -> Union[list[Acted], Split]:
        state = self.state
        found = self.elements(item.lookup)
        if isinstance(found, Split):
            return found
        if found is None:
            new = state._replace(ctmark=-1) if item.ct else state._replace(mark=-1)
            return [(state if item.ct and not self.tracked else new, None, None)]
        out: list[Acted] = []
        for data, ranges in found:
            assert isinstance(data, int)
            if not item.ct:
                new = state._replace(mark=data)
            else:
                new = state._replace(ctmark=data) if self.tracked else state
            out.append((new, None if isinstance(ranges, bool) else ranges, True))
        return out

    def _learn(self, item: Learn) -> list[Acted]:
        state = self.state
        self.scene.limited = True
        key = self.key(item.selectors)
        if key is None:
            return [(state, None, None)]
        old = [entry for entry in state.learned if entry[:2] == (item.name, key)]
        if item.delete:
            return [(state._replace(learned=state.learned.difference(old)), None, True)]
        if old:
            # The element's limit is that of the rule that added it (nft_dynset_eval).
            return [(state, None, old[0][2])]
        goes_on: Optional[bool] = True
        for inner in item.inner:
            passes = self.match(inner)
            if passes is False:
                goes_on = False
                break
            if passes is None:
                goes_on = None
        return [(state._replace(learned=state.learned | {(item.name, key, goes_on)}), None, goes_on)]

    def _spend(self, item: Limiter, limit: object) -> Acted:
        """A limit's answer, and what is left of its burst."""
        state = self.state
        self.scene.limited = True
        if self.scene.free:
            return state, None, None
        if limit not in self.scene.limits and len(self.scene.limits) == _MOST_LIMITS:
            return state, None, item.idle
        self.scene.limits.add(limit)
        used = next((count for name, count in state.spent if name == limit), 0)
        if used == item.burst:
            return state, None, not item.idle
        spent = state.spent - {(limit, used)} | {(limit, used + 1)}
        return state._replace(spent=spent), None, item.idle

    def _recent(self, item: Recent) -> list[Acted]:
        """xt_recent.c, recent_mt: the entry's hits are those of this connection's own packets."""
        state = self.state
        self.scene.limited = True
        remote = item.by_source is self.packet.inward
        hits = {(name, end): count for name, end, count in state.recent}
        entry = (item.name, remote)
        count = hits.get(entry)
        if item.op == "set":
            found = True
            hits[entry] = (count or 0) + 1
        elif count is None:
            found = False
        elif item.op == "remove":
            found = True
            del hits[entry]
        else:
            found = count >= item.hitcount
            if item.op == "update" and found is not item.negated:
                hits[entry] = count + 1
        new = state._replace(recent=tuple(sorted((name, end, number) for (name, end), number in hits.items())))
        if self.scene.free and item.op != "set":
            return [(new, None, None)]
        return [(new, None, found is not item.negated)]


def _ranges(element: Element, place: int) -> Ranges:
    part = element.parts[place]
    return part  # type: ignore[return-value]  # the parsers put patterns only where the selector is an IfName


def map_verdicts(found: list[tuple[object, Union[bool, Ranges]]]) -> list[tuple[Verdict, Optional[Ranges]]]:
    """The verdicts of a verdict map with their sources (None: all)."""
    out = []
    for data, ranges in found:
        assert isinstance(data, Verdict)
        out.append((data, None if isinstance(ranges, bool) else ranges))
    return out
