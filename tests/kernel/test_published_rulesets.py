"""The command `reach` on rulesets that people published, against what the kernel was measured to do with them.

The rulesets are other people's texts and no part of the project: they lie beside it, in ../shared/rulesets (README.md
there). Where they are not, there is nothing to test here.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ec2ssh_agent.reach import addresses
from namespace import Namespace, namespace

ROOT = Path(__file__).resolve().parents[2]
PUBLISHED = ROOT.parent / "shared" / "rulesets"

#: Bound to the broadcast address the probe has silently used the interface's own (facts.md, "Oracle traps").
BROADCAST = "198.51.100.255"
#: Where the canonical SYN of contracts.md makes the answer uncertain, whatever the one probe met, and by which rule:
#: - to some sources, replies to port 3260 are let through (as root's, which sshd's are), all others are rejected. The
#:   client's port is "anywhere in 1024-65535 (if the answer hangs on which: `uncertain`)", and 3260 is one of these;
#: - SYNs with an MSS of 1-535 are dropped. The SYN has the option; what is in it, the question leaves open ("MAC, TTL,
#:   DSCP, length, TCP options, window"). It is the MTU of the client's route less 40, and Linux sends as little as 256.
LEFT_OPEN = {
    "25_desktop__slvlnx__test_etc_dell__rules.v4": "--dport 3260",
    "34_nft__nekoponpl__sparkle.internal.nekopon.pl__nftables.conf": "tcp option maxseg size 1-535",
}


class Published(NamedTuple):
    name: str
    loader: str
    stateful: bool


def _index() -> list[Published]:
    if not PUBLISHED.is_dir():
        return []
    with (PUBLISHED / "INDEX.tsv").open(newline="") as file:
        rows = csv.DictReader(file, delimiter="\t")
        return [Published(row["file"], row["loader"], row["stateful"] == "yes") for row in rows]


INDEX = _index()


def _reach(*options: str) -> Any:
    argv = [sys.executable, "-m", "ec2ssh_agent", "reach", "--json", *options]
    done = subprocess.run(argv, cwd=ROOT / "agent", capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 1, 2), done.stderr
    assert not done.stderr
    return json.loads(done.stdout)


def _outcomes(answer: Any, address: str) -> tuple[str, set[str]]:
    """What the answer says of one source, and what it calls possible."""
    value = addresses.parse_address(address)[1]

    def holds(sources: list[str]) -> bool:
        return any(low <= value <= high for low, high in (addresses.parse_cidr(source)[1] for source in sources))

    (outcome,) = (name for name, sources in answer["sources"].items() if holds(sources))
    return outcome, {one for rule in answer["rules"] if holds(rule["sources"]) for one in rule["possible"]}


def _judge(published: Published, document: Any) -> None:
    truth = json.loads((PUBLISHED / f"{published.name}.truth.json").read_text())
    (answer,) = document["answers"]
    wrong = []
    for address, seen in truth["outcomes"].items():
        outcome, possible = _outcomes(answer, address)
        if address == BROADCAST:
            continue
        certain = outcome != "uncertain"
        if seen not in possible or certain and not published.stateful and outcome != seen:
            wrong.append(f"{address}: the kernel: {seen}, reach: {outcome}, possible {sorted(possible)}")
    assert not wrong
    doubts = {rule["text"] for rule in answer["rules"] if rule["outcome"] == "uncertain"}
    open_ = LEFT_OPEN.get(published.name)
    assert all(open_ and open_ in text for text in doubts)
    assert bool(answer["sources"]["uncertain"]) is bool(open_)


def _question(published: Published) -> list[str]:
    truth = json.loads((PUBLISHED / f"{published.name}.truth.json").read_text())
    return ["--to", f"{truth['to']}/24", "--interface", truth["interface"], "--port", str(truth["port"])]


def _listed(inside: Namespace, folder: Path) -> list[str]:
    (folder / "nft.json").write_text(inside.run("nft", "-j", "list", "ruleset"))
    return ["--nft-json", str(folder / "nft.json")]


if INDEX:

    @pytest.mark.parametrize("published", INDEX, ids=[item.name for item in INDEX])
    def test_no_answer_differs_from_the_kernel(published: Published, tmp_path: Path) -> None:
        source = PUBLISHED / published.name
        if published.loader == "iptables-save":
            given = ["--iptables-save", str(source)]
        else:
            with namespace() as inside:
                inside.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "peer0")
                inside.run("nft", "-f", str(source))
                given = _listed(inside, tmp_path)
        _judge(published, _reach(*given, *_question(published)))

    @pytest.mark.parametrize(
        "published", [item for item in INDEX if item.loader == "iptables-save"], ids=lambda item: item.name
    )
    def test_iptables_nft_seen_from_both_sides_says_the_same(published: Published, tmp_path: Path) -> None:
        """As a live host is read: nft's listing, its opaque rules in iptables' own words."""
        with namespace() as inside:
            inside.run("iptables-nft-restore", stdin=(PUBLISHED / published.name).read_text())
            given = _listed(inside, tmp_path)
            (tmp_path / "rules.v4").write_text(inside.run("iptables-nft-save"))
        _judge(published, _reach(*given, "--iptables-save", str(tmp_path / "rules.v4"), *_question(published)))
