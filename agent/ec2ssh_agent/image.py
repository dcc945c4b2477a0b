"""prepare-image: what makes an instance fit to become an image (an AMI).

Nothing of this instance may wake up in its copies: the agent is stopped (its units stay enabled), then its state,
its status, the reports that wait and the reporter's acknowledgements, its credentials and its lines in the logs go.
A change that a repair made stays where it is, as part of the image; its record goes, so it can no longer be undone.
"""

from __future__ import annotations

import contextlib
from typing import Any

from . import publish
from .config import DIRECTORY
from .host import Host, NotFound, TooLarge
from .repair import records
from .status import printable

UNITS = (
    "ec2ssh-agent.service",
    "ec2ssh-agent-report.timer",
    "ec2ssh-agent-report.path",
    "ec2ssh-agent-report.service",
)
DIRECTORIES = (publish.STATE, publish.RUN, "/var/lib/ec2ssh-agent-report", f"{DIRECTORY}/credentials")
#: Where rsyslog writes what the journal has, too; as a first rotation leaves it. The most of one that is read (bytes).
LOGS = tuple(f"/var/log/{name}{old}" for name in ("syslog", "messages", "daemon.log", "user.log") for old in ("", ".1"))
_JOURNALD = "/run/systemd/journal/socket"
_LOG_CAP = 64 << 20
METRICS = "/var/lib/prometheus/node-exporter/ec2ssh-agent.prom"


def prepare(host: Host) -> dict[str, Any]:
    """Stops the agent and removes all that is this instance's own. `text`, `exit` (0, or 3: something is left)."""
    lines: list[str] = []
    if not host.root:
        lines += stop(host, "it starts with the instances of the image")
    changes = len(records.ids(host))
    removed = 0
    for directory in DIRECTORIES:
        removed += _empty(host, directory)
    if host.exists(METRICS):
        host.remove(METRICS)
        removed += 1
    lines.append(f"removed {removed} files of state, status, reports and credentials")
    if changes:
        lines.append(f"{changes} changes that repairs made are part of the image now, and cannot be undone any more")
    lines += _journal(host)
    left = [path for directory in DIRECTORIES for path in _files(host, directory)]
    left += _logs(host)
    lines += [f"left: {path}" for path in left]
    text = "".join(f"{line}\n" for line in lines)
    return {
        "schema": "ec2ssh-agent.prepare-image/1",
        "removed": removed,
        "left": left,
        "text": text,
        "exit": 3 * bool(left),
    }


def stop(host: Host, then: str) -> list[str]:
    """Stops daemon and reporter, which would write and repair again; `then` is said of what comes after."""
    try:
        stopped = host.run(["systemctl", "stop", *UNITS], deadline=120.0)
    except NotFound:
        return ["no systemd: nothing to stop"]
    if stopped.code:
        return [f"systemctl stop: {stopped.complaint}"]
    return [f"stopped; {then}"]


def _files(host: Host, path: str) -> list[str]:
    """Every file below a directory, or the file itself; symlinks are not followed."""
    status = host.stat(path, follow=False)
    if status is None:
        return []
    if not status.directory:
        return [path]
    return [found for name in host.listdir(path) for found in _files(host, f"{path}/{name}")]


def _empty(host: Host, path: str) -> int:
    """Removes what is below a directory, which stays, or the file. Gives the number of files."""
    files = _files(host, path)
    for file in files:
        host.remove(file)
    _prune(host, path)
    return len(files)


def _prune(host: Host, path: str) -> None:
    """Removes the directories below a directory but those that the package made (tmpfiles.d)."""
    status = host.stat(path, follow=False)
    if status is None or not status.directory:
        return
    for name in host.listdir(path):
        below = f"{path}/{name}"
        _prune(host, below)
        if below != f"{publish.STATE}/spool":
            host.rmdir(below)


def _journal(host: Host) -> list[str]:
    """The agent's lines cannot be taken out of the journal alone: all that was written so far goes."""
    if host.root:
        return ["the journal of an attached volume is left as it is"]
    try:
        # Where journald does not run (the image is a directory) there is nobody who could begin a new file.
        done = [host.run(["journalctl", "--quiet", "--rotate"], deadline=60.0)] if host.exists(_JOURNALD) else []
        done.append(host.run(["journalctl", "--quiet", "--vacuum-time=1s"], deadline=60.0))
    except NotFound:
        return []
    if failed := [ran for ran in done if ran.code]:
        return [f"journalctl: {printable(failed[-1].complaint)}"]
    return ["the journal is emptied"]


def _logs(host: Host) -> list[str]:
    """Takes the agent's lines out of rsyslog's files. Gives those in which they are left."""
    changed, left = False, []
    for path in LOGS:
        status = host.stat(path, follow=False)
        if status is None or not status.regular:
            continue
        try:
            lines = host.read(path, cap=_LOG_CAP, follow=False).splitlines(keepends=True)
        except TooLarge:
            left.append(path)
            continue
        others = [line for line in lines if b"ec2ssh-agent" not in line]
        if len(others) < len(lines):
            host.replace(path, b"".join(others))
            changed = True
    if changed and not host.root:
        # Or it would go on writing into the files that were replaced.
        with contextlib.suppress(NotFound):  # no systemd
            host.run(["systemctl", "kill", "--signal=HUP", "rsyslog.service"], deadline=30.0)
    return left
