"""Runs the code under test inside namespaces: `python3 repair_driver.py ACTION`, JSON on stdin and stdout.

The stdin is {"rung": an encoded Rung, "kill": n}: with n > 0 the process kills itself by SIGKILL at the n-th of its
changes (a write of a file, a command), just after it; with n < 0 just before it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Sequence
from typing import Any

from ec2ssh_agent.codec import decode, encode
from ec2ssh_agent.host import Host, Ran
from ec2ssh_agent.model import AgentError, Finding, Severity, Symptom
from ec2ssh_agent.repair import execute, records
from ec2ssh_agent.steps import Rung

FINDING = Finding("firewall-drop", Severity.CRITICAL, Symptom.TIMEOUT, "a rule drops")


class Mortal(Host):
    """Counts what changes something, and dies there."""

    def __init__(self, kill: int) -> None:
        super().__init__()
        self.kill, self.count = kill, 0

    def _point(self, *, after: bool) -> None:
        if not after:
            self.count += 1
        if self.count == abs(self.kill) and after is (self.kill > 0):
            os.kill(os.getpid(), signal.SIGKILL)

    def replace(self, path: str, content: bytes, *, mode: int = 0o644, like: bool = True, sync: bool = True) -> None:
        self._point(after=False)
        super().replace(path, content, mode=mode, like=like, sync=sync)
        self._point(after=True)

    def remove(self, path: str) -> None:
        self._point(after=False)
        super().remove(path)
        self._point(after=True)

    def mkdir(self, path: str, mode: int = 0o755, *, sync: bool = True) -> None:
        self._point(after=False)
        super().mkdir(path, mode, sync=sync)
        self._point(after=True)

    def chmod(self, path: str, mode: int) -> None:
        self._point(after=False)
        super().chmod(path, mode)
        self._point(after=True)

    def run(self, argv: Sequence[str], **given: Any) -> Ran:
        self._point(after=False)
        ran = super().run(argv, **given)
        self._point(after=True)
        return ran


def main() -> None:
    action, given = sys.argv[1], json.load(sys.stdin)
    host = Mortal(given.get("kill", 0))
    said: list[str] = []
    try:
        with execute.lock(host):
            if action == "apply":
                rung = decode(Rung, given["rung"])
                record = execute.apply(host, rung, finding=FINDING, actor="command", note=said.append)
                found = [execute.close(host, record, records.State.VERIFIED)]
            elif action == "undo":
                found = [execute.undo(host, records.load(host, given["id"])).record]
            elif action == "roll back":
                found = list(execute.recover(host, note=said.append))
            elif action == "recover":
                # Whatever came through whole is taken back, too: the test compares with the state before.
                execute.recover(host, note=said.append)
                for record in records.all(host):
                    if record.state is records.State.VERIFIED:
                        execute.undo(host, record)
                found = list(records.all(host))
            else:
                found = list(records.all(host))
        out = {"records": [encode(r) for r in found], "said": said, "count": host.count}
    except AgentError as error:
        out = {"error": type(error).__name__, "text": str(error), "said": said, "count": host.count}
    print(json.dumps(out))


if __name__ == "__main__":
    main()
