"""One pass's look at the host. `observe` is here; the supervisor imports `observe.sockets` and nothing else of it.

This file imports nothing by itself, so that the supervisor stays small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Optional

if TYPE_CHECKING:
    from ..config import Config
    from ..facts import Facts
    from ..host import Host


def observe(
    host: Host,
    config: Config,
    *,
    previous: Optional[Facts] = None,
    stale: Optional[frozenset[str]] = None,
    probe: bool = True,
) -> Facts:
    """What there is to be seen, every fact Seen or Unseen. Raises nothing that a host can do.

    With `previous`, only what `stale` (the reasons of supervise/watch.py's Wake) may have changed is read again; None:
    everything. `probe`: connect to sshd for its banner (not more often than every ten seconds: the caller's duty).
    """
    from .collect import collect

    return collect(host, config, previous=previous, stale=stale, probe=probe)
