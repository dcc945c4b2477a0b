"""A network namespace of one's own, which ends with the process that holds it."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from typing import IO


class Namespace:
    """Entered by `argv`, which puts a command into it. Loopback is up."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def argv(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", "--", *argv]

    def run(self, *argv: str, stdin: str = "") -> str:
        """Standard output. Raises CalledProcessError, TimeoutExpired."""
        done = subprocess.run(
            self.argv(*argv), input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60
        )
        if done.returncode:
            raise AssertionError(f"{argv}: exit {done.returncode}: {done.stderr}")
        return done.stdout

    def start(self, *argv: str, stderr: IO[str]) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.argv(*argv), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr, text=True
        )


@contextlib.contextmanager
def namespace() -> Iterator[Namespace]:
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo ready && exec sleep 3600"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout and holder.stdout.readline() == "ready\n"
        yield Namespace(holder.pid)
    finally:
        holder.kill()
        holder.wait()
        if holder.stdout:
            holder.stdout.close()
