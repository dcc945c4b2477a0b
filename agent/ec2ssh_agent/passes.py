"""The pass: observe → diagnose → plan → repair → observe again → publish. The daemon and the commands make the same.

    look      the facts, the analysis, the verdict
    mend      while something critical has an untried rung: apply, look again, keep it if the fault is gone, else undo
    finish    what is remembered (baseline, known-good configuration, attempts), and what is published

The kernel is the judge: a rung has helped when the next look does not find its fault any more.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Optional

from . import diagnose, document, learn, memory, plan, policy, publish
from .assessment import Assessment
from .config import Config
from .facts import Facts
from .host import Host, HostError
from .memory import Clock, Memory
from .model import AgentError, Finding, Health, Seen, Severity, Unseen
from .observe import PROBE, instance, observe, question, rulesets
from .plain import NamedTuple
from .reach import AnalysisError, analyse, merged, wrappers
from .reach.question import Reach
from .reach.ruleset import Family, Ruleset
from .repair import execute, records
from .repair.records import Record, State
from .repair.work import Busy, StepFailed
from .status import Document
from .steps import CHANGE, Ladder, Rung, commands

_RETRY = 1.0  # seconds
#: Seconds from a repair to a look whether it lasts. It waits for no budget: whoever reverts it may use that up.
_VERIFY = 1.0
_DISK = 10.0  # seconds until a repair that could not be recorded is tried again
_BLIND = 5.0  # seconds until what could not be looked at, and so withholds a repair, is looked at again


class Look(NamedTuple):
    """One look at the machine, and what it means."""

    facts: Facts
    ruleset: Optional[Ruleset]
    rehearse: Callable[[Ruleset], Reach]
    assessment: Assessment


class Done(NamedTuple):
    """What came of a pass. `advice`: fault -> what was or would be done, or why nothing is."""

    look: Look
    memory: Memory
    records: tuple[Record, ...] = ()
    advice: dict[str, str] = {}
    again: Optional[float] = None  # seconds until another pass is wanted
    notes: tuple[str, ...] = ()


def look(host: Host, config: Config, remembered: Memory, *, probe: float = PROBE) -> Look:
    """Observes and diagnoses. Changes nothing."""
    facts = observe(host, config, probe=probe)
    asked = question.ask(facts, config)
    decisions = {port: _wrappers(facts, port) for port in question.ports(facts)}

    def analysed(rules: Ruleset) -> Reach:
        return merged(analyse(asked._replace(port=port), rules, decisions[port]) for port in decisions)

    ruleset: Optional[Ruleset] = None
    reach = Reach((), asked.unseen)
    if isinstance(facts.ruleset, Seen):
        try:
            reach, ruleset = rulesets.resolve(host, facts.ruleset.value, analysed)
        except AnalysisError as error:  # too much, or a loop: unknown, and said so
            facts = facts._replace(ruleset=Unseen(str(error)))

    def rehearse(changed: Ruleset) -> Reach:
        try:
            return analysed(changed)
        except AnalysisError:
            return Reach(())  # no answer proves nothing: what was rehearsed is not done

    baseline = memory.baseline(remembered)
    return Look(facts, ruleset, rehearse, diagnose.diagnose(facts, reach, config, baseline=baseline))


def _wrappers(facts: Facts, port: int) -> Any:
    """libwrap's decisions, where this sshd asks it. Unseen files decide nothing: the finding says so."""
    if diagnose.seen(facts.wrappers.linked) is not True:
        return None
    allow, deny = diagnose.seen(facts.wrappers.allow), diagnose.seen(facts.wrappers.deny)
    tables = wrappers.parse(allow, deny)
    return {family: wrappers.evaluate(tables, family=family, port=port) for family in Family}


def ladders(host: Host, config: Config, remembered: Memory, now: Look, *, allow_disable: bool) -> tuple[Ladder, ...]:
    """What could mend what is wrong."""
    good = memory.known_good(remembered)
    situation = plan.Situation(
        now.facts, now.assessment, config, now.ruleset, now.rehearse,
        known_good=good, current=learn.sshd_files(host, now.facts), allow_disable=allow_disable,
    )  # fmt: skip
    return plan.plan(situation)


def mend(
    host: Host,
    config: Config,
    remembered: Memory,
    first: Look,
    *,
    actor: str,
    allow_disable: bool,
    busy: Busy,
    stopping: Callable[[], bool] = lambda: False,
    by: tuple[str, ...] = (),
) -> Done:
    """Climbs the ladders, one rung at a time, until nothing critical has an untried rung.

    `by` names who changed the rules last: where a repair is reverted again and again, the finding says so.
    """
    now, made, advice = first, [], {}
    tried: set[tuple[str, str]] = set()
    counted: set[str] = set()  # a ladder is one attempt, whatever its height
    again: Optional[float] = None
    while not stopping():
        chosen: Optional[tuple[Ladder, Rung]] = None
        for ladder in ladders(host, config, remembered, now, allow_disable=allow_disable):
            fault = ladder.finding.fault
            rung = next((r for r in ladder.rungs if (fault, r.name) not in tried), None)
            hold = policy.hold(config, remembered, ladder.finding, now.facts, clock=_clock(host), actor=actor)
            if rung and not hold and not chosen:
                chosen = ladder, rung
            elif hold:
                dry = rung and config.repair_mode == "dry-run" and actor == "daemon"
                advice[fault] = f"{hold.why}; {_would(ladder)}" if dry else hold.why
                again = sooner(again, hold.seconds)
            elif not rung:
                advice[fault] = advice.get(fault) or ladder.withheld or "what the agent tried did not help"
                again = sooner(again, _BLIND if ladder.blind else None)
        if not chosen:
            break
        ladder, rung = chosen
        fault = ladder.finding.fault
        tried.add((fault, rung.name))
        before = remembered
        if fault not in counted:
            remembered = memory.attempted(remembered, fault, config, host.monotonic(), by)
        try:
            memory.save(host, remembered)
        except HostError as error:
            remembered = before  # nothing was tried
            advice[fault] = f"nothing is done, for it could not be recorded: {error}"
            again = sooner(again, _DISK)
            continue
        counted.add(fault)
        # Only its banner tells whether a hung sshd answers again, or hangs still; else a probe that libwrap refuses
        # would cost seconds.
        probe = PROBE if "sshd-hung" in (found.id for found in now.assessment.findings) else 0.0
        look_again = functools.partial(look, host, config, remembered, probe=probe)
        came = _attempt(host, ladder.finding, rung, actor=actor, busy=busy, look_again=look_again)
        now, advice[fault] = came.now, came.said
        made += [came.record] if came.record else []
        if came.blind or execute.pending(host):
            break  # the next pass tries it again; what is left of it, is taken back first
    if counted & _critical(now.assessment):
        # What did not help may help in a moment (somebody else was at work); the circuit bounds how often.
        again = sooner(again, _RETRY)
    elif made:
        again = sooner(again, _VERIFY)
    return Done(now, remembered, tuple(made), advice, again)


def sooner(one: Optional[float], other: Optional[float]) -> Optional[float]:
    """Of two waits, of which either may not be wanted."""
    return min((seconds for seconds in (one, other) if seconds is not None), default=None)


class _Attempt(NamedTuple):
    """What came of a rung: its record, the machine after it, what to say. `blind`: nobody saw whether it helped."""

    record: Optional[Record]
    now: Look
    said: str
    blind: bool = False


def _attempt(
    host: Host, finding: Finding, rung: Rung, *, actor: str, busy: Busy, look_again: Callable[[], Look]
) -> _Attempt:
    """One rung: made, judged by a new look, kept or undone; undone, too, where two looks do not see what it did."""
    typed: list[str] = []
    try:
        record = execute.apply(host, rung, finding=finding, actor=actor, note=typed.append, busy=busy)
    except StepFailed as error:
        return _Attempt(None, look_again(), f"{rung.name}: {error}")
    after = look_again()
    helped = _helped(finding, after)
    if helped is None:  # rules that somebody changes meanwhile, an address that is renewed
        after = look_again()
        helped = _helped(finding, after)
    outcome = {True: "helped", False: "did not help", None: "may have helped, which could not be seen"}[helped]
    try:
        if helped:
            record = execute.close(host, record, State.VERIFIED)
            return _Attempt(record, after, f"mended by {rung.name}: " + "; ".join(typed))
        reason = "it did not help" if helped is False else "whether it helped could not be seen"
        record = execute.undo(host, record, reason=reason, busy=busy).record
    except AgentError as error:
        # The record stays open: the next pass begins with taking it back.
        return _Attempt(record, after, f"{rung.name} {outcome}, but cannot be closed: {error}")
    return _Attempt(record, look_again(), f"{rung.name} {outcome} and was taken back", blind=helped is None)


def _helped(finding: Finding, after: Look) -> Optional[bool]:
    """Whether the fault is gone; None where that was not seen: what is unseen is never healthy."""
    critical = [f for f in after.assessment.findings if f.severity is Severity.CRITICAL]
    answers, asked = after.assessment.reach.answers, after.facts.wrappers
    if finding.id.startswith("firewall-"):
        # A drop that has become a reject shuts the same way.
        if any(f.id.startswith("firewall-") and f.subject == finding.subject for f in critical):
            return False
        return any(f"{a.interface}/{a.family.value}" == finding.subject for a in answers) or None
    if any(f.fault == finding.fault for f in critical):
        return False
    if finding.id == "wrappers-deny":
        # The line is in front of hosts.allow: what hosts.deny says does not matter any more.
        return bool(answers) and isinstance(asked.allow, Seen) and isinstance(asked.linked, Seen) or None
    return True


def _clock(host: Host) -> Clock:
    return Clock(host.now(), host.monotonic())


def _critical(assessment: Assessment) -> frozenset[str]:
    return frozenset(f.fault for f in assessment.findings if f.severity is Severity.CRITICAL)


# -- the commands


def check(host: Host, config: Config) -> Document:
    """One look that changes nothing, not even what the agent remembers."""
    started = host.monotonic()
    remembered = recall(host)
    now = look(host, config, remembered)
    advice = {
        ladder.finding.fault: _would(ladder) for ladder in ladders(host, config, remembered, now, allow_disable=False)
    }
    return published(host, config, Done(now, remembered, advice=advice), started, document.Agent())


def repair(host: Host, config: Config, *, dry_run: bool, allow_disable: bool) -> Document:
    """One pass that repairs. Raises execute.Busy where another agent does."""
    started = host.monotonic()
    if dry_run:
        remembered = recall(host)
        now = look(host, config, remembered)
        found = ladders(host, config, remembered, now, allow_disable=allow_disable)
        advice = {ladder.finding.fault: _would(ladder) for ladder in found}
        made = published(host, config, Done(now, remembered, advice=advice), started, document.Agent())
        return {**made, "would": [_rehearsed(ladder) for ladder in found]}
    with execute.lock(host):
        notes = recover(host, busy=_nobody)
        remembered = recall(host)
        now = look(host, config, remembered)
        done = mend(host, config, remembered, now, actor="command", allow_disable=allow_disable, busy=_nobody)
        done = keep(host, done)
    made = published(host, config, done._replace(notes=(*notes, *done.notes)), started, document.Agent())
    return made


@contextlib.contextmanager
def _nobody(seconds: float) -> Iterator[None]:
    """No supervisor waits for a command."""
    yield


def _would(ladder: Ladder) -> str:
    if not ladder.rungs:
        return ladder.withheld
    return "would: " + "; ".join(_typed(ladder.rungs[0]))


def _typed(rung: Rung) -> list[str]:
    """What a person would type; the id of the change is known only when it is made."""
    return [line.replace(CHANGE, "ID") for step in rung.steps for line in commands(step)]


def _rehearsed(ladder: Ladder) -> Document:
    return {
        "finding": ladder.finding.id,
        "summary": ladder.finding.summary,
        "withheld": ladder.withheld,
        "rungs": [{"name": rung.name, "why": rung.why, "commands": _typed(rung)} for rung in ladder.rungs],
    }


def would_do(made: Document) -> str:
    """What `repair --dry-run` prints: commands that a person could type, in order."""
    lines = []
    for item in made["would"]:
        lines.append(f"# {item['finding']}: {item['summary']}")
        if not item["rungs"]:
            lines.append(f"# nothing is done: {item['withheld']}")
        for number, rung in enumerate(item["rungs"]):
            lines.append(f"# {'otherwise, ' if number else ''}{rung['why']}")
            lines += [line if not number else f"#   {line}" for line in rung["commands"]]
    if not lines:
        unknown = made["health"] == Health.UNKNOWN.value
        lines = [f"# what there is to repair is not known: {made['summary']}" if unknown else "# nothing to repair"]
    return "\n".join(lines) + "\n"


# -- what is kept


def recall(host: Host) -> Memory:
    return memory.load(host, identity(host))


def identity(host: Host) -> str:
    """Which instance this is; what cannot be told is one instance for ever."""
    try:
        return diagnose.seen(instance.identity(host)) or "unknown"
    except HostError:
        return "unknown"


def recover(host: Host, *, busy: Busy) -> tuple[str, ...]:
    """Changes that a crash left unverified are rolled back before anything else is looked at.

    `pause` holds for this, too: whoever paused the agent wants all left alone. `mode` does not: it does not end.
    """
    left = memory.paused(recall(host), _clock(host)) if execute.pending(host) else 0.0
    if left:
        return (f"changes that were not verified are rolled back when the pause is over, in {left:.0f} s",)
    notes: list[str] = []
    try:
        for record in execute.recover(host, note=notes.append, busy=busy):
            what = f"{record.id} ({record.finding}), not verified when the agent ended"
            if execute.given_up(record):
                notes.append(f"{what}: given up; `undo` can still take it back")
            elif not record.state.unfinished:  # else it was noted why not
                notes.append(f"{what}: {'; '.join(record.notes)}")
    except (HostError, records.BadRecord) as error:
        notes.append(f"changes that were not verified cannot be rolled back: {error}")
    return tuple(notes)


def keep(host: Host, done: Done) -> Done:
    """What is remembered, and the history of what was done; what cannot be written is said in the notes."""
    try:
        memory.save(host, done.memory)
    except HostError as error:
        done = done._replace(notes=(*done.notes, f"what the agent remembers cannot be written: {error}"))
    for record in done.records:
        text = f"{record.fault}: {record.rung}, {record.state.value}" + (
            f" ({record.notes[-1]})" if record.notes else ""
        )
        event = {"time": publish.stamp(record.closed or record.time), "kind": "repair", "id": record.id, "text": text}
        with contextlib.suppress(HostError):  # a full disk keeps no history, and stops no repair
            publish.remember(host, event)
    return done


def shown_repairs(host: Host) -> Iterator[dict[str, Any]]:
    """The latest changes as `status` shows them, newest first."""
    for record in records.all(host, most=10):
        yield {
            "id": record.id,
            "time": publish.stamp(record.time),
            "finding": record.finding,
            "outcome": record.state.value,
            "rung": record.rung,
            "seconds": round(max(0.0, record.closed - record.time), 3),
            "commands": [line.replace(CHANGE, record.id) for step in record.steps for line in commands(step)],
            "notes": list(record.notes),
            "actor": record.actor,
        }


def published(host: Host, config: Config, done: Done, started: float, agent: document.Agent) -> Document:
    """The status document of a pass."""
    notes = (*done.memory.notes, *done.notes)
    try:
        repairs = tuple(shown_repairs(host))
    except AgentError as error:
        repairs, notes = (), (*notes, f"the records of repairs cannot be read: {error}")
    now = host.now()
    return document.build(
        done.look.facts,
        done.look.assessment,
        agent=agent._replace(pass_ms=round((host.monotonic() - started) * 1000)),
        repairs=repairs,
        advice=done.advice,
        circuit=memory.shown(done.memory, _clock(host)),
        notes=(*notes, *document.unseen(done.look.facts)),
        report=learn.report(host, config),
        instance=learn.instance(host, done.look.facts),
        baseline=memory.baseline(done.memory),
        updated=publish.stamp(now),
        valid_until=publish.stamp(now + 2 * config.watch_interval + 60),
    )
