"""What passes need of hashlib (which loads OpenSSL, 2 ms) and of calendar and time.strptime (3 ms), and nothing else of
them. Each pass is a fresh process: what it imports, it pays for.
"""

from __future__ import annotations

from .plain import TYPE_CHECKING

if TYPE_CHECKING:
    from hashlib import sha256
else:
    try:
        from _sha2 import sha256  # Python 3.12 and later
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:  # made without
            from hashlib import sha256

__all__ = ["epoch", "sha256"]


def epoch(year: int, month: int, day: int, hour: int, minute: int, second: int) -> int:
    """Seconds since 1970 of a time in UTC, as timegm(3)."""
    # Years that begin in March have their leap day last. 1970-01-01 is 719468 days after 0000-03-01.
    year, month = (year, month - 3) if month > 2 else (year - 1, month + 9)
    days = 365 * year + year // 4 - year // 100 + year // 400 + (153 * month + 2) // 5 + day - 1 - 719468
    return days * 86400 + hour * 3600 + minute * 60 + second
