"""The supervisor with passes that the test writes: python3 supervise_daemon.py DIRECTORY.

A pass appends its Wake as a line to DIRECTORY/wakes, does what DIRECTORY/plan (JSON) says, and hands back the watch
list that stands there. The wall clock is the machine's plus the seconds in DIRECTORY/offset.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

from ec2ssh_agent.supervise import channel
from ec2ssh_agent.supervise.loop import Loop
from ec2ssh_agent.supervise.watch import Wake, WatchList

DIRECTORY = sys.argv[1]


def offset() -> float:
    try:
        with open(f"{DIRECTORY}/offset") as file:
            return float(file.read())
    except FileNotFoundError:
        return 0.0


def frozen(value: Any) -> Any:
    return tuple(frozen(item) for item in value) if isinstance(value, list) else value


def worker(config_path: str, root: str, wake: Wake) -> WatchList:
    with open(f"{DIRECTORY}/plan") as file:
        plan = json.load(file)
    with open(f"{DIRECTORY}/wakes", "a") as file:
        file.write(json.dumps({**wake._asdict(), "kept": wake.kept.decode()}) + "\n")
    for argv in plan.get("run", ()):
        with channel.busy(30.0):
            subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)
    if "burn" in plan:
        end = time.process_time() + plan["burn"]
        while time.process_time() < end:
            continue
    if plan.get("crash"):
        raise ZeroDivisionError("by nought")
    if plan.get("hang"):
        signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM,))
        time.sleep(3600)
    if plan.get("until_stopped"):
        while not channel.stopping():
            time.sleep(0.01)
        time.sleep(0.3)
        with open(f"{DIRECTORY}/finished", "w") as file:
            file.write("yes")
    watch = WatchList(**{name: frozen(value) for name, value in plan.get("watch", {}).items()})
    watch = watch._replace(kept=f"of {os.getpid()}".encode())
    if plan.get("generation"):
        watch = watch._replace(generation=plan["generation"] if plan["generation"] > 1 else _generation())
    return watch


def _generation() -> int:
    from ec2ssh_agent.netlink import NETFILTER, generation, open_socket

    with open_socket(NETFILTER) as via:
        return generation(via)


if __name__ == "__main__":
    start = WatchList(interval=3600.0, pulse=0.0, deadline=float(os.environ.get("DEADLINE", "60")))
    sys.exit(Loop("/etc/x.conf", "/", worker=worker, watch=start, wall=lambda: time.time() + offset()).run())
