"""How long a person waits for `ec2ssh-agent check`, against `/usr/bin/python3 -c pass`, in a booted Debian 12.

Run with the Python of tests/run.sh, as root. Issue 2 asks for 15 times at most.
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "instance"))

from harness import boot  # noqa: E402

_LOOP = """
import subprocess, sys, time
for _ in range(int(sys.argv[1])):
    started = time.perf_counter()
    subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    print(time.perf_counter() - started)
"""


def main() -> None:
    runs = 30
    with boot(enabled=False) as made:
        medians = {}
        for command in (["/usr/bin/python3", "-c", "pass"], ["ec2ssh-agent", "check"], ["ec2ssh-agent", "status"]):
            printed = made.run(["/usr/bin/python3", "-c", _LOOP, runs, *command], deadline=300).out
            medians[" ".join(command)] = statistics.median(map(float, printed.split()[5:]))
        base = medians["/usr/bin/python3 -c pass"]
        for name, median in medians.items():
            print(f"{name:<28} {median * 1000:7.1f} ms  {median / base:5.1f} times")


main()
