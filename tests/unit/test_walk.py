"""What the walk says of small rulesets whose answer a person can see."""

from __future__ import annotations

import pytest

from ec2ssh_agent.reach import AnalysisError, analyse, to_json, trace, with_rule
from ec2ssh_agent.reach.addresses import SPACE, cidrs, normal, parse_address, parse_cidr
from ec2ssh_agent.reach.question import Answer, Link, Outcome, Route
from ec2ssh_agent.reach.ruleset import (
    Backend,
    Family,
    Field,
    Kind,
    Lookup,
    Ranges,
    Rule,
    Ruleset,
    Selector,
    Test,
    Verdict,
)
from ec2ssh_agent.reach.wrappers import Decision
from walk_question import ROUTES, V4, V6, answer, filter_input, outcome, question, ruleset

UNSEEN_ANYWAY = ("127.0.0.1", "224.0.0.1", "255.255.255.255", "10.0.5.20", "0.0.0.0", "10.0.5.255")


def shown(found: Answer, wanted: Outcome) -> tuple[str, ...]:
    return cidrs(found.of(wanted), found.family)


def holds_together(found: Answer) -> None:
    """The lists are disjoint and cover the space; the rules partition every outcome."""
    listed = [item for _, ranges in found.sources for item in ranges]
    assert normal(listed) == SPACE[found.family]
    assert sum(high - low + 1 for low, high in listed) == 1 << (32 if found.family is Family.IPV4 else 128)
    for wanted, ranges in found.sources:
        if wanted is not Outcome.CONNECTED:
            parts = [item for rule in found.rules if rule.outcome is wanted for item in rule.sources]
            assert normal(parts) == ranges
            assert sum(high - low + 1 for low, high in parts) == sum(high - low + 1 for low, high in ranges)


def test_without_rules_everybody_but_martians_gets_in() -> None:
    found = answer(Ruleset(()))
    holds_together(found)
    for source in UNSEEN_ANYWAY:
        assert outcome(found, source) is Outcome.TIMEOUT
    assert outcome(found, "240.0.0.1") is Outcome.CONNECTED
    assert {rule.stage for rule in found.rules} == {"route", "socket"}


def test_no_listener_refuses() -> None:
    found = answer(Ruleset(()), question(port=2222))
    assert outcome(found, "192.0.2.1") is Outcome.REFUSED
    assert [rule.stage for rule in found.rules if rule.outcome is Outcome.REFUSED] == ["socket"]


def test_policy_drop_with_one_source_accepted() -> None:
    rules = ("-A INPUT -m state --state ESTABLISHED -j ACCEPT", "-A INPUT -s 192.0.2.0/24 -p tcp --dport 22 -j ACCEPT")
    found = answer(filter_input(*rules, policy="DROP"))
    holds_together(found)
    assert shown(found, Outcome.CONNECTED) == ("192.0.2.0/24",)
    decided = {
        (rule.stage, rule.hook, rule.rule, rule.text) for rule in found.rules if rule.outcome is Outcome.CONNECTED
    }
    assert ("syn", "input", 2, rules[1]) in decided
    assert ("ack", "input", 1, rules[0]) in decided
    assert ("reply", "output", None, "-P OUTPUT ACCEPT") in decided
    dropped = [rule for rule in found.rules if rule.text == "-P INPUT DROP"]
    assert len(dropped) == 1 and dropped[0].rule is None and dropped[0].table == "ip filter"


def test_new_accepted_but_established_not_is_a_timeout() -> None:
    found = answer(filter_input("-A INPUT -p tcp --dport 22 -m state --state NEW -j ACCEPT", policy="DROP"))
    assert outcome(found, "192.0.2.1") is Outcome.TIMEOUT
    assert {rule.stage for rule in found.rules if rule.table is not None} == {"ack"}


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("icmp-port-unreachable", Outcome.REFUSED),
        ("tcp-reset", Outcome.REFUSED),
        ("icmp-host-prohibited", Outcome.UNREACHABLE),
        ("icmp-proto-unreachable", Outcome.UNREACHABLE),
    ],
)
def test_the_kind_of_rejection(how: str, expected: Outcome) -> None:
    rule = f"-A INPUT -s 192.0.2.0/24 -p tcp -j REJECT --reject-with {how}"
    found = answer(filter_input(rule))
    assert shown(found, expected) == ("192.0.2.0/24",)
    assert outcome(found, "192.0.3.1") is Outcome.CONNECTED


def test_a_rejection_that_does_not_get_out_is_a_timeout() -> None:
    rules = ("-A INPUT -s 192.0.2.0/24 -j REJECT", "-A OUTPUT -m state --state RELATED -j DROP")
    found = answer(filter_input(*rules))
    assert outcome(found, "192.0.2.1") is Outcome.TIMEOUT
    assert outcome(found, "192.0.3.1") is Outcome.CONNECTED
    assert [rule.text for rule in found.rules if rule.sources == parse_ranges("192.0.2.0/24")][:1] == [rules[1]]


def parse_ranges(text: str) -> Ranges:
    return (parse_cidr(text)[1],)


def test_the_reply_is_walked() -> None:
    found = answer(filter_input("-A OUTPUT -d 192.0.2.0/24 -p tcp --sport 22 -j REJECT"))
    assert shown(found, Outcome.REFUSED) == ()
    assert outcome(found, "192.0.2.1") is Outcome.TIMEOUT


def test_goto_ends_in_the_policy_and_return_in_the_next_rule() -> None:
    chains = ("*filter", ":INPUT DROP [0:0]", ":OUTPUT ACCEPT [0:0]", ":side - [0:0]")
    rules = (
        "-A INPUT -s 192.0.2.0/24 -g side",
        "-A INPUT -s 198.51.100.0/24 -j side",
        "-A INPUT -j ACCEPT",
        "-A side -s 192.0.2.1 -j ACCEPT",
        "-A side -s 198.51.100.1 -j DROP",
        "-A side -j RETURN",
    )
    found = answer(ruleset(*chains, *rules))
    assert outcome(found, "192.0.2.1") is Outcome.CONNECTED
    assert outcome(found, "192.0.2.2") is Outcome.TIMEOUT
    assert outcome(found, "198.51.100.1") is Outcome.TIMEOUT
    assert outcome(found, "198.51.100.2") is Outcome.CONNECTED


def test_marks_travel_from_table_to_table_and_connmarks_from_packet_to_packet() -> None:
    mangle = (
        "*mangle",
        ":PREROUTING ACCEPT [0:0]",
        "-A PREROUTING -s 192.0.2.0/24 -m state --state NEW -j MARK --set-xmark 0x5/0xffffffff",
        "-A PREROUTING -s 198.51.100.0/24 -m state --state NEW -j CONNMARK --set-xmark 0x7/0xffffffff",
        "COMMIT",
    )
    chains = ("*filter", ":INPUT ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]")
    rules = ("-A INPUT -m mark --mark 0x5 -j DROP", "-A OUTPUT -m connmark --mark 0x7 -j DROP")
    found = answer(ruleset(*mangle, *chains, *rules))
    holds_together(found)
    assert outcome(found, "192.0.2.1") is Outcome.TIMEOUT
    assert outcome(found, "198.51.100.1") is Outcome.TIMEOUT
    assert outcome(found, "203.0.113.1") is Outcome.CONNECTED


def test_notrack_makes_a_packet_untracked() -> None:
    raw = ("*raw", ":PREROUTING ACCEPT [0:0]", "-A PREROUTING -s 192.0.2.0/24 -j CT --notrack", "COMMIT")
    chains = ("*filter", ":INPUT DROP [0:0]", ":OUTPUT ACCEPT [0:0]")
    rules = ("-A INPUT -m conntrack --ctstate NEW,ESTABLISHED -j ACCEPT",)
    found = answer(ruleset(*raw, *chains, *rules))
    assert outcome(found, "192.0.2.1") is Outcome.TIMEOUT
    assert outcome(found, "203.0.113.1") is Outcome.CONNECTED


def test_redirect_moves_the_port() -> None:
    nat = ("*nat", ":PREROUTING ACCEPT [0:0]")
    to_ssh = "-A PREROUTING -p tcp -m tcp --dport 2222 -j REDIRECT --to-ports 22"
    away = "-A PREROUTING -p tcp -m tcp --dport 22 -j REDIRECT --to-ports 2222"
    assert outcome(answer(ruleset(*nat, to_ssh), question(port=2222)), "192.0.2.1") is Outcome.CONNECTED
    found = answer(ruleset(*nat, away))
    assert outcome(found, "192.0.2.1") is Outcome.REFUSED
    # Where sshd would have answered, the rule that sends the client elsewhere is what decides.
    assert [(rule.table, rule.text) for rule in found.rules if rule.outcome is Outcome.REFUSED] == [("ip nat", away)]


def test_each_of_two_redirects_to_nowhere_is_named_for_its_sources() -> None:
    rules = [
        f"-A PREROUTING -s {net} -p tcp -m tcp --dport 22 -j REDIRECT --to-ports 99"
        for net in ("10.0.0.0/8", "11.0.0.0/8")
    ]
    found = answer(ruleset("*nat", ":PREROUTING ACCEPT [0:0]", *rules))
    refused = [rule for rule in found.rules if rule.outcome is Outcome.REFUSED]
    assert [(rule.text, rule.sources[0][0] >> 24) for rule in refused] == [(rules[0], 10), (rules[1], 11)]


def test_the_reply_of_a_redirected_connection_shows_the_inner_port_before_nat() -> None:
    nat = ("*nat", ":PREROUTING ACCEPT [0:0]", "-A PREROUTING -p tcp --dport 2222 -j REDIRECT --to-ports 22", "COMMIT")
    chains = ("*filter", ":OUTPUT ACCEPT [0:0]")
    drop_outer = ruleset(*nat, *chains, "-A OUTPUT -p tcp --sport 2222 -j DROP")
    drop_inner = ruleset(*nat, *chains, "-A OUTPUT -p tcp --sport 22 -j DROP")
    assert outcome(answer(drop_outer, question(port=2222)), "192.0.2.1") is Outcome.CONNECTED
    assert outcome(answer(drop_inner, question(port=2222)), "192.0.2.1") is Outcome.TIMEOUT


def test_dnat_to_elsewhere_is_uncertain_and_names_its_rule() -> None:
    rule = "-A PREROUTING -s 192.0.2.0/24 -p tcp -j DNAT --to-destination 10.9.9.9"
    found = answer(ruleset("*nat", ":PREROUTING ACCEPT [0:0]", rule))
    holds_together(found)
    assert shown(found, Outcome.UNCERTAIN) == ("192.0.2.0/24",)
    assert [r.text for r in found.rules if r.outcome is Outcome.UNCERTAIN] == [rule]


def test_what_cannot_be_known_is_uncertain_only_where_it_matters() -> None:
    rules = (
        "-A INPUT -s 192.0.2.0/24 -m string --string x --algo bm -j DROP",
        "-A INPUT -s 198.51.100.0/24 -m string --string x --algo bm -j LOG",
        "-A INPUT -s 203.0.113.0/24 -m string --string x --algo bm -j DROP",
        "-A INPUT -s 203.0.113.0/24 -j DROP",
    )
    found = answer(filter_input(*rules))
    holds_together(found)
    assert shown(found, Outcome.UNCERTAIN) == ("192.0.2.0/24",)
    decided = [rule for rule in found.rules if rule.outcome is Outcome.UNCERTAIN]
    assert [(rule.rule, rule.possible) for rule in decided] == [(1, (Outcome.CONNECTED, Outcome.TIMEOUT))]


def test_limits_are_answered_for_an_idle_source_and_flagged() -> None:
    rules = (
        "-A INPUT -s 192.0.2.0/24 -p tcp --dport 22 -m limit --limit 3/min -j ACCEPT",
        "-A INPUT -s 192.0.2.0/24 -j DROP",
    )
    found = answer(filter_input(*rules))
    holds_together(found)
    assert outcome(found, "192.0.2.1") is Outcome.CONNECTED
    flagged = [rule for rule in found.rules if rule.rate_limited]
    assert flagged and all(rule.sources == parse_ranges("192.0.2.0/24") for rule in flagged)
    assert {rule.possible for rule in flagged} == {(Outcome.CONNECTED, Outcome.TIMEOUT)}


def test_recent_counts_the_packets_of_this_connection() -> None:
    rules = (
        "-A INPUT -p tcp --dport 22 -m state --state NEW -m recent --set --name SSH",
        "-A INPUT -p tcp -m state --state NEW -m recent --rcheck --seconds 60 --hitcount {} --name SSH -j DROP",
    )
    strict = answer(filter_input(*(rule.format(1) for rule in rules)))
    assert outcome(strict, "192.0.2.1") is Outcome.TIMEOUT
    loose = answer(filter_input(*(rule.format(4) for rule in rules)))
    assert outcome(loose, "192.0.2.1") is Outcome.CONNECTED
    assert any(rule.rate_limited for rule in loose.rules)


def test_an_answer_that_hangs_on_the_clients_port_is_uncertain() -> None:
    found = answer(filter_input("-A INPUT -p tcp --sport 1024:2000 -j DROP", "-A INPUT -p tcp --sport 0:1023 -j DROP"))
    assert outcome(found, "192.0.2.1") is Outcome.UNCERTAIN
    every = answer(
        filter_input("-A INPUT -p tcp --sport 1024:2000 -j DROP", "-A INPUT -p tcp --sport 2001:65535 -j DROP")
    )
    assert outcome(every, "192.0.2.1") is Outcome.TIMEOUT


def test_chains_of_equal_priority_leave_only_the_kind_of_rejection_open() -> None:
    legacy = ruleset(
        "*filter",
        ":INPUT ACCEPT [0:0]",
        "-A INPUT -s 192.0.2.0/24 -j DROP",
        "-A INPUT -s 203.0.113.0/24 -j DROP",
        backend=Backend.LEGACY,
    )
    nft = filter_input("-A INPUT -s 192.0.2.0/24 -j REJECT", "-A INPUT -s 198.51.100.0/24 -j REJECT")
    found = answer(Ruleset(legacy.tables + nft.tables))
    holds_together(found)
    assert outcome(found, "192.0.2.1") is Outcome.UNCERTAIN
    assert outcome(found, "198.51.100.1") is Outcome.REFUSED
    assert outcome(found, "203.0.113.1") is Outcome.TIMEOUT
    assert outcome(found, "10.1.1.1") is Outcome.CONNECTED
    assert {r.possible for r in found.rules if r.outcome is Outcome.UNCERTAIN} == {(Outcome.TIMEOUT, Outcome.REFUSED)}
    assert answer(Ruleset(nft.tables + legacy.tables)).sources == found.sources


def test_a_set_that_was_not_read_is_asked_for() -> None:
    lookup = Lookup((Selector(Field.SADDR),), None, name="blocked")
    rules = filter_input("-A INPUT -s 192.0.2.0/24 -j DROP")
    rule = Rule((lookup, Verdict(Kind.DROP)), "ip saddr @blocked drop", 0)
    rules = with_rule(rules, "ip filter", Backend.IPTABLES_NFT, "INPUT", rule, 2)
    reach = analyse(question(), rules)
    assert reach.missing_sets == {("ip filter", "blocked")}
    found = reach.answers[0]
    assert outcome(found, "203.0.113.1") is Outcome.UNCERTAIN
    assert outcome(found, "192.0.2.1") is Outcome.TIMEOUT


def test_loops_and_depth_and_missing_chains_are_errors() -> None:
    head = ("*filter", ":INPUT ACCEPT [0:0]", ":a - [0:0]", ":b - [0:0]", "-A INPUT -j a")
    with pytest.raises(AnalysisError, match="entered from itself"):
        answer(ruleset(*head, "-A a -j b", "-A b -j a"))
    deep = [f":c{n} - [0:0]" for n in range(400)] + [f"-A c{n} -j c{n + 1}" for n in range(399)]
    with pytest.raises(AnalysisError, match="nested"):
        answer(ruleset("*filter", ":INPUT ACCEPT [0:0]", *deep, "-A INPUT -j c0"))
    nested = [f":c{n} - [0:0]" for n in range(100)] + [f"-A c{n} -j c{n + 1}" for n in range(99)]
    assert outcome(answer(ruleset("*filter", ":INPUT ACCEPT [0:0]", *nested, "-A INPUT -j c0")), "192.0.2.1")
    marks = "-p tcp -m multiport ! --sports {0}:{0} -j MARK --set-mark {0}"
    steep = [f":c{n} - [0:0]" for n in range(100)] + [
        f"-A c{n} {rule}" for n in range(99) for rule in (marks.format(n + 2000), f"-g c{n + 1}")
    ]
    assert outcome(answer(ruleset("*filter", ":INPUT ACCEPT [0:0]", *steep, "-A INPUT -j c0")), "192.0.2.1")
    wide = [f":c{n} - [0:0]" for n in range(60)] + [f"-A c{n} -j c{n + 1}" for n in range(59) for _ in (0, 1)]
    with pytest.raises(AnalysisError, match="visit"):
        answer(ruleset("*filter", ":INPUT ACCEPT [0:0]", *wide, "-A INPUT -j c0"))


def test_no_way_back_another_way_back_and_rp_filter() -> None:
    routes = (
        Route(Family.IPV4, parse_cidr("10.0.0.0/8")[1], "eth0"),
        Route(Family.IPV4, parse_cidr("192.0.2.0/24")[1], "eth1"),
        Route(Family.IPV4, parse_cidr("10.6.0.0/16")[1], "", "blackhole"),
    )
    found = answer(Ruleset(()), question(routes=routes))
    holds_together(found)
    assert outcome(found, "10.1.1.1") is Outcome.CONNECTED
    assert outcome(found, "10.6.1.1") is Outcome.UNCERTAIN
    assert outcome(found, "192.0.2.1") is Outcome.UNCERTAIN
    assert outcome(found, "203.0.113.1") is Outcome.TIMEOUT
    strict = answer(Ruleset(()), question(routes=routes, rp_filter=1))
    assert outcome(strict, "192.0.2.1") is Outcome.TIMEOUT
    loose = answer(Ruleset(()), question(routes=routes, rp_filter=2))
    assert outcome(loose, "192.0.2.1") is Outcome.UNCERTAIN


def test_tcp_wrappers_close_what_the_firewall_lets_through() -> None:
    inside = parse_ranges("192.0.2.0/24")
    rest = tuple(r for r in ((0, inside[0][0] - 1), (inside[0][1] + 1, 0xFFFFFFFF)))
    decisions: dict[Family, tuple[Decision, ...]] = {
        Family.IPV4: (
            Decision(inside, True, "hosts.allow", 3, "sshd: 192.0.2."),
            Decision(rest, False, "hosts.deny", 1, "ALL: ALL"),
        )
    }
    found = analyse(question(), filter_input(), decisions).answers[0]
    holds_together(found)
    assert shown(found, Outcome.CONNECTED) == ("192.0.2.0/24",)
    closed = [rule for rule in found.rules if rule.outcome is Outcome.CLOSED]
    assert [(r.stage, r.backend, r.table, r.rule, r.text) for r in closed] == [
        ("wrappers", Backend.WRAPPERS, "hosts.deny", 1, "ALL: ALL")
    ]
    refused = trace(question(), filter_input(), decisions, Family.IPV4, 1 << 24, V4.address, "eth0")
    last = refused.path[-1]
    assert (refused.outcome, last.stage, last.table, last.rule, last.verdict) == (
        Outcome.CLOSED, "wrappers", "hosts.deny", 1, "reject",
    )  # fmt: skip


def test_ipv6_without_neighbour_discovery() -> None:
    rules = ("-A INPUT -m state --state ESTABLISHED -j ACCEPT", "-A INPUT -p tcp --dport 22 -j ACCEPT")
    found = answer(filter_input(*rules, policy="DROP", family=Family.IPV6), question(V6))
    holds_together(found)
    assert outcome(found, "2001:db8::1") is Outcome.CONNECTED
    assert found.nd.blocked and {rule.text for rule in found.nd.rules} == {"-P INPUT DROP"}
    opened = (
        *rules,
        "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 135 -j ACCEPT",
        "-A INPUT -p ipv6-icmp -m icmp6 --icmpv6-type 136 -j ACCEPT",
    )
    assert not answer(filter_input(*opened, policy="DROP", family=Family.IPV6), question(V6)).nd.blocked
    for martian in ("::", "::1", "ff02::1", "::ffff:192.0.2.1", "2001:db8:5::20"):
        assert outcome(found, martian) is Outcome.TIMEOUT


def test_programs_in_the_path_make_everything_uncertain() -> None:
    asked = question()._replace(links=(Link("eth0", 2, (V4,), 0, ("xdp program 7",)),))
    found = answer(Ruleset(()), asked)
    assert found.of(Outcome.UNCERTAIN) == SPACE[Family.IPV4]
    assert "xdp program 7" in found.rules[0].text


def test_a_trace_tells_the_way() -> None:
    chains = ("*filter", ":INPUT DROP [0:0]", ":OUTPUT ACCEPT [0:0]", ":ssh - [0:0]")
    rules = (
        "-A INPUT -p tcp --dport 22 -j ssh",
        "-A INPUT -m state --state ESTABLISHED -j ACCEPT",
        "-A ssh -s 192.0.2.0/24 -j LOG",
        "-A ssh -s 192.0.2.1 -j ACCEPT",
    )
    rules_ = ruleset(*chains, *rules)
    found = trace(question(), rules_, None, Family.IPV4, parse_address("192.0.2.1")[1], V4.address, "eth0")
    assert found.outcome is Outcome.CONNECTED
    assert [(v.stage, v.chain, v.rule, v.verdict) for v in found.path] == [
        ("syn", "INPUT", 1, "jump"),
        ("syn", "ssh", 1, "continue"),
        ("syn", "ssh", 2, "accept"),
        ("reply", "OUTPUT", None, "policy"),
        ("ack", "INPUT", 1, "jump"),
        ("ack", "ssh", 1, "continue"),
        ("ack", "ssh", 2, "accept"),
    ]
    lost = trace(question(), rules_, None, Family.IPV4, parse_address("192.0.2.2")[1], V4.address, "eth0")
    assert (lost.outcome, lost.path[-1].verdict) == (Outcome.TIMEOUT, "policy")
    martian = trace(question(), rules_, None, Family.IPV4, parse_address("127.0.0.9")[1], V4.address, "eth0")
    assert [(v.stage, v.table, v.verdict) for v in martian.path[-1:]] == [("route", None, "drop")]
    document = to_json(analyse(question(), rules_), [found])
    assert document["schema"] == "ec2ssh-agent.reach/1"


def test_an_inserted_rule_is_a_copy() -> None:
    before = filter_input("-A INPUT -j DROP")
    after = with_rule(before, "ip filter", Backend.IPTABLES_NFT, "INPUT", Rule((Verdict(Kind.ACCEPT),), "new", 0), 1)
    assert outcome(answer(before), "192.0.2.1") is Outcome.TIMEOUT
    assert outcome(answer(after), "192.0.2.1") is Outcome.CONNECTED
    assert [(r.number, r.text) for r in after.tables[0].chains["INPUT"].rules] == [(1, "new"), (2, "-A INPUT -j DROP")]
    with pytest.raises(ValueError, match="position"):
        with_rule(before, "ip filter", Backend.IPTABLES_NFT, "INPUT", Rule((), "", 0), 3)
    with pytest.raises(ValueError, match="no chain"):
        with_rule(before, "ip filter", Backend.LEGACY, "INPUT", Rule((), "", 0), 1)


def test_addresses_that_answer_alike_share_an_answer() -> None:
    second = V4._replace(address=V4.address + 1)
    third = V4._replace(address=V4.address + 2)
    asked = question()._replace(links=(Link("eth0", 2, (V4, second, third)),))
    reach = analyse(asked, filter_input("-A INPUT -d 10.0.5.22 -j DROP"))
    assert sorted(found.to for found in reach.answers) == [(V4.address, second.address), (third.address,)]
    assert ROUTES


def test_an_untracked_reply_keeps_its_translated_port_and_is_not_recognised() -> None:
    nat = ("*nat", ":PREROUTING ACCEPT [0:0]", "-A PREROUTING -p tcp --dport 2222 -j REDIRECT --to-ports 22", "COMMIT")
    raw = ("*raw", ":PREROUTING ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]")
    lost = answer(ruleset(*nat, *raw, "-A OUTPUT -d 192.0.2.0/24 -j CT --notrack"), question(port=2222))
    assert outcome(lost, "192.0.2.1") is Outcome.TIMEOUT
    assert outcome(lost, "198.51.100.1") is Outcome.CONNECTED
    ack = "-A PREROUTING -s 192.0.2.0/24 -p tcp --tcp-flags SYN,ACK ACK -j CT --notrack"
    stray = answer(ruleset(*nat, *raw, ack), question(port=2222))
    assert outcome(stray, "192.0.2.1") is Outcome.CLOSED
    assert outcome(stray, "198.51.100.1") is Outcome.CONNECTED


def test_what_conntrack_sees_of_a_connection_half_of_which_is_untracked() -> None:
    """A tracked SYN-ACK to an untracked SYN is INVALID, the ACK after it NEW."""
    raw = ("*raw", ":PREROUTING ACCEPT [0:0]", "-A PREROUTING -p tcp --syn -j CT --notrack", "COMMIT")
    chains = ("*filter", ":INPUT ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]")
    for rule, expected in (
        ("-A OUTPUT -m state --state INVALID -j DROP", Outcome.TIMEOUT),
        ("-A OUTPUT -p tcp --tcp-flags SYN SYN -m state --state ESTABLISHED,NEW -j DROP", Outcome.CONNECTED),
        ("-A INPUT -m state --state NEW -j DROP", Outcome.TIMEOUT),
        ("-A INPUT -m state --state ESTABLISHED,INVALID -j DROP", Outcome.CONNECTED),
    ):
        assert outcome(answer(ruleset(*raw, *chains, rule)), "192.0.2.1") is expected, rule


def test_snat_on_the_way_in() -> None:
    """Measured: filter OUTPUT sees the client's address again, and still the interface of the first route."""
    nat = ("*nat", ":INPUT ACCEPT [0:0]", "-A INPUT -s 192.0.2.0/24 -p tcp -j SNAT --to-source")
    for to, rule, expected in (
        ("10.9.9.9", "-A OUTPUT -d 10.9.9.9 -j DROP", ("timeout", "connected", "connected")),
        ("10.9.9.9", "-A OUTPUT -d 192.0.2.1 -j DROP", ("connected", "timeout", "timeout")),
        ("10.0.5.20", "-A OUTPUT -o lo -j DROP", ("timeout", "timeout", "connected")),
        ("10.0.5.20", "-A OUTPUT -o eth0 -j DROP", ("connected", "connected", "timeout")),
        ("10.9.9.9", "-A OUTPUT -m addrtype --dst-type LOCAL -j DROP", ("connected", "connected", "connected")),
        ("10.9.9.9", "-A OUTPUT -m conntrack --ctstate SNAT -j DROP", ("connected", "timeout", "timeout")),
    ):
        found = []
        for table, hook in (("raw", "OUTPUT"), ("filter", "OUTPUT"), ("mangle", "POSTROUTING")):
            chains = (f"*{table}", f":{hook} ACCEPT [0:0]", rule.replace("OUTPUT", hook))
            found.append(outcome(answer(ruleset(*nat[:2], f"{nat[2]} {to}", "COMMIT", *chains)), "192.0.2.1").value)
        assert tuple(found) == expected, (to, rule)
    for backend, expected_ in ((Backend.LEGACY, Outcome.CONNECTED), (Backend.IPTABLES_NFT, Outcome.TIMEOUT)):
        security = ("*security", ":INPUT ACCEPT [0:0]", "-A INPUT -s 10.9.9.9 -j DROP")
        rules = ruleset(*nat[:2], f"{nat[2]} 10.9.9.9", "COMMIT", *security, backend=backend)
        assert outcome(answer(rules), "192.0.2.1") is expected_  # security stands before NAT, or after it
    blackhole = Route(Family.IPV4, parse_cidr("10.9.0.0/16")[1], "", "throw")
    away = question(routes=(blackhole, Route(Family.IPV4, parse_cidr("192.0.0.0/8")[1], "eth0")))
    assert outcome(answer(ruleset(*nat[:2], f"{nat[2]} 10.9.9.9"), away), "192.0.2.1") is Outcome.TIMEOUT
    assert outcome(answer(ruleset(*nat[:2], f"{nat[2]} 10.9.9.8-10.9.9.9")), "192.0.2.1") is Outcome.UNCERTAIN


def test_tcp_wrappers_see_whom_snat_makes_of_a_client() -> None:
    nat = ruleset("*nat", ":INPUT ACCEPT [0:0]", "-A INPUT -s 192.0.2.0/24 -p tcp -j SNAT --to-source 10.9.9.9")
    inside = parse_ranges("10.9.9.9/32")
    rest = ((0, inside[0][0] - 1), (inside[0][1] + 1, 0xFFFFFFFF))
    allow, deny = (
        Decision(inside, True, "hosts.allow", 1, "sshd: 10.9.9.9"),
        Decision(rest, False, "hosts.deny", 1, "ALL"),
    )
    found = analyse(question(), nat, {Family.IPV4: (allow, deny)}).answers[0]
    holds_together(found)
    assert shown(found, Outcome.CONNECTED) == ("10.9.9.9", "192.0.2.0/24")


def test_a_rejection_in_words_that_nobody_knows_is_uncertain() -> None:
    rules = filter_input("-A INPUT -s 192.0.2.0/24 -j DROP")
    odd = Rule((Verdict(Kind.REJECT, reject="frag-needed"),), "reject with icmp frag-needed", 0)
    found = answer(with_rule(rules, "ip filter", Backend.IPTABLES_NFT, "INPUT", odd, 2))
    assert outcome(found, "192.0.2.1") is Outcome.TIMEOUT
    assert outcome(found, "203.0.113.1") is Outcome.UNCERTAIN


def test_tcp_options_are_those_that_linux_offers_and_this_host_agrees_to() -> None:
    without = question()._replace(tcp_options=(3, 4))
    for rule, expected, silent in (
        ("-A INPUT -p tcp --syn --tcp-option 8 -j DROP", Outcome.TIMEOUT, Outcome.TIMEOUT),
        ("-A INPUT -p tcp --syn --tcp-option 34 -j DROP", Outcome.CONNECTED, Outcome.CONNECTED),
        ("-A OUTPUT -p tcp --tcp-option 2 -j DROP", Outcome.TIMEOUT, Outcome.TIMEOUT),
        ("-A OUTPUT -p tcp --tcp-option 8 -j DROP", Outcome.TIMEOUT, Outcome.CONNECTED),
        ("-A INPUT -p tcp ! --syn --tcp-option 8 -j DROP", Outcome.TIMEOUT, Outcome.CONNECTED),
        ("-A INPUT -p tcp ! --syn --tcp-option 4 -j DROP", Outcome.CONNECTED, Outcome.CONNECTED),
    ):
        assert outcome(answer(filter_input(rule)), "192.0.2.1") is expected, rule
        assert outcome(answer(filter_input(rule), without), "192.0.2.1") is silent, rule


def test_the_clients_ack_carries_timestamps() -> None:
    """Found by a random ruleset against the kernel, seed 57495826: here nothing else lets the ACK in."""
    timestamps = filter_input("-A INPUT -p tcp --tcp-option 8 -j ACCEPT", policy="DROP")
    assert outcome(answer(timestamps), "192.0.2.1") is Outcome.CONNECTED
    assert outcome(answer(timestamps, question()._replace(tcp_options=())), "192.0.2.1") is Outcome.TIMEOUT


def test_a_syn_whose_syn_ack_was_lost_is_sent_again_and_is_established_by_then() -> None:
    """Found by a random ruleset against the kernel, seed 305702842: refused, not a timeout."""
    chains = ("*filter", ":INPUT ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]")
    refuse = "-A INPUT -p tcp -m conntrack --ctstate ESTABLISHED -j REJECT"
    for lost in (
        "-A OUTPUT -p tcp --sport 22 -j DROP",
        "-A OUTPUT -p tcp --sport 22 -j REJECT --reject-with tcp-reset",
    ):
        assert outcome(answer(ruleset(*chains, lost)), "192.0.2.1") is Outcome.TIMEOUT
        found = answer(ruleset(*chains, refuse, lost))
        assert outcome(found, "192.0.2.1") is Outcome.REFUSED
        (decided,) = (rule for rule in found.rules if rule.outcome is Outcome.REFUSED)
        assert (decided.stage, decided.chain, decided.rule) == ("syn", "INPUT", 1)
    untracked = ("*raw", ":PREROUTING ACCEPT [0:0]", "-A PREROUTING -p tcp --syn -j CT --notrack", "COMMIT")
    assert outcome(answer(ruleset(*untracked, *chains, refuse, lost)), "192.0.2.1") is Outcome.TIMEOUT


def test_what_is_sent_again_meets_the_mark_that_the_first_packet_left() -> None:
    chains = ("*filter", ":INPUT ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]")
    again = "-m connmark --mark 7 -j ACCEPT"
    for hook, packet in (("OUTPUT", "-p tcp --sport 22"), ("INPUT", "-p tcp ! --syn --dport 22")):
        mark, drop = f"-A {hook} {packet} -j CONNMARK --set-mark 7", f"-A {hook} {packet} -j DROP"
        found = answer(ruleset(*chains, f"-A {hook} {packet} {again}", mark, drop))
        assert outcome(found, "192.0.2.1") is Outcome.CONNECTED
        found = answer(ruleset(*chains, mark, drop))
        assert outcome(found, "192.0.2.1") is Outcome.TIMEOUT
        (decided,) = (rule for rule in found.rules if rule.chain == hook and rule.outcome is Outcome.TIMEOUT)
        assert decided.rule == 2


def test_a_connections_own_packets_use_up_a_burst() -> None:
    """SYN and ACK; a limit that is filled again while the SYN-ACK is sent again lets the ACK in then."""
    chains = ("*filter", ":INPUT DROP [0:0]", ":OUTPUT ACCEPT [0:0]")
    by_source = "-m hashlimit --hashlimit-name x --hashlimit-mode srcip --hashlimit-burst"
    for match, expected in (
        ("-m limit --limit 1/hour --limit-burst 1", Outcome.TIMEOUT),
        ("-m limit --limit 1/hour --limit-burst 2", Outcome.CONNECTED),
        ("-m limit --limit 2/min --limit-burst 1", Outcome.CONNECTED),
        ("-m limit --limit 3/day --limit-burst 2", Outcome.CONNECTED),
        (f"{by_source} 1 --hashlimit-upto 2/h", Outcome.TIMEOUT),
        (f"{by_source} 1 --hashlimit-upto 2/h --hashlimit-htable-expire 9000", Outcome.CONNECTED),
        (f"{by_source} 2 --hashlimit-upto 2/h", Outcome.CONNECTED),
    ):
        found = answer(ruleset(*chains, f"-A INPUT -p tcp --dport 22 {match} -j ACCEPT"))
        assert outcome(found, "192.0.2.1") is expected, match
        assert all(rule.rate_limited for rule in found.rules if rule.outcome is Outcome.CONNECTED)
    twice = (
        f"-A INPUT -p tcp --syn {by_source} 2 --hashlimit-upto 1/h",
        f"-A INPUT {by_source} 2 --hashlimit-upto 1/h",
    )
    assert outcome(answer(ruleset(*chains, twice[0], f"{twice[1]} -j ACCEPT")), "192.0.2.1") is Outcome.TIMEOUT
    over = ("*filter", ":INPUT ACCEPT [0:0]", f"-A INPUT {by_source} 1 --hashlimit-above 1/hour -j DROP")
    assert outcome(answer(ruleset(*over)), "192.0.2.1") is Outcome.TIMEOUT


def test_many_limits_do_not_multiply_what_has_to_be_walked() -> None:
    """Thousands of sources with a limit of their own: counting the use of each would be a state each, at every rule."""
    for target, expected in (("LOG", Outcome.CONNECTED), ("ACCEPT", Outcome.CONNECTED), ("DROP", Outcome.TIMEOUT)):
        rules = [f"-A INPUT -s 10.{n >> 8}.{n & 255}.0/24 -m limit --limit 1/hour -j {target}" for n in range(5000)]
        found = answer(ruleset("*filter", ":INPUT ACCEPT [0:0]", *rules))
        assert outcome(found, "10.19.0.1") is expected, target
        assert outcome(found, "192.0.2.1") is Outcome.CONNECTED


def test_a_syn_that_is_dropped_is_sent_again() -> None:
    """As the kernel does (tests/kernel): a limit or list may know of the first one."""
    chains = ("*filter", ":INPUT ACCEPT [0:0]", ":first - [0:0]")
    seen_first = ("-A INPUT -m recent --name f ! --update -j first", "-A first -m recent --name f --set -j DROP")
    for rules, expected in (
        (("-A INPUT -p tcp --syn -m limit --limit 1/hour --limit-burst 1 -j DROP",), Outcome.CONNECTED),
        (("-A INPUT -p tcp --syn -m limit --limit 1/hour --limit-burst 5 -j DROP",), Outcome.TIMEOUT),
        (seen_first, Outcome.CONNECTED),
        ((*seen_first, "-A INPUT -s 192.0.2.1 -j DROP"), Outcome.TIMEOUT),
        (("-A INPUT -m recent --name f --set", "-A INPUT -s 192.0.2.1 -j DROP"), Outcome.TIMEOUT),
    ):
        found = answer(ruleset(*chains, *rules))
        assert outcome(found, "192.0.2.1") is expected, rules
        assert outcome(found, "198.51.100.1") is (Outcome.CONNECTED if "-s 192" in rules[-1] else expected), rules


def test_a_tcp_option_is_missing_from_an_icmp_error() -> None:
    """Found by a random ruleset against the kernel, seed 601152982: nft's `tcp option sack-perm missing drop`."""
    refusing = ruleset("*filter", ":INPUT ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", "-A INPUT -p tcp -j REJECT")
    missing = Test(Selector(Field.TCPOPTION, key=4), ((0, 0),))
    rule = Rule((missing, Verdict(Kind.DROP)), "tcp option sack-perm missing drop", 1)
    silent = with_rule(refusing, "ip filter", Backend.IPTABLES_NFT, "OUTPUT", rule, 1)
    assert outcome(answer(refusing), "192.0.2.1") is Outcome.REFUSED
    assert outcome(answer(silent), "192.0.2.1") is Outcome.TIMEOUT


def test_an_icmp_error_is_of_a_connection_of_tcp() -> None:
    """Found by a random ruleset against the kernel, seed 139682026."""
    chains = ("*filter", ":INPUT ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]", "-A INPUT -p tcp -j REJECT")
    assert outcome(answer(ruleset(*chains, "-A OUTPUT -p tcp -j DROP")), "192.0.2.1") is Outcome.REFUSED
    dropped = ruleset(*chains, "-A OUTPUT -m conntrack --ctproto tcp -j DROP")
    assert outcome(answer(dropped), "192.0.2.1") is Outcome.TIMEOUT
