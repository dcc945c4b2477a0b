"""The quick ways give what the modules that they stand for give."""

from __future__ import annotations

import calendar
import hashlib
import random
import time

from ec2ssh_agent.quick import epoch, sha256


def test_epoch_is_timegm() -> None:
    chosen = random.Random(4)
    for seconds in (0, 951782399, 951782400, 4107542400, *(chosen.randrange(-(10**9), 10**11) for _ in range(2000))):
        when = time.gmtime(seconds)
        assert epoch(*when[:6]) == seconds == calendar.timegm(when)


def test_sha256() -> None:
    assert sha256(b"abc").hexdigest() == hashlib.sha256(b"abc").hexdigest()
