"""When the next pass starts. Pure: the time is handed in, seconds of one clock that never jumps.

- A burst is one pass: it starts when nothing new came for QUIET seconds, or BURST after the first event.
- Passes that events ask for get SHARE of one core, with BUDGET seconds of CPU at hand, which a quiet while fills up
  again at once. So single faults are met at once however many there are, and a host whose rules change all the time
  costs SHARE, and waits LONGEST seconds at most; where a pass is dear (of a host with 5,000 rules), more of its budget
  is at hand, a quiet while is longer, and it waits longer. News, which nothing of its kind (the reason, and who changed
  the rules) came before for a while, does not wait behind such a flood: its pass is made at once, with a share of its
  own, and the flood's next one later. A pass that repairs takes nothing from the budget: firewall-cmd alone is half a
  second, and how often it is tried the circuit bounds.
- After a crash the pass is made again, later each time; what comes anew waits a little, too.
"""

from __future__ import annotations

from ..plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Optional

QUIET, BURST = 0.005, 0.1  # short: a pass looks at the rules 50 ms after it has started, and sees what came till then
SHARE, BUDGET, LONGEST = 0.027, 0.5, 5.0
_NEWS, _NEWS_APART, _KINDS = 10.0, 2.0, 64  # seconds without its kind, and between two of any; kinds remembered
_NEWS_SHARE = 0.04  # of one core, for news
_CALM, _CALM_FACTOR = 1.0, 10.0  # a quiet while: so long, and so many times the CPU time of the last pass
_DEAR, _DEAR_SHARE, _DEAR_PASSES, LONGEST_DEAR = 0.3, 0.04, 3, 30.0  # CPU seconds of a pass; the rest is of such passes
_PUT_OFF = 1.0  # seconds
_RETRY_LONGEST, _EVENT_LONGEST = 300.0, 5.0
# Wanted by the last pass, by the clock or by a person: they cost what they cost, and wait for nothing.
_FREE = frozenset(("start", "timer", "reload", "verify", "request"))
FULL = frozenset(("start", "timer", "reload"))  # re-read everything


class _Stale(NamedTuple):
    first: float
    delay: float  # not before first + delay


class Schedule:
    def __init__(self) -> None:
        self._stale: dict[str, _Stale] = {}
        self._first = self._last = float("-inf")  # event of the burst; any event or end of a pass
        self._balance, self._balance_at = BUDGET, 0.0
        self._price(0.0)
        self._heard: dict[tuple[str, str], float] = {}  # kind of an event → when it came last, eldest first
        self._news: set[str] = set()  # these wait for no budget
        self._news_at = float("-inf")
        self._events_not_before = float("-inf")
        self._timer = self._again = float("inf")
        self._running = False
        self.crashes = 0  # in a row

    def stale(self, reason: str, now: float, delay: float = 0.0, *, by: str = "") -> None:
        """An event, made `by` a program: what `reason` names must be looked at, not before `delay` seconds."""
        last = self._heard.pop((reason, by), float("-inf"))
        self._heard[reason, by] = now
        if len(self._heard) > _KINDS:
            del self._heard[next(iter(self._heard))]
        if reason not in _FREE and now - last >= _NEWS and now - self._news_at >= self._news_apart:
            self._news.add(reason)
            self._news_at = now
        if not any(self._ready_alone(name) for name in self._stale):
            self._first = now
            if not self._running and now - self._last >= self._calm:
                self._balance, self._balance_at = self._budget, now
        self._last = now
        self._await(reason, now, delay)

    def _await(self, reason: str, now: float, delay: float) -> None:
        known = self._stale.get(reason)
        if not known or now + delay < known.first + known.delay:  # of a pass that crashed, it may wait for long
            self._stale[reason] = _Stale(now, delay)

    def forget(self, reason: str) -> None:
        """The last pass has seen that already."""
        self._stale.pop(reason, None)
        self._news.discard(reason)

    def _ready_alone(self, reason: str) -> bool:
        return not self._stale[reason].delay

    def due(self) -> float:
        """When the next pass starts."""
        return min((*(self._when(name) for name in self._stale), self._timer, self._again))

    def _when(self, reason: str) -> float:
        event = self._stale[reason]
        if reason in _FREE:
            return event.first + event.delay
        settled = event.first + event.delay if event.delay else min(self._last + QUIET, self._first + BURST)
        wait = 0.0 if reason in self._news else max(0.0, -self._balance / SHARE)
        return max(settled, self._balance_at + wait, self._events_not_before)

    @property
    def short(self) -> bool:
        """Events come faster than their budget lasts: after the next pass there will be another soon.

        Said while some of it is left: the first pass that waits for it is to be a cheap one, or it waits for seconds.
        """
        return self._balance < self._budget / 2

    def take(self, now: float) -> tuple[tuple[str, ...], float]:
        """The reasons of the pass that starts now, and the first sight of the eldest."""
        if self._again <= now:
            self._stale.setdefault("verify", _Stale(self._again, 0.0))
        if self._timer <= now:
            self._stale.setdefault("timer", _Stale(self._timer, 0.0))
            self._timer = float("inf")
        self._again = float("inf")
        # What has to wait by itself stays; the rest comes along with whatever is due.
        ready = [name for name, event in self._stale.items() if event.first + event.delay <= now]
        first = min((self._stale[name].first for name in ready), default=now)
        for name in ready:
            del self._stale[name]
        self._news.difference_update(ready)
        self._running = True
        return tuple(ready), first

    def ended(self, now: float, *, cost: float, interval: float, again: Optional[float], full: bool) -> None:
        """A pass ended well, having used `cost` seconds of CPU (0: it is no measure of other passes); the next full one
        `interval` after a full one."""
        if cost:
            self._price(cost)
        self._debit(now, cost)
        if full:
            self._balance = self._budget
        self.crashes = 0
        self._events_not_before = float("-inf")
        self._timer = now + interval if full else min(self._timer, now + interval)
        self._again = float("inf") if again is None else now + max(0.0, again)

    def crashed(self, now: float, *, cost: float, reasons: tuple[str, ...]) -> None:
        """It did not: everything that it was for is still to be looked at."""
        self._debit(now, cost)
        self._balance = max(self._balance, -_EVENT_LONGEST * SHARE)
        wait = 2.0 ** min(self.crashes, 16)
        self.crashes += 1
        self._events_not_before = now + min(wait, _EVENT_LONGEST)
        self._timer = min(self._timer, now + min(wait, _RETRY_LONGEST))
        for reason in reasons:
            if reason not in ("timer", "verify"):
                self._await(reason, now, min(wait, _RETRY_LONGEST))

    def put_off(self, now: float, *, cost: float, reasons: tuple[str, ...]) -> None:
        """It looked at nothing, for another agent repairs."""
        self._debit(now, cost)
        for reason in reasons:
            self._await(reason, now, _PUT_OFF)

    def _debit(self, now: float, cost: float) -> None:
        self._balance = min(self._budget, self._balance + (now - self._balance_at) * SHARE) - cost
        self._balance = max(self._balance, -self._longest * SHARE)
        self._balance_at = now
        self._running = False
        self._last = now

    def _price(self, cost: float) -> None:
        """What follows from the CPU time of a pass."""
        self._budget = max(BUDGET, _DEAR_PASSES * cost)
        self._calm = cost / _DEAR_SHARE if cost > _DEAR else max(_CALM, _CALM_FACTOR * cost)
        self._longest = min(max(LONGEST, cost / SHARE), LONGEST_DEAR) if cost > _DEAR else LONGEST
        self._news_apart = max(_NEWS_APART, cost / _NEWS_SHARE)
