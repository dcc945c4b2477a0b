"""Facts and the reachability analysis to findings: what is wrong, what a client sees of it, and who ought to get in.

Pure. A fact that is Unseen never counts as healthy and is never a ground for a repair: it makes the health `unknown`
unless something seen is worse. The order of the findings is the order of the repairs: sshd, firewall, wrappers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Optional

from .assessment import Assessment, Gap
from .config import Config
from .facts import Banner, Facts, Sshd, UnitState, intruders
from .model import Fact, Finding, Health, Seen, Severity, Symptom, T
from .plain import NamedTuple
from .reach import addresses, wrappers
from .reach.question import Answer, Cause, Deciding, Outcome, Reach
from .reach.ruleset import Backend, Family, Ranges

Baseline = Mapping[tuple[str, Family], Ranges]

#: Chains and tables in which others keep their bans: who is banned stays banned, and is no loss.
BANS = ("f2b-", "fail2ban", "sshguard", "crowdsec", "CROWDSEC")
FIREWALL = frozenset({Backend.LEGACY, Backend.IPTABLES_NFT, Backend.NFTABLES})
_SYMPTOMS = {
    Outcome.TIMEOUT: Symptom.TIMEOUT,
    Outcome.REFUSED: Symptom.REFUSED,
    Outcome.UNREACHABLE: Symptom.UNREACHABLE,
    Outcome.CLOSED: Symptom.CLOSED,
}
_FIREWALL_IDS = {
    Outcome.TIMEOUT: "firewall-drop",
    Outcome.REFUSED: "firewall-reject",
    Outcome.UNREACHABLE: "firewall-unreachable",
    Outcome.CLOSED: "firewall-closed",
}
_FIREWALL_STEP = "step 1: firewall"
_SSHD_STEP = "step 2: sshd runs and listens"
_WRAPPERS_STEP = "step 3: TCP wrappers"
_LATE = 2.0
_FULL_BYTES = 1 << 20


def seen(fact: Fact[T]) -> Optional[T]:
    """The value, or None where it was not seen."""
    return fact.value if isinstance(fact, Seen) else None


def diagnose(facts: Facts, reach: Reach, config: Config, *, baseline: Baseline) -> Assessment:
    """What is wrong. `reach` is the analysis of these facts; `baseline` who got in while SSH was healthy."""
    gaps = tuple(_gaps(reach, config, baseline))
    findings = (
        *_sshd(facts, reach, gaps),
        *_closed_ways(gaps),
        *_no_routes(reach, gaps, config),
        *_reach_notes(facts, reach, config, baseline=baseline),
        *(_at_rest(facts) if facts.at_rest else ()),
        *_machine(facts),
    )
    hidden = unseen(facts, reach, config)
    health = _health(findings, hidden)
    return Assessment(health, findings, reach, gaps, _summary(health, findings, hidden, reach))


# -- who ought to get in, and does not


def admitted(answer: Answer) -> Ranges:
    """Who gets in, or may: what may be open is never taken for shut."""
    found = answer.of(Outcome.CONNECTED)
    for rule in answer.rules:
        if rule.outcome is Outcome.UNCERTAIN and Outcome.CONNECTED in rule.possible:
            found = addresses.union(found, rule.sources)
    return found


def possible(answer: Answer) -> Ranges:
    """The sources that could get in if no rule stood in the way: all but martians and the like."""
    unroutable: Ranges = ()
    for rule in answer.rules:
        if rule.stage == "route" and rule.outcome is not Outcome.UNCERTAIN:
            unroutable = addresses.union(unroutable, rule.sources)
    return addresses.subtract(addresses.SPACE[answer.family], unroutable)


def blockers(answer: Answer, wanted: Ranges, backends: frozenset[Backend]) -> tuple[Deciding, ...]:
    """The rules of these backends that surely keep some of `wanted` out."""
    return tuple(
        rule
        for rule in answer.rules
        if rule.table is not None
        and rule.backend in backends
        and shut(rule)
        and addresses.intersect(rule.sources, wanted)
    )


def banned(rule: Deciding) -> bool:
    """Whether the rule is a ban of fail2ban's or the like."""
    return (rule.chain or "").startswith(BANS) or (rule.table or "").partition(" ")[2].startswith(BANS)


def shut(rule: Deciding) -> bool:
    """Whether nobody of its sources gets in, even where it is uncertain how they are refused."""
    return rule.outcome in _SYMPTOMS or rule.outcome is Outcome.UNCERTAIN and Outcome.CONNECTED not in rule.possible


class _Way(NamedTuple):
    """A way in: an interface and family, with the answers of its ports and addresses. One of them is enough."""

    interface: str
    family: Family
    answers: tuple[Answer, ...]

    @property
    def admitted(self) -> Ranges:
        return _union(admitted(answer) for answer in self.answers)

    @property
    def possible(self) -> Ranges:
        return _union(possible(answer) for answer in self.answers)


def _union(parts: Iterable[Ranges]) -> Ranges:
    return addresses.normal(span for ranges in parts for span in ranges)


def _ways(reach: Reach) -> tuple[_Way, ...]:
    found: dict[tuple[str, Family], list[Answer]] = {}
    for answer in reach.answers:
        found.setdefault((answer.interface, answer.family), []).append(answer)
    return tuple(_Way(*key, tuple(answers)) for key, answers in found.items())


def _gaps(reach: Reach, config: Config, baseline: Baseline) -> Iterator[Gap]:
    ways = _ways(reach)
    # That of interfaces which are gone (another type of instance calls them otherwise) proves nothing of these.
    proven = bool(config.expect_clients) or any(baseline.get(way[:2]) for way in ways)
    anybody = any(way.admitted for way in ways)
    for way in ways:
        if config.expect_clients:
            expected = addresses.normal(span for family, span in config.expect_clients if family is way.family)
            wanted = addresses.subtract(addresses.intersect(expected, way.possible), way.admitted)
        elif proven:
            wanted = () if way.admitted else baseline.get(way[:2], ())
        else:
            wanted = () if anybody else way.possible
        if wanted:
            port = _best_port(way)
            walls = tuple(w for a in way.answers if a.port == port for w in blockers(a, wanted, _ALL))
            yield Gap(way.interface, way.family, port, wanted, tuple(dict.fromkeys(walls)), proven)


_ALL = FIREWALL | {Backend.WRAPPERS, Backend.KERNEL}


def _best_port(way: _Way) -> int:
    """The first on which sshd listens where clients come in; else the first."""
    return min(way.answers, key=_deaf).port


def _deaf(answer: Answer) -> bool:
    """Nobody listens where this answer's packets arrive."""
    return any(rule.stage == "socket" and rule.outcome is Outcome.REFUSED for rule in answer.rules)


def _closed_ways(gaps: tuple[Gap, ...]) -> Iterator[Finding]:
    seen_faults = set()
    for gap in gaps:
        walls = tuple(rule for rule in gap.blockers if rule.backend in FIREWALL)
        if walls and (gap.interface, gap.family) not in seen_faults:
            seen_faults.add((gap.interface, gap.family))
            yield _firewall(gap, walls)
    denied = [gap for gap in gaps if any(rule.backend is Backend.WRAPPERS for rule in gap.blockers)]
    if denied:
        rules = tuple(rule for gap in denied for rule in gap.blockers if rule.backend is Backend.WRAPPERS)
        yield Finding(
            "wrappers-deny",
            Severity.CRITICAL,
            Symptom.CLOSED,
            "TCP wrappers refuse the clients: the connection opens, and is closed after five seconds without a banner",
            tuple(dict.fromkeys(f"{rule.table} line {rule.rule}: {rule.text}" for rule in rules)),
            _WRAPPERS_STEP,
        )


def _no_routes(reach: Reach, gaps: tuple[Gap, ...], config: Config) -> Iterator[Finding]:
    """Clients whose packets the kernel does not take in, or has no way to answer: no rule would mend that."""
    ways = _ways(reach)
    asked = {family: _union([(span,) for f, span in config.expect_clients if f is family]) for family in Family}
    asked = asked if config.expect_clients else addresses.SPACE
    nobody = not gaps and not any(addresses.intersect(asked[way.family], way.admitted) for way in ways)
    if not nobody and not config.expect_clients:
        return  # who was never seen is not missed
    for way in ways:
        lost = [r for a in way.answers for r in a.rules if r.stage == "route" and r.outcome is not Outcome.UNCERTAIN]
        lost = [r for r in lost if r.cause is Cause.NO_WAY_BACK or nobody and r.cause is not Cause.MARTIAN]
        missed = addresses.subtract(_union(r.sources for r in lost), way.admitted)
        if addresses.intersect(missed, asked[way.family]):
            yield Finding(
                "no-route",
                Severity.CRITICAL if nobody else Severity.WARNING,
                Symptom.TIMEOUT,
                f"no route leads back to {'any client' if nobody else 'some clients'}"
                f" on {way.interface} ({way.family.value})",
                tuple(dict.fromkeys(rule.text for rule in lost)),
                subject=f"{way.interface}/{way.family.value}",
            )


def _firewall(gap: Gap, walls: tuple[Deciding, ...]) -> Finding:
    kept_out = [(rule, _count(addresses.intersect(rule.sources, gap.wanted))) for rule in walls]
    weight = {o: sum(count for rule, count in kept_out if o in rule.possible) for o in _SYMPTOMS}
    outcome = max(weight, key=lambda item: weight[item])
    direction = "answers to" if all(rule.stage == "reply" for rule in walls) else "connections from"
    verb = {Outcome.TIMEOUT: "drops", Outcome.CLOSED: "cuts"}.get(outcome, "rejects")
    return Finding(
        _FIREWALL_IDS[outcome],
        Severity.CRITICAL,
        _SYMPTOMS[outcome],
        f"the firewall {verb} {direction} the clients to port {gap.port} on {gap.interface} ({gap.family.value})",
        tuple(dict.fromkeys(_rule_text(rule) for rule in walls)),
        _FIREWALL_STEP,
        subject=f"{gap.interface}/{gap.family.value}",
    )


def _count(ranges: Ranges) -> int:
    return sum(high - low + 1 for low, high in ranges)


def _rule_text(rule: Deciding) -> str:
    place = " ".join(word for word in (rule.table, rule.chain, f"rule {rule.rule}" if rule.rule else "") if word)
    return f"{rule.backend.value}: {place}: {rule.text}" if place else f"{rule.backend.value}: {rule.text}"


# -- sshd


class _Look(NamedTuple):
    """What the facts say of sshd, taken together."""

    sshd: Sshd
    unit: Optional[UnitState]
    socket: Optional[UnitState]
    listening: bool  # somebody listens on the port, on whatever address
    known: bool  # the listeners were seen
    broken: str  # what `sshd -t` complains of, or ""


#: What `sshd -t` says of the privilege separation directory (OpenSSH's sshd.c); the directory.
PRIVSEP = re.compile(
    r"[Mm]issing privilege separation directory: (/[^\s;]+)|"
    r"(/\S+) must be owned by root and not group or world-writable"
)


def _look(sshd: Sshd) -> _Look:
    listeners, ports, test = seen(sshd.listeners), seen(sshd.port), seen(sshd.test)
    listening = any(item.port in (ports or (22,)) for item in listeners or ())
    return _Look(
        sshd,
        seen(sshd.unit),
        seen(sshd.socket_unit),
        listening,
        listeners is not None,
        "" if test is None or test.good else test.complaint or "sshd -t fails",
    )


def _sshd(facts: Facts, reach: Reach, gaps: tuple[Gap, ...]) -> Iterator[Finding]:
    look = _look(facts.sshd)
    banner = seen(facts.sshd.banner)
    if seen(facts.sshd.installed) == "":
        if look.listening and banner and banner.text.startswith("SSH-"):
            text = f"sshd is not installed; another program answers the clients ({banner.text})"
            yield _note("sshd-not-installed", text, ())
        else:
            yield _down("sshd-not-installed", "sshd is not installed", look)
        return
    if look.known and not look.listening:
        yield _elsewhere(look) or _not_running(look)
        return
    if _taken(look, banner):
        text = "sshd is not running, and another program listens on its port"
        symptom = Symptom.CLOSED if banner and banner.ended else Symptom.SILENT
        evidence = (_unit_text(look.unit),) if look.unit else ()
        yield _down("sshd-port-taken", text, look, evidence)._replace(symptom=symptom)
        return
    yield from _running(look, facts, reach)
    yield from _outside(look, reach, gaps)


def _down(name: str, summary: str, look: _Look, evidence: tuple[str, ...] = (), repair: str = "") -> Finding:
    words = evidence + (seen(look.sshd.reasons) or ())
    return Finding(name, Severity.CRITICAL, Symptom.REFUSED, summary, words, _SSHD_STEP, repair)


def _elsewhere(look: _Look) -> Optional[Finding]:
    """sshd runs, and listens on other ports than it ought to."""
    names = {unit.name for unit in (look.unit, look.socket) if unit}
    by_socket = look.socket is not None and look.socket.active == "active"
    active = look.unit is not None and look.unit.active == "active" and seen(look.sshd.process) is not None
    mine = [item for item in seen(look.sshd.listeners) or () if item.unit and item.unit in names]
    if not (active or by_socket) or not mine:
        return None
    texts = sorted({listen_text(item.family, item.address, item.port) for item in mine})
    ports = seen(look.sshd.port) or ()
    summary = f"sshd runs, but does not listen on port {', '.join(map(str, ports))}"
    return _down("sshd-other-port", summary, look, ("listening: " + ", ".join(texts),))


def _taken(look: _Look, banner: Optional[Banner]) -> bool:
    """Whether it is surely not sshd that listens on its port: none of its units is active, and no banner is given."""
    if banner is None or banner.refused or banner.text.startswith("SSH-") or seen(look.sshd.process) is not None:
        return False
    units = [unit for unit in (look.unit, look.socket) if unit and unit.name]
    return bool(units) and all(unit.active in ("inactive", "failed") for unit in units)


def _not_running(look: _Look) -> Finding:
    """Why nobody listens: the most specific cause first, since it decides what mends it."""
    unit, socket = look.unit, look.socket
    used = [unit] if unit else []
    used += [socket] if socket and (_switched_on(socket) or socket.active == "failed") else []
    evidence = tuple(_unit_text(item) for item in used)
    masked = [item.name for item in (unit, socket) if item and item.load == "masked"]
    # The unit beside it, which is there and switched off on most systems, is no way in for the agent either.
    # A socket whose service is masked fails at its first client.
    useless = unit is not None and unit.load == "masked" and socket is not None and socket.active == "failed"
    started = [u for u in used if u.load == "loaded" and _switched_on(u) and not (u is socket and useless)]
    if masked and not started:
        return _down("sshd-masked", f"{masked[0]} is masked: somebody switched SSH off on purpose", look, evidence)
    if seen(look.sshd.forbidden):
        return _down("sshd-forbidden", "/etc/ssh/sshd_not_to_be_run is there: sshd is not to run", look, evidence)
    cause = _cause(look)
    if cause:
        name, summary = cause
        return _down(name, f"sshd is not running and cannot start: {summary}", look, evidence + (look.broken,))
    why = next((f" ({item.result})" for item in used if item.result not in ("", "success")), "")
    return _down("sshd-not-running", f"sshd is not running{why}: nobody listens on the port", look, evidence)


def _switched_on(unit: UnitState) -> bool:
    return unit.file_state.startswith("enabled") or unit.active == "active"


def _unit_text(unit: UnitState) -> str:
    text = f"{unit.name}: {unit.load}, {unit.active}/{unit.sub}, {unit.file_state}"
    text += f", result {unit.result}" if unit.result else ""
    return text + (f", exit status {unit.exit_status}" if unit.exit_status else "")


def _cause(look: _Look) -> Optional[tuple[str, str]]:
    """What `sshd -t` complains of, as a finding of its own: a missing key and a bad line are mended differently."""
    if not look.broken:
        return None
    keys = seen(look.sshd.host_keys) or ()
    if PRIVSEP.search(look.broken):
        return "privsep-missing", "the privilege separation directory is missing or not root's alone"
    if "no hostkeys available" in look.broken:
        loose = [key.path for key in keys if key.loose]
        if loose:
            return "host-key-modes", f"others may read the host keys, so sshd refuses them: {', '.join(loose)}"
        return "host-keys-missing", "there is no host key that it can use"
    test = seen(look.sshd.test)
    where = f" ({test.file} line {test.line})" if test and test.file else ""
    return "sshd-config-invalid", f"its configuration is wrong{where}"


def _running(look: _Look, facts: Facts, reach: Reach) -> Iterator[Finding]:
    """Somebody listens; does a client get a banner, and would sshd start again?"""
    process, banner = seen(look.sshd.process), seen(look.sshd.banner)
    cause = _cause(look)
    if process and process.stopped and not process.traced:
        text = f"sshd (pid {process.pid}) is stopped: it listens, and answers nobody"
        yield Finding("sshd-hung", Severity.CRITICAL, Symptom.SILENT, text, (), _SSHD_STEP)
    elif banner and _hangs(look, banner, facts):
        text = (
            f"sshd accepts no connections: no banner after {banner.seconds:.1f} s, and its accept queue does not drain"
        )
        yield Finding("sshd-hung", Severity.CRITICAL, Symptom.SILENT, text, (), _SSHD_STEP)
    elif banner and "maxstartups" in banner.text.lower():
        text = "sshd is at MaxStartups: too many connections wait for a login (a restart would make it worse)"
        yield Finding("sshd-saturated", Severity.WARNING, Symptom.CLOSED, text, (banner.text,), _SSHD_STEP)
    elif banner and not banner.ended and not banner.refused and banner.seconds >= _LATE and not _wrapped(reach):
        text = f"sshd's banner comes late ({banner.seconds:.1f} s): a name lookup, or a busy machine"
        yield Finding("sshd-banner-late", Severity.WARNING, Symptom.SILENT, text, (), _SSHD_STEP)
    elif banner and banner.ended and not cause and not _wrapped(reach):
        text = "sshd ended a connection from this machine without a banner"
        yield Finding("sshd-closes", Severity.WARNING, Symptom.CLOSED, text, (), _SSHD_STEP)
    if not cause or _on_demand(look) and cause[0] == "privsep-missing":
        return
    name, summary = cause
    if _fatal(name, look, banner):
        # Each connection is served by a new sshd, which reads the keys and enters the directory afresh.
        text = f"sshd listens, but ends each connection: {summary}"
        yield Finding(name, Severity.CRITICAL, Symptom.CLOSED, text, (look.broken,), _SSHD_STEP)
    else:
        text = f"sshd runs, but would not start again: {summary}"
        yield Finding(name, Severity.WARNING, Symptom.NONE, text, (look.broken,), _SSHD_STEP)


def _fatal(name: str, look: _Look, banner: Optional[Banner]) -> bool:
    """Whether what keeps sshd from starting ends each connection to the one that runs, too."""
    answers = banner is not None and banner.text.startswith("SSH-")
    if _on_demand(look):
        return not answers  # sshd starts when a client comes
    if name == "privsep-missing":
        # OpenSSH 9.8 and later: after the banner, and only where there is no such directory at all.
        directory = seen(look.sshd.privsep)
        return not answers or directory is None or not directory.present
    return name in ("host-keys-missing", "host-key-modes") and not answers and not seen(look.sshd.session)


def _wrapped(reach: Reach) -> bool:
    """Whether libwrap refuses somebody: it sleeps before it closes, and the probe may be among them."""
    return any(
        rule.stage == "wrappers" and rule.outcome is not Outcome.CONNECTED for a in reach.answers for rule in a.rules
    )


def _on_demand(look: _Look) -> bool:
    """Socket activation: the directory is made when a connection comes."""
    return bool(look.socket and look.socket.active == "active" and not seen(look.sshd.process))


def _hangs(look: _Look, banner: Banner, facts: Facts) -> bool:
    """Who accepts does not hang, however late its banner: a flood or a name lookup is no reason for a restart. Nor is
    doubt: whether a debugger holds it, or whether the machine is too busy."""
    if banner.text or banner.ended or banner.refused or banner.taken:
        return False
    process, pressure = facts.sshd.process, seen(facts.machine.pressure)
    if not isinstance(process, Seen) or pressure is None:
        return False
    ports = seen(look.sshd.port) or ()
    queued = any(item.queue for item in seen(look.sshd.listeners) or () if item.port in ports)
    return queued and not (process.value and process.value.traced) and pressure < 50.0


def _outside(look: _Look, reach: Reach, gaps: tuple[Gap, ...]) -> Iterator[Finding]:
    """sshd listens, but not where the clients come."""
    shut = []
    for gap in gaps:
        way = (gap.interface, gap.family, gap.port)
        if all(_deaf(a) for a in reach.answers if (a.interface, a.family, a.port) == way):
            shut.append(f"{gap.interface} {gap.family.value}")
    if shut and look.listening:
        addresses_ = sorted(
            {listen_text(item.family, item.address, item.port) for item in seen(look.sshd.listeners) or ()}
        )
        where = ", ".join(sorted(set(shut)))
        yield Finding(
            "sshd-not-listening-outside",
            Severity.CRITICAL,
            Symptom.REFUSED,
            f"sshd runs, but does not listen where clients come in: {where}",
            (
                "listening: " + (", ".join(addresses_) or "nowhere"),
                *_listen(look),
                *(f"{listen_text(i.family, i.address, i.port)} is held by {i.unit}" for i in intruders(look.sshd)),
            ),
            _SSHD_STEP,
        )


def _listen(look: _Look) -> tuple[str, ...]:
    """What it is told: by an active socket unit, else by sshd's configuration."""
    if look.socket and look.socket.active == "active":
        return tuple(f"{look.socket.name}: ListenStream {address}" for address in look.socket.listen)
    effective = seen(look.sshd.effective)
    return tuple(f"ListenAddress {address}" for address in effective.listen) if effective else ()


def listen_text(family: Family, address: int, port: int) -> str:
    text = addresses.format_address(address, family)
    return f"[{text}]:{port}" if family is Family.IPV6 else f"{text}:{port}"


# -- an attached volume


def _at_rest(facts: Facts) -> Iterator[Finding]:
    """What its files say will keep clients out. Nothing runs that could be asked, so the health stays unknown."""
    sshd, keys = facts.sshd, seen(facts.sshd.host_keys) or ()
    unit, effective = seen(sshd.unit), seen(sshd.effective)
    if unit and unit.load == "masked":
        yield _rests("sshd-masked", f"{unit.name} is masked: somebody switched SSH off on purpose")
    if seen(sshd.forbidden):
        yield _rests("sshd-forbidden", "/etc/ssh/sshd_not_to_be_run is there: sshd is not to run")
    if keys and not any(key.present for key in keys):
        yield _rests("host-keys-missing", "there is no host key", tuple(key.path for key in keys))
    loose = [key.path for key in keys if key.loose]
    if loose and len(loose) == sum(key.present for key in keys):
        yield _rests("host-key-modes", "others may read the host keys, so sshd refuses them", tuple(loose))
    if effective and effective.listen and all(address.startswith(_INSIDE) for address in effective.listen):
        text = "sshd is told to listen on the loopback only"
        yield _rests("sshd-not-listening-outside", text, tuple(f"ListenAddress {a}" for a in effective.listen))
    if seen(facts.wrappers.linked):
        tables = wrappers.parse(seen(facts.wrappers.allow), seen(facts.wrappers.deny))
        decided = [item for family in Family for item in wrappers.evaluate(tables, family=family)]
        if not any(item.granted is not False for item in decided):
            lines = tuple(dict.fromkeys(f"{item.file} line {item.line}: {item.text}" for item in decided))
            yield _rests("wrappers-deny", "TCP wrappers refuse everybody", lines, Symptom.CLOSED)


_INSIDE = ("127.", "[::1]", "::1", "localhost")


def _rests(name: str, text: str, evidence: tuple[str, ...] = (), symptom: Symptom = Symptom.REFUSED) -> Finding:
    step = _WRAPPERS_STEP if name.startswith("wrappers") else _SSHD_STEP
    return _note(name, text, evidence)._replace(symptom=symptom, document=step)


# -- the rest


def _reach_notes(facts: Facts, reach: Reach, config: Config, *, baseline: Baseline) -> Iterator[Finding]:
    for way in _ways(reach):
        subject, on = f"{way.interface}/{way.family.value}", f"{way.interface} ({way.family.value})"
        sure = _union(answer.of(Outcome.CONNECTED) for answer in way.answers)
        elsewhere = _behind_others(facts, way)
        may = addresses.subtract(way.admitted, sure)
        rules = [r for a in way.answers for r in a.rules if r.outcome is Outcome.UNCERTAIN and not shut(r)]
        rules = [r for r in rules if addresses.subtract(r.sources, elsewhere if r.stage == "route" else ())]
        if may and rules:
            text = f"whether {'some get' if sure else 'anybody gets'} in on {on} cannot be told from the rules"
            yield _note("reach-uncertain", text, tuple(_rule_text(rule) for rule in rules), subject)
        bans = _union(rule.sources for answer in way.answers for rule in answer.rules if banned(rule))
        lost = addresses.subtract(baseline.get(way[:2], ()), addresses.union(way.admitted, bans))
        if lost and not config.expect_clients and way.admitted:
            walls = [r for a in way.answers for r in a.rules if shut(r) and addresses.intersect(r.sources, lost)]
            who = "no more: " + ", ".join(addresses.cidrs(lost, way.family)[:8])
            text = f"fewer clients than before get in on {on}"
            yield _note("reach-shrunk", text, (who, *map(_rule_text, walls[:8])), subject)
        blocked = [rule for answer in way.answers if answer.nd.blocked for rule in answer.nd.rules]
        if blocked and sure:
            text = f"neighbour discovery is blocked on {way.interface}: SSH over IPv6 works until the cache runs out"
            yield _note("nd-blocked", text, tuple(_rule_text(rule) for rule in blocked), subject)


def _behind_others(facts: Facts, way: _Way) -> Ranges:
    """Networks that other interfaces lead to, containers' and tunnels' among them: nobody of theirs comes in by this
    one. Not half the address space, with which a tunnel takes everybody's replies.
    """
    network = seen(facts.network)
    most = 1 << addresses.BITS[way.family] - 2
    return addresses.normal(
        route.destination
        for route in (network.routes if network else ())
        if route.family is way.family
        and route.kind == "unicast"
        and route.device not in ("", way.interface)
        and route.destination[1] - route.destination[0] < most
    )


def _note(name: str, text: str, evidence: tuple[str, ...], subject: str = "") -> Finding:
    return Finding(name, Severity.WARNING, Symptom.NONE, text, tuple(dict.fromkeys(evidence)), None, subject=subject)


def _machine(facts: Facts) -> Iterator[Finding]:
    machine = facts.machine
    if seen(machine.nologin):
        yield _note("nologin", "/run/nologin or /etc/nologin is there: only root may log in", ())
    free, inodes = seen(machine.free_bytes), seen(machine.free_inodes)
    if free is not None and free < _FULL_BYTES or inodes == 0:
        yield _note(
            "disk-full", "the disk is full: logins and repairs may fail", (f"{free} bytes, {inodes} inodes free",)
        )
    tracked = seen(machine.conntrack)
    if tracked and tracked[1] and tracked[0] >= tracked[1]:
        text = f"the connection tracking table is full ({tracked[0]} of {tracked[1]}): the kernel drops new connections"
        yield _note("conntrack-full", text, ())._replace(symptom=Symptom.TIMEOUT)


def unseen(facts: Facts, reach: Reach, config: Config) -> tuple[str, ...]:
    """What could not be looked at and without which nobody can say that SSH is healthy."""
    asked = facts.wrappers
    reasons = [
        *_hidden("sshd's listeners", facts.sshd.listeners),
        *_hidden("the ruleset", facts.ruleset),
        *_hidden("the network", facts.network),
    ]
    if seen(asked.linked):
        reasons += [*_hidden("TCP wrappers", asked.allow), *_hidden("TCP wrappers", asked.deny)]
    elif any(line.strip() and line[:1] != b"#" for line in (seen(asked.deny) or b"").splitlines()):
        reasons += _hidden("whether sshd asks TCP wrappers", asked.linked)
    if not reach.answers and not reasons:
        parts = [f"{interface} {family.value}: {reason}" for interface, family, reason in reach.unseen]
        reasons.append("no external interface has an address" + (f" ({'; '.join(parts[:4])})" if parts else ""))
    elif not reasons and config.expect_clients:
        families = {family for family, _ in config.expect_clients}
        if not any(answer.family in families for answer in reach.answers):
            reasons.append("no external interface has an address of the expected clients' family")
    return tuple(reasons)


def _hidden(name: str, fact: Fact[T]) -> tuple[str, ...]:
    return () if isinstance(fact, Seen) else (f"could not look at {name}: {fact.reason}",)


def _health(findings: tuple[Finding, ...], unseen: tuple[str, ...]) -> Health:
    severities = {finding.severity for finding in findings}
    if Severity.CRITICAL in severities:
        return Health.UNREACHABLE
    if unseen:
        return Health.UNKNOWN
    return Health.DEGRADED if severities else Health.OK


def _summary(health: Health, findings: tuple[Finding, ...], unseen: tuple[str, ...], reach: Reach) -> str:
    if health is Health.UNKNOWN:
        return "; ".join(unseen)
    if findings:
        worst = next((f for f in findings if f.severity is Severity.CRITICAL), findings[0])
        more = f" (and {len(findings) - 1} more)" if len(findings) > 1 else ""
        return worst.summary + more
    ways = sorted({f"{answer.interface} ({answer.family.value})" for answer in reach.answers if admitted(answer)})
    return "clients get in on " + ", ".join(ways)
