"""The status document as metrics, in the Prometheus text exposition format 0.0.4.

Everybody can read the file, and it may leave the machine: labels are ids and names of interfaces, never addresses,
rules or users. https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Optional

from ..model import Health
from ..plain import NamedTuple
from ..quick import epoch

_TIME = re.compile(r"(\d{4})-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3]):([0-5]\d):([0-5]\d)Z")

#: (label, value) pairs and the sample's value.
_Sample = tuple[tuple[tuple[str, str], ...], float]


class Family(NamedTuple):
    """One metric. `kind`: gauge or counter. No two samples have the same labels."""

    name: str
    kind: str
    text: str
    samples: tuple[_Sample, ...]


def seconds(text: Optional[str]) -> Optional[float]:
    """An RFC 3339 time in UTC as seconds since the epoch; None for what is none."""
    found = _TIME.fullmatch(text or "")
    return float(epoch(*map(int, found.groups()))) if found else None


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


def _family(name: str, kind: str, text: str, samples: Iterable[_Sample]) -> list[Family]:
    """Nothing where there is no sample. Of samples with the same labels, which would make a file invalid, the last."""
    unique = tuple(dict(samples).items())
    return [Family(name, kind, text, unique)] if unique else []


def _lines(family: Family) -> list[str]:
    lines = [f"# HELP {family.name} {family.text}", f"# TYPE {family.name} {family.kind}"]
    for labels, value in family.samples:
        inside = ",".join(f'{label}="{_escape(content)}"' for label, content in labels)
        lines.append(f"{family.name}{'{' + inside + '}' if inside else ''} {_number(value)}")
    return lines


def _single(value: Optional[float]) -> list[_Sample]:
    return [] if value is None else [((), value)]


def _answers(document: Mapping[str, Any]) -> list[tuple[Mapping[str, Any], str]]:
    """Each answer with each outcome that some source sees."""
    return [
        (answer, outcome)
        for answer in document["reach"]["answers"]
        for outcome in (
            [name for name, found in answer["sources"].items() if found] if "sources" in answer else answer["outcomes"]
        )
    ]


def _reach(document: Mapping[str, Any]) -> list[_Sample]:
    """1 where somebody outside gets in. Answers for several local addresses are one sample: the best of them."""
    open_ones: dict[tuple[tuple[str, str], ...], float] = {}
    for answer, outcome in _answers(document):
        labels = (("interface", answer["interface"]), ("family", answer["family"]), ("port", str(answer["port"])))
        open_ones[labels] = max(open_ones.get(labels, 0.0), float(outcome == "connected"))
    return list(open_ones.items())


def _repairs(document: Mapping[str, Any]) -> list[_Sample]:
    """The time of the latest repair of each kind and outcome; the document has the newest first."""
    return [
        ((("finding", repair["finding"]), ("outcome", repair["outcome"])), at)
        for repair in reversed(document["repairs"])
        for at in [seconds(repair["time"])]
        if at is not None
    ]


def _reports(document: Mapping[str, Any]) -> list[Family]:
    report = document.get("report") or {}
    if not report.get("url"):
        return []
    return [
        *_family("ec2ssh_report_waiting", "gauge", "Reports waiting for delivery.", _single(report.get("waiting", 0))),
        *_family("ec2ssh_report_parked", "gauge", "Reports that the endpoint refused for good.",
                 _single(report.get("parked", 0))),
        *_family("ec2ssh_report_dropped_total", "counter", "Reports dropped because the spool was full.",
                 _single(report.get("dropped", 0))),
        *_family("ec2ssh_report_delivered_timestamp_seconds", "gauge", "When the endpoint last took a report.",
                 _single(seconds(report.get("delivered")))),
    ]  # fmt: skip


def render(document: Mapping[str, Any]) -> str:
    """The metrics file of a status document (contracts.md, "Status and reports"), whole or public."""
    return "\n".join(line for family in families(document) for line in _lines(family)) + "\n"


def families(document: Mapping[str, Any]) -> list[Family]:
    """The metrics of a status document."""
    agent = document["agent"]
    health = [((("state", state.value),), float(document["health"] == state.value)) for state in Health]
    findings: list[_Sample] = [
        (tuple((key, finding[key]) for key in ("id", "severity", "symptom")), 1.0) for finding in document["findings"]
    ]
    listeners = document["ssh"].get("listeners")
    return [
        *_family("ec2ssh_agent_info", "gauge", "The agent.", [((("version", agent["version"]),), 1.0)]),
        *_family("ec2ssh_health", "gauge", "The health of SSH: 1 at the state that it is in.", health),
        *_family("ec2ssh_finding", "gauge", "What is wrong, one sample a finding.", findings),
        *_family("ec2ssh_reach_open", "gauge", "Whether somebody outside can connect to sshd.", _reach(document)),
        *_family("ec2ssh_listeners", "gauge", "Sockets on which sshd listens.",
                 _single(None if listeners is None else float(len(listeners)))),
        *_family("ec2ssh_repair_timestamp_seconds", "gauge", "When a finding was last repaired, by outcome.",
                 _repairs(document)),
        *_family("ec2ssh_circuit_open", "gauge", "Faults that are not repaired any more for now.",
                 _single(float(len(document.get("circuit") or {})))),
        *_family("ec2ssh_updated_timestamp_seconds", "gauge", "When the agent last looked.",
                 _single(seconds(document["updated"]))),
        *_family("ec2ssh_valid_until_timestamp_seconds", "gauge", "Until when that look holds; later, it is stale.",
                 _single(seconds(document["valid_until"]))),
        *_family("ec2ssh_pass_seconds", "gauge", "How long the last pass took.", _single(agent["pass_ms"] / 1000)),
        *_reports(document),
    ]  # fmt: skip
