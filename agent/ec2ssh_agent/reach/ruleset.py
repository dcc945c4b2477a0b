"""What the parsers give to the walk: one model for iptables (legacy, nft) and nftables.

A rule is a sequence of items that the kernel runs from left to right: a *match* that fails ends the rule, an
*action* changes the packet (mark, notrack, ...), a *verdict* ends the rule. An iptables rule is its matches and
then its target; nftables mixes them freely (`meta mark set 1 tcp dport 22 accept`), so the model is nftables'.

Every value that a packet is compared with is an integer range: addresses, ports, marks, protocol numbers, flags.
Interface names are patterns. What no model can know (string, owner, u32, ...) is `Unknown`, with a reason.

Sources: nft(8), iptables-extensions(8), net/netfilter/nf_tables_core.c.
"""

from __future__ import annotations

import enum
from typing import Optional, Union

from ..plain import NamedTuple

#: Inclusive, sorted, disjoint, not touching.
Ranges = tuple[tuple[int, int], ...]


class Family(enum.Enum):
    __hash__ = object.__hash__  # members are singletons; Enum hashes their names in Python

    IPV4 = "ipv4"
    IPV6 = "ipv6"


class Backend(enum.Enum):
    LEGACY = "iptables-legacy"
    IPTABLES_NFT = "iptables-nft"
    NFTABLES = "nftables"
    WRAPPERS = "tcp-wrappers"
    KERNEL = "kernel"


class Field(enum.Enum):
    """What of the packet a match looks at; the value is an unsigned integer in host order."""

    __hash__ = object.__hash__  # members are singletons; Enum hashes their names in Python

    SADDR = "saddr"
    DADDR = "daddr"
    SPORT = "sport"
    DPORT = "dport"
    L4PROTO = "l4proto"
    NFPROTO = "nfproto"  # 2 = ipv4, 10 = ipv6
    MARK = "mark"
    CTMARK = "ctmark"
    CTSTATE = "ctstate"  # bits: INVALID 1, ESTABLISHED 2, RELATED 4, NEW 8, UNTRACKED 64 (nft's numbers)
    CTSTATUS = "ctstatus"  # bits: EXPECTED 1, SEEN_REPLY 2, ASSURED 4, CONFIRMED 8, SNAT 16, DNAT 32
    CTNAT = "ctnat"  # SNAT 16, DNAT 32 of CTSTATUS; 0 without a connection (xt_conntrack's --ctstate SNAT, DNAT)
    CTPROTO = "ctproto"  # of the connection: an ICMP error about one of TCP's has 6
    CTDIR = "ctdir"  # 0 original, 1 reply
    TCPFLAGS = "tcpflags"  # FIN 1 SYN 2 RST 4 PSH 8 ACK 16 URG 32 ECN 64 CWR 128
    TCPOPTION = "tcpoption"  # 1 if the option `key` is there, else 0
    ICMP_TYPE = "icmptype"
    ICMPV6_TYPE = "icmpv6type"
    ICMP_CODE = "icmpcode"  # of either version
    FRAGMENT = "fragment"  # 1 for a second or further fragment (never, for our packet)
    IIF = "iif"
    OIF = "oif"
    PKTTYPE = "pkttype"  # 0 unicast to us (host), 1 broadcast, 2 multicast
    SADDR_TYPE = "saddrtype"  # addrtype/fib type of the source: RTN_* numbers; UNICAST 1 LOCAL 2 BROADCAST 3 ...
    DADDR_TYPE = "daddrtype"
    CT_ORIG_SADDR = "ctorigsaddr"
    CT_ORIG_DADDR = "ctorigdaddr"
    CT_ORIG_DPORT = "ctorigdport"
    FIB_IIF = (
        "fibiif"  # 1 if the route back leaves by the interface it came in on, else 0 (rpfilter, fib saddr . iif oif)
    )
    DSCP = "dscp"
    TTL = "ttl"
    LENGTH = "length"
    CTEXPIRATION = "ctexpiration"


class Selector(NamedTuple):
    """`((field & mask) ^ xor) >> shift`; mask None: all bits. `key` is for TCPOPTION and the like."""

    field: Field
    mask: Optional[int] = None
    xor: int = 0
    shift: int = 0
    key: int = 0


class Test(NamedTuple):
    """The selected value lies in `ranges` (or, negated, does not)."""

    selector: Selector
    ranges: Ranges
    negated: bool = False


class Name(NamedTuple):
    """An interface name against patterns: exact, or a prefix where it ends in `*`.

    `oif` names the output interface: in PREROUTING and INPUT it is empty ("") and a positive match fails.
    """

    output: bool
    patterns: tuple[str, ...]
    negated: bool = False


class Bits(NamedTuple):
    """`selected & mask` compared as nft's flag matches do: any bit set, none set."""

    selector: Selector
    mask: int
    any_set: bool = True


class Element(NamedTuple):
    """One element of a set of tuples: for each part its ranges, or interface patterns."""

    parts: tuple[Union[Ranges, tuple[str, ...]], ...]
    data: Optional[Union[int, "Verdict"]] = None


class Lookup(NamedTuple):
    """Concatenated selectors in a set, or any of a set's elements that the caller has filled in.

    `elements` None: the contents of set `name` could not be read, or are not fetched yet (see `missing_sets`).
    `dynamic`: rules add to the set while packets pass (`Learn`).
    """

    selectors: tuple[Union[Selector, "IfName"], ...]
    elements: Optional[tuple[Element, ...]]
    negated: bool = False
    name: str = ""
    dynamic: bool = False


class IfName(NamedTuple):
    """The input (or output) interface's name as a part of a concatenation."""

    output: bool


class Limiter(NamedTuple):
    """A rate or count limiter, answered for an idle source: `idle` is what it gives for the first SYN.

    `burst` packets of a connection get that answer, the later ones the other; 0: all of them get the first one.
    """

    kind: str  # limit, hashlimit, connlimit, "ct count", meter, quota
    idle: bool
    burst: int = 0
    name: str = ""  # of a limit that several rules share
    each_way: bool = False  # replies have a limit of their own


class Recent(NamedTuple):
    """xt_recent: `op` one of set, rcheck, update, remove; `by_source` else by destination."""

    op: str
    name: str
    hitcount: int = 0
    by_source: bool = True
    negated: bool = False


class Socket(NamedTuple):
    """xt_socket / nft socket: nobody can tell from rules alone."""

    text: str


class Unknown(NamedTuple):
    """A match (or statement) whose result cannot be known, and why."""

    reason: str


class SetMark(NamedTuple):
    """`mark = (mark & ~mask) ^ value` (ct: the connection's). xt MARK --set-xmark and its kin reduce to this."""

    ct: bool
    mask: int
    value: int
    or_mode: bool = False  # mark = mark & ~mask | value  (set-mark), else xor


class CopyMark(NamedTuple):
    """CONNMARK save (to_ct) / restore, ctmask and nfmask as in xt_CONNMARK; nft `meta mark set ct mark`."""

    to_ct: bool
    ctmask: int = 0xFFFFFFFF
    nfmask: int = 0xFFFFFFFF


class MapMark(NamedTuple):
    """`meta mark set ip saddr map {...}`: no element, no match: the rule ends there (NFT_BREAK)."""

    ct: bool
    lookup: Lookup


class NoTrack(NamedTuple):
    pass


class Learn(NamedTuple):
    """nft `add @set { key [limiter] }`, xt SET --add-set: later lookups in `name` then match this packet's key."""

    name: str
    selectors: tuple[Union[Selector, IfName], ...]
    inner: tuple[Union[Limiter, Unknown], ...] = ()
    delete: bool = False


class Kind(enum.Enum):
    __hash__ = object.__hash__  # members are singletons; Enum hashes their names in Python

    ACCEPT = "accept"
    DROP = "drop"
    REJECT = "reject"
    JUMP = "jump"
    GOTO = "goto"
    RETURN = "return"
    CONTINUE = "continue"
    DNAT = "dnat"
    REDIRECT = "redirect"
    SNAT = "snat"  # masquerade too; harmless for the reply of a connection that came in
    QUEUE = "queue"  # NFQUEUE, userspace decides
    UNKNOWN = "unknown"  # a target that nobody knows: anything may happen


class Verdict(NamedTuple):
    kind: Kind
    target: str = ""  # chain for jump and goto
    reject: str = ""  # tcp-reset, port-unreachable, host-unreachable, ... as nft or iptables spells it
    to: Ranges = ()  # dnat: addresses; empty: unchanged
    ports: Ranges = ()  # dnat, redirect: ports; empty: unchanged
    reason: str = ""


class VerdictMap(NamedTuple):
    """`tcp dport vmap {...}`: no element: the rule goes on with the next item (continue)."""

    lookup: Lookup


Match = Union[Test, Name, Bits, Lookup, Limiter, Recent, Socket, Unknown]
Action = Union[SetMark, CopyMark, MapMark, NoTrack, Learn]
Item = Union[Match, Action, Verdict, VerdictMap]


class Rule(NamedTuple):
    items: tuple[Item, ...]
    text: str
    number: int  # from 1 within its chain
    handle: Optional[int] = None
    backend: Optional[Backend] = None  # where it differs from its chain's (xt rules in an nft table)


class Chain(NamedTuple):
    """A base chain has a hook, and a policy of accept or drop; `devices` for netdev and inet ingress."""

    name: str
    rules: tuple[Rule, ...]
    hook: str = ""  # ingress prerouting input output postrouting forward; "" = regular chain
    priority: int = 0
    type: str = "filter"  # filter, nat, route
    policy: Kind = Kind.ACCEPT
    devices: tuple[str, ...] = ()
    order: int = 0  # registration order among equals, where known


class Table(NamedTuple):
    family: str  # ip ip6 inet netdev bridge arp
    name: str
    backend: Backend
    chains: dict[str, Chain]

    @property
    def label(self) -> str:
        """`ip filter`, as contracts.md prints it."""
        return f"{self.family} {self.name}"


class Ruleset(NamedTuple):
    tables: tuple[Table, ...]
