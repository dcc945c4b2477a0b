"""The write-ahead records of changes: /var/lib/ec2ssh-agent/changes/ID/record.json. See the package for the theory."""

from __future__ import annotations

import enum
import json
import re
import stat
import time
from collections.abc import Callable
from typing import Optional

from ..codec import decode, encode
from ..host import Host
from ..model import AgentError, Finding
from ..plain import NamedTuple
from ..quick import epoch
from ..steps import Rung, Step

STATE = "/var/lib/ec2ssh-agent"
CHANGES = f"{STATE}/changes"
OPEN = f"{STATE}/open"
_CAP = 256 << 20
_ID = re.compile(
    r"([12]\d{3})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])T([01]\d|2[0-3])([0-5]\d)([0-5]\d)-([0-9a-f]{4})", re.ASCII
)
_TICKS = 1 << 16  # the second part of an id is a fraction of a second
#: How many changes are kept that are over (undone, failed), and how many whose undoing is still possible.
KEEP = 100


class BadRecord(AgentError):
    """A record that cannot be trusted or read."""

    exit_status = 3


class NoSuchChange(AgentError):
    exit_status = 64


class State(enum.Enum):
    OPEN = "open"
    APPLIED = "applied"
    VERIFIED = "verified"
    UNDONE = "undone"
    FAILED = "failed"

    @property
    def unfinished(self) -> bool:
        return self in (State.OPEN, State.APPLIED)


class File(NamedTuple):
    """A path as it was: `content` None where there was no such file, or where only its mode matters (`exists`)."""

    path: str
    exists: bool
    content: Optional[bytes] = None
    mode: int = 0
    uid: int = 0
    gid: int = 0


class Text(NamedTuple):
    """What a tool printed of the state that a step replaces, or left: a saved table, a rule."""

    name: str
    content: bytes


class Saved(NamedTuple):
    """What a step replaces (`files`, `texts`), since when (epoch seconds), and, once it is made, what it left."""

    time: float
    made: bool = False
    files: tuple[File, ...] = ()
    texts: tuple[Text, ...] = ()
    left_files: tuple[File, ...] = ()
    left_texts: tuple[Text, ...] = ()


class Record(NamedTuple):
    """One change. `saved` has an item for each step that was begun, in the order of `steps`. `time`: epoch seconds."""

    id: str
    time: float
    state: State
    finding: str
    fault: str
    rung: str
    why: str
    actor: str  # daemon, command
    steps: tuple[Step, ...] = ()
    saved: tuple[Saved, ...] = ()
    notes: tuple[str, ...] = ()
    tries: int = 0  # how often recovery could not be completed, the last time at `tried`
    tried: float = 0.0
    document: Optional[str] = None
    closed: float = 0.0


def new(host: Host, rung: Rung, *, finding: Finding, actor: str) -> Record:
    """A record of a change that is about to be made, with an id that is free; not yet written. Raises HostError."""
    now = host.now()
    made = ids(host)
    ticks = int(now * _TICKS)
    if made:  # ids sort as the changes were made, within one second and after a clock that went back
        ticks = max(ticks, _ticks(made[0]) + 1)
    name = time.strftime("%Y%m%dT%H%M%S", time.gmtime(ticks // _TICKS)) + f"-{ticks % _TICKS:04x}"
    return Record(name, now, State.OPEN, finding.id, finding.fault, rung.name, rung.why, actor, document=rung.document)


def _ticks(name: str) -> int:
    """What an id counts: ticks since the epoch."""
    *when, rest = _ID.fullmatch(name).groups()  # type: ignore[union-attr]
    return epoch(*map(int, when)) * _TICKS + int(rest, 16)


def directory(record: Record) -> str:
    return f"{CHANGES}/{record.id}"


def write(host: Host, record: Record) -> None:
    """Puts the record on disk, synced; marks it open or not. Raises HostError, BadRecord."""
    for path, mode in ((STATE, 0o755), (CHANGES, 0o700), (OPEN, 0o700)):
        host.mkdir(path, mode)
        _trusted(host, path)
    if record.state.unfinished and not host.exists(f"{OPEN}/{record.id}"):
        host.replace(f"{OPEN}/{record.id}", b"", mode=0o600)
    host.mkdir(directory(record), 0o700)
    _trusted(host, directory(record))
    document = {"schema": "ec2ssh-agent.change/1", **encode(record)}
    host.replace(f"{directory(record)}/record.json", json.dumps(document).encode() + b"\n", mode=0o600, like=False)
    if not record.state.unfinished:
        host.remove(f"{OPEN}/{record.id}")


def load(host: Host, name: str) -> Record:
    """Raises NoSuchChange, BadRecord (somebody else can write it, or it is garbage), HostError."""
    if not _ID.fullmatch(name):
        raise NoSuchChange(f"{name}: not the id of a change; `ec2ssh-agent undo --list` shows them")
    path = f"{CHANGES}/{name}/record.json"
    for trusted in (CHANGES, f"{CHANGES}/{name}", path):
        if not _trusted(host, trusted):
            raise NoSuchChange(f"{name}: no such change; `ec2ssh-agent undo --list` shows them")
    try:
        record = decode(Record, json.loads(host.read(path, cap=_CAP, follow=False)), path)
    except (ValueError, RecursionError) as error:
        raise BadRecord(f"{path}: {error}") from error
    if record.id != name or len(record.saved) > len(record.steps):
        raise BadRecord(f"{path}: not the record of {name}")
    return record


def ids(host: Host) -> tuple[str, ...]:
    """Newest first. Raises HostError."""
    return tuple(name for name in reversed(host.listdir(CHANGES)) if _ID.fullmatch(name))


def all(host: Host, *, most: int = 1 << 30, note: Callable[[str], None] = lambda text: None) -> tuple[Record, ...]:
    """Newest first, `most` at most; those that cannot be read are left out and told to `note`. Raises HostError."""
    found: list[Record] = []
    for name in ids(host):
        if len(found) == most:
            break
        try:
            found.append(load(host, name))
        except NoSuchChange:
            continue  # a crash between the making of its directory and its first write
        except BadRecord as error:
            note(str(error))
    return tuple(found)


def unfinished(host: Host) -> tuple[str, ...]:
    """Ids of the changes that nobody closed, newest first; of each, `load` tells more. Raises HostError, BadRecord."""
    if not _trusted(host, OPEN):
        return ()
    names = sorted({name.split(".")[0] for name in host.listdir(OPEN)}, reverse=True)
    for name in names:
        sweep(host, f"{OPEN}/{name}")
        sweep(host, f"{CHANGES}/{name}/record.json")
    return tuple(name for name in names if _ID.fullmatch(name) and host.exists(f"{OPEN}/{name}"))


def sweep(host: Host, path: str) -> None:
    """Removes what an agent that was killed inside `Host.replace` left beside `path`. Raises HostError."""
    directory, _, name = path.rpartition("/")
    for entry in host.listdir(directory):
        if entry.startswith(f"{name}.ec2ssh-agent."):
            host.remove(f"{directory}/{entry}")


def forget(host: Host, name: str) -> None:
    """Removes a record with whatever else is in its directory. Raises HostError."""
    path = f"{CHANGES}/{name}"
    for entry in host.listdir(path):
        host.remove(f"{path}/{entry}")
    host.rmdir(path)
    host.remove(f"{OPEN}/{name}")


def prune(host: Host, stands: Callable[[Record], bool]) -> None:
    """Forgets all but the latest KEEP changes that are over, and older verified ones, of which nothing stands.

    A change that stands is the only account of its inverse: it is never forgotten. Raises HostError.
    """
    names = ids(host)
    if len(names) <= KEEP:
        return
    over = verified = 0
    for name in names:
        try:
            record = load(host, name)
        except (NoSuchChange, BadRecord):
            continue
        if record.state in (State.UNDONE, State.FAILED):
            over += 1
            given_up = record.state is State.FAILED and record.tries
            if over > KEEP and not (given_up and stands(record)):
                forget(host, name)
        elif record.state is State.VERIFIED:
            verified += 1
            if verified > KEEP and not stands(record):
                forget(host, name)


def _trusted(host: Host, path: str) -> bool:
    """False: there is no such path. Raises BadRecord where it is a symlink, not root's, or writable by others."""
    status = host.stat(path, follow=False)
    if status is None:
        return False
    if status.symlink or not (status.directory or status.regular):
        raise BadRecord(f"{path}: neither a directory nor a regular file")
    if status.uid != 0 or stat.S_IMODE(status.mode) & 0o022:
        raise BadRecord(f"{path}: others than root can write it; not trusted")
    return True
