"""Reads the live ruleset of its network namespace with observe.rulesets, and prints as JSON what came of it.

Standard input is a JSON object: `change`: a shell command to run before each of the first `times` nft listings, as if
somebody changed rules meanwhile; `without`: programs that are not installed; `sources`: whom to answer for; `between`:
shell commands, after each of which all is read again.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any, Optional

from ec2ssh_agent.host import Host, Ran
from ec2ssh_agent.model import Unseen
from ec2ssh_agent.observe import rulesets
from ec2ssh_agent.reach import analyse
from ec2ssh_agent.reach.addresses import parse_address, parse_cidr
from ec2ssh_agent.reach.question import Link, Listening, Local, Question, Route
from ec2ssh_agent.reach.ruleset import Family, Ruleset

LOCAL = Local(Family.IPV4, parse_address("10.0.5.20")[1], 24)
QUESTION = Question(
    22,
    (Link("eth0", 2, (LOCAL,)),),
    (Listening(Family.IPV4, 0, 22),),
    (Route(Family.IPV4, parse_cidr("0.0.0.0/0")[1], "eth0"),),
)


class Watched(Host):
    """Notes what is run, changes rules in between, misses programs."""

    def __init__(self, *, change: str, times: int, without: Sequence[str]) -> None:
        super().__init__()
        self.change, self.times, self.without = change, times, without
        self.ran: list[str] = []

    def program(self, name: str) -> Optional[str]:
        return None if name in self.without else super().program(name)

    def run(self, argv: Sequence[str], **given: Any) -> Ran:
        self.ran.append(" ".join(argv))
        if argv[0] == "nft" and self.times > 0:
            self.times -= 1
            subprocess.run(["sh", "-c", self.change], check=True)
        return super().run(argv, **given)


def outcomes(host: Host, ruleset: Ruleset, sources: Sequence[str]) -> dict[str, str]:
    reach, _ = rulesets.resolve(host, ruleset, lambda rules: analyse(QUESTION, rules))
    found = {}
    for source in sources:
        address = parse_address(source)[1]
        for outcome, ranges in reach.answers[0].sources:
            if any(low <= address <= high for low, high in ranges):
                found[source] = outcome.value
    return found


def main() -> None:
    asked: dict[str, Any] = json.load(sys.stdin)
    host = Watched(change=asked.get("change", ""), times=asked.get("times", 0), without=asked.get("without", ()))
    ruleset, generation = rulesets.collect(host)
    if isinstance(ruleset, Unseen):
        print(json.dumps({"unseen": ruleset.reason, "ran": host.ran}))
        return
    answer = outcomes(host, ruleset.value, asked.get("sources", ()))
    first, later = host.ran, []
    for command in asked.get("between", ()):
        subprocess.run(["sh", "-c", command], check=True)
        host.ran = []
        again, _ = rulesets.collect(host)
        if not isinstance(again, Unseen):
            later.append([outcomes(host, again.value, asked.get("sources", ())), host.ran])
    host.ran = first
    tables = {
        f"{table.backend.value} {table.label}": {
            name: [rule.text for rule in chain.rules] for name, chain in table.chains.items()
        }
        for table in ruleset.value.tables
    }
    number = None if isinstance(generation, Unseen) else generation.value
    print(json.dumps({"generation": number, "tables": tables, "outcomes": answer, "ran": host.ran, "later": later}))


main()
