"""The question and the little rulesets that tests of the walk ask about."""

from __future__ import annotations

from typing import Optional

from ec2ssh_agent.reach import analyse
from ec2ssh_agent.reach.addresses import parse_address, parse_cidr
from ec2ssh_agent.reach.iptables import parse
from ec2ssh_agent.reach.question import Answer, Link, Listening, Local, Outcome, Question, Route
from ec2ssh_agent.reach.ruleset import Backend, Family, Ruleset

V4 = Local(Family.IPV4, parse_address("10.0.5.20")[1], 24)
V6 = Local(Family.IPV6, parse_address("2001:db8:5::20")[1], 64)
ROUTES = (
    Route(Family.IPV4, parse_cidr("0.0.0.0/0")[1], "eth0"),
    Route(Family.IPV6, parse_cidr("::/0")[1], "eth0"),
)
LISTENERS = (Listening(Family.IPV4, 0, 22), Listening(Family.IPV6, 0, 22, True))


def question(local: Local = V4, *, port: int = 22, routes: tuple[Route, ...] = ROUTES, rp_filter: int = 0) -> Question:
    return Question(port, (Link("eth0", 2, (local,), rp_filter),), LISTENERS, routes)


def ruleset(*tables: str, family: Family = Family.IPV4, backend: Optional[Backend] = None) -> Ruleset:
    """iptables-save text: `*table`, then `:CHAIN POLICY` and `-A` lines."""
    return parse("\n".join((*tables, "COMMIT", "")), family=family, backend=backend or Backend.IPTABLES_NFT)


def filter_input(*rules: str, policy: str = "ACCEPT", family: Family = Family.IPV4) -> Ruleset:
    chains = ("*filter", f":INPUT {policy} [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]")
    return ruleset(*chains, *rules, family=family)


def answer(rules: Ruleset, asked: Optional[Question] = None) -> Answer:
    answers = analyse(asked or question(), rules).answers
    assert len(answers) == 1
    return answers[0]


def outcome(found: Answer, source: str) -> Outcome:
    address = parse_address(source)[1]
    for each, ranges in found.sources:
        if any(low <= address <= high for low, high in ranges):
            return each
    raise AssertionError(f"{source} is in none of the lists")
