"""What firewall-cmd does to the running configuration, said to firewalld itself: firewall-cmd takes a quarter of a
second and more to start, in which nobody gets in.

Source: firewalld.dbus(5), firewall-cmd(1).
"""

from __future__ import annotations

import re

from ..host import HostError, TimedOut
from ..observe.dbus import Bus, Call
from ..observe.firewalld import NAME, PATH, ZONE
from ..steps import Argv
from .work import DEADLINES, Context, StepFailed

_COMMAND = re.compile(r"--add-(service|port|rich-rule)=(.*)")
_METHODS = {"service": ("addService", "ssi"), "port": ("addPort", "sssi"), "rich-rule": ("addRichRule", "ssi")}
_FOR_GOOD = 0  # seconds until it is forgotten, or 0


def add(context: Context, argv: Argv, *, deadline: float = DEADLINES["firewalld"]) -> bool:
    """Does what that command line asks for; False where it is no addition at run time, and where firewalld does not
    take it so: firewall-cmd does it then, or says why not. Raises StepFailed where firewalld does not answer within
    `deadline` seconds.
    """
    if argv[0] != "firewall-cmd" or len(argv) != 3 or not argv[1].startswith("--zone="):
        return False
    asked = _COMMAND.fullmatch(argv[2])
    if not asked:
        return False
    method, signature = _METHODS[asked[1]]
    what = tuple(asked[2].split("/")) if asked[1] == "port" else (asked[2],)
    call = Call(NAME, PATH, ZONE, method, signature, (argv[1][len("--zone=") :], *what, _FOR_GOOD))
    try:
        with context.busy(deadline), Bus(context.host, deadline=deadline) as bus:
            bus.one(call)
    except TimedOut as error:
        raise StepFailed(f"{' '.join(argv)}: {error}") from error
    except HostError:
        return False
    return True
