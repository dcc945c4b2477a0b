"""What keeps typing, re and enum (2 MB) out of the supervisor's memory: a NamedTuple of its own, and the signals
without their enumeration. The passes use it, too: typing's takes twice as long to make a class, 10 ms of each pass.

A class that derives from this NamedTuple is what typing would have made of it, to mypy too; its module postpones
annotations.
"""

from __future__ import annotations

import os

__all__ = ["TYPE_CHECKING", "NamedTuple", "say", "signal"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import NamedTuple
else:
    import _signal as signal
    from collections import namedtuple

    class _Meta(type):
        def __new__(cls, name, bases, namespace):
            if not bases:
                return super().__new__(cls, name, bases, namespace)
            fields = namespace.pop("__annotations__", {})
            defaults = [namespace.pop(field) for field in fields if field in namespace]
            made = namedtuple(name, fields, defaults=defaults, module=namespace.pop("__module__"))
            for key, value in namespace.items():
                setattr(made, key, value)
            made.__annotations__ = fields
            return made

    class NamedTuple(metaclass=_Meta):
        """Base of a class of fields, as `typing.NamedTuple`."""


def say(text: str) -> None:
    """A line for the journal. Where nobody takes it (a full disk, a closed pipe) nothing is said, and work goes on."""
    try:
        os.write(2, f"ec2ssh-agent: {text}\n".encode("utf-8", "backslashreplace"))
    except OSError:
        return
