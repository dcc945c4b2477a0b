"""explain tells a firewall's doing from sources that no rule decides on."""

from __future__ import annotations

from typing import Any

from ec2ssh_agent import explain


def _document(*rules: dict[str, Any]) -> dict[str, Any]:
    answer = {"interface": "eth0", "family": "ipv4", "sources": {}, "rules": list(rules)}
    return {"health": "ok", "ssh": {"port": 22}, "findings": [], "reach": {"answers": [answer]}}


def _rule(text: str, table: Any, backend: str) -> dict[str, Any]:
    return {"outcome": "timeout", "table": table, "backend": backend, "text": text, "sources": ["203.0.113.0/24"]}


def _answer(document: dict[str, Any]) -> explain.Cause:
    return next(cause for cause in explain.causes("timeout", document) if cause.code == "T2")


def test_a_martian_source_is_no_firewall() -> None:
    assert _answer(_document(_rule("martian", None, "kernel"))).answer == "no"


def test_a_rule_that_drops_is_named_even_where_it_is_meant() -> None:
    cause = _answer(_document(_rule("-A INPUT -j DROP", "ip filter", "iptables-nft")))
    assert cause.answer == "yes"
    assert cause.evidence == ("on eth0 (ipv4) 203.0.113.0/24 because of -A INPUT -j DROP",)


def test_wrappers_are_not_the_firewall() -> None:
    assert _answer(_document(_rule("ALL: ALL", "hosts.deny", "tcp-wrappers"))).answer == "no"


def test_wrappers_that_refuse_some_are_named_even_where_it_is_meant() -> None:
    refused = {**_rule("ALL: ALL", "hosts.deny", "tcp-wrappers"), "outcome": "closed"}
    cause = next(cause for cause in explain.causes("timeout", _document(refused)) if cause.code == "TCP wrappers")
    assert cause.answer == "yes"
    assert cause.evidence == ("on eth0 (ipv4) 203.0.113.0/24 because of ALL: ALL",)


LONG = '-A INPUT -p tcp -m multiport --dports 22,80,443 -m comment --comment "ticket 4711: nobody from outside" -j DROP'


def test_every_page_fits_a_console_of_80_columns() -> None:
    for health, rules in (("ok", ()), ("unknown", ()), ("unreachable", (_rule(LONG, "ip filter", "iptables-nft"),))):
        document = {**_document(*rules), "health": health, "summary": "could not look at the ruleset: " + LONG}
        for error in ("timeout", "refused"):
            page = explain.render(error, document, explain.causes(error, document))
            assert max(len(line) for line in page.splitlines()) <= 80, page
            assert page.count("\n") <= 24, page


def test_what_shuts_ssh_in_another_way_is_not_said_to_be_outside() -> None:
    document = {**_document(), "health": "unreachable", "summary": "ssh.service is masked"}
    page = explain.render("timeout", document, explain.causes("timeout", document))
    assert "security groups, network ACLs" not in page and "ssh.service is masked" in " ".join(page.split())


def test_what_could_not_be_seen_is_said() -> None:
    document = {**_document(), "health": "unknown", "summary": "could not look at the ruleset: only root may ask"}
    assert _answer(document).answer == "unknown"
    assert _answer(document).evidence == ("could not look at the ruleset: only root may ask",)
