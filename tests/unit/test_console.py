"""The block on the serial console: what it says, what it never says, and where it is not written."""

from __future__ import annotations

import os
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


def test_what_was_held_back_is_shown_when_there_is_room_again() -> None:
    host = host_with_systemd()
    for _ in range(2):
        assert console.show(host, Config(), document(), document("ok"))
        assert console.show(host, Config(), document("ok"), document())
    sick = document(repairs=[])
    assert not console.show(host, Config(), sick, document("ok"))
    assert not console.show(host, Config(), sick, sick)
    host.epoch += 601
    # Nothing has changed since the last look, but what stands on the console is not true.
    assert console.show(host, Config(), sick, sick)
    assert b"UNREACHABLE" in host.read("/run/ec2ssh-agent/console.txt")
    assert not console.show(host, Config(), sick, sick)


def test_where_the_console_goes() -> None:
    host = FakeHost(
        {
            "/sys/class/tty/console/active": b"tty0 ttyS0\n", "/sys/class/tty/tty0/active": b"tty2\n",
            "/sys/class/tty/ttyS0/dev": b"4:64\n", "/sys/class/tty/tty2/dev": b"4:2\n",
        }
    )  # fmt: skip
    host.put("/dev/console").device = os.makedev(5, 1)
    assert console.terminal(host) == ("ttyS0", os.makedev(4, 64))
    host.put("/sys/class/tty/console/active", b"ttyS0 tty0\n")
    assert console.terminal(host) == ("tty2", os.makedev(4, 2))
    host.put("/sys/class/tty/console/active", b"\n")
    assert console.terminal(host) == ("", 0)
    host.put("/dev/console").device = os.makedev(136, 300)
    assert console.terminal(host) == ("", os.makedev(136, 300))


def test_a_session_of_logind_is_somebody() -> None:
    host = FakeHost({"/run/systemd/sessions/1": b"UID=0\nUSER=root\nTTY=ttyS0\n", "/run/systemd/sessions/1.ref": b""})
    assert console.in_use(host, "ttyS0", os.makedev(4, 64))
    assert not console.in_use(host, "tty1", os.makedev(4, 1))
    assert not console.in_use(host, "", 0)


def test_a_program_that_has_the_terminal_is_somebody_and_a_getty_is_not() -> None:
    device = os.makedev(136, 300)
    for name, there in (("agetty", False), ("bash", True), ("login", True), ("a) S 1 2 3 99 (", True)):
        number = struct.unpack("i", struct.pack("I", device))[0]
        host = FakeHost(
            {
                "/proc/1/stat": b"1 (systemd) S 0 1 1 0 -1 4194560 1 2 3",
                "/proc/77/stat": f"77 ({name}) S 1 77 77 {number} 77 4194304 1 2 3".encode(),
                "/proc/self/stat": b"",
            }
        )
        assert console.in_use(host, "", device) is there, name
        assert not console.in_use(host, "", os.makedev(136, 301)) and not console.in_use(host, "", 0)
