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
#: What xt_limit and xt_hashlimit can count; a longer time overflows, and the limit is anything.
_LONGEST = 86400


def at_once(rate: int, seconds: int, burst: int) -> int:
    """How many packets pass at once of a limit of `rate` in `seconds`; 0: it never runs dry for one connection."""
    return burst if rate and seconds > _PATIENCE * rate else 0


def overflows(rate: int, seconds: int, burst: int) -> bool:
    return bool(rate) and seconds * burst > _LONGEST * rate


def xt_rate(text: str) -> Optional[tuple[int, int]]:
    """`3/hour`, in any abbreviation, as packets and seconds. None: bytes, or no rate."""
    number, _, unit = text.partition("/")
    seconds = [long for name, long in SECONDS.items() if name.startswith(unit.lower() or "second")]
    return (int(number), seconds[0]) if number.isascii() and number.isdecimal() and seconds else None
