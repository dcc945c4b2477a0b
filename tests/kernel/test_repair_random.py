"""Repairs, undos, kills and an administrator's edits in any order: what is not the agent's is never changed by it.

The model is what stands apart from the agent's rules: it changes only when the administrator changes it. A file that
the agent wrote is the agent's until it is undone, or the administrator writes it: then undo refuses.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Callable, Iterator

import pytest

from ec2ssh_agent.reach.ruleset import Backend
from ec2ssh_agent.steps import Directory, Insert, Rung, Step, Write
from repair_world import World, said, world
from test_repair_rules import BASE, TCP

CHAINS = (
    Insert(Backend.IPTABLES_NFT, "ip", "filter", "INPUT", TCP),
    Insert(Backend.IPTABLES_NFT, "ip", "mangle", "PREROUTING", TCP),
    Insert(Backend.LEGACY, "ip", "filter", "INPUT", TCP),
    Insert(Backend.NFTABLES, "inet", "filter", "input", ("tcp", "dport", "22", "accept")),
)
NETWORKS = ((), ("192.0.2.0/24", "198.51.100.0/24"))
ALLOW = "/etc/hosts.allow"


class Machine:
    def __init__(self, place: World, seed: int) -> None:
        self.place, self.random = place, random.Random(seed)
        self.file = b"ALL: 10.\n"  # hosts.allow, as it ought to be
        self.writes: list[tuple[str, bytes, bytes]] = []  # changes that stand: id, before, written
        self.changes: list[str] = []  # verified, not undone
        self.log: list[str] = []
        place.sh(BASE["iptables-nft"] + ";" + BASE["iptables-legacy"] + ";" + BASE["nft"])
        place.sh(f"echo 'ALL: 10.' >{ALLOW}")
        self.rules = self.others()

    def others(self) -> str:
        """The rulesets without what is the agent's, and without the tables that iptables-nft makes for it."""
        text = self.place.sh("iptables-nft-save -t filter; iptables-legacy-save -t filter; nft list table inet filter")
        lines = re.sub(r"packets \d+ bytes \d+|\[\d+:\d+\]", "", text).splitlines()
        sets = re.compile(r"\tset ec2ssh-.*?\n\t\}\n\n?", re.S)
        kept = "\n".join(line for line in lines if "ec2ssh-agent:" not in line and not line.startswith("#"))
        return sets.sub("", kept)

    def rung(self) -> Rung:
        steps: list[Step] = []
        for insert in self.random.sample(CHAINS, self.random.randrange(3)):
            steps.append(insert._replace(networks=self.random.choice(NETWORKS)))
        if self.random.random() < 0.4 or not steps:
            steps.append(Write(ALLOW, f"sshd: ALL: allow # {self.random.randrange(100)}\n".encode() + self.file))
        if self.random.random() < 0.2:
            steps.append(Directory("/run/sshd", 0o755))
        self.random.shuffle(steps)
        return Rung("it", "", tuple(steps))

    # -- what happens

    def repair(self) -> None:
        rung = self.rung()
        record = said(self.place.drive("apply", rung=rung))["records"][0]
        self.changes.append(record["id"])
        for step in rung.steps:
            if isinstance(step, Write):
                self.writes.append((record["id"], self.file, step.content))
                self.file = step.content

    def undo(self) -> None:
        if not self.changes:
            return
        change = self.random.choice(self.changes)
        answer = self.place.drive("undo", id=change)
        assert answer is not None
        wrote = next((item for item in self.writes if item[0] == change), None)
        if "error" in answer:
            assert answer["error"] == "ChangedSince" and wrote, answer
            assert self.file not in (wrote[1], wrote[2])
            return
        self.changes.remove(change)
        if wrote:
            assert self.file in (wrote[1], wrote[2])
            self.file = wrote[1]
            self.writes.remove(wrote)

    def killed_repair(self) -> None:
        self.place.drive("apply", rung=self.rung(), kill=self.random.randrange(1, 40))
        self.place.drive("roll back")
        # It was through before it came to its end, or was killed between its closing and the end.
        for record in said(self.place.drive("list"))["records"]:
            if record["state"] == "verified" and record["id"] not in self.changes:
                said(self.place.drive("undo", id=record["id"]))

    def killed_undo(self) -> None:
        clean = [change for change in self.changes if change not in [item[0] for item in self.writes]]
        if clean:
            change = self.random.choice(clean)
            self.place.drive("undo", id=change, kill=self.random.randrange(1, 30))
            self.place.drive("roll back")
            said(self.place.drive("undo", id=change))
            self.changes.remove(change)

    def edit_rules(self) -> None:
        number = self.random.randrange(1000)
        position = self.random.choice(("-A INPUT", "-I INPUT 1"))
        self.place.sh(self.random.choice((
            f"iptables-nft {position} -s 203.0.113.{number % 250} -p tcp --dport {number + 1} -j DROP",
            f"iptables-legacy {position} -p tcp --dport {number + 1} -j DROP",
            f"nft insert rule inet filter input tcp dport {number + 1} drop comment mine",
            "iptables-nft -P INPUT ACCEPT; iptables-nft -P INPUT DROP",
        )))  # fmt: skip
        self.rules = self.others()

    def edit_file(self) -> None:
        self.file += f"# {self.random.randrange(1000)}\n".encode()
        self.place.run("sh", "-c", f"cat >{ALLOW}", stdin=self.file.decode())

    def flush(self) -> None:
        self.place.sh(self.random.choice(("iptables-nft -F INPUT", "iptables-legacy -F INPUT")))
        self.rules = self.others()

    def step(self) -> None:
        actions: tuple[tuple[Callable[[], None], int], ...] = (
            (self.repair, 5), (self.undo, 5), (self.killed_repair, 3), (self.killed_undo, 2), (self.edit_rules, 3),
            (self.edit_file, 1), (self.flush, 1),
        )  # fmt: skip
        action = self.random.choices([a for a, _ in actions], [weight for _, weight in actions])[0]
        self.log.append(action.__name__)
        action()
        assert self.others() == self.rules
        assert self.place.sh(f"cat {ALLOW}").encode() == self.file
        assert self.place.sh("ls /var/lib/ec2ssh-agent/open 2>/dev/null || true") == ""


@pytest.fixture
def place() -> Iterator[World]:
    with world() as made:
        yield made


def play(place: World, steps: int) -> None:
    seed = int(os.environ.get("EC2SSH_SEED") or random.randrange(1 << 32))
    print(f"seed {seed}")
    machine = Machine(place, seed)
    for number in range(steps):
        try:
            machine.step()
        except AssertionError:
            print(f"step {number}: {machine.log}")
            raise
    while machine.changes:
        before = len(machine.changes)
        machine.changes.sort(reverse=True)  # newest first: each finds what it left
        for change in list(machine.changes):
            answer = place.drive("undo", id=change)
            assert answer is not None
            if "error" not in answer:
                machine.changes.remove(change)
        if len(machine.changes) == before:
            break
    assert machine.others() == machine.rules


def test_some_steps_in_any_order(place: World) -> None:
    play(place, 25)


@pytest.mark.slow
def test_many_steps_in_any_order(place: World) -> None:
    play(place, 600)
