"""Applies rungs, takes them back, cleans up after a crash. See the package for the theory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from ..host import Host, HostError, Locked
from ..model import AgentError, Finding
from ..plain import NamedTuple
from ..steps import Directory, Disable, HostKeys, Insert, Mode, Run, Rung, Step, Write, commands
from . import records
from .audit import audit
from .files import Content, Folder, Keys, Permissions
from .records import Record, Saved, State
from .run import Commands
from .work import Busy as BusyFor
from .work import Context, StepFailed, Work, substitute

RUN = "/run/ec2ssh-agent"
#: How often recovery of one change is tried before it is given up and only reported: `undo` can still take it back.
TRIES = 5
#: Seconds between two tries that count: a lock that is held for a moment is one reason, not five.
APART = 10.0

Say = Callable[[str], None]


class Busy(AgentError):
    """Another agent is repairing."""

    exit_status = 3


class ChangedSince(AgentError):
    """What the repair changed was changed by somebody else since: `difference` shows it. Nothing was undone."""

    exit_status = 3

    def __init__(self, change: str, difference: str) -> None:
        super().__init__(f"{change}: changed since; nothing undone\n{difference}")
        self.difference = difference


class Undone(NamedTuple):
    """`record` as closed; `notes` on what was not, or could not be, taken back."""

    record: Record
    notes: tuple[str, ...] = ()


@contextlib.contextmanager
def _quiet(seconds: float) -> Iterator[None]:
    """Nobody waits for us."""
    yield


@contextlib.contextmanager
def lock(host: Host, *, wait: float = 10.0) -> Iterator[None]:
    """Held around a pass that repairs, `undo` and `recover`: two agents never change things at once.

    Raises Busy, naming the other, when it is not free within `wait` seconds; HostError.
    """
    host.mkdir(RUN, 0o755, sync=False)
    try:
        with host.lock(f"{RUN}/lock", wait=wait):
            yield
    except Locked as error:
        raise Busy(f"another ec2ssh-agent is repairing ({error})") from error


def typed(record: Record) -> tuple[str, ...]:
    """What a person would have typed to the same effect, in order."""
    return tuple(line for step in record.steps for line in _typed(step, record))


def _typed(step: Step, record: Record) -> tuple[str, ...]:
    return tuple(substitute(line, record.id) for line in commands(step))


def apply(
    host: Host,
    rung: Rung,
    *,
    finding: Finding,
    actor: str,
    note: Say,
    busy: BusyFor = _quiet,
) -> Record:
    """Makes the steps of a rung, each recorded before. `note` is told each command before it is run.

    The record that is returned is applied, not yet verified: `close` or `undo` it. Raises StepFailed when a step could
    not be made, those before it having been taken back, or when nothing could be recorded.
    """
    record = records.new(host, rung, finding=finding, actor=actor)
    record = record._replace(steps=rung.steps)
    context = Context(host, record.id, busy)
    try:
        for step in record.steps:
            record = _make(context, record, step, note)
        return record
    except (AgentError, OSError) as error:
        raise StepFailed(f"{error}; {_abandon(host, record.id, context, error)}") from error


def _make(context: Context, record: Record, step: Step, note: Say) -> Record:
    work = _work(context._replace(number=len(record.saved)), step)
    saved = work.save()
    record = record._replace(saved=(*record.saved, saved))
    records.write(context.host, record)
    lines = _typed(step, record)
    audit(context.host, record, lines)
    for line in lines:
        note(line)
    work.make(saved)
    state = State.APPLIED if len(record.saved) == len(record.steps) else State.OPEN
    record = record._replace(saved=(*record.saved[:-1], work.seal(saved)), state=state)
    records.write(context.host, record)
    return record


def _abandon(host: Host, change: str, context: Context, error: Exception) -> str:
    """Takes back what a failed rung had done, by what is on disk of it. What fails is left for `recover`.

    Tells what came of it.
    """
    try:
        record = records.load(host, change)
    except records.NoSuchChange:
        return "nothing was done"  # not even the first write succeeded
    except AgentError as other:
        return f"not yet taken back: {other}"
    try:
        notes = _revert(context, record, _differences(context, record))
        close(host, record, State.FAILED, (str(error), *notes))
        return "taken back"
    except AgentError as other:
        left = f"not yet taken back: {other}"
        with contextlib.suppress(AgentError):
            records.write(host, record._replace(notes=(*record.notes, str(error), left)))
        return left


def pending(host: Host) -> bool:
    """Whether a change waits for `recover`; who cannot look must take it that one does."""
    try:
        return bool(records.unfinished(host))
    except (HostError, records.BadRecord):
        return True


def undo(host: Host, record: Record, *, reason: str = "undone", busy: BusyFor = _quiet) -> Undone:
    """Takes a change back, the last step first; one that is undone already stays so. `reason` goes into its notes.

    Raises ChangedSince, with nothing done, where somebody changed the same thing since; StepFailed where an inverse did
    not work (the record stays as it was, and `undo` can be tried again); HostError.
    """
    if record.state is State.UNDONE or record.state is State.FAILED and not given_up(record):
        return Undone(record)
    context = Context(host, record.id, busy)
    differences = _differences(context, record)
    if any(differences):
        raise ChangedSince(record.id, "\n".join(text for text in differences if text))
    audit(host, record, tuple(f"undo {line}" for line in typed(record)))
    if not record.state.unfinished:
        # From here on a crash leaves something half undone, which `recover` finishes.
        begun = tuple(w.undoing(s) if isinstance(w, Commands) else s for w, s in _begun(context, record))
        records.write(host, record._replace(state=State.APPLIED, saved=begun))
    try:
        notes = _revert(context, record, differences)
    except AgentError:
        records.write(host, record)
        raise
    return Undone(close(host, record, State.UNDONE, (reason, *notes)), notes)


def _differences(context: Context, record: Record) -> list[str]:
    return [work.difference(saved) for work, saved in _begun(context, record)]


def _revert(context: Context, record: Record, differences: list[str]) -> tuple[str, ...]:
    """Takes the steps back, the last one first; those that somebody changed since are left, and noted."""
    begun = _begun(context, record)
    notes = [f"left as it is: {difference}" for difference in differences if difference]
    left = {number for number, difference in enumerate(differences) if difference}
    for number in reversed(range(len(begun))):
        if number not in left:
            work, saved = begun[number]
            notes += work.revert(saved)
    return tuple(notes)


def _begun(context: Context, record: Record) -> list[tuple[Work, Saved]]:
    if all(saved.made for saved in record.saved):
        context = context._replace(known=frozenset(text.content for saved in record.saved for text in saved.left_texts))
    return [
        (_work(context._replace(number=number), step), saved)
        for number, (step, saved) in enumerate(zip(record.steps, record.saved))
    ]


def recover(host: Host, *, note: Say = lambda text: None, busy: BusyFor = _quiet) -> tuple[Record, ...]:
    """Rolls back every change that was not verified (a crash, a kill); returns them as they are now.

    One whose rolling back fails stays open, and is tried again the next time, until TRIES tries, APART seconds from
    each other, have failed. Call it under `lock`. Raises HostError, BadRecord (of the directories; a single bad record
    is told to `note` and put aside).
    """
    found: list[Record] = []
    records.sweep(host, f"{records.STATE}/state.json")
    for name in records.unfinished(host):
        try:
            record = records.load(host, name)
        except records.NoSuchChange:
            records.forget(host, name)  # killed before its first write: nothing was done
            continue
        except records.BadRecord as error:
            note(f"a change that cannot be rolled back: {error}")
            host.remove(f"{records.OPEN}/{name}")
            continue
        if not record.state.unfinished:
            host.remove(f"{records.OPEN}/{name}")  # killed between its closing and this
            continue
        found.append(_recover(Context(host, name, busy, crashed=True), record, note))
    return tuple(found)


def _recover(context: Context, record: Record, note: Say) -> Record:
    audit(context.host, record, ("roll back: it was not verified when the agent ended",))
    try:
        notes = _revert(context, record, _differences(context, record))
        state = State.FAILED if any(text.startswith("left as it is") for text in notes) else State.UNDONE
        record = close(context.host, record, state, ("rolled back at the next start", *notes))
    except (StepFailed, HostError) as error:
        note(f"{record.id}: not rolled back: {error}")
        now = context.host.now()
        if abs(now - record.tried) < APART:
            return record
        notes = (*record.notes, f"not rolled back: {error}")[-20:]
        record = record._replace(tries=record.tries + 1, tried=now, notes=notes)
        if record.tries >= TRIES:
            record = record._replace(state=State.FAILED, closed=now)
        with contextlib.suppress(AgentError):  # a full disk: said above, tried again at the next start
            records.write(context.host, record)
    return record


def close(host: Host, record: Record, state: State, notes: tuple[str, ...] = ()) -> Record:
    """Puts the outcome on record (verified, undone, failed); old records are forgotten. Raises HostError, BadRecord."""
    record = record._replace(state=state, notes=(*record.notes, *notes), closed=host.now())
    records.write(host, record)
    records.prune(host, lambda other: stands(host, other))
    return record


def given_up(record: Record) -> bool:
    """Whether recovery has failed for good: what was made stands, as far as anybody knows."""
    return record.state is State.FAILED and record.tries >= TRIES


def undoable(host: Host, record: Record) -> bool:
    """Whether `undo` has something to do."""
    return given_up(record) or record.state is State.VERIFIED and stands(host, record)


def stands(host: Host, record: Record) -> bool:
    """Whether anything of a change is still in place, so that `undo` would have something to take back."""
    context = Context(host, record.id, _quiet)
    try:
        return any(work.stands(saved) for work, saved in _begun(context, record))
    except (StepFailed, HostError):
        return True  # who cannot look must not forget


def _work(context: Context, step: Step) -> Work:
    from .disable import Off
    from .insert import Rule

    if isinstance(step, Run):
        return Commands(context, step)
    if isinstance(step, Insert):
        return Rule(context, step)
    if isinstance(step, Write):
        return Content(context, step)
    if isinstance(step, Mode):
        return Permissions(context, step)
    if isinstance(step, Directory):
        return Folder(context, step)
    if isinstance(step, HostKeys):
        return Keys(context, step)
    assert isinstance(step, Disable)
    return Off(context, step)
