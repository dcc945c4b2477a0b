"""The endpoint is down while repairs go on, the reporter is killed a hundred times and the instance is booted once."""

from __future__ import annotations

import os
import random
import re
from pathlib import Path

import pytest

from daemon import wait_baseline, wait_daemon
from harness import CLIENTS4, Instance, boot, wait_for
from test_reporting import CONFIG, authority, endpoint, kinds, prepare

SPOOL_MAX = 256 << 10
MORE = f"""\
spool_max = {SPOOL_MAX}
[repair]
max_attempts = 50
"""
UNIT = "ec2ssh-agent-report.service"
#: What shuts SSH, and what clears up afterwards.
FAULTS = (
    ("nft 'table inet shut { chain input { type filter hook input priority filter; tcp dport 22 drop; }; }'",
     "nft delete table inet shut"),
    ("echo 'sshd: ALL' > /etc/hosts.deny", "rm -f /etc/hosts.deny /etc/hosts.allow"),
    ("systemctl kill -s KILL ssh.service; systemctl stop ssh.service", "true"),
)  # fmt: skip


def spooled(made: Instance) -> list[tuple[int, str, str]]:
    """(sequence, kind, id) of the reports that are there."""
    names = made.run("ls /var/lib/ec2ssh-agent/spool").out.split()
    found = (re.fullmatch(r"(\d{10})-([a-z]+)-([0-9a-f-]{36})\.json", name) for name in names)
    return [(int(match.group(1)), match.group(2), match.group(3)) for match in found if match]


def kill_often(made: Instance, chance: random.Random, times: int) -> None:
    """Starts the reporter and kills it after a moment, which may be before it has begun or when it is done."""
    for _ in range(times):
        made.run(
            f"systemctl start --no-block {UNIT}; sleep {chance.uniform(0, 0.5):.2f};"
            f" systemctl kill -s KILL {UNIT} || true"
        )


def break_and_mend(made: Instance, number: int) -> None:
    fault, clear = FAULTS[number % len(FAULTS)]
    before = sum(kind == "repair" for _, kind, _ in spooled(made))
    made.run(fault)
    wait_for("SSH", lambda: made.client.symptom(timeout=1.5) == "connected", 90)
    wait_for("its report", lambda: sum(kind == "repair" for _, kind, _ in spooled(made)) > before, 60)
    made.run(clear)


@pytest.mark.slow
def test_a_hundred_kills_a_reboot_and_an_endpoint_that_is_down(tmp_path: Path) -> None:
    seed = int(os.environ.get("EC2SSH_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    chance = random.Random(seed)
    authority(tmp_path)
    config = CONFIG.replace("[identity]", f"{MORE}[identity]")
    with boot(config=config, prepare=lambda root: prepare(root, tmp_path)) as made:
        with endpoint(made, tmp_path) as reports:
            wait_for("the first report", lambda: "change" in kinds(reports), 60)
            wait_baseline(made)
        for number in range(6):
            break_and_mend(made, number)
            kill_often(made, chance, 14)
            size = int(made.run("du -b --summarize --separate-dirs /var/lib/ec2ssh-agent/spool").out.split()[0])
            assert size <= SPOOL_MAX + 8192
            if number == 2:
                made.reboot()
                wait_daemon(made)
        waiting = spooled(made)
        assert sum(kind == "repair" for _, kind, _ in waiting) >= 6
        with endpoint(made, tmp_path) as reports:
            kill_often(made, chance, 16)
            wait_for("all of them", lambda: {id for _, _, id in waiting} <= {r["id"] for r in reports}, 400)
            arrived = list(dict.fromkeys(r["id"] for r in reports if r["kind"] != "heartbeat"))
        known = {id for _, _, id in waiting}
        assert [id for id in arrived if id in known] == [id for _, _, id in waiting]
        print(f"{len(waiting)} reports waited, {len(reports)} requests took them; {CLIENTS4[0]} has each by its key")
