"""Where an opening goes in a ruleset with bans, the commands that put it there, and what is withheld."""

from __future__ import annotations

import contextlib
import json
from typing import Any, Optional

import pytest

from ec2ssh_agent.codec import decode, encode
from ec2ssh_agent.config import Config
from ec2ssh_agent.facts import Ufw
from ec2ssh_agent.host import Ran
from ec2ssh_agent.model import Seen
from ec2ssh_agent.reach import addresses, ipsets, iptables, nftables
from ec2ssh_agent.reach.ruleset import Backend, Family, Ruleset
from ec2ssh_agent.repair import insert
from ec2ssh_agent.repair.records import Saved
from ec2ssh_agent.repair.work import Context
from ec2ssh_agent.steps import Insert, commands
from fake_host import Call, FakeHost
from test_plan import UFW, Story, rules

JUMP = {"jump": {"target": "f2b-sshd"}}
ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}
COMMENT = 'comment "ec2ssh-agent:@CHANGE@"'
LET_IN = f"meta nfproto ipv4 tcp dport 22 accept {COMMENT}"


def port(number: int) -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": number}}


def native(*chain: list[dict[str, Any]], handles: bool = True) -> Ruleset:
    """`inet filter` with these rules in its input chain, and one address that fail2ban banned."""
    ban = {"match": {"op": "==", "left": {"payload": {"protocol": "ip", "field": "saddr"}}, "right": "198.51.100.9"}}
    place = {"family": "inet", "table": "filter"}
    entries: list[dict[str, Any]] = [
        {"table": {"family": "inet", "name": "filter"}},
        {"chain": {**place, "name": "f2b-sshd"}},
        {"chain": {**place, "name": "input", "type": "filter", "hook": "input", "prio": 0, "policy": "drop"}},
        {"rule": {**place, "chain": "f2b-sshd", "handle": 3, "expr": [ban, {"reject": None}]}},
    ]
    for number, statements in enumerate(chain):
        handle = {"handle": 5 + number} if handles else {}
        entries.append({"rule": {**place, "chain": "input", **handle, "expr": statements}})
    return nftables.parse({"nftables": entries})


@pytest.mark.parametrize(
    ("ruleset", "typed"),
    [
        (native([port(22), JUMP]), [f"nft add rule inet filter input position 5 {LET_IN}"]),
        (native([port(80), ACCEPT], [JUMP], [port(22), DROP]), [f"nft add rule inet filter input position 6 {LET_IN}"]),
        (native([port(80), ACCEPT]), [f"nft insert rule inet filter input {LET_IN}"]),
        (native([port(22), DROP], [port(22), JUMP]), [
            f"nft insert rule inet filter input position 5 meta nfproto ipv4 tcp dport 22 jump f2b-sshd {COMMENT}",
            f"nft insert rule inet filter input position 5 {LET_IN}",
        ]),
        (native([port(22), DROP], [port(25), JUMP]), [f"nft insert rule inet filter input {LET_IN}"]),
    ],
    ids=["behind the bans", "behind what accepts and the bans", "no bans", "a wall before the bans", "bans of mail's"],
)  # fmt: skip
def test_an_opening_of_nft_leaves_the_bans_be(ruleset: Ruleset, typed: list[str]) -> None:
    assert Story(ruleset).typed() == typed


def test_where_no_handle_tells_the_place_nothing_is_opened() -> None:
    ladder = Story(native([port(22), JUMP], handles=False)).ladder
    assert not ladder.rungs and "would help" in ladder.withheld


TABLE = "*filter\n:INPUT DROP [0:0]\n:OUTPUT ACCEPT [0:0]\n:f2b-sshd - [0:0]\n{}\nCOMMIT\n"
IN_CHAIN = "-A f2b-sshd -s 198.51.100.9 -j REJECT\n-A f2b-sshd -j RETURN"
WALL = "-A INPUT -p tcp --dport 22 -j DROP\n"
F2B = "-A INPUT -p tcp -m multiport --dports 22 -j f2b-sshd\n"


def places(story: Story) -> list[str]:
    return [line.replace(" -m comment --comment ec2ssh-agent:@CHANGE@", "").split(" -I ")[1] for line in story.typed()]


def test_a_set_of_bans_is_left_in_front_and_its_opposite_is_a_wall() -> None:
    def told(matched: str) -> list[str]:
        text = f"-A INPUT -p tcp -m set {matched} f2b-sshd src -j DROP"
        sets = ipsets.parse("create f2b-sshd hash:ip family inet\nadd f2b-sshd 198.51.100.9\n")
        table = TABLE.format(f"{text}\n{WALL}")
        found = iptables.parse(table, family=Family.IPV4, backend=Backend.IPTABLES_NFT, ipsets=sets)
        return places(Story(found))

    assert told("--match-set") == ["INPUT 2 -p tcp --dport 22 -j ACCEPT"]
    assert told("! --match-set") == ["INPUT 1 -p tcp --dport 22 -j ACCEPT"]


@pytest.mark.parametrize("backend", [Backend.IPTABLES_NFT, Backend.LEGACY])
def test_a_wall_in_front_of_the_bans_is_opened_with_the_bans(backend: Backend) -> None:
    allow, jump = "-p tcp --dport 22 -j ACCEPT", "-p tcp --dport 22 -j f2b-sshd"
    behind = Story(rules(TABLE.format("-A INPUT -i lo -j ACCEPT\n" + F2B + WALL + IN_CHAIN), backend))
    assert places(behind) == [f"INPUT 3 {allow}"]
    before = Story(rules(TABLE.format(WALL + F2B + IN_CHAIN), backend))
    assert places(before) == [f"INPUT 1 {jump}", f"INPUT 2 {allow}"]


def test_the_bans_of_a_chain_between_are_no_reason_to_open_to_them() -> None:
    text = TABLE.replace(":f2b", ":INPUT_direct - [0:0]\n:f2b").format(
        WALL + "-A INPUT -j INPUT_direct\n-A INPUT_direct -p tcp --dport 22 -j f2b-sshd\n" + IN_CHAIN
    )
    assert not Story(rules(text)).ladder.rungs


def test_who_alone_is_missed_and_banned_is_not_let_in() -> None:
    banned = (addresses.parse_cidr("198.51.100.9/32")[1],)
    story = Story(rules(TABLE.format(F2B + IN_CHAIN)), config=Config(expect_clients=((Family.IPV4, banned[0]),)))
    assert not [rung for ladder in story.ladders for rung in ladder.rungs]


def test_ufws_rule_behind_the_bans_is_made_and_one_before_them_is_not() -> None:
    chain = UFW.replace(":ufw-user-input", ":f2b-sshd - [0:0]\n:ufw-user-input")
    jump = "-A INPUT -j ufw-before-input\n"

    def told(text: str) -> Story:
        return Story(rules(text.replace("COMMIT", IN_CHAIN + "\nCOMMIT")), ufw=Seen(Ufw(True, True)))

    behind = told(chain.replace(jump, F2B + jump))
    assert behind.typed() == ["ufw prepend allow 22/tcp"]
    before = told(chain.replace(jump, jump + F2B))
    assert [rung.name for rung in before.ladder.rungs] == ["open"]
    assert [text.split(" -j ")[1] for text in places(before)] == ["f2b-sshd", "ACCEPT"]


def test_a_step_of_an_earlier_version_goes_in_front() -> None:
    step = Insert(Backend.NFTABLES, "inet", "filter", "input", ("accept",))
    old = {name: value for name, value in encode(step).items() if name not in ("after", "before")}
    assert decode(Insert, json.loads(json.dumps(old))) == step
    assert commands(step) == (f"nft insert rule inet filter input accept {COMMENT}",)


@pytest.mark.parametrize(("after", "before", "words"), [(5, 0, "add rule"), (0, 5, "insert rule"), (0, 0, None)])
def test_with_many_networks_the_rule_has_its_place_too(after: int, before: int, words: Optional[str]) -> None:
    host, ran = FakeHost(), list[Call]()

    def nft(call: Call) -> Ran:
        ran.append(call)
        return Ran(0, b"", b"")

    host.command(("nft",), nft)
    step = Insert(
        Backend.NFTABLES, "inet", "filter", "input", ("tcp", "dport", "22", "accept"), ("10.0.0.0/8",),
        after=after, before=before,
    )  # fmt: skip
    context = Context(host, "20260101T000000-ab12", lambda seconds: contextlib.nullcontext())
    insert.Rule(context, step).make(Saved(0.0))
    expected = f"{words} inet filter input position 5 ip saddr" if words else "insert rule inet filter input ip saddr"
    assert ran[0].stdin.decode().splitlines()[-1].startswith(expected)
