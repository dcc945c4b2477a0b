"""Starved and lied to by the machine itself, while SSH breaks: nothing is made worse, it is said as soon as it can be,
the supervisor lives, and once the trouble is over SSH is repaired and everything else is as it was."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

import pytest

from daemon import findings, main_pid, open_records, status, wait_baseline
from harness import Instance, boot, limited, wait_for
from misfortune import CLOCK, DISK, preload

CONFIG = """\
[repair]
settle = 0s
baseline_after = 1s
max_attempts = 20
"""
STATE = "/var/lib/ec2ssh-agent"
BREAK = "iptables -A INPUT -p tcp --dport 22 -j DROP"
HEAL = "iptables -D INPUT -p tcp --dport 22 -j DROP"


@pytest.fixture(scope="module")
def made() -> Iterator[Instance]:
    with boot(config=CONFIG, prepare=preload) as instance:
        wait_baseline(instance)
        # The tables that iptables makes by being used are there from now on.
        instance.run(f"{BREAK}; {HEAL}")
        yield instance


def look(made: Instance) -> None:
    made.run("systemctl kill -s USR1 --kill-whom=main ec2ssh-agent.service")


@contextlib.contextmanager
def endured(made: Instance) -> Iterator[None]:
    """Around a fault and what it starves: afterwards SSH is repaired, and once it is healed, all is as before."""
    wait_for("quiet", lambda: status(made)["health"] == "ok" and "ec2ssh" not in made.run("iptables-save").out, 60)
    before, pid = made.snapshot(), main_pid(made)
    yield
    look(made)
    made.client.wait_ssh(60)
    wait_for("health", lambda: not {"firewall-drop", "firewall-uncertain"} & findings(made).keys(), 60)
    assert main_pid(made) == pid, "the supervisor was restarted"
    made.run(HEAL)
    wait_for("the withdrawal", lambda: "ec2ssh-agent" not in made.run("iptables-save").out, 60)
    lines = [line for line in Instance.diff(before, made.snapshot()) if not re.match(r"\d{4}: ", line)]
    assert not lines, "\n".join(lines)
    wait_for("closed records", lambda: open_records(made) == "", 30)


def untouched(made: Instance) -> None:
    assert "ec2ssh-agent" not in made.run("iptables-save; ip6tables-save").out


@pytest.mark.parametrize("what", ["all", "sync"])
def test_the_disk_fails(made: Instance, what: str) -> None:
    """EIO from everything below the state directory, or from fsync(2) alone. No record, no repair."""
    with endured(made):
        made.run(f"echo {what} > {DISK}")
        made.run(BREAK)
        wait_for("the finding", lambda: "firewall-drop" in findings(made), 30)
        untouched(made)
        assert "Input/output error" in str(status(made))
        made.run(f"rm {DISK}")


def test_no_inodes(made: Instance) -> None:
    with endured(made):
        made.run(
            f"cp -a {STATE} /root/state; mount -t tmpfs -o nr_inodes=60,mode=0755 none {STATE};"
            f"cp -a /root/state/. {STATE}/; rm -r /root/state;"
            f"(cd {STATE}; touch $(seq 60) 2>/dev/null || true)"
        )
        made.run(BREAK)
        wait_for("the finding", lambda: "firewall-drop" in findings(made), 30)
        untouched(made)
        made.run(f"umount {STATE}")


def test_a_root_that_is_read_only(made: Instance) -> None:
    """As the agent sees it: the unit has mounts of its own."""
    places = ("/etc", STATE)
    inside = f"nsenter -t {main_pid(made)} -m mount -o remount,bind"
    with endured(made):
        made.run("; ".join(f"{inside},ro {place}" for place in places))
        made.run(BREAK)
        wait_for("the finding", lambda: "firewall-drop" in findings(made), 30)
        assert "Read-only file system" in str(status(made))
        untouched(made)
        made.run("; ".join(f"{inside},rw {place}" for place in places))


def test_no_memory(made: Instance) -> None:
    """The kernel kills each pass; the supervisor says so, and the first pass that lives does."""
    with endured(made), limited(made, int(main_pid(made)), "memory", 8 << 20):
        made.run(BREAK)
        killed = "the pass was killed by signal 9"
        wait_for("a killed pass", lambda: killed in made.run("systemctl status ec2ssh-agent.service").out, 30)
        untouched(made)


@pytest.mark.parametrize("most", [1, 2])
def test_no_process_can_be_made(made: Instance, most: int) -> None:
    """No pass, or a pass without tools."""
    with endured(made), limited(made, int(main_pid(made)), "pids", most):
        made.run(BREAK)
        if most == 1:
            said = "no pass could be started"
            wait_for(said, lambda: said in made.run("systemctl status ec2ssh-agent.service").out, 30)
        else:
            wait_for("a note", lambda: "Resource temporarily unavailable" in str(status(made)), 30)
        untouched(made)


def test_dbus_hangs(made: Instance) -> None:
    with endured(made):
        made.run("kill -STOP $(pidof dbus-daemon)")
        made.run(BREAK)
        made.client.wait_ssh(60)
        made.run("kill -CONT $(pidof dbus-daemon)")


def hang(made: Instance, names: str) -> None:
    for name in names.split():
        made.write(f"/usr/local/sbin/{name}", "#!/bin/sh\nexec sleep 1000\n", 0o755)


def test_the_tools_that_list_rules_hang(made: Instance) -> None:
    """Unknown is not healthy: it is said, and nothing is done on a guess."""
    with endured(made):
        hang(made, "nft iptables-save iptables-nft-save")
        made.run(BREAK)
        wait_for("what is wrong", lambda: "no end within its deadline" in str(status(made)), 60)
        assert status(made)["health"] == "unknown"
        made.run("rm /usr/local/sbin/*")
        untouched(made)


@pytest.mark.slow  # two deadlines of 20 s one after the other
def test_the_tool_that_changes_rules_hangs_and_the_agent_is_paused_meanwhile(made: Instance) -> None:
    """It is killed at its deadline; what it may have done is taken back, later if need be. Once `pause` has returned,
    no repair is under way any more, and none follows."""
    with endured(made):
        hang(made, "iptables iptables-nft")
        made.run("/usr/sbin/" + BREAK)
        wait_for("the record", lambda: open_records(made) != "", 30)
        made.agent("pause", "1h", check=True)
        wait_for("what is wrong", lambda: "not yet taken back" in str(status(made)), 60)
        made.run("rm /usr/local/sbin/*")
        look(made)
        wait_for("what was left is taken back", lambda: open_records(made) == "", 60)
        wait_for("the pause", lambda: "repairs are paused" in str(status(made)), 30)
        untouched(made)
        assert made.client.symptom(timeout=1.5) == "timeout"
        made.agent("resume", check=True)


@pytest.mark.parametrize("jump", [366, -366])
def test_the_clock_jumps_by_a_year(made: Instance, jump: int) -> None:
    """Attempts, settling and the baseline go by another clock; the fault is met at the wrong time, and again after."""
    year = int(made.run("date +%Y").out)
    with endured(made):
        made.run(f"echo {jump * 86400} > {CLOCK}")
        wait_for("a pass at the new time", lambda: status(made)["updated"][:4] != str(year), 30)
        made.run(BREAK)
        made.client.wait_ssh(60)
        made.run(f"rm {CLOCK}")
        wait_for("a pass at the old time", lambda: status(made)["updated"][:4] == str(year), 30)
