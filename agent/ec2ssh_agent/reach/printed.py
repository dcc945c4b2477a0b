"""Answers and paths as contracts.md prints them in JSON (`ec2ssh-agent.reach/1`)."""

from __future__ import annotations

from collections.abc import Sequence

from . import addresses
from .question import Answer, Deciding, Reach, Trace
from .ruleset import Family

SCHEMA = "ec2ssh-agent.reach/1"


def to_json(reach: Reach, traces: Sequence[Trace] = ()) -> dict[str, object]:
    return {
        "schema": SCHEMA,
        "answers": [answer_json(answer) for answer in reach.answers],
        "unseen": [
            {"interface": interface, "family": family.value, "reason": reason}
            for interface, family, reason in reach.unseen
        ],
        "from": [trace_json(trace) for trace in traces],
    }


def answer_json(answer: Answer) -> dict[str, object]:
    family = answer.family
    return {
        "interface": answer.interface,
        "family": family.value,
        "to": [addresses.format_address(address, family) for address in answer.to],
        "port": answer.port,
        "sources": {outcome.value: list(addresses.cidrs(ranges, family)) for outcome, ranges in answer.sources},
        "nd": {"blocked": answer.nd.blocked, "rules": [deciding_json(rule, family) for rule in answer.nd.rules]},
        "rules": [deciding_json(rule, family) for rule in answer.rules],
    }


def deciding_json(rule: Deciding, family: Family) -> dict[str, object]:
    return {
        "outcome": rule.outcome.value,
        "possible": [outcome.value for outcome in rule.possible],
        "rate_limited": rule.rate_limited,
        "sources": list(addresses.cidrs(rule.sources, family)),
        "stage": rule.stage,
        "hook": rule.hook or None,
        "priority": rule.priority if rule.hook else None,
        "backend": rule.backend.value,
        "table": rule.table,
        "chain": rule.chain,
        "rule": rule.rule,
        "handle": rule.handle,
        "text": rule.text,
    }


def trace_json(trace: Trace) -> dict[str, object]:
    return {
        "address": addresses.format_address(trace.address, trace.family),
        "to": addresses.format_address(trace.to, trace.family),
        "interface": trace.interface,
        "port": trace.port,
        "outcome": trace.outcome.value,
        "possible": [outcome.value for outcome in trace.possible],
        "rate_limited": trace.rate_limited,
        "path": [visit._asdict() for visit in trace.path],
    }
