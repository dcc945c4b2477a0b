"""A verdict map's catch-all element takes what the other elements leave, whatever their verdicts."""

from __future__ import annotations

from ec2ssh_agent.reach import nftables
from ec2ssh_agent.reach.question import Outcome
from walk_question import V6, answer, outcome, question


def test_a_catch_all_of_a_concatenation_comes_last_though_it_shares_its_verdict() -> None:
    """Found by a random ruleset against the kernel, seed 1897482384."""

    def element(network: str, length: int, verdict: str) -> list[object]:
        return [{"concat": ["eth0", {"prefix": {"addr": network, "len": length}}]}, {verdict: None}]

    key = {"concat": [{"meta": {"key": "iifname"}}, {"payload": {"protocol": "ip6", "field": "saddr"}}]}
    elements = [element("2001:db8:1::", 48, "drop"), element("fd00::", 8, "continue"), ["*", {"drop": None}]]
    where = {"family": "ip6", "table": "t", "chain": "in"}
    rule = {"rule": {**where, "handle": 2, "expr": [{"vmap": {"key": key, "data": {"set": elements}}}]}}
    chain = {"family": "ip6", "table": "t", "name": "in", "handle": 1, "type": "filter", "hook": "input", "prio": 0}
    table = {"table": {"family": "ip6", "name": "t", "handle": 1}}
    found = answer(nftables.parse({"nftables": [table, {"chain": {**chain, "policy": "accept"}}, rule]}), question(V6))
    assert outcome(found, "fd00::1") is Outcome.CONNECTED
    assert outcome(found, "2001:db8:1::1") is outcome(found, "2001:db8:9::1") is Outcome.TIMEOUT
