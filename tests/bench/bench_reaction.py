"""From the fault to the start of the first new TCP connection that gets sshd's banner, in a whole instance:

    tests/bench/bench_reaction.py [--runs 20] [--minutes M] [--settle 0s] [--with agent|monit] [FAULT…]

Needs root and the Python of tests/run.sh. The faults are those of tests/instance/faults.py but for sshd's own files,
`killed`, and legacy rules of a program that takes no lock, which only the pulse meets, a second later at most. A client
in its own namespace starts a connection every 20 ms and gives each 100 ms. The time runs from just before the command
that breaks SSH (of a hung sshd: from the start of the first connection that queues) to the start of the first
connection after the last that failed. Prints, for each fault, median and worst in ms, and the median of what that
command took itself; of ufw and firewalld also what it takes `alone`, before each run once with the agent stopped,
beside the same connections. The median of that makes their bound; the share of it that the worst run took is printed.
Before each run the instance is whole, and the daemon has made no pass for 1.2 s. The runs go round the faults; after M
minutes no other run begins.

`killed-alone`, to be asked for, is `killed` while the agent is stopped: what systemd needs by itself, in the same
instance. Its timers may be late by up to 250 ms, so that takes many runs.
`--with monit`: no agent, but Monit as monit.py sets it up.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import select
import socket
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "instance"))

import monit  # noqa: E402

import faults  # noqa: E402
from daemon import wait_baseline  # noqa: E402
from faults import PID, Fault  # noqa: E402
from harness import Instance, boot, wait_for  # noqa: E402

CONFIG = """\
[repair]
settle = {settle}
baseline_after = 1s
max_attempts = 1000
"""
EVERY, PATIENCE, CALM = 0.02, 0.1, 1.2
BACK, UNHARMED = 5, 60  # connections in a row that succeed, until it counts; where none has failed
NEVER = float("inf")
#: Before and after a fault's own `heal`. The agent is not to repair what is half undone.
HEAL = {
    "agent": (
        "ec2ssh-agent pause 1h; for n in 1 2 3 4 5; do ec2ssh-agent undo >/dev/null 2>&1 || break; done; ",
        "; ec2ssh-agent resume",
    ),
    "monit": (f"{monit.UNDO}; ", ""),
}
IDENTIFICATION = b"SSH-2.0-ec2ssh-agent-bench\r\n"
OWNERS = (*faults.FIREWALLD, *(fault for fault in faults.RULES if fault.name.startswith("ufw-")))
KILLED = Fault("killed", f"kill -9 {PID}", "refused", "", "systemctl reset-failed ssh.service")
ALONE = KILLED._replace(name="killed-alone", heal=f"{KILLED.heal}; systemctl start ec2ssh-agent.service")
#: It listens, and accept(2) fails: a hang without a signal.
DEAF = Fault("out-of-descriptors", f"prlimit --pid {PID} --nofile=3:3", "silent", "sshd-hung", faults.RESTART)
HANGS = ("hung", DEAF.name)
LIBRARY = Fault(
    "iptables-legacy-by-library",
    """/usr/bin/python3 -c '
import iptc
rule = iptc.Rule(); rule.protocol = "tcp"; rule.target = iptc.Target(rule, "DROP")
iptc.Chain(iptc.Table(iptc.Table.FILTER), "INPUT").insert_rule(rule)'""",
    "timeout",
    "firewall-drop",
    "iptables-legacy -F INPUT",
)
SSHD = (*(fault for fault in faults.SSHD if fault.name in ("stopped", "hung")), DEAF, KILLED)
MEASURED = {fault.name: fault for fault in (*faults.RULES, LIBRARY, *faults.WRAPPERS, *SSHD, *faults.FIREWALLD)}


class Trial:
    """Connections to the instance, one every 20 ms, until they succeed again, `longest` seconds at most.

    `begin` and `end` of the command that breaks SSH are to be set once they are known.
    """

    def __init__(self, made: Instance, to: str, longest: float = 30.0) -> None:
        self._made, self._to, self.longest = made, to, longest
        self._open: dict[int, tuple[socket.socket, float]] = {}
        self._poll = select.poll()
        self.begin = self.end = NEVER
        self._good: list[float] = []  # when they started
        self._failed: list[float] = []

    def lost(self) -> list[float]:
        """Starts of the connections that failed for the command's sake."""
        return sorted(started for started in self._failed if started >= self.begin)

    def back(self) -> float:
        """Start of the first of the connections since the last that failed, or, where none did between fault and
        repair, since the command's begin; infinite while these are too few."""
        lost = self.lost()
        since = [started for started in self._good if started > (lost[-1] if lost else self.begin)]
        return min(since) if sum(started > self.end for started in since) >= (BACK if lost else UNHARMED) else NEVER

    def run(self) -> None:
        began = at = time.time()
        while at - began < self.longest and self.back() == NEVER:
            self._begin(at)
            at += EVERY
            while (left := at - time.time()) > 0:
                for descriptor, _ in self._poll.poll(left * 1000):
                    self._answer(descriptor)
                self._give_up()
        for tried, _ in self._open.values():
            tried.close()

    def _begin(self, now: float) -> None:
        tried = self._made.network.socket(socket.AF_INET6 if ":" in self._to else socket.AF_INET)
        tried.setblocking(False)
        tried.connect_ex((self._to, 22))
        self._open[tried.fileno()] = tried, now
        self._poll.register(tried, select.POLLIN)

    def _answer(self, descriptor: int) -> None:
        tried, started = self._open[descriptor]
        try:
            good = tried.recv(255).startswith(b"SSH-")
            if good:
                tried.send(IDENTIFICATION)
        except OSError:
            good = False
        self._end(descriptor)
        (self._good if good else self._failed).append(started)

    def _give_up(self) -> None:
        for descriptor, (_, started) in tuple(self._open.items()):
            if time.time() - started > PATIENCE:
                self._end(descriptor)
                self._failed.append(started)

    def _end(self, descriptor: int) -> None:
        tried, _ = self._open.pop(descriptor)
        self._poll.unregister(descriptor)
        tried.close()


class Run(NamedTuple):
    """Seconds."""

    reaction: float  # infinite when it did not come back
    command: float  # that breaks SSH
    alone: float  # an owner's command where nobody repairs, a moment before


class Bench:
    """An instance with somebody who mends it."""

    def __init__(self, made: Instance, who: str) -> None:
        self.made, self.who = made, who
        self._healed = time.time()

    def once(self, fault: Fault) -> Run:
        alone = self._alone(fault) if self.who == "agent" and fault in OWNERS else 0.0
        self._quiet()
        if fault is ALONE:
            self._stop()
        if fault is LIBRARY:
            time.sleep(random.random())  # any moment between two looks
        trial = self._lose(fault, 30.0 if self.who == "agent" else 6.0)
        before, after = HEAL[self.who]
        heal = fault.heal if trial.back() < NEVER or fault.name != "hung" else f"kill -CONT {PID}"
        self._heal(fault, f"{before}{heal}{after}")
        begin = min(trial.lost(), default=NEVER) if fault.name in HANGS else trial.begin
        return Run(trial.back() - begin, trial.end - trial.begin, alone)

    def _lose(self, fault: Fault, longest: float, *, wait: bool = True) -> Trial:
        """The connections beside the command that breaks SSH; to their end only if it is waited for."""
        trial = Trial(self.made, fault.to, longest)
        thread = threading.Thread(target=trial.run)
        thread.start()
        told = self.made.run(f"date +%s.%N; {{ {fault.breaks}; }} >/dev/null 2>&1; date +%s.%N").out
        if not wait:
            trial.longest = 0.0
        trial.begin, trial.end = map(float, told.split())
        thread.join()
        return trial

    def _alone(self, fault: Fault) -> float:
        """What the command takes where nobody repairs, beside the same connections: sshd's work slows it, too."""
        self._quiet()
        self._stop()
        trial = self._lose(fault, 30.0, wait=False)
        self._heal(fault, f"{fault.heal}; systemctl start ec2ssh-agent.service")
        return trial.end - trial.begin

    def _stop(self) -> None:
        self.made.run("systemctl stop ec2ssh-agent.service")
        time.sleep(CALM)

    def _heal(self, fault: Fault, command: str) -> None:
        self.made.run(command, check=False)
        self.made.client.wait_ssh(40, to=fault.to)
        self._healed = time.time()

    def _quiet(self) -> None:
        """Until all is well and nothing happens any more."""
        if self.who != "agent":
            time.sleep(CALM)
            return
        # From outside: a command in the instance would disturb what is measured.
        path = Path(f"/proc/{self.made._init}/root/run/ec2ssh-agent/status.json")
        wait_for("health", lambda: json.loads(path.read_text())["health"] == "ok", 90, every=0.1)
        wait_for("no pass", lambda: time.time() - max(path.stat().st_mtime, self._healed) > CALM, 60)


def _more_connections(root: Path) -> None:
    """The client's connections, of which libwrap holds each for five seconds, are not to be too many for sshd."""
    (root / "etc/ssh/sshd_config.d/20-bench.conf").write_text("MaxStartups 2000\n")


@contextlib.contextmanager
def bench(who: str, settle: str) -> Iterator[Bench]:
    config = CONFIG.format(settle=settle)
    agent, extra = who == "agent", ("monit",) if who == "monit" else ()
    with boot(config=config, agent=agent, extra=extra, prepare=_more_connections) as made:
        if agent:
            wait_baseline(made)
        elif who == "monit":
            monit.start(made)
        yield Bench(made, who)


def measure(who: str, chosen: Sequence[Fault], *, runs: int, settle: str, end: float) -> None:
    made: dict[Fault, list[Run]] = {fault: [] for fault in chosen}
    with bench(who, settle) as instance:
        if chosen[0] in faults.FIREWALLD:
            instance.made.run("systemctl start firewalld.service")
            instance.made.client.wait_ssh(30)
        for _ in range(runs):
            for fault in chosen if time.time() < end else ():
                run = instance.once(fault)
                made[fault].append(run)
                print(fault.name, *(f"{seconds * 1000:.0f}" for seconds in run), file=sys.stderr, flush=True)
    for fault, found in made.items():
        if found:
            print(_row(fault, found), flush=True)


def _row(fault: Fault, found: Sequence[Run]) -> str:
    reactions, commands, alone = ([seconds * 1000 for seconds in column] for column in zip(*found))
    row = f"| {fault.name} | {statistics.median(reactions):.0f} | {max(reactions):.0f}"
    row += f" | {statistics.median(commands):.0f}"
    if any(alone):
        bare = statistics.median(alone)
        row += f" | {bare:.0f} | {max(reactions) / (1.5 * bare + 250):.0%}"
    else:
        row += " | | "
    return f"{row} | {len(found)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"default: {' '.join(MEASURED)}")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--minutes", type=float, default=1e6)
    parser.add_argument("--settle", default="0s")
    parser.add_argument("--with", default="agent", choices=("agent", "monit"), dest="who")
    arguments = parser.parse_args()
    wanted = [{**MEASURED, ALONE.name: ALONE}[name] for name in arguments.faults or MEASURED]
    end = time.time() + arguments.minutes * 60
    print(f"with {arguments.who}, settle {arguments.settle}\n", flush=True)
    print("| fault | median, ms | worst, ms | the command, ms | alone, ms | of the bound | runs |", flush=True)
    print("| --- | --- | --- | --- | --- | --- | --- |", flush=True)
    firewalld = [fault for fault in wanted if fault in faults.FIREWALLD]
    for chosen in (firewalld, [fault for fault in wanted if fault not in firewalld]):
        if chosen:
            measure(arguments.who, chosen, runs=arguments.runs, settle=arguments.settle, end=end)


if __name__ == "__main__":
    main()
