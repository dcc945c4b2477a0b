"""From the fault to the start of the first new TCP connection that gets sshd's banner, in a whole instance:

    tests/bench/bench_reaction.py [--runs 20] [--minutes M] [--settle 0s] [--with agent|monit] [FAULT…]

Needs root and the Python of tests/run.sh. The faults are those of tests/instance/faults.py but for sshd's own files,
`killed`, and legacy rules of a program that takes no lock, which only the pulse meets, a second later at most. A client
in its own namespace starts a connection every 20 ms and gives each 100 ms. The time runs from just before the command
that breaks SSH (of a hung sshd: from the start of the first connection that queues) to the start of the first
connection after the last that failed. Prints, for each fault, median and worst in ms, and how long that command took
itself (that of ufw and firewalld, of which their bound is made, before each run once without the agent). Before each
run the instance is whole, and the daemon has made no pass for 1.2 s. The runs go round the faults; after M minutes no
other run begins.

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
LOST, BACK = 2, 5  # connections that fail, or succeed in a row, until it counts
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
    """Connections to the instance, one every 20 ms, until it was lost and has come back, `longest` seconds at most."""

    def __init__(self, made: Instance, to: str, longest: float = 30.0) -> None:
        self._made, self._to, self.longest = made, to, longest
        self._open: dict[int, tuple[socket.socket, float]] = {}
        self._poll = select.poll()
        self.broken = threading.Event()  # to be set once the command that breaks SSH has ended
        self.good: list[float] = []  # when they started
        self.failed: list[float] = []

    def back(self) -> float:
        """Start of the first of the connections since the last that failed; infinite while these are too few."""
        since = [started for started in self.good if started > max(self.failed, default=NEVER)]
        return min(since) if len(self.failed) >= LOST and len(since) >= BACK else NEVER

    def run(self) -> None:
        began = at = time.time()
        while at - began < self.longest and not (self.broken.is_set() and self.back() < NEVER):
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
        (self.good if good else self.failed).append(started)

    def _give_up(self) -> None:
        for descriptor, (_, started) in tuple(self._open.items()):
            if time.time() - started > PATIENCE:
                self._end(descriptor)
                self.failed.append(started)

    def _end(self, descriptor: int) -> None:
        tried, _ = self._open.pop(descriptor)
        self._poll.unregister(descriptor)
        tried.close()


class Bench:
    """An instance with somebody who mends it."""

    def __init__(self, made: Instance, who: str) -> None:
        self.made, self.who = made, who
        self.took = 0.0  # seconds of the last command that broke something, of an owner's by itself
        self._healed = time.time()

    def once(self, fault: Fault) -> float:
        """Seconds; infinite when it did not come back."""
        bare = self._bare(fault) if self.who == "agent" and fault in OWNERS else 0.0
        self._quiet()
        if fault is ALONE:
            self._stop()
        if fault is LIBRARY:
            time.sleep(random.random())  # any moment between two looks
        trial = Trial(self.made, fault.to, 30.0 if self.who == "agent" else 6.0)
        thread = threading.Thread(target=trial.run)
        thread.start()
        begin, took = self._break(fault)
        trial.broken.set()
        thread.join()
        self._heal(fault, back=trial.back() < NEVER)
        self.took = bare or took
        if fault.name in HANGS and trial.failed:
            begin = min(trial.failed)
        return trial.back() - begin

    def _break(self, fault: Fault) -> tuple[float, float]:
        """When the command began, and how long it took."""
        told = self.made.run(f"date +%s.%N; {{ {fault.breaks}; }} >/dev/null 2>&1; date +%s.%N").out
        begin, end = map(float, told.split())
        return begin, end - begin

    def _bare(self, fault: Fault) -> float:
        """What the command takes where nobody repairs, beside the same connections: sshd's work slows it, too."""
        self._quiet()
        self._stop()
        trial = Trial(self.made, fault.to)
        thread = threading.Thread(target=trial.run)
        thread.start()
        took = self._break(fault)[1]
        trial.longest = 0.0
        thread.join()
        self.made.run(f"{fault.heal}; systemctl start ec2ssh-agent.service", check=False)
        self.made.client.wait_ssh(40, to=fault.to)
        self._healed = time.time()
        return took

    def _stop(self) -> None:
        self.made.run("systemctl stop ec2ssh-agent.service")
        time.sleep(CALM)

    def _heal(self, fault: Fault, *, back: bool) -> None:
        heal = fault.heal if back or fault.name != "hung" else f"kill -CONT {PID}"
        before, after = HEAL[self.who]
        self.made.run(f"{before}{heal}{after}", check=False)
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
    times: dict[str, list[float]] = {fault.name: [] for fault in chosen}
    took: dict[str, list[float]] = {fault.name: [] for fault in chosen}
    with bench(who, settle) as made:
        if chosen[0] in faults.FIREWALLD:
            made.made.run("systemctl start firewalld.service")
            made.made.client.wait_ssh(30)
        for _ in range(runs):
            for fault in chosen if time.time() < end else ():
                times[fault.name].append(made.once(fault) * 1000)
                took[fault.name].append(made.took * 1000)
                print(f"{fault.name} {times[fault.name][-1]:.0f}", file=sys.stderr, flush=True)
    for name, found in times.items():
        if found:
            command = statistics.median(took[name])
            print(
                f"| {name} | {statistics.median(found):.0f} | {max(found):.0f} | {command:.0f} | {len(found)} |",
                flush=True,
            )


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
    print("| fault | median, ms | worst, ms | the command, ms | runs |\n| --- | --- | --- | --- | --- |", flush=True)
    firewalld = [fault for fault in wanted if fault in faults.FIREWALLD]
    for chosen in (firewalld, [fault for fault in wanted if fault not in firewalld]):
        if chosen:
            measure(arguments.who, chosen, runs=arguments.runs, settle=arguments.settle, end=end)


if __name__ == "__main__":
    main()
