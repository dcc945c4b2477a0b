"""How the answer of `reach` is shown to a person: who gets in, who does not and what they see, because of which rule.

Martian sources (loopback, multicast, the host's own addresses) come last, in one line; they do not cut the ranges of
the others into pieces here, as they do in the JSON. Long lists are cut: this is a page, the JSON has all.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Optional

from .plain import NamedTuple
from .reach import addresses
from .reach.question import Answer, Cause, Deciding, Outcome, Reach, Trace
from .reach.ruleset import Backend, Family, Ranges
from .status import printable

_GREEN, _YELLOW, _RED = "32", "33", "31"
_MEANING = {
    Outcome.TIMEOUT: 'timeout ("Connection timed out")',
    Outcome.REFUSED: 'refused ("Connection refused")',
    Outcome.UNREACHABLE: 'unreachable ("No route to host", or the like)',
    Outcome.CLOSED: "closed (connected, then ended without a banner)",
}
_SHOWN = 6  # prefixes of a row
_REASONS = 4  # rules of a row
_ROWS = 20  # of a section


class _Row(NamedTuple):
    """Sources that the same rules decide in the same way."""

    outcome: Outcome
    sources: Ranges
    limited: bool
    possible: tuple[Outcome, ...]
    rules: list[Deciding]

    @property
    def by_rule(self) -> bool:
        return any(rule.stage == "syn" and rule.rule is not None for rule in self.rules)

    @property
    def martian(self) -> bool:
        return all(rule.cause is Cause.MARTIAN for rule in self.rules)


class _Ink:
    def __init__(self, width: int, colour: bool) -> None:
        self.width, self.colour = max(width, 60), colour
        self.mixed = False  # whether legacy and nft tables of one name are both there

    def paint(self, text: str, outcome: Outcome) -> str:
        colour = {Outcome.CONNECTED: _GREEN, Outcome.UNCERTAIN: _YELLOW}.get(outcome, _RED)
        return f"\x1b[1;{colour}m{text}\x1b[0m" if self.colour else text

    def dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self.colour else text

    def fold(self, text: str, indent: int = 0) -> list[str]:
        """Lines no wider than the page."""
        first, after = " " * indent, " " * (indent + 2)
        return textwrap.wrap(
            printable(text), self.width, initial_indent=first, subsequent_indent=after, break_on_hyphens=False
        )


def render(reach: Reach, traces: tuple[Trace, ...], *, width: int, colour: bool) -> str:
    """`width` in columns. With paths only these, else the answers; then what could not be judged."""
    ink = _Ink(width, colour)
    lines: list[str] = []
    for item in () if traces else reach.answers:
        lines += _answer(item, ink)
    for trace in traces:
        lines += _trace(trace, ink)
    for interface, family, reason in reach.unseen:
        lines += ink.fold(f"{interface} {family.value}".strip() + f": not judged: {reason}")
    return "\n".join(lines or ["no external interface"]).rstrip("\n") + "\n"


# --- answers -----------------------------------------------------------------------------------------------------


def _answer(item: Answer, ink: _Ink) -> list[str]:
    ink.mixed = _mixed(item.rules)
    rows = _rows(item)
    judged = [row for row in rows if not row.martian]
    martians = addresses.normal(pair for row in rows if row.martian for pair in row.sources)
    to = _some((addresses.format_address(address, item.family) for address in item.to), 3)
    lines = ink.fold(f"port {item.port} of {to} on {item.interface} ({item.family.value})")
    rest = _rest(judged, item.family)
    shut = tuple(outcome for outcome in Outcome if outcome not in (Outcome.CONNECTED, Outcome.UNCERTAIN))
    for title, outcomes in (
        ("gets in", (Outcome.CONNECTED,)),
        ("does not get in", shut),
        ("cannot be told from the rules", (Outcome.UNCERTAIN,)),
    ):
        chosen = [row for row in judged if row.outcome in outcomes]
        if not chosen and title == "gets in":
            lines.append(f"  {title}: {ink.paint('nobody', Outcome.TIMEOUT)}")
        elif chosen:
            lines.append(f"  {title}")
            lines += _section(chosen, rest, martians=martians, alone=len(judged) == 1, family=item.family, ink=ink)
    if martians:
        never = _some(addresses.cidrs(martians, item.family), _SHOWN)
        lines += [ink.dim(line) for line in ink.fold(f"never, whatever the rules say: {never}", 2)]
    return [*lines, *_neighbours(item, ink), ""]


def _section(
    rows: list[_Row], rest: Optional[_Row], *, martians: Ranges, alone: bool, family: Family, ink: _Ink
) -> list[str]:
    """In the order of the walk, "everybody else" last."""
    lines = []
    named = [row for row in rows if row is not rest]
    for row in named[:_ROWS]:
        lines += _row(row, "everybody" if alone else _names(row.sources, martians, family), ink)
    if len(named) > _ROWS:
        lines.append(f"    and by {len(named) - _ROWS} more rules, of which --json tells")
    if rest in rows:
        assert rest
        lines += _row(rest, "everybody" if alone else "everybody else", ink)
    return lines


def _row(row: _Row, who: str, ink: _Ink) -> list[str]:
    notes = [_MEANING[row.outcome]] if row.outcome in _MEANING else []
    if row.outcome is Outcome.UNCERTAIN:
        notes.append("may be " + ", ".join(outcome.value for outcome in row.possible))
    elif row.limited:
        notes.append(f"rate-limited, then {_others(row.possible, row.outcome)}")
    lines = [ink.paint(line, row.outcome) for line in ink.fold(who + (f": {'; '.join(notes)}" if notes else ""), 4)]
    reasons = _reasons(row, ink.mixed)
    for reason in reasons[:_REASONS]:
        lines += ink.fold(reason, 8)
    more = len(reasons) - _REASONS
    return lines + ([f"        and {more} more rules"] if more > 0 else [])


def _others(possible: tuple[Outcome, ...], outcome: Outcome) -> str:
    return " or ".join(one.value for one in possible if one is not outcome) or outcome.value


def _some(items: Iterable[str], most: int) -> str:
    listed = list(items)
    rest = len(listed) - most
    return ", ".join(listed[:most]) + (f" and {rest} more" if rest > 0 else "")


def _names(sources: Ranges, martians: Ranges, family: Family) -> str:
    """The prefixes, with the holes that martian sources leave filled where that makes fewer of them."""
    if len(sources) > 1000:
        return _some(addresses.cidrs(sources[:_SHOWN], family)[:_SHOWN], _SHOWN) + " and thousands more"
    exact = addresses.cidrs(sources, family)
    if len(exact) <= 1:
        return _some(exact, _SHOWN)
    holes = tuple(
        (low, high)
        for low, high in martians
        if addresses.contains(sources, low - 1) or addresses.contains(sources, high + 1)
    )
    filled = addresses.cidrs(addresses.union(sources, holes), family)
    return _some(filled if len(filled) < len(exact) else exact, _SHOWN)


def _rows(item: Answer) -> list[_Row]:
    rows: dict[tuple[Outcome, Ranges, bool, tuple[Outcome, ...]], _Row] = {}
    for rule in item.rules:
        key = (rule.outcome, rule.sources, rule.rate_limited, rule.possible)
        rows.setdefault(key, _Row(*key, rules=[])).rules.append(rule)
    return _told(list(rows.values()))


def _told(rows: list[_Row]) -> list[_Row]:
    """Without what let in, beside a rule that did: of who gets in every base chain tells, and most only by a policy."""
    let_in = [row for row in rows if row.outcome is Outcome.CONNECTED and row.by_rule]
    told = addresses.normal(pair for row in let_in for pair in row.sources)
    kept = []
    for row in rows:
        if row.outcome is Outcome.CONNECTED and not row.by_rule:
            row = row._replace(sources=addresses.subtract(row.sources, told))
        if row.sources:
            kept.append(row)
    return kept


def _reasons(row: _Row, mixed: bool) -> list[str]:
    """Of who gets in only what let the SYN pass: rules before policies, policies before nothing at all."""
    rules = row.rules
    if row.outcome is Outcome.CONNECTED:
        rules = [rule for rule in rules if rule.stage == "syn"] or rules
        rules = [r for r in rules if r.rule is not None] or [r for r in rules if r.table] or rules
    return list(dict.fromkeys(_because(rule, mixed) for rule in rules))


def _size(ranges: Ranges) -> int:
    return sum(high - low + 1 for low, high in ranges)


def _rest(rows: list[_Row], family: Family) -> Optional[_Row]:
    """The row best called "everybody else": the largest, where many prefixes would be needed to name it."""
    largest = max(rows, key=lambda row: _size(row.sources), default=None)
    if largest is None:
        return None
    half = 2 * _size(largest.sources) > _size(addresses.SPACE[family])
    return largest if half or len(addresses.cidrs(largest.sources[: _SHOWN + 1], family)) > _SHOWN else None


def _mixed(rules: Iterable[Deciding]) -> bool:
    """Whether one table may be meant by the same name in two backends."""
    return {Backend.LEGACY, Backend.IPTABLES_NFT} <= {rule.backend for rule in rules}


def _because(rule: Deciding, mixed: bool = False) -> str:
    if not rule.table:
        return rule.text
    place = " ".join(str(part) for part in (rule.table, rule.chain, rule.rule) if part is not None)
    stage = {"reply": "the reply, ", "ack": "the ACK, "}.get(rule.stage, "")
    backend = f"{rule.backend.value}, " if mixed else ""
    return f"{stage}{backend}{place}: {rule.text}"


def _neighbours(item: Answer, ink: _Ink) -> list[str]:
    if not item.nd.blocked:
        return []
    head = ink.fold("neighbour discovery is BLOCKED: only who is in a neighbour cache gets an answer", 2)
    lines = [ink.paint(line, Outcome.TIMEOUT) for line in head]
    return lines + [line for reason in dict.fromkeys(map(_because, item.nd.rules)) for line in ink.fold(reason, 8)]


# --- paths -------------------------------------------------------------------------------------------------------

_STAGES = {
    "syn": "the client's SYN comes in",
    "reply": "the answer goes out",
    "ack": "the client's ACK comes in",
    "socket": "sshd's socket",
    "wrappers": "TCP wrappers",
    "route": "routing",
}


def _trace(trace: Trace, ink: _Ink) -> list[str]:
    """Like a traceroute: one line for each rule that matched, in the order of the way."""
    says = _MEANING.get(trace.outcome, trace.outcome.value)
    if trace.outcome is Outcome.UNCERTAIN:
        says += ": may be " + ", ".join(outcome.value for outcome in trace.possible)
    elif trace.rate_limited:
        says += f"; rate-limited, then {_others(trace.possible, trace.outcome)}"
    source, to = (addresses.format_address(address, trace.family) for address in (trace.address, trace.to))
    head = f"{source} -> {to} port {trace.port} on {trace.interface}: "
    lines = [printable(head) + ink.paint(says, trace.outcome)]
    places = [" ".join(str(part) for part in (v.table, v.chain, v.rule) if part is not None) for v in trace.path]
    wide = min(max([len(place) for place in places] + [4]), 40)
    stage, told = "", set[str]()
    for number, (visit, place) in enumerate(zip(trace.path, places), 1):
        if visit.stage != stage:
            stage = visit.stage
            lines.append(ink.dim(f"  {_STAGES.get(stage, stage)}{' again' if stage in told else ''}"))
            told.add(stage)
        start = f"  {number:>3}  {visit.hook:<11}  {printable(place):<{wide}}  {visit.verdict:<8}"
        whole = f"{start}  {printable(visit.text)}".rstrip()
        # A text that does not fit has lines of its own.
        lines += [whole] if len(whole) <= ink.width else [start.rstrip(), *ink.fold(visit.text, 7)]
    return [*lines, ""]
