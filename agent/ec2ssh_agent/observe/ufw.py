"""ufw: what it is configured to do, and whether its chains are in the kernel.

`ufw status` (45–80 ms) says only that its chains exist; its own files and the ruleset say more, and at once.
Source: ufw-framework(8), ufw's backend_iptables.py.
"""

from __future__ import annotations

import re
from typing import Optional

from ..facts import Ufw
from ..host import Host, HostError, NotFound
from ..model import Fact, Seen, Unseen
from ..reach.ruleset import Kind, Ruleset, Verdict

_CONF = "/etc/ufw/ufw.conf"
RULES = ("/etc/ufw/user.rules", "/etc/ufw/user6.rules")
_TUPLE = re.compile(r"^### tuple ### (.*?)\s*$", re.M)


def collect(host: Host, ruleset: Fact[Ruleset]) -> Fact[Optional[Ufw]]:
    """None where ufw is not installed."""
    try:
        if host.program("ufw") is None:
            return Seen(None, "ufw is not installed")
        tuples = tuple(match for path in RULES for match in _TUPLE.findall(_text(host, path)))
        enabled = setting(_text(host, _CONF), "ENABLED").lower() == "yes"
    except HostError as error:
        return Unseen(f"ufw: {error}")
    if isinstance(ruleset, Unseen):
        return Unseen(f"ufw: whether its chains are there: {ruleset.reason}")
    return Seen(Ufw(enabled, chains(ruleset.value), tuples), _CONF)


def _text(host: Host, path: str) -> str:
    try:
        return host.read(path, cap=8 << 20).decode("utf-8", "replace")
    except NotFound:
        return ""


def setting(text: str, name: str) -> str:
    """The value of a shell-like assignment, the last one."""
    found = re.findall(rf"^[ \t]*{name}[ \t]*=[ \t]*[\"']?([^\"'#\s]*)", text, re.M)
    return str(found[-1]) if found else ""


def chains(ruleset: Ruleset) -> bool:
    """INPUT of an IPv4 filter table jumps to ufw's chains, and they are there."""
    for table in ruleset.tables:
        entry = table.chains.get("INPUT")
        if table.label != "ip filter" or entry is None:
            continue
        targets = {
            item.target
            for rule in entry.rules
            for item in rule.items
            if isinstance(item, Verdict) and item.kind in (Kind.JUMP, Kind.GOTO)
        }
        if any(name.startswith("ufw-before-input") and name in table.chains for name in targets):
            return True
    return False
