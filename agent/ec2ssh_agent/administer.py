"""What a person tells the agent: undo, pause, resume, purge. Each answers with a document; its `text` is for people."""

from __future__ import annotations

import contextlib
from typing import Any, Optional

from . import image, memory, passes, publish
from .config import parse_duration
from .host import Host, HostError
from .model import AgentError, UsageError
from .repair import execute, records
from .repair.records import Record, State
from .status import printable

Answer = dict[str, Any]

#: Seconds that a pass may take, its owners' tools included, before somebody who wants it to stop is told to come back.
_PASS = 90.0


def undoable(host: Host) -> Answer:
    """The changes that can still be taken back, newest first."""
    found = [record for record in records.all(host) if execute.undoable(host, record)]
    lines = [f"{r.id}  {publish.stamp(r.time)}  {printable(r.fault)}: {printable(r.rung)}" for r in found]
    text = "\n".join(lines or ["nothing to undo"]) + "\n"
    changes = [{"id": r.id, "time": publish.stamp(r.time), "finding": r.finding, "rung": r.rung} for r in found]
    return {"schema": "ec2ssh-agent.undo/1", "changes": changes, "text": text}


def undo(host: Host, name: Optional[str]) -> Answer:
    """Takes back a change (the latest that stands) and leaves its finding alone from then on. Raises AgentError."""
    with execute.lock(host):
        record = records.load(host, name) if name else _latest(host)
        if record.state in (State.UNDONE, State.FAILED) and not execute.given_up(record):
            raise UsageError(f"{record.id}: undone already ({'; '.join(record.notes[-1:]) or record.state.value})")
        remembered = passes.recall(host)
        # First: if this ends in between, the daemon must not repair again what is being taken back.
        memory.save(host, memory.silence(remembered, record.fault))
        try:
            undone = execute.undo(host, record, reason="undone by hand")
        except execute.ChangedSince:
            memory.save(host, remembered)  # nothing was undone
            raise
        _note(host, "undo", f"{record.fault}: {record.rung} undone by hand", record.id)
    notes = "".join(f"  {printable(note)}\n" for note in undone.notes)
    text = f"{record.id} undone: {record.rung} for {record.fault}\n{notes}"
    text += "the agent leaves this finding alone until the thing changes, or `ec2ssh-agent resume`\n"
    return {"schema": "ec2ssh-agent.undo/1", "undone": record.id, "notes": list(undone.notes), "text": text}


def _latest(host: Host) -> Record:
    for record in records.all(host):
        if execute.undoable(host, record):
            return record
    raise UsageError("nothing to undo")


def pause(host: Host, duration: str) -> Answer:
    """No repairs for so long, even over a reboot: none is under way any more when this returns.

    Raises UsageError, AgentError.
    """
    try:
        seconds = parse_duration(duration)
    except ValueError as error:
        raise UsageError(f"{duration}: {error}") from error
    with execute.lock(host, wait=_PASS):
        remembered = passes.recall(host)
        memory.save(host, memory.pause(remembered, memory.Clock(host.now(), host.monotonic()), seconds))
        until = publish.stamp(host.now() + seconds)
        _note(host, "pause", f"repairs paused until {until}")
    _look_again(host)  # `status` says so
    return {"schema": "ec2ssh-agent.pause/1", "until": until, "text": f"no repairs until {until}\n"}


def resume(host: Host) -> Answer:
    """Repairs again; what `undo` silenced and what a circuit holds back, too. Raises AgentError."""
    with execute.lock(host):
        memory.save(host, memory.resume(passes.recall(host)))
        _note(host, "resume", "repairs resumed")
    _look_again(host)  # what the daemon held back is due now
    return {"schema": "ec2ssh-agent.resume/1", "text": "repairs are on again\n"}


def _look_again(host: Host) -> None:
    """The daemon watches for this file."""
    host.mkdir(publish.RUN, sync=False)
    host.replace(f"{publish.RUN}/request", b"", mode=0o600, like=False, sync=False)


class Unpurged(AgentError):
    """What could not be done; and what was, until then: nobody is to learn later that the daemon is stopped."""

    def __init__(self, error: AgentError, done: list[str]) -> None:
        super().__init__("; ".join([str(error), *done]))
        self.exit_status = error.exit_status


def purge(host: Host, *, undo_first: bool) -> Answer:
    """Forgets what the agent keeps; with `undo_first` everything is put back before. Raises AgentError.

    A daemon that runs would repair at once what is put back here, and knows nothing any more that keeps it from that.
    """
    lines: list[str] = []
    if undo_first and not host.root:
        lines += image.stop(host, "systemctl start ec2ssh-agent.service lets it repair again")
    undone: list[str] = []
    try:
        with execute.lock(host):
            if undo_first:
                _undo_all(host, undone)
            for name in records.ids(host):
                records.forget(host, name)
            for path in _state_files(host):
                host.remove(path)
    except AgentError as error:
        raise Unpurged(error, [*lines, *(f"{name} undone" for name in undone)]) from error
    text = "\n".join([*lines, *(f"{name} undone" for name in undone), "state forgotten"]) + "\n"
    return {"schema": "ec2ssh-agent.purge/1", "undone": undone, "text": text}


def _undo_all(host: Host, undone: list[str]) -> None:
    for record in records.all(host):
        if execute.undoable(host, record):
            execute.undo(host, record, reason="purged")
            undone.append(record.id)


def _state_files(host: Host) -> list[str]:
    state = [f"{publish.STATE}/{name}" for name in host.listdir(publish.STATE) if name.endswith((".json", ".jsonl"))]
    spool = [f"{publish.STATE}/spool/{name}" for name in host.listdir(f"{publish.STATE}/spool")]
    return [*state, *spool, memory.COPY]


def _note(host: Host, kind: str, text: str, change: str = "") -> None:
    event = {"time": publish.stamp(host.now()), "kind": kind, "text": text, "id": change}
    with contextlib.suppress(HostError):  # a full disk keeps no history
        publish.remember(host, event)
