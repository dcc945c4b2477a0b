"""How much limits let through of the first packets of an idle source's connection, which is alone with them.

A limit that is used up is either filled again while the kernel still sends the SYN-ACK again (tcp_synack_retries: the
last time after 31 s), or it stays used up for this connection.

Sources: net/netfilter/{nft_limit,xt_limit,xt_hashlimit}.c, extensions/libxt_{limit,hashlimit}.c of iptables.
"""

from __future__ import annotations

from typing import Optional

BURST = 5  # where nothing is said
SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_PATIENCE = 31
_MANY = 32  # more than the packets of one connection, in all hooks, until sshd's banner
#: What xt_limit and xt_hashlimit can count, in seconds, with HZ 250 or 1000 (measured): a longer time overflows.
_SPAN = 134217


def at_once(rate: int, seconds: int, burst: int) -> int:
    """How many packets pass at once of a limit of `rate` in `seconds`; 0: it never runs dry for one connection."""
    return burst if rate and seconds > _PATIENCE * rate and burst < _MANY else 0


def xt_at_once(rate: int, seconds: int, burst: int) -> int:
    """As `at_once`, for iptables. A burst of which nothing is left by the overflow only nft's own limit takes."""
    left = seconds * burst % (_SPAN * rate) // seconds if rate else 0
    return at_once(rate, seconds, left or burst)


def xt_rate(text: str) -> Optional[tuple[int, int]]:
    """`3/hour`, in any abbreviation, as packets and seconds. None: bytes, or no rate."""
    number, _, unit = text.partition("/")
    seconds = [long for name, long in SECONDS.items() if name.startswith(unit.lower() or "second")]
    return (int(number), seconds[0]) if number.isascii() and number.isdecimal() and seconds else None
