"""IPv6 neighbour discovery through random ip6tables rules: the analysis says whether the kernel's neighbours are found.

Either side solicits once, the other knowing its neighbour already; discovery is blocked if one of the two is in vain.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from ec2ssh_agent.reach import analyse, iptables
from ec2ssh_agent.reach.addresses import parse_address, parse_cidr
from ec2ssh_agent.reach.question import Link, Listening, Local, Question, Route
from ec2ssh_agent.reach.ruleset import Backend, Family
from nft_world import PORT, V6, World, world

CLIENT = "2001:db8:5::1"
_MATCHES = (
    "",
    "-p ipv6-icmp",
    "-p ipv6-icmp -m icmp6 --icmpv6-type 135",
    "-p ipv6-icmp -m icmp6 --icmpv6-type 136",
    "-p ipv6-icmp -m icmp6 ! --icmpv6-type 135",
    "-p ipv6-icmp -m icmp6 --icmpv6-type 128",
    "-p ipv6-icmp -m hl --hl-eq 255",
    "-p ipv6-icmp -m hl --hl-lt 255",
    "-p ipv6-icmp -m conntrack --ctstate UNTRACKED",
    "-p ipv6-icmp -m conntrack --ctstate NEW,INVALID",
    "-p ipv6-icmp -m conntrack --ctstate ESTABLISHED",
    "-d ff02::/16",
    "-m pkttype --pkt-type multicast",
    "-m addrtype --dst-type MULTICAST",
    f"-p ipv6-icmp -s {V6}",
    f"-p ipv6-icmp -d {V6}",
)
QUESTION = Question(
    PORT,
    (Link("eth0", 2, (Local(Family.IPV6, parse_address(V6)[1], 64),)),),
    (Listening(Family.IPV6, 0, PORT, True),),
    (Route(Family.IPV6, parse_cidr("::/0")[1], "eth0"),),
)


def ruleset(chosen: random.Random) -> str:
    lines = ["*filter"]
    for hook in ("INPUT", "OUTPUT"):
        lines.append(f":{hook} {chosen.choice(('ACCEPT', 'ACCEPT', 'DROP'))} [0:0]")
        lines.append(f"-A {hook} -p tcp -j ACCEPT")
        for _ in range(chosen.randrange(5)):
            lines.append(f"-A {hook} {chosen.choice(_MATCHES)} -j {chosen.choice(('ACCEPT', 'ACCEPT', 'DROP'))}")
    return "\n".join([*lines, "COMMIT", ""])


@pytest.fixture(scope="module")
def place() -> Iterator[World]:
    with world() as made:
        made.host.run("ip", "-6", "route", "add", "2001:db8:5::/64", "dev", "eth0")
        made.client.run("ip", "-6", "address", "add", f"{CLIENT}/128", "dev", "eth0", "nodad")
        for each in (made.host, made.client):
            each.run("sysctl", "-qw", "net.ipv6.neigh.eth0.retrans_time_ms=100")
        yield made


def found(place: World) -> bool:
    """Whether both sides' solicitations are answered."""
    sides = ((place.client, V6, place.host, CLIENT), (place.host, CLIENT, place.client, V6))
    for asking, wanted, answering, known in sides:
        mac = {V6: "02:00:00:00:05:20", CLIENT: "02:00:00:00:05:01"}[known]
        answering.run("ip", "neighbour", "replace", known, "lladdr", mac, "nud", "permanent", "dev", "eth0")
        asking.run("sh", "-c", f"ip neighbour del {wanted} dev eth0 2>/dev/null; true")
        if place.ask([CLIENT]) != ["connected"]:
            return False
    return True


def test_the_analysis_says_whether_neighbours_are_found(place: World) -> None:
    first = int(os.environ.get("EC2SSH_SEED") or random.randrange(1 << 31))
    count = int(os.environ.get("EC2SSH_RULESETS") or 12)
    print(f"EC2SSH_SEED={first} EC2SSH_RULESETS={count}")
    for seed in range(first, first + count):
        text = ruleset(random.Random(seed))
        place.host.run("ip6tables-legacy-restore", stdin=text)
        (answer,) = analyse(QUESTION, iptables.parse(text, family=Family.IPV6, backend=Backend.LEGACY)).answers
        assert answer.nd.blocked is not found(place), f"seed {seed}: blocked {answer.nd}\n{text}"
        assert answer.nd.blocked is bool(answer.nd.rules)
