"""misfortune.c in an instance: the daemon, and what it starts, sees a disk that fails and a clock that jumps."""

from __future__ import annotations

from pathlib import Path

from harness import execute

LIBRARY = "/usr/lib/misfortune.so"
DROP_IN = "/etc/systemd/system/ec2ssh-agent.service.d/preload.conf"
CLOCK, DISK = "/run/misfortune.clock", "/run/misfortune.disk"


def preload(root: Path) -> None:
    """For the daemon that is started next, after a `systemctl daemon-reload`."""
    source = Path(__file__).with_name("misfortune.c")
    execute(["gcc", "-Wall", "-Werror", "-O1", "-shared", "-fPIC", "-o", f"{root}{LIBRARY}", source, "-ldl"])
    drop_in = Path(f"{root}{DROP_IN}")
    drop_in.parent.mkdir(parents=True, exist_ok=True)
    drop_in.write_text(f"[Service]\nEnvironment=LD_PRELOAD={LIBRARY}\n")
