"""When the agent holds back: the configuration, a person's word, history, and what is at work on the machine."""

from __future__ import annotations

from typing import Any, Optional

import pytest

from ec2ssh_agent import daemon, memory, policy
from ec2ssh_agent.config import FILE, Config
from ec2ssh_agent.facts import Facts, Machine, Sshd, UnitState, Wrappers
from ec2ssh_agent.memory import Clock, Memory
from ec2ssh_agent.model import Finding, Seen, Severity, Symptom, Unseen
from fake_host import FakeHost

FAULT = Finding("firewall-drop", Severity.CRITICAL, Symptom.TIMEOUT, "shut", ("a rule",), subject="eth0/ipv4")
NOW = Clock(1_000_000.0, 5000.0)
ROOT = b"Uid:\t0\t0\t0\t0\n"


def held(
    remembered: Memory,
    config: Optional[Config] = None,
    *,
    clock: Clock = NOW,
    actor: str = "daemon",
    fault: Finding = FAULT,
    unit: Optional[UnitState] = None,
    **machine: Any,
) -> Optional[policy.Hold]:
    none = Unseen("not needed")
    sshd = Sshd(unit=Seen(unit)) if unit else Sshd()
    facts = Facts(0.0, sshd, none, none, none, none, Wrappers(), none, none, Machine(**machine))
    return policy.hold(config or Config(), remembered, fault, facts, clock=clock, actor=actor)


def unhealthy(seconds: float) -> Memory:
    return memory.verdict(Memory("i-1"), unhealthy=True, boot=NOW.boot - seconds)


def test_a_fault_has_to_settle_first() -> None:
    hold = held(unhealthy(0.1))
    assert hold and hold.seconds is not None and 0.1 < hold.seconds < 0.3
    assert held(unhealthy(1.0)) is None
    assert held(unhealthy(0.1), actor="command") is None, "a person waits for nobody"


def test_the_first_second_after_a_kill_is_systemds() -> None:
    down = FAULT._replace(id="sshd-not-running", subject="")

    def hold(age: float, fault: Finding = down, *, down_for: float = 29.0) -> Optional[policy.Hold]:
        unit = UnitState("ssh.service", "loaded", "activating", "auto-restart", since=int((NOW.boot - age) * 1e6))
        return held(unhealthy(down_for), fault=fault, unit=unit)

    waiting = hold(0.25)
    assert waiting and waiting.seconds == 0.75 and "systemd" in waiting.why
    assert hold(1.0) is None
    assert hold(0.25, FAULT) is None, "a firewall is not systemd's"
    assert hold(0.25, down_for=30.0) is None, "systemd has had its time"


def test_a_firewall_tool_at_work_is_waited_for_but_not_for_ever() -> None:
    hold = held(unhealthy(1.0), busy=Seen(("iptables-restore",)))
    assert hold and "iptables-restore" in hold.why and hold.seconds
    assert held(unhealthy(31.0), busy=Seen(("apt-get",))) is None


def test_with_the_end_of_an_owners_tool_its_change_is_whole() -> None:
    assert policy.owners(Seen(("ufw (12)", "iptables (13)", "firewall-cmd (14)", "python3 (15)"))) == (12, 14)
    assert policy.owners(Seen(("iptables (13)", "apt-get (16)"))) == (), "another may follow"
    assert policy.owners(Unseen("/proc")) == ()


def test_the_end_of_an_owners_tool_is_seen_at_once_and_not_waited_for_for_ever() -> None:
    class Working(FakeHost):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            if len(self.slept) == 3:
                self.remove("/proc/12/status")

    host = Working({"/proc/12/status": ROOT})
    daemon.await_end(host, (11, 12))
    assert len(host.slept) == 4 and sum(host.slept) < 0.1
    host.put("/proc/11/status", ROOT)
    began = host.monotonic()
    daemon.await_end(host, (11, 12))
    assert 1.9 < host.monotonic() - began < 2.2


def test_a_scripts_next_command_is_waited_for_as_well() -> None:
    class Script(FakeHost):
        def sleep(self, seconds: float) -> None:
            super().sleep(seconds)
            for pid, begins, ends in ((12, 0, 3), (14, 4, 8)):
                if len(self.slept) == begins:
                    self.put(f"/proc/{pid}/comm", b"ufw\n")
                    self.put(f"/proc/{pid}/status", ROOT)
                if len(self.slept) == ends:
                    self.remove(f"/proc/{pid}/comm")
                    self.remove(f"/proc/{pid}/status")

    host = Script({"/proc/12/comm": b"ufw\n", "/proc/12/status": ROOT})
    daemon.await_end(host, (12,))
    assert len(host.slept) == 9 and sum(host.slept) < 0.1


def test_pause_holds_everybody_back_and_ends_by_itself() -> None:
    paused = memory.pause(unhealthy(1.0), NOW, 60.0)
    for actor in ("daemon", "command"):
        hold = held(paused, actor=actor)
        assert hold and hold.seconds == 60.0
    assert held(paused, clock=Clock(NOW.wall + 61, NOW.boot + 61)) is None
    assert held(memory.resume(paused)) is None


def test_only_the_daemon_is_bound_by_the_mode() -> None:
    for mode in ("off", "dry-run"):
        hold = held(unhealthy(1.0), Config(repair_mode=mode))
        assert hold and mode in hold.why
        assert held(unhealthy(1.0), Config(repair_mode=mode), actor="command") is None


def test_what_was_undone_is_left_alone_until_the_thing_changes() -> None:
    silenced = memory.hear(memory.silence(unhealthy(1.0), FAULT.fault), {FAULT.fault: policy.fingerprint(FAULT)})
    assert held(silenced)
    changed = FAULT._replace(evidence=("another rule",))
    assert held(memory.hear(silenced, {FAULT.fault: policy.fingerprint(changed)})) is None
    assert held(memory.hear(silenced, {})) is None, "it went away meanwhile"


def test_a_circuit_opens_names_the_other_and_closes_again() -> None:
    config = Config()
    tried = unhealthy(1.0)
    for number in range(3):
        assert held(tried, config) is None
        tried = memory.attempted(tried, FAULT.fault, config, NOW.boot - 3 + number, ("puppet (pid 7)",))
    hold = held(tried, config)
    assert hold and "puppet (pid 7)" in hold.why and hold.seconds and hold.seconds <= config.repair_window
    assert held(tried, config, clock=Clock(NOW.wall + 601, NOW.boot + 601)) is None
    assert held(memory.rearm(tried), config) is None


def test_an_administrator_at_work_gets_the_grace_that_is_configured() -> None:
    config = Config(repair_grace=10.0)
    assert held(unhealthy(5.0), config, users=Seen(("ann 999000",)))
    assert held(unhealthy(5.0), config, users=Seen(())) is None
    assert held(unhealthy(11.0), config, users=Seen(("ann 999000",))) is None


def test_a_bad_configuration_leaves_the_last_good_one_in_force() -> None:
    host = FakeHost({FILE: b"[repair]\nsettle = 5s\n"})
    config, trouble = daemon.configuration(host, FILE)
    assert (config.repair_settle, trouble) == (5.0, None)
    host.put(FILE, b"[repair]\nsettle = soon\n")
    config, trouble = daemon.configuration(host, FILE)
    assert config.repair_settle == 5.0
    assert trouble and trouble.severity is Severity.WARNING and f"{FILE}:2" in trouble.evidence[0]


@pytest.mark.parametrize("name", [FILE, f"{FILE}.d/b.conf"])
def test_a_configuration_that_links_to_itself_leaves_the_last_good_one_in_force(name: str) -> None:
    host = FakeHost({FILE: b"[repair]\nsettle = 5s\n"})
    daemon.configuration(host, FILE)
    host.link(name, name)
    config, trouble = daemon.configuration(host, FILE)
    assert config.repair_settle == 5.0
    assert trouble and trouble.severity is Severity.WARNING and f"{name}: Too many levels" in trouble.evidence[0]


def test_without_any_good_configuration_the_agent_only_reports() -> None:
    config, trouble = daemon.configuration(FakeHost({FILE: b"nonsense\n"}), FILE)
    assert config.repair_mode == "off"
    assert trouble and trouble.severity is Severity.CRITICAL and trouble.symptom is Symptom.NONE
    loose = FakeHost()
    loose.put(FILE, b"", mode=0o666)
    assert daemon.configuration(loose, FILE)[0].repair_mode == "off", "who can write it would be root"
