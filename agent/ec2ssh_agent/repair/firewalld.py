"""What firewall-cmd does to the running configuration, said to firewalld itself: firewall-cmd takes a quarter of a
second and more to start, in which nobody gets in.

Source: firewalld.dbus(5), firewall-cmd(1).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Optional

from ..host import HostError, NotFound, TimedOut
from ..observe.dbus import Bus, Call, Refused
from ..observe.firewalld import NAME, PATH, ZONE
from ..steps import Argv
from .work import DEADLINES, Context, StepFailed

_COMMAND = re.compile(r"--(add|remove)-(service|port|rich-rule)=(.*)")
_NAMES = {"service": "Service", "port": "Port", "rich-rule": "RichRule"}
_FOR_GOOD = 0  # seconds until it is forgotten, or 0
#: What firewalld says of an addition that is in force; to firewall-cmd that is success.
ALREADY = "ALREADY_ENABLED"
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


def addition(argv: Argv) -> Argv:
    """What that removal at run time takes back."""
    return (*argv[:2], argv[2].replace("--remove-", "--add-", 1))


def nothing_there(error: StepFailed) -> bool:
    """Whether a removal failed because there was nothing to remove, or no firewalld."""
    return isinstance(error.__cause__, NotFound) or any(words in str(error) for words in _NOTHING_THERE)


def _call(asked: tuple[str, ...], verb: str, *more: int) -> Call:
    _, kind, thing, zone = asked
    what = tuple(thing.split("/")) if kind == "port" else (thing,)
    signature = "s" * (1 + len(what)) + "i" * len(more)
    return Call(NAME, PATH, ZONE, verb + _NAMES[kind], signature, (zone, *what, *more))


def there(context: Context, commands: Sequence[Argv], *, deadline: float = DEADLINES["firewalld"]) -> tuple[Argv, ...]:
    """Which of these additions at run time are in force. Where there is no bus firewall-cmd is asked. Raises StepFailed
    where firewalld does not answer within `deadline` seconds.
    """
    known = {argv: asked for argv, asked in zip(commands, map(_asked, commands)) if asked}
    if not known:
        return ()
    try:
        with context.busy(deadline):
            try:
                with Bus(context.host, deadline=deadline) as bus:
                    answers = bus.ask([_call(asked, "query") for asked in known.values()])
            except TimedOut:
                raise
            except HostError:
                return tuple(argv for argv in known if _says_yes(context, argv, deadline))
    except TimedOut as error:
        raise StepFailed(f"{' '.join(commands[0])}: {error}") from error
    return tuple(argv for argv, answer in zip(known, answers) if not isinstance(answer, Refused) and answer[0])


def _says_yes(context: Context, argv: Argv, deadline: float) -> bool:
    """Raises TimedOut."""
    try:
        query = (*argv[:2], argv[2].replace("--add-", "--query-", 1))
        return context.host.run(query, deadline=deadline).code == 0
    except TimedOut:
        raise
    except HostError:
        return False  # the addition will say what is wrong


def add(context: Context, argv: Argv, *, deadline: float = DEADLINES["firewalld"]) -> Optional[bool]:
    """Does what that command line asks for: True; False: it is in force already, by somebody else's hand. None where it
    is no addition at run time, and where firewalld does not take it so: firewall-cmd does it then, or says why not.

    Raises StepFailed where firewalld does not answer within `deadline` seconds.
    """
    asked = _asked(argv)
    if not asked or asked[0] != "add":
        return None
    try:
        with context.busy(deadline), Bus(context.host, deadline=deadline) as bus:
            bus.one(_call(asked, "add", _FOR_GOOD))
    except TimedOut as error:
        raise StepFailed(f"{' '.join(argv)}: {error}") from error
    except HostError as error:
        return False if ALREADY in str(error) else None
    return True
