"""Links, addresses, routes and policy rules that the real kernel holds in namespaces of our own, as observed."""

from __future__ import annotations

import base64
import ipaddress
import os
import pickle
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ec2ssh_agent.facts import Interface, Network
from ec2ssh_agent.reach.question import Route, RoutingRule
from ec2ssh_agent.reach.ruleset import Family
from namespace import Namespace, namespace

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def here() -> Iterator[Namespace]:
    with namespace() as made:
        yield made


def look(here: Namespace, *what: str) -> Any:
    probe = str(Path(__file__).with_name("observe_probe.py"))
    out = here.run("env", f"PYTHONPATH={ROOT / 'agent'}", sys.executable, probe, *what)
    return pickle.loads(base64.b64decode(out))


def network(here: Namespace) -> Network:
    got = look(here, "network")
    assert isinstance(got, Network), got
    return got


def ip(here: Namespace, *commands: str) -> None:
    four = [command for command in commands if not command.startswith("-6 ")]
    six = [command[3:] for command in commands if command.startswith("-6 ")]
    for batch, family in ((four, ()), (six, ("-6",))):
        if batch:
            here.run("ip", *family, "-batch", "-", stdin="\n".join(batch) + "\n")


def cables(here: Namespace, *names: str) -> None:
    """Interfaces with a link: each is one end of a veth pair within the namespace."""
    for name in names:
        ip(here, f"link add {name} type veth peer name {name}x", f"link set {name}x up", f"link set {name} up")


def interface(net: Network, name: str) -> Interface:
    (found,) = (item for item in net.interfaces if item.name == name)
    return found


def span(text: str) -> tuple[int, int]:
    parsed = ipaddress.ip_network(text)
    return int(parsed.network_address), int(parsed.broadcast_address)


def test_links_and_addresses(here: Namespace) -> None:
    with namespace() as other:
        ip(
            here,
            f"link add eth0 type veth peer name eth0 netns {other.pid}",
            "link add inner type veth peer name inner2",
            "link add br-1 type bridge",
            "link set inner2 master br-1",
            "addr add 10.0.5.20/24 dev eth0",
            "addr add 169.254.1.1/16 scope link dev eth0",
            "addr add 10.9.0.1 peer 10.9.0.2/32 dev inner",
            "-6 addr add 2001:db8:5::20/64 dev eth0 nodad",
            "link set eth0 up",
        )
        before = network(here)
        ip(other, "link set eth0 up")
        after = network(here)
    eth0, inner, bridge = interface(before, "eth0"), interface(before, "inner"), interface(before, "br-1")
    assert (eth0.kind, eth0.up, eth0.carrier) == ("veth", True, False)
    assert interface(after, "eth0").carrier
    assert not inner.up
    assert bridge.kind == "bridge" and interface(before, "inner2").master == bridge.index
    assert interface(before, "lo").loopback
    shown = {(str(ipaddress.ip_address(a.address)), a.prefix, a.scope) for a in eth0.addresses}
    assert {("10.0.5.20", 24, "global"), ("169.254.1.1", 16, "link"), ("2001:db8:5::20", 64, "global")} <= shown
    assert inner.addresses[0].address == int(ipaddress.ip_address("10.9.0.1"))  # not the peer's


def test_a_tentative_address_until_duplicates_are_ruled_out(here: Namespace) -> None:
    with namespace() as other:
        ip(here, f"link add eth0 type veth peer name eth0 netns {other.pid}", "link set eth0 up")
        ip(other, "link set eth0 up")
        ip(here, "-6 addr add 2001:db8:5::20/64 dev eth0")
        wanted = int(ipaddress.ip_address("2001:db8:5::20"))
        seen: list[bool] = []
        end = time.monotonic() + 20
        while time.monotonic() < end and (not seen or seen[-1]):
            seen += [a.tentative for a in interface(network(here), "eth0").addresses if a.address == wanted]
    assert seen[0] is True and seen[-1] is False


def test_rp_filter_is_the_stricter_number_of_all_and_the_interface(here: Namespace) -> None:
    cables(here, "eth0", "eth1")
    for name, value in (("all", 1), ("eth0", 2), ("eth1", 0)):
        here.run("sysctl", "-qw", f"net.ipv4.conf.{name}.rp_filter={value}")
    net = network(here)
    assert (interface(net, "eth0").rp_filter, interface(net, "eth1").rp_filter) == (2, 1)


def test_tcp_options_that_this_host_agrees_to(here: Namespace) -> None:
    assert network(here).tcp_options == (3, 4, 8)
    here.run("sysctl", "-qw", "net.ipv4.tcp_timestamps=0", "net.ipv4.tcp_sack=0")
    assert network(here).tcp_options == (3,)


def test_routes_of_all_kinds_and_tables(here: Namespace) -> None:
    cables(here, "eth0", "eth1")
    ip(
        here,
        "addr add 10.0.5.20/24 dev eth0",
        "addr add 10.0.6.20/24 dev eth1",
        "route add default nexthop via 10.0.5.1 nexthop via 10.0.6.1",
        "route add blackhole 192.0.2.0/24 metric 7",
        "route add unreachable 198.51.100.0/24 table 100",
        "route add prohibit 203.0.113.0/24 table 1000",
        "route add throw 10.99.0.0/16",
        "-6 route add unreachable 2001:db8:dead::/48",
        "-6 route add default dev eth1 metric 50",
        "nexthop add id 7 via 10.0.5.9 dev eth0",
        "nexthop add id 8 via 10.0.6.9 dev eth1",
        "nexthop add id 9 group 7/8",
        "route add 10.50.0.0/16 nhid 9",
    )
    routes = set(network(here).routes)
    four, six = Family.IPV4, Family.IPV6
    assert {
        Route(four, span("0.0.0.0/0"), "eth0"),
        Route(four, span("0.0.0.0/0"), "eth1"),
        Route(four, span("192.0.2.0/24"), "", "blackhole", metric=7),
        Route(four, span("198.51.100.0/24"), "", "unreachable", 100),
        Route(four, span("203.0.113.0/24"), "", "prohibit", 1000),
        Route(four, span("10.99.0.0/16"), "", "throw"),
        Route(four, span("10.0.5.20/32"), "eth0", "local", 255),
        Route(four, span("10.50.0.0/16"), "eth0"),
        Route(four, span("10.50.0.0/16"), "eth1"),
        Route(six, span("::/0"), "eth1", metric=50),
    } <= routes
    assert any(r.destination == span("2001:db8:dead::/48") and r.kind == "unreachable" for r in routes)
    # The kernel's own view, as far as it is one line a route.
    assert len([r for r in routes if r.family is four and r.table == 255]) == len(
        here.run("ip", "-4", "route", "show", "table", "local").splitlines()
    )


def test_policy_rules(here: Namespace) -> None:
    ip(
        here,
        "rule add priority 50 from 10.0.0.0/8 lookup 100",
        "rule add priority 60 not fwmark 0x1/0xff lookup 1000",
        "rule add priority 70 to 192.0.2.0/24 iif eth0 prohibit",
        "rule add priority 80 lookup main suppress_prefixlength 0",
        "rule add priority 90 goto 200",
        "rule add priority 100 ipproto udp lookup 5",
        "rule add priority 110 ipproto tcp sport 22 oif eth1 lookup 5",
        "rule add priority 120 uidrange 0-99 lookup 5",
        "rule add priority 130 uidrange 1000-2000 lookup 5",
        "rule add priority 200 fwmark 7 unreachable",
        "-6 rule add priority 55 from 2001:db8::/32 blackhole",
    )
    rules = {(rule.family, rule.priority): rule for rule in network(here).rules}
    four, six = Family.IPV4, Family.IPV6

    def four_is(priority: int, wanted: RoutingRule) -> None:
        assert rules[four, priority] == wanted

    four_is(0, RoutingRule(four, 0, 255))
    four_is(50, RoutingRule(four, 50, 100, source=span("10.0.0.0/8")))
    four_is(60, RoutingRule(four, 60, 1000, mark=1, mask=0xFF, negated=True))
    four_is(70, RoutingRule(four, 70, 0, destination=span("192.0.2.0/24"), iif="eth0", action="prohibit"))
    four_is(80, RoutingRule(four, 80, 254, suppress=0))
    four_is(90, RoutingRule(four, 90, 0, action="goto", target=200))
    four_is(100, RoutingRule(four, 100, 5, other="ipproto 17"))
    four_is(110, RoutingRule(four, 110, 5, oif="eth1", other="sport 22-22"))
    four_is(120, RoutingRule(four, 120, 5))
    four_is(130, RoutingRule(four, 130, 5, other="uidrange 1000-2000"))
    four_is(200, RoutingRule(four, 200, 0, mark=7, mask=0xFFFFFFFF, action="unreachable"))
    assert rules[six, 55] == RoutingRule(six, 55, 0, source=span("2001:db8::/32"), action="blackhole")
    assert [r.priority for r in network(here).rules if r.family is four] == sorted(p for f, p in rules if f is four)


def test_what_bypasses_netfilter(here: Namespace) -> None:
    cables(here, "eth0", "eth1")
    assert look(here, "bypass") == ()
    here.run("tc", "qdisc", "add", "dev", "eth0", "clsact")
    assert look(here, "bypass") == ()
    to = ("flowid", "1:1")
    here.run("tc", "filter", "add", "dev", "eth0", "ingress", "protocol", "all", "bpf", "bytecode", "1,6 0 0 0", *to)
    here.run("tc", "filter", "add", "dev", "eth0", "egress", "protocol", "ip", "u32", "match", "u32", "0", "0", *to)
    ip(
        here,
        "xfrm policy add src 10.1.0.0/16 dst 10.0.5.20/32 dir in tmpl proto esp mode transport",
        "xfrm policy add src 10.2.0.0/16 dst 10.0.5.20/32 dir fwd action block",
    )
    assert set(look(here, "bypass")) == {("eth0", "tc-bpf"), ("eth0", "tc-u32"), ("", "xfrm")}


@pytest.mark.parametrize(
    "policy",
    [
        "src 10.1.0.0/16 dst 10.0.5.20/32 dir in",  # allows, and demands nothing
        "src 10.1.0.0/16 dst 10.0.5.20/32 proto udp dir in action block",
        "src 10.1.0.0/16 dst 10.0.5.20/32 dir fwd action block",
    ],
)
def test_policies_that_do_not_concern_a_login(here: Namespace, policy: str) -> None:
    ip(here, f"xfrm policy add {policy}")
    assert look(here, "bypass") == ()


def test_bpf_programs_of_the_new_kind_xdp_and_cgroups(here: Namespace) -> None:
    cables(here, "eth0", "eth1")
    group = f"/ec2ssh-observe-{os.getpid()}"
    mount = "/sys/fs/cgroup/unified" if os.path.exists("/sys/fs/cgroup/unified/cgroup.procs") else "/sys/fs/cgroup"
    os.mkdir(mount + group)
    try:
        assert set(look(here, "bypass", "xdp=eth0", "tcx=eth1")) == {("eth0", "xdp"), ("eth1", "tc-bpf")}
        assert look(here, "bypass", f"cgroup={group}") == (("", "cgroup-bpf"),)
    finally:
        os.rmdir(mount + group)
