"""What crosses layers: facts seen or unseen, symptoms, findings, and the state that passes hand to each other.

Pure data. The vocabulary of one layer stands beside its producer (facts.py, reach/, steps.py); here is only what
every layer speaks.
"""

from __future__ import annotations

import enum
from typing import Generic, Optional, TypeVar, Union

from .plain import NamedTuple

T = TypeVar("T")


class Seen(Generic[T]):
    """A fact and where it was read: `file:line`, `chain:handle`, a D-Bus path, a command."""

    __slots__ = ("value", "where")
    value: T
    where: str

    def __init__(self, value: T, where: str = "") -> None:
        object.__setattr__(self, "value", value)
        object.__setattr__(self, "where", where)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a fact is frozen: {name}")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Seen) and (self.value, self.where) == (other.value, other.where)

    def __hash__(self) -> int:
        return hash((self.value, self.where))

    def __repr__(self) -> str:
        return f"Seen({self.value!r}, {self.where!r})"


class Unseen(NamedTuple):
    """What could not be looked at, and why. Never "healthy", never a ground for a repair."""

    reason: str


Fact = Union[Seen[T], Unseen]


class Symptom(enum.Enum):
    """What a client of sshd sees."""

    TIMEOUT = "timeout"
    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    CLOSED = "closed"
    SILENT = "silent"
    NONE = "none"


class Severity(enum.Enum):
    WARNING = "warning"
    CRITICAL = "critical"


class Health(enum.Enum):
    """`exit` is the exit status of `status`, `check` and `repair` (contracts.md)."""

    OK = "ok"
    DEGRADED = "degraded"
    UNREACHABLE = "unreachable"
    UNKNOWN = "unknown"

    @property
    def exit(self) -> int:
        return list(Health).index(self)


class Finding(NamedTuple):
    """One thing that is wrong. `subject` tells two findings of one id apart; (id, subject) names the fault."""

    id: str
    severity: Severity
    symptom: Symptom
    summary: str
    evidence: tuple[str, ...] = ()
    document: Optional[str] = None
    repair: str = ""
    subject: str = ""

    @property
    def fault(self) -> str:
        return f"{self.id}:{self.subject}" if self.subject else self.id


class AgentError(Exception):
    """Something a user or a host did; printed as one line, with `exit_status` (sysexits)."""

    exit_status = 1


class ConfigError(AgentError):
    exit_status = 78


class UsageError(AgentError):
    exit_status = 64
