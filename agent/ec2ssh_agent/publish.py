"""What a pass leaves for others to read: status.json, detail.json, metrics.prom, history.jsonl.

A failing disk must not stop a repair: what cannot be written is said on stderr, once a pass.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any, Optional

from .host import Denied, Host, HostError, NotFound
from .model import AgentError
from .status import Document, age, bounded, printable, public

RUN = "/run/ec2ssh-agent"
STATE = "/var/lib/ec2ssh-agent"
HISTORY = f"{STATE}/history.jsonl"
_HISTORY_CAP = 1 << 20
#: node_exporter's textfile collector, as Debian's package has it.
TEXTFILES = "/var/lib/prometheus/node-exporter"


SCHEMA = "ec2ssh-agent.status/1"
_KEYS = {"schema", "agent", "health", "findings", "reach", "repairs", "ssh", "firewall", "updated", "valid_until"}


class NoDaemon(AgentError):
    exit_status = 3


def stamp(seconds: float) -> str:
    """RFC 3339 in UTC, with Z."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + "Z"


def publish(host: Host, document: Document) -> tuple[str, ...]:
    """Writes the document for its readers; what could not be written is returned, for the journal."""
    from .report import metrics

    whole = bounded(document)
    outputs = [
        (f"{RUN}/status.json", json.dumps(public(whole)).encode() + b"\n", 0o644),
        (f"{RUN}/detail.json", json.dumps(whole).encode() + b"\n", 0o640),
        (f"{RUN}/metrics.prom", metrics.render(whole).encode(), 0o644),
    ]
    failed = []
    try:
        place = host.stat(TEXTFILES, follow=False)
        if place and place.directory:  # no link: the directory above it is another user's
            # Removed again when the daemon stops (the unit's ExecStopPost): stale metrics would look like health.
            outputs.append((f"{TEXTFILES}/ec2ssh-agent.prom", outputs[2][1], 0o644))
    except HostError as error:
        failed.append(str(error))
    for path, content, mode in outputs:
        try:
            host.mkdir(RUN, sync=False)
            # /run is memory: nothing to sync, and a reader sees the old document or the new one.
            host.replace(path, content, mode=mode, like=False, sync=False)
            if mode == 0o640:
                host.chown(path, 0, _group(host, "adm"))
        except HostError as error:
            failed.append(str(error))
    return tuple(failed)


def _group(host: Host, name: str) -> int:
    for line in host.read("/etc/group").decode("utf-8", "replace").splitlines():
        fields = line.split(":")
        if fields[0] == name and len(fields) > 2 and fields[2].isdecimal():
            return int(fields[2])
    return 0


def latest(host: Host) -> tuple[Document, Optional[str]]:
    """The newest document that this user may read, and why it is stale (None: it is fresh). Raises NoDaemon."""
    for name in ("detail.json", "status.json"):
        try:
            document = json.loads(host.read(f"{RUN}/{name}", cap=64 << 20))
        except (NotFound, Denied):
            continue
        except (ValueError, RecursionError) as error:
            raise NoDaemon(f"{RUN}/{name} is not JSON: {error}") from error
        if not isinstance(document, dict) or not set(document) >= _KEYS or document["schema"] != SCHEMA:
            raise NoDaemon(f"{RUN}/{name} is not a status of this agent; `ec2ssh-agent check` looks now")
        return document, stale(host, document)
    raise NoDaemon("no daemon has looked yet (is ec2ssh-agent.service running?); `ec2ssh-agent check` looks now")


def stale(host: Host, document: Document) -> Optional[str]:
    """Why a document is not what is true now; None: it is, as far as anybody can tell."""
    return age(document, stamp(host.now())) or _dead(host, document) or failing(host, document)


def _dead(host: Host, document: Mapping[str, Any]) -> Optional[str]:
    """Whether the process that wrote it is gone: by its pid and its start time, since pids are used again."""
    pid = document["agent"].get("pid")
    if not pid:
        return None
    try:
        fields = host.read(f"/proc/{int(pid)}/stat").rpartition(b")")[2].split()
    except HostError:
        return f"the daemon (pid {pid}) is not running any more; it last looked {document['updated']}"
    if fields[19].decode() != document["agent"].get("ticks", fields[19].decode()):
        return f"the daemon (pid {pid}) is not running any more; it last looked {document['updated']}"
    return f"the daemon (pid {pid}) is stopped (SIGSTOP)" if fields[0] == b"T" else None


def failing(host: Host, document: Mapping[str, Any]) -> Optional[str]:
    """Whether the supervisor says that the passes since have failed."""
    try:
        trouble = host.read(f"{RUN}/trouble", cap=4096).decode("utf-8", "replace").strip()
    except NotFound:
        return None
    return f"the last pass failed ({printable(trouble)}); what is shown was seen {document['updated']}"


def remember(host: Host, event: Mapping[str, Any]) -> None:
    """Appends an event to the history, which keeps its newer half when it has grown over 1 MiB. Raises HostError."""
    status = host.stat(HISTORY)
    if status and status.size > _HISTORY_CAP:
        lines = host.read(HISTORY, cap=8 << 20).splitlines(keepends=True)
        host.replace(HISTORY, b"".join(lines[len(lines) // 2 :]), mode=0o640)
    host.mkdir(STATE, 0o755)
    host.append(HISTORY, json.dumps(event).encode() + b"\n")


def history(host: Host) -> Document:
    """All events, newest first, without lines that are none (a crash while one was written). Raises HostError."""
    events = []
    try:
        content = host.read(HISTORY, cap=8 << 20)
    except NotFound:
        content = b""
    for line in content.splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and all(isinstance(event.get(key), str) for key in ("time", "kind", "text")):
            events.append(event)
    return {"schema": "ec2ssh-agent.history/1", "events": events[::-1]}


def render_history(document: Document) -> str:
    lines = [
        f"{printable(event['time'])}  {printable(event['kind']):<8} {printable(event['text'])}"
        for event in document["events"]
    ]
    return "\n".join(lines) + "\n" if lines else "no events yet\n"
