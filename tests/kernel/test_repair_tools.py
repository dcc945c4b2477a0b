"""Tools that are missing or locked, rules that others touched, many networks, values that nobody can encode."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from ec2ssh_agent.reach.ruleset import Backend
from ec2ssh_agent.steps import Insert, Rung
from repair_world import World, said, world
from test_repair_rules import BASE, NETWORKS, TCP

NFT = Insert(Backend.IPTABLES_NFT, "ip", "filter", "INPUT", TCP)
LEGACY = Insert(Backend.LEGACY, "ip", "filter", "INPUT", TCP)
NATIVE = Insert(Backend.NFTABLES, "inet", "filter", "input", ("tcp", "dport", "22", "accept"))


@pytest.fixture
def place() -> Iterator[World]:
    with world() as made:
        yield made


def hide(place: World, path: str) -> None:
    place.sh(f"mount --bind /dev/null $(readlink -f {path})")


@pytest.mark.parametrize("step", [NFT, LEGACY])
def test_without_ipset_each_network_is_a_rule(place: World, step: Insert) -> None:
    place.sh(BASE["iptables-nft"] + ";" + BASE["iptables-legacy"])
    hide(place, "/usr/sbin/ipset")
    before = place.listing()
    made = said(place.drive("apply", rung=Rung("open", "", (step._replace(networks=NETWORKS),))))
    rules = [line for line in place.listing().splitlines() if made["records"][0]["id"] in line]
    assert len([line for line in rules if line.startswith("-A INPUT -s 10.")]) == len(NETWORKS)
    said(place.drive("undo", id=made["records"][0]["id"]))
    assert place.listing() == before


def test_everyone_fits_into_a_set(place: World) -> None:
    place.sh(BASE["iptables-nft"])
    before = place.listing()
    step = NFT._replace(networks=("0.0.0.0/0",))
    made = said(place.drive("apply", rung=Rung("open", "", (step,))))
    assert "0.0.0.0/1" in place.listing() and "128.0.0.0/1" in place.listing()
    said(place.drive("undo", id=made["records"][0]["id"]))
    assert place.listing() == before


def test_without_python_iptables_the_command_line_tool_writes(place: World) -> None:
    place.sh(BASE["iptables-legacy"] + "; mkdir /run/none; echo 'raise ImportError(\"gone\")' >/run/none/iptc.py")
    before = place.listing()
    strace = ("env", "PYTHONPATH=/run/none:" + str(_agent()))
    made = said(place.drive("apply", rung=Rung("open", "", (LEGACY,)), strace=strace))
    change = made["records"][0]["id"]
    assert (
        f'-A INPUT -p tcp -m tcp --dport 22 -m comment --comment "ec2ssh-agent:{change}" -j ACCEPT' in place.listing()
    )
    said(place.drive("undo", id=change, strace=strace))
    assert place.listing() == before


def _agent() -> str:
    from repair_world import AGENT

    return str(AGENT)


def hold(place: World, seconds: float) -> str:
    """Somebody has the lock of iptables-legacy; gives the pid of what it lasts as long as."""
    place.sh(f"""flock /run/xtables.lock sh -c 'echo $$ >/run/holder; exec sleep {seconds}' >/dev/null 2>&1 </dev/null &
        while ! test -s /run/holder; do sleep 0.02; done""")
    return place.sh("cat /run/holder; rm /run/holder").strip()


def test_a_held_lock_is_waited_for_and_its_holder_named(place: World) -> None:
    place.sh(BASE["iptables-legacy"])
    before = place.listing()
    hold(place, 1.5)
    made = said(place.drive("apply", rung=Rung("open", "", (LEGACY,))))
    said(place.drive("undo", id=made["records"][0]["id"]))
    holder = hold(place, 600)
    answer = place.drive("apply", rung=Rung("open", "", (LEGACY,)))
    assert answer and answer["error"] == "StepFailed" and "/run/xtables.lock: locked by pid" in answer["text"]
    place.sh(f"kill {holder}")
    said(place.drive("recover"))
    assert place.listing() == before


@pytest.mark.parametrize("step", [NFT, LEGACY, NATIVE])
def test_a_rule_that_others_took_away_is_undone_already(place: World, step: Insert) -> None:
    base = {NFT: "iptables-nft", LEGACY: "iptables-legacy", NATIVE: "nft"}[step]
    flush = {NFT: "iptables-nft -F", LEGACY: "iptables-legacy -F", NATIVE: "nft flush ruleset"}[step]
    place.sh(BASE[base])
    made = said(place.drive("apply", rung=Rung("open", "", (step,))))
    place.sh(flush)
    before = place.listing()
    assert said(place.drive("undo", id=made["records"][0]["id"]))["records"][0]["state"] == "undone"
    assert place.listing() == before


@pytest.mark.parametrize("step", [NFT, LEGACY, NATIVE])
def test_a_rule_that_others_changed_is_shown_and_left(place: World, step: Insert) -> None:
    base = {NFT: "iptables-nft", LEGACY: "iptables-legacy", NATIVE: "nft"}[step]
    place.sh(BASE[base])
    made = said(place.drive("apply", rung=Rung("open", "", (step,))))
    comment = f"ec2ssh-agent:{made['records'][0]['id']}"
    tool = "iptables-legacy" if step is LEGACY else "iptables-nft"
    place.sh(
        f"{tool} -R INPUT 1 -p tcp --dport 2222 -m comment --comment {comment} -j ACCEPT" if step is not NATIVE else
        f"nft insert rule inet filter input tcp dport 2222 accept comment '\"{comment}\"'"
    )  # fmt: skip
    before = place.listing()
    answer = place.drive("undo", id=made["records"][0]["id"])
    assert answer and answer["error"] == "ChangedSince" and "2222" in answer["text"]
    assert place.listing() == before


def test_a_rule_that_others_moved_is_shown_and_left(place: World) -> None:
    """iptables-save and -restore, or a manager that moved INPUT's rules into a chain of its own, keep the comment."""
    place.sh(BASE["iptables-nft"])
    made = said(place.drive("apply", rung=Rung("open", "", (NFT,))))
    place.sh("iptables-nft -N moved; iptables-nft -S INPUT 1 | sed 's/^-A INPUT/-A moved/' | xargs iptables-nft")
    place.sh("iptables-nft -D INPUT 1")
    answer = place.drive("undo", id=made["records"][0]["id"])
    # It is not where it was left: a person is shown where it is now.
    assert answer and answer["error"] == "ChangedSince" and "-A moved" in answer["text"]


def test_a_value_that_cannot_be_encoded_changes_nothing(place: World) -> None:
    place.sh(BASE["iptables-legacy"])
    before = place.listing()
    for bad in ("99999", "0x", "ssh,http"):
        step = LEGACY._replace(spec=("-p", "tcp", "--dport", bad, "-j", "ACCEPT"))
        answer = place.drive("apply", rung=Rung("open", "", (step,)))
        assert answer and answer["error"] == "StepFailed"
        assert place.listing() == before


def test_ten_thousand_networks_in_one_transaction(place: World) -> None:
    place.sh(BASE["nft"] + ";" + BASE["iptables-nft"])
    before = place.listing()
    networks = tuple(f"10.{i >> 8}.{i & 255}.0/25" for i in range(10_000))
    steps = (NATIVE._replace(networks=networks), NFT._replace(networks=networks))
    made = said(place.drive("apply", rung=Rung("open", "", steps)))
    said(place.drive("undo", id=made["records"][0]["id"]))
    assert place.listing() == before
