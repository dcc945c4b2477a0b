"""The whole way of a connection: SYN in, socket, SYN-ACK out, ACK in, banner out, TCP wrappers; IPv6's neighbours.

What the kernel does at each leg is in facts.md ("What the kernel does with a SYN"). A reply that is dropped or rejected
leaves the client waiting; so does an ACK that never reaches the server, though connect(2) has succeeded by then. The
banner goes out as one more packet of the established connection.
"""

from __future__ import annotations

from typing import Optional

from . import addresses, route
from . import packet as packets
from .notes import Key, Notes, Spot
from .packet import Packet, Scene, State
from .question import Cause, Link, Local, Outcome, Question, Visit
from .ruleset import Backend, Family, Ranges, Ruleset
from .sources import Sources
from .walk import Flows, Lost, Rejection, Walk, copied, merged
from .wrappers import Decision

#: How often a packet is sent that may fare otherwise each time. The kernel goes on longer, with ever longer pauses.
_ATTEMPTS = 3
_LINK_LOCAL = (0xFE80 << 112, (0xFEC0 << 112) - 1)


def scene_of(question: Question, link: Link, local: Local, *, free: bool) -> Scene:
    family = local.family
    scene = Scene(
        family=family,
        link=link,
        local=local,
        port=question.port,
        indexes={"lo": 1, **{other.name: other.index for other in question.links}},
        own=route.own(question, family),
        types=route.types(question, family),
        tcp_options=frozenset(question.tcp_options),
        free=free,
    )
    scene.fib = route.fib(route.ways(question, link, local, 0), link)
    return scene


class Journey:
    """One run over the whole way to one local address; `free`: limiters may go either way."""

    def __init__(
        self,
        question: Question,
        ruleset: Ruleset,
        wrappers: Optional[dict[Family, tuple[Decision, ...]]],
        *,
        link: Link,
        local: Local,
        free: bool = False,
        log: bool = False,
    ) -> None:
        self.question = question
        self.link = link
        self.local = local
        self.scene = scene_of(question, link, local, free=free)
        self.walk = Walk(self.scene, ruleset, log=log)
        self.decisions = None if wrappers is None else wrappers.get(local.family, ())
        self._ways: dict[int, tuple[route.Way, ...]] = {}

    @property
    def notes(self) -> Notes:
        return self.walk.notes

    def run(self, sources: Ranges) -> None:
        walk = self.walk
        flows = self._opened(sources)
        visits, walk.visits, walk.recording = walk.visits, None, False
        flows = self._out(packets.BANNER, _next(flows, inside=True))
        walk.visits = visits
        for alias in sorted({state.alias for state in flows}):
            parts = [sources_.all() for state, sources_ in flows.items() if state.alias == alias]
            self._wrappers(addresses.normal(item for ranges in parts for item in ranges), alias)

    def _opened(self, sources: Ranges) -> Flows:
        """Until sshd has the client's ACK. What is lost on the way is sent again: the SYN, and the SYN-ACK for which no
        ACK came. It may fare otherwise then, for a set or limit knows of the first packet, or conntrack of the
        connection: a SYN whose SYN-ACK got lost on its way out is ESTABLISHED. Where it does not, what was lost first
        is what decided.
        """
        walk, notes = self.walk, self.notes
        syns: Flows = {State(): Sources(sources)}
        replies: Flows = {}
        known: set[State] = set()  # in which a SYN was sent, or (inside) a SYN-ACK
        passed: list[tuple[State, Ranges]] = []
        first: list[Lost] = []
        for attempt in range(_ATTEMPTS):
            visited, ended = len(walk.visits or ()), len(notes.ends)
            known |= set(syns)
            flows, unseen = self._arrived(syns, known)
            flows = self._socket(flows)
            self._answer_rejections(packets.RESET)
            flows = merged(_parts(flows) + _parts(replies))
            known |= set(flows)
            walk.lost = []
            flows = self._out(packets.SYN_ACK, flows)
            self._loop_resets()
            unanswered, walk.lost = unseen + walk.lost, []
            flows = self._delivered(self._in(packets.ACK, _next(flows)))
            unheard, walk.lost = walk.lost, None
            self._answer_rejections(packets.RESET_ACK)
            passed += _parts(flows)
            if attempt == 0:
                first, notes.silent = unanswered + unheard, []
            elif walk.visits and not flows and len(notes.ends) == ended:
                del walk.visits[visited:]  # nothing came of it
            syns, replies = self._again(unanswered, known, inside=False), self._again(unheard, known, inside=True)
            if not syns and not replies:
                break
        silent, notes.silent = notes.silent or [], None
        left = [*_parts(syns), *_parts(replies)]
        timeouts = Sources(addresses.normal([*silent, *(item for _, ranges in left for item in ranges)]))
        for each in first:
            notes.end(Outcome.TIMEOUT, each.key, timeouts.overlap(each.ranges))
        return merged(passed)

    def _again(self, lost: list[Lost], known: set[State], *, inside: bool) -> Flows:
        """What may fare otherwise when it is sent again; of the rest, the outcome is noted."""
        parts = []
        for each in lost:
            state = _fresh(each.state, inside=inside)
            if state.conn == packets.Conn.NONE or each.state.track == packets.NEW:
                state = _forgotten(state)
            if state in known:
                self.notes.end(Outcome.TIMEOUT, each.key, each.ranges)
            else:
                parts.append((state, each.ranges))
        return merged(parts)

    def _arrived(self, syns: Flows, known: set[State]) -> tuple[Flows, list[Lost]]:
        """The SYNs that get in, and of those that do not the ones of which a set or limit knows now."""
        walk = self.walk
        again = {state: syns.pop(state) for state in tuple(syns) if state.conn != packets.Conn.NONE}
        walk.lost = []
        flows = self._in(packets.SYN, syns)
        lost, walk.lost = walk.lost, None
        if again:
            flows = merged(_parts(flows) + _parts(self._in(packets.SYN_AGAIN, again)))
        remembered = []
        alike: dict[State, bool] = {}
        for each in lost:
            if each.state not in alike:
                alike[each.state] = _forgotten(_fresh(each.state, inside=False))._replace(ports=State().ports) in known
            if alike[each.state]:
                self.notes.end(Outcome.TIMEOUT, each.key, each.ranges)
            else:
                remembered.append(each)
        return flows, remembered

    # Legs

    def _in(self, packet: Packet, flows: Flows) -> Flows:
        walk = self.walk
        flows = walk.hook("ingress", packet, flows)
        flows = walk.hook("prerouting", packet, flows)
        flows = self._validated(flows, packet.stage)
        return walk.hook("input", packet, flows)

    def _out(self, packet: Packet, flows: Flows) -> Flows:
        flows = self._routed(flows, packet.stage, mark=0)
        flows = self.walk.hook("output", packet, flows)
        marked = {state: flows.pop(state) for state in tuple(flows) if state.mark or state.alias >= 0}
        if marked:
            # mangle OUTPUT changed the mark, or NAT the address: the kernel routes again (ip_route_me_harder).
            for state, sources in marked.items():
                flows = merged(_parts(flows) + _parts(self._routed({state: sources}, packet.stage, mark=state.mark)))
        flows = self.walk.hook("postrouting", packet, flows)
        return self._recognised(packet, self.walk.hook("egress", packet, flows))

    def _translated(self, state: State) -> bool:
        return state.nat is not None and state.nat != (self.local.address, self.question.port)

    def _recognised(self, packet: Packet, flows: Flows) -> Flows:
        """Without what the client cannot take for an answer: a reply that NAT has not turned back, being untracked."""
        for state in tuple(flows):
            if state.inside and self._translated(state) or state.aliased:
                key = self.notes.kernel(packet.stage, "an untracked reply leaves with its translated address or port")
                self._end(Outcome.TIMEOUT, key, flows.pop(state).all())
        return flows

    def _delivered(self, flows: Flows) -> Flows:
        """The ACKs that reach their socket. One that NAT has not translated as it did the SYN meets none: an RST ends
        the connection.
        """
        for state in tuple(flows):
            first = state.track == packets.NEW  # that conntrack sees of the connection
            misses = state.alias >= 0 and state.aliased is first
            if not misses and (not self._translated(state) or state.inside is not first):
                continue
            sources = flows.pop(state)
            text = "translated, as the SYN was not" if first else "not translated, as the SYN was"
            key = self.notes.kernel("ack", f"the ACK is {text}")
            self._tell(key, sources.all(), "reject")
            stray = Rejection(Outcome.CLOSED, key, "", state, sources.all())
            answered = state if first else state._replace(conn=packets.Conn.NONE, nat=None, alias=-1)
            self._sent(packets.STRAY_RESET, answered, [stray])
        return flows

    def _end(self, outcome: Outcome, key: Key, ranges: Ranges, *, verdict: str = "drop") -> None:
        """No rule ends the way of these sources."""
        self.notes.end(outcome, key, ranges)
        self._tell(key, ranges, verdict)

    def _tell(self, key: Key, ranges: Ranges, verdict: str) -> None:
        spot = self.notes.spots[key]
        if self.walk.visits is not None and ranges:
            self.walk.visits.append(Visit(spot.stage, "", spot.table, None, spot.line, spot.text, verdict))

    def _lose(self, flows: Flows, lost: Ranges, key: Key) -> None:
        for sources in flows.values():
            self._end(Outcome.TIMEOUT, key, sources.cut(lost))

    def _validated(self, flows: Flows, stage: str) -> Flows:
        """Sources that routing does not take in: martians, and those that rp_filter finds no way back to."""
        if stage != "syn":
            return flows  # these sources got in before
        flows = copied(flows)
        for text, ranges in route.martians(self.question, self.local.family):
            self._lose(flows, ranges, self.notes.kernel("route", text, Cause.MARTIAN))
        if self.local.family is Family.IPV4:
            if self.link.rp_filter:
                for way in self._back(0):
                    if way.device == "" or (
                        self.link.rp_filter == 1 and way.device != self.link.name and not way.doubt
                    ):
                        key = self.notes.kernel("route", f"rp_filter={self.link.rp_filter} on {self.link.name}")
                        self._lose(flows, way.ranges, key)
            loopback = {state for state in flows if state.nat and state.nat[0] >> 24 == 127}
            for state in loopback:
                key = self.notes.kernel("route", "martian destination: translated to loopback", Cause.MARTIAN)
                self._end(Outcome.TIMEOUT, key, flows.pop(state).all())
        return {state: sources for state, sources in flows.items() if sources}

    def _back(self, mark: int) -> tuple[route.Way, ...]:
        if mark not in self._ways:
            self._ways[mark] = route.ways(self.question, self.link, self.local, mark)
        return self._ways[mark]

    def _routed(self, flows: Flows, stage: str, *, mark: int) -> Flows:
        """Parts flows by the interface that their replies leave by."""
        notes, everywhere = self.notes, addresses.SPACE[self.local.family]
        out: list[tuple[State, Ranges]] = []
        for state, sources in flows.items():
            for way in self._back(mark):
                if state.aliased:
                    ranges = sources.all() if addresses.contains(way.ranges, state.alias) else ()
                else:
                    ranges = sources.all() if way.ranges == everywhere else sources.overlap(way.ranges)
                if not ranges:
                    continue
                if state.aliased and addresses.contains(self.scene.own, state.alias):
                    out.append((state._replace(oif="lo"), ranges))
                    continue
                if way.device == "" and not way.doubt:
                    self._end(Outcome.TIMEOUT, notes.kernel("route", "no route back", Cause.NO_WAY_BACK), ranges)
                    continue
                text = way.doubt or (f"the reply leaves by {way.device}" if way.device != self.link.name else "")
                if text:
                    key = notes.kernel("route", text, None if way.doubt else Cause.ELSEWHERE)
                    notes.doubt(key, ranges)
                    self._end(Outcome.TIMEOUT, key, ranges, verdict="continue")
                out.append((state._replace(oif=way.device or self.link.name), ranges))
        return merged(out)

    def _socket(self, flows: Flows) -> Flows:
        """Parts off the sources that meet no listener; the RST has to get out, too."""
        met: Flows = {}
        here = (self.local.address, self.question.port)
        for state, sources in flows.items():
            address, port = state.nat or here
            if self._listens(address, port):
                met[state] = sources
                continue
            key = self.notes.kernel("socket", f"nothing listens on port {port}")
            self._tell(key, sources.all(), "reject")
            # Where sshd itself would have answered, the rule that sent the client elsewhere is what decided.
            culprits = self.notes.translated.get((address, port), []) if self._listens(*here) else []
            left, refused = Sources(sources.all()), []
            for culprit, ranges in culprits:
                refused.append(Rejection(Outcome.REFUSED, culprit, "", state, left.cut(addresses.normal(ranges))))
            refused.append(Rejection(Outcome.REFUSED, key, "", state, left.all()))
            self._sent(packets.NO_LISTENER, state, [one for one in refused if one.ranges])
        return _next(met, inside=True)

    def _listens(self, address: int, port: int) -> bool:
        family = self.local.family
        mapped = address | 0xFFFF << 32
        for listener in self.question.listeners:
            if listener.port != port or listener.device not in ("", self.link.name):
                continue
            if listener.family is family and listener.address in (0, address):
                return True
            dual = family is Family.IPV4 and listener.family is Family.IPV6 and not listener.v6only
            if dual and listener.address in (0, mapped):
                return True
        return False

    # The kernel's own answers

    def _answer_rejections(self, reset: Packet) -> None:
        """Walks the rejections of the last leg out; those that get lost leave the client waiting."""
        rejections, self.walk.rejections = self.walk.rejections, []
        groups: dict[tuple[str, State], list[Rejection]] = {}
        for rejection in rejections:
            groups.setdefault((rejection.how, rejection.state), []).append(rejection)
        for (how, state), members in groups.items():
            self._sent(reset if how == "tcp-reset" else packets.icmp_error(how, self.local.family), state, members)

    def _loop_resets(self) -> None:
        """The RSTs of SYN-ACKs that were rejected. They go to this host, in the client's name: rejected on their way,
        they send the client an ICMP error about its connection.
        """
        rejections, self.walk.rejections = self.walk.rejections, []
        for rejection in rejections:
            state = rejection.state._replace(mark=0, track=_related(rejection.state), oif="")
            flows: Flows = {state: Sources(rejection.ranges)}
            recording, self.walk.recording = self.walk.recording, False
            for packet, hooks in (
                (packets.LOOPED_OUT, ("output", "postrouting")),
                (packets.LOOPED_IN, ("prerouting", "input")),
            ):
                for hook in hooks:
                    flows = self.walk.hook(hook, packet, flows)
            self.walk.recording = recording
            for looped, sources in flows.items():
                self.walk.lose(rejection.key, looped, sources.all())
        self._answer_rejections(packets.RESET)

    def _sent(self, packet: Packet, state: State, members: list[Rejection]) -> None:
        ranges = addresses.normal(item for member in members for item in member.ranges)
        start = state._replace(mark=0, track=_related(state) if packet.attached else 0)
        walk = self.walk
        (recording, walk.recording), (lost, walk.lost) = (walk.recording, False), (walk.lost, None)
        passed = self._out(packet, {start: Sources(ranges)})
        walk.recording, walk.lost = recording, lost
        survivors = Sources(addresses.normal(item for sources in passed.values() for item in sources.all()))
        for member in members:
            self.notes.end(member.outcome, member.key, survivors.overlap(member.ranges))

    # After the handshake

    def _wrappers(self, ranges: Ranges, alias: int) -> None:
        """`alias`: the address that all of them seem to have; -1: their own."""
        connected = self.notes.kernel("socket", f"sshd answers on port {self.question.port}")
        if self.decisions is None:
            self.notes.end(Outcome.CONNECTED, connected, ranges)
            return
        left = Sources(ranges)
        for decision in self.decisions:
            if alias < 0:
                part = left.overlap(decision.sources)
            else:
                part = left.all() if addresses.contains(decision.sources, alias) else ()
            if not part:
                continue
            left.take(part)
            key = (-2, decision.file, decision.line)
            self.notes.spots.setdefault(
                key,
                Spot(
                    None,
                    stage="wrappers",
                    text=decision.text or "no line of hosts.allow or hosts.deny matches",
                    backend=Backend.WRAPPERS,
                    table=decision.file or None,
                    line=decision.line or None,
                ),
            )
            self._tell(key, part, {True: "accept", False: "reject", None: "continue"}[decision.granted])
            if decision.granted is not True:
                self.notes.end(Outcome.CLOSED, key, part)
            if decision.granted is None:
                self.notes.doubt(key, part)
            if decision.granted is not False:
                self.notes.end(Outcome.CONNECTED, connected, part)
                if decision.file:
                    self.notes.accept(key, part)
        self.notes.end(Outcome.CONNECTED, connected, left.all())


def _parts(flows: Flows) -> list[tuple[State, Ranges]]:
    return [(state, sources.all()) for state, sources in flows.items()]


def _related(state: State) -> int:
    """How conntrack sees the kernel's answer to a packet in that state; 0: not at all, before its hook."""
    return packets.RELATED if state.track in (packets.NEW, packets.ESTABLISHED, packets.RELATED) else 0


def _next(flows: Flows, *, inside: bool = False) -> Flows:
    """The connection's next packet: with no mark, not seen by conntrack; from the socket, with its own address."""
    return merged([(_fresh(state, inside=inside), sources.all()) for state, sources in flows.items()])


def _forgotten(state: State) -> State:
    """What conntrack learns of a connection's first packet goes with that packet; what sets and limits learn stays."""
    return State(inside=state.inside, ports=state.ports, learned=state.learned, recent=state.recent, spent=state.spent)


def _fresh(state: State, *, inside: bool) -> State:
    return state._replace(mark=0, track=0, inside=inside, aliased=inside and state.alias >= 0, oif="")


def neighbours(journey: Journey) -> list[Walk]:
    """IPv6: the walks of those of the four packets of neighbour discovery that surely get lost."""
    blocked: list[Walk] = []
    link, local = journey.link, journey.local
    on_link = addresses.normal(
        [
            _LINK_LOCAL,
            *(
                addresses.prefix_range(a.family, a.address, a.prefix)
                for a in link.addresses
                if a.family is local.family
            ),
        ]
    )
    group = ((0xFF02 << 112 | 0x1FF000000, 0xFF02 << 112 | 0x1FFFFFFFF),)
    for packet in (
        packets.SOLICITATION_IN,
        packets.ADVERTISEMENT_OUT,
        packets.SOLICITATION_OUT,
        packets.ADVERTISEMENT_IN,
    ):
        walk = Walk(journey.scene, journey.walk.ruleset)
        others = addresses.subtract(on_link, journey.scene.own)
        flows: Flows = {State(): Sources(group if packet is packets.SOLICITATION_OUT else others)}
        hooks = ("output", "postrouting", "egress") if packet.outbound else ("ingress", "prerouting", "input")
        for hook in hooks:
            flows = walk.hook(hook, packet, flows)
        if not flows:
            blocked.append(walk)
    return blocked
