"""`explain timeout|refused`: the document's list of causes for that error, each with this instance's answer.

Source: ../shared/design/document.md, "The two errors". The answers come from a Status document; nothing is looked at
here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .plain import NamedTuple
from .status import printable, some


class Cause(NamedTuple):
    """`answer`: yes, no, unknown, or outside (it cannot be seen from inside the instance)."""

    code: str
    question: str
    answer: str
    evidence: tuple[str, ...]


_MESSAGE = {
    "timeout": "ssh: connect to host X port {port}: Connection timed out",
    "refused": "ssh: connect to host X port {port}: Connection refused",
}
_MEANING = {
    "timeout": "No answer came; the client gave up.",
    "refused": "A remote host answered with a refusal.",
}


def _evidence(document: Mapping[str, Any], symptoms: tuple[str, ...], prefixes: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(
        text
        for finding in document["findings"]
        if finding["symptom"] in symptoms and finding["id"].startswith(prefixes)
        for text in (finding["summary"], *finding["evidence"])
    )


def _sources(document: Mapping[str, Any], outcome: str, *, wrappers: bool = False) -> tuple[str, ...]:
    """For each answer, for which sources a rule of the firewall's (or TCP wrappers') decides `outcome`, even where that
    is as intended. Not those that no rule decides on: addresses that cannot be a client's (table null).
    """
    texts = []
    for answer in document["reach"]["answers"]:
        rules = [
            rule
            for rule in answer.get("rules", ())
            if rule["outcome"] == outcome and rule["table"] and (rule["backend"] == "tcp-wrappers") is wrappers
        ]
        sources = [source for rule in rules for source in rule["sources"]]
        if sources:
            texts.append(
                f"on {answer['interface']} ({answer['family']}) {some(sources, 3)} because of {rules[0]['text']}"
            )
    return tuple(texts)


def _cause(code: str, question: str, document: Mapping[str, Any], evidence: tuple[str, ...]) -> Cause:
    if evidence:
        return Cause(code, question, "yes", evidence)
    if document["health"] == "unknown" or not document["reach"]["answers"]:
        return Cause(code, question, "unknown", (document["summary"],))
    return Cause(code, question, "no", ())


def causes(error: str, document: Mapping[str, Any]) -> tuple[Cause, ...]:
    """The causes that the document lists for `error` ("timeout" or "refused"), in its order."""
    port = document["ssh"].get("port") or 22
    if error == "timeout":
        outside = ("it cannot be seen from inside; nothing in this instance can mend it",)
        inside = _evidence(document, ("timeout", "unreachable"), ("firewall", "nd-", "conntrack"))
        return (
            Cause("T1", "Does a security group or network ACL keep the client out?", "outside", outside),
            _cause("T2", "Does a firewall in this instance drop?", document, inside or _sources(document, "timeout")),
            Cause("T3", "Does a firewall between client and server drop?", "outside", outside),
            Cause("T4", "Does the host not exist?", "no", ("you are reading this on it",)),
            _cause(
                "TCP wrappers",
                "Do hosts.allow and hosts.deny refuse?",
                document,
                _evidence(document, ("closed",), ("wrappers",)) or _sources(document, "closed", wrappers=True),
            ),
        )
    sshd = _evidence(document, ("refused",), ("sshd", "host-key", "privsep"))
    rejects = _evidence(document, ("refused",), ("firewall",))
    return (
        _cause("R1", f"Does no service listen on port {port}?", document, sshd),
        _cause(
            "R2",
            "Does a firewall in this instance reject?",
            document,
            rejects or _sources(document, "refused") if not sshd else rejects,
        ),
    )


def render(error: str, document: Mapping[str, Any], found: tuple[Cause, ...], *, width: int = 80) -> str:
    """The page, of lines that fit a console `width` columns wide."""
    import textwrap  # not at the top, as in status

    def fold(text: str, indent: str = "") -> list[str]:
        after = indent * 2
        return textwrap.wrap(
            printable(text), max(width, 40), initial_indent=indent, subsequent_indent=after, break_on_hyphens=False
        )

    lines = [_MESSAGE[error].format(port=document["ssh"].get("port") or 22), _MEANING[error], ""]
    for cause in found:
        lines += fold(f"{cause.code}: {cause.question}  {cause.answer.upper()}")
        for text in cause.evidence[:6]:
            lines += fold(text, "    ")
    if not any(cause.answer in ("yes", "unknown") for cause in found):
        lines += ["", *fold(_elsewhere(document))]
    return "\n".join(lines) + "\n"


def _elsewhere(document: Mapping[str, Any]) -> str:
    """Where to look on: for something else in this instance, or outside."""
    if document["health"] == "unreachable":
        return f"Nothing in this instance makes this error, but SSH is not reachable: {document['summary']}"
    return "Nothing in this instance blocks SSH: look at security groups, network ACLs, routes and the address."
