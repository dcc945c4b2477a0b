"""A line in the journal before each change: systemd's native protocol, which needs no library (systemd.journal costs
20 ms of imports in the middle of a repair). Without a journal: syslog, else standard error. It never fails a repair.

Source: systemd's Native Journal Protocol: KEY=value lines in a datagram; a value with a line feed has its length before
it.
"""

from __future__ import annotations

import os
import socket
import struct

from ..host import Host
from ..plain import say
from .records import Record

#: `journalctl MESSAGE_ID=...` lists every change that any agent was about to make.
MESSAGE_ID = "11945c2484654a0b8d86a3fffa970a4b"
_MOST = 16 << 10


def audit(host: Host, record: Record, lines: tuple[str, ...]) -> None:
    """Says which commands are about to be run, for which finding and change, and who made the agent do so."""
    text = "; ".join(lines)[:_MOST]
    message = f"{record.rung} for {record.fault}, change {record.id}: {text}"
    fields = {
        "MESSAGE": message,
        "MESSAGE_ID": MESSAGE_ID,
        "PRIORITY": "5",
        "SYSLOG_IDENTIFIER": "ec2ssh-agent",
        "SYSLOG_PID": str(os.getpid()),
        "EC2SSH_COMMANDS": text,
        "EC2SSH_FINDING": record.finding,
        "EC2SSH_FAULT": record.fault,
        "EC2SSH_CHANGE": record.id,
        "EC2SSH_ACTOR": record.actor,
    }
    native = b"".join(_field(name, value.encode("utf-8", "replace")) for name, value in fields.items())
    if _send(host, "/run/systemd/journal/socket", native):
        return
    line = f"<85>ec2ssh-agent[{os.getpid()}]: {message}".encode("utf-8", "replace").replace(b"\n", b" ")
    if not _send(host, "/dev/log", line):
        say(message)


def _field(name: str, value: bytes) -> bytes:
    if b"\n" in value:
        return name.encode() + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name.encode() + b"=" + value + b"\n"


def _send(host: Host, path: str, datagram: bytes) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        try:
            sender.sendto(datagram, host.path(path))
        except OSError:  # no such socket, or nobody reads it: the change must not wait for its log
            return False
    return True
