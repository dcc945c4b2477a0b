"""What `nft -j` prints (1.0.6, as captured) becomes the items that the kernel runs."""

from __future__ import annotations

import pytest

from ec2ssh_agent.reach import nftables
from ec2ssh_agent.reach.ruleset import (
    Backend,
    Bits,
    Chain,
    CopyMark,
    Element,
    Field,
    IfName,
    Item,
    Kind,
    Learn,
    Limiter,
    Lookup,
    MapMark,
    Name,
    NoTrack,
    Rule,
    Selector,
    SetMark,
    Socket,
    Table,
    Test,
    Unknown,
    Verdict,
    VerdictMap,
)

Json = dict[str, object]

V4 = Test(Selector(Field.NFPROTO), ((2, 2),))
V6 = Test(Selector(Field.NFPROTO), ((10, 10),))
TCP = Test(Selector(Field.L4PROTO), ((6, 6),))
TRACKED = Test(Selector(Field.CTSTATE), ((2, 2), (4, 4), (8, 8)))
NEVER = Test(Selector(Field.L4PROTO), ())
IP_SADDR: Json = {"payload": {"protocol": "ip", "field": "saddr"}}
DPORT: Json = {"payload": {"protocol": "tcp", "field": "dport"}}
FLAGS: Json = {"payload": {"protocol": "tcp", "field": "flags"}}
STATE: Json = {"ct": {"key": "state"}}
MARK: Json = {"meta": {"key": "mark"}}
TEN = (10 << 24, (11 << 24) - 1)


def document(*statements: Json, family: str = "inet", objects: tuple[Json, ...] = (), rule: Json = {}) -> Json:
    table = {"family": family, "table": "t"}
    return {
        "nftables": [
            {"metainfo": {"version": "1.0.6", "json_schema_version": 1}},
            {"table": {"family": family, "name": "t", "handle": 1}},
            *({kind: {**table, **dict(body)} for kind, body in entry.items()} for entry in objects),  # type: ignore[call-overload]
            {
                "chain": {
                    **table,
                    "name": "c",
                    "handle": 1,
                    "type": "filter",
                    "hook": "input",
                    "prio": -5,
                    "policy": "drop",
                }
            },
            {"rule": {**table, "chain": "c", "handle": 7, "expr": list(statements), **rule}},
        ]
    }


def chain(got: Json, **given: object) -> Chain:
    return nftables.parse(got, **given).tables[0].chains["c"]  # type: ignore[arg-type]


def items(*statements: Json, family: str = "inet", objects: tuple[Json, ...] = ()) -> tuple[Item, ...]:
    return chain(document(*statements, family=family, objects=objects)).rules[0].items


def match(left: Json, right: object, op: str = "==") -> Json:
    return {"match": {"op": op, "left": left, "right": right}}


def test_a_base_chain_with_its_rule() -> None:
    got = chain(document({"accept": None}))
    assert (got.hook, got.priority, got.policy, got.type) == ("input", -5, Kind.DROP, "filter")
    assert (got.rules[0].number, got.rules[0].handle, got.rules[0].text) == (1, 7, "accept")
    assert got.rules[0].items == (Verdict(Kind.ACCEPT),)


def test_what_follows_from_a_key_is_put_before_it_once() -> None:
    assert items(match(IP_SADDR, {"prefix": {"addr": "10.0.0.0", "len": 8}}), match(DPORT, 22)) == (
        V4,
        Test(Selector(Field.SADDR), (TEN,)),
        TCP,
        Test(Selector(Field.DPORT), ((22, 22),)),
    )
    assert items(match(IP_SADDR, "10.1.2.3"), family="ip")[0] == Test(
        Selector(Field.SADDR), ((0x0A010203, 0x0A010203),)
    )
    assert items(match({"payload": {"protocol": "ip6", "field": "saddr"}}, "::1")) == (
        V6,
        Test(Selector(Field.SADDR), ((1, 1),)),
    )


@pytest.mark.parametrize(
    ("op", "right", "expected"),
    [
        ("in", "established", Bits(Selector(Field.CTSTATE), 2)),
        ("in", ["established", "related"], Bits(Selector(Field.CTSTATE), 6)),
        ("!", "invalid", Bits(Selector(Field.CTSTATE), 1, False)),
        ("!=", "established", Test(Selector(Field.CTSTATE), ((2, 2),), True)),
        # One value, not two: it is never 6, so this always matches.
        ("!=", {"|": ["established", "related"]}, Test(Selector(Field.CTSTATE), ((6, 6),), True)),
        ("==", {"set": ["new", "untracked"]}, Test(Selector(Field.CTSTATE), ((8, 8), (64, 64)))),
    ],
)
def test_flags_are_compared_as_the_kernel_does(op: str, right: object, expected: Item) -> None:
    assert items(match(STATE, right, op)) == (expected,)


def test_masked_flags() -> None:
    masked: Json = {"&": [FLAGS, ["fin", "syn", "rst", "ack"]]}
    assert items(match(masked, "syn")) == (TCP, Test(Selector(Field.TCPFLAGS, 23), ((2, 2),)))
    nested: Json = {"&": [FLAGS, {"|": [{"|": [{"|": ["fin", "syn"]}, "rst"]}, "ack"]}]}
    assert items(match(nested, ["fin", "syn"], "!="))[-1] == Test(Selector(Field.TCPFLAGS, 23), ((3, 3),), True)
    assert items(match(nested, "fin", "<"))[-1] == Test(Selector(Field.TCPFLAGS, 23), ((0, 0),))


@pytest.mark.parametrize(
    ("left", "right", "op", "expected"),
    [
        (MARK, 5, ">", Test(Selector(Field.MARK), ((6, 0xFFFFFFFF),))),
        (MARK, 5, "<=", Test(Selector(Field.MARK), ((0, 5),))),
        (MARK, 0, "<", Test(Selector(Field.MARK), ())),
        (MARK, {"range": [3, 5]}, "!=", Test(Selector(Field.MARK), ((3, 5),), True)),
        ({"|": [MARK, 1]}, 1, "==", Test(Selector(Field.MARK, 0xFFFFFFFE, 1), ((1, 1),))),
        ({">>": [{"&": [MARK, 0xF0]}, 4]}, 3, "==", Test(Selector(Field.MARK, 0xF0, 0, 4), ((3, 3),))),
        ({"&": [{">>": [MARK, 8]}, 0xF]}, 3, "==", Test(Selector(Field.MARK, 0xF00, 0, 8), ((3, 3),))),
        ({"^": [MARK, 255]}, 1, "==", Test(Selector(Field.MARK, 0xFFFFFFFF, 255), ((1, 1),))),
        ({"meta": {"key": "iifname"}}, "eth*", "!=", Name(False, ("eth*",), True)),
        ({"meta": {"key": "iif"}}, {"set": ["lo", "eth0"]}, "==", Name(False, ("lo", "eth0"))),
        ({"meta": {"key": "oifname"}}, "eth0", "==", Name(True, ("eth0",))),
        ({"meta": {"key": "protocol"}}, {"set": ["ip", "arp"]}, "==", Test(Selector(Field.NFPROTO), ((2, 3),))),
        ({"meta": {"key": "pkttype"}}, "host", "==", Test(Selector(Field.PKTTYPE), ((0, 0),))),
        (
            {"fib": {"result": "type", "flags": ["daddr"]}},
            "local",
            "!=",
            Test(Selector(Field.DADDR_TYPE), ((2, 2),), True),
        ),
        ({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False, "==", Test(Selector(Field.FIB_IIF), ((0, 0),))),
        (
            {"fib": {"result": "oif", "flags": ["saddr", "iif"]}},
            "0",
            "!=",
            Test(Selector(Field.FIB_IIF), ((0, 0),), True),
        ),
    ],
)
def test_one_comparison(left: Json, right: object, op: str, expected: Item) -> None:
    assert items(match(left, right, op)) == (expected,)


def test_what_no_packet_asked_about_has() -> None:
    assert items(match({"ip option": {"name": "rr"}}, True)) == (V4, NEVER)
    assert items(match({"ip option": {"name": "rr"}}, False)) == (V4,)
    assert items(match({"exthdr": {"name": "frag"}}, False)) == (V6,)
    assert items(match({"exthdr": {"name": "frag", "field": "more-fragments"}}, 0)) == (V6, NEVER)
    fragment: Json = {"&": [{"payload": {"protocol": "ip", "field": "frag-off"}}, 0x1FFF]}
    assert items(match(fragment, 0, "!=")) == (V4, NEVER)
    assert items(match({"payload": {"protocol": "ip", "field": "frag-off"}}, 0))[1] == Unknown(
        "a field that differs from packet to packet"
    )
    assert items(match({"payload": {"protocol": "udp", "field": "dport"}}, 53))[1] == NEVER


def test_options_of_the_syn() -> None:
    option: Json = {"tcp option": {"name": "maxseg"}}
    assert items(match(option, True)) == (Test(Selector(Field.TCPOPTION, key=2), ((1, 1),)),)
    raw: Json = {"tcp option": {"base": 200, "offset": 0, "len": 8}}
    assert items(match(raw, False))[0] == Test(Selector(Field.TCPOPTION, key=200), ((0, 0),))
    size = items(match({"tcp option": {"name": "maxseg", "field": "size"}}, 500, "<"))
    assert size == (TCP, Test(Selector(Field.TCPOPTION, key=2), ((1, 1),)), Unknown("tcp option maxseg size"))


def test_what_no_packet_has_is_missing() -> None:
    assert items(match({"sctp chunk": {"name": "data"}}, False)) == ()
    assert items(match({"sctp chunk": {"name": "data"}}, True)) == (NEVER,)
    assert items(match({"sctp chunk": {"name": "data", "field": "tsn"}}, 5)) == (NEVER,)


def test_sets_named_and_concatenated() -> None:
    bad: Json = {"set": {"name": "bad", "type": "ipv4_addr", "elem": ["10.0.0.1", {"range": ["10.0.0.2", "10.0.0.9"]}]}}
    assert items(match(IP_SADDR, "@bad", "!="), objects=(bad,))[1] == Test(
        Selector(Field.SADDR), ((0x0A000001, 0x0A000009),), True
    )
    both: Json = {"concat": [{"meta": {"key": "iifname"}}, IP_SADDR, DPORT]}
    element = {"concat": ["eth0", {"prefix": {"addr": "10.0.0.0", "len": 8}}, {"range": [1, 100]}]}
    assert items(match(both, {"set": [element]}))[-1] == Lookup(
        (IfName(False), Selector(Field.SADDR), Selector(Field.DPORT)), (Element((("eth0",), (TEN,), ((1, 100),))),)
    )


def test_elements_that_carry_more_than_a_value() -> None:
    element = {"elem": {"val": "10.0.0.1", "timeout": 60, "expires": 3, "comment": "x"}}
    assert items(match(IP_SADDR, {"set": [element]}))[-1] == Test(Selector(Field.SADDR), ((0x0A000001, 0x0A000001),))
    limited = {"elem": {"val": "10.0.0.1", "limit": {"rate": 1, "per": "second", "inv": True}}}
    assert items(match(IP_SADDR, {"set": [limited]}))[-1] == Limiter("limit", False)


def test_a_set_whose_elements_are_not_known() -> None:
    bad: Json = {"set": {"name": "bad", "type": "ipv4_addr"}}
    got = document(match(IP_SADDR, "@bad"), objects=(bad,))
    lookup = Lookup((Selector(Field.SADDR),), None, name="bad")
    assert chain(got, terse=True).rules[0].items[1] == lookup
    assert chain(got).rules[0].items[1] == Test(Selector(Field.SADDR), ())
    filled = chain(got, terse=True, elements={("inet t", "bad"): ["10.0.0.1"]})
    assert filled.rules[0].items[1] == Test(Selector(Field.SADDR), ((0x0A000001, 0x0A000001),))
    assert items(match(IP_SADDR, "@nowhere"))[1] == lookup._replace(name="nowhere")


def test_a_part_that_nobody_knows_leaves_what_the_others_exclude() -> None:
    both: Json = {"concat": [{"payload": {"protocol": "ether", "field": "saddr"}}, IP_SADDR]}
    pair = {"set": [{"concat": ["00:11:22:33:44:55", "10.0.0.1"]}]}
    assert items(match(both, pair))[1:] == (
        Lookup((Selector(Field.SADDR),), (Element((((0x0A000001, 0x0A000001),),)),)),
        Unknown("ether saddr"),
    )
    assert items(match(both, pair, "!="))[1:] == (Unknown("ether saddr"),)


def test_verdict_maps() -> None:
    data = {"set": [[22, {"accept": None}], [{"range": [23, 25]}, {"jump": {"target": "x"}}], ["*", {"drop": None}]]}
    assert items({"vmap": {"key": DPORT, "data": data}})[1] == VerdictMap(
        Lookup(
            (Selector(Field.DPORT),),
            (
                Element((((22, 22),),), Verdict(Kind.ACCEPT)),
                Element((((23, 25),),), Verdict(Kind.JUMP, "x")),
                Element((((0, 21), (26, 65535)),), Verdict(Kind.DROP)),
            ),
        )
    )
    numbers = {"set": [[0, {"accept": None}]]}
    assert items({"vmap": {"key": {"numgen": {"mode": "inc", "mod": 2}}, "data": numbers}}) == (
        Verdict(Kind.UNKNOWN, reason="numgen"),
    )


@pytest.mark.parametrize(
    ("ct", "value", "expected"),
    [
        (False, 1, (SetMark(False, 0xFFFFFFFF, 1),)),
        (False, {"|": [MARK, 16]}, (SetMark(False, 16, 16),)),
        (False, {"|": [{"&": [MARK, 511]}, 256]}, (SetMark(False, 0xFFFFFF00, 256),)),
        (False, {"^": [MARK, 255]}, (SetMark(False, 0, 255),)),
        (False, {"&": [{"ct": {"key": "mark"}}, 255]}, (CopyMark(False, 255, 0xFFFFFFFF),)),
        (True, MARK, (CopyMark(True, 0xFFFFFFFF, 0xFFFFFFFF),)),
        (True, {"|": [{"&": [MARK, 511]}, 256]}, (CopyMark(True, 0xFFFFFFFF, 255), SetMark(True, 0, 256))),
        (False, {"numgen": {"mode": "inc", "mod": 3}}, (MapMark(False, Lookup((), None)),)),
    ],
)
def test_marks(ct: bool, value: object, expected: tuple[Item, ...]) -> None:
    key = {"ct": {"key": "mark"}} if ct else MARK
    assert items({"mangle": {"key": key, "value": value}}) == expected


def test_a_mark_from_a_map() -> None:
    value = {"map": {"key": IP_SADDR, "data": {"set": [["10.0.0.1", 7]]}}}
    assert items({"mangle": {"key": MARK, "value": value}})[1] == MapMark(
        False, Lookup((Selector(Field.SADDR),), (Element((((0x0A000001, 0x0A000001),),), 7),))
    )


def test_connection_keys_need_a_connection() -> None:
    assert items(match({"ct": {"key": "mark"}}, 1)) == (TRACKED, Test(Selector(Field.CTMARK), ((1, 1),)))
    original: Json = {"ct": {"key": "ip saddr", "dir": "original"}}
    assert items(match(original, "10.0.0.1"))[:2] == (TRACKED, V4)
    assert items(match({"ct": {"key": "helper"}}, "ftp")) == (NEVER,)


@pytest.mark.parametrize(
    ("statement", "idle"),
    [
        ({"limit": {"rate": 3, "burst": 5, "per": "minute"}}, True),
        ({"limit": {"rate": 3, "burst": 5, "per": "minute", "inv": True}}, False),
        ({"limit": {"rate": 10, "burst": 0, "per": "second", "rate_unit": "kbytes", "burst_unit": "bytes"}}, True),
        ({"limit": {"rate": 10, "burst": 0, "per": "second", "rate_unit": "bytes", "burst_unit": "bytes"}}, False),
        ({"ct count": {"val": 3, "inv": True}}, False),
        ({"ct count": {"val": 0, "inv": True}}, True),
        ({"ct count": {"val": 3}}, True),
        ({"quota": {"val": 10, "val_unit": "mbytes", "inv": True}}, False),
        ({"quota": {"val": 10, "val_unit": "mbytes"}}, True),
        ({"quota": {"val": 10, "val_unit": "mbytes", "used": 10, "used_unit": "mbytes"}}, False),
    ],
)
def test_limits_for_an_idle_source(statement: Json, idle: bool) -> None:
    assert items(statement) == (Limiter(next(iter(statement)), idle),)


def test_codes_of_icmp() -> None:
    wanted = (Test(Selector(Field.L4PROTO), ((1, 1),)), Test(Selector(Field.ICMP_CODE), ((3, 3), (13, 13))))
    code: Json = {"payload": {"protocol": "icmp", "field": "code"}}
    assert items(match(code, {"set": ["port-unreachable", 13]})) == wanted
    code = {"payload": {"protocol": "icmpv6", "field": "code"}}
    assert items(match(code, "policy-fail"))[1] == Test(Selector(Field.ICMP_CODE), ((5, 5),))


def test_a_limit_that_one_connection_can_use_up() -> None:
    hourly: Json = {"rate": 3, "burst": 2, "per": "hour"}
    assert items({"limit": hourly}) == (Limiter("limit", True, 2),)
    assert items({"limit": {"rate": 3, "per": "hour", "inv": True}}) == (Limiter("limit", False, 5),)
    named: Json = {"limit": {"name": "l", "handle": 4, **hourly}}
    assert items({"limit": "l"}, objects=(named,)) == (Limiter("limit", True, 2, "inet t limit l"),)


def test_named_limits() -> None:
    quota: Json = {"quota": {"name": "q", "bytes": 1000, "used": 5000, "inv": True}}
    assert items({"quota": "q"}, objects=(quota,)) == (Limiter("quota", True),)
    assert items({"limit": "gone"}) == (Unknown("the limit 'gone', which is not listed"),)


def test_learning_and_looking_it_up() -> None:
    seen: Json = {"set": {"name": "seen", "type": "ipv4_addr", "flags": ["timeout"]}}
    limit = {"limit": {"rate": 10, "per": "minute", "inv": True}}
    add: Json = {
        "set": {"op": "update", "elem": {"elem": {"val": IP_SADDR, "timeout": 10}}, "set": "@seen", "stmt": [limit]}
    }
    assert items(add, match(IP_SADDR, "@seen"), objects=(seen,))[1:] == (
        Learn("inet t seen", (Selector(Field.SADDR),), (Limiter("limit", False),)),
        Lookup((Selector(Field.SADDR),), (), name="inet t seen", dynamic=True),
    )
    meter: Json = {"meter": {"key": IP_SADDR, "stmt": {"ct count": {"val": 3, "inv": True}}, "name": "m"}}
    assert items(meter)[1] == Learn("inet t m", (Selector(Field.SADDR),), (Limiter("ct count", False),))


@pytest.mark.parametrize(
    ("body", "family", "expected"),
    [
        (None, "inet", (Verdict(Kind.REJECT, reject="port-unreachable"),)),
        ({"type": "tcp reset"}, "inet", (TCP, Verdict(Kind.REJECT, reject="tcp-reset"))),
        ({"type": "icmp", "expr": "host-prohibited"}, "inet", (V4, Verdict(Kind.REJECT, reject="host-prohibited"))),
        ({"type": "icmp", "expr": 13}, "ip", (Verdict(Kind.REJECT, reject="admin-prohibited"),)),
        ({"type": "icmpv6", "expr": "no-route"}, "inet", (V6, Verdict(Kind.REJECT, reject="no-route"))),
        ({"type": "icmpx", "expr": 2}, "inet", (Verdict(Kind.REJECT, reject="host-unreachable"),)),
    ],
)
def test_rejects(body: object, family: str, expected: tuple[Item, ...]) -> None:
    assert items({"reject": body}, family=family) == expected


def test_translations() -> None:
    assert items({"redirect": {"port": 2222}}) == (Verdict(Kind.REDIRECT, ports=((2222, 2222),)),)
    assert items({"dnat": {"family": "ip", "addr": {"range": ["10.0.0.1", "10.0.0.9"]}, "port": 33}}) == (
        V4,
        Verdict(Kind.DNAT, to=((0x0A000001, 0x0A000009),), ports=((33, 33),)),
    )
    by_port = {"map": {"key": DPORT, "data": {"set": [[22, {"concat": ["10.0.0.1", 33]}]]}}}
    mapped = items({"dnat": {"family": "ip", "addr": by_port}})[-1]
    assert isinstance(mapped, VerdictMap) and mapped.lookup.elements
    assert mapped.lookup.elements[0].data == Verdict(Kind.DNAT, to=((0x0A000001, 0x0A000001),), ports=((33, 33),))
    assert items({"masquerade": None}) == (Verdict(Kind.SNAT),)


def test_other_statements() -> None:
    harmless: tuple[Json, ...] = (
        {"counter": {"packets": 0, "bytes": 0}},
        {"log": {"prefix": "a"}},
        {"flow": {"op": "add", "flowtable": "@f"}},
        {"mangle": {"key": {"tcp option": {"name": "maxseg", "field": "size"}}, "value": {"rt": {"key": "mtu"}}}},
        {"mangle": {"key": {"meta": {"key": "priority"}}, "value": "1:1"}},
    )
    assert items(*harmless) == ()
    assert items({"notrack": None}) == (NoTrack(),)
    assert items({"queue": {"num": 0}})[0] == Verdict(Kind.QUEUE, reason="a program decides (NFQUEUE)")
    assert items(match({"socket": {"key": "transparent"}}, 1)) == (Socket("socket"),)
    assert items({"synproxy": None}) == (Verdict(Kind.UNKNOWN, reason="the statement 'synproxy'"),)
    assert items({"mangle": {"key": DPORT, "value": 22}}) == (
        TCP,
        Verdict(Kind.UNKNOWN, reason="a change of tcp dport"),
    )


def test_a_dormant_table_has_no_hooks() -> None:
    got = document({"drop": None})
    listing = got["nftables"]
    assert isinstance(listing, list)
    listing[1]["table"]["flags"] = "dormant"
    assert chain(got).hook == ""


def test_devices_of_an_ingress_chain() -> None:
    got = document({"accept": None})
    listing = got["nftables"]
    assert isinstance(listing, list)
    listing[2]["chain"]["hook"] = "ingress"
    assert chain(got).devices == ("*",)
    assert chain(got, devices={("inet", "t", "c"): ("eth0",)}).devices == ("eth0",)
    listing[2]["chain"]["dev"] = ["eth0", "eth1"]
    assert chain(got).devices == ("eth0", "eth1")


def test_a_rule_of_iptables_nft_is_read_from_its_line() -> None:
    got = document({"xt": None}, {"counter": {"packets": 0, "bytes": 0}}, {"drop": None}, family="ip")
    line = Rule((Verdict(Kind.DROP),), "-A c -m conntrack --ctstate NEW -j DROP", 1)
    saved = Table("ip", "t", Backend.IPTABLES_NFT, {"c": Chain("c", (line,))})
    assert chain(got, saved=(saved,)).rules == (line._replace(handle=7, backend=Backend.IPTABLES_NFT),)
    opaque = (Unknown("an extension of iptables, printed without parameters"), Verdict(Kind.DROP))
    assert chain(got).rules[0].items == opaque
    longer = saved._replace(chains={"c": Chain("c", (line, line._replace(number=2)))})
    assert chain(got, saved=(longer,)).rules[0].items == opaque
    target = chain(document({"xt": None}, family="ip")).rules[0].items[-1]
    assert isinstance(target, Verdict) and target.kind is Kind.UNKNOWN


def test_what_iptables_nft_prints_of_a_rule_that_is_not_its_own_is_not_used() -> None:
    got = document(match(IP_SADDR, "10.0.0.1"), {"drop": None}, family="ip")
    saved = Table("ip", "t", Backend.IPTABLES_NFT, {"c": Chain("c", (Rule((Verdict(Kind.DROP),), "-A c -j DROP", 1),))})
    assert chain(got, saved=(saved,)) == chain(got)
    same = Rule(
        (Verdict(Kind.DROP), Test(Selector(Field.SADDR), ((0x0A000001, 0x0A000001),))), "-A c -s 10.0.0.1 -j DROP", 1
    )
    words = saved._replace(chains={"c": Chain("c", (same,))})
    assert chain(got, saved=(words,)).rules == (chain(got).rules[0]._replace(text=same.text),)


@pytest.mark.parametrize(
    ("name", "chain_name", "prio", "counted", "backend"),
    [
        ("filter", "INPUT", 0, True, Backend.IPTABLES_NFT),
        ("filter", "INPUT", 0, False, Backend.NFTABLES),
        ("filter", "INPUT", 10, True, Backend.NFTABLES),
        ("filter", "input", 0, True, Backend.NFTABLES),
        ("t", "INPUT", 0, True, Backend.NFTABLES),
    ],
)
def test_whose_tables_they_are(name: str, chain_name: str, prio: int, counted: bool, backend: Backend) -> None:
    table = {"family": "ip", "table": name}
    counter = [{"counter": {"packets": 0, "bytes": 0}}] if counted else []
    base = {**table, "name": chain_name, "type": "filter", "hook": "input", "prio": prio, "policy": "accept"}
    rule = {**table, "chain": chain_name, "handle": 3, "expr": [*counter, {"drop": None}]}
    listing = {"nftables": [{"table": {"family": "ip", "name": name}}, {"chain": base}, {"rule": rule}]}
    got = nftables.parse(listing).tables[0]
    assert (got.backend, got.label) == (backend, f"ip {name}")


def test_text_for_people() -> None:
    vmap: Json = {
        "vmap": {"key": STATE, "data": {"set": [["new", {"accept": None}], ["invalid", {"goto": {"target": "x"}}]]}}
    }
    shown: list[tuple[Json, str]] = [
        (
            match(IP_SADDR, {"set": ["10.0.0.1", {"prefix": {"addr": "10.2.0.0", "len": 16}}]}),
            "ip saddr { 10.0.0.1, 10.2.0.0/16 }",
        ),
        (match({"meta": {"key": "iifname"}}, "eth0", "!="), "iifname != eth0"),
        (match({"fib": {"result": "oif", "flags": ["saddr", "iif"]}}, False), "fib saddr . iif oif missing"),
        (vmap, "ct state vmap { new : accept, invalid : goto x }"),
        ({"limit": {"rate": 3, "burst": 5, "per": "minute", "inv": True}}, "limit rate over 3/minute"),
        ({"dnat": {"family": "ip", "addr": "10.0.0.1", "port": 33}}, "dnat to 10.0.0.1:33"),
        ({"reject": {"type": "icmpx", "expr": "admin-prohibited"}}, "reject with icmpx admin-prohibited"),
        ({"mangle": {"key": MARK, "value": {"|": [MARK, 1]}}}, "meta mark set meta mark | 1"),
    ]
    for statement, text in shown:
        assert chain(document(statement)).rules[0].text == text
    got = chain(document({"accept": None}, rule={"comment": "office"}))
    assert got.rules[0].text == 'accept comment "office"'


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"nftables": {}}',
        b'{"nftables": [3]}',
        b'{"nftables": [{"table": 3}]}',
        b"[" * 100_000,
    ],
)
def test_what_is_no_listing_is_an_error(data: bytes) -> None:
    with pytest.raises(nftables.NftablesError):
        nftables.parse(nftables.load(data))


def test_too_many_rules_are_an_error() -> None:
    rule = {"rule": {"family": "ip", "table": "t", "chain": "c", "expr": []}}
    with pytest.raises(nftables.NftablesError, match="more than 250000 rules"):
        nftables.parse({"nftables": [rule] * 250_001})
