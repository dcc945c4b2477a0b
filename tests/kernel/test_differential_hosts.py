"""What is no rule of a table: both backends at once, routes and rp_filter, listeners. The kernel is asked each time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from differential import said
from ec2ssh_agent.reach import analyse
from ec2ssh_agent.reach.addresses import parse_address, parse_cidr
from ec2ssh_agent.reach.question import Link, Listening, Local, Outcome, Question, Route, RoutingRule
from ec2ssh_agent.reach.ruleset import Backend, Family, Ruleset
from iptables_rulesets import Made
from iptables_world import OTHER, Layer, clean, differences, load, read
from nft_world import PORT, V4, World, world

DEFAULT = Route(Family.IPV4, parse_cidr("0.0.0.0/0")[1], "eth0")
LOCAL = Local(Family.IPV4, parse_address(V4)[1], 32)
NO_RULES = Ruleset(())
ASKED = ["192.0.2.1", "192.0.2.200", "198.51.100.1", "203.0.113.9", "0.0.0.1", "240.0.0.1", "10.0.5.1"]


@pytest.fixture(scope="module")
def place() -> Iterator[World]:
    with world(other=OTHER) as made:
        yield made


def wrong(place: World, question: Question, *, ruleset: Ruleset = NO_RULES, asked: Sequence[str] = ASKED) -> list[str]:
    """Certain answers that differ, and uncertain ones of which the kernel's is none."""
    reach = analyse(question, ruleset)
    found: dict[str, str] = {}
    for wait in (0.0, 4.0):
        # What is late on a busy machine is no difference: what differs does so again, however long one waits.
        asked, found = list(found) if wait else list(asked), {}
        for source, lived in zip(asked, place.ask(list(asked), wait=wait)):
            about = said(reach, source)
            if lived not in about.possible or (about.outcome is not Outcome.UNCERTAIN and about.outcome.value != lived):
                found[source] = f"{source}: kernel {lived}, analysis {about.outcome.value} of {sorted(about.possible)}"
        if not found:
            break
    return list(found.values())


def question(*routes: Route, rp_filter: int = 0, rules: tuple[RoutingRule, ...] = ()) -> Question:
    listeners = (Listening(Family.IPV4, 0, PORT), Listening(Family.IPV4, 0, OTHER))
    return Question(PORT, (Link("eth0", 2, (LOCAL,), rp_filter),), listeners, (DEFAULT, *routes), rules)


def test_accept_drop_and_reject_of_both_backends() -> None:
    """In equal tables the order is the kernel's: of a drop and a rejection either may be seen."""
    verdicts = ("ACCEPT", "DROP", "REJECT --reject-with icmp-host-prohibited")
    pairs = [(f"198.51.100.{n}", a, b) for n, (a, b) in enumerate(((a, b) for a in verdicts for b in verdicts), 1)]

    def layer(backend: Backend, place: int) -> Layer:
        rules = [f"-A INPUT -s {pair[0]} -p tcp --dport 22 -j {pair[place]}" for pair in pairs]
        text = "\n".join(["*filter", ":INPUT ACCEPT [0:0]", *rules, "COMMIT", ""])
        return Layer(Family.IPV4, backend, Made(text, "", edges=(), unknowable=False))

    with world(other=OTHER) as place:
        wanted = [layer(Backend.LEGACY, 1), layer(Backend.IPTABLES_NFT, 2)]
        assert load(place, wanted) is None
        assert not differences(place, wanted, [pair[0] for pair in pairs])


@pytest.mark.parametrize("rp_filter", [0, 1, 2])
def test_routes_back(place: World, rp_filter: int) -> None:
    clean(place)
    place.host.run("sh", "-c", f"""set -e
        ip link add other0 type veth peer name other1; ip link set other0 up; ip link set other1 up
        sysctl -qw net.ipv4.conf.eth0.rp_filter={rp_filter}
        ip route add 192.0.2.0/25 dev other0
        ip route add blackhole 198.51.100.0/24
        ip route add throw 203.0.113.0/24""")  # fmt: skip
    try:
        routes = (
            Route(Family.IPV4, parse_cidr("192.0.2.0/25")[1], "other0"),
            Route(Family.IPV4, parse_cidr("198.51.100.0/24")[1], "", "blackhole"),
            Route(Family.IPV4, parse_cidr("203.0.113.0/24")[1], "", "throw"),
        )
        assert not wrong(place, question(*routes, rp_filter=rp_filter))
    finally:
        place.host.run("sh", "-c", """ip link del other0; ip route del blackhole 198.51.100.0/24
            ip route del throw 203.0.113.0/24; sysctl -qw net.ipv4.conf.eth0.rp_filter=0""")  # fmt: skip


def test_policy_rules(place: World) -> None:
    clean(place)
    place.host.run("sh", "-c", """set -e
        ip rule add priority 100 to 192.0.2.0/25 prohibit
        ip rule add priority 101 iif eth0 to 203.0.113.0/24 blackhole
        ip rule add priority 102 from 10.0.5.20 to 198.51.100.0/24 lookup 77""")  # fmt: skip
    rules = (
        RoutingRule(Family.IPV4, 0, 255),
        RoutingRule(Family.IPV4, 100, 0, destination=parse_cidr("192.0.2.0/25")[1], action="prohibit"),
        RoutingRule(Family.IPV4, 101, 0, destination=parse_cidr("203.0.113.0/24")[1], iif="eth0", action="blackhole"),
        RoutingRule(
            Family.IPV4, 102, 77, source=parse_cidr(f"{V4}/32")[1], destination=parse_cidr("198.51.100.0/24")[1]
        ),
        RoutingRule(Family.IPV4, 32766, 254),
    )
    try:
        assert not wrong(place, question(rules=rules))
    finally:
        place.host.run("sh", "-c", "for n in 100 101 102; do ip rule del priority $n; done")


@pytest.mark.parametrize("agreed", [(3, 4, 8), (3, 4), (3, 8), (4, 8)])
def test_tcp_options_that_the_host_agrees_to(place: World, agreed: tuple[int, ...]) -> None:
    """One source sees a reply with each of the options dropped, and an ACK with timestamps."""
    settings = {3: "tcp_window_scaling", 4: "tcp_sack", 8: "tcp_timestamps"}
    lines = [f"-A OUTPUT -d 192.0.2.{kind} -p tcp --tcp-option {kind} -j DROP" for kind in (2, 3, 4, 8)]
    lines.append("-A INPUT -s 198.51.100.8 -p tcp -m tcp --tcp-flags SYN NONE --tcp-option 8 -j DROP")
    chains = (":INPUT ACCEPT [0:0]", ":FORWARD ACCEPT [0:0]", ":OUTPUT ACCEPT [0:0]")
    text = "\n".join(["*filter", *chains, *lines, "COMMIT", ""])
    layer = Layer(Family.IPV4, Backend.IPTABLES_NFT, Made(text, "", edges=(), unknowable=False))
    assert load(place, [layer]) is None
    place.host.run("sysctl", "-qw", *(f"net.ipv4.{name}={int(kind in agreed)}" for kind, name in settings.items()))
    try:
        asked = [*(f"192.0.2.{kind}" for kind in (2, 3, 4, 8)), "198.51.100.8"]
        ruleset = read([layer], {layer.save: text}, "")
        assert not wrong(place, question()._replace(tcp_options=agreed), ruleset=ruleset, asked=asked)
    finally:
        place.host.run("sysctl", "-qw", *(f"net.ipv4.{name}=1" for name in settings.values()))


def test_ports_without_a_listener(place: World) -> None:
    clean(place)
    asked = question()._replace(listeners=(Listening(Family.IPV4, 0, OTHER),), port=PORT + 1)
    reach = analyse(asked, Ruleset(()))
    assert said(reach, "192.0.2.1").outcome is Outcome.REFUSED
    assert place.ask(["192.0.2.1"], port=PORT + 1) == ["refused"]
