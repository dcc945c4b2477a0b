"""How a Status document is shown to a person, and what of it everybody may read.

The document is the JSON of contracts.md (`ec2ssh-agent.status/1`). Whatever comes from the host (comments, banners,
file names) is printed with control characters escaped, so that nothing can drive the reader's terminal.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from .model import Health

Document = dict[str, Any]

_COLOUR = {"ok": "32", "degraded": "33", "unreachable": "31", "unknown": "35", "critical": "31", "warning": "33"}
_TITLE = {
    "ok": "SSH is healthy",
    "degraded": "SSH is reachable, but something is wrong or uncertain",
    "unreachable": "SSH is UNREACHABLE",
    "unknown": "SSH's health is UNKNOWN",
}
#: Of the repairs that `status` shows, with their commands.
_REPAIRS = 3
#: Lists longer than this are cut in status and reports (contracts.md).
LIST_CAP = 10_000


def printable(text: object) -> str:
    """`text` with every control, format and undecodable character as an escape."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in str(text))


def bounded(value: Any) -> Any:
    """A copy in which a list over LIST_CAP entries is cut, with `"truncated": true` beside it."""
    if isinstance(value, Mapping):
        cut = {key: bounded(item) for key, item in value.items()}
        if any(isinstance(item, list) and len(item) > LIST_CAP for item in value.values()):
            cut["truncated"] = True
        return cut
    if isinstance(value, (list, tuple)):
        return [bounded(item) for item in value[:LIST_CAP]]
    return value


def _judged(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rules of an answer without those for sources that no host answers (127/8 and the like: martians), which would
    only hide what matters.
    """
    return [rule for rule in answer["rules"] if not (rule["table"] is None and rule["text"].startswith("martian"))]


def public(document: Mapping[str, Any]) -> Document:
    """What any user may read: no rule texts and no source sets."""
    shown = dict(document)
    shown["reach"] = {
        "answers": [
            {
                **{key: answer[key] for key in ("interface", "family", "to", "port")},
                "outcomes": sorted({rule["outcome"] for rule in _judged(answer)}),
            }
            for answer in document["reach"]["answers"]
        ],
        "unseen": document["reach"]["unseen"],
    }
    # What follows the colon of a repair's text are its commands, with the rules and sources that they name.
    shown["findings"] = [
        {**finding, "evidence": [], "repair": finding["repair"].partition(": ")[0]} for finding in document["findings"]
    ]
    shown["repairs"] = [
        {key: repair[key] for key in ("id", "time", "finding", "outcome") if key in repair}
        for repair in document["repairs"]
    ]
    return shown


def age(document: Mapping[str, Any], now: str) -> Optional[str]:
    """Why the document cannot be trusted any more, or None. Times are RFC 3339 in UTC and compare as text."""
    if document["valid_until"] < now:
        return f"the daemon has not looked since {document['updated']} (dead, hung or stopped)"
    if document["updated"] > now:
        return f"the clock has gone back behind the daemon's last look ({document['updated']})"
    return None


class _Page:
    """Lines to a width, with colour or without."""

    def __init__(self, width: int, colour: bool) -> None:
        self.width = max(width, 40)
        self.colour = colour
        self.lines: list[str] = []

    def paint(self, text: str, key: str) -> str:
        return f"\x1b[1;{_COLOUR[key]}m{text}\x1b[0m" if self.colour and key in _COLOUR else text

    def say(self, text: str, indent: int = 0, hang: int = 0) -> None:
        import textwrap  # not at the top: the passes, which import this file, show nothing

        self.lines += textwrap.wrap(
            printable(text), self.width, initial_indent=" " * indent, subsequent_indent=" " * (indent + hang)
        ) or [""]


def render(
    document: Mapping[str, Any],
    *,
    width: int = 80,
    height: int = 0,
    colour: bool = False,
    stale: Optional[str] = None,
) -> str:
    """The page that a person reads at night: what is wrong, what was done, who gets in.

    `height` in lines, 0 where it does not scroll: a page that is longer says at its end, too, how SSH is.
    """
    page = _Page(width, colour)
    health = "unknown" if stale else document["health"]
    page.lines.append(page.paint(_TITLE[health], health))
    if stale:
        page.say(f"{stale}; below is what it saw then ({_TITLE[document['health']]})", 2)
    if document.get("summary"):
        page.say(document["summary"], 2)
    for finding in document["findings"]:
        _finding(page, finding)
    _reach(page, document["reach"])
    if document["repairs"]:
        page.lines += ["", "Repairs, newest first"]
        for repair in document["repairs"][:_REPAIRS]:
            page.say(_repair_line(repair), 2, 4)
            for command in repair.get("commands", ()):
                page.say("# " + command, 6, 2)
            for text in repair.get("notes", ()):
                page.say(text, 6, 2)
        if len(document["repairs"]) > _REPAIRS:
            page.say("earlier ones: ec2ssh-agent history", 2)
    _notes(page, document)
    if height and len(page.lines) >= height:
        # What is left on a console that does not scroll back must not be the least of it.
        page.lines += ["", page.lines[0]]
    return "\n".join(page.lines) + "\n"


def _finding(page: _Page, finding: Mapping[str, Any]) -> None:
    page.lines.append("")
    page.lines.append(page.paint(f"{finding['severity']}: {printable(finding['id'])}", finding["severity"]))
    page.say(finding["summary"], 2)
    if finding["symptom"] != "none":
        page.say(f"a client sees: {_SYMPTOM[finding['symptom']]}", 2)
    for evidence in finding["evidence"][:8]:
        page.say("because " + evidence, 2, 8)
    if finding["repair"]:
        page.say("repair: " + finding["repair"], 2, 8)


_SYMPTOM = {
    "timeout": "Connection timed out",
    "refused": "Connection refused",
    "unreachable": "No route to host (or the like)",
    "closed": "Connection closed before the banner",
    "silent": "connected, then no banner",
}


def _repair_line(repair: Mapping[str, Any]) -> str:
    took = f" in {repair['seconds']:.1f} s" if isinstance(repair.get("seconds"), (int, float)) else ""
    return f"{repair['time']}  {repair['finding']}: {repair['outcome']}{took}  [{repair['id']}]"


def some(items: list[str], most: int = 6) -> str:
    """The first few of a list, and how many more there are."""
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")


def _reach(page: _Page, reach: Mapping[str, Any]) -> None:
    if reach["answers"] or reach["unseen"]:
        page.lines += ["", "Who can connect"]
    for answer in reach["answers"]:
        to = some(answer["to"], 3)
        page.say(f"{answer['interface']} {answer['family']} to {to} port {answer['port']}", 2, 4)
        if "sources" not in answer:
            page.say("outcomes: " + ", ".join(answer.get("outcomes", ())), 4)
            continue
        judged = _judged(answer)
        decided = {rule["outcome"] for rule in judged}
        for outcome, sources in answer["sources"].items():
            if decided == {outcome}:
                page.say(f"{outcome:<12}everybody", 4)
            elif sources and outcome in decided:
                rules = [rule["text"] for rule in judged if rule["outcome"] == outcome]
                because = f"  <- {rules[0]}" if rules and outcome != "connected" else ""
                page.say(f"{outcome:<12}{some(sources)}{because}", 4, 14)
    for item in reach["unseen"]:
        page.say(f"{item['interface']} {item['family']}: not looked at: {item['reason']}", 2, 4)


_QUEUE = (("waiting", "waiting"), ("parked", "refused for good"), ("dropped", "dropped"))


def _notes(page: _Page, document: Mapping[str, Any]) -> None:
    agent, ssh, firewall = document["agent"], document["ssh"], document["firewall"]
    page.lines.append("")
    hidden = [text.split(": ")[1] for text in document.get("notes", ()) if text.startswith("not seen: ")]
    nobody = "listeners not seen" if "listeners" in hidden else "nobody listens"
    listeners = some(ssh.get("listeners") or [], 4) or nobody
    page.say(f"sshd: {ssh.get('unit') or 'no unit'}, port {ssh.get('port')}, {listeners}", 0, 6)
    rules = some(firewall.get("backends") or ["rules not seen" if "ruleset" in hidden else "no rules"])
    page.say(f"firewall: {firewall.get('owner') or 'nobody owns it'} ({rules})")
    for key, value in document.get("circuit", {}).items():
        page.say(f"{key}: {value}", 0, 2)
    for text in document.get("notes", ()):
        page.say(text, 0, 2)
    report = document.get("report") or {}
    if report.get("url"):
        queue = ", ".join(f"{report.get(key, 0)} {word}" for key, word in _QUEUE if key == "waiting" or report.get(key))
        page.say(f"reports: {queue}; last delivered: {report.get('delivered') or 'never'}", 0, 2)
        page.say(f"the endpoint's last answer: {report.get('last', 'none yet')}", 2, 2)
    daemon = f"daemon pid {agent['pid']}" if agent.get("pid") else "no daemon"
    page.say(f"ec2ssh-agent {agent['version']}, {daemon}, looked {document['updated']} in {agent['pass_ms']} ms", 0, 2)


def exit_status(document: Mapping[str, Any], stale: Optional[str] = None) -> int:
    return Health.UNKNOWN.exit if stale else Health(document["health"]).exit
