"""A rule in nft's words, from its JSON: for people, not for loading. Total: whatever is not known is named."""

from __future__ import annotations

_LIMIT = 1000
_DEPTH = 12
_VERDICTS = ("accept", "drop", "return", "continue", "notrack")
_BINARY = ("&", "|", "^", "<<", ">>")


def rule(statements: list[object], comment: object = None) -> str:
    """At most 1,000 characters, one line."""
    words = [_statement(statement) for statement in statements[:64]]
    if isinstance(comment, str):
        words.append(f'comment "{comment}"')
    text = " ".join(" ".join(words).split())
    return text if len(text) <= _LIMIT else text[: _LIMIT - 3] + "..."


def _statement(given: object) -> str:
    if not isinstance(given, dict) or len(given) != 1:
        return "?"
    for kind, body in given.items():
        if kind == "match" and isinstance(body, dict):
            return _match(body)
        if kind in _VERDICTS:
            return str(kind)
        if kind in ("jump", "goto"):
            return f"{kind} {_member(body, 'target')}"
        if kind == "vmap":
            return f"{_expression(_of(body, 'key'))} vmap {_expression(_of(body, 'data'))}"
        if kind == "mangle":
            return f"{_expression(_of(body, 'key'))} set {_expression(_of(body, 'value'))}"
        if kind == "counter":
            return f"counter name {body}" if isinstance(body, str) else "counter"
        if kind == "limit":
            return _limit(body)
        if kind in ("dnat", "snat", "redirect", "masquerade"):
            return _nat(str(kind), body)
        if kind == "reject":
            what = f"{_member(body, 'type')} {_member(body, 'expr')}".strip()
            return f"reject with {what}" if what else "reject"
        if kind == "set":
            return _learn(body)
        if kind == "meter":
            inside = f"{_expression(_of(body, 'key'))} {_statement(_of(body, 'stmt'))}"
            return f"meter {_member(body, 'name')} {{ {inside} }}"
        if kind in ("ct count", "quota"):
            over = "over " if _of(body, "inv") is True else ""
            return f"{kind} {over}{_member(body, 'val')} {_member(body, 'val_unit')}".rstrip()
        if kind == "log":
            prefix = _of(body, "prefix")
            return f'log prefix "{prefix}"' if isinstance(prefix, str) else "log"
        if kind == "xt":
            name = _of(body, "name")
            return f"xt {name}" if isinstance(name, str) else "xt"
        return str(kind)[:60]
    return "?"


def _of(body: object, name: str) -> object:
    return body.get(name) if isinstance(body, dict) else None


def _member(body: object, name: str) -> str:
    value = _of(body, name)
    return str(value)[:80] if isinstance(value, (str, int)) else ""


def _match(body: dict[str, object]) -> str:
    operator = body.get("op")
    left, right = body.get("left"), body.get("right")
    shown = _expression(right, exists=isinstance(right, bool))
    if operator in ("!=", "<", ">", "<=", ">=", "!"):
        return f"{_expression(left)} {operator} {shown}"
    return f"{_expression(left)} {shown}"


def _limit(body: object) -> str:
    if isinstance(body, str):
        return f"limit name {body}"
    over = "over " if _of(body, "inv") is True else ""
    unit = _member(body, "rate_unit")
    return f"limit rate {over}{_member(body, 'rate')}{' ' + unit if unit else ''}/{_member(body, 'per')}"


def _nat(kind: str, body: object) -> str:
    address, port = _of(body, "addr"), _of(body, "port")
    to = _expression(address) if address is not None else ""
    if port is not None:
        to += f":{_expression(port)}"
    return f"{kind} to {to}" if to else kind


def _learn(body: object) -> str:
    inner = _of(body, "stmt")
    statements = " ".join(_statement(item) for item in inner) if isinstance(inner, list) else ""
    element = f"{_expression(_of(body, 'elem'))} {statements}".rstrip()
    return f"{_member(body, 'op')} {_member(body, 'set')} {{ {element} }}"


def _expression(given: object, depth: int = 0, *, exists: bool = False) -> str:
    if isinstance(given, bool):
        return ("exists" if given else "missing") if exists else str(given).lower()
    if isinstance(given, (str, int, float)):
        return str(given)[:200]
    if depth > _DEPTH:
        return "..."
    if isinstance(given, list):
        return ",".join(_expression(item, depth + 1) for item in given[:64])
    if not isinstance(given, dict) or not given:
        return "?"
    for kind, body in given.items():
        return _operator(str(kind), body, depth + 1)
    return "?"


def _operator(kind: str, body: object, depth: int) -> str:
    if kind in _BINARY and isinstance(body, list):
        return f" {kind} ".join(_expression(item, depth) for item in body[:64])
    if kind == "payload":
        protocol = _member(body, "protocol")
        raw = f"@{_member(body, 'base')},{_member(body, 'offset')},{_member(body, 'len')}"
        return f"{protocol} {_member(body, 'field')}" if protocol else raw
    if kind == "meta":
        key = _member(body, "key")
        return key if key in ("iif", "oif", "iifname", "oifname") else f"meta {key}"
    if kind == "ct":
        direction = _member(body, "dir")
        return f"ct {direction + ' ' if direction else ''}{_member(body, 'key')}"
    if kind == "prefix":
        return f"{_expression(_of(body, 'addr'), depth)}/{_member(body, 'len')}"
    if kind == "range" and isinstance(body, list):
        return "-".join(_expression(item, depth) for item in body[:2])
    if kind == "concat" and isinstance(body, list):
        return " . ".join(_expression(item, depth) for item in body[:64])
    if kind in ("osf", "socket", "rt", "ipsec"):
        return f"{kind} {_member(body, 'key')}"
    if kind == "set":
        return _elements(body, depth)
    if kind == "map":
        return f"{_expression(_of(body, 'key'), depth)} map {_expression(_of(body, 'data'), depth)}"
    if kind == "elem":
        return _expression(_of(body, "val"), depth)
    if kind == "fib":
        flags = _of(body, "flags")
        listed = " . ".join(str(flag) for flag in flags[:4]) if isinstance(flags, list) else _member(body, "flags")
        return f"fib {listed} {_member(body, 'result')}"
    if kind in ("jump", "goto"):
        return f"{kind} {_member(body, 'target')}"
    if kind in ("tcp option", "ip option", "exthdr"):
        return f"{kind} {_member(body, 'name')} {_member(body, 'field')}".rstrip()
    return kind[:60]


def _elements(body: object, depth: int) -> str:
    if not isinstance(body, list):
        return "{ ? }"
    shown = []
    for item in body[:32]:
        if isinstance(item, list) and len(item) == 2:
            shown.append(f"{_expression(item[0], depth)} : {_expression(item[1], depth)}")
        else:
            shown.append(_expression(item, depth))
    if len(body) > 32:
        shown.append("...")
    return f"{{ {', '.join(shown)} }}"
