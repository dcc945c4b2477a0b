"""What firewall-cmd does to the running configuration, said to firewalld itself: firewall-cmd takes a quarter of a
second and more to start, in which nobody gets in.

Source: firewalld.dbus(5), firewall-cmd(1).
"""

from __future__ import annotations

import re
from typing import Optional

from ..host import HostError, NotFound, TimedOut
from ..observe.dbus import Bus, Call
from ..observe.firewalld import NAME, PATH, ZONE
from ..steps import Argv
from .work import DEADLINES, Context, StepFailed

_COMMAND = re.compile(r"--(add|remove)-(service|port|rich-rule)=(.*)")
_METHODS = {"service": ("addService", "ssi"), "port": ("addPort", "sssi"), "rich-rule": ("addRichRule", "ssi")}
_FOR_GOOD = 0  # seconds until it is forgotten, or 0
#: What firewall-cmd says where there is nothing to remove at run time.
_NOTHING_THERE = ("NOT_ENABLED", "INVALID_ZONE", "FirewallD is not running")


def _asked(argv: Argv) -> Optional[tuple[str, ...]]:
    """(add or remove, the kind of thing, the thing, its zone) of a command for the running configuration."""
    if argv[0] != "firewall-cmd" or len(argv) != 3 or not argv[1].startswith("--zone="):
        return None
    asked = _COMMAND.fullmatch(argv[2])
    return (*asked.groups(), argv[1][len("--zone=") :]) if asked else None


def at_run_time(argv: Argv) -> bool:
    """Whether that command line changes the running configuration, which no file tells of."""
    return _asked(argv) is not None


def nothing_there(error: StepFailed) -> bool:
    """Whether a removal failed because there was nothing to remove, or no firewalld."""
    return isinstance(error.__cause__, NotFound) or any(words in str(error) for words in _NOTHING_THERE)


def add(context: Context, argv: Argv, *, deadline: float = DEADLINES["firewalld"]) -> bool:
    """Does what that command line asks for; False where it is no addition at run time, and where firewalld does not
    take it so: firewall-cmd does it then, or says why not. Raises StepFailed where firewalld does not answer within
    `deadline` seconds.
    """
    asked = _asked(argv)
    if not asked or asked[0] != "add":
        return False
    _, kind, thing, zone = asked
    method, signature = _METHODS[kind]
    what = tuple(thing.split("/")) if kind == "port" else (thing,)
    call = Call(NAME, PATH, ZONE, method, signature, (zone, *what, _FOR_GOOD))
    try:
        with context.busy(deadline), Bus(context.host, deadline=deadline) as bus:
            bus.one(call)
    except TimedOut as error:
        raise StepFailed(f"{' '.join(argv)}: {error}") from error
    except HostError:
        return False
    return True
