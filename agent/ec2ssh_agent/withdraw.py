"""Self-withdrawal: once the ruleset is healthy without a rule of the agent's, the rule is taken out again.

The model is asked first: the ruleset without the rule must leave nobody out who got in before. Openings through an
owner (ufw, firewalld) are the owner's from then on and stay.
"""

from __future__ import annotations

import re

from . import diagnose, memory, passes
from .config import Config
from .host import Host
from .model import AgentError
from .passes import Done
from .policy import PATIENCE
from .reach.ruleset import Rule, Ruleset
from .repair import execute, records
from .repair.records import Record, State
from .repair.work import Busy
from .steps import Insert

_COMMENT = re.compile(r"ec2ssh-agent:([0-9]{8}T[0-9]{6}-[0-9a-f]{4})")
_QUIET = 3.0  # seconds since the repair: what made it needed may still be at work


def idle_openings(host: Host, config: Config, done: Done, *, busy: Busy) -> Done:
    """Takes back each opening that is needed no more; at most one a pass, since each changes what the next hangs on.

    `pause` holds for this, too: whoever paused the agent wants the rules left alone.
    """
    ruleset = done.look.ruleset
    clock = memory.Clock(host.now(), host.monotonic())
    if ruleset is None or config.repair_mode != "repair" or memory.paused(done.memory, clock):
        return done
    for name in _marked(ruleset):
        try:
            record = records.load(host, name)
        except AgentError:
            continue  # the comment of another agent, or of one whose state was purged
        if record.state is not State.VERIFIED or not all(isinstance(step, Insert) for step in record.steps):
            continue
        if _needed(ruleset, record, config, done):
            continue
        others = diagnose.seen(done.look.facts.machine.busy)
        age = host.now() - record.closed
        left = max(_QUIET, min(age / 10, PATIENCE)) if others else _QUIET - age  # whoever is at work may take hours
        if 0 < left <= PATIENCE:
            return done._replace(again=left if done.again is None else min(left, done.again))
        try:
            undone = execute.undo(host, record, reason="withdrawn: SSH is reachable without it", busy=busy)
        except AgentError as error:
            return done._replace(notes=(*done.notes, f"{record.id} is needed no more, but stays: {error}"))
        return done._replace(
            look=passes.look(host, config, done.memory, probe=0.0), records=(undone.record,), again=1.0
        )
    return done


def _marked(ruleset: Ruleset) -> list[str]:
    """The changes whose rules are in the ruleset, by their comments."""
    rules = (rule for table in ruleset.tables for chain in table.chains.values() for rule in chain.rules)
    return sorted({found for rule in rules for found in _COMMENT.findall(rule.text)})


def _needed(ruleset: Ruleset, record: Record, config: Config, done: Done) -> bool:
    """Whether somebody who got in before would be left out without it."""
    reach = done.look.rehearse(_without(ruleset, record.id))
    baseline = memory.baseline(done.memory)
    verdict = diagnose.diagnose(done.look.facts, reach, config, baseline=baseline)
    return bool(verdict.gaps) or not verdict.reach.answers


def _ours(rule: Rule, change: str) -> bool:
    return f"ec2ssh-agent:{change}" in rule.text


def _without(ruleset: Ruleset, change: str) -> Ruleset:
    return Ruleset(
        tuple(
            table._replace(
                chains={
                    name: chain._replace(rules=tuple(rule for rule in chain.rules if not _ours(rule, change)))
                    for name, chain in table.chains.items()
                }
            )
            for table in ruleset.tables
        )
    )
