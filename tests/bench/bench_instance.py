"""What the daemon costs in a whole instance: tests/bench/bench_instance.py [idle] [rules] [flood] [--seconds N]

Needs root and the Python of tests/run.sh. CPU is user and system time of the process and of all children that it waited
for, so of the passes and of what they run.

idle    the agent for so long, with its settings as installed: its CPU, the passes it made, the processes that were
        started in the instance, the lines in sshd's log and its own; then Monit (monit.py) for as long, in the same
        instance. One pass that is asked for tells what the timed one costs, which is due every half hour.
rules   a pass beside 20,000 nat rules of Kubernetes services, and what the kernel's tools need to print the chains that
        a SYN enters
flood   200 changes of the ruleset a second by a program that speaks netlink; in the middle a fault that the same
        program makes, and later one by another: how soon SSH is back, the agent's CPU, its memory
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "instance"))

import monit  # noqa: E402
from bench_reach import services  # noqa: E402
from bench_reaction import CONFIG, Trial  # noqa: E402
from started import Started  # noqa: E402

from daemon import wait_baseline  # noqa: E402
from harness import SERVER4, Instance, boot, wait_for  # noqa: E402

TICK = os.sysconf("SC_CLK_TCK")
BANNERS = "journalctl -q -o cat -u ssh.service --since @%d | wc -l"
OWN = "journalctl -q -o cat -u ec2ssh-agent.service --since @%d | wc -l"

FLOOD = """
import ctypes, time, sys
library = ctypes.CDLL("libnftables.so.1")
library.nft_ctx_new.restype = ctypes.c_void_p
context = ctypes.c_void_p(library.nft_ctx_new(0))
def run(text):
    assert library.nft_run_cmd_from_buffer(context, text.encode()) == 0
seconds, fault, changes, began = float(sys.argv[1]), float(sys.argv[2]), 0, time.monotonic()
run("add table inet x; add chain inet x y")
while time.monotonic() - began < seconds:
    if time.monotonic() - began > fault:
        broken, fault = time.time(), float("inf")
        run("add table inet z; add chain inet z i { type filter hook input priority 0; }; "
            "add rule inet z i tcp dport 22 drop")
    run("flush chain inet x y" if changes % 2 else "add rule inet x y drop")
    changes += 1
    time.sleep(max(0.0, began + changes / 200 - time.monotonic()))
print(changes / (time.monotonic() - began), broken)
run("delete table inet x")
"""
COST = """
import resource, subprocess, sys
for line in sys.stdin:
    subprocess.run(line.split(), stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


class Process:
    """One of the instance's, seen from this machine."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    @property
    def cpu(self) -> float:
        """Seconds, children included."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return sum(map(int, fields[11:15])) / TICK

    def memory(self, *names: str) -> str:
        """MB."""
        text = Path(f"/proc/{self.pid}/status").read_text() + Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        values = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return ", ".join(f"{name} {int(values[name].split()[0]) / 1024:.1f} MB" for name in names)


def supervisor(made: Instance) -> Process:
    inner = made.run("systemctl show -P MainPID ec2ssh-agent.service").out.strip()
    for status in Path("/proc").glob("[0-9]*/status"):
        text = status.read_text() if status.exists() else ""
        if f"\nNSpid:\t{status.parent.name}\t{inner}\n" in text and monit.same(made, status.parent):
            return Process(int(status.parent.name))
    raise AssertionError("the supervisor is not to be seen")


def passed(made: Instance) -> int:
    """Another number after each pass."""
    return Path(f"/proc/{made._init}/root/run/ec2ssh-agent/status.json").stat().st_mtime_ns


def cost_of_a_pass(made: Instance, agent: Process, *, times: int = 10) -> float:
    """Seconds of CPU, of a pass that is asked for. Such a one reads sshd's banner, as the timed one does."""
    costs = []
    for _ in range(times):
        time.sleep(1.2)
        last, before = passed(made), agent.cpu
        os.kill(agent.pid, 10)
        wait_for("a pass", lambda last=last: passed(made) != last, 60)  # type: ignore[misc]
        time.sleep(0.3)
        costs.append(agent.cpu - before)
    return statistics.mean(costs)


def idle(seconds: float) -> None:
    with boot(extra=("monit",), config="") as made:
        made.run("systemctl stop monit.service")
        wait_for("the daemon", lambda: made.agent("status").code != 3, 60)
        time.sleep(75)  # the baseline is made, the first probe's pass over
        agent = supervisor(made)
        _watched(made, "agent", agent, seconds)
        print(f"  {agent.memory('VmRSS', 'Pss')}")
        cost = cost_of_a_pass(made, agent)
        print(f"  a pass costs {cost * 1000:.0f} ms of CPU; one in 1800 s: {cost / 1800:.4%} of one core", flush=True)
        made.run("systemctl stop ec2ssh-agent.service")
        other = Process(monit.start(made))
        time.sleep(5)
        _watched(made, "monit", other, seconds)
        print(f"  {other.memory('VmRSS', 'Pss')}", flush=True)


def _watched(made: Instance, name: str, process: Process, seconds: float) -> None:
    watched = Path(f"/proc/{made._init}/root/run/ec2ssh-agent/status.json")
    since, cpu, seen = time.time(), process.cpu, watched.stat().st_mtime_ns
    told = Started(made)
    passes, end = 0, time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.25)
        if name == "agent" and (now := watched.stat().st_mtime_ns) != seen:
            passes, seen = passes + 1, now
    share = (process.cpu - cpu) / seconds
    told.close()
    by = ", ".join(f"{number} by {program}" for program, number in told.by.most_common())
    lines, own = (int(made.run(command % since).out) for command in (BANNERS, OWN))
    print(f"{name}, idle {seconds:.0f} s: {share:.3%} of one core; {passes} passes, {lines} lines of sshd's, {own} of "
          f"the agent's; {told.below(process.pid)} processes started by {name}; in the instance {by or 'none'}",
          flush=True)  # fmt: skip


def rules(seconds: float) -> None:
    with boot(config="") as made:
        wait_for("the daemon", lambda: made.agent("status").code != 3, 60)
        agent = supervisor(made)
        plain = cost_of_a_pass(made, agent)
        made.run(["iptables-nft-restore"], stdin=services(10_000))
        time.sleep(5)
        tools = "nft -j -t list chains\n"
        for chain in ("PREROUTING", "KUBE-SERVICES"):
            tools += f"nft -j -t list chain ip nat {chain}\niptables-nft -t nat -S {chain}\n"
        needed = float(made.run(["python3", "-c", COST], stdin=tools).out)
        many = cost_of_a_pass(made, agent, times=3)
        bound = 3 * plain + 2 * needed
        print(f"a plain pass {plain * 1000:.0f} ms; the tools that print 20,000 nat rules {needed * 1000:.0f} ms; a "
              f"pass beside them {many * 1000:.0f} ms of CPU; bound {bound * 1000:.0f} ms", flush=True)  # fmt: skip


def flood(seconds: float) -> None:
    with boot(config=CONFIG.format(settle="0s")) as made:
        wait_baseline(made)
        time.sleep(3)
        agent = supervisor(made)
        before, cpu = agent.memory("VmRSS"), agent.cpu
        told: list[str] = []
        argv = ["python3", "-c", FLOOD, seconds, seconds / 2]
        due = time.time() + seconds / 2
        changing = _start(lambda: told.append(made.run(argv, deadline=seconds + 60).out))
        time.sleep(seconds / 2 - 5)
        its, other = Trial(made, SERVER4), Trial(made, SERVER4)
        its.begin = its.end = due
        its.run()
        time.sleep(seconds / 12)
        other.begin = other.end = time.time()
        client = _start(other.run)
        broken = float(made.run("date +%s.%N; iptables -A INPUT -p tcp --dport 22 -j DROP").out)
        client.join()
        changing.join()
        time.sleep(8)  # the worker that rests is reaped, and its CPU time known
        share = (agent.cpu - cpu) / seconds
        rate, at = map(float, told[0].split())
        print(f"{rate:.0f} changes a second for {seconds:.0f} s: {share:.2%} of one core; {before} before, "
              f"{agent.memory('VmRSS')} after; a fault by the same program: SSH back after {its.back() - at:.2f} s, by "
              f"another: after {other.back() - broken:.2f} s", flush=True)  # fmt: skip


def _start(act: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=act)
    thread.start()
    return thread


MEASURES = {"idle": idle, "rules": rules, "flood": flood}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*MEASURES, []], help="which measures (default: all)")
    parser.add_argument("--seconds", type=float, default=0.0, help="default: idle 600, flood 60")
    arguments = parser.parse_args()
    for name in arguments.what or MEASURES:
        MEASURES[name](arguments.seconds or (600.0 if name == "idle" else 60.0))
