"""A rung is judged by the looks after it: what they do not see has not helped."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Optional

import pytest

from ec2ssh_agent import passes
from ec2ssh_agent.assessment import Assessment, Gap
from ec2ssh_agent.config import Config
from ec2ssh_agent.facts import Facts, Firewalld, Machine, Sshd, Wrappers
from ec2ssh_agent.memory import Memory
from ec2ssh_agent.model import Fact, Finding, Health, Seen, Severity, Symptom, Unseen
from ec2ssh_agent.passes import Look
from ec2ssh_agent.reach import iptables
from ec2ssh_agent.reach.question import Answer, Neighbours, Reach
from ec2ssh_agent.reach.ruleset import Backend, Family, Ruleset
from ec2ssh_agent.repair.records import State
from ec2ssh_agent.steps import Rung, Write
from fake_host import FakeHost

ALLOW = "/etc/hosts.allow"
DROP = Finding("firewall-drop", Severity.CRITICAL, Symptom.TIMEOUT, "dropped", subject="eth0/ipv4")
DENY = Finding("wrappers-deny", Severity.CRITICAL, Symptom.CLOSED, "denied")
RUNG = Rung("open", "why", (Write(ALLOW, b"new\n"),))
OPEN = Answer("eth0", Family.IPV4, (1,), 22, (), Neighbours(), ())
READ = Wrappers(Seen(b"new\n"), Seen(b""), Seen(True))


def look(*findings: Finding, answers: tuple[Answer, ...] = (OPEN,), wrappers: Wrappers = READ) -> Look:
    nothing = Unseen("not asked")
    facts = Facts(
        0.0, Sshd(), Seen(Ruleset(())), Seen(None), Seen(None), Seen(()), wrappers, nothing, nothing, Machine()
    )
    health = Health.UNREACHABLE if findings else Health.OK
    reach = Reach(answers)
    return Look(facts, Ruleset(()), lambda ruleset: reach, Assessment(health, findings, reach))


#: The ruleset could not be listed, or the interface lost its address.
BLIND = look(answers=())
UNREAD = look(wrappers=READ._replace(allow=Unseen("Input/output error")))
OTHER = look(answers=(OPEN._replace(interface="eth1"), OPEN._replace(family=Family.IPV6)))


@contextlib.contextmanager
def nobody(seconds: float) -> Iterator[None]:
    yield


def attempt(finding: Finding, *looks: Look) -> tuple[FakeHost, passes._Attempt]:
    host = FakeHost({ALLOW: b"old\n"})
    host.directory("/run")
    following = iter(looks)
    came = passes._attempt(
        host, finding, RUNG, actor="daemon", busy=nobody, look_again=lambda: next(following)
    )  # fmt: skip
    assert next(following, None) is None, "a look too few"
    return host, came


def state(came: passes._Attempt) -> Optional[State]:
    return came.record.state if came.record else None


def test_what_is_seen_to_help_is_kept() -> None:
    for finding in (DROP, DENY):
        host, came = attempt(finding, look())
        assert (state(came), host.text(ALLOW), came.blind) == (State.VERIFIED, "new\n", False)
    denied_too = look(DENY)
    assert state(attempt(DROP, denied_too)[1]) is State.VERIFIED, "another fault, of its own ladder"


@pytest.mark.parametrize(("finding", "blind"), [(DROP, BLIND), (DROP, OTHER), (DENY, BLIND), (DENY, UNREAD)])
def test_what_is_not_seen_to_help_is_looked_at_again_and_else_taken_back(finding: Finding, blind: Look) -> None:
    host, came = attempt(finding, blind, look())
    assert (state(came), host.text(ALLOW)) == (State.VERIFIED, "new\n")
    host, came = attempt(finding, blind, blind, look(finding))
    assert (state(came), host.text(ALLOW), came.blind) == (State.UNDONE, "old\n", True)
    assert came.now.assessment.findings == (finding,) and "could not be seen" in came.said


def test_a_drop_that_became_a_reject_was_not_mended() -> None:
    reject = DROP._replace(id="firewall-reject", symptom=Symptom.REFUSED)
    host, came = attempt(DROP, look(reject), look(reject))
    assert (state(came), host.text(ALLOW), came.blind) == (State.UNDONE, "old\n", False)
    assert came.said == "open did not help and was taken back"
    elsewhere = look(reject._replace(subject="eth1/ipv4"))
    assert state(attempt(DROP, elsewhere)[1]) is State.VERIFIED


def test_what_is_withheld_since_it_could_not_be_looked_at_is_looked_at_again_soon() -> None:
    text = "*filter\n:INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:INPUT_ZONES - [0:0]\nCOMMIT\n"
    panic: Fact[Optional[Firewalld]] = Seen(Firewalld(True, panic=True))
    for firewalld, again in ((Unseen("firewalld: no answer"), True), (panic, False)):
        ruleset = iptables.parse(text, family=Family.IPV4, backend=Backend.IPTABLES_NFT)
        gap = Gap("eth0", Family.IPV4, 22, ((0, 1),), ())
        now = look(DROP)
        now = now._replace(
            facts=now.facts._replace(firewalld=firewalld),
            ruleset=ruleset,
            assessment=now.assessment._replace(gaps=(gap,)),
        )
        done = passes.mend(FakeHost(), Config(), Memory("i"), now, actor="command", allow_disable=False, busy=nobody)
        assert (done.again is not None) is again and "firewalld" in done.advice[DROP.fault]
