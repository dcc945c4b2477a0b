"""The document's second form with the firewalls' owners, on a booted system: switched off, undone, killed half-way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

import pytest

from ec2ssh_agent.codec import encode
from ec2ssh_agent.steps import Disable, Run, Rung, Step
from harness import Instance, boot

DRIVER = Path(__file__).parents[1] / "kernel" / "repair_driver.py"
UFW = Disable(("iptables", "ip6tables"), "ufw")
FIREWALLD = Disable((), "firewalld")


@pytest.fixture(scope="module")
def made() -> Iterator[Instance]:
    with boot(enabled=False) as instance:
        instance.write("/root/driver.py", DRIVER.read_bytes())
        yield instance


def drive(made: Instance, action: str, *steps: Step, kill: int = 0, change: str = "") -> Optional[dict[str, Any]]:
    """What the driver said; None: it was killed as asked."""
    given = {"rung": encode(Rung("disable", "", steps)), "kill": kill, "id": change}
    done = made.run(["/usr/bin/python3", "/root/driver.py", action], stdin=json.dumps(given), check=False)
    if kill and done.code in (-9, 137):
        return None
    assert done.code == 0, done.err
    answer: dict[str, Any] = json.loads(done.out)
    assert "error" not in answer, answer
    return answer


def applied(made: Instance, *steps: Step) -> dict[str, Any]:
    answer = drive(made, "apply", *steps)
    assert answer is not None
    return answer


def same(made: Instance, before: Any) -> None:
    """Rules and files; units but for the times of their processes."""
    after = made.snapshot()
    lines = [line for line in Instance.diff(before, after) if "MainPID" not in line and "NRestarts" not in line]
    assert not lines, "\n".join(lines)


@pytest.fixture
def ufw(made: Instance) -> Iterator[Instance]:
    made.run("ufw default deny; ufw allow 443/tcp; ufw deny from 203.0.113.0/24; ufw --force enable")
    yield made
    made.run("ufw --force reset; ufw disable; rm -f /etc/ufw/*.rules.20*; iptables -F; iptables -P INPUT ACCEPT")


@pytest.fixture
def firewalld(made: Instance) -> Iterator[Instance]:
    made.run("firewall-offline-cmd --set-default-zone=drop; systemctl start firewalld.service; firewall-cmd --state")
    yield made
    made.run("systemctl disable --now firewalld.service; firewall-offline-cmd --set-default-zone=public")


def test_ufw_is_switched_off_and_on_again(ufw: Instance) -> None:
    assert ufw.client.symptom() == "timeout"
    before = ufw.snapshot()
    answer = applied(ufw, UFW)
    ufw.client.wait_ssh(20)
    assert "ENABLED=no" in ufw.read("/etc/ufw/ufw.conf")
    drive(ufw, "undo", change=answer["records"][0]["id"])
    same(ufw, before)
    assert ufw.client.symptom() == "timeout"


def test_ufw_is_as_before_wherever_the_agent_is_killed(ufw: Instance) -> None:
    before = ufw.snapshot()
    points = applied(ufw, UFW)["count"]
    drive(ufw, "recover")
    same(ufw, before)
    for point in range(8, points, max(1, points // 6)):
        assert drive(ufw, "apply", UFW, kill=point) is None
        drive(ufw, "recover")
        same(ufw, before)


@pytest.mark.parametrize("enabled", [False, True])
def test_firewalld_is_switched_off_and_on_again(firewalld: Instance, enabled: bool) -> None:
    if enabled:
        firewalld.run("systemctl -q enable firewalld.service")
    assert firewalld.client.symptom() == "timeout"
    before = firewalld.snapshot()
    answer = applied(firewalld, FIREWALLD)
    firewalld.client.wait_ssh(20)
    drive(firewalld, "undo", change=answer["records"][0]["id"])
    same(firewalld, before)
    assert firewalld.client.symptom() == "timeout"


def at_run_time(made: Instance) -> bool:
    return made.run("firewall-cmd --zone=drop --query-service=ssh", check=False).code == 0


@pytest.mark.parametrize("administrator", [False, True])
def test_what_firewalld_lets_in_at_run_time_is_the_administrators_or_ours(
    firewalld: Instance, administrator: bool
) -> None:
    now, later = (("firewall-cmd", *where, "--zone=drop") for where in ((), ("--permanent",)))
    add, remove, zone = "--add-service=ssh", "--remove-service=ssh", "/etc/firewalld/zones/drop.xml"
    allow = Run(
        ((*now, add), (*later, add)), ((*later, remove), (*now, remove)), (zone, f"{zone}.old"), (), "firewalld"
    )
    if administrator:
        firewalld.run([*now, add])
    before = firewalld.snapshot()
    answer = applied(firewalld, allow)
    firewalld.client.wait_ssh(20)
    drive(firewalld, "undo", change=answer["records"][0]["id"])
    same(firewalld, before)
    assert at_run_time(firewalld) is administrator
    # The eighth change is of the permanent configuration: before it the files tell nothing yet.
    for point in (-8, *range(7, answer["count"], 4)):
        drive(firewalld, "apply", allow, kill=point)
        found = drive(firewalld, "recover")
        assert found is not None and {record["state"] for record in found["records"]} <= {"undone", "failed"}
        left = "left as it is" in str(found["records"][0]["notes"])
        assert at_run_time(firewalld) is (administrator or left) and left is (point < 0 and not administrator)
        if left and not administrator:
            firewalld.run([*now, remove])
        same(firewalld, before)


def test_a_rule_of_ufw_is_as_before_wherever_the_agent_is_killed(ufw: Instance) -> None:
    allow = Run(
        (("ufw", "prepend", "allow", "22/tcp"),),
        (("ufw", "--force", "delete", "allow", "22/tcp"),),
        ("/etc/ufw/user.rules", "/etc/ufw/user6.rules"),
        (("ufw", "reload"),),
        "ufw",
    )
    before = ufw.snapshot()
    points = applied(ufw, allow)["count"]
    ufw.client.wait_ssh(20)
    drive(ufw, "recover")
    same(ufw, before)
    for point in range(8, points, max(1, points // 4)):
        drive(ufw, "apply", allow, kill=point)
        drive(ufw, "recover")
        same(ufw, before)
