"""What is asked of a ruleset, and what comes back: the types of `reach.analyse`.

The question is the *canonical SYN* of contracts.md, from every source address at once, to each local address on each
external interface. The answer says for every source what a client there lives through until sshd's banner.
"""

from __future__ import annotations

import enum
from typing import Optional

from ..plain import NamedTuple
from .ruleset import Backend, Family, Ranges


class Outcome(enum.Enum):
    """What a client lives through. UNCERTAIN is ours: more than one of the others is possible."""

    __hash__ = object.__hash__  # as of Family

    CONNECTED = "connected"
    TIMEOUT = "timeout"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    CLOSED = "closed"
    UNCERTAIN = "uncertain"


class Cause(enum.Enum):
    """What routing makes of a source, whatever the rules say."""

    __hash__ = object.__hash__  # as of Family

    MARTIAN = "martian"
    NO_WAY_BACK = "no way back"
    ELSEWHERE = "another way back"  # by an interface whose rules and neighbours may be other ones


class Local(NamedTuple):
    """An address of an interface, with its prefix length."""

    family: Family
    address: int
    prefix: int


class Link(NamedTuple):
    """An external interface. `bypass`: programs in its path that nobody can evaluate (XDP, tc, cgroup BPF, XFRM)."""

    name: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody wants of a Link
    addresses: tuple[Local, ...]
    rp_filter: int = 0  # 0 off, 1 strict, 2 loose
    bypass: tuple[str, ...] = ()


class Listening(NamedTuple):
    """A TCP listener; address 0 is any address. A v6 one on any address that is not `v6only` answers IPv4, too."""

    family: Family
    address: int
    port: int
    v6only: bool = False
    device: str = ""


class Route(NamedTuple):
    """A route: `kind` is unicast, local, broadcast, blackhole, unreachable, prohibit or throw (rtnetlink(7))."""

    family: Family
    destination: tuple[int, int]
    device: str
    kind: str = "unicast"
    table: int = 254
    metric: int = 0


class RoutingRule(NamedTuple):
    """A policy rule (ip-rule(8)). `source` and `destination` are None for all."""

    family: Family
    priority: int
    table: int
    source: Optional[tuple[int, int]] = None
    destination: Optional[tuple[int, int]] = None
    iif: str = ""
    oif: str = ""
    mark: int = 0
    mask: int = 0
    action: str = "table"  # table, blackhole, unreachable, prohibit, goto, nop
    negated: bool = False
    target: int = 0  # of goto: the priority to go on at
    suppress: int = -1  # suppress_prefixlength: routes of at most this length are passed over; -1: none
    other: str = ""  # selectors that are not modelled (tos, l3mdev, ...): whether it matches cannot be known


class Question(NamedTuple):
    """`unseen`: (interface, family, reason) of what cannot be asked about. `tcp_options`: of those that the SYN offers
    the ones that this host agrees to: window scale 3, SACK 4, timestamps 8 (tcp(7); by default all).
    """

    port: int
    links: tuple[Link, ...]
    listeners: tuple[Listening, ...]
    routes: tuple[Route, ...]
    rules: tuple[RoutingRule, ...] = ()
    local: tuple[Local, ...] = ()  # every address of the host, those of other interfaces and 127/8 and ::1 too
    unseen: tuple[tuple[str, Family, str], ...] = ()
    tcp_options: tuple[int, ...] = (3, 4, 8)


class Deciding(NamedTuple):
    """The part of the sources that one rule decided. `rule` None: a policy, or (with `table` None) no rule at all."""

    outcome: Outcome
    possible: tuple[Outcome, ...]
    rate_limited: bool
    sources: Ranges
    stage: str  # syn, reply, ack, socket, wrappers, route
    hook: str = ""
    priority: int = 0
    backend: Backend = Backend.KERNEL
    table: Optional[str] = None  # `ip filter`
    chain: Optional[str] = None
    rule: Optional[int] = None
    handle: Optional[int] = None
    text: str = ""
    cause: Optional[Cause] = None


class Neighbours(NamedTuple):
    """IPv6: whether neighbour discovery is blocked, and by what."""

    blocked: bool = False
    rules: tuple[Deciding, ...] = ()


class Answer(NamedTuple):
    """For one interface and family: the local addresses `to` that answer alike. `sources` cover the address space."""

    interface: str
    family: Family
    to: tuple[int, ...]
    port: int
    sources: tuple[tuple[Outcome, Ranges], ...]  # every Outcome once, in Outcome's order
    nd: Neighbours
    rules: tuple[Deciding, ...]

    def of(self, outcome: Outcome) -> Ranges:
        return dict(self.sources)[outcome]


class Reach(NamedTuple):
    answers: tuple[Answer, ...]
    unseen: tuple[tuple[str, Family, str], ...] = ()
    missing_sets: frozenset[tuple[str, str]] = frozenset()  # (table label, set) whose elements the path needs


class Visit(NamedTuple):
    """One rule that matched on the way of one source."""

    stage: str
    hook: str
    table: Optional[str]
    chain: Optional[str]
    rule: Optional[int]
    text: str
    verdict: str


class Trace(NamedTuple):
    """`reach --from`: one source to one local address."""

    address: int
    family: Family
    to: int
    interface: str
    port: int
    outcome: Outcome
    possible: tuple[Outcome, ...]
    rate_limited: bool
    path: tuple[Visit, ...]
