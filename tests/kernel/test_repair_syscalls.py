"""Killed (SIGKILL) at every system call that changes something, in the agent and in the tools that it runs.

A first run under strace(1) counts the calls in each process. Then one run for each: strace kills the process that
makes the n-th call of a kind, on its way into the kernel. After each, `recover` must bring back what was there before,
with every record closed. A sample runs by default; all of them, with the count of kill points, by

    tests/run.sh full        (or pytest -m slow -rP tests/kernel/test_repair_syscalls.py)
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from ec2ssh_agent.reach.ruleset import Backend
from ec2ssh_agent.steps import Directory, HostKeys, Insert, Rung, Step, Write
from repair_world import World, check, said, world
from test_repair_files import FW, SETUP
from test_repair_rules import BASE, TCP

# Opening a file for writing is followed by one of these on it; netlink and legacy xtables go by the last three.
CALLS = (
    "write,fsync,rename,renameat2,unlink,unlinkat,mkdir,rmdir,chmod,fchmod,fchmodat,chown,fchown,fchownat,lchown,fsetxattr,"
    "flock,vfork,clone,execve,sendto,sendmsg,setsockopt"
)

LEGACY = Insert(Backend.LEGACY, "ip", "filter", "INPUT", TCP)
CASES: dict[str, tuple[str, tuple[Step, ...]]] = {
    "iptables-nft": (BASE["iptables-nft"], (Insert(Backend.IPTABLES_NFT, "ip", "filter", "INPUT", TCP),)),
    "iptables-legacy": (BASE["iptables-legacy"], (LEGACY,)),
    "a set": (BASE["nft"], (
        Insert(Backend.NFTABLES, "inet", "filter", "input", ("accept",), networks=("10.0.0.0/8", "192.0.2.0/24")),
    )),
    "files": (SETUP["write"], (Write("/etc/hosts.allow", b"sshd2 sshd : ALL: allow\n"), Directory("/run/sshd", 0o755))),
    "keys": (SETUP["keys"], (HostKeys((("ed25519", "/etc/ssh/a"),)),)),
    "tool": (SETUP["tool"], (FW,)),
}  # fmt: skip


@pytest.fixture
def place() -> Iterator[World]:
    with world() as made:
        yield made


def count(place: World, rung: Rung, log: Path) -> tuple[Counter[str], Counter[str]]:
    """How often the agent makes each call, and how often any one of its tools does, at most."""
    said(place.drive("apply", rung=rung, strace=("strace", "-f", "-qq", "-o", str(log), "-e", f"trace={CALLS}")))
    calls: dict[str, Counter[str]] = {}
    for line in log.read_text(errors="replace").splitlines():
        match = re.match(r"(\d+) +(\w+)\(", line)
        if match:
            calls.setdefault(match[1], Counter())[match[2]] += 1
    agent, *tools = calls.values()
    most: Counter[str] = Counter()
    for tool in tools:
        most |= tool
    return agent, most


def points(place: World, rung: Rung, log: Path) -> list[tuple[str, int, bool]]:
    """(call, n, whether tools are traced too) of every kill."""
    agent, tools = count(place, rung, log)
    return [(call, n, follow) for calls, follow in ((agent, False), (tools, True)) for call in sorted(calls)
            for n in range(1, calls[call] + 1)]  # fmt: skip


def kill_at(place: World, rung: Rung, found: list[tuple[str, int, bool]], before: str) -> int:
    killed = 0
    for call, n, follow in found:
        inject = ("-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={n}")
        strace = ("strace", *(["-f"] if follow else []), "-qq", "-o", "/dev/null", *inject)
        answer = place.drive("apply", rung=rung, strace=strace)
        killed += answer is None or "error" in answer
        check(place, before, f"killed at {call} {n}{' (tools too)' if follow else ''}")
    return killed


@pytest.mark.parametrize("case", CASES)
def test_killed_at_some_system_calls(place: World, case: str, tmp_path: Path) -> None:
    setup, steps = CASES[case]
    place.sh(setup)
    before, rung = place.listing(), Rung("it", "", steps)
    found = points(place, rung, tmp_path / "log")
    check(place, before, "not killed")
    seed = int(os.environ.get("EC2SSH_SEED") or random.randrange(1 << 32))
    print(f"{case}: a sample of {len(found)} kill points, seed {seed}")
    kill_at(place, rung, random.Random(seed).sample(found, 3), before)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_killed_at_every_system_call(place: World, case: str, tmp_path: Path) -> None:
    setup, steps = CASES[case]
    place.sh(setup)
    before, rung = place.listing(), Rung("it", "", steps)
    found = points(place, rung, tmp_path / "log")
    check(place, before, "not killed")
    killed = kill_at(place, rung, found, before)
    print(f"{case}: {len(found)} kill points, {killed} of which ended the repair")
    assert killed > len(found) // 2
