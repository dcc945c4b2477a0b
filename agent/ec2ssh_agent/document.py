"""The status document of contracts.md (`ec2ssh-agent.status/1`), made from what a pass saw and did. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Optional

from . import __version__, reach
from .assessment import Assessment
from .diagnose import seen
from .facts import Facts
from .model import Finding, Seen, Unseen
from .plain import NamedTuple
from .reach import addresses
from .reach.ruleset import Family
from .status import Document

SCHEMA = "ec2ssh-agent.status/1"


class Agent(NamedTuple):
    """Who looked. `pid` is the daemon's, 0 for a command; `ticks` its start time, since pids are used again."""

    pid: int = 0
    ticks: str = ""
    started: str = ""
    pass_ms: int = 0


def build(
    facts: Facts,
    assessment: Assessment,
    *,
    agent: Agent,
    repairs: tuple[Mapping[str, Any], ...],
    advice: Mapping[str, str],
    circuit: Mapping[str, str],
    notes: tuple[str, ...],
    report: Mapping[str, Any],
    instance: Optional[Mapping[str, Any]],
    baseline: Iterable[tuple[str, Family]],
    updated: str,
    valid_until: str,
) -> Document:
    """`advice`: fault -> what would or did mend it, or why nothing is done. Times are RFC 3339."""
    answered = reach.to_json(assessment.reach)
    return {
        "schema": SCHEMA,
        "agent": {"version": __version__, **agent._asdict()},
        "instance": instance,
        "health": assessment.health.value,
        "summary": assessment.summary,
        "ssh": _ssh(facts),
        "reach": {"answers": answered["answers"], "unseen": answered["unseen"]},
        "firewall": {"owner": owner(facts), "backends": backends(facts)},
        "findings": [_finding(finding, advice) for finding in assessment.findings],
        "repairs": list(repairs[:10]),
        "baseline": [{"interface": name, "family": family.value} for name, family in sorted_ways(baseline)],
        "circuit": dict(circuit),
        "report": dict(report),
        "notes": list(notes),
        "updated": updated,
        "valid_until": valid_until,
    }


def sorted_ways(ways: Iterable[tuple[str, Family]]) -> list[tuple[str, Family]]:
    return sorted(ways, key=lambda way: (way[0], way[1].value))


def _finding(finding: Finding, advice: Mapping[str, str]) -> dict[str, Any]:
    return {
        "id": finding.id,
        "subject": finding.subject,
        "severity": finding.severity.value,
        "symptom": finding.symptom.value,
        "summary": finding.summary,
        "evidence": list(finding.evidence),
        "document": finding.document,
        "repair": advice.get(finding.fault, finding.repair),
    }


def _ssh(facts: Facts) -> dict[str, Any]:
    sshd = facts.sshd
    ports = seen(sshd.port) or ()
    listeners = [item for item in seen(sshd.listeners) or () if item.port in ports]
    unit, socket = seen(sshd.unit), seen(sshd.socket_unit)
    process, banner = seen(sshd.process), seen(sshd.banner)
    active = socket if socket and socket.active == "active" and not process else unit
    return {
        "port": ports[0] if ports else None,
        "listeners": sorted({_endpoint(item.family, item.address, item.port) for item in listeners}),
        "unit": f"{active.name} ({active.active})" if active else None,
        "pid": process.pid if process else None,
        "banner": banner.text or None if banner else None,
        "libwrap": seen(facts.wrappers.linked),
    }


def _endpoint(family: Family, address: int, port: int) -> str:
    text = addresses.format_address(address, family)
    return f"[{text}]:{port}" if family is Family.IPV6 else f"{text}:{port}"


def owner(facts: Facts) -> Optional[str]:
    """Who owns the firewall: ufw, firewalld, rules of nobody's ("rules"), or None where there are none."""
    ufw, firewalld, ruleset = seen(facts.ufw), seen(facts.firewalld), facts.ruleset
    if ufw and ufw.enabled:
        return "ufw"
    if firewalld and firewalld.running:
        return "firewalld"
    return "rules" if isinstance(ruleset, Seen) and ruleset.value.tables else None


def backends(facts: Facts) -> list[str]:
    ruleset = seen(facts.ruleset)
    return sorted({table.backend.value for table in ruleset.tables}) if ruleset else []


#: What a pass leaves out on purpose is no news.
_NOT_ASKED = ("not looked at", "not probed", "not asked")


def unseen(facts: Facts) -> tuple[str, ...]:
    """What could not be looked at, as notes: nobody should take silence for health."""
    parts = (*facts.sshd._asdict().items(), *facts.wrappers._asdict().items(), *facts._asdict().items())
    return tuple(
        f"not seen: {name}: {f.reason}" for name, f in parts if isinstance(f, Unseen) and f.reason not in _NOT_ASKED
    )
