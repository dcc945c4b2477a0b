"""sshd's own last error lines, from the journal. Asked only when something is wrong: the import takes 15–29 ms.

Source: systemd.journal-fields(7), python-systemd.
"""

from __future__ import annotations

import re
import time

from ..host import Host
from ..model import Fact, Seen, Unseen

_LINES = 5
_ENTRIES = 400
_SECONDS = 1.0
_ERROR = 3  # syslog(3)'s LOG_ERR
#: Of single connections: they say nothing of why sshd does not run.
_CONNECTION = re.compile(
    r"kex_|ssh_dispatch|banner exchange|Connection |disconnect|authentication|(?i:pam)|user |MaxSt"
)


def reasons(host: Host, units: tuple[str, ...]) -> Fact[tuple[str, ...]]:
    """The last error lines of these units since boot, newest last; systemd's own words on them too."""
    if not host.exists("/run/systemd/journal"):
        return Unseen("journald does not run")
    try:
        from systemd import journal  # lazily: see above
    except ImportError as error:
        return Unseen(f"journal: {error}")
    end = time.monotonic() + _SECONDS
    try:
        with journal.Reader(journal.SYSTEM_ONLY) as reader:
            reader.this_boot()
            reader.add_conjunction()
            for number, unit in enumerate(units):
                if number:
                    reader.add_disjunction()
                reader.add_match(_SYSTEMD_UNIT=unit)
                reader.add_disjunction()
                reader.add_match(UNIT=unit, _PID="1")
            reader.seek_tail()
            lines: list[str] = []
            for _ in range(_ENTRIES):
                entry = reader.get_previous()
                if not entry or len(lines) == _LINES or time.monotonic() > end:
                    break
                message = entry.get("MESSAGE", "")
                if not isinstance(message, str) or _CONNECTION.search(message):
                    continue
                if int(entry.get("PRIORITY", 6)) <= _ERROR:
                    lines.append(message[:300])
    except OSError as error:
        return Unseen(f"journal: {error.strerror or error}")
    return Seen(tuple(dict.fromkeys(reversed(lines))), "journal")
