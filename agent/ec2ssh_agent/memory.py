"""What passes hand to each other: /var/lib/ec2ssh-agent/state.json.

It belongs to one instance: an image that is started elsewhere begins afresh. Spans are measured with the clock since
boot, which does not jump; what is counted by it is forgotten at the next boot (a reboot is a new chance), but for
`pause`, which is kept by the wall clock too. All functions but `load` and `save` are pure: they give a new Memory.
"""

from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import Mapping
from typing import Optional

from . import codec
from .config import Config
from .host import Host, HostError, NotFound, TooLarge
from .plain import NamedTuple
from .reach.ruleset import Family, Ranges

STATE = "/var/lib/ec2ssh-agent"
PATH = f"{STATE}/state.json"
#: The same, in memory: where the disk fails, baseline and pause are not forgotten until the next boot.
COPY = "/run/ec2ssh-agent/state.json"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
#: Seconds. The boot id alone does not tell: containers show their own, and a service's sandbox may show the machine's.
_SAME_BOOT = 30.0
_CAP = 64 << 20
_LONGEST = 86400.0  # seconds of back-off at most
_FAULTS = 64  # remembered at most, the latest


class Clock(NamedTuple):
    """Seconds since the epoch, which may jump, and since boot, which does not."""

    wall: float
    boot: float


class Way(NamedTuple):
    """Who gets in by an interface and family; a set becomes the baseline when it has held."""

    interface: str
    family: Family
    held: Ranges = ()  # the baseline; empty: none yet
    seen: Ranges = ()  # the latest set
    since: float = 0.0  # boot clock: since when `seen` is what it is


class Attempts(NamedTuple):
    """Of one fault: when it was tried (boot clock), how often the circuit opened in a row, until when it is open."""

    fault: str
    times: tuple[float, ...] = ()
    trips: int = 0
    until: float = 0.0
    by: tuple[str, ...] = ()  # who changed the rules before the latest attempts


class Silence(NamedTuple):
    """A fault whose repair was undone by hand. `fingerprint`: of the thing as it was then; "": not looked at since."""

    fault: str
    fingerprint: str = ""


class Good(NamedTuple):
    """sshd's configuration while SSH was healthy, and the listening sockets at the latest look."""

    files: tuple[tuple[str, bytes], ...] = ()
    hashes: tuple[tuple[str, str], ...] = ()
    sockets: tuple[int, ...] = ()
    looked: tuple[tuple[str, str], ...] = ()  # the files' hashes at the latest look, known good or not


class Tripped(NamedTuple):
    why: str
    seconds: float


class Memory(NamedTuple):
    identity: str
    boot_id: str = ""
    ways: tuple[Way, ...] = ()
    attempts: tuple[Attempts, ...] = ()
    silenced: tuple[Silence, ...] = ()
    paused_wall: float = 0.0
    paused_boot: float = 0.0
    paused_for: float = 0.0
    unhealthy_since: float = -1.0  # boot clock; negative: it is not
    good: Good = Good()
    notes: tuple[str, ...] = ()  # of this load only
    booted: float = 0.0  # epoch seconds at which the clock since boot began


def load(host: Host, identity: str) -> Memory:
    """The memory of this instance; a fresh one, with a note why, where there is none that can be trusted."""
    # An attached volume has booted nowhere.
    boot_id = "" if host.root else host.read(_BOOT_ID).decode("ascii", "replace").strip()
    fresh = Memory(identity, boot_id, booted=host.now() - host.monotonic())
    try:
        kept = _kept(host)
    except NotFound:
        return fresh
    except (HostError, codec.Garbage) as error:
        return fresh._replace(notes=(f"{PATH}: {error}; begun afresh",))
    if kept.identity != identity:
        return fresh._replace(notes=("another instance than before: its baseline and state are forgotten",))
    if kept.boot_id == boot_id or abs(kept.booted - fresh.booted) < _SAME_BOOT:
        return kept
    return _after_boot(kept, fresh)


def _kept(host: Host) -> Memory:
    """Raises HostError, Garbage: of the file on the disk, where the copy does not serve either."""
    try:
        return codec.decode(Memory, codec.loads(read(host, PATH)))
    except (NotFound, Untrusted):
        raise
    except (HostError, codec.Garbage) as error:
        try:
            kept = codec.decode(Memory, codec.loads(read(host, COPY)))
        except (HostError, codec.Garbage):
            raise error from None
        return kept._replace(notes=(f"{PATH}: {error}; what was remembered in this boot is gone by",))


class Untrusted(HostError):
    """Others than root can write it: it may have been put there to make the agent believe something."""


def read(host: Host, path: str) -> bytes:
    """A file of the agent's own. Raises NotFound, Untrusted, HostError."""
    for part in (path.rpartition("/")[0], path):
        status = host.stat(part, follow=False)
        if status is None:
            raise NotFound(f"{part}: nothing there")
        if status.symlink or status.uid != 0 or stat.S_IMODE(status.mode) & 0o022:
            raise Untrusted("others than root can write it")
    return host.read(path, cap=_CAP, follow=False)


def _after_boot(kept: Memory, fresh: Memory) -> Memory:
    """What the clock since boot measured is void; `pause` goes on by the wall clock."""
    return kept._replace(
        boot_id=fresh.boot_id,
        booted=fresh.booted,
        ways=tuple(way._replace(seen=(), since=0.0) for way in kept.ways),
        attempts=(),
        unhealthy_since=-1.0,
        paused_boot=0.0,
        good=kept.good._replace(sockets=()),
        notes=(),
    )


def save(host: Host, memory: Memory) -> None:
    """Writes it where something changed; what cannot be trusted in its place is replaced. Raises HostError."""
    content = json.dumps(codec.encode(memory._replace(notes=()))).encode() + b"\n"
    with contextlib.suppress(HostError):  # a full /run stops no repair
        _write(host, COPY, content, sync=False)
    _write(host, PATH, content, sync=True)


def _write(host: Host, path: str, content: bytes, *, sync: bool) -> None:
    try:
        if read(host, path) == content:
            return
    except Untrusted:
        host.remove(path)  # a symlink is not written through
    except (NotFound, TooLarge):
        host.mkdir(path.rpartition("/")[0], 0o755, sync=sync)
    host.replace(path, content, mode=0o600, like=False, sync=sync)


# -- who gets in


def baseline(memory: Memory) -> dict[tuple[str, Family], Ranges]:
    return {(way.interface, way.family): way.held for way in memory.ways if way.held}


def observe_baseline(memory: Memory, sets: Mapping[tuple[str, Family], Ranges], boot: float, after: float) -> Memory:
    """Takes in who gets in now; a set that is not empty and has held `after` seconds becomes the baseline."""
    ways = {(way.interface, way.family): way for way in memory.ways}
    for key, ranges in sets.items():
        way = ways.get(key, Way(*key))
        if way.seen != ranges:
            way = way._replace(seen=ranges, since=boot)
        if ranges and boot - way.since >= after:
            way = way._replace(held=ranges)
        ways[key] = way
    return memory._replace(ways=tuple(ways.values()))


def baseline_due(memory: Memory, boot: float, after: float) -> Optional[float]:
    """Seconds until the next set has held long enough to become the baseline; None: nothing waits."""
    waits = [way.since + after - boot for way in memory.ways if way.seen and way.seen != way.held]
    return max(0.1, min(waits)) if waits else None


# -- the verdict, and how long it has held


def verdict(memory: Memory, *, unhealthy: bool, boot: float) -> Memory:
    if not unhealthy:
        return memory._replace(unhealthy_since=-1.0, silenced=memory.silenced)
    return memory if memory.unhealthy_since >= 0 else memory._replace(unhealthy_since=boot)


def unhealthy_for(memory: Memory, boot: float) -> float:
    return boot - memory.unhealthy_since if memory.unhealthy_since >= 0 else 0.0


# -- attempts and the circuit


def _of(memory: Memory, fault: str) -> Attempts:
    return next((item for item in memory.attempts if item.fault == fault), Attempts(fault))


def _put(memory: Memory, item: Attempts) -> Memory:
    others = tuple(other for other in memory.attempts if other.fault != item.fault)
    return memory._replace(attempts=(*others, item)[-_FAULTS:])


def may_attempt(memory: Memory, fault: str, boot: float) -> Optional[Tripped]:
    """Why the circuit holds a repair back, or None."""
    item = _of(memory, fault)
    if boot >= item.until:
        return None
    who = f", reverted by {', '.join(item.by)}" if item.by else ", and it did not last"
    return Tripped(
        f"repaired {len(item.times)} times{who}: left alone for {item.until - boot:.0f} s", item.until - boot
    )


def attempted(memory: Memory, fault: str, config: Config, boot: float, by: tuple[str, ...] = ()) -> Memory:
    """Counts an attempt; the one that fills the window opens the circuit, for twice as long each time in a row."""
    item = _of(memory, fault)
    # Quiet is counted from the end of the back-off, which may be longer than any window.
    quiet = item.times and boot - max(item.until, item.times[-1]) > 4 * config.repair_window
    recent = (*(t for t in item.times if boot - t < config.repair_window), boot)[-config.repair_max_attempts :]
    # A pass that a timer woke knows of nobody: whoever was seen at work since the fight began stays named.
    named = tuple(dict.fromkeys((*(() if quiet else item.by), *by)))[-4:]
    item = item._replace(times=recent, trips=0 if quiet else item.trips, by=named)
    if len(item.times) >= config.repair_max_attempts:
        back_off = min(_LONGEST, config.repair_window * 2 ** min(item.trips, 20))
        item = item._replace(until=boot + back_off, trips=min(item.trips + 1, 20))
    return _put(memory, item)


def rearm(memory: Memory) -> Memory:
    """The configuration changed: every circuit is closed again."""
    return memory._replace(attempts=())


# -- what a person said


def silence(memory: Memory, fault: str) -> Memory:
    others = tuple(item for item in memory.silenced if item.fault != fault)
    return memory._replace(silenced=(*others, Silence(fault))[-_FAULTS:])


def hear(memory: Memory, fingerprints: Mapping[str, str], *, whole: bool = True) -> Memory:
    """Holds the silenced faults against what is seen now: one that changed, or is gone, is silenced no more.

    `fingerprints`: of each critical fault of this look. `whole`: nothing was hidden from it; else a fault that it does
    not show may be there as before.
    """
    kept = []
    for item in memory.silenced:
        now = fingerprints.get(item.fault)
        if now is None and not whole:
            kept.append(item)
        elif now is not None and item.fingerprint in ("", now):
            kept.append(item._replace(fingerprint=now))
    return memory._replace(silenced=tuple(kept))


def is_silenced(memory: Memory, fault: str) -> bool:
    return any(item.fault == fault for item in memory.silenced)


def pause(memory: Memory, clock: Clock, seconds: float) -> Memory:
    return memory._replace(paused_wall=clock.wall + seconds, paused_boot=clock.boot + seconds, paused_for=seconds)


def paused(memory: Memory, clock: Clock) -> float:
    """Seconds that the pause has still to go; 0: none."""
    if memory.paused_boot:
        return max(0.0, memory.paused_boot - clock.boot)
    # After a reboot only the wall clock knows. One that was set back must not make the pause longer than it was asked
    # for, counted from this boot.
    return max(0.0, min(memory.paused_for - clock.boot, memory.paused_wall - clock.wall))


def resume(memory: Memory) -> Memory:
    return memory._replace(paused_wall=0.0, paused_boot=0.0, paused_for=0.0, silenced=(), attempts=())


def shown(memory: Memory, clock: Clock) -> dict[str, str]:
    """What `status` says of it, by fault (`pause` for the whole)."""
    found: dict[str, str] = {}
    if paused(memory, clock):
        found["pause"] = f"no repairs for another {paused(memory, clock):.0f} s"
    for item in memory.attempts:
        tripped = may_attempt(memory, item.fault, clock.boot)
        if tripped:
            found[item.fault] = tripped.why
    for silenced in memory.silenced:
        found[silenced.fault] = "left alone: its repair was undone by hand"
    return found


# -- sshd's configuration


def known_good(memory: Memory) -> dict[str, bytes]:
    return dict(memory.good.files)


def learn_known_good(
    memory: Memory, files: Mapping[str, bytes], *, hashes: tuple[tuple[str, str], ...], sockets: tuple[int, ...]
) -> Memory:
    return memory._replace(good=Good(tuple(sorted(files.items())), hashes, sockets, hashes))
