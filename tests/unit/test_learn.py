"""What a look adds to the memory, and what it must not."""

from __future__ import annotations

from typing import Optional

from ec2ssh_agent import diagnose, learn, memory
from ec2ssh_agent.config import Config
from ec2ssh_agent.facts import Facts, Listener, UnitState
from ec2ssh_agent.memory import Memory
from ec2ssh_agent.model import Health, Seen, Unseen
from ec2ssh_agent.quick import sha256
from ec2ssh_agent.reach.question import Reach
from ec2ssh_agent.reach.ruleset import Family
from fake_host import FakeHost
from test_plan import DOWN, DROP, GOOD, Story, rules

# -- a person's word


def test_what_was_undone_is_left_alone_after_a_look_that_saw_nothing() -> None:
    host, config, shut = FakeHost(), Config(), Story(rules(DROP))
    fault = shut.assessment.findings[0].fault
    silenced = learn.after(host, config, memory.silence(Memory("i-1"), fault), shut.facts, shut.assessment)
    for sshd in (shut.facts.sshd, DOWN):
        hidden = shut.facts._replace(ruleset=Unseen("nft: no end within its deadline; killed"), sshd=sshd)
        blind = diagnose.diagnose(hidden, Reach(()), config, baseline={})
        assert blind.health is (Health.UNREACHABLE if sshd is DOWN else Health.UNKNOWN)
        silenced = learn.after(host, config, silenced, hidden, blind)
        assert memory.is_silenced(silenced, fault)
    healthy = Story()
    assert not memory.is_silenced(learn.after(host, config, silenced, healthy.facts, healthy.assessment), fault)


# -- sshd's known good configuration

MAIN = "/etc/ssh/sshd_config"
A, B = b"Port 22\n", b"ListenAddress 127.0.0.1\n"


class Machine(FakeHost):
    """One on which sshd is started, reloaded and looked at."""

    def __init__(self) -> None:
        super().__init__({MAIN: A})
        self.socket, self.since, self.changed = 0, 0.0, 0.0
        self.memory = Memory("i-1")
        self.advance(60.0)
        self.start()

    def start(self) -> None:
        self.reload()
        self.since = self.changed

    def reload(self, *, by_systemd: bool = True) -> None:
        """systemd's times are as they would be without the suspension so far."""
        self.advance(1.0)
        self.socket += 1
        self.changed = self.boot if by_systemd else self.changed
        self.advance(1.0)

    def edit(self, content: bytes) -> None:
        self.put(MAIN, content)
        self.advance(1.0)

    def facts(self) -> Facts:
        since, changed = (int((stamp + self.asleep) * 1e6) for stamp in (self.since, self.changed))
        sshd = GOOD._replace(
            files=Seen(((MAIN, sha256(self.read(MAIN)).hexdigest()),)),
            listeners=Seen((Listener(Family.IPV4, 0, 22, inode=self.socket),)),
            unit=Seen(UnitState("ssh.service", "loaded", "active", "running", since=since, changed=changed)),
        )
        return Story().facts._replace(sshd=sshd)

    def look(self, facts: Optional[Facts] = None) -> Optional[bytes]:
        """What is known good after it."""
        self.memory = learn._known_good(self, self.memory, facts or self.facts())
        self.advance(1.0)
        return memory.known_good(self.memory).get(MAIN)


def test_what_sshd_was_started_or_reloaded_with_is_known_good() -> None:
    host = Machine()
    assert host.look() == A
    host.edit(B)
    assert host.look() == A, "it may never be used"
    host.reload(by_systemd=False)
    assert host.look() == B
    host.edit(A)
    host.reload()
    assert host.look() == A, "both between two looks"


def test_what_was_written_after_a_restart_that_nobody_saw_is_not_known_good() -> None:
    host = Machine()
    assert host.look() == A
    host.start()
    host.edit(B)
    assert [host.look() for _ in range(3)] == [A, A, A]
    host.reload(by_systemd=False)
    assert host.look() == B


def test_what_was_written_between_a_hang_up_and_the_look_may_not_be_what_sshd_read() -> None:
    host = Machine()
    assert host.look() == A
    host.reload(by_systemd=False)
    host.edit(B)
    assert [host.look() for _ in range(3)] == [A, A, A]


def test_a_reload_that_opened_no_sockets_read_nothing() -> None:
    host = Machine()
    assert host.look() == A
    host.edit(B)
    host.changed = host.boot
    host.advance(1.0)
    assert [host.look() for _ in range(3)] == [A, A, A]


def test_what_was_written_after_it_was_looked_at_is_not_known_good() -> None:
    host = Machine()
    assert host.look() == A
    host.reload()
    seen = host.facts()
    host.edit(B)
    assert host.look(seen) == A
    assert [host.look() for _ in range(3)] == [A, A, A]


def test_a_hibernation_makes_no_file_older_than_the_start_of_sshd() -> None:
    host = Machine()
    host.edit(B)
    host.asleep += 3600.0
    host.advance(3600.0)
    assert host.look() is None
