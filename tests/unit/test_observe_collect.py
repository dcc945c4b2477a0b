"""Whose chains are in a ruleset."""

from __future__ import annotations

from ec2ssh_agent.model import Seen, Unseen
from ec2ssh_agent.observe import collect
from ec2ssh_agent.reach.ruleset import Backend, Chain, Ruleset, Table


def test_foreign_owners_by_their_chains() -> None:
    chains = {name: Chain(name, ()) for name in ("DOCKER-USER", "f2b-sshd", "KUBE-FORWARD", "mine")}
    got = collect.foreign(Seen(Ruleset((Table("ip", "filter", Backend.IPTABLES_NFT, chains),))))
    assert isinstance(got, Seen) and got.value == ("docker", "kubernetes", "fail2ban")
    assert collect.foreign(Unseen("x")) == Unseen("x")
