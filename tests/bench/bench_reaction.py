"""From the fault to the start of the first new TCP connection that gets sshd's banner, in a whole instance:

    tests/bench/bench_reaction.py [--runs 20] [--settle 0s] [FAULT…]

Needs root; the faults are those of tests/instance/faults.py. A client in its own namespace starts a connection every
20 ms and gives each 100 ms. The time runs from just before the command that breaks SSH; a fault counts as felt with two
failed connections in a row. Prints, for each fault, median and worst in ms. Before each run the instance is whole, and
the daemon has made no pass for 1.5 s.
"""

from __future__ import annotations

import argparse
import select
import socket
import statistics
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "instance"))

import faults  # noqa: E402
from daemon import status, wait_baseline  # noqa: E402
from faults import Fault  # noqa: E402
from harness import Instance, boot, wait_for  # noqa: E402

CONFIG = """\
[repair]
settle = {settle}
baseline_after = 1s
max_attempts = 1000
"""
EVERY, PATIENCE, LONGEST = 0.02, 0.1, 30.0
UNDO = "for n in 1 2 3 4 5; do ec2ssh-agent undo >/dev/null 2>&1 || break; done"
IDENTIFICATION = b"SSH-2.0-ec2ssh-agent-bench\r\n"
NAMES = (
    "iptables-nft-drop iptables-nft-policy-drop iptables-nft-reject iptables-legacy-drop iptables-legacy-policy-drop "
    "nft-policy-drop nft-second-base-chain raw-prerouting-drop output-drop hosts-deny-all hosts-allow-deny stopped "
    "ufw-without-ssh firewalld-zone-drop"
).split()


class Trial:
    """Connections to the instance, one every 20 ms, until it was lost and has come back."""

    def __init__(self, made: Instance, to: str) -> None:
        self._made, self._to = made, to
        self._open: dict[int, tuple[socket.socket, float]] = {}
        self._poll = select.poll()
        self._failed: list[float] = []
        self.back = 0.0  # start of the first connection that succeeds after two in a row that failed

    def run(self) -> None:
        began = at = time.time()
        while not self.back and at - began < LONGEST:
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
        if not good:
            self._failed.append(started)
        elif sum(failed < started for failed in self._failed) >= 2:
            self.back = self.back or started

    def _give_up(self) -> None:
        for descriptor, (_, started) in tuple(self._open.items()):
            if time.time() - started > PATIENCE:
                self._end(descriptor)
                self._failed.append(started)

    def _end(self, descriptor: int) -> None:
        tried, _ = self._open.pop(descriptor)
        self._poll.unregister(descriptor)
        tried.close()


def published(made: Instance) -> str:
    return made.run("stat -c '%i %y' /run/ec2ssh-agent/status.json").out


def quiet(made: Instance) -> None:
    wait_for("health", lambda: status(made)["health"] == "ok", 60, every=0.2)
    last, since = published(made), time.monotonic()
    while time.monotonic() - since < 1.5:
        time.sleep(0.3)
        if (now := published(made)) != last:
            last, since = now, time.monotonic()


def once(made: Instance, fault: Fault) -> float:
    """Seconds; infinite when it did not come back."""
    quiet(made)
    trial = Trial(made, fault.to)
    thread = threading.Thread(target=trial.run)
    thread.start()
    told = made.run(f"date +%s.%N; {{ {fault.breaks}; }} >/dev/null 2>&1 || true").out
    thread.join()
    made.run(f"{UNDO}; {fault.heal}; ec2ssh-agent resume", check=False)
    made.client.wait_ssh(40, to=fault.to)
    return trial.back - float(told.split()[0]) if trial.back else float("inf")


def measure(made: Instance, fault: Fault, runs: int) -> None:
    times = [once(made, fault) * 1000 for _ in range(runs)]
    print(f"| {fault.name} | {statistics.median(times):.0f} | {max(times):.0f} | {runs} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("faults", nargs="*", metavar="FAULT", help=f"default: {' '.join(NAMES)}")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--settle", default="0s")
    arguments = parser.parse_args()
    rules = (*faults.xtables(""), *faults.xtables("-legacy"), *faults.OTHER_RULES)
    known = {fault.name: fault for fault in (*faults.SSHD, *faults.WRAPPERS, *rules, *faults.UFW, *faults.FIREWALLD)}
    wanted = [known[name] for name in arguments.faults or NAMES]
    print(
        f"settle {arguments.settle}\n\n| fault | median, ms | worst, ms | runs |\n| --- | --- | --- | --- |", flush=True
    )
    for with_firewalld in (False, True):
        chosen = [fault for fault in wanted if (fault in faults.FIREWALLD) is with_firewalld]
        if not chosen:
            continue
        with boot(config=CONFIG.format(settle=arguments.settle)) as made:
            if with_firewalld:
                made.run("systemctl start firewalld.service")
                made.client.wait_ssh(30)
            wait_baseline(made)
            for fault in chosen:
                measure(made, fault, arguments.runs)


if __name__ == "__main__":
    main()
