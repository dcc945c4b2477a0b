"""The loop: epoll over the wake-up sources, one worker at a time, the pulse, signals, systemd.

A source that this machine does not give is listed in `missing` and tried again with every full pass; until then the
timer, and where it can the pulse, stand in for it. One that goes or comes is worth a pass, which says so. The
configuration is never read here: the worker reads it, and hands back what to watch.
"""

from __future__ import annotations

import os
import select
import sys
import time

from ..plain import TYPE_CHECKING, say, signal
from .firewall import Legacy, Rules
from .inotify import XTABLES_LOCK, Inotify
from .network import Network
from .notify import Notifier
from .probe import Probe
from .schedule import FULL, Schedule
from .socklook import AGAIN, Look
from .watch import RESTART, RESTARTING, Wake, WatchList, default
from .worker import Pass

if TYPE_CHECKING:
    from types import FrameType
    from typing import Callable, NoReturn, Optional, Protocol, TypeVar

    from ..netlink import Generation
    from .channel import Worker

    class Source(Protocol):
        def fileno(self) -> int: ...
        def close(self) -> None: ...

    _Source = TypeVar("_Source", bound=Source)

_LOCK = ((XTABLES_LOCK, (), "xtables-lock"),)
_STOP = 15.0  # seconds that a pass gets to finish or roll back when the daemon stops
_STUCK = 1.0  # seconds between two looks whether a pass that SIGKILL did not end has ended
_PUT_OFF = 10  # passes in a row that met another agent at work: as bad as one that failed
_JUMP = 2.0  # seconds that the wall clock may move against the other one
_CHANGERS = 16  # programs that changed the rules, remembered until the next pass
# So many turns with shorter pauses, and events are gathered for a while before they are read.
_FLOOD, _PAUSE, _NAP = 8, 0.05, 0.1


def clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Loop:
    """`worker` makes a pass in a forked child; `watch` stands until the first one has handed back its own; `wall` is
    the clock that may be set."""

    def __init__(
        self,
        config_path: str,
        root: str,
        *,
        worker: Worker,
        watch: Optional[WatchList] = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._config_path, self._root, self._worker = config_path, root, worker
        self._list = watch or default(config_path)
        self._epoll = select.epoll()
        self._handlers: dict[int, Callable[[float], None]] = {}
        self._schedule = Schedule()
        self._notifier = Notifier(os.environ)
        self._missing: dict[str, str] = {}  # source → why
        self._told: dict[str, str] = {}  # of them, those that a pass has been or will be told
        self._rules: Optional[Rules] = None
        self._network: Optional[Network] = None
        self._inotify: Optional[Inotify] = None
        self._look: Optional[Look] = None
        self._legacy = Legacy()
        self._pidfds: dict[int, int] = {}
        self._probe = Probe()
        self._probed: Optional[str] = None
        self._patient = 0.0  # until then, or the next pass, systemd is left to restart sshd
        self._pass: Optional[Pass] = None
        self._resting: Optional[Pass] = None  # its worker waits for another pass
        self._changers: dict[tuple[int, str], int] = {}  # → generation
        self._trouble = ""
        self._put_off = 0  # passes in a row
        self._marked = True  # a trouble file may be there, of a supervisor before this one
        self._stopping = False
        self._turns = 0  # in a row that had events at once
        self._wall_clock = wall
        self._wall = wall() - clock()
        self._pulse_at = self._probe_at = self._alive_at = float("inf")

    def run(self) -> int:
        """Until SIGTERM. Returns the exit status."""
        now = clock()
        self._arm_signals()
        self._arm()
        self._look_at_legacy(now)
        self._watch(self._list, now)
        self._schedule.stale("start", now)
        self._notifier.ready(self._list.status)
        self._alive_at = now + self._notifier.every
        while not (self._stopping and self._pass is None):
            self._turn()
        self._close()
        return 0

    # -- one turn

    def _turn(self) -> None:
        if self._turns > _FLOOD:
            time.sleep(_NAP)
        before = clock()
        events = self._epoll.poll(max(0.0, self._next() - before))
        now = clock()
        self._turns = self._turns + 1 if events and now - before < _PAUSE else 0
        for descriptor, _ in events:
            handler = self._handlers.get(descriptor)
            if handler:  # an earlier event of this turn may have closed it
                handler(now)
        if now >= self._pulse_at:
            self._pulse(now)
        if now >= min(self._probe_at, self._probe.until):
            self._probe_again(now)
        if self._pass:
            self._pass.enforce(now)
        elif not self._stopping and now >= self._schedule.due():
            self._begin(now)
        elif self._resting and now >= self._resting.until:
            self._dismiss()
        if self._missing != self._told:
            self._told = dict(self._missing)
            self._schedule.stale("sources", now)
        if now >= self._alive_at:
            stuck = self._pass is not None and self._pass.stuck
            self._alive_at = now + (min(_STUCK, self._notifier.every) if stuck else self._notifier.every)
            if not stuck:
                self._notifier.alive()

    def _next(self) -> float:
        work = self._pass.next if self._pass else self._schedule.due()
        rest = self._resting.until if self._resting else float("inf")
        return min(work, rest, self._pulse_at, self._probe_at, self._probe.until, self._alive_at)

    # -- passes

    def _begin(self, now: float) -> None:
        reasons, first = self._schedule.take(now)
        self._patient = 0.0  # of what befalls the unit from here on this pass may know nothing
        wake = Wake(
            reasons,
            tuple(self._changers),
            first,
            self._schedule.crashes,
            self._trouble,
            tuple(f"{name}: {why}" for name, why in sorted(self._missing.items())),
            b"" if self._schedule.crashes else self._list.kept,
            self._look is not None and self._look.hung,
            self._schedule.short,
        )
        self._changers, self._told = {}, dict(self._missing)
        if self._look:
            with self._source("listener"):
                self._look.remember()
        try:
            self._pass = self._start(wake, now)
        except OSError as error:
            self._failed(wake, f"no pass could be started: {error.strerror}", cost=0.0, now=now)
            return
        self._on(self._pass.fileno(), self._hear)

    def _start(self, wake: Wake, now: float) -> Pass:
        """By the worker that rests, or by a new one. Raises OSError."""
        deadline = self._list.deadline
        resting = self._resting
        if resting and resting.again(wake, now=now, deadline=deadline):
            self._resting = None
            return resting
        self._dismiss()
        return Pass(self._worker, self._config_path, self._root, wake=wake, now=now, deadline=deadline)

    def _dismiss(self) -> None:
        """A worker must not wait for ever, nor longer than memory is better used by others."""
        if self._resting:
            self._resting.dismiss()
        self._resting = None

    def _hear(self, now: float) -> None:
        made = self._pass
        if made and (not made.read(now) or made.rests):
            self._off(made.fileno())
            if made.rests:
                self._pass, self._resting = None, made
                self._ended(made, now)

    def _reap(self, now: float) -> None:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if self._pass and pid == self._pass.pid:
                self._off(self._pass.fileno())
                self._pass.ended(status, usage.ru_utime + usage.ru_stime)
                made, self._pass = self._pass, None
                self._ended(made, now)
            elif self._resting and pid == self._resting.pid:
                self._resting.close()  # somebody else ended it
                self._resting = None

    def _ended(self, made: Pass, now: float) -> None:
        full, cost = not FULL.isdisjoint(made.wake.reasons), made.cost
        if made.watch and made.watch.busy:
            self._take_back(made.wake)
            self._schedule.put_off(now, cost=cost, reasons=made.wake.reasons)
            self._notifier.status(made.watch.status)
            self._put_off += 1
            if self._put_off >= _PUT_OFF:
                self._mark(made.watch.status)
        elif made.watch and made.watch.patient:
            self._take_back(made.wake)
            self._patient = now + RESTART
            self._schedule.ended(now, cost=0.0, interval=self._list.interval, again=RESTART, full=False)
        elif made.watch:
            self._trouble, self._put_off = "", 0
            self._mark("")
            cost = 0.0 if made.watch.repaired else cost
            self._schedule.ended(now, cost=cost, interval=made.watch.interval, again=made.watch.again, full=full)
            if full:
                self._arm()
            self._watch(made.watch, now)
            self._published(made.wake, made.watch.status)
        else:
            self._failed(made.wake, made.trouble, cost=cost, now=now)

    def _failed(self, wake: Wake, trouble: str, *, cost: float, now: float) -> None:
        """The next pass is told, and gets the reasons of this one."""
        self._trouble = trouble
        say(trouble)
        self._mark(trouble)
        self._take_back(wake)
        self._schedule.crashed(now, cost=cost, reasons=wake.reasons)
        self._published(wake, f"{trouble}; it will be made again")

    def _take_back(self, wake: Wake) -> None:
        """Who changed the rules is for the next pass to say."""
        self._changers = {**dict.fromkeys(wake.by, 0), **self._changers}

    def _mark(self, trouble: str) -> None:
        """What the last good pass saw must not look like what is true now: `status` reads this file."""
        path = self._list.trouble_file
        if not path or not (trouble or self._marked):
            return
        try:
            if trouble:
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                with open(os.open(path, flags, 0o644), "w", encoding="utf-8", errors="replace") as file:
                    os.fchmod(file.fileno(), 0o644)  # whatever the umask
                    file.write(f"{trouble}\n")
            else:
                os.unlink(path)
        except FileNotFoundError:
            trouble = ""  # there was none, or no directory to put one in
        except OSError as error:
            say(f"{path}: {error.strerror}")
        self._marked = bool(trouble)

    def _published(self, wake: Wake, status: str) -> None:
        if "reload" in wake.reasons:
            self._notifier.ready(status)
        else:
            self._notifier.status(status)

    # -- sources

    def _on(self, descriptor: int, handler: Callable[[float], None]) -> None:
        self._epoll.register(descriptor, select.EPOLLIN)
        self._handlers[descriptor] = handler

    def _off(self, descriptor: int) -> None:
        if self._handlers.pop(descriptor, None):
            self._epoll.unregister(descriptor)

    def _arm(self) -> None:
        """Opens the sources that are not open."""
        self._rules = self._rules or self._open("ruleset", Rules, self._rules_changed)
        self._network = self._network or self._open("network", Network, self._network_changed)
        self._inotify = self._inotify or self._open("files", Inotify, self._files_changed)
        self._look = self._look or self._open("listener", Look, None)

    def _open(
        self, name: str, kind: Callable[[], _Source], handler: Optional[Callable[[float], None]]
    ) -> Optional[_Source]:
        try:
            made = kind()
        except OSError as error:
            self._missing[name] = error.strerror or str(error)
            return None
        if handler:
            self._on(made.fileno(), handler)
        self._missing.pop(name, None)
        return made

    def _watch(self, wanted: WatchList, now: float) -> None:
        """From now on what the last pass asked for."""
        if wanted.partly:
            known = tuple(entry for entry in self._list.directories if entry not in wanted.directories)
            wanted = wanted._replace(directories=(*wanted.directories, *known))
        self._list = wanted
        self._rules_changed(now)  # what waits to be read may be the pass's own doing
        if self._rules and wanted.generation == self._rules.generation:
            self._schedule.forget("ruleset")
        self._changers = {who: made for who, made in self._changers.items() if _others(made, wanted)}
        if self._inotify:
            fresh = self._inotify.watch((*wanted.directories, *(_LOCK if wanted.legacy else ())))
            self._changed(self._inotify, fresh, now)  # maybe while the pass looked
        if self._look:
            self._look.watch(wanted.ports)
        self._watch_processes(wanted.pids, now)
        self._pulse_at = min(self._pulse_at, now + wanted.pulse) if wanted.pulse > 0 else float("inf")
        self._probe_at = min(self._probe_at, now + wanted.probe) if wanted.probe > 0 else float("inf")

    def _watch_processes(self, pids: tuple[int, ...], now: float) -> None:
        for pid in self._pidfds.keys() - set(pids):
            self._drop_process(pid)
        for pid in pids:
            if pid in self._pidfds:
                continue
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                self._exited(now)
                continue
            except (OSError, AttributeError) as error:  # a kernel before 5.3, or a Python made for one
                self._missing["sshd"] = str(error)
                continue
            self._pidfds[pid] = descriptor
            self._missing.pop("sshd", None)
            self._on(descriptor, lambda at, pid=pid: self._process_ended(pid, at))  # type: ignore[misc]

    def _drop_process(self, pid: int) -> None:
        descriptor = self._pidfds.pop(pid)
        self._off(descriptor)
        os.close(descriptor)

    # -- events

    def _process_ended(self, pid: int, now: float) -> None:
        self._drop_process(pid)
        self._exited(now)

    def _exited(self, now: float, reason: str = "sshd-exit") -> None:
        self._schedule.stale(reason, now, RESTART if self._list.restarts_itself else 0.0)

    def _rules_changed(self, now: float) -> None:
        found: list[Generation] = []
        if self._rules:
            with self._source("ruleset"):
                found = self._rules.read()
        for made in found:
            self._schedule.stale("ruleset", now, by=made.program)
            if made.pid:
                self._changers.pop((made.pid, made.program), None)
                self._changers[made.pid, made.program] = made.id
        while len(self._changers) > _CHANGERS:
            del self._changers[next(iter(self._changers))]

    def _network_changed(self, now: float) -> None:
        if self._network:
            with self._source("network"):
                if self._network.read():
                    self._schedule.stale("network", now)

    def _files_changed(self, now: float) -> None:
        if self._inotify:
            self._changed(self._inotify, self._inotify.read(), now)

    def _changed(self, inotify: Inotify, reasons: tuple[str, ...], now: float) -> None:
        self._missing.pop("files", None)
        if inotify.missing:
            self._missing["files"] = ", ".join(f"{path} ({why})" for path, why in inotify.missing.items())
        for reason in reasons:
            if reason == "xtables-lock":
                self._look_at_legacy(now, told=True)
            elif reason not in RESTARTING or now >= self._patient:
                self._schedule.stale(reason, now)

    def _pulse(self, now: float) -> None:
        if self._look:
            self._look_at_listeners(now, self._look)
        if self._rules:
            self._look_at_rules(now, self._rules)
        if self._list.legacy:
            self._look_at_legacy(now)
        wall = self._wall_clock() - now
        if abs(wall - self._wall) > _JUMP:
            self._schedule.stale("clock", now)
        self._wall = wall
        suspect = self._look is not None and self._look.suspect
        self._pulse_at = now + (min(AGAIN, self._list.pulse) if suspect else self._list.pulse)

    def _look_at_listeners(self, now: float, look: Look) -> None:
        with self._source("listener"):
            changed, turned = look.look(now)
            if changed:
                self._exited(now, "listener")
            if turned:
                self._schedule.stale("queue", now)

    def _look_at_rules(self, now: float, rules: Rules) -> None:
        with self._source("ruleset"):
            if rules.moved():
                self._schedule.stale("ruleset", now)

    def _look_at_legacy(self, now: float, *, told: bool = False) -> None:
        """`told`: somebody has used iptables-legacy, so when in doubt, the tables changed."""
        with self._source("legacy"):
            moved = self._legacy.moved(now)
            if moved or (moved is None and told):
                self._schedule.stale("legacy", now)

    def _source(self, name: str) -> _Tried:
        """A look that the kernel may refuse: the source is missing then, until a look succeeds."""
        return _Tried(name, self._missing)

    def _probe_again(self, now: float) -> None:
        if now >= self._probe.until:
            self._off(self._probe.fileno())
            self._probe.give_up()
            self._probe_answered(now)
        if now >= self._probe_at:
            self._probe_at = now + self._list.probe
            if self._probe.fileno() >= 0:
                return  # still waiting
            with self._source("probe"):
                self._probe.begin(self._list.probe_at, now)
            if self._probe.answer:
                self._probe_answered(now)
            elif self._probe.fileno() >= 0:
                self._on(self._probe.fileno(), self._probe_heard)

    def _probe_heard(self, now: float) -> None:
        descriptor = self._probe.fileno()
        if self._probe.read():
            self._handlers.pop(descriptor, None)  # closed, and so gone from epoll
            self._probe_answered(now)

    def _probe_answered(self, now: float) -> None:
        if self._probe.answer != (self._probed or "banner"):
            self._schedule.stale("banner", now)
        self._probed = self._probe.answer

    # -- signals

    def _arm_signals(self) -> None:
        self._signals, end = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGCHLD):
            signal.signal(number, _noted)
        self._on(self._signals, self._signalled)

    def _signalled(self, now: float) -> None:
        for number in set(os.read(self._signals, 1 << 12)):
            if number == signal.SIGCHLD:
                self._reap(now)
            elif number == signal.SIGHUP:
                self._notifier.reloading()
                self._schedule.stale("reload", now)
            elif number == signal.SIGUSR1:
                self._schedule.stale("request", now)
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stopping = True
                self._notifier.stopping()
                if self._pass:
                    self._pass.stop(now, within=_STOP)

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        for pid in tuple(self._pidfds):
            self._drop_process(pid)
        self._dismiss()
        for source in (self._rules, self._network, self._inotify, self._look, self._legacy, self._probe, self._epoll):
            if source:
                source.close()


def _others(made: int, seen: WatchList) -> bool:
    """Whether a generation is news to the pass, or was made by somebody else while the pass was repairing: whoever
    reverts a repair at once does it before the pass looks again."""
    own = any(first < made <= last for first, last in seen.own)
    return made > seen.generation or bool(seen.own) and not own


class _Tried:
    def __init__(self, name: str, missing: dict[str, str]) -> None:
        self._name, self._missing = name, missing

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: object, trace: object) -> bool:
        if isinstance(error, OSError):
            self._missing[self._name] = error.strerror or str(error)
            return True
        if error is None:
            self._missing.pop(self._name, None)
        return False


def _noted(number: int, frame: Optional[FrameType]) -> None:
    """The wake-up descriptor has it."""


def _make_pass(config_path: str, root: str, wake: Wake) -> WatchList:
    from .. import daemon

    watch: WatchList = daemon.worker(config_path, root, wake)
    return watch


def serve(config_path: str, root: str) -> int:
    """The daemon in this process."""
    return Loop(config_path, root, worker=_make_pass).run()


def run(config_path: str, root: str) -> NoReturn:
    """The daemon, in a fresh interpreter: argparse and the rest of the command line would stay in its memory for good.

    Same pid; raises OSError.
    """
    main = os.path.join(os.path.dirname(os.path.abspath(__file__)), "__main__.py")
    os.execv(sys.executable, [sys.executable, "-I", main, config_path, root])  # noqa: S606 - itself
