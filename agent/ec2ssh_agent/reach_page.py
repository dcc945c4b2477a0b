"""How the answer of `reach` is shown to a person: who gets in, who does not and what they see, because of which rule.

Martian sources (loopback, multicast, the host's own addresses) come last, in one line; they do not cut the ranges of
the others into pieces here, as they do in the JSON.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from .reach import addresses
from .reach.ruleset import Family, Ranges
from .status import printable

_COLOUR = {"connected": "32", "uncertain": "33", "closed": "31", "timeout": "31", "refused": "31", "unreachable": "31"}
_MEANING = {
    "timeout": 'timeout ("Connection timed out")',
    "refused": 'refused ("Connection refused")',
    "unreachable": 'unreachable ("No route to host", or the like)',
    "closed": "closed (connected, then ended without a banner)",
}
_SHOWN = 6
_REASONS = 4


class _Row(NamedTuple):
    """Sources that the same rules decide in the same way."""

    outcome: str
    sources: Ranges
    limited: bool
    possible: tuple[str, ...]
    reasons: tuple[str, ...]
    never: bool  # no rule had a say: a martian source


class _Ink:
    def __init__(self, width: int, colour: bool) -> None:
        self.width, self.colour = max(width, 60), colour

    def paint(self, text: str, outcome: str) -> str:
        return f"\x1b[1;{_COLOUR[outcome]}m{text}\x1b[0m" if self.colour else text

    def dim(self, text: str) -> str:
        return f"\x1b[2m{text}\x1b[0m" if self.colour else text

    def fold(self, text: str, indent: int = 0) -> list[str]:
        """Lines no wider than the page."""
        first, after = " " * indent, " " * (indent + 2)
        return textwrap.wrap(
            printable(text), self.width, initial_indent=first, subsequent_indent=after, break_on_hyphens=False
        )


def render(document: Mapping[str, Any], *, width: int, colour: bool) -> str:
    """`width` in columns. With paths only these, else the answers; then what could not be judged."""
    ink = _Ink(width, colour)
    lines: list[str] = []
    for item in () if document["from"] else document["answers"]:
        lines += _answer(item, ink)
    for trace in document["from"]:
        lines += _trace(trace, ink)
    for item in document["unseen"]:
        where = f"{item['interface']} {item['family']}".strip()
        lines += ink.fold(f"{where}: not judged: {item['reason']}")
    return "\n".join(lines or ["no external interface"]).rstrip("\n") + "\n"


# --- answers -----------------------------------------------------------------------------------------------------


def _answer(item: Mapping[str, Any], ink: _Ink) -> list[str]:
    family = Family(item["family"])
    rows = _rows(item)
    martians = addresses.normal(pair for row in rows if row.never for pair in row.sources)
    judged = [row for row in rows if not row.never]
    lines = ink.fold(f"port {item['port']} of {_some(item['to'], 3)} on {item['interface']} ({item['family']})")
    sections = (
        ("gets in", [row for row in judged if row.outcome == "connected"]),
        ("does not get in", [row for row in judged if row.outcome not in ("connected", "uncertain")]),
        ("cannot be told from the rules", [row for row in judged if row.outcome == "uncertain"]),
    )
    rest = _rest(judged, family)
    for title, chosen in sections:
        if chosen or title == "gets in":
            lines.append("  " + title + ("" if chosen else ": " + ink.paint("nobody", "timeout")))
        for row in chosen:
            who = (
                "everybody" if len(judged) == 1 else "everybody else" if row is rest else _names(row, martians, family)
            )
            lines += _row(row, who, ink)
    if martians:
        never = _some(addresses.cidrs(martians, family), _SHOWN)
        lines += [ink.dim(line) for line in ink.fold(f"never, whatever the rules say: {never}", 2)]
    return [*lines, *_neighbours(item, ink), ""]


def _row(row: _Row, who: str, ink: _Ink) -> list[str]:
    notes = []
    if row.outcome in _MEANING:
        notes.append(_MEANING[row.outcome])
    if row.outcome == "uncertain":
        notes.append("may be " + ", ".join(row.possible))
    elif row.limited:
        notes.append(f"rate-limited, then {_others(row.possible, row.outcome)}")
    lines = [ink.paint(line, row.outcome) for line in ink.fold(who + (f": {'; '.join(notes)}" if notes else ""), 4)]
    for reason in row.reasons[:_REASONS]:
        lines += ink.fold(reason, 8)
    more = len(row.reasons) - _REASONS
    return lines + ([f"        and {more} more rules"] if more > 0 else [])


def _others(possible: tuple[str, ...], outcome: str) -> str:
    return " or ".join(name for name in possible if name != outcome) or outcome


def _some(items: tuple[str, ...], most: int) -> str:
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")


def _names(row: _Row, martians: Ranges, family: Family) -> str:
    """The prefixes, with the holes that martian sources leave filled where that makes fewer of them."""
    exact = addresses.cidrs(row.sources, family)
    if len(exact) <= 1:
        return _some(exact, _SHOWN)
    # A hole counts as filled only where the row lies on both its sides.
    holes = [
        (low, high)
        for low, high in martians
        if addresses.contains(row.sources, low - 1) or addresses.contains(row.sources, high + 1)
    ]
    filled = addresses.cidrs(addresses.union(row.sources, tuple(holes)), family)
    return _some(min(filled, exact, key=len), _SHOWN)


def _rows(item: Mapping[str, Any]) -> list[_Row]:
    grouped: dict[tuple[str, tuple[str, ...], bool, tuple[str, ...]], list[Mapping[str, Any]]] = {}
    for rule in item["rules"]:
        key = (rule["outcome"], tuple(rule["sources"]), rule["rate_limited"], tuple(rule["possible"]))
        grouped.setdefault(key, []).append(rule)
    rows = []
    for (outcome, sources, limited, possible), rules in grouped.items():
        ranges = addresses.normal(addresses.parse_cidr(source)[1] for source in sources)
        never = all(rule["table"] is None and rule["text"].startswith("martian") for rule in rules)
        rows.append(_Row(outcome, ranges, limited, possible, _reasons(rules, outcome), never))
    return sorted(rows, key=lambda row: _size(row.sources))


def _reasons(rules: list[Mapping[str, Any]], outcome: str) -> tuple[str, ...]:
    """Of who gets in only what let the SYN pass: rules before policies, policies before nothing at all."""
    if outcome == "connected":
        rules = [rule for rule in rules if rule["stage"] == "syn"] or rules
        rules = [r for r in rules if r["rule"] is not None] or [r for r in rules if r["table"]] or rules
    return tuple(dict.fromkeys(_because(rule) for rule in rules))


def _size(ranges: Ranges) -> int:
    return sum(high - low + 1 for low, high in ranges)


def _rest(rows: list[_Row], family: Family) -> Optional[_Row]:
    """The row best called "everybody else": the largest, where many prefixes would be needed to name it."""
    if not rows:
        return None
    largest = rows[-1] if _size(rows[-1].sources) >= max(_size(row.sources) for row in rows) else rows[0]
    many = len(addresses.cidrs(largest.sources, family)) > _SHOWN
    return largest if many or 2 * _size(largest.sources) > _size(addresses.SPACE[family]) else None


def _because(rule: Mapping[str, Any]) -> str:
    if not rule["table"]:
        return str(rule["text"])
    place = " ".join(str(part) for part in (rule["table"], rule["chain"], rule["rule"]) if part is not None)
    stage = {"reply": "the reply, ", "ack": "the ACK, "}.get(rule["stage"], "")
    return f"{stage}{place}: {rule['text']}"


def _neighbours(item: Mapping[str, Any], ink: _Ink) -> list[str]:
    if not item["nd"]["blocked"]:
        return []
    reasons = dict.fromkeys(_because(rule) for rule in item["nd"]["rules"])
    head = ink.fold("neighbour discovery is BLOCKED: only who is in a neighbour cache gets an answer", 2)
    lines = [ink.paint(line, "timeout") for line in head]
    return lines + [line for reason in reasons for line in ink.fold(reason, 8)]


# --- paths -------------------------------------------------------------------------------------------------------

_STAGES = {
    "syn": "the client's SYN comes in",
    "reply": "the SYN-ACK goes out",
    "ack": "the client's ACK comes in",
    "socket": "sshd's socket",
    "wrappers": "TCP wrappers",
    "route": "routing",
}


def _trace(trace: Mapping[str, Any], ink: _Ink) -> list[str]:
    """Like a traceroute: one line for each rule that matched, in the order of the way."""
    outcome, possible = trace["outcome"], tuple(trace["possible"])
    says = _MEANING.get(outcome, outcome)
    if outcome == "uncertain":
        says += ": may be " + ", ".join(possible)
    elif trace["rate_limited"]:
        says += f"; rate-limited, then {_others(possible, outcome)}"
    head = f"{trace['address']} -> {trace['to']} port {trace['port']} on {trace['interface']}: "
    lines = [printable(head) + ink.paint(says, outcome)]
    visits = trace["path"]
    places = [" ".join(str(p) for p in (v["table"], v["chain"], v["rule"]) if p is not None) for v in visits]
    wide = min(max([len(place) for place in places] + [4]), 40)
    stage = ""
    for number, (visit, place) in enumerate(zip(visits, places), 1):
        if visit["stage"] != stage:
            stage = visit["stage"]
            lines.append(ink.dim(f"  {_STAGES.get(stage, stage)}"))
        start = f"  {number:>3}  {visit['hook']:<11}  {printable(place):<{wide}}  {visit['verdict']:<8}"
        whole = f"{start}  {printable(visit['text'])}".rstrip()
        # A text that does not fit has lines of its own.
        lines += [whole] if len(whole) <= ink.width else [start.rstrip(), *ink.fold(visit["text"], 7)]
    return [*lines, ""]
