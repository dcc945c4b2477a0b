"""What a look adds to the memory, and what it must not."""

from __future__ import annotations

from ec2ssh_agent import diagnose, learn, memory
from ec2ssh_agent.config import Config
from ec2ssh_agent.memory import Memory
from ec2ssh_agent.model import Health, Unseen
from ec2ssh_agent.reach.question import Reach
from fake_host import FakeHost
from test_plan import DOWN, DROP, Story, rules

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
