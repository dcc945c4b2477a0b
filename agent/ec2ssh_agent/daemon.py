"""The daemon's pass: what the supervisor's worker does, from waking up to the watch list that it hands back."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from typing import Any, Optional

from . import codec, document, learn, memory, passes, policy, publish, withdraw
from .config import FILE, Config, load, restored
from .diagnose import seen
from .facts import Facts, Machine, Sshd
from .host import Host, HostError, NotFound, TooLarge
from .model import ConfigError, Finding, Seen, Severity, Symptom
from .observe import PROBE, instance, systemd
from .passes import Done
from .plain import say
from .repair import execute
from .status import Document
from .supervise import channel
from .supervise.schedule import FULL
from .supervise.watch import RESTARTING, Wake, WatchList, default

_GOOD = f"{publish.STATE}/config.json"
#: A settling fault is waited for within the pass, if it is not longer than this (seconds).
_NAP = 2.0
_OWNERS = 2.0  # seconds that the end of an owner's tools is waited for before a look; most are done by then
_ENDED = 0.01  # seconds between two looks whether they have ended
_HUNG_PROBE = 1.2  # seconds
_UNSURE = 10.0  # seconds until sshd is asked again
_RULES = frozenset(("ruleset", "legacy", "ufw", "firewalld", "verify"))  # an owner's tool may be at work
_OFTEN = frozenset(("ruleset", "legacy", "network"))  # what other programs may change all the time


def worker(config_path: str, root: str, wake: Wake) -> WatchList:
    """One pass. `wake` says why; what is returned says what to watch until the next one."""
    if RESTARTING.issuperset(wake.reasons) and not wake.crashes and systemd.restarting(Host(root)):
        return WatchList(patient=True)  # a look would only share the cores with sshd's start
    # A full pass asks everything anew: what an answer hangs on may be more than is known here.
    host = Host(root, b"" if FULL & set(wake.reasons) else wake.kept)
    config, trouble = configuration(host, config_path)
    try:
        with execute.lock(host, wait=5.0):
            return _pass(host, config, config_path, wake, trouble)
    except execute.Busy as error:
        say(f"{error}; looking again")
        return WatchList(busy=True, status=str(error))


def configuration(host: Host, path: str) -> tuple[Config, Optional[Finding]]:
    """The configuration; where it is wrong, the last good one (or one that repairs nothing), and a finding."""
    try:
        config = load(host, path, must_exist=path != FILE)
    except ConfigError as error:
        return _last_good(host, str(error))
    with contextlib.suppress(HostError):  # a full disk: the configuration is good all the same
        host.mkdir(publish.STATE, 0o755)
        content = json.dumps(codec.encode(config)).encode()
        if _kept(host) != content:
            host.replace(_GOOD, content, mode=0o600, like=False)
    return config, None


def _kept(host: Host) -> Optional[bytes]:
    try:
        return memory.read(host, _GOOD)
    except (NotFound, TooLarge, memory.Untrusted):
        return None


def _last_good(host: Host, why: str) -> tuple[Config, Finding]:
    text = "the configuration is wrong; the agent goes on with the last good one"
    try:
        content = _kept(host)
        if content is not None:
            return restored(content), Finding("config-invalid", Severity.WARNING, Symptom.NONE, text, (why,))
    except (HostError, codec.Garbage) as error:
        why = f"{why}; the last good one cannot be read: {error}"
    text = "the configuration is wrong and there is no earlier good one: the agent only reports"
    finding = Finding("config-invalid", Severity.CRITICAL, Symptom.NONE, text, (why,))
    return Config(repair_mode="off"), finding


def _pass(host: Host, config: Config, config_path: str, wake: Wake, trouble: Optional[Finding]) -> WatchList:
    started = host.monotonic()
    notes = list(passes.recover(host, busy=channel.busy))
    remembered = passes.recall(host)
    if "reload" in wake.reasons or "config" in wake.reasons:
        remembered = memory.rearm(remembered)
    previous = _previous(host)
    done = _mend(host, config, remembered, wake, probe=_probe(wake))
    if not done.records:
        done = withdraw.idle_openings(host, config, done, busy=channel.busy)
    if done.records:
        # What the repair left is what is true now, and the next baseline.
        done = done._replace(memory=learn.after(host, config, done.memory, done.look.facts, done.look.assessment))
    done = passes.keep(host, done)
    notes += [f"not watched: {text}" for text in wake.missing]
    if wake.trouble:
        notes.append(f"{wake.crashes} passes in a row failed: {wake.trouble}")
    done = _add(done._replace(notes=(*notes, *done.notes)), trouble)
    made = passes.published(host, config, done, started, _agent(host))
    _tell(host, config, made, previous, often=_OFTEN.issuperset(wake.reasons))
    watch = _watch(config_path, config, done, made, boot=host.monotonic())
    # sshd's queue does not drain, and this look found no hang: a flood may have hidden it.
    unsure = wake.hung and all(finding.id != "sshd-hung" for finding in done.look.assessment.findings)
    return watch._replace(kept=host.kept, again=passes.sooner(watch.again, _UNSURE if unsure else None))


def _probe(wake: Wake) -> float:
    """Seconds to wait for sshd's banner. Where its queue did not drain for a second, much of that is waited already."""
    if wake.hung or "queue" in wake.reasons:
        return _HUNG_PROBE
    return PROBE if {"start", "timer", "reload", "banner", "request", "verify"} & set(wake.reasons) else 0.0


def _mend(host: Host, config: Config, remembered: memory.Memory, wake: Wake, *, probe: float) -> Done:
    """Looks and repairs; a fault that has to settle for a moment only is waited for, and looked at again."""
    by = tuple(_who(host, pid, program) for pid, program in wake.by)

    def mend(remembered: memory.Memory, now: passes.Look) -> Done:
        return passes.mend(
            host,
            config,
            learn.after(host, config, remembered, now.facts, now.assessment),
            now,
            actor="daemon",
            allow_disable=False,
            busy=channel.busy,
            stopping=channel.stopping,
            by=by,
        )

    def again(done: Done) -> Done:
        await_end(host, policy.owners(done.look.facts.machine.busy))
        return mend(done.memory, passes.look(host, config, done.memory, probe=probe))

    if not _RULES.isdisjoint(wake.reasons):
        await_end(host, policy.owners(instance.busy(host)))
    began = host.monotonic()
    now = passes.look(host, config, remembered, probe=probe)
    took = host.monotonic() - began
    done = mend(remembered, now)
    nap = done.again
    if done.records or nap is None or nap > _NAP or channel.stopping() or execute.pending(host):
        return done
    done = passes.keep(host, done)
    # The second look is to end when the time to settle does: that adds no more than itself.
    host.sleep(max(0.0, nap - took))
    done = again(done)
    if done.records or done.again is None or done.again > took:
        return done
    host.sleep(done.again)
    facts = done.look.facts
    stale = seen(facts.machine.busy) or channel.generation() != (seen(facts.generation) or 0)
    return again(done) if stale else mend(done.memory, done.look)


def await_end(host: Host, owners: tuple[int, ...]) -> None:
    """The end of these, ufw and firewall-cmd at work, and of those that a script runs after them, _OWNERS seconds at
    most. Before it their rules are half of what they will be, and a look would only make them slower."""
    end = host.monotonic() + _OWNERS
    while owners and host.monotonic() < end and not channel.stopping():
        host.sleep(_ENDED)
        if not any(instance.works_here(host, pid) for pid in owners):
            host.sleep(_ENDED)  # the next one is there by then
            owners = policy.owners(instance.busy(host))


def _who(host: Host, pid: int, program: str) -> str:
    """Who changed the rules, with its unit while it lives.

    The kernel tells the pid of the outermost pid namespace; inside a container, and once it is used again, it is
    another's: then the name differs. Source: proc_pid_comm(5), proc_pid_cgroup(5).
    """
    text = f"{program} (pid {pid}"
    try:
        alive = host.read(f"/proc/{pid}/comm").decode("utf-8", "replace").rstrip("\n") == program
        group = host.read(f"/proc/{pid}/cgroup").decode("utf-8", "replace") if alive else ""
    except HostError:
        group = ""
    units = [part for part in group.replace("\n", "/").split("/") if part.endswith((".service", ".scope"))]
    return f"{text}, {units[-1]})" if units else f"{text})"


def _add(done: Done, finding: Optional[Finding]) -> Done:
    if finding is None:
        return done
    assessment = done.look.assessment
    return done._replace(
        look=done.look._replace(assessment=assessment._replace(findings=(finding, *assessment.findings)))
    )


def _agent(host: Host) -> document.Agent:
    """The supervisor, whose child this is."""
    pid = os.getppid()
    fields = host.read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    ticks = int(fields[19])
    started = host.now() - (host.monotonic() - ticks / os.sysconf("SC_CLK_TCK"))
    return document.Agent(pid, fields[19].decode(), publish.stamp(started))


def _previous(host: Host) -> Optional[Document]:
    from .report import content

    try:
        return content.before(codec.loads(host.read(f"{publish.RUN}/status.json", cap=64 << 20, follow=False)))
    except (HostError, codec.Garbage):
        return None


def _tell(host: Host, config: Config, made: Document, previous: Optional[Mapping[str, Any]], *, often: bool) -> None:
    """Reports, status files, history, console. None of them stops a repair. `often`: such a pass may be made once a
    second, and is no occasion to try again what waits.

    Reports come first: an agent that is killed in between tells them again, with new keys, rather than never.
    """
    from .report import console, spool

    try:
        if spool.tell(host, config, made, previous) or config.report_url and not often:
            from .report import command

            command.start(host, config)
    except HostError as error:
        say(f"not reported: {error}")
    for failure in publish.publish(host, made):
        say(f"not published: {failure}")
    if previous is None or previous["health"] != made["health"]:
        before = previous["health"] if previous else "unknown"
        text = f"{before} -> {made['health']}: {made['summary']}"
        say(text)
        with contextlib.suppress(HostError):  # a full disk keeps no history
            publish.remember(host, {"time": made["updated"], "kind": "health", "text": text})
    try:
        console.show(host, config, made, previous)
    except HostError as error:
        say(f"not shown on the console: {error}")


def _watch(config_path: str, config: Config, done: Done, made: Document, *, boot: float) -> WatchList:
    facts = done.look.facts
    ports = seen(facts.sshd.port) or ()
    base = default(config_path)
    waiting = memory.baseline_due(done.memory, boot, config.repair_baseline_after)
    return base._replace(
        interval=interval(config, facts.machine),
        pulse=config.watch_pulse,
        again=passes.sooner(done.again, waiting),
        pids=_pids(facts),
        ports=ports,
        directories=(*base.directories, *_directories(facts.sshd)),
        partly=not isinstance(facts.sshd.files, Seen),
        status=f"{made['health']}: {made['summary']}"[:200],
        repaired=bool(done.records),
        restarts_itself=restarts_itself(facts.sshd),
        generation=seen(facts.generation) or 0,
        probe=config.watch_probe_interval,
        probe_at=_probe_at(facts, ports[0] if ports else 22),
    )


def restarts_itself(sshd: Sshd) -> bool:
    """Whether systemd restarts an sshd that is killed: its unit says so, and the one that runs is the unit's."""
    unit, process = seen(sshd.unit), seen(sshd.process)
    return bool(unit and unit.restart not in ("no", "") and (process is None or process.pid == unit.main_pid))


def interval(config: Config, machine: Machine) -> float:
    """Seconds until the next pass at the latest. Where no timer of systemd's brings the heartbeats, passes do."""
    if config.report_url and seen(machine.systemd) is False:
        return min(config.watch_interval, config.report_interval)
    return config.watch_interval


def _pids(facts: Facts) -> tuple[int, ...]:
    process = seen(facts.sshd.process)
    return (process.pid,) if process and process.pid > 0 else ()


def _directories(sshd: Sshd) -> tuple[tuple[str, tuple[str, ...], str], ...]:
    """Where sshd's configuration and host keys lie, and where Include looks for more, when not in the usual place; and
    all these files by their names, for they may be symbolic links, and the directories above, for they may be moved."""
    named: dict[str, set[str]] = {place: set() for place in seen(sshd.places) or ()}
    paths = [path for path, _ in seen(sshd.files) or ()]
    for path in (*paths, *(key.path for key in seen(sshd.host_keys) or ())):
        directory, _, name = path.rpartition("/")
        named.setdefault(directory or "/", set()).add(name)
    anything = sorted(named.keys() - {"/etc/ssh", "/etc/ssh/sshd_config.d"})
    for directory in anything:
        while directory.strip("/"):
            directory, _, name = directory.rpartition("/")  # noqa: PLW2901
            named.setdefault(directory or "/", set()).add(name)
    return (
        *((directory, (), "sshd-config") for directory in anything),
        *((directory, tuple(sorted(names)), "sshd-config") for directory, names in sorted(named.items()) if names),
    )


def _probe_at(facts: Facts, port: int) -> tuple[str, int]:
    from .reach.addresses import format_address
    from .reach.ruleset import Family

    listeners = [item for item in seen(facts.sshd.listeners) or () if item.port == port]
    for item in listeners:
        if not item.address:
            return ("127.0.0.1" if item.family is Family.IPV4 or not item.v6only else "::1"), port
    for item in listeners:
        return format_address(item.address, item.family), port
    return "127.0.0.1", port
