"""What every kind of step can do: save, make, seal, tell a difference, revert."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Optional, Protocol

from ..host import Host, HostError, Ran, TimedOut
from ..model import AgentError
from ..plain import NamedTuple
from ..steps import CHANGE
from .records import Saved

#: Seconds. Ten times what was measured (facts.md), so that an owner's tool is not killed midway; by the tool's name.
DEADLINES = {"ufw": 30.0, "firewalld": 30.0, "systemd": 60.0}
DEADLINE = 20.0


class StepFailed(AgentError):
    """A step could not be made (it was taken back), or could not be taken back."""

    exit_status = 3


#: Entered, with its deadline in seconds, while a command is at work that is not to be cut short.
Busy = Callable[[float], AbstractContextManager[None]]


class Context(NamedTuple):
    """`busy` tells the supervisor for how many seconds a command may be at work: so long it has patience.

    `number` of the step within its change; `known`: what the change's steps left, as texts; None where a crash left no
    account of one of them. `crashed`: the agent that began the change is gone, and others may have been at work since.
    """

    host: Host
    change: str
    busy: Busy
    number: int = 0
    known: Optional[frozenset[bytes]] = None
    crashed: bool = False


class Work(Protocol):
    """One step of one change. All methods may raise HostError or StepFailed."""

    def save(self) -> Saved:
        """What the step replaces. Changes nothing."""

    def make(self, saved: Saved) -> None:
        """Makes the step."""

    def seal(self, saved: Saved) -> Saved:
        """With what the step left, by which it is known again. Changes nothing."""

    def difference(self, saved: Saved) -> str:
        """What somebody else has changed since, for a person to read; "" where `revert` would be exact."""

    def revert(self, saved: Saved) -> tuple[str, ...]:
        """Takes the step back, whether it was made or not, once or again. Notes on what was not taken back."""

    def stands(self, saved: Saved) -> bool:
        """Whether something of the step is still in place that `revert` would take back."""


def substitute(text: str, change: str) -> str:
    return text.replace(CHANGE, change)


def plain(listing: bytes) -> bytes:
    """A listing without what changes by itself: comments with the time, counters, how much of a timeout is left."""
    lines = [line for line in listing.splitlines() if not line.startswith(b"#")]
    text = re.sub(rb"\[\d+:\d+\]", b"", b"\n".join(lines))
    text = re.sub(rb"packets \d+ bytes \d+", b"", text)
    return re.sub(rb" expires \w+", b"", text)


def command(context: Context, argv: tuple[str, ...], *, stdin: bytes = b"", owner: str = "") -> Ran:
    """Runs to the end. Raises StepFailed with the command's last words where it exits non-zero, HostError."""
    deadline = DEADLINES.get(owner, DEADLINE)
    try:
        with context.busy(deadline):
            ran = context.host.run(argv, stdin=stdin, deadline=deadline)
    except TimedOut as error:
        raise StepFailed(str(error)) from error
    except HostError as error:
        raise StepFailed(f"{argv[0]}: {error}" if argv[0] not in str(error) else str(error)) from error
    if ran.code:
        # nft's last words are an underline; what is wrong stands in its first.
        lines = [line for line in ran.err.decode("utf-8", "replace").splitlines() if "Error:" in line]
        raise StepFailed(f"{' '.join(argv)}: {lines[0][:300] if lines else ran.complaint}")
    return ran
