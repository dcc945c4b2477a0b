"""The block on the serial console: what a person reads when nothing else gets out of the instance.

GetConsoleOutput is widely granted, so the block carries no address, rule or user: an id, its meaning from a fixed list,
what was done, and what to do next. It is written by a oneshot unit (`python3 -m ec2ssh_agent.report.console`), and not
while somebody is logged in on that terminal.

Sources: console(4), utmp(5), sd-login(3); the kernel's Documentation/admin-guide/serial-console.rst (the last of
/sys/class/tty/console/active is where /dev/console goes).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from typing import Any, Optional

from ..config import Config
from ..host import Host, HostError, NotFound
from . import content

_BLOCK = "/run/ec2ssh-agent/console.txt"
_TIMES = "/run/ec2ssh-agent/console.json"
#: At most so many blocks in so many seconds; the last one says that there may be more.
_MOST, _WINDOW = 4, 600.0
_UNIT = "ec2ssh-agent-console.service"

_HEALTH = {
    "ok": "SSH is healthy",
    "degraded": "SSH is reachable, but something is wrong or uncertain",
    "unreachable": "SSH is UNREACHABLE from outside",
    "unknown": "it is not known whether SSH is reachable",
}
_SYMPTOM = {
    "timeout": "clients see: Connection timed out",
    "refused": "clients see: Connection refused",
    "unreachable": "clients see: No route to host",
    "closed": "clients see: Connection closed",
    "silent": "clients connect and see nothing",
}
_OUTCOME = {
    "verified": "was repaired",
    "undone": "the repair did not help",
    "failed": "the repair failed",
}


def block(document: Mapping[str, Any], *, last: bool = False) -> str:
    """The block for a status document: plain ASCII, at most 24 lines of 78 characters."""
    lines = [f"{document['updated']}  {_HEALTH.get(str(document['health']), 'unknown')}"]
    for finding in document["findings"][:6]:
        lines.append(f"  {_id(finding['severity'])}: {_id(finding['id'])}")
        if finding["symptom"] in _SYMPTOM:
            lines.append(f"    {_SYMPTOM[finding['symptom']]}")
    more = len(document["findings"]) - 6
    if more > 0:
        lines.append(f"  and {more} more")
    for repair in document["repairs"][:2]:
        outcome = _OUTCOME.get(str(repair["outcome"]), _id(repair["outcome"]))
        lines.append(f"  {_id(repair['time'])}  {_id(repair['finding'])}: {outcome}")
    if document["health"] != "ok":
        lines.append("  log in here or through Session Manager, then: ec2ssh-agent status")
    if last:
        lines.append(f"  (changes in the next {_WINDOW / 60:.0f} minutes are not shown here)")
    rule = "-" * 20 + " ec2ssh-agent " + "-" * 20
    return "\n".join([rule, *(line[:78] for line in lines), "-" * len(rule)]) + "\n"


def _id(text: object) -> str:
    """Identifiers and times only: whatever else a field came to hold stays inside."""
    return str(text) if re.fullmatch(r"[a-z][a-z0-9-]{0,39}|[0-9-]{10}T[0-9:]{8}Z", str(text)) else "?"


def show(host: Host, config: Config, document: Mapping[str, Any], previous: Optional[Mapping[str, Any]]) -> bool:
    """Has the block written to the console when health changed or a repair was made; whether it was. Raises HostError.

    The first look at a healthy instance is no change.
    """
    before = previous["health"] if previous else "ok"
    news = before != document["health"] or content.new_repairs(document, previous)
    if config.console_summary == "off" or not news:
        return False
    now = host.now()
    times = [at for at in _times(host) if 0 <= now - at < _WINDOW]
    if len(times) >= _MOST:
        return False
    host.replace(_BLOCK, block(document, last=len(times) == _MOST - 1).encode(), mode=0o644, like=False, sync=False)
    host.replace(_TIMES, json.dumps([*times, now]).encode(), mode=0o600, like=False, sync=False)
    if host.exists("/run/systemd/system"):
        host.run(["systemctl", "start", "--no-block", _UNIT], deadline=5.0)
    return True


def _times(host: Host) -> list[float]:
    try:
        return [float(at) for at in json.loads(host.read(_TIMES, follow=False))]
    except (NotFound, ValueError, TypeError):
        return []


# -- the oneshot unit


def terminal(host: Host) -> str:
    """The terminal that /dev/console goes to, such as ttyS0 or, of a virtual console, the one in front: tty1."""
    active = host.read("/sys/class/tty/console/active", cap=4096).decode("ascii", "replace").split()
    name = active[-1] if active else ""
    if name == "tty0":
        name = host.read("/sys/class/tty/tty0/active", cap=4096).decode("ascii", "replace").strip()
    return name


def logged_in(host: Host, name: str) -> bool:
    """Whether somebody has a session on that terminal: logind's, else utmp's."""
    for session in host.listdir("/run/systemd/sessions"):
        if session.endswith(".ref"):
            continue
        try:
            lines = host.read(f"/run/systemd/sessions/{session}").decode("utf-8", "replace").splitlines()
        except NotFound:
            continue  # ended meanwhile
        if f"TTY={name}" in lines or f"TTY=/dev/{name}" in lines:
            return True
    try:
        content = host.read("/run/utmp")
    except NotFound:
        return False
    return any(
        int.from_bytes(content[at : at + 2], sys.byteorder) == 7
        and content[at + 8 : at + 40].partition(b"\0")[0] == name.encode()
        for at in range(0, len(content), 384)
    )


def main() -> int:
    host = Host()
    try:
        name = terminal(host)
        if name and logged_in(host, name):
            print(f"somebody is logged in on {name}: nothing is written there", file=sys.stderr)
            return 0
        # A getty's prompt stands on the line; the console may want carriage returns.
        text = "\n" + host.read(_BLOCK, cap=1 << 16, follow=False).decode("ascii", "replace")
    except HostError as error:
        print(f"ec2ssh-agent-console: {error}", file=sys.stderr)
        return 1
    sys.stdout.write(text.replace("\n", "\r\n"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
