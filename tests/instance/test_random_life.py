"""A whole instance's life, at random: faults, repairs, undos, kills, an administrator's edits, in any order.

What stands apart from the agent's own rules changes only when the test changes it; no file changes at all; SSH ends
reachable unless somebody said otherwise (`pause`, `undo`).
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable

import pytest

from daemon import open_records, wait_baseline
from harness import Instance, boot, wait_for

CONFIG = "[repair]\nsettle = 0s\nbaseline_after = 1s\nmax_attempts = 20\nwindow = 10s\n"
LEGACY = "iptables-legacy -w"  # the agent may be at these tables just then
FAULTS = {
    "iptables -A INPUT -p tcp --dport 22 -j DROP": "iptables -D INPUT -p tcp --dport 22 -j DROP",
    "ip6tables -I INPUT -p tcp --dport 22 -j REJECT": "ip6tables -D INPUT -p tcp --dport 22 -j REJECT",
    "iptables -P INPUT DROP": "iptables -P INPUT ACCEPT",
    "iptables -t raw -A PREROUTING -p tcp --dport 22 -j DROP": "iptables -t raw -F PREROUTING",
    f"{LEGACY} -A INPUT -p tcp --dport 22 -j REJECT": f"{LEGACY} -D INPUT -p tcp --dport 22 -j REJECT",
    "nft add chain inet mine b '{ type filter hook input priority 9; policy drop; }'": "nft delete chain inet mine b",
    "systemctl stop ssh.service": "true",
}
TABLES = (
    "iptables-nft-save; ip6tables-nft-save; iptables-legacy-save; ip6tables-legacy-save; nft -s list table inet mine"
)


class Life:
    def __init__(self, made: Instance, seed: int) -> None:
        self.made, self.random = made, random.Random(seed)
        self.broken: list[str] = []
        self.intent = ""  # what a person said that keeps SSH as it is
        self.log: list[str] = []
        made.run("nft add table inet mine; nft add chain inet mine a; iptables -S; ip6tables -S; iptables -t raw -S;"
                 "iptables-legacy -S; ip6tables-legacy -S")  # fmt: skip
        self.rules, self.files = self.others(), made.snapshot().files

    def others(self) -> str:
        """All rules without the agent's, and without the tables that it makes and leaves empty."""
        lines = re.sub(r"\[\d+:\d+\]|^#.*\n", "", self.made.run(TABLES).out, flags=re.M).splitlines()
        return "\n".join(line for line in lines if "ec2ssh-agent" not in line)

    def edit(self, command: str) -> None:
        """Something that the test changes itself."""
        self.made.run(command)
        self.rules = self.others()

    # -- what happens

    def fault(self) -> None:
        left = sorted(FAULTS.keys() - set(self.broken))
        if left:
            chosen = self.random.choice(left)
            self.log[-1] += f" {chosen}"
            self.broken.append(chosen)
            self.edit(chosen)

    def heal(self) -> None:
        if self.broken:
            chosen = self.broken.pop(self.random.randrange(len(self.broken)))
            self.log[-1] += f" {chosen}"
            self.edit(FAULTS[chosen])

    def administer(self) -> None:
        number = self.random.randrange(3000, 9000)
        self.edit(self.random.choice((
            f"iptables {self.random.choice(('-A INPUT', '-I INPUT 1'))} -p tcp --dport {number} -j DROP",
            f"{LEGACY} -A INPUT -p tcp --dport {number} -j DROP",
            f"nft add rule inet mine a tcp dport {number} drop comment mine",
        )))  # fmt: skip

    def undo(self) -> None:
        done = self.made.agent("undo")
        assert done.code in (0, 3, 64), done
        if not done.code:
            self.intent = "undo"

    def pause(self) -> None:
        self.made.agent("pause", "1h", check=True)
        self.intent = "pause"

    def resume(self) -> None:
        self.made.agent("resume", check=True)
        self.intent = ""

    def kill(self) -> None:
        self.made.run("systemctl kill -s KILL ec2ssh-agent.service; systemctl start ec2ssh-agent.service")

    def repair(self) -> None:
        assert self.made.agent("repair").code in (0, 1, 2, 3)

    def step(self) -> None:
        actions: tuple[tuple[Callable[[], None], int], ...] = (
            (self.fault, 6), (self.heal, 4), (self.administer, 4), (self.undo, 2), (self.pause, 1), (self.resume, 3),
            (self.kill, 3), (self.repair, 1),
        )  # fmt: skip
        action = self.random.choices([a for a, _ in actions], [weight for _, weight in actions])[0]
        self.log.append(action.__name__)
        action()
        if not self.intent:
            self.made.client.wait_ssh(60)
        assert self.others() == self.rules

    def end(self) -> None:
        self.resume()
        for fault in self.broken:
            self.edit(FAULTS[fault])
        self.made.client.wait_ssh(60)
        wait_for("the withdrawal", lambda: "ec2ssh-agent" not in self.made.run(f"{TABLES}; nft list ruleset").out, 60)
        assert self.others() == self.rules
        files = self.made.snapshot().files
        assert files == self.files, {name for name in files | self.files if files.get(name) != self.files.get(name)}
        wait_for("closed records", lambda: open_records(self.made) == "", 30)
        assert "Traceback" not in self.made.journal("-u", "ec2ssh-agent.service")


def live(steps: int) -> None:
    seed = int(os.environ.get("EC2SSH_SEED") or random.randrange(1 << 32))
    print(f"seed {seed}")
    with boot(config=CONFIG) as made:
        wait_baseline(made)
        life = Life(made, seed)
        try:
            for _ in range(steps):
                life.step()
            life.end()
        except AssertionError:
            print(f"step {len(life.log)}: {life.log}")
            raise


def test_some_steps_of_a_life() -> None:
    live(12)


@pytest.mark.slow  # half an hour
@pytest.mark.timeout(3600)
def test_a_long_life() -> None:
    live(500)
