"""Verdicts on machines with several ports, addresses and interfaces, and on what cannot be judged."""

from __future__ import annotations

from typing import Optional

from ec2ssh_agent import diagnose, plan
from ec2ssh_agent.assessment import Assessment
from ec2ssh_agent.config import Config
from ec2ssh_agent.diagnose import Baseline
from ec2ssh_agent.facts import Address, Facts, Interface, Listener, Network, Sshd
from ec2ssh_agent.model import Health, Seen, Symptom
from ec2ssh_agent.observe import question
from ec2ssh_agent.reach import addresses, analyse, iptables, merged
from ec2ssh_agent.reach.question import Reach, Route
from ec2ssh_agent.reach.ruleset import Backend, Family, Ruleset
from ec2ssh_agent.steps import commands
from test_plan import DROP, GOOD, Story

V4, V6 = Family.IPV4, Family.IPV6
SPACE = addresses.SPACE


def ip(text: str) -> int:
    return addresses.parse_address(text)[1]


def eth(name: str, *texts: str, index: int = 2) -> Interface:
    """An interface with addresses as ip-address(8) writes them."""
    own = []
    for text in texts:
        address, _, prefix = text.partition("/")
        family, value = addresses.parse_address(address)
        own.append(Address(family, value, int(prefix)))
    return Interface(name, index, True, True, "", tuple(own))


def default(device: str, family: Family = V4) -> Route:
    return Route(family, SPACE[family][0], device)


AUTO = Config()
ETH0 = eth("eth0", "10.0.5.20/24")


class Judged:
    """A machine and the verdict on it."""

    def __init__(
        self,
        *interfaces: Interface,
        rules: str = "",
        sshd: Sshd = GOOD,
        routes: tuple[Route, ...] = (default("eth0"),),
        baseline: Baseline = {},
        config: Config = AUTO,
        facts: Optional[Facts] = None,
    ) -> None:
        ruleset = iptables.parse(rules, family=V4, backend=Backend.IPTABLES_NFT) if rules else Ruleset(())
        base = facts or Story().facts
        self.facts = base._replace(
            sshd=sshd, ruleset=Seen(ruleset), network=Seen(Network(interfaces or (ETH0,), routes, ()))
        )
        self.asked = question.ask(self.facts, config)
        self.assessment: Assessment = diagnose.diagnose(self.facts, self._analysed(ruleset), config, baseline=baseline)
        situation = plan.Situation(self.facts, self.assessment, config, ruleset, self._analysed, {}, {})
        self.ladders = plan.plan(situation)

    def _analysed(self, ruleset: Ruleset) -> Reach:
        return merged(analyse(self.asked._replace(port=port), ruleset) for port in question.ports(self.facts))

    @property
    def ids(self) -> list[str]:
        return [finding.id for finding in self.assessment.findings]

    @property
    def health(self) -> Health:
        return self.assessment.health

    @property
    def typed(self) -> list[str]:
        return [c for ladder in self.ladders for rung in ladder.rungs for step in rung.steps for c in commands(step)]


def listening(*ports: tuple[str, int]) -> Sshd:
    made = tuple(Listener(addresses.parse_address(text)[0], ip(text), port) for text, port in ports)
    return GOOD._replace(listeners=Seen(made), port=Seen(tuple(dict.fromkeys(port for _, port in ports))))


# -- several ports, several addresses: one that lets clients in is enough

OTHER_PORT = "*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp --dport 2222 -j ACCEPT\nCOMMIT\n"


def test_who_gets_in_by_another_port_of_sshd_gets_in() -> None:
    both = listening(("0.0.0.0", 22), ("0.0.0.0", 2222))
    open_ = Judged(rules=OTHER_PORT, sshd=both)
    assert (open_.health, open_.ids, open_.typed) == (Health.OK, [], [])
    shut = Judged(rules=DROP, sshd=both)
    assert shut.ids == ["firewall-drop"] and "--dport 22 " in shut.typed[0] and len(shut.typed) == 1


def test_the_port_that_is_opened_is_one_that_listens_outside() -> None:
    made = Judged(rules=DROP, sshd=listening(("127.0.0.1", 22), ("0.0.0.0", 2222)))
    assert made.ids == ["firewall-drop"]
    inside = Judged(sshd=listening(("127.0.0.1", 22), ("0.0.0.0", 2222)))
    assert (inside.health, inside.ids) == (Health.OK, [])


def test_an_address_that_sshd_does_not_listen_on_is_no_loss() -> None:
    two = eth("eth0", "10.0.5.20/24", "10.0.5.21/24")
    everybody = {("eth0", V4): Judged(two).assessment.reach.answers[0].sources[0][1]}
    made = Judged(two, sshd=listening(("10.0.5.20", 22)), baseline=everybody)
    assert (made.health, made.ids) == (Health.OK, [])
    expected = Config(expect_clients=((V4, addresses.parse_cidr("203.0.113.0/24")[1]),))
    assert Judged(two, sshd=listening(("10.0.5.20", 22)), config=expected).health is Health.OK
    nobody = Judged(two, sshd=listening(("127.0.0.1", 22)), baseline=everybody)
    assert nobody.ids == ["sshd-not-listening-outside"]
    walled = Judged(two, sshd=listening(("10.0.5.20", 22)), baseline=everybody, rules=DROP)
    assert walled.ids == ["firewall-drop"], "the other address is refused, as ever"


# -- interfaces that come and go


def test_a_baseline_of_interfaces_that_are_gone_proves_nothing() -> None:
    old = {("eth0", V4): SPACE[V4]}
    renamed = eth("ens5", "10.0.5.20/24")
    made = Judged(renamed, routes=(default("ens5"),), rules=DROP, baseline=old)
    assert (made.health, made.ids) == (Health.UNREACHABLE, ["firewall-drop"])
    assert made.typed and not made.assessment.gaps[0].regression
    assert Judged(renamed, routes=(default("ens5"),), baseline=old).health is Health.OK


def test_the_symptom_is_what_those_see_who_got_in_before() -> None:
    rules = (
        "*filter\n:INPUT DROP [0:0]\n"
        "-A INPUT -s 203.0.113.0/28 -p tcp --dport 22 -j REJECT --reject-with tcp-reset\nCOMMIT\n"
    )
    bastion = {("eth0", V4): (addresses.parse_cidr("203.0.113.0/27")[1],)}
    nearly = rules.replace("/28", "/27")
    assert Judged(rules=nearly, baseline=bastion).assessment.findings[0].symptom is Symptom.REFUSED
    most = {("eth0", V4): addresses.normal((ip("203.0.113.0"), ip("203.0.113.0") + n) for n in (16,))}
    assert Judged(rules=rules, baseline=most).assessment.findings[0].symptom is Symptom.REFUSED
