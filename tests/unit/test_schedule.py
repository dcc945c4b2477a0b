"""A fleet does not arrive at once: 100,000 agents' real schedule, in the steady state and after an outage."""

from __future__ import annotations

import heapq
import os
import random
from collections import Counter

from ec2ssh_agent.report import schedule

AGENTS = 100_000
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


def test_the_delays_grow_and_are_full_jitter() -> None:
    assert schedule.delay(0, lambda: 0.5) == 0.5
    assert schedule.delay(3, lambda: 1.0) == 8.0
    assert schedule.delay(3, lambda: 0.0) == 0.0
    assert schedule.delay(1000, lambda: 1.0) == schedule.LAST
    assert schedule.delay(0, lambda: 0.5, retry_after=60) == 60.5
    assert schedule.delay(0, lambda: 0.0, retry_after=1e9) == schedule.RETRY_AFTER_MOST


def test_an_outage_ends_without_a_storm() -> None:
    """Each agent is started at its own place in the five minutes (the timer), and sends when its back-off allows it.

    The endpoint is down for an hour; afterwards no second, smoothed over ten, sees more than twice the steady rate.
    """
    seed = int(os.environ.get("EC2SSH_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    chance = random.Random(seed)
    agents = AGENTS // 5
    outage = (600.0, 600.0 + 3600.0)
    failures, not_before, slots = [0] * agents, [0.0] * agents, [-1] * agents
    names = identities(agents)
    started = [(schedule.offset("timer " + name, INTERVAL), number) for number, name in enumerate(names)]
    heapq.heapify(started)
    arrivals: Counter[int] = Counter()
    while started:
        now, number = heapq.heappop(started)
        if now > outage[1] + 1800:
            continue
        heapq.heappush(started, (now + INTERVAL, number))
        due = schedule.slot(names[number], INTERVAL, now)
        if due == slots[number] or now < not_before[number]:
            continue
        arrivals[int(now // 10)] += 1
        if outage[0] <= now < outage[1]:
            not_before[number] = now + schedule.delay(failures[number], chance.random)
            failures[number] += 1
        else:
            failures[number], slots[number] = 0, due
    steady = agents / INTERVAL * 10
    after = {second: count for second, count in arrivals.items() if second * 10 >= outage[1]}
    assert max(after.values()) <= 2 * steady
    assert sum(count for second, count in after.items() if second * 10 < outage[1] + 600) > agents * 1.5
