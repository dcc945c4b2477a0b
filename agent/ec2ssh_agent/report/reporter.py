"""The unprivileged program that delivers reports: `python3 -m ec2ssh_agent.report.reporter`.

Started by a path unit when root has put a report into the spool, and by a timer for heartbeats; gone when there is
nothing to send, or nothing that may be sent within two minutes. It writes to its own directory alone: acknowledgements,
which root reads as the word of a stranger, and what it must know of its last run.

Reports go out in their order, at least once, each with its id as idempotency key. A heartbeat is made here, of
status.json: it is never older than the moment in which it is sent, and needs no room in the spool. One that fails is
not tried again: the next slot brings a newer one, and an endpoint that comes back meets no storm of them.

A full or read-only disk stops nothing: what cannot be written down is remembered for the run, and sent again by the
next.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Optional

from .. import codec, publish
from ..config import FILE, Config, load, restored
from ..host import Host, HostError, Locked, NotFound
from ..model import AgentError, ConfigError
from ..plain import NamedTuple
from ..status import age
from . import content, formats, identity, schedule, spool
from .delivery import Answer, Endpoint, Misconfigured, Outcome

_STATE = f"{spool.REPORTER}/state.json"
_STATUS = "/run/ec2ssh-agent/status.json"
#: Held by the one run at a time; by a run that somebody asked for while it waits for the end of another.
_LOCK, _ASKED = f"{spool.REPORTER}/lock", f"{spool.REPORTER}/asked"
#: The timer starts a run this often. A run ends rather than wait longer than `STAY` for its next try; at once where it
#: found the endpoint down (a whole fleet's tries would add up); where heartbeats are wanted more often than the timer
#: comes, just before the next one (seconds).
TIMER, STAY = 300.0, 120.0
#: The metadata service is asked again after this, and where it did not answer after this (seconds).
_IDENTITY_AGE, _IDENTITY_RETRY = 86_400.0, 3600.0
#: How long a run that somebody asked for waits for the end of another, which ends as soon as it has nothing to do.
_LOCK_WAIT = 180.0
#: Without systemd, what the unit's MemoryMax= and Nice= are (bytes).
_MEMORY, _NICE = 128 << 20, 10


class State(NamedTuple):
    """What a run tells the next. Times in seconds since the epoch, `time` and `delivered` as RFC 3339 for root.

    `endpoint` tells one from another: what was learnt of one does not hold for the next.
    """

    instance: str = ""
    endpoint: str = ""
    failures: int = 0
    not_before: float = 0.0
    slot: int = 0
    plain: bool = False
    binary: bool = False
    answer: str = ""
    time: str = ""
    delivered: str = ""
    imds: Mapping[str, Any] = {}
    imds_at: float = 0.0


class Run(NamedTuple):
    """What a run did, for `report --test` and `--drain`."""

    sent: int = 0
    parked: int = 0
    answer: str = ""


class Reporter:
    def __init__(self, host: Host, config: Config, *, draw: Callable[[], float] = random.random) -> None:
        self.host, self.config, self.draw = host, config, draw
        self.state = _towards(_load(host), config)
        self.endpoint: Optional[Endpoint] = None
        self.done = Run()
        self._queue: list[spool.Entry] = []
        self._finished: set[str] = set()

    def run(self, *, now: bool = False, only: str = "") -> Run:
        """Sends what waits, and a heartbeat when its slot has come. Raises HostError where the spool cannot be read.

        `now`: regardless of back-off, each report once, parked ones again; `only`: this report alone, out of order.
        """
        host, often = self.host, self.config.report_interval < TIMER and not (now or only)
        end = host.monotonic() + (TIMER - 5.0 if often else 0.0 if self.state.failures else STAY)
        _prune(self.host)
        if now:
            _unpark(self.host)
        while True:
            entry = self._next(only)
            wait = 0.0 if now or only else self._wait()
            if entry is None and (only or not self._heartbeat_due()):
                if not often:
                    return self.done
                wait = max(wait, self._until_heartbeat())
            if wait > 0:
                if host.monotonic() + wait > end or self._asked_for():
                    return self.done
                # In small steps: the path unit starts no second run, and whoever asks for one does not wait long.
                host.sleep(min(wait, 1.0))
                continue
            sent = self._report(entry) if entry else self._heartbeat()
            if not sent and (now or only):
                return self.done

    def _next(self, only: str) -> Optional[spool.Entry]:
        """The oldest report that is not done with. New ones are younger: listed when the last list has been sent."""
        for fresh in (False, True):
            if fresh:
                self._queue = list(reversed(spool.entries(self.host)))
            while self._queue:
                entry = self._queue[-1]
                if (not only or entry.id == only) and not self._is_finished(entry.id):
                    return entry
                self._queue.pop()
        return None

    def _is_finished(self, id: str) -> bool:
        return id in self._finished or spool.acknowledgement(self.host, id) is not None

    def _asked_for(self) -> bool:
        """Whether somebody waits for a run of his own."""
        if not self.host.exists(_ASKED):
            return False
        try:
            with self.host.lock(_ASKED):
                return False
        except Locked:
            return True

    def _wait(self) -> float:
        """Seconds until sending is allowed again. A clock that was set back must not silence the instance."""
        wait = self.state.not_before - self.host.now()
        return wait if wait <= schedule.LAST + schedule.RETRY_AFTER_MOST else 0.0

    # -- what is sent

    def _report(self, entry: spool.Entry) -> bool:
        """Whether the report is done with, delivered or parked."""
        try:
            report = json.loads(spool.read(self.host, entry))
            if not isinstance(report, dict) or report.get("id") != entry.id:
                raise ValueError("not the report that its name says")
        except NotFound:
            self._finished.add(entry.id)  # root has dropped it meanwhile
            return True
        except (HostError, ValueError) as error:
            # It must not keep the others from going out.
            self._acknowledge(entry.id, Answer(Outcome.PARKED, f"cannot be read: {error}"))
            return True
        answer = self._send(report, None)
        if answer.outcome is not Outcome.RETRY:
            self._acknowledge(entry.id, answer)
        return answer.outcome is not Outcome.RETRY

    def _heartbeat_due(self) -> bool:
        return schedule.slot(self._who(), self.config.report_interval, self.host.now()) != self.state.slot

    def _until_heartbeat(self) -> float:
        return schedule.until_next(self._who(), self.config.report_interval, self.host.now())

    def _heartbeat(self) -> bool:
        status, last = heartbeat_status(self.host), spool.read_state(self.host)
        report = content.report(
            status, previous=status, kind="heartbeat", id=str(uuid.uuid4()), sequence=last.sequence,
            dropped=last.dropped,
        )  # fmt: skip
        report["time"] = _stamp(self.host.now())
        slot = schedule.slot(self._who(), self.config.report_interval, self.host.now())
        self.state = self.state._replace(slot=slot)
        return self._send(report, status).outcome is not Outcome.RETRY

    def _who(self) -> str:
        if not self.state.instance:
            self.state = self.state._replace(instance=_instance(self.host))
        return self.state.instance

    def _send(self, report: content.Report, status: Optional[Mapping[str, Any]]) -> Answer:
        host = self.host
        try:
            self.endpoint = self.endpoint or Endpoint(host, self.config)
            report["instance"] = self._identified(report)
            request = formats.request_of(
                report, self.config.report_format, interval=self.config.report_interval, status=status
            )
            plain, binary = self.state.plain, self.state.binary
            answer = self.endpoint.send(request, id=report["id"], now=host.now(), plain=plain, binary=binary)
        except Misconfigured as error:
            answer = Answer(Outcome.RETRY, str(error))
        at = _stamp(host.now())
        state = self.state._replace(
            answer=answer.text,
            time=at,
            plain=self.state.plain or answer.plain,
            binary=answer.binary if answer.outcome is Outcome.DELIVERED else self.state.binary,
        )
        if answer.outcome is Outcome.RETRY:
            wait = schedule.delay(state.failures, self.draw, retry_after=answer.retry_after)
            state = state._replace(failures=state.failures + 1, not_before=host.now() + wait)
        else:
            state = state._replace(failures=0, not_before=0.0)
        if answer.outcome is Outcome.DELIVERED:
            state = state._replace(delivered=at)
        self._keep(state)
        self.done = Run(
            self.done.sent + (answer.outcome is Outcome.DELIVERED),
            self.done.parked + (answer.outcome is Outcome.PARKED),
            answer.text,
        )
        return answer

    def _identified(self, report: content.Report) -> dict[str, Any]:
        """The instance as root told it, and what the metadata service says; the id stays root's."""
        about = dict(report["instance"] or {})
        url = identity.endpoint(self.host, self.config)
        test = report["kind"] == "test"
        good_for = _IDENTITY_AGE if self.state.imds else _IDENTITY_RETRY
        if url and (test or not 0 <= self.host.now() - self.state.imds_at < good_for):
            said = identity.imds(url, signed=test)
            proof = {key: said.pop(key) for key in ("document", "signature") if key in said}
            self.state = self.state._replace(imds=said or self.state.imds, imds_at=self.host.now())
            about.update(proof)
        return {**self.state.imds, **about}

    # -- what is kept

    def _acknowledge(self, id: str, answer: Answer) -> None:
        said = {"outcome": answer.outcome.value, "answer": answer.text, "time": _stamp(self.host.now())}
        self._finished.add(id)
        self._write(f"{spool.REPORTER}/{id}", json.dumps(said), sync=True)

    def _keep(self, state: State) -> None:
        # With the instance: what an image that is started elsewhere brings along must be known as another's.
        self.state = state._replace(instance=self._who())
        self._write(_STATE, json.dumps(self.state._asdict()), sync=False)

    def _write(self, path: str, text: str, *, sync: bool) -> None:
        try:
            self.host.replace(path, text.encode(), mode=0o600, like=False, sync=sync)
        except HostError as error:
            print(f"ec2ssh-agent-reporter: not written down: {error}", file=sys.stderr)


def heartbeat_status(host: Host) -> dict[str, Any]:
    """The daemon's latest document; where there is none, or it is old, one that says so: silence is no health."""
    try:
        status = json.loads(host.read(_STATUS, cap=16 << 20, follow=False))
        stale = age(status, _stamp(host.now())) or publish.failing(host, status)
    except (HostError, ValueError, KeyError, TypeError) as error:
        return {
            "agent": {"version": "", "pass_ms": 0}, "instance": identity.local(host), "health": "unknown",
            "summary": f"the daemon's status cannot be read: {error}", "ssh": {}, "findings": [], "repairs": [],
            "reach": {"answers": [], "unseen": []}, "updated": _stamp(host.now()), "valid_until": _stamp(host.now()),
        }  # fmt: skip
    return {**status, "health": "unknown", "summary": stale} if stale else dict(status)


def _instance(host: Host) -> str:
    return str((heartbeat_status(host)["instance"] or {}).get("id") or "unknown")


def _stamp(seconds: float) -> str:
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + "Z"


def _load(host: Host) -> State:
    """A new state where there is none, it is damaged, or it is another instance's (an image started elsewhere)."""
    try:
        said = json.loads(host.read(_STATE, follow=False))
        state = State(**said)
    except (NotFound, ValueError, TypeError):
        return State()
    return state if state.instance in ("", _instance(host)) else State()


def _towards(state: State, config: Config) -> State:
    """`state` with nothing of another endpoint's: a mended address is tried at once."""
    endpoint = f"{zlib.crc32(f'{config.report_format} {config.report_url}'.encode()):08x}"
    if endpoint == state.endpoint:
        return state
    return state._replace(endpoint=endpoint, failures=0, not_before=0.0, plain=False, binary=False)


def _prune(host: Host) -> None:
    """Acknowledgements of reports that root has removed, and what a kill left half-written."""
    there = {entry.id for entry in spool.entries(host)}
    for name in host.listdir(spool.REPORTER):
        if ".ec2ssh-agent." in name or (spool.UUID.fullmatch(name) and name not in there):
            try:
                host.remove(f"{spool.REPORTER}/{name}")
            except HostError as error:
                print(f"ec2ssh-agent-reporter: not removed: {error}", file=sys.stderr)


def _unpark(host: Host) -> None:
    for entry in spool.entries(host):
        said = spool.acknowledgement(host, entry.id)
        if said and said.parked:
            host.remove(f"{spool.REPORTER}/{entry.id}")


@contextlib.contextmanager
def _one_run(host: Host, *, asked: bool) -> Iterator[None]:
    """Raises Locked when another is at work; a run that somebody asked for waits for its end first."""
    with contextlib.ExitStack() as stack:
        if asked:
            stack.enter_context(host.lock(_ASKED, wait=_LOCK_WAIT))
        stack.enter_context(host.lock(_LOCK, wait=_LOCK_WAIT if asked else 0.0))
        yield


def _behind() -> None:
    """In the background: on no pipe of whoever started it, who waits for that."""
    os.nice(_NICE)
    resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY, _MEMORY))
    sink = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(sink, descriptor)


def _config(host: Host, path: str) -> Config:
    """The configuration; where it is wrong, what root's last report was made with, so that the mistake is reported."""
    try:
        return load(host, path)
    except ConfigError:
        try:
            return restored(host.read(spool.CONFIG, follow=False))
        except (HostError, codec.Garbage):
            print("ec2ssh-agent-reporter: and there is no earlier configuration", file=sys.stderr)
        raise


def _leave_word(host: Host, why: str) -> None:
    """For `status`, in the place of an endpoint's answer: nothing is sent, and this is why."""
    try:
        state = _load(host)._replace(answer=f"not sent: {why}"[:200], time=_stamp(host.now()))
        host.replace(_STATE, json.dumps(state._asdict()).encode(), mode=0o600, like=False, sync=False)
    except HostError as error:
        print(f"ec2ssh-agent-reporter: not written down: {error}", file=sys.stderr)


def main(argv: Optional[list[str]] = None) -> int:
    parser = argparse.ArgumentParser(prog="ec2ssh-agent-reporter", description="Delivers what waits in the spool.")
    parser.add_argument("--root", default="/")
    parser.add_argument("--config", default=FILE)
    parser.add_argument("--now", action="store_true", help="regardless of back-off; parked reports again")
    parser.add_argument("--only", default="", metavar="ID", help="this report alone")
    parser.add_argument("--background", action="store_true", help="without systemd: let whoever starts it go on")
    arguments = parser.parse_args(argv)
    if arguments.background:
        _behind()
    # urllib3 would write the keys of each connection there, and fail where it cannot.
    os.environ.pop("SSLKEYLOGFILE", None)
    host = Host(arguments.root)
    asked = arguments.now or bool(arguments.only)
    try:
        config = _config(host, arguments.config)
        if not config.report_url:
            return 0
        with _one_run(host, asked=asked):
            done = Reporter(host, config).run(now=arguments.now, only=arguments.only)
    except Locked as error:
        print(f"another run is at work: {error}", file=sys.stderr)
        return int(asked)
    except AgentError as error:
        print(f"ec2ssh-agent-reporter: {error}", file=sys.stderr)
        _leave_word(host, str(error))
        return error.exit_status
    if asked:
        print(json.dumps(done._asdict()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
