"""A packet from every source at once through the base chains of a hook.

Theory. The walk is a collecting semantics: it carries `flows`, for every `State` that rules can make of the packet the
set of sources that may be in it. A match parts the sources into those that surely match, surely do not, and may. Those
that may go both ways, and the rule is noted as a doubt. A source is certain if all its ways end with one outcome, so
doubt that changes nothing stays harmless, and an outcome is never claimed that one way contradicts.

Verdicts (nf_tables_core.c, ip_tables.c, nf_nat_core.c): `accept` ends one base chain, the next one still judges; drop
and reject are final. `goto`, at the end of its target, returns from the chain it stands in: in a base chain that is
the policy. All base chains of all tables and backends at a hook run by priority. Among equals the order is the
kernel's affair (6.18 runs the last registered first, older ones the other way): both are walked where it can matter.
nat chains run at the hook's one NAT priority, whatever their own, and only for the first packet of a tracked
connection, until one of them translates it.

A kernel's rejection (RST or ICMP) passes OUTPUT and POSTROUTING itself, as RELATED; dropped there, the client sees
nothing. Those are collected (`rejections`) and walked once per leg.

Limits: chains nested deeper than 100, loops, more than 4,096 states or 2,000,000 rules visited in one
base chain are errors, not guesses.
Cost: a rule whose constants do not fit the packet costs a few comparisons; sources are touched only by rules that
decide, in chunks, so that the whole is near linear in rules.
"""

from __future__ import annotations

from typing import Optional, Union

from ..plain import NamedTuple
from . import addresses
from .hooks import ACTIONS, AnalysisError, Step, commutes, counts, steps_of
from .notes import Base, Key, Notes, Spot
from .packet import (
    ESTABLISHED,
    INVALID,
    NEW,
    RELATED,
    SYN_ACK,
    UNTRACKED,
    Conn,
    Packet,
    Scene,
    Split,
    State,
    View,
    knows_error,
    map_verdicts,
)
from .question import Outcome, Visit
from .ruleset import (
    Backend,
    Chain,
    CopyMark,
    Kind,
    Limiter,
    MapMark,
    NoTrack,
    Ranges,
    Rule,
    Ruleset,
    SetMark,
    Table,
    Test,
    Verdict,
    VerdictMap,
)
from .sources import Sources

_DEEPEST = 100
_MOST_STATES = 4096
_MOST_VISITS = 2_000_000
_MOST_PORTS = 64
_ENDS = frozenset((Kind.ACCEPT, Kind.DROP))
#: What may come of a packet that goes where nobody can look.
POSSIBLE = tuple(outcome for outcome in Outcome if outcome is not Outcome.UNCERTAIN)

Flows = dict[State, Sources]


# What a client sees of a rejection (measured, facts.md); all others are "no route to host" and its kin.
_RESET = "tcp-reset"
_REFUSING = ("", _RESET, "port-unreachable")


def rejected(how: str) -> Outcome:
    """What a client sees of `reject with HOW`, in nft's words, `icmpx` ones included."""
    return Outcome.REFUSED if how in _REFUSING else Outcome.UNREACHABLE


class Rejection(NamedTuple):
    """Sources that get an answer of the kernel's instead of a connection."""

    outcome: Outcome
    key: Key
    how: str  # nft's word for it
    state: State
    ranges: Ranges


class Lost(NamedTuple):
    """Sources of which a packet of the handshake is lost; it will be sent again."""

    key: Key
    state: State
    ranges: Ranges


class _Frame:
    """One chain being walked. `put`: sources in a new state, to be looked at from the next rule on."""

    __slots__ = ("base", "chain", "depth", "flows", "put", "returned")

    def __init__(self, base: Base, chain: Chain, *, flows: Flows, depth: int) -> None:
        self.base = base
        self.chain = chain
        self.depth = depth
        self.flows = flows
        self.put: list[tuple[State, Union[Sources, Ranges]]] = []
        self.returned: list[tuple[State, Ranges]] = []


class _Group:
    """Sources that got as far as some item of a rule: `part` of those in `flow` (None: all of it).

    Not `sure`: they may have matched, and stay in the flow as well. No `flow`: an action has taken the part out of it;
    what leaves the rule is then put down under `state`.
    """

    __slots__ = ("flow", "part", "state", "sure")

    def __init__(
        self, state: State, flow: Optional[Sources], part: Optional[Ranges] = None, *, sure: bool = True
    ) -> None:
        self.state = state
        self.flow = flow
        self.part = part
        self.sure = sure

    def only(self, ranges: Optional[Ranges]) -> _Group:
        part = self.part
        if ranges is not None:
            part = ranges if part is None else addresses.intersect(part, ranges)
        return _Group(self.state, self.flow, part, sure=self.sure)

    def all(self) -> Ranges:
        if self.flow is None:
            return self.part or ()
        return self.flow.all() if self.part is None else self.flow.overlap(self.part)


def copied(flows: Flows) -> Flows:
    return {state: Sources(sources.all()) for state, sources in flows.items()}


def merged(parts: list[tuple[State, Ranges]]) -> Flows:
    if len(parts) == 1:
        return {parts[0][0]: Sources(parts[0][1])}
    by_state: dict[State, list[tuple[int, int]]] = {}
    for state, ranges in parts:
        by_state.setdefault(state, []).extend(ranges)
    return {state: Sources(addresses.normal(ranges)) for state, ranges in by_state.items()}


class Walk:
    """Walks packets through hooks; what it finds is in `notes`, `rejections`, and, if wanted, `visits`."""

    def __init__(self, scene: Scene, ruleset: Ruleset, *, log: bool = False) -> None:
        self.scene = scene
        self.ruleset = ruleset
        self.notes = Notes()
        self.rejections: list[Rejection] = []
        self.lost: Optional[list[Lost]] = None  # None: what is lost is so for good
        self.visits: Optional[list[Visit]] = [] if log else None
        self.recording = True  # whether accepting rules are noted
        self._steps: dict[str, tuple[tuple[Step, ...], ...]] = {}
        self._commuting: dict[int, bool] = {}
        self._views: dict[State, View] = {}
        self._packet: Optional[Packet] = None
        self._hook = ""
        self._numbers = 0
        self._budget = _MOST_VISITS
        self._active: list[str] = []

    # Hooks

    def hook(self, hook: str, packet: Packet, flows: Flows) -> Flows:
        """The sources that pass a hook, by the state they leave it in."""
        groups = self._steps.get(hook)
        if groups is None:
            groups = steps_of(self.ruleset, hook, family=self.scene.family, device=self.scene.link.name)
            self._steps[hook] = groups
        self._packet, self._hook = packet, hook
        for group in groups:
            if not flows:
                break
            if sum(step.kind != "nat" or bool(step.bases) for step in group) > 1:
                flows = self._group(group, flows)
            else:
                for step in group:
                    flows = self._step(step, flows)
        return flows

    def _group(self, group: tuple[Step, ...], flows: Flows) -> Flows:
        """Steps of one priority, in either order where that can matter."""
        matters = any(step.kind != "chain" or not self._commutes(step.bases[0][0]) for step in group)
        before = copied(flows) if matters else {}
        forward = flows
        for step in group:
            forward = self._step(step, forward)
        if not matters:
            return forward
        self.notes.forked = True
        recording, log = self.recording, self.visits
        self.recording, self.visits = False, None
        backward = before
        for step in reversed(group):
            backward = self._step(step, backward)
        self.recording, self.visits = recording, log
        return merged([(s, f.all()) for flow in (forward, backward) for s, f in flow.items()])

    def _commutes(self, table: Table) -> bool:
        known = self._commuting.get(id(table))
        if known is None:
            known = self._commuting[id(table)] = commutes(table)
        return known

    def _step(self, step: Step, flows: Flows) -> Flows:
        if not flows:
            return flows
        if step.kind == "conntrack":
            return merged([(self._tracked(state), sources.all()) for state, sources in flows.items()])
        if step.kind == "nat":
            return self._nat(step, flows)
        return self._base(step.bases[0], flows)

    def _tracked(self, state: State) -> State:
        """What conntrack makes of the packet (nf_conntrack_in; tcp_conntracks of nf_conntrack_proto_tcp.c)."""
        packet = self._packet
        assert packet is not None
        if state.track:
            return state
        if packet.icmp in (135, 136):
            return state._replace(track=UNTRACKED)
        if packet.name == "icmp" or packet.attached:
            return state._replace(track=INVALID)  # the connection it is about is unknown
        if packet.name == "syn":
            if packet.again and state.conn == Conn.OPEN:
                return state._replace(track=ESTABLISHED)
            return state._replace(track=NEW, conn=Conn.SYN)
        if packet.name in ("syn-ack", "rst"):
            if state.conn == Conn.NONE:
                return state._replace(track=INVALID)
            return state._replace(track=ESTABLISHED, conn=Conn.OPEN)
        if state.conn == Conn.SYN and not packet.outbound:
            return state._replace(track=INVALID)  # an ACK before the SYN-ACK
        if state.conn == Conn.NONE:
            # Picked up in the middle (nf_conntrack_tcp_loose).
            return state._replace(track=NEW, conn=Conn.OPEN, turned=packet.outbound)
        return state._replace(track=ESTABLISHED)

    def _nat(self, step: Step, flows: Flows) -> Flows:
        done: list[tuple[State, Ranges]] = []
        fresh: Flows = {}
        for state, sources in flows.items():
            again = self._packet is not None and self._packet.again
            if state.track == NEW and step.bases and not again:
                fresh[state] = sources
            elif state.track in (ESTABLISHED, RELATED) or again and state.track == NEW:
                done.append((self._carrying(state), sources.all()))
            else:
                done.append((state, sources.all()))
        place = 0
        while fresh and place < len(step.bases):
            alike = [base for base in step.bases[place:] if base[1].priority == step.bases[place][1].priority]
            place += len(alike)
            fresh = self._translated(alike, fresh, done)
        if not done:
            return fresh
        return merged(done + [(state, sources.all()) for state, sources in fresh.items()])

    def _carrying(self, state: State) -> State:
        """What NAT makes of a further packet of a connection that it translates."""
        inside = {"prerouting": True, "postrouting": False}.get(self._hook, state.inside)
        aliased = {"input": True, "output": False}.get(self._hook, state.aliased)
        return state._replace(inside=inside if state.nat else state.inside, aliased=aliased and state.alias >= 0)

    def _translated(self, bases: list[tuple[Table, Chain]], fresh: Flows, done: list[tuple[State, Ranges]]) -> Flows:
        """NAT's chains of one priority, in either order where that can matter; `done` takes what one translates."""
        before = copied(fresh) if len(bases) > 1 else {}
        count = len(done)
        forward = self._by_chains(bases, fresh, done)
        if len(bases) == 1 or count == len(done) and set(forward) <= set(before):
            return forward
        recording, log = self.recording, self.visits
        self.recording, self.visits = False, None
        self.notes.forked = True
        backward = self._by_chains(bases[::-1], before, done)
        self.recording, self.visits = recording, log
        return merged([(s, f.all()) for flow in (forward, backward) for s, f in flow.items()])

    def _by_chains(self, bases: list[tuple[Table, Chain]], fresh: Flows, done: list[tuple[State, Ranges]]) -> Flows:
        for base in bases:
            before = {(state.nat, state.alias) for state in fresh}
            passed = self._base(base, fresh) if fresh else {}
            fresh = {}
            for state, sources in passed.items():
                if (state.nat, state.alias) in before:
                    fresh[state] = sources
                else:
                    done.append((state, sources.all()))
        return fresh

    # Chains

    def _base(self, pair: tuple[Table, Chain], flows: Flows) -> Flows:
        table, chain = pair
        packet = self._packet
        assert packet is not None
        self._numbers += 1
        base = Base(self._numbers, packet.stage, self._hook, table, chain)
        self.scene.table = table.label
        self._views = {}
        self._accepted: list[tuple[State, Ranges]] = []
        self._active = []
        self._budget = _MOST_VISITS
        try:
            left = self._chain(base, chain, flows, 0)
        except RecursionError as error:
            # Rules that part their sources many times on the way to each jump.
            raise AnalysisError(f"table {table.label}: chains are nested too deep") from error
        accepted = self._accepted
        if not left:
            return merged(accepted)
        key = (base.number, chain.name, 0)
        self.notes.spots[key] = Spot(base, chain.name)
        for state, sources in left.items():
            ranges = sources.all()
            self._visit(base, chain.name, rule=None, verdict="policy", ranges=ranges)
            if chain.policy is Kind.DROP:
                self.lose(key, state, ranges)
                continue
            if self.recording:
                self.notes.accept(key, ranges)
            accepted.append((state, ranges))
        return merged(accepted)

    def _chain(self, base: Base, chain: Chain, flows: Flows, depth: int) -> Flows:
        """The sources that come back from a chain: off its end, or by `return`."""
        if chain.name in self._active:
            raise AnalysisError(f"table {base.table.label}: chain {chain.name} is entered from itself")
        if depth > _DEEPEST:
            raise AnalysisError(f"table {base.table.label}: chains are nested deeper than {_DEEPEST}")
        self._budget -= len(chain.rules) + 10  # to enter a chain costs as much as ten rules
        if self._budget < 0:
            raise AnalysisError(f"table {base.table.label}: a packet may visit too many rules ({_MOST_VISITS})")
        self._active.append(chain.name)
        frame = _Frame(base, chain, flows=flows, depth=depth)
        viewed: Optional[State] = None
        view: Optional[View] = None
        for rule in chain.rules:
            items = rule.items
            for state, sources in tuple(flows.items()):
                if view is None or state is not viewed:
                    viewed, view = state, self._view(state)
                place, part = view.leading(items)
                if part == ():
                    continue
                item = items[place] if place < len(items) else None
                if isinstance(item, Verdict) and item.kind in _ENDS and self.visits is None:
                    # What _run would do with it; most rules of a long ruleset are such.
                    ranges = sources.drain() if part is None else sources.cut(part)
                    if ranges:
                        end = self._accept if item.kind is Kind.ACCEPT else self.lose
                        end(self._key(frame, rule), state, ranges)
                else:
                    self._run(frame, rule, _Group(state, sources, part), place)
                if not sources and flows.get(state) is sources:
                    del flows[state]
            if frame.put:
                self._settle(frame)
            if not flows:
                break
        self._active.pop()
        if not frame.returned:
            return flows
        return merged(frame.returned + [(state, sources.all()) for state, sources in flows.items()])

    def _settle(self, frame: _Frame) -> None:
        flows = frame.flows
        for state, sources in frame.put:
            if not sources:
                continue
            if state not in flows:
                flows[state] = sources if isinstance(sources, Sources) else Sources(sources)
            else:
                flows[state].add(sources.all() if isinstance(sources, Sources) else sources)
        frame.put = []
        if len(flows) > _MOST_STATES:
            raise AnalysisError(f"chain {frame.chain.name}: more than {_MOST_STATES} different marks and states")

    # Rules

    def _view(self, state: State) -> View:
        view = self._views.get(state)
        if view is None:
            packet = self._packet
            assert packet is not None
            device = "lo" if packet.looped else self.scene.link.name
            iif = "" if packet.outbound else device
            oif = (state.oif or device) if packet.outbound else ""
            view = self._views[state] = View(self.scene, packet, state, iif=iif, oif=oif)
        return view

    def _run(self, frame: _Frame, rule: Rule, group: _Group, start: int = 0) -> None:
        """The items of a rule from `start` on, for a group for which all before matched."""
        state = group.state
        view = self._view(state)
        items = rule.items
        for place in range(start, len(items)):
            item = items[place]
            kind = type(item)
            if kind is Verdict:
                assert isinstance(item, Verdict)
                if item.kind is Kind.CONTINUE:
                    continue
                return self._verdict(frame, rule, group, item)
            if kind is VerdictMap:
                return self._verdict_map(frame, rule, group, place)
            if kind in ACTIONS or isinstance(item, Limiter) and counts(item, items, place):
                acted = view.act(item, (id(frame.chain), rule.number, place))
                if isinstance(acted, list) and len(acted) == 1 and acted[0] == (state, None, True):
                    continue
                return self._act(frame, rule, group, place)
            found = view.test(item) if isinstance(item, Test) else view.match(item)
            if found is True:
                continue
            if found is False:
                return self._leave(frame, group)
            if found is None:
                self._may_leave(frame, rule, group)
                continue
            if isinstance(found, Split):
                return self._split(frame, rule, group, place, ports=found.ports)
            part = group.part
            chosen = found if part is None else addresses.intersect(part, found)
            if group.flow is None and part:
                frame.put.append((state, addresses.subtract(part, chosen)))
            if not chosen:
                return None
            group.part = chosen
        if self.visits is not None:
            self._visit(frame.base, frame.chain.name, rule=rule, verdict=_effect(rule), ranges=group.all())
        return self._leave(frame, group)

    @staticmethod
    def _leave(frame: _Frame, group: _Group) -> None:
        if group.flow is None and group.part:
            frame.put.append((group.state, group.part))

    def _may_leave(self, frame: _Frame, rule: Rule, group: _Group) -> None:
        if group.flow is None:
            self._leave(frame, group)
            self.notes.doubt(self._key(frame, rule), group.part or ())
        else:
            group.sure = False

    def _take(self, frame: _Frame, rule: Rule, group: _Group) -> Ranges:
        """The sources of the group, out of their flow if they surely matched."""
        if group.flow is not None and group.sure:
            return group.flow.drain() if group.part is None else group.flow.cut(group.part)
        ranges = group.all()
        if ranges and group.flow is not None:
            self.notes.doubt(self._key(frame, rule), ranges)
        return ranges

    def _key(self, frame: _Frame, rule: Rule) -> Key:
        key = (frame.base.number, frame.chain.name, rule.number)
        if key not in self.notes.spots:
            self.notes.spots[key] = Spot(frame.base, frame.chain.name, rule)
        return key

    def _visit(self, base: Base, chain: str, *, rule: Optional[Rule], verdict: str, ranges: Ranges) -> None:
        if self.visits is None or not ranges:
            return
        text = rule.text if rule is not None else policy_text(base)
        number = rule.number if rule is not None else None
        self.visits.append(Visit(base.stage, base.hook, base.table.label, chain, number, text, verdict))

    def _split(self, frame: _Frame, rule: Rule, group: _Group, place: int, *, ports: Ranges) -> None:
        """The remote ports in `ports` and the others go on as two states, from the same item."""
        ranges = self._take(frame, rule, group)
        self.notes.doubt(self._key(frame, rule), ranges)
        for chosen in (ports, addresses.subtract(group.state.ports, ports)):
            self._run(frame, rule, _Group(group.state._replace(ports=chosen), None, ranges), place)

    def _act(self, frame: _Frame, rule: Rule, group: _Group, place: int) -> None:
        state = group.state
        acted = self._view(state).act(rule.items[place], (id(frame.chain), rule.number, place))
        if isinstance(acted, Split):
            return self._split(frame, rule, group, place, ports=acted.ports)
        rest = group.part or ()
        for new, ranges, goes_on in acted:
            part = group.only(ranges)
            if part.flow is None:
                rest = addresses.subtract(rest, part.part or ())
            if new != state:
                part = _Group(new, None, self._take(frame, rule, part))
                if not part.part:
                    continue
            if goes_on is None:
                self._may_leave(frame, rule, part)
            if goes_on is False:
                self._leave(frame, part)
            else:
                self._run(frame, rule, part, place + 1)
        if group.flow is None:
            frame.put.append((state, rest))
        return None

    # Verdicts

    def _verdict_map(self, frame: _Frame, rule: Rule, group: _Group, place: int) -> None:
        item = rule.items[place]
        assert isinstance(item, VerdictMap)
        found = self._view(group.state).elements(item.lookup)
        if isinstance(found, Split):
            return self._split(frame, rule, group, place, ports=found.ports)
        if found is None:
            return self._verdict(frame, rule, group, Verdict(Kind.UNKNOWN))
        rest = group.part or ()
        for verdict, ranges in map_verdicts(found):
            part = group.only(ranges)
            if verdict.kind is Kind.CONTINUE or part.part == ():
                continue
            if part.flow is None:
                rest = addresses.subtract(rest, part.part or ())
            self._verdict(frame, rule, part, verdict)
        if group.flow is None:
            frame.put.append((group.state, rest))
        return None

    def _verdict(self, frame: _Frame, rule: Rule, group: _Group, verdict: Verdict) -> None:
        kind = verdict.kind
        if kind is Kind.JUMP or kind is Kind.GOTO:
            return self._jump(frame, rule, group, verdict)
        ranges = self._take(frame, rule, group)
        if not ranges:
            return None
        if self.visits is not None:
            self._visit(frame.base, frame.chain.name, rule=rule, verdict=_SHOWN.get(kind, "continue"), ranges=ranges)
        state = group.state
        if kind is Kind.RETURN:
            frame.returned.append((state, ranges))
            return None
        key = self._key(frame, rule)
        if kind is Kind.DROP:
            self.lose(key, state, ranges)
        elif kind is Kind.REJECT:
            self._reject(verdict, key, state=state, ranges=ranges)
        elif kind in (Kind.DNAT, Kind.REDIRECT):
            self._translate(verdict, key, state=state, ranges=ranges)
        elif kind is Kind.SNAT and self._hook == "input":
            self._disguise(verdict, key, state=state, ranges=ranges)
        else:
            self._accept(key, state, ranges)
            if kind in (Kind.QUEUE, Kind.UNKNOWN):
                self.notes.doubt(key, ranges)
                self.notes.end(Outcome.TIMEOUT, key, ranges)
            if kind is Kind.UNKNOWN:
                self.notes.end(Outcome.REFUSED, key, ranges)
                self.notes.end(Outcome.UNREACHABLE, key, ranges)
                frame.put.append((state, ranges))
        return None

    def lose(self, key: Key, state: State, ranges: Ranges) -> None:
        """The packet of these sources goes no further, and nobody is told."""
        if self.lost is None:
            self.notes.end(Outcome.TIMEOUT, key, ranges)
        else:
            self.lost.append(Lost(key, state, ranges))

    def _accept(self, key: Key, state: State, ranges: Ranges) -> None:
        self._accepted.append((state, ranges))
        if self.recording:
            self.notes.accept(key, ranges)

    def _jump(self, frame: _Frame, rule: Rule, group: _Group, verdict: Verdict) -> None:
        base, state, flow = frame.base, group.state, group.flow
        goto = verdict.kind is Kind.GOTO
        target = base.table.chains.get(verdict.target)
        if target is None:
            raise AnalysisError(f"table {base.table.label}: there is no chain {verdict.target[:60]}")
        ranges = group.all()
        if not ranges:
            return
        self._visit(base, frame.chain.name, rule=rule, verdict="goto" if goto else "jump", ranges=ranges)
        whole = flow is not None and group.part is None and group.sure
        if whole and frame.flows.get(state) is flow:
            # All of a flow goes: no need to copy it there and back.
            del frame.flows[state]
            assert flow is not None
            left = self._chain(base, target, {state: flow}, frame.depth + 1)
        else:
            left = self._chain(base, target, {state: Sources(ranges)}, frame.depth + 1)
            if flow is not None and not group.sure:
                self.notes.doubt(self._key(frame, rule), ranges)
            elif flow is not None and goto:
                flow.take(ranges)
            elif flow is not None:
                same = left.pop(state, None)
                flow.take(ranges if same is None else addresses.subtract(ranges, same.all()))
        if goto:
            frame.returned += [(new, sources.all()) for new, sources in left.items()]
        else:
            frame.put += left.items()

    def _reject(self, verdict: Verdict, key: Key, *, state: State, ranges: Ranges) -> None:
        packet, reset = self._packet, verdict.reject == _RESET
        assert packet is not None
        if not reset and not knows_error(verdict.reject, self.scene.family):
            self.notes.doubt(key, ranges)
            for possible in (Outcome.TIMEOUT, Outcome.REFUSED, Outcome.UNREACHABLE):
                self.notes.end(possible, key, ranges)
            return
        outcome = Outcome.TIMEOUT
        if packet.stage == "syn" or packet.looped and not reset:
            outcome = rejected(verdict.reject)
        elif packet.stage == "ack" and reset:
            outcome = Outcome.CLOSED
        loops = packet is SYN_ACK and reset
        if outcome is Outcome.TIMEOUT and not loops:
            self.lose(key, state, ranges)
        elif self._hook == "ingress":
            self.notes.end(outcome, key, ranges)
        else:
            self.rejections.append(Rejection(outcome, key, verdict.reject, state, ranges))

    def _translate(self, verdict: Verdict, key: Key, *, state: State, ranges: Ranges) -> None:
        """DNAT and REDIRECT of the SYN (nf_nat_core.c, nf_nat_redirect.c)."""
        scene, packet = self.scene, self._packet
        assert packet is not None
        if packet.outbound or packet.protocol != 6 or state.track != NEW:
            return self._accept(key, state, ranges)
        address, port = state.nat or (scene.local.address, scene.port)
        if verdict.kind is Kind.REDIRECT:
            address = next(a.address for a in scene.link.addresses if a.family is scene.family)
        elif verdict.to:
            address = verdict.to[0][0]
        single = len(verdict.to) < 2 and all(low == high for low, high in verdict.to)
        ports = tuple(p for low, high in verdict.ports for p in range(low, min(high, low + _MOST_PORTS) + 1))
        if not ports or addresses.contains(verdict.ports, port):
            ports = (port,)
        if not single or len(ports) > _MOST_PORTS or not addresses.contains(scene.own, address):
            self.notes.doubt(key, ranges)
            for outcome in POSSIBLE:
                self.notes.end(outcome, key, ranges)
            return None
        if len(ports) > 1:
            self.notes.doubt(key, ranges)
        for port in ports:
            self.notes.translated.setdefault((address, port), []).append((key, ranges))
            self._accept(key, state._replace(nat=(address, port), inside=True), ranges)
        return None

    def _disguise(self, verdict: Verdict, key: Key, *, state: State, ranges: Ranges) -> None:
        """SNAT of the SYN on its way to the socket, which then answers somebody else; OUTPUT's NAT turns that back."""
        (low, high), *more = verdict.to or ((-1, -1),)
        if state.track != NEW:
            self._accept(key, state, ranges)
        elif low < 0 or low != high or more or verdict.ports:
            self._accept(key, state, ranges)
            self.notes.doubt(key, ranges)
            self.notes.end(Outcome.TIMEOUT, key, ranges)
        else:
            self._accept(key, state._replace(alias=low, aliased=True), ranges)


_SHOWN = {
    Kind.ACCEPT: "accept",
    Kind.DROP: "drop",
    Kind.REJECT: "reject",
    Kind.RETURN: "return",
    Kind.DNAT: "dnat",
    Kind.REDIRECT: "redirect",
}


def _effect(rule: Rule) -> str:
    """What a rule without a verdict did, as the path shows it."""
    kinds = {type(item) for item in rule.items}
    if NoTrack in kinds:
        return "notrack"
    return "mark" if kinds & {SetMark, CopyMark, MapMark} else "continue"


def policy_text(base: Base) -> str:
    policy = "drop" if base.chain.policy is Kind.DROP else "accept"
    if base.table.backend is Backend.NFTABLES:
        return f"policy {policy}"
    return f"-P {base.chain.name} {policy.upper()}"
