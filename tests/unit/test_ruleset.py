"""The shared model names things as contracts.md prints them."""

from __future__ import annotations

from ec2ssh_agent.reach.ruleset import Backend, Table


def test_a_table_is_labelled_family_and_name() -> None:
    assert Table("ip", "filter", Backend.LEGACY, {}).label == "ip filter"
