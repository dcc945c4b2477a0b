"""What the supervisor costs: /usr/bin/python3 tests/bench/bench_idle.py [idle] [passes] [look] [flood] [--seconds N]

Needs root. Everything happens in a network namespace of its own, with an empty /run and /etc (what others do there
would wake the supervisor), all of which end with the script. The passes do nothing: the figures are the supervisor's.

idle    CPU, RSS and PSS while nothing happens: pulse 1 s, one listener, the banner probe every 60 s
passes  RSS over 10,000 passes
look    the once-a-second look beside 20,000 open connections and 600 processes
flood   200 changes of the ruleset a second: the supervisor's CPU, the passes that it starts (each burns 60 ms)
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "agent"))

DAEMON = """
import sys
sys.path.insert(0, {agent!r})
from ec2ssh_agent.supervise.loop import Loop
from ec2ssh_agent.supervise.watch import default
import os, time
def worker(config_path, root, wake):
    with open({log!r}, "ab", 0) as file:
        file.write(b".")
    while time.process_time() < {burn}:
        continue
    watch = default(config_path)._replace(ports=({port},), pids=({pid},), probe=60.0, probe_at=("127.0.0.1", {port}))
    return watch._replace(kept=os.urandom(40000))
Loop("/etc/ec2ssh-agent/agent.conf", "/", worker=worker).run()
"""


class Daemon:
    def __init__(self, pid: int, log: Path) -> None:
        self.pid, self._log = pid, log

    @property
    def passes(self) -> int:
        return self._log.stat().st_size if self._log.exists() else 0

    @property
    def cpu(self) -> float:
        """Seconds on a core, of the supervisor alone (the passes are its children)."""
        return int(Path(f"/proc/{self.pid}/schedstat").read_text().split()[0]) / 1e9

    def memory(self, *names: str) -> list[float]:
        """MB, of VmRSS in status and of Pss in smaps_rollup."""
        text = Path(f"/proc/{self.pid}/status").read_text() + Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        values = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        return [int(values[name].split()[0]) / 1024 for name in names]


@contextlib.contextmanager
def daemon(*, burn: float = 0.0) -> Iterator[Daemon]:
    with tempfile.TemporaryDirectory(prefix="ec2ssh-bench-") as directory:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            log = Path(directory) / "passes"
            port = listener.getsockname()[1]
            main = Path(directory) / "daemon.py"
            main.write_text(
                DAEMON.format(agent=str(ROOT / "agent"), log=str(log), burn=burn, port=port, pid=os.getpid())
            )
            process = subprocess.Popen(["/usr/bin/python3", "-I", str(main)], stdin=subprocess.DEVNULL)
            made = Daemon(process.pid, log)
            try:
                while not made.passes:
                    time.sleep(0.05)
                time.sleep(1.0)
                yield made
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(30)


def idle(seconds: float) -> None:
    with daemon() as made:
        began, before = time.monotonic(), made.cpu
        time.sleep(seconds)
        share = (made.cpu - before) / (time.monotonic() - began)
        rss, pss = made.memory("VmRSS", "Pss")
        print(
            f"idle {seconds:.0f} s: {share:.3%} of one core; RSS {rss:.1f} MB, PSS {pss:.1f} MB; passes {made.passes}"
        )


def passes(seconds: float) -> None:
    with daemon() as made:
        (before,) = made.memory("VmRSS")
        highest, cpu, began = before, made.cpu, time.monotonic()
        for number in range(1, 10001):
            os.kill(made.pid, signal.SIGUSR1)
            while made.passes <= number:
                time.sleep(0.0005)
            if not number % 500:
                highest = max(highest, *made.memory("VmRSS"))
        (after,) = made.memory("VmRSS")
        each = (made.cpu - cpu) / 10000 * 1000
        took = time.monotonic() - began
        print(f"10,000 passes in {took:.0f} s: RSS {before:.1f} MB before, {highest:.1f} highest, {after:.1f} after; "
              f"{each:.2f} ms of the supervisor's CPU a pass")  # fmt: skip


HOLD = """
import resource, socket
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
listener, held = socket.create_server(("127.0.0.1", {port}), backlog=4096), []
for number in range({connections}):
    client = socket.socket()
    client.bind((f"127.0.1.{{1 + number % 200}}", 0))
    client.connect(("127.0.0.1", {port}))
    held += [client, listener.accept()[0]]
print("ready", flush=True)
input()
"""


def look(seconds: float) -> None:
    from ec2ssh_agent.supervise.firewall import Rules
    from ec2ssh_agent.supervise.socklook import Look

    rules, looker = Rules(), Look()
    looker.watch((2222,))
    others = [subprocess.Popen(["sleep", "3600"]) for _ in range(600)]
    for connections in (0, 20000):
        holders = []
        for port in range(2222, 2227):
            code = HOLD.format(port=port, connections=connections // 5)
            argv = ["/usr/bin/python3", "-c", code]
            holders.append(subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        for holder in holders:
            assert holder.stdout and holder.stdout.readline() == "ready\n"
        times = []
        for _ in range(2000):
            began = time.perf_counter()
            looker.look(time.monotonic())
            rules.moved()
            times.append((time.perf_counter() - began) * 1e6)
        times.sort()
        took = f"median {times[1000]:.0f} µs, 99th {times[1980]:.0f} µs"
        print(f"look beside 600 processes, {connections} connections: {took}")
        for holder in holders:
            holder.communicate("\n")
    for other in others:
        other.kill()
        other.wait()


def flood(seconds: float) -> None:
    nft = subprocess.Popen(["nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert nft.stdin
    nft.stdin.write("add table inet x\nadd chain inet x y\n")
    nft.stdin.flush()
    with daemon(burn=0.06) as made:
        began, before, changes, counted = time.monotonic(), made.cpu, 0, made.passes
        while time.monotonic() - began < seconds:
            nft.stdin.write("flush chain inet x y\n" if changes % 2 else "add rule inet x y drop\n")
            nft.stdin.flush()
            changes += 1
            time.sleep(max(0.0, began + changes / 200 - time.monotonic()))
        took = time.monotonic() - began
        share, number = (made.cpu - before) / took, made.passes - counted
        (rss,) = made.memory("VmRSS")
        print(f"flood, {changes / took:.0f} changes a second, {took:.0f} s: {share:.2%} of one core, RSS {rss:.1f} MB, "
              f"{number} passes ({(number * 0.06) / took:.2%} if each takes 60 ms)")  # fmt: skip
    nft.stdin.close()
    nft.wait(10)


MEASURES = {"idle": idle, "passes": passes, "look": look, "flood": flood}

if __name__ == "__main__":
    if os.environ.get("EC2SSH_BENCH_NAMESPACE") != "own":
        os.environ["EC2SSH_BENCH_NAMESPACE"] = "own"
        enter = 'mount -t tmpfs run /run && mount -t tmpfs etc /etc && ip link set lo up && exec /usr/bin/python3 "$@"'
        os.execvp("unshare", ["unshare", "--net", "--mount", "sh", "-c", enter, "sh", *sys.argv])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=[*MEASURES, []], help="which measures (default: all)")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long idle and flood last")
    arguments = parser.parse_args()
    for name in arguments.what or MEASURES:
        MEASURES[name](arguments.seconds)
