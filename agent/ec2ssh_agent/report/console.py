"""The block on the serial console: what a person reads when nothing else gets out of the instance.

GetConsoleOutput is widely granted, so the block carries no address, rule or user: an id, its meaning from a fixed list,
what was done, and what to do next. It is written by a oneshot unit (`python3 -m ec2ssh_agent.report.console`), and not
while somebody is logged in on that terminal.

Sources: console(4), sd-login(3), proc_pid_stat(5); the kernel's Documentation/admin-guide/serial-console.rst (the last
of /sys/class/tty/console/active is where /dev/console goes) and devices.txt (5:1 is /dev/console).
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from typing import Any, Optional

from .. import codec
from ..config import Config
from ..host import Host, HostError, NotFound, TooLarge
from ..plain import NamedTuple
from . import content

_BLOCK = "/run/ec2ssh-agent/console.txt"
_TIMES = "/run/ec2ssh-agent/console.json"
#: At most so many blocks in so many seconds; the last one says that there may be more.
_MOST, _WINDOW = 4, 600.0
_UNIT = "ec2ssh-agent-console.service"
_CONSOLE = "/dev/console"
#: What has a terminal while nobody is logged in there.
_GETTYS = ("agetty", "getty", "mingetty", "mgetty", "fbgetty")

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

    The first look at a healthy instance is no change. What was held back is shown later, if it is still so.
    """
    times, shown = _memory(host)
    before = shown or (str(previous["health"]) if previous else "ok")
    news = before != document["health"] or content.new_repairs(document, previous)
    if config.console_summary == "off" or not news:
        return False
    now = host.now()
    times = [at for at in times if 0 <= now - at < _WINDOW]
    good = len(times) < _MOST
    if good:
        times.append(now)
        host.replace(_BLOCK, block(document, last=len(times) == _MOST).encode(), mode=0o644, like=False, sync=False)
    said = {"times": times, "shown": document["health"] if good else before}
    host.replace(_TIMES, json.dumps(said).encode(), mode=0o600, like=False, sync=False)
    if good and host.exists("/run/systemd/system"):
        host.run(["systemctl", "start", "--no-block", _UNIT], deadline=5.0)
    return good


class _Shown(NamedTuple):
    times: tuple[float, ...]
    shown: str


def _memory(host: Host) -> tuple[list[float], str]:
    """When blocks were shown, and the health that the last one told; empty where nothing is known."""
    try:
        said = codec.decode(_Shown, codec.loads(host.read(_TIMES, follow=False)))
    except (NotFound, TooLarge, codec.Garbage):
        return [], ""
    return list(said.times), said.shown


# -- the oneshot unit


def terminal(host: Host) -> tuple[str, int]:
    """The terminal that /dev/console goes to, such as ttyS0 or, of a virtual console, the one in front: tty1.

    Its name and its device number; the name is empty in a container, whose console is a pty. Raises HostError.
    """
    status = host.stat(_CONSOLE)
    if status and status.device != os.makedev(5, 1):
        return "", status.device
    active = host.read("/sys/class/tty/console/active", cap=4096).decode("ascii", "replace").split()
    name = active[-1] if active else ""
    if name == "tty0":
        name = host.read("/sys/class/tty/tty0/active", cap=4096).decode("ascii", "replace").strip()
    if not name:
        return "", 0
    major, _, minor = host.read(f"/sys/class/tty/{name}/dev", cap=4096).decode("ascii", "replace").partition(":")
    return name, os.makedev(int(major), int(minor))


def in_use(host: Host, name: str, device: int) -> bool:
    """Whether somebody is logged in there: logind has a session, or a program other than a getty has the terminal."""
    for session in host.listdir("/run/systemd/sessions"):
        if session.endswith(".ref"):
            continue
        try:
            lines = host.read(f"/run/systemd/sessions/{session}").decode("utf-8", "replace").splitlines()
        except NotFound:
            continue  # ended meanwhile
        if name and (f"TTY={name}" in lines or f"TTY=/dev/{name}" in lines):
            return True
    pids = [name for name in host.listdir("/proc") if name.isdigit()] if device else []
    return any(_has_terminal(host, pid, device) for pid in pids)


def _has_terminal(host: Host, pid: str, device: int) -> bool:
    """By tty_nr and comm of /proc/PID/stat. The kernel packs a device's number there as makedev(3) does in 32 bits."""
    try:
        before, _, after = host.read(f"/proc/{pid}/stat", cap=4096).decode("utf-8", "replace").rpartition(")")
    except HostError:
        return False  # ended meanwhile
    return int(after.split()[4]) & 0xFFFFFFFF == device and before.partition("(")[2] not in _GETTYS


def main() -> int:
    host = Host()
    try:
        name, device = terminal(host)
        if in_use(host, name, device):
            print(f"somebody is logged in on {name or _CONSOLE}: nothing is written there", file=sys.stderr)
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
