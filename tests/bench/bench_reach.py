"""What `reach` costs: /usr/bin/python3 tests/bench/bench_reach.py [file] [scale] [cap] [live] [one]

Needs root (network namespaces of its own, which end with the script). CPU is user and system time of the command and
its children, the least of several runs; memory the largest process. The agent is compiled first, as the package does.

file    the command on 10,000 INPUT rules, beside `iptables-nft-restore --test` on the same file
scale   CPU a rule, from 1,000 to 100,000 rules
cap     the most rules that are taken, and one more
live    a host with 20,000 rules of Kubernetes services in nat, beside the tools that print the chains concerned
one     `reach --from` on a host with a few rules, beside `/usr/bin/python3 -c pass`
"""

from __future__ import annotations

import compileall
import contextlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PYTHON = "/usr/bin/python3"


class Cost(NamedTuple):
    cpu: float  # seconds
    memory: float  # MB
    status: int


class Bench:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.copytree(ROOT / "agent", folder / "agent", ignore=shutil.ignore_patterns("__pycache__"))
        compileall.compile_dir(folder / "agent", quiet=1)
        self.within: list[str] = []

    def cost(self, *argv: object, runs: int = 5) -> Cost:
        """The least of several runs."""
        return min(self._once(list(map(str, argv))) for _ in range(runs))

    def _once(self, argv: list[str]) -> Cost:
        environment = {**os.environ, "PYTHONPATH": str(self.folder / "agent"), "LC_ALL": "C.UTF-8"}
        quiet = subprocess.DEVNULL
        before = os.times()
        process = subprocess.Popen([*self.within, *argv], env=environment, stdin=quiet, stdout=quiet, stderr=quiet)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        after = os.times()
        cpu = after.children_user + after.children_system - before.children_user - before.children_system
        return Cost(max(cpu, usage.ru_utime + usage.ru_stime), usage.ru_maxrss / 1024, process.returncode)

    def reach(self, *options: object, runs: int = 5) -> Cost:
        return self.cost(PYTHON, "-m", "ec2ssh_agent", "reach", *options, runs=runs)

    def rules(self, count: int, *, mixed: bool = False) -> Path:
        """An iptables-save file: every rule another source, and with `mixed` another port and comment."""
        chosen = random.Random(count)
        path = self.folder / f"rules-{count}-{mixed}"
        with path.open("w") as file:
            file.write("*filter\n:INPUT DROP [0:0]\n:FORWARD ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n")
            for number in range(count):
                source = ".".join(str(chosen.randrange(1, 224)) for _ in range(4))
                port = chosen.choice((22, 22, chosen.randrange(65536))) if mixed else 22
                comment = f'-m comment --comment "rule {number}" ' if mixed else ""
                verdict = chosen.choice(("ACCEPT", "DROP")) if mixed else "DROP"
                file.write(f"-A INPUT -s {source}/32 -p tcp -m tcp --dport {port} {comment}-j {verdict}\n")
            file.write("COMMIT\n")
        return path


def row(name: str, cost: Cost, beside: str = "") -> None:
    print(f"| {name} | {cost.cpu * 1000:.0f} ms | {cost.memory:.0f} MB | {beside} |", flush=True)


def bench_file(bench: Bench) -> None:
    for mixed in (False, True):
        path = bench.rules(10_000, mixed=mixed)
        base = bench.cost("unshare", "-n", "iptables-nft-restore", "--test", path)
        kind = "sources, ports, comments differ" if mixed else "sources differ"
        row(f"iptables-nft-restore --test, 10,000 rules, {kind}", base)
        for options in ([], ["--json"], ["--from", "8.8.8.8"]):
            cost = bench.reach("--iptables-save", path, *options)
            row(f"reach {' '.join(options)}".strip(), cost, f"{cost.cpu / base.cpu:.1f} times")


def bench_scale(bench: Bench) -> None:
    nothing = bench.reach("--iptables-save", bench.rules(0)).cpu
    for count in (1_000, 10_000, 100_000):
        cost = bench.reach("--iptables-save", bench.rules(count), runs=3)
        row(f"reach, {count:,} rules", cost, f"{(cost.cpu - nothing) / count * 1e6:.1f} µs a rule, start apart")


def bench_cap(bench: Bench) -> None:
    for count in (250_000, 250_001, 999_990):
        cost = bench.reach("--iptables-save", bench.rules(count, mixed=True), "--json", runs=1)
        row(f"reach --json, {count:,} rules", cost, f"exit {cost.status}")


@contextlib.contextmanager
def host(bench: Bench) -> Iterator[Callable[..., None]]:
    """A network namespace with an address outside; everything that is run meanwhile is run in it."""
    holder = subprocess.Popen(["unshare", "-n", "sleep", "3600"])
    bench.within = ["nsenter", f"--net=/proc/{holder.pid}/ns/net", "--"]

    def run(*argv: str, stdin: str = "") -> None:
        subprocess.run([*bench.within, *argv], input=stdin.encode(), check=True)

    try:
        while os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            os.sched_yield()
        run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
        for words in ("link set lo up", "link set peer0 up", "link set eth0 up", "address add 198.51.100.2/24 dev eth0",
                      "route add default via 198.51.100.1"):  # fmt: skip
            run("ip", *words.split())
        yield run
    finally:
        bench.within = []
        holder.kill()
        holder.wait()


def services(count: int) -> str:
    """What kube-proxy writes for that many services: a rule in KUBE-SERVICES, a chain with a rule of its own."""
    names = [f"KUBE-SVC-{number:016X}" for number in range(count)]
    heads = "".join(f":{name} - [0:0]\n" for name in names)
    rules = "".join(
        f"-A KUBE-SERVICES -d 10.{96 + (i >> 16)}.{i >> 8 & 255}.{i & 255}/32 -p tcp -m comment "
        f'--comment "default/svc-{i} cluster IP" -m tcp --dport 80 -j {name}\n'
        f'-A {name} -m comment --comment "default/svc-{i}" -j RETURN\n'
        for i, name in enumerate(names)
    )
    start = "*nat\n:KUBE-SERVICES - [0:0]\n"
    return f"{start}{heads}-A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n{rules}COMMIT\n"


def bench_live(bench: Bench) -> None:
    with host(bench) as run:
        run("iptables-nft-restore", stdin=services(10_000))
        tools = [
            ["nft", "-j", "-t", "list", "chains"],
            *(["nft", "-j", "-t", "list", "chain", "ip", "nat", name] for name in ("PREROUTING", "KUBE-SERVICES")),
            *(["iptables-nft", "-t", "nat", "-S", name] for name in ("PREROUTING", "KUBE-SERVICES")),
        ]
        costs = [bench.cost(*argv, runs=3) for argv in tools]
        base = Cost(sum(cost.cpu for cost in costs), max(cost.memory for cost in costs), 0)
        row("nft -j and iptables-nft -S of the chains concerned, 20,000 rules", base)
        cost = bench.reach("--port", "22", runs=3)
        row("reach", cost, f"{cost.cpu / base.cpu:.2f} times")


def bench_one(bench: Bench) -> None:
    with host(bench) as run:
        run("iptables-nft", "-A", "INPUT", "-p", "tcp", "--dport", "22", "-s", "203.0.113.0/24", "-j", "DROP")
        base = bench.cost(PYTHON, "-c", "pass", runs=20)
        row("/usr/bin/python3 -c pass", base)
        cost = bench.reach("--port", "22", "--from", "203.0.113.9", runs=20)
        row("reach --from, no sshd unit", cost, f"{cost.cpu / base.cpu:.1f} times")


BENCHES = {"file": bench_file, "scale": bench_scale, "cap": bench_cap, "live": bench_live, "one": bench_one}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="ec2ssh-bench-") as folder:
        bench = Bench(Path(folder))
        print("| what | CPU | memory | |\n| --- | --- | --- | --- |")
        for name in sys.argv[1:] or BENCHES:
            BENCHES[name](bench)


if __name__ == "__main__":
    main()
