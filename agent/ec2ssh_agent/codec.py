"""NamedTuples to JSON and back, by their annotations: for what is kept on disk (changes, memory).

Handled: None, bool, int, float, str, bytes (base64), Enum (its value), tuple[X, ...], tuple[X, Y], Optional, Union of
NamedTuples (an object with its class's name under "kind"), NamedTuple (an object; a missing field takes its default, an
unknown one is ignored, so that older and newer versions read each other's files).
"""

from __future__ import annotations

import base64
import binascii
import enum
import functools
import json
import math
import sys
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


#: Integers below it are floats, too.
_LARGEST = 1 << 53


class Garbage(ValueError):
    """What was read is not what it ought to be; names the place."""


def encode(value: object) -> Any:
    """What json.dumps takes."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        names = getattr(value, "_fields", None)
        if names is None:
            return [encode(item) for item in value]
        return {"kind": type(value).__name__, **{name: encode(item) for name, item in zip(names, value)}}
    raise TypeError(f"{type(value).__name__} is not for the disk")


def loads(content: bytes) -> Any:
    """What `json.dumps` gave. Raises Garbage, too, where it is nested too deep or has numbers too long."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise Garbage(f"not JSON: {error}") from error


def decode(kind: type[T], value: Any, where: str = "") -> T:
    """What `encode` gave for a `kind`. Raises Garbage."""
    return cast(T, _decode(kind, value, where or kind.__name__))


def _decode(kind: Any, value: Any, where: str) -> Any:
    origin = get_origin(kind)
    if origin is Union:
        return _choose(get_args(kind), value, where)
    if origin is tuple:
        return _sequence(get_args(kind), value, where)
    if kind is bytes:
        try:
            return base64.b64decode(_plain(str, value, where), validate=True)
        except binascii.Error as error:
            raise Garbage(f"{where}: {error}") from error
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        try:
            return kind(value)
        except ValueError as error:
            raise Garbage(f"{where}: {error}") from error
    if isinstance(kind, type) and issubclass(kind, tuple):
        return _named(kind, value, where)
    return _plain(kind, value, where)


def _plain(kind: Any, value: Any, where: str) -> Any:
    if kind is float and type(value) is int and abs(value) < _LARGEST:
        return float(value)
    if type(value) is not kind or kind is float and not math.isfinite(value):
        raise Garbage(f"{where}: not {kind.__name__}")
    return value


def _choose(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    some = [kind for kind in kinds if kind is not type(None)]
    if len(some) > 1:
        name = value.get("kind") if isinstance(value, dict) else None
        some = [kind for kind in some if kind.__name__ == name]
    if len(some) != 1:
        raise Garbage(f"{where}: none of {', '.join(kind.__name__ for kind in kinds)}")
    return _decode(some[0], value, where)


def _sequence(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise Garbage(f"{where}: not a list")
    if kinds[-1] is Ellipsis:
        return tuple(_decode(kinds[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(kinds) != len(value):
        raise Garbage(f"{where}: {len(value)} items, not {len(kinds)}")
    return tuple(_decode(kind, item, f"{where}[{i}]") for i, (kind, item) in enumerate(zip(kinds, value)))


@functools.lru_cache(maxsize=None)
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, vars(sys.modules[kind.__module__]))


def _named(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise Garbage(f"{where}: not an object")
    hints = _hints(kind)
    missing = [name for name in hints if name not in value and name not in kind._field_defaults]
    if missing:
        raise Garbage(f"{where}: without {', '.join(missing)}")
    return kind(
        **{name: _decode(hint, value[name], f"{where}.{name}") for name, hint in hints.items() if name in value}
    )
