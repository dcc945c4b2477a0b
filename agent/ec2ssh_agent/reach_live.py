"""The rulesets and the question of `reach` on the live instance: of what a pass looks at only what the answer needs."""

from __future__ import annotations

import argparse

from .config import Config
from .facts import Facts, Machine, Sshd, UnitState
from .host import Host
from .model import AgentError, Seen, Unseen, UsageError
from .observe import bypass, network, question, rulesets, sockets, wrappers
from .reach import analyse, merged
from .reach import wrappers as libwrap
from .reach.question import Question, Reach
from .reach.ruleset import Family, Ruleset
from .reach_files import Asked, Decisions, local

_NOT_ASKED = Unseen("not asked")
_UNITS = frozenset({"ssh.service", "sshd.service", "ssh.socket", "sshd.socket"})
_MOUNTS = ("/sys/fs/cgroup", "/sys/fs/cgroup/unified")


def ask(host: Host, arguments: argparse.Namespace, config: Config) -> Asked:
    """`--port`, `--interface` and `--to` instead of what the configuration and the host say. Raises AgentError."""
    if arguments.port:
        config = config._replace(expect_port=arguments.port)
    if arguments.interface:
        config = config._replace(expect_interfaces=tuple(arguments.interface))
    facts = _look(host, config)
    asked = question.ask(facts, config)
    if arguments.to:
        asked = _only(asked, arguments.to)
    decisions = _decisions(facts, asked.port)
    if isinstance(facts.ruleset, Unseen):
        if arguments.__dict__["from"]:  # there is no path to show
            raise AgentError(f"the rules could not be read: {facts.ruleset.reason}")
        return Asked((_nothing(asked, facts.ruleset.reason),), Ruleset(()), decisions)
    asked_ports = [asked._replace(port=port) for port in question.ports(facts)]

    def analysed(ruleset: Ruleset) -> Reach:
        return merged(analyse(one, ruleset, decisions) for one in asked_ports)

    _, ruleset = rulesets.resolve(host, facts.ruleset.value, analysed)
    return Asked(tuple(asked_ports), ruleset, decisions)


def _look(host: Host, config: Config) -> Facts:
    sshd, groups = _sshd(host, config)
    ruleset, generation = rulesets.collect(host)
    return Facts(
        taken=host.now(),
        sshd=sshd,
        ruleset=ruleset,
        ufw=_NOT_ASKED,
        firewalld=_NOT_ASKED,
        foreign=_NOT_ASKED,
        wrappers=wrappers.collect(host),
        network=network.collect(host),
        bypass=bypass.collect(host, groups),
        machine=Machine(),
        generation=generation,
    )


def _sshd(host: Host, config: Config) -> tuple[Sshd, list[str]]:
    """Its port and listeners, and the control groups of its units.

    Where its unit listens on one port at its usual place, that is all; else systemd and sshd itself are asked, which
    takes longer than all the rest.
    """
    listening = sockets.listeners(host)
    if isinstance(listening, Seen):
        mine = [item for item in listening.value if item.unit in _UNITS]
        ports = tuple({item.port for item in mine}) if config.expect_port is None else (config.expect_port,)
        groups = sorted({f"/system.slice/{item.unit}" for item in mine})
        usual = any(all(host.exists(f"{mount}{group}") for group in groups) for mount in _MOUNTS)
        if mine and len(ports) == 1 and usual:
            kept = tuple(item for item in listening.value if not item.uid or item.unit in _UNITS)
            unit = Seen(UnitState(mine[0].unit))
            return Sshd(listeners=Seen(kept, listening.where), port=Seen(ports, "sshd's listeners"), unit=unit), groups
    from .observe import sshd, systemd

    units = systemd.collect(host)
    known = [unit.value.control_group for unit in units[:2] if isinstance(unit, Seen) and unit.value]
    return sshd.collect(host, config, units=units, listening=listening), known


def _only(asked: Question, texts: list[str]) -> Question:
    """The question to these of the host's addresses."""
    wanted = {(item.family, item.address) for item in map(local, texts)}
    links = []
    for link in asked.links:
        chosen = tuple(item for item in link.addresses if (item.family, item.address) in wanted)
        wanted -= {(item.family, item.address) for item in chosen}
        if chosen:
            links.append(link._replace(addresses=chosen))
    if wanted:
        raise UsageError(f"--to: no external interface has {'these addresses' if len(wanted) > 1 else 'this address'}")
    return asked._replace(links=tuple(links), local=asked.local, unseen=())


def _nothing(asked: Question, reason: str) -> Question:
    """Without rules nothing is answered: every link and family is unseen."""
    text = f"the rules could not be read: {reason}"
    unseen = dict.fromkeys((link.name, item.family, text) for link in asked.links for item in link.addresses)
    return asked._replace(links=(), unseen=(*asked.unseen, *unseen))


def _decisions(facts: Facts, port: int) -> Decisions:
    """libwrap's, where this sshd asks it. What could not be looked at is taken for an empty file, as a pass does."""
    if not (isinstance(facts.wrappers.linked, Seen) and facts.wrappers.linked.value):
        return None
    allow, deny = (
        fact.value if isinstance(fact, Seen) else None for fact in (facts.wrappers.allow, facts.wrappers.deny)
    )
    tables = libwrap.parse(allow, deny)
    return {family: libwrap.evaluate(tables, family=family, port=port) for family in Family}
