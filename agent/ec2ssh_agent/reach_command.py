"""The command `reach`: the question, the analysis, and the document of contracts.md (`ec2ssh-agent.reach/1`)."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from typing import Any

from . import reach, reach_files
from .config import Config
from .host import Host
from .model import UsageError
from .reach import addresses
from .reach.question import Question, Reach, Trace
from .reach.ruleset import Family, Ruleset
from .reach_files import Asked, Decisions
from .reach_page import render

__all__ = ["answer", "exit_status", "render"]

Document = dict[str, Any]


def answer(host: Host, arguments: argparse.Namespace, config_of: Callable[[], Config]) -> Document:
    """`config_of` is asked only where the live instance is. Raises AgentError."""
    if arguments.port is not None and not 0 < arguments.port < 65536:
        raise UsageError(f"--port {arguments.port} is not between 1 and 65535")
    sources = [_source(text) for text in arguments.__dict__["from"]]
    if reach_files.named(arguments):
        asked = reach_files.ask(arguments)
    else:
        from . import reach_live

        asked = reach_live.ask(host, arguments, config_of())
    found = Reach((), tuple(item for question in asked.questions for item in question.unseen))
    if arguments.json or not sources:
        found = _analysed(asked)
    return reach.to_json(found, _traces(asked, sources))


def _source(text: str) -> tuple[Family, int]:
    try:
        return addresses.parse_address(text)
    except ValueError as error:
        raise UsageError(f"--from {error}") from error


def _analysed(asked: Asked) -> Reach:
    parts = [reach.analyse(question, asked.ruleset, asked.decisions) for question in asked.questions]
    return Reach(
        tuple(item for part in parts for item in part.answers), tuple(item for part in parts for item in part.unseen)
    )


def _traces(asked: Asked, sources: list[tuple[Family, int]]) -> list[Trace]:
    traces: list[Trace] = []
    for family, address in sources:
        before = len(traces)
        for question in asked.questions:
            traces += _traced(question, asked.ruleset, asked.decisions, family=family, address=address)
        if len(traces) == before:
            text = addresses.format_address(address, family)
            raise UsageError(f"--from {text}: there is no local {family.value} address that it could connect to")
    return traces


def _traced(question: Question, ruleset: Ruleset, decisions: Decisions, *, family: Family, address: int) -> list[Trace]:
    return [
        reach.trace(question, ruleset, decisions, family, address, local.address, link.name)
        for link in question.links
        for local in link.addresses
        if local.family is family
    ]


def exit_status(document: Mapping[str, Any], arguments: argparse.Namespace) -> int:
    """contracts.md, "reach": with --from 0 all connected, 2 some certainly not, else 1; without, by who gets in."""
    if document["from"]:
        outcomes = {trace["outcome"] for trace in document["from"]}
        return 0 if outcomes == {"connected"} else 2 if outcomes - {"connected", "uncertain"} else 1
    if not document["answers"]:
        return 3
    found = {outcome for item in document["answers"] for outcome, sources in item["sources"].items() if sources}
    return 0 if "connected" in found else 1 if "uncertain" in found else 2
