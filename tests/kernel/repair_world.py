"""A world of its own for repairs: a network and a mount namespace, with /etc, /run and /var/lib thrown away."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Optional

from ec2ssh_agent.codec import encode
from ec2ssh_agent.steps import Rung

AGENT = Path(__file__).resolve().parents[2] / "agent"
DRIVER = Path(__file__).with_name("repair_driver.py")

# Everything that the agent writes is memory of this namespace; the machine's own files are not seen.
_SETUP = """
set -e
mount --make-rprivate /
mount -t tmpfs -o mode=0755 none /run
mount -t tmpfs -o mode=0755 none /var/lib
mkdir -m 0755 /run/etc /run/work
mount -t overlay -o lowerdir=/etc,upperdir=/run/etc,workdir=/run/work overlay /etc
ip link set lo up
echo ready
exec sleep 600
"""


class World:
    def __init__(self, pid: int) -> None:
        self.pid = pid

    def run(self, *argv: str, stdin: str = "", check: bool = True) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--net=/proc/{self.pid}/ns/net", f"--mount=/proc/{self.pid}/ns/mnt"]
        done = subprocess.run([*enter, *argv], input=stdin, capture_output=True, text=True, timeout=120)
        if check:
            assert done.returncode == 0, (argv, done.stdout, done.stderr)
        return done

    def sh(self, script: str) -> str:
        return self.run("sh", "-e", stdin=script).stdout

    def drive(
        self, action: str, *, rung: Optional[Rung] = None, kill: int = 0, strace: tuple[str, ...] = (), **more: Any
    ) -> Optional[dict[str, Any]]:
        """What the driver said; None: it was killed as asked, by itself (`kill`) or by strace's injection."""
        given = {"rung": encode(rung), "kill": kill, **more}
        done = self.run(
            "env", f"PYTHONPATH={AGENT}", "PYTHONDONTWRITEBYTECODE=1", *strace, sys.executable, str(DRIVER), action,
            stdin=json.dumps(given), check=False,
        )  # fmt: skip
        if (kill or strace) and done.returncode in (-9, 137):
            return None
        assert done.returncode == 0, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def listing(self) -> str:
        """All rulesets and sets, without counters and handles; /etc, whole; what is marked open."""
        text = self.sh(
            "nft list ruleset 2>/dev/null; ipset save 2>/dev/null || true; "
            "if grep -q . /proc/net/ip_tables_names 2>/dev/null; then iptables-legacy-save; fi; "
            "if grep -q . /proc/net/ip6_tables_names 2>/dev/null; then ip6tables-legacy-save; fi; "
            "iptables-nft-save 2>/dev/null; ip6tables-nft-save 2>/dev/null; "
            "cd /etc; find . -printf '%p %y %m %U:%G %l\\n' | sort; "
            "find . -type f -print0 | sort -z | xargs -0 sha256sum; "
            "ls -d /run/sshd /var/lib/ec2ssh-agent/open/* 2>/dev/null || true"
        )
        text = re.sub(r"packets \d+ bytes \d+", "", re.sub(r"\[\d+:\d+\]", "", text))
        return "\n".join(line for line in text.splitlines() if not line.startswith("#"))


@contextmanager
def world() -> Iterator[World]:
    process = subprocess.Popen(
        ["unshare", "--net", "--mount", "sh", "-c", _SETUP], stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    try:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        yield World(process.pid)
    finally:
        process.kill()
        process.wait()
        assert process.stdout
        process.stdout.close()


def standing(listing: str, before: str) -> list[str]:
    """The lines that a listing has more than another."""
    left = before.splitlines()
    more = []
    for line in listing.splitlines():
        if line in left:
            left.remove(line)
        else:
            more.append(line)
    return more


def said(answer: Optional[dict[str, Any]]) -> dict[str, Any]:
    """An answer without an error."""
    assert answer is not None and "error" not in answer, answer
    return answer


def kill_everywhere(place: World, rung: Rung, *, every: int) -> None:
    """Applies the rung once to count its changes, then again and again, killed after every n-th of them.

    After each, `recover` (and `undo`, where the change was whole) must bring back what was there before.
    """
    before = place.listing()
    points = said(place.drive("apply", rung=rung))["count"]
    assert place.listing() != before
    said(place.drive("recover"))
    assert place.listing() == before
    seed = int(os.environ.get("EC2SSH_SEED") or random.randrange(1 << 32))
    first = 1 + random.Random(seed).randrange(every)
    killed = 0
    for point in range(first, points + 1, every):
        killed += place.drive("apply", rung=rung, kill=point) is None
        check(place, before, f"killed at {point}, seed {seed}")
    change = said(place.drive("apply", rung=rung))["records"][0]["id"]
    undoing = said(place.drive("undo", id=change))["count"]
    for point in range(first, undoing + 1, every):
        change = said(place.drive("apply", rung=rung))["records"][0]["id"]
        killed += place.drive("undo", id=change, kill=point) is None
        check(place, before, f"killed at {point} of undo, seed {seed}")
    print(f"{killed} of {points + undoing} kill points, seed {seed}")
    assert killed == len(range(first, points + 1, every)) + len(range(first, undoing + 1, every))


def check(place: World, before: str, where: str) -> None:
    """After a kill (`failed`: that of a tool): all records closed, all as before, nothing half-written left."""
    states = {record["state"] for record in said(place.drive("recover"))["records"]}
    assert states <= {"undone", "failed"}, where
    assert place.listing() == before, where


assert os.geteuid() == 0, "the tests of repairs need root"
