"""Whatever JSON comes, there is a Ruleset or an NftablesError; and only what is not understood is unknown."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from ec2ssh_agent.reach import nftables
from ec2ssh_agent.reach.ruleset import Item, Ruleset

WORDS = (
    "nftables table chain rule set map family name type hook prio policy expr match op left right payload protocol"
    " field meta key ct fib & | ^ << >> == != in < ip tcp saddr dport mark state vmap data elem val concat range prefix"
    " addr len @s limit rate burst quota used inv mangle value set stmt dnat port redirect reject jump goto target xt"
    " inet t c accept drop iifname base offset flags numgen meter"
).split() + ["tcp option", "ct count"]
scalars = (
    st.none() | st.booleans() | st.integers(-5, 1 << 70) | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3),
    max_leaves=30,
)

STATEMENTS: list[dict[str, Any]] = json.loads("""[
 {"match": {"op": "in", "left": {"ct": {"key": "state"}}, "right": ["established", "related"]}},
 {"match": {"op": "==", "right": "syn",
   "left": {"&": [{"payload": {"protocol": "tcp", "field": "flags"}}, ["fin", "syn"]]}}},
 {"match": {"op": "!=",
   "left": {"concat": [{"meta": {"key": "iifname"}}, {"payload": {"protocol": "ip", "field": "saddr"}}]},
   "right": {"set": [{"concat": ["eth0", {"prefix": {"addr": "10.0.0.0", "len": 8}}]}, {"concat": ["lo", "1.2.3.4"]}]}
 }},
 {"match": {"op": "==", "left": {"payload": {"protocol": "ip6", "field": "saddr"}}, "right": "@s"}},
 {"vmap": {"key": {"payload": {"protocol": "tcp", "field": "dport"}},
   "data": {"set": [[22, {"accept": null}], [{"range": [23, 25]}, {"jump": {"target": "x"}}], ["*", {"drop": null}]]}}},
 {"mangle": {"key": {"meta": {"key": "mark"}}, "value": {"|": [{"&": [{"meta": {"key": "mark"}}, 511]}, 256]}}},
 {"set": {"op": "update", "elem": {"elem": {"val": {"payload": {"protocol": "ip", "field": "saddr"}}, "timeout": 10}},
   "set": "@s", "stmt": [{"limit": {"rate": 10, "burst": 5, "per": "minute", "inv": true}}]}},
 {"dnat": {"family": "ip", "addr": {"map": {"key": {"payload": {"protocol": "tcp", "field": "dport"}},
   "data": {"set": [[22, {"concat": ["10.0.0.1", 33]}]]}}}}},
 {"quota": {"val": 10, "val_unit": "mbytes", "inv": true}}, {"limit": "l"}, {"reject": {"type": "icmpx", "expr": 2}},
 {"redirect": {"port": 2222}}, {"xt": null}, {"xt": {"type": "match", "name": "comment"}}, {"accept": null}
]""")
DOCUMENT: dict[str, Any] = {
    "nftables": [
        {"metainfo": {"version": "1.0.6"}},
        {"table": {"family": "inet", "name": "t", "handle": 1}},
        {
            "set": {
                "family": "inet",
                "table": "t",
                "name": "s",
                "type": "ipv6_addr",
                "elem": ["::1", {"range": ["::2", "::9"]}],
            }
        },
        {"limit": {"family": "inet", "table": "t", "name": "l", "rate": 1, "per": "second", "burst": 5}},
        {
            "chain": {
                "family": "inet",
                "table": "t",
                "name": "c",
                "type": "filter",
                "hook": "input",
                "prio": 0,
                "policy": "drop",
            }
        },
        *(
            {"rule": {"family": "inet", "table": "t", "chain": "c", "handle": number, "expr": [statement]}}
            for number, statement in enumerate(STATEMENTS)
        ),
    ]
}


def parsed(document: object) -> None:
    """Parses it, and looks at all that came out."""
    try:
        ruleset = nftables.parse(nftables.load(json.dumps(document).encode()))
    except nftables.NftablesError:
        return
    check(ruleset)


def check(ruleset: Ruleset) -> None:
    for table in ruleset.tables:
        for chain in table.chains.values():
            for rule in chain.rules:
                assert len(rule.text) <= 1000 and "\n" not in rule.text
                for item in rule.items:
                    check_item(item)


def check_item(item: Item) -> None:
    for part in item if isinstance(item, tuple) else ():
        if isinstance(part, tuple) and part and all(isinstance(pair, tuple) and len(pair) == 2 for pair in part):
            numbers = [number for pair in part for number in pair]
            flat = [number for number in numbers if isinstance(number, int)]
            if len(flat) == len(numbers):
                assert flat == sorted(flat), "ranges in order"


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(WORDS), values, max_size=3))
def test_any_object(document: dict[str, object]) -> None:
    parsed(document)


@settings(max_examples=300, deadline=None)
@given(st.lists(values, max_size=4))
def test_any_statements(statements: list[object]) -> None:
    document = copy.deepcopy(DOCUMENT)
    document["nftables"][-1]["rule"]["expr"] = statements
    parsed(document)


@settings(max_examples=500, deadline=None)
@given(st.integers(0, 1 << 32), values)
def test_a_listing_with_one_thing_changed(seed: int, other: object) -> None:
    chosen = random.Random(seed)
    document = copy.deepcopy(DOCUMENT)
    node: Any = document["nftables"]
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = chosen.choice(keys)
        inside = node[key]
        if not isinstance(inside, (dict, list)) or not inside or chosen.random() < 0.1:
            break
        node = inside
    if chosen.random() < 0.3:
        del node[key]
    else:
        node[key] = other
    parsed(document)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    try:
        nftables.parse(nftables.load(data))
    except nftables.NftablesError as error:
        assert str(error)


def test_deep_expressions_end() -> None:
    deep: object = {"meta": {"key": "mark"}}
    for _ in range(300):
        deep = {"|": [deep, 1]}
    document = copy.deepcopy(DOCUMENT)
    document["nftables"][-1]["rule"]["expr"] = [
        {"match": {"op": "==", "left": deep, "right": 1}},
        {"mangle": {"key": {"meta": {"key": "mark"}}, "value": deep}},
        {"match": {"op": "==", "left": {"meta": {"key": "mark"}}, "right": deep}},
    ]
    parsed(document)
