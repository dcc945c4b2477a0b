"""What a report says: made from the status documents before and after (contracts.md, "Status and reports"). Pure.

A report carries what its findings need and no more: no source sets, no rules but those that a finding names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Optional

from ..codec import Garbage
from ..status import bounded

SCHEMA = "ec2ssh-agent.report/1"
KINDS = ("change", "repair", "heartbeat", "test")
_EVIDENCE = 8
_TEXT = 2_000
_FINDINGS = 200

Report = dict[str, Any]


def before(said: object) -> dict[str, Any]:
    """A status document that was kept, if it has what is asked of `previous` here. Raises Garbage."""
    asked = {"findings": ("id", "severity", "symptom"), "repairs": ("id", "outcome")}
    if not isinstance(said, dict) or not isinstance(said.get("health"), str):
        raise Garbage("not a status document")
    for key, names in asked.items():
        items = said.get(key)
        if not isinstance(items, list):
            raise Garbage(f"{key}: not a list")
        for item in items:
            if not isinstance(item, dict) or not all(isinstance(item.get(name), str) for name in names):
                raise Garbage(f"{key}: without {', '.join(names)}")
            if not isinstance(item.get("subject", ""), str):
                raise Garbage(f"{key}: a subject that is no text")
    return said


def report(
    document: Mapping[str, Any],
    *,
    previous: Optional[Mapping[str, Any]],
    kind: str,
    id: str,
    sequence: int,
    dropped: int = 0,
) -> Report:
    """`previous` is the status document before this one, None for the first. A heartbeat repeats the last sequence.

    `dropped`: how many reports of this instance the spool had no room for, so far.
    """
    return {
        "schema": SCHEMA,
        "id": id,
        "sequence": sequence,
        "dropped": dropped,
        "kind": kind,
        "time": document["updated"],
        "agent": document["agent"]["version"],
        "instance": document["instance"],
        "health": document["health"],
        "previous": previous["health"] if previous else None,
        "summary": _cut(document.get("summary") or ""),
        "findings": [_finding(item) for item in document["findings"][:_FINDINGS]],
        "resolved": [_name(item) for item in resolved(document, previous)[:_FINDINGS]],
        "repairs": [_repair(item) for item in new_repairs(document, previous)[:10]],
    }


def _cut(text: str) -> str:
    return text if len(text) <= _TEXT else text[: _TEXT - 1] + "…"


def _name(finding: Mapping[str, Any]) -> dict[str, Any]:
    return {key: finding.get(key, "") for key in ("id", "subject", "severity", "symptom")}


def _finding(finding: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **_name(finding),
        "summary": _cut(finding["summary"]),
        "evidence": [_cut(text) for text in finding["evidence"][:_EVIDENCE]],
        "document": finding["document"],
        "repair": _cut(finding["repair"]),
    }


def _repair(repair: Mapping[str, Any]) -> Any:
    made = {key: repair[key] for key in ("id", "time", "finding", "outcome", "rung", "seconds") if key in repair}
    for key in ("commands", "notes"):
        made[key] = [_cut(text) for text in repair.get(key, ())[:_EVIDENCE]]
    return bounded(made)


def _fault(finding: Mapping[str, Any]) -> tuple[str, str]:
    return finding["id"], finding.get("subject", "")


def resolved(document: Mapping[str, Any], previous: Optional[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The findings of `previous` that are gone."""
    now = {_fault(finding) for finding in document["findings"]}
    return [finding for finding in (previous or {}).get("findings", ()) if _fault(finding) not in now]


def new_repairs(document: Mapping[str, Any], previous: Optional[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The repairs that are new since `previous` (or the agent's start), or ended otherwise; newest first."""
    if previous is None:
        started = document["agent"].get("started") or document["updated"]
        return [item for item in document["repairs"] if item["time"] >= started]
    known = {(item["id"], item["outcome"]) for item in previous.get("repairs", ())}
    return [item for item in document["repairs"] if (item["id"], item["outcome"]) not in known]


def kinds(document: Mapping[str, Any], previous: Optional[Mapping[str, Any]]) -> Iterable[str]:
    """What is to be reported: `repair` where one was made or undone, else `change` where anything changed."""
    if new_repairs(document, previous):
        return ("repair",)
    old = {_fault(finding) for finding in previous["findings"]} if previous else None
    changed = previous is None or previous["health"] != document["health"]
    return ("change",) if changed or old != {_fault(finding) for finding in document["findings"]} else ()
