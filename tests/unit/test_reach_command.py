"""`reach` as it is typed: files and standard input in, a page or a document and an exit status out."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema
import pytest

from ec2ssh_agent import reach_command, reach_json
from ec2ssh_agent.reach import addresses, analyse, to_json
from ec2ssh_agent.reach.addresses import parse_cidr
from ec2ssh_agent.reach.question import Answer, Cause, Deciding, Neighbours, Outcome, Reach, Route, Trace
from ec2ssh_agent.reach.ruleset import Family
from walk_question import ROUTES, filter_input, question

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "agent/ec2ssh_agent/schemas/reach.json").read_text())

OFFICE = """\
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:ssh - [0:0]
-A INPUT -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
-A INPUT -p tcp -m tcp --dport 22 -j ssh
-A ssh -s 192.0.2.0/24 -j ACCEPT
-A ssh -s 203.0.113.0/24 -m limit --limit 3/min -j ACCEPT
-A ssh -s 198.51.100.0/24 -j REJECT --reject-with tcp-reset
-A ssh -s 10.0.0.0/8 -m string --string x --algo bm -j ACCEPT
COMMIT
"""
SHUT = "*filter\n:INPUT DROP [0:0]\nCOMMIT\n"


class Done(NamedTuple):
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        document = json.loads(self.out)
        jsonschema.validate(document, SCHEMA, cls=jsonschema.Draft202012Validator)
        return document


def reach(*options: object, stdin: str = "", tail: tuple[int, ...] = ()) -> Done:
    argv = [sys.executable, "-m", "ec2ssh_agent", "--config", "/nonexistent/agent.conf", "reach", *map(str, options)]
    env = {**os.environ, "PYTHONPATH": str(ROOT / "agent")}
    done = subprocess.run(
        argv, input=stdin.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=60, env=env, pass_fds=tail
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err
    return Done(done.returncode, out, err)


def put(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.fixture
def office(tmp_path: Path) -> Path:
    return put(tmp_path, "rules.v4", OFFICE)


def answer_of(document: Any, family: str = "ipv4") -> Any:
    (found,) = (item for item in document["answers"] if item["family"] == family)
    return found


def outcome_of(answer: Any, address: str) -> str:
    value = addresses.parse_address(address)[1]
    (found,) = (
        outcome
        for outcome, sources in answer["sources"].items()
        if any(low <= value <= high for low, high in (addresses.parse_cidr(source)[1] for source in sources))
    )
    return str(found)


# --- documents ---------------------------------------------------------------------------------------------------


def test_the_document_says_who_sees_what_and_why(office: Path) -> None:
    done = reach("--iptables-save", office, "--json")
    assert done.status == 0
    answer = answer_of(done.json)
    assert (answer["interface"], answer["to"], answer["port"]) == ("eth0", ["10.0.5.20"], 22)
    seen = {address: outcome_of(answer, address) for address in (
        "192.0.2.1", "203.0.113.9", "198.51.100.7", "10.1.1.1", "8.8.8.8", "127.0.0.1", "10.0.5.20")}  # fmt: skip
    assert seen == {
        "192.0.2.1": "connected", "203.0.113.9": "connected", "198.51.100.7": "refused", "10.1.1.1": "uncertain",
        "8.8.8.8": "timeout", "127.0.0.1": "timeout", "10.0.5.20": "timeout",
    }  # fmt: skip
    (refusing,) = (rule for rule in answer["rules"] if rule["outcome"] == "refused")
    assert refusing == {
        "outcome": "refused", "possible": ["refused"], "rate_limited": False, "sources": ["198.51.100.0/24"],
        "stage": "syn", "hook": "input", "priority": 0, "backend": "iptables-legacy", "table": "ip filter",
        "chain": "ssh", "rule": 3, "handle": None,
        "text": "-A ssh -s 198.51.100.0/24 -j REJECT --reject-with tcp-reset",
    }  # fmt: skip
    (limited,) = (r for r in answer["rules"] if r["rate_limited"] and r["stage"] == "syn" and r["rule"])
    assert (limited["sources"], limited["possible"]) == (["203.0.113.0/24"], ["connected", "timeout"])
    assert any(r["text"] == "-P INPUT DROP" and r["rule"] is None for r in answer["rules"] if r["outcome"] == "timeout")


def test_the_lists_part_the_whole_space(office: Path) -> None:
    document = reach("--iptables-save", office, "--json").json
    for answer in document["answers"]:
        family = Family(answer["family"])
        ranges = [addresses.parse_cidr(c)[1] for sources in answer["sources"].values() for c in sources]
        assert addresses.normal(ranges) == addresses.SPACE[family]
        assert sum(high - low + 1 for low, high in ranges) == 1 << addresses.BITS[family]
        for sources in answer["sources"].values():
            whole = addresses.normal(addresses.parse_cidr(source)[1] for source in sources)
            assert list(addresses.cidrs(whole, family)) == sources


def test_the_text_in_pieces_is_the_document() -> None:
    ranges = tuple((place * 7, place * 7 + 3) for place in range(5_000))
    rule = Deciding(Outcome.TIMEOUT, (Outcome.TIMEOUT,), False, ranges, "syn", text='"sources": [] "', table="ip x")
    sources = tuple((outcome, ranges if outcome is Outcome.TIMEOUT else ()) for outcome in Outcome)
    answer = Answer("eth0", Family.IPV4, (5, 6), 22, sources, Neighbours(True, (rule,)), (rule, rule))
    trace = Trace(1, Family.IPV4, 5, "eth0", 22, Outcome.TIMEOUT, (Outcome.TIMEOUT,), False, ())
    for made in (Reach(()), Reach((answer, answer), (("eth1", Family.IPV6, "no address"),))):
        for traces in ((), (trace,)):
            assert json.loads("".join(reach_json.pieces(made, traces))) == to_json(made, traces)


def test_the_question_can_be_another(tmp_path: Path) -> None:
    rules = put(tmp_path, "rules.v4", "*filter\n-A INPUT -i ens5 -d 192.0.2.9/32 -p tcp --dport 2222 -j DROP\nCOMMIT\n")
    given = ["--iptables-save", rules, "--json", "--to", "192.0.2.9/24", "--to", "192.0.2.10/24"]
    document = reach(*given, "--interface", "ens5", "--interface", "ens6", "--port", 2222).json
    found = {(item["interface"], tuple(item["to"])): item["sources"]["connected"] for item in document["answers"]}
    assert not found["ens5", ("192.0.2.9",)]
    assert found["ens5", ("192.0.2.10",)]
    assert found["ens6", ("192.0.2.9", "192.0.2.10")]
    assert {item["port"] for item in document["answers"]} == {2222}


def test_ipv6_and_its_neighbours(tmp_path: Path) -> None:
    rules = put(tmp_path, "rules.v6", SHUT.replace("COMMIT", "-A INPUT -p tcp --dport 22 -j ACCEPT\nCOMMIT"))
    answer = answer_of(reach("--ip6tables-save", rules, "--json").json, "ipv6")
    assert answer["nd"]["blocked"]
    assert {rule["text"] for rule in answer["nd"]["rules"]} == {"-P INPUT DROP"}
    assert "BLOCKED" in reach("--ip6tables-save", rules).out


def test_tcp_wrappers(tmp_path: Path) -> None:
    allow = put(tmp_path, "hosts.allow", "# ours\nsshd: 192.0.2.\n")
    deny = put(tmp_path, "hosts.deny", "\nALL: ALL\n")
    done = reach("--hosts-allow", allow, "--hosts-deny", deny, "--json")
    answer = answer_of(done.json)
    assert outcome_of(answer, "192.0.2.7") == "connected"
    assert outcome_of(answer, "8.8.8.8") == "closed"
    (rule,) = (rule for rule in answer["rules"] if rule["outcome"] == "closed")
    assert (rule["stage"], rule["backend"], rule["table"], rule["rule"]) == (
        "wrappers",
        "tcp-wrappers",
        "hosts.deny",
        2,
    )
    assert reach("--hosts-deny", deny).status == 2
    assert "hosts.deny 2  reject    ALL: ALL\n" in reach("--hosts-deny", deny, "--from", "8.8.8.8").out
    nobody = reach("--hosts-allow", allow, "--from", "8.8.8.8")
    assert nobody.out.endswith("accept    no line of hosts.allow or hosts.deny matches\n")


# --- the rules of several tools ----------------------------------------------------------------------------------

NFT = {
    "nftables": [
        {"table": {"family": "ip", "name": "filter", "handle": 1}},
        {"chain": {"family": "ip", "table": "filter", "name": "INPUT", "handle": 1, "type": "filter", "hook": "input",
                   "prio": 0, "policy": "accept"}},
        {"rule": {"family": "ip", "table": "filter", "chain": "INPUT", "handle": 7, "expr": [
            {"xt": None}, {"counter": {"packets": 0, "bytes": 0}}, {"xt": None}]}},
    ]
}  # fmt: skip
SAVED = """\
# Generated by iptables-save v1.8.9 (nf_tables) on Sat Nov 28 12:00:00 2026
*filter
:INPUT ACCEPT [0:0]
-A INPUT -m iprange --src-range 192.0.2.1-192.0.2.9 -j REJECT --reject-with tcp-reset
COMMIT
"""


def test_iptables_own_words_fill_in_what_nft_cannot_print(tmp_path: Path) -> None:
    listing = put(tmp_path, "nft.json", json.dumps(NFT))
    alone = answer_of(reach("--nft-json", listing, "--json").json)
    assert outcome_of(alone, "192.0.2.5") == "uncertain"
    saved = put(tmp_path, "saved", SAVED)
    answer = answer_of(reach("--nft-json", listing, "--iptables-save", saved, "--json").json)
    assert (outcome_of(answer, "192.0.2.5"), outcome_of(answer, "192.0.2.10")) == ("refused", "connected")
    (rule,) = (rule for rule in answer["rules"] if rule["outcome"] == "refused")
    assert (rule["backend"], rule["rule"], rule["handle"]) == ("iptables-nft", 1, 7)


def test_a_legacy_file_beside_a_listing_is_a_second_firewall(tmp_path: Path) -> None:
    listing = put(tmp_path, "nft.json", json.dumps({"nftables": NFT["nftables"][:2]}))
    legacy = put(tmp_path, "legacy", SHUT)
    done = reach("--nft-json", listing, "--iptables-save", legacy, "--json")
    assert not answer_of(done.json)["sources"]["connected"]
    assert {rule["backend"] for rule in answer_of(done.json)["rules"] if rule["table"]} == {"iptables-legacy"}


def test_standard_input_and_pipes(tmp_path: Path) -> None:
    assert reach("--iptables-save", "-", "--from", "8.8.8.8", stdin=SHUT).status == 2
    read, write = os.pipe()
    os.write(write, SHUT.encode())
    os.close(write)
    done = reach("--iptables-save", f"/dev/fd/{read}", "--from", "8.8.8.8", tail=(read,))
    os.close(read)
    assert done.status == 2


# --- exit status and errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sources", "status"),
    [
        (["192.0.2.1", "203.0.113.1"], 0),
        (["192.0.2.1", "8.8.8.8"], 2),
        (["192.0.2.1", "10.1.1.1"], 1),
        (["10.1.1.1", "8.8.8.8"], 2),
    ],
)
def test_exit_status_with_from(office: Path, sources: list[str], status: int) -> None:
    options = [word for source in sources for word in ("--from", source)]
    assert reach("--iptables-save", office, *options).status == status
    done = reach("--iptables-save", office, *options, "--json")
    assert done.status == status
    assert [trace["address"] for trace in done.json["from"]] == sources


def test_exit_status_of_files(tmp_path: Path) -> None:
    shut4 = put(tmp_path, "shut4", SHUT)
    shut6 = put(tmp_path, "shut6", SHUT)
    unsure = put(
        tmp_path, "unsure", SHUT.replace("COMMIT", "-A INPUT -m string --string x --algo bm -j ACCEPT\nCOMMIT")
    )
    assert reach("--iptables-save", shut4).status == 0  # IPv6 is open
    assert reach("--iptables-save", shut4, "--ip6tables-save", shut6).status == 2
    assert reach("--iptables-save", unsure, "--to", "10.0.5.20/24").status == 1


def test_exit_status_of_networks_behind_other_interfaces() -> None:
    """Containers' addresses never come in by eth0: that theirs cannot be told is no trouble. Half the world's is."""
    for elsewhere, status in (("172.17.0.0/16", 0), ("0.0.0.0/1", 1)):
        route = Route(Family.IPV4, parse_cidr(elsewhere)[1], "docker0")
        found = analyse(question(routes=(*ROUTES, route)), filter_input())
        assert {rule.cause for rule in found.answers[0].rules} == {None, Cause.MARTIAN, Cause.ELSEWHERE}
        document = reach_command.Document(found, (), live=True)
        assert reach_command.exit_status(document, argparse.Namespace()) == status, elsewhere


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--from", "8.8.8"], 64, "--from not an address: 8.8.8"),
        (["--port", "0"], 64, "--port 0 is not between 1 and 65535"),
        (["--port", "ssh"], 64, "invalid int value"),
        (["--to", "10.0.5.20/33"], 64, "--to not a prefix length: 10.0.5.20/33"),
        (["--to", "10.0.5.20", "--from", "2001:db8::1"], 64, "there is no local ipv6 address"),
        (["--iptables-save", "/nonexistent/rules"], 66, "/nonexistent/rules: No such file or directory"),
        (["--iptables-save", "/etc"], 66, "/etc: Is a directory"),
        (["--nft-json", "/dev/null"], 65, "not JSON"),
        (["--iptables-save", "-", "--ip6tables-save", "-"], 64, "standard input (-) can be read once only"),
    ],
)
def test_errors_are_one_line(office: Path, options: list[str], status: int, message: str) -> None:
    done = reach("--iptables-save", office, *options) if "--iptables-save" not in options else reach(*options)
    assert (done.status, done.out) == (status, "")
    assert message in done.err.splitlines()[-1]


def test_a_line_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    rules = put(tmp_path, "rules.v4", OFFICE.replace("--dport 22", "--dprot 22"))
    done = reach("--iptables-save", rules)
    assert done.status == 65
    line = "-A INPUT -p tcp -m tcp --dprot 22 -j ssh"
    assert done.err == f"ec2ssh-agent: {rules}: iptables: line 7: '--dprot' is not understood: {line}\n"


@pytest.mark.parametrize(
    ("chains", "message"),
    [
        (["a", "b", "a"], "is entered from itself"),
        ([f"c{i}" for i in range(10_000)], "chains are nested deeper than"),
    ],
    ids=["loop", "nested"],
)
def test_rules_that_no_kernel_takes(tmp_path: Path, chains: list[str], message: str) -> None:
    heads = "".join(f":{name} - [0:0]\n" for name in dict.fromkeys(chains))
    jumps = "".join(f"-A {one} -j {other}\n" for one, other in zip(["INPUT", *chains], chains))
    done = reach("--iptables-save", put(tmp_path, "rules", f"*filter\n{heads}{jumps}COMMIT\n"))
    assert (done.status, done.out) == (65, "")
    assert message in done.err


def test_one_file_of_a_variant_a_family(office: Path, tmp_path: Path) -> None:
    other = put(tmp_path, "other", SHUT)
    done = reach("--iptables-save", office, "--iptables-save", other)
    assert (done.status, done.err) == (64, f"ec2ssh-agent: {other}: a second file of iptables-legacy for ipv4\n")
    both = reach("--iptables-save", office, "--iptables-save", put(tmp_path, "saved", SAVED), "--json")
    assert outcome_of(answer_of(both.json), "192.0.2.5") == "refused"


# --- pages -------------------------------------------------------------------------------------------------------


def test_the_page_for_a_person(office: Path) -> None:
    done = reach("--iptables-save", office, "--to", "10.0.5.20/24")
    assert (
        done.out
        == """\
port 22 of 10.0.5.20 on eth0 (ipv4)
  gets in
    192.0.2.0/24
        ip filter ssh 1: -A ssh -s 192.0.2.0/24 -j ACCEPT
    203.0.113.0/24: rate-limited, then timeout
        ip filter ssh 2: -A ssh -s 203.0.113.0/24 -m limit --limit 3/min -j
          ACCEPT
  does not get in
    198.51.100.0/24: refused ("Connection refused")
        ip filter ssh 3: -A ssh -s 198.51.100.0/24 -j REJECT --reject-with
          tcp-reset
    everybody else: timeout ("Connection timed out")
        ip filter INPUT: -P INPUT DROP
  cannot be told from the rules
    10.0.0.0/8: may be connected, timeout
        ip filter ssh 4: -A ssh -s 10.0.0.0/8 -m string --string x --algo bm -j
          ACCEPT
  never, whatever the rules say: 0.0.0.0, 10.0.5.20, 10.0.5.255, 127.0.0.0/8,
    224.0.0.0/4, 255.255.255.255
"""
    )


def test_the_path_of_one_source(office: Path) -> None:
    done = reach("--iptables-save", office, "--from", "198.51.100.7")
    assert done.out.startswith("""\
198.51.100.7 -> 10.0.5.20 port 22 on eth0: refused ("Connection refused")
  the client's SYN comes in
    1  input        ip filter INPUT 2  jump
       -A INPUT -p tcp -m tcp --dport 22 -j ssh
    2  input        ip filter ssh 3    reject
       -A ssh -s 198.51.100.0/24 -j REJECT --reject-with tcp-reset
""")


def test_the_path_of_a_syn_that_is_sent_again(tmp_path: Path) -> None:
    text = """\
*filter
:INPUT DROP [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
-A INPUT -m state --state NEW -j ACCEPT
-A INPUT -j REJECT
-A OUTPUT -p tcp -j DROP
COMMIT
"""
    page = reach("--iptables-save", put(tmp_path, "rules", text), "--from", "192.0.2.1").out
    told = [line.split() for line in page.splitlines() if line[:3] != "   " or line[4:5].isdigit()]
    assert told[1:] == [
        "the client's SYN comes in".split(),
        "1 input ip filter INPUT 1 accept".split(),
        "the answer goes out".split(),
        "2 output ip filter OUTPUT 1 drop -A OUTPUT -p tcp -j DROP".split(),
        "the client's SYN comes in again".split(),
        "3 input ip filter INPUT 2 reject -A INPUT -j REJECT".split(),
        "the answer goes out again".split(),
        "4 output ip filter OUTPUT policy -P OUTPUT ACCEPT".split(),
    ]


def test_a_policy_is_told_of_only_where_no_rule_let_in(tmp_path: Path) -> None:
    text = "*mangle\nCOMMIT\n" + OFFICE.replace("-A ssh -s 203", "-A ssh -s 192.0.2.0/23 -j ACCEPT\n-A ssh -s 203")
    raw = "*raw\n-A PREROUTING -s 192.0.2.0/24 -j ACCEPT\nCOMMIT\n"
    page = reach("--iptables-save", put(tmp_path, "rules", raw + text), "--to", "10.0.5.20/24").out
    assert "-P PREROUTING" not in page
    assert "    192.0.2.0/24\n        ip raw PREROUTING 1: -A PREROUTING -s 192.0.2.0/24 -j ACCEPT\n" in page
    opened = reach("--iptables-save", put(tmp_path, "open", "*mangle\nCOMMIT\n"), "--to", "10.0.5.20/24").out
    assert "    everybody\n        ip mangle PREROUTING: -P PREROUTING ACCEPT\n" in opened


def test_nobody_gets_in(tmp_path: Path) -> None:
    done = reach("--iptables-save", put(tmp_path, "rules", SHUT), "--to", "10.0.5.20/24")
    assert done.out.splitlines()[1:5] == [
        "  gets in: nobody",
        "  does not get in",
        '    everybody: timeout ("Connection timed out")',
        "        ip filter INPUT: -P INPUT DROP",
    ]


def test_what_a_rule_says_cannot_drive_the_terminal(tmp_path: Path) -> None:
    evil = 'COMMIT -A INPUT -m comment --comment "\x1b]0;pwned\x07\x9b2J\u202e" -j DROP'
    rules = put(tmp_path, "rules", "*filter\n" + evil.replace("COMMIT ", "") + "\nCOMMIT\n")
    for options in ([], ["--from", "8.8.8.8"]):
        out = reach("--iptables-save", rules, *options).out
        assert "pwned" in out
        assert all(c.isprintable() or c == "\n" for c in out)
