"""A fleet does not arrive at once: 100,000 agents' real schedule, in the steady state and after an outage."""

from __future__ import annotations

import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from ec2ssh_agent import daemon
from ec2ssh_agent.config import Config
from ec2ssh_agent.facts import Machine
from ec2ssh_agent.host import Host
from ec2ssh_agent.model import Seen
from ec2ssh_agent.report import schedule, spool
from ec2ssh_agent.report.delivery import WHOLE, Answer, Endpoint, Outcome
from ec2ssh_agent.report.formats import Request
from ec2ssh_agent.report.reporter import STAY, TIMER, Reporter
from status_example import example

AGENTS = 100_000
EPOCH = 1_800_000_000.0
INTERVAL = 300.0


def identities(count: int) -> list[str]:
    return [f"i-{number:017x}" for number in range(0x1000, 0x1000 + count)]


def test_heartbeats_spread_evenly() -> None:
    seconds = Counter(int(schedule.offset(name, INTERVAL)) for name in identities(AGENTS))
    mean = AGENTS / INTERVAL
    assert set(seconds) == set(range(300))
    assert max(seconds.values()) <= 1.5 * mean


def test_the_slot_stays_where_it_is() -> None:
    for name in identities(50):
        at = schedule.offset(name, INTERVAL)
        assert 0 <= at < INTERVAL
        start = 1_800_000_000.0
        wait = schedule.until_next(name, INTERVAL, start)
        assert 0 < wait <= INTERVAL
        assert schedule.slot(name, INTERVAL, start + wait + 0.001) == schedule.slot(name, INTERVAL, start) + 1
        assert abs((start + wait - at) % INTERVAL) < 1e-3 or abs((start + wait - at) % INTERVAL - INTERVAL) < 1e-3


@pytest.mark.parametrize(("systemd", "url", "interval"), [(True, "https://a/", 1800), (False, "", 1800),
                                                          (False, "https://a/", 300)])  # fmt: skip
def test_without_systemd_passes_bring_the_heartbeats(systemd: bool, url: str, interval: float) -> None:
    assert daemon.interval(Config(report_url=url), Machine(systemd=Seen(systemd))) == interval


def test_the_delays_grow_and_are_full_jitter() -> None:
    assert schedule.delay(0, lambda: 0.5) == 0.5
    assert schedule.delay(3, lambda: 1.0) == 8.0
    assert schedule.delay(3, lambda: 0.0) == 0.0
    assert schedule.delay(1000, lambda: 1.0) == schedule.LAST
    assert schedule.delay(0, lambda: 0.5, retry_after=60) == 60.5
    assert schedule.delay(0, lambda: 0.0, retry_after=1e9) == schedule.RETRY_AFTER_MOST


def attempts(
    identity: str, place: float, changes: tuple[float, ...], *, until: float, draw: Callable[[], float],
    down: tuple[float, float], interval: float = INTERVAL,
) -> Iterator[float]:  # fmt: skip
    """When one agent sends, by reporter.py's rules: `test_the_simulated_agent_is_the_reporter` proves that they are.

    `place` is its timer's in the five minutes; `changes` are the times of reports; the endpoint is `down` from, until.
    """
    starts = sorted([*(place + TIMER * k for k in range(int(until / TIMER) + 1)), *changes])
    failures, not_before, done, last, over = 0, 0.0, 0, -1, -1.0
    for now in starts:
        if now < over or now > until:
            continue
        end = now + (0.0 if failures else STAY)
        while True:
            waiting = done < sum(change <= now for change in changes)
            slot = schedule.slot(identity, interval, EPOCH + now)
            if not waiting and slot == last:
                break
            wait = not_before - now
            if wait > 0:
                if now + wait > end:
                    break
                now += min(wait, 1.0) if changes and not waiting else wait
                continue
            yield now
            last = last if waiting else slot
            if down[0] <= now < down[1]:
                not_before = now + schedule.delay(failures, draw)
                failures += 1
            else:
                failures, not_before, done = 0, 0.0, done + waiting
        over = now


def seeded() -> random.Random:
    seed = int(os.environ.get("EC2SSH_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    return random.Random(seed)


class Recording(Endpoint):
    """An endpoint that is down for a while, and writes down when it was asked."""

    def __init__(self, host: Host, down: tuple[float, float]) -> None:
        self.host, self.down = host, down
        self.asked: list[float] = []

    def send(
        self, request: Request, *, id: str, now: float, plain: bool = False, binary: bool = False, whole: float = WHOLE
    ) -> Answer:
        since = now - EPOCH
        self.asked.append(since)
        return Answer(Outcome.RETRY if self.down[0] <= since < self.down[1] else Outcome.DELIVERED, "said")


class Clocked(Host):
    """A clock that only moves when somebody sleeps; `changes` are reported when their time has come."""

    def __init__(self, root: str, changes: tuple[float, ...], report: Callable[[Host], object]) -> None:
        super().__init__(root)
        self.since, self.changes, self.report = 0.0, list(changes), report

    def now(self) -> float:
        return EPOCH + self.since

    def monotonic(self) -> float:
        return self.since

    def sleep(self, seconds: float) -> None:
        self.since += seconds
        while self.changes and self.changes[0] <= self.since:
            self.report(self)
            self.changes.pop(0)


@pytest.mark.parametrize("interval", [300.0, 3600.0])
def test_the_simulated_agent_is_the_reporter(tmp_path: Path, interval: float) -> None:
    """The real reporter, started when its timer and its path unit start it, sends at the very same times."""
    chance = seeded()
    config = Config(report_url="http://127.0.0.1:1/", report_interval=interval, identity_imds="off")
    for number in range(8):
        name = f"i-{number:017x}"
        status = {**example(), "instance": {"id": name}}
        place, changes = chance.uniform(0, 300), tuple(sorted(chance.uniform(300, 2000) for _ in range(number // 2)))
        down, draws = (chance.uniform(0, 900), chance.uniform(900, 3000)), [chance.random() for _ in range(500)]
        supply, again = iter(draws), iter(draws)
        expected = list(
            attempts(name, place, changes, until=6000.0, draw=partial(next, supply), down=down, interval=interval)
        )
        host = Clocked(
            str(tmp_path / str(number)), changes, partial(spool.enqueue, config=config, document=status, previous=None,
                                                          kind="change")
        )  # fmt: skip
        for path in (spool.REPORTER, "/run/ec2ssh-agent"):
            Path(host.path(path)).mkdir(parents=True)
        Path(host.path("/run/ec2ssh-agent/status.json")).write_text(json.dumps(status))
        endpoint = Recording(host, down)
        for start in sorted([*(place + TIMER * k for k in range(21)), *changes]):
            if host.since <= start <= 6000.0:
                host.sleep(start - host.since)
                reporter = Reporter(host, config, draw=partial(next, again))
                reporter.endpoint = endpoint
                reporter.run()
        assert endpoint.asked == pytest.approx(expected)


@pytest.mark.parametrize("interval", [300.0, 3600.0])
@pytest.mark.parametrize("outage", [30.0, 300.0, pytest.param(3600.0, marks=pytest.mark.slow)])
def test_an_outage_ends_without_a_storm(outage: float, interval: float) -> None:
    """100,000 agents, of which one in fifty an hour has a change: in no second (of an hour's interval: in no twelve),
    during the outage or after it, do more than twice as many requests come as when all is well."""
    chance = seeded()
    down = (600.0, 600.0 + outage)
    arrivals: Counter[int] = Counter()
    for name in identities(AGENTS):
        changes = (chance.uniform(*down),) if chance.random() < 0.02 * outage / 3600 else ()
        place = schedule.offset("timer " + name, TIMER)
        times = attempts(name, place, changes, until=down[1] + 900, draw=chance.random, down=down, interval=interval)
        arrivals.update(int(time / interval * 300) for time in times)
    # That all begin at the same moment is the simulation's; what the first interval brings is a start, not a storm.
    seen = {second: count for second, count in arrivals.items() if second >= int(down[0] / interval * 300)}
    steady = AGENTS / 300
    print(f"steady {steady:.0f}, most {max(seen.values())}")
    assert max(seen.values()) <= 2 * steady
