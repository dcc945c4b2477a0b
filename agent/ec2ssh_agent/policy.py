"""When the agent keeps its hands off, as far as time and history go; what hangs on facts alone is plan.py's."""

from __future__ import annotations

import re
from typing import Optional

from . import memory
from .config import Config
from .diagnose import seen
from .facts import Facts
from .memory import Clock, Memory
from .model import Fact, Finding
from .plain import NamedTuple
from .supervise.watch import RESTART

#: A firewall tool, package manager or cloud-init at work is waited for, so long at most (seconds).
PATIENCE = 30.0
_LOOK_AGAIN = 0.25
#: One run of these is one whole change: with its end the rules are what somebody wanted. A script of many iptables
#: commands is between two of them most of the time.
_OWNER = re.compile(r"(?:ufw|firewall-cmd) \((\d+)\)")
#: Where a rule or a line stands, in diagnose.py's evidence.
_PLACE = re.compile(r" (?:rule|line) \d+(?=:)")


class Hold(NamedTuple):
    """Why nothing is repaired now, and in how many seconds it is worth another look (None: when something changes)."""

    why: str
    seconds: Optional[float] = None


def hold(
    config: Config, remembered: Memory, finding: Finding, facts: Facts, *, clock: Clock, actor: str
) -> Optional[Hold]:
    """Why `finding` is left alone now, or None. A person's command waits for nobody, but respects `pause`."""
    paused = memory.paused(remembered, clock)
    if paused:
        return Hold(f"repairs are paused for another {_span(paused)} (`ec2ssh-agent resume` ends that)", paused)
    if actor == "command":
        return None
    if config.repair_mode != "repair":
        return Hold(f"[repair] mode = {config.repair_mode}: the agent only reports")
    if memory.is_silenced(remembered, finding.fault):
        return Hold("its repair was undone by hand; left alone until the thing changes, or `ec2ssh-agent resume`")
    tripped = memory.may_attempt(remembered, finding.fault, clock.boot)
    if tripped:
        return Hold(tripped.why, tripped.seconds)
    return _systemds(finding, remembered, facts, clock) or _settling(config, remembered, facts, clock)


def _systemds(finding: Finding, remembered: Memory, facts: Facts, clock: Clock) -> Optional[Hold]:
    """A killed sshd belongs to systemd first; one that it restarts in vain, again and again, does not for ever."""
    unit = seen(facts.sshd.unit)
    if finding.id != "sshd-not-running" or not unit or not unit.sub.startswith("auto-restart"):
        return None
    if memory.unhealthy_for(remembered, clock.boot) >= PATIENCE:
        return None
    left = unit.since / 1e6 + RESTART - clock.boot
    return Hold(f"systemd is about to restart {unit.name} by itself", left) if left > 0 else None


def _settling(config: Config, remembered: Memory, facts: Facts, clock: Clock) -> Optional[Hold]:
    age = memory.unhealthy_for(remembered, clock.boot)
    if age < config.repair_settle:
        return Hold("it may pass: waiting for it to settle", config.repair_settle - age)
    busy = seen(facts.machine.busy)
    if busy and age < PATIENCE:
        return Hold(f"{', '.join(busy)} is at work", _LOOK_AGAIN)
    users = seen(facts.machine.users)
    if users and age < config.repair_grace:
        return Hold(f"an administrator is logged in; waiting {_span(config.repair_grace)}", config.repair_grace - age)
    return None


def owners(busy: Fact[tuple[str, ...]]) -> tuple[int, ...]:
    """Of what is at work (facts.Machine.busy) the pids of those whose end makes their change whole."""
    programs = seen(busy)
    return tuple(int(match[1]) for match in map(_OWNER.fullmatch, programs or ()) if match)


def fingerprint(finding: Finding) -> str:
    """Tells whether a silenced fault is still the same one: a rule that only moved, as others went, is the same."""
    return "\n".join((finding.fault, *(_PLACE.sub("", line) for line in finding.evidence)))


def _span(seconds: float) -> str:
    if seconds >= 5400:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
