"""One pass's look at the host. `observe` is here; the supervisor imports `observe.sockets` and nothing else of it.

This file imports nothing by itself, so that the supervisor stays small.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..config import Config
    from ..facts import Facts
    from ..host import Host

PROBE = 2.0  # seconds


def observe(host: Host, config: Config, *, probe: float = PROBE) -> Facts:
    """What there is to be seen, every fact Seen or Unseen. Raises nothing that a host can do.

    What costs a program (`nft`, `iptables-save`, `sshd -T`) is read again only where what its answer hangs on is no
    longer the same: the generation of the rules, the files and their times (Host.ask). The rest is always read.
    `probe`: seconds to wait for sshd's banner; 0: it is not asked for one (not more often than every ten seconds: the
    caller's duty).
    """
    from .collect import collect

    return collect(host, config, probe=probe)
