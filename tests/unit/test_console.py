"""The block on the serial console: what it says, what it never says, and where it is not written."""

from __future__ import annotations

import re
import struct
from typing import Any

from ec2ssh_agent.config import Config
from ec2ssh_agent.host import Ran
from ec2ssh_agent.report import console
from fake_host import FakeHost
from status_example import example


def document(health: str = "unreachable", **changes: Any) -> dict[str, Any]:
    return {**example(), "health": health, **changes}


def host_with_systemd() -> FakeHost:
    host = FakeHost()
    host.directory("/run/systemd/system")
    host.directory("/run/ec2ssh-agent")
    host.command(["systemctl", "start", "--no-block", "ec2ssh-agent-console.service"], Ran(0, b"", b""))
    return host


def test_the_block_says_what_is_wrong_what_was_done_and_what_to_do() -> None:
    assert console.block(example()) == (
        "-------------------- ec2ssh-agent --------------------\n"
        "2026-11-28T14:15:00Z  SSH is UNREACHABLE from outside\n"
        "  critical: firewall-drop\n"
        "    clients see: Connection timed out\n"
        "  2026-11-28T14:14:59Z  firewall-drop: the repair did not help\n"
        "  log in here or through Session Manager, then: ec2ssh-agent status\n"
        "------------------------------------------------------\n"
    )


def test_no_address_rule_or_user_gets_into_it() -> None:
    nasty = "203.0.113.7 root -A INPUT -j DROP \x1b[2J\n2001:db8::1"
    finding = {**example()["findings"][0], "summary": nasty, "evidence": [nasty], "repair": nasty, "subject": nasty}
    repair = {**example()["repairs"][0], "commands": [nasty], "notes": [nasty], "outcome": nasty, "finding": nasty}
    text = console.block(document(findings=[finding] * 40, repairs=[repair] * 10, summary=nasty, notes=[nasty]))
    assert not re.search(r"203\.0|2001:db8::|-A INPUT|\broot\b|\x1b", text.replace("\n", " "))
    assert text.isascii() and len(text.splitlines()) <= 24 and max(map(len, text.splitlines())) <= 78


def test_it_is_shown_when_health_changes() -> None:
    host = host_with_systemd()
    assert not console.show(host, Config(), document("ok", repairs=[]), None)
    assert console.show(host, Config(), document(), document("ok"))
    assert b"UNREACHABLE" in host.read("/run/ec2ssh-agent/console.txt")
    assert host.calls[-1].argv == ("systemctl", "start", "--no-block", "ec2ssh-agent-console.service")
    assert not console.show(host, Config(), document(), document())
    assert not console.show(host, Config(console_summary="off"), document("ok"), document())
    # Locked out and repaired within one pass: nobody saw another health.
    assert console.show(host, Config(), document("ok"), document("ok", repairs=[]))


def test_a_first_look_at_a_locked_instance_is_shown() -> None:
    assert console.show(host_with_systemd(), Config(), document(), None)


def test_a_flapping_instance_does_not_fill_the_console() -> None:
    host = host_with_systemd()
    shown = [console.show(host, Config(), document(after), document(before))
             for _ in range(10) for before, after in (("ok", "unreachable"), ("unreachable", "ok"))]  # fmt: skip
    assert sum(shown) == 4
    assert b"not shown here" in host.read("/run/ec2ssh-agent/console.txt")
    host.epoch += 601
    assert console.show(host, Config(), document(), document("ok"))
    assert b"not shown here" not in host.read("/run/ec2ssh-agent/console.txt")


def test_damaged_memory_of_what_was_shown_is_forgotten() -> None:
    host = host_with_systemd()
    for content in (b"", b"null", b"[null]", b"{"):
        host.put("/run/ec2ssh-agent/console.json", content)
        assert console.show(host, Config(), document(), document("ok"))


def test_where_the_console_goes() -> None:
    host = FakeHost({"/sys/class/tty/console/active": b"tty0 ttyS0\n", "/sys/class/tty/tty0/active": b"tty2\n"})
    assert console.terminal(host) == "ttyS0"
    host.put("/sys/class/tty/console/active", b"ttyS0 tty0\n")
    assert console.terminal(host) == "tty2"


def test_whether_somebody_is_logged_in_there() -> None:
    host = FakeHost({"/run/systemd/sessions/1": b"UID=0\nUSER=root\nTTY=ttyS0\n", "/run/systemd/sessions/1.ref": b""})
    assert console.logged_in(host, "ttyS0")
    assert not console.logged_in(host, "tty1")
    entry = struct.Struct("=hxxi32s4s32s256shhiii4i20x")
    kinds = {6: b"tty3", 7: b"tty4"}  # LOGIN_PROCESS (a getty waits), USER_PROCESS
    content = b"".join(
        entry.pack(kind, 1, line, b"", b"root", b"", 0, 0, 0, 0, 0, 0, 0, 0, 0) for kind, line in kinds.items()
    )
    assert len(content) == 768
    host.put("/run/utmp", content)
    assert console.logged_in(host, "tty4")
    assert not console.logged_in(host, "tty3") and not console.logged_in(host, "tty")
