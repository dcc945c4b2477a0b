"""The reports that wait for delivery: one file each, written and removed by root alone.

    spool/0000000012-repair-<uuid>.json    a report; the name has its order, its kind and its idempotency key
    spool/state.json                       instance, last sequence, how many were dropped
    spool/config.json                      the configuration that reports were last made with
    spool/wake                             rewritten after each report: what the path unit looks at
    spool/lock                             held by the pass or command that writes or removes

The reporter runs unprivileged and only acknowledges: /var/lib/ec2ssh-agent-report/<uuid> says how the delivery of that
report ended. Root reads it as the word of a stranger: no symlink, 4 KiB at most, and only for a report that is there.
Killed at any point, the spool holds every report that `enqueue` returned from, once; a drop is counted beforehand.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from .. import codec
from ..config import Config
from ..host import Failed, Host, HostError, NotFound, TooLarge
from ..plain import NamedTuple
from . import content

DIRECTORY = "/var/lib/ec2ssh-agent/spool"
REPORTER = "/var/lib/ec2ssh-agent-report"
_STATE = f"{DIRECTORY}/state.json"
_WAKE = f"{DIRECTORY}/wake"
CONFIG = f"{DIRECTORY}/config.json"
#: What was true before the first report that did not fit on the disk; in memory, which is there when the disk is full.
_UNTOLD = "/run/ec2ssh-agent/untold.json"
_ACK_CAP = 4096
_REPORT_CAP, _LARGEST = 1 << 20, 1 << 19
#: By which the number of those dropped may lengthen a report.
_DIGITS = 10
#: The last number that a name has room for.
_LAST = 9_999_999_999
#: However small they are: listing and checking more would cost every pass.
_MOST = 5_000
#: Kinds in the order in which they are dropped when the spool is full.
_DROP_ORDER = {"heartbeat": 0, "test": 1, "change": 2, "repair": 3}

UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_NAME = re.compile(rf"(\d{{10}})-(change|repair|heartbeat|test)-({UUID.pattern})\.json")


class Entry(NamedTuple):
    sequence: int
    kind: str
    id: str
    name: str

    @property
    def path(self) -> str:
        return f"{DIRECTORY}/{self.name}"


class Acknowledgement(NamedTuple):
    """`parked`: the endpoint refused this report for good, with this answer."""

    parked: bool
    answer: str
    time: str


class State(NamedTuple):
    instance: str = ""
    sequence: int = 0
    dropped: int = 0


def entries(host: Host) -> tuple[Entry, ...]:
    """The reports that are there, oldest first. Raises HostError."""
    matches = (_NAME.fullmatch(name) for name in host.listdir(DIRECTORY))
    return tuple(Entry(int(m.group(1)), m.group(2), m.group(3), m.group(0)) for m in matches if m)


def read(host: Host, entry: Entry) -> bytes:
    """Raises HostError: NotFound where root has removed it meanwhile."""
    return host.read(entry.path, cap=_REPORT_CAP, follow=False)


def acknowledgement(host: Host, id: str) -> Optional[Acknowledgement]:
    """What the reporter says of a report; None where it says nothing that can be understood."""
    try:
        said = json.loads(host.read(f"{REPORTER}/{id}", cap=_ACK_CAP, follow=False))
    except (HostError, ValueError, RecursionError):
        return None
    if not isinstance(said, dict) or said.get("outcome") not in ("delivered", "parked"):
        return None
    return Acknowledgement(said["outcome"] == "parked", _text(said.get("answer")), _text(said.get("time")))


def _text(value: object) -> str:
    return "".join(c if c.isprintable() else "?" for c in value[:300]) if isinstance(value, str) else ""


def tell(
    host: Host, config: Config, document: Mapping[str, Any], previous: Optional[Mapping[str, Any]]
) -> tuple[str, ...]:
    """Reports what changed since `previous`, if an endpoint is configured; gives the kinds that were reported.

    Raises HostError, and then the next call tells what this one could not.
    """
    untold = _untold(host)
    previous = untold[0] if untold else previous
    told = tuple(content.kinds(document, previous)) if config.report_url else ()
    try:
        for kind in told:
            enqueue(host, config, document, previous, kind)
    except HostError:
        if not untold:
            host.replace(_UNTOLD, json.dumps(previous).encode(), mode=0o600, like=False, sync=False)
        raise
    if untold:
        host.remove(_UNTOLD)
    if not told:
        sweep(host)
    return told


def _untold(host: Host) -> Optional[tuple[Optional[dict[str, Any]]]]:
    """The document that the last report should have told the change from (None: the first); None where all was told."""
    try:
        said = codec.loads(host.read(_UNTOLD, cap=64 << 20, follow=False))
        return (None if said is None else content.before(said),)
    except (NotFound, TooLarge, codec.Garbage):
        return None


def enqueue(
    host: Host, config: Config, document: Mapping[str, Any], previous: Optional[Mapping[str, Any]], kind: str
) -> str:
    """Puts one report into the spool, and gives its id. Raises HostError, and then it is not there."""
    _prepare(host)
    with _locked(host):
        return _enqueue(host, config, document, previous, kind)


def _enqueue(
    host: Host, config: Config, document: Mapping[str, Any], previous: Optional[Mapping[str, Any]], kind: str
) -> str:
    import uuid

    state = read_state(host)
    instance = str((document["instance"] or {}).get("id") or state.instance)
    if state.instance != instance:
        # An image that was started elsewhere: what waits is another instance's.
        for entry in entries(host):
            host.remove(entry.path)
        state = State(instance)
    sequence = max([state.sequence, *(entry.sequence for entry in entries(host))]) + 1
    _sweep(host)
    id = str(uuid.uuid4())
    report = content.report(document, previous=previous, kind=kind, id=id, sequence=sequence)
    report = _fitted(report, min(_LARGEST, config.report_spool_max) - _DIGITS)
    state = _make_room(host, config.report_spool_max, len(_encode(report)) + _DIGITS, state, kind)
    body = _encode({**report, "dropped": state.dropped})
    entry = Entry(sequence, kind, id, f"{sequence:010d}-{kind}-{id}.json")
    try:
        _write(host, entry.path, body)
        _write(host, _STATE, json.dumps(state._replace(sequence=sequence)._asdict()).encode())
        _write(host, CONFIG, json.dumps(codec.encode(config)).encode(), sync=False)
        _write(host, _WAKE, f"{sequence}\n".encode(), sync=False)
    except HostError:
        host.remove(entry.path)
        raise
    return id


def _encode(report: content.Report) -> bytes:
    return json.dumps(report, separators=(",", ":")).encode() + b"\n"


def _fitted(report: content.Report, most: int) -> content.Report:
    """The report; where that takes more bytes, one without evidence and commands, and with as few findings as it takes.

    So the spool's bound holds, and no change or repair is lost for its length.
    """
    repairs = [{**repair, "commands": [], "notes": []} for repair in report["repairs"]]
    fitted = report
    for few in (20, 10, 5, 2, 1, 0):
        if len(_encode(fitted)) <= most:
            break
        findings = [{**finding, "evidence": []} for finding in report["findings"][:few]]
        fitted = {**report, "findings": findings, "resolved": report["resolved"][:few], "repairs": repairs}
        fitted["truncated"] = True
    return fitted


def _prepare(host: Host) -> None:
    """Makes the directory, or takes it back where others could write there or the reporter could not read."""
    status = host.stat(DIRECTORY, follow=False)
    if status is None:
        host.mkdir(DIRECTORY, 0o750)
    elif not status.directory:
        raise Failed(f"{DIRECTORY}: not a directory")
    elif (status.uid, status.gid) == (0, group(host)) and status.mode & 0o072 == 0o050:
        return
    else:
        host.chmod(DIRECTORY, 0o750)
    host.chown(DIRECTORY, 0, group(host))


@contextlib.contextmanager
def _locked(host: Host) -> Iterator[None]:
    """A pass and a command may write at once. Raises Locked, NotFound (no spool)."""
    with host.lock(f"{DIRECTORY}/lock", wait=10.0):
        yield


def _write(host: Host, path: str, body: bytes, *, sync: bool = True) -> None:
    """The reporter may read it: the directory has its group."""
    host.replace(path, body, mode=0o644, like=False, sync=sync)


def group(host: Host) -> int:
    """The reporter's group; root's where there is none."""
    try:
        lines = host.read("/etc/group").decode("utf-8", "replace").splitlines()
    except NotFound:
        return 0
    fields = next((line.split(":") for line in lines if line.startswith("ec2ssh-agent:")), [])
    return int(fields[2]) if len(fields) > 2 and fields[2].isdecimal() else 0


def read_state(host: Host) -> State:
    """Raises HostError."""
    try:
        state = codec.decode(State, codec.loads(host.read(_STATE, cap=_ACK_CAP, follow=False)))
    except (NotFound, TooLarge, codec.Garbage):
        return State()  # none yet, or damaged: the files' names still have the order
    return state if 0 <= state.sequence < _LAST and state.dropped >= 0 else State()


def _make_room(host: Host, most: int, wanted: int, state: State, kind: str) -> State:
    """Drops the oldest heartbeats first and repairs last, until `wanted` bytes fit. Raises Failed for a test that would
    drop what is none.
    """
    found = entries(host)
    statuses = [(entry, host.stat(entry.path, follow=False)) for entry in found]
    sizes = {entry: status.size for entry, status in statuses if status}
    total, count = sum(sizes.values()), len(sizes)
    for entry in sorted(sizes, key=lambda entry: (_DROP_ORDER[entry.kind], entry.sequence)):
        if total + wanted <= most and count < _MOST:
            break
        if kind == "test" and entry.kind in ("change", "repair"):
            raise Failed(f"{DIRECTORY}: full of reports that wait, which a test is not to drop (see report --drain)")
        state = state._replace(dropped=state.dropped + 1)
        _write(host, _STATE, json.dumps(state._asdict()).encode())
        host.remove(entry.path)
        total -= sizes[entry]
        count -= 1
    return state


def sweep(host: Host) -> None:
    """Removes what was delivered, and what a kill left half-written. Raises HostError."""
    if host.exists(DIRECTORY):
        with _locked(host):
            _sweep(host)


def _sweep(host: Host) -> None:
    for name in host.listdir(DIRECTORY):
        match = _NAME.fullmatch(name)
        if match:
            said = acknowledgement(host, match.group(3))
            if said and not said.parked:
                host.remove(f"{DIRECTORY}/{name}")
        elif ".ec2ssh-agent." in name:
            host.remove(f"{DIRECTORY}/{name}")


def summary(host: Host, config: Config) -> dict[str, Any]:
    """`report` of the status document: the queue, the last delivery, the endpoint's last answer. Raises HostError."""
    return _summary(host, shown_url(config.report_url)) if config.report_url else {"url": None}


def latest(host: Host, report: Mapping[str, Any]) -> Mapping[str, Any]:
    """`report` of a status document as it is now; as the last pass saw it, for who may not look."""
    if not report.get("url"):
        return report
    try:
        host.listdir(REPORTER)
        return _summary(host, str(report["url"]))
    except HostError:
        return report


def _summary(host: Host, url: str) -> dict[str, Any]:
    said = {entry.id: acknowledgement(host, entry.id) for entry in entries(host)}
    try:
        last = json.loads(host.read(f"{REPORTER}/state.json", cap=_ACK_CAP, follow=False))
    except (HostError, ValueError, RecursionError):
        last = {}
    last = last if isinstance(last, dict) else {}
    parked = [ack for ack in said.values() if ack and ack.parked]
    return {
        "url": url,
        "waiting": sum(ack is None for ack in said.values()),
        "parked": len(parked),
        "parked_because": parked[-1].answer if parked else None,
        "dropped": read_state(host).dropped,
        "delivered": _text(last.get("delivered")) or None,
        "last": _text(last.get("answer")) or "none yet",
        "last_time": _text(last.get("time")) or None,
    }


def shown_url(url: str) -> str:
    """Without user, password and query: status.json is readable by everybody."""
    return re.sub(r"//[^/]*@", "//", re.sub(r"[?#].*", "", url))
