"""nft's limit, quota and ct count, as items of the model (libnftables-json(5), net/netfilter/nft_{limit,quota}.c)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Optional, Union

from .limits import BURST, SECONDS, at_once
from .nft_keys import NotUnderstood, mapping, text_of
from .ruleset import Limiter, Unknown

_UNITS = {"bytes": 1, "kbytes": 1 << 10, "mbytes": 1 << 20, "gbytes": 1 << 30}

#: What a canonical SYN measures at least and at most (IPv4 without, IPv6 with options), bytes.
_SMALLEST, _LARGEST = 40, 80


def limiter(
    kind: str, body: object, objects: Mapping[tuple[str, str], Mapping[str, object]], own: Callable[[str], str]
) -> Union[Limiter, Unknown]:
    """One of them. `own`: what an object is called where those of all tables are told apart.

    Raises NotUnderstood.
    """
    name = ""
    if isinstance(body, str):
        if (kind, body) not in objects:
            raise NotUnderstood(f"the {kind} {body[:40]!r}, which is not listed")
        name, body = own(f"{kind} {body}"), dict(objects[kind, body])
    limits = mapping(body)
    inverted = limits.get("inv") is True
    if kind == "ct count":
        return Limiter(kind, (_count(limits, "val") < 1) == inverted)
    if kind == "limit" and limits.get("rate_unit") in (None, "packets"):
        burst = _count(limits, "burst") or BURST
        seconds = SECONDS.get(str(limits.get("per")), 1)
        return Limiter(kind, not inverted, at_once(_count(limits, "rate"), seconds, burst), name)
    idle = _fits(_bytes(kind, limits), inverted)
    return Unknown(f"a {kind} about as large as the packet") if idle is None else Limiter(kind, idle)


def _bytes(kind: str, limits: Mapping[str, object]) -> int:
    """What is left of a limit or quota of bytes."""
    if kind == "limit":
        burst = _count(limits, "burst") * _unit(limits.get("burst_unit"))
        return _count(limits, "rate") * _unit(limits.get("rate_unit")) + burst
    size = _count(limits, "bytes") if "bytes" in limits else _count(limits, "val") * _unit(limits.get("val_unit"))
    return size - (_count(limits, "used") * _unit(limits.get("used_unit")) if "used" in limits else 0)


def _count(limits: Mapping[str, object], name: str) -> int:
    number = limits.get(name, 0)
    if not isinstance(number, int):
        raise NotUnderstood(f"a limit with {name} {text_of(number)}")
    return number


def _unit(name: object) -> int:
    if name is None:
        return 1
    if not isinstance(name, str) or name not in _UNITS:
        raise NotUnderstood(f"the unit {text_of(name)}")
    return _UNITS[name]


def _fits(left: int, inverted: bool) -> Optional[bool]:
    """Whether a SYN fits in what is left, in bytes; None: it depends on its length."""
    if left >= _LARGEST:
        return not inverted
    return inverted if left < _SMALLEST else None
