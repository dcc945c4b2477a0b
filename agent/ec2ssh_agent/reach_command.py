"""The command `reach`: the question, the analysis, and what of it is shown (contracts.md, "reach")."""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Iterator

from . import reach, reach_files
from .config import Config
from .host import Host
from .model import UsageError
from .plain import NamedTuple
from .reach import addresses
from .reach.question import Answer, Cause, Outcome, Question, Reach, Trace
from .reach.ruleset import Family, Ruleset
from .reach_files import Asked, Decisions


class Document(NamedTuple):
    """What the page and the JSON are made from."""

    reach: Reach
    traces: tuple[Trace, ...]
    live: bool


def answer(host: Host, arguments: argparse.Namespace, config_of: Callable[[], Config]) -> Document:
    """`config_of` is asked only where the live instance is. Raises AgentError."""
    # Every tuple of a long ruleset lives until the end, and the process then ends: there is nothing to collect.
    gc.disable()
    if arguments.port is not None and not 0 < arguments.port < 65536:
        raise UsageError(f"--port {arguments.port} is not between 1 and 65535")
    sources = [_source(text) for text in arguments.__dict__["from"]]
    live = not reach_files.named(arguments)
    try:
        asked = _asked(host, arguments, config_of, live)
        # A path alone needs no answer for everybody.
        found = _analysed(asked) if arguments.json or not sources else Reach((), _unseen(asked))
        return Document(found, _traces(asked, sources), live)
    except reach.AnalysisError as error:
        # Neither "uncertain" nor "nobody": such rules cannot be in a kernel.
        raise reach_files.InputError(str(error), 3 if live else 65) from error


def _asked(host: Host, arguments: argparse.Namespace, config_of: Callable[[], Config], live: bool) -> Asked:
    if not live:
        return reach_files.ask(arguments)
    from . import reach_live

    return reach_live.ask(host, arguments, config_of())


def _unseen(asked: Asked) -> tuple[tuple[str, Family, str], ...]:
    return tuple(dict.fromkeys(item for question in asked.questions for item in question.unseen))


def _source(text: str) -> tuple[Family, int]:
    try:
        return addresses.parse_address(text)
    except ValueError as error:
        raise UsageError(f"--from {error}") from error


def _analysed(asked: Asked) -> Reach:
    return reach.merged(reach.analyse(question, asked.ruleset, asked.decisions) for question in asked.questions)


def _traces(asked: Asked, sources: list[tuple[Family, int]]) -> tuple[Trace, ...]:
    traces: list[Trace] = []
    for family, address in sources:
        before = len(traces)
        for question in asked.questions:
            traces += _traced(question, asked.ruleset, asked.decisions, family=family, address=address)
        if len(traces) == before:
            text = addresses.format_address(address, family)
            raise UsageError(f"--from {text}: there is no local {family.value} address that it could connect to")
    return tuple(traces)


def _traced(question: Question, ruleset: Ruleset, decisions: Decisions, *, family: Family, address: int) -> list[Trace]:
    return [
        reach.trace(question, ruleset, decisions, family, address, local.address, link.name)
        for link in question.links
        for local in link.addresses
        if local.family is family
    ]


def written(document: Document) -> Iterator[str]:
    """The JSON document, in pieces."""
    from . import reach_json

    return reach_json.pieces(document.reach, document.traces)


def render(document: Document, *, width: int, colour: bool) -> str:
    from . import reach_page

    return reach_page.render(document.reach, document.traces, width=width, colour=colour)


def _doubtful(answer: Answer) -> bool:
    """Whether something is uncertain, other than for the networks behind other interfaces: containers', say."""
    few = 1 << addresses.BITS[answer.family] - 2
    return any(
        rule.outcome is Outcome.UNCERTAIN
        and not (rule.cause is Cause.ELSEWHERE and sum(high - low + 1 for low, high in rule.sources) < few)
        for rule in answer.rules
    )


def exit_status(document: Document, arguments: argparse.Namespace) -> int:
    """With --from: 0 all connected, 2 some certainly not, else 1. Without: of files 0 somebody gets in, 1 perhaps, 2
    nobody; live, as `check`: 0 somebody gets in on all ways in, 1 something is uncertain, shut or hidden, 2 nobody, 3
    nothing could be judged.
    """
    if document.traces:
        seen = {trace.outcome for trace in document.traces}
        return 0 if seen == {Outcome.CONNECTED} else 2 if seen - {Outcome.CONNECTED, Outcome.UNCERTAIN} else 1
    answers = document.reach.answers
    if not answers:
        return 3
    if not any(item.of(Outcome.CONNECTED) for item in answers):
        return 1 if any(item.of(Outcome.UNCERTAIN) for item in answers) else 2
    # Of a way in's ports and addresses one is enough.
    ways = {(item.interface, item.family) for item in answers}
    shut = ways - {(item.interface, item.family) for item in answers if item.of(Outcome.CONNECTED)}
    troubled = shut or any(item.nd.blocked or _doubtful(item) for item in answers)
    return 1 if document.live and troubled else 0
