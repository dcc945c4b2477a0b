"""When a report is sent: a slot for the heartbeat of each instance, and the delays after a failure. Pure.

A fleet must not arrive at once: the slot's place in the interval comes from a hash of the instance's identity, and the
delays are drawn anew from zero up to the bound each time ("full jitter").
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

#: The first delay's bound, and the largest (seconds).
FIRST, LAST = 1.0, 300.0
#: What an endpoint may ask for with Retry-After.
RETRY_AFTER_MOST = 3600.0


def offset(identity: str, interval: float) -> float:
    """Seconds from the start of each interval to this instance's slot in it; evenly spread over identities."""
    digest = hashlib.sha256(b"ec2ssh-agent heartbeat\0" + identity.encode()).digest()
    return int.from_bytes(digest[:8], "big") / (1 << 64) * interval


def slot(identity: str, interval: float, now: float) -> int:
    """The number of the slot that began last. `now` in seconds since the epoch."""
    return int((now - offset(identity, interval)) // interval)


def until_next(identity: str, interval: float, now: float) -> float:
    """Seconds until the next slot begins."""
    return (slot(identity, interval, now) + 1) * interval + offset(identity, interval) - now


def delay(failures: int, draw: Callable[[], float], *, retry_after: float = 0.0) -> float:
    """Seconds to wait after the `failures`-th failure in a row. `draw` gives a number from 0 to 1.

    What the endpoint asked for (Retry-After) is waited for, and the jitter comes on top of it: all the others that it
    turned away were told the same.
    """
    bound = min(LAST, FIRST * 2.0 ** min(failures, 30))
    return min(max(0.0, retry_after), RETRY_AFTER_MOST) + draw() * bound
