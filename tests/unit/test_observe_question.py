"""Which interfaces are external, and what is asked about them."""

from __future__ import annotations

import pytest

from ec2ssh_agent.config import Config
from ec2ssh_agent.facts import Address, Facts, Interface, Listener, Machine, Network, Sshd, Wrappers
from ec2ssh_agent.model import Fact, Seen, Unseen
from ec2ssh_agent.observe import question
from ec2ssh_agent.reach.question import Listening, Local, Route
from ec2ssh_agent.reach.ruleset import Family

V4, V6 = Family.IPV4, Family.IPV6
ALL4, ALL6 = (0, (1 << 32) - 1), (0, (1 << 128) - 1)
OWN = Address(V4, 0x0A000514, 24)
OWN6 = Address(V6, (0x20010DB8 << 96) + 0x20, 64)


def interface(name: str, *addresses: Address, kind: str = "", up: bool = True, master: int = 0) -> Interface:
    return Interface(name, 2, up, up, kind, addresses, master=master, loopback=name == "lo")


def default(device: str) -> Route:
    return Route(V4, ALL4, device)


def network(*interfaces: Interface, routes: tuple[Route, ...] = ()) -> Network:
    lo = interface("lo", Address(V4, 0x7F000001, 8, "host"), Address(V6, 1, 128, "host"))
    return Network((lo, *interfaces), routes, ())


def names(net: Network, config: Config) -> tuple[str, ...]:
    return question.external(net, config).names


AUTO = Config()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("docker0", "bridge"), ("br-1f2e3d4c5b6a", "bridge"), ("cni0", "bridge"), ("cali123", "veth"),
        ("virbr0", "bridge"), ("lxcbr0", "bridge"), ("veth12", "veth"), ("eth1", "veth"), ("dummy0", "dummy"),
        ("flannel.1", "vxlan"), ("vxlan.calico", "vxlan"), ("tunl0", "ipip"), ("incusbr0", "bridge"),
    ],
)  # fmt: skip
def test_inner_interfaces_are_left_out_unless_the_default_route_leaves_by_them(name: str, kind: str) -> None:
    inner = interface(name, OWN, kind=kind)
    assert names(network(inner), AUTO) == ()
    assert names(network(inner, routes=(default("eth0"),)), AUTO) == ()
    assert names(network(inner, routes=(default(name),)), AUTO) == (name,)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("ens5", ""), ("eth1.5", "vlan"), ("bond0", "bond"), ("br0", "bridge"), ("wg0", "wireguard"), ("tun0", "tun")],
)
def test_outer_interfaces_need_no_default_route(name: str, kind: str) -> None:
    assert names(network(interface(name, OWN, kind=kind)), AUTO) == (name,)


def test_what_cannot_be_asked_is_named_per_family() -> None:
    got = question.external(network(interface("eth0", OWN), interface("eth1"), interface("eth2", OWN6, up=False)), AUTO)
    assert got.names == ("eth0",)
    assert got.unseen == (
        ("eth0", V6, "no address"),
        ("eth1", V4, "no address"),
        ("eth1", V6, "no address"),
        ("eth2", V4, "no address"),
        ("eth2", V6, "no link"),
    )


def test_ports_of_bridges_fallback_tunnels_and_link_local_are_nothing_to_ask() -> None:
    link_local = Address(V6, 0xFE80 << 112, 64, "link")
    net = network(
        interface("eth0", link_local, master=5), interface("sit0", kind="sit", up=False), interface("ifb0", kind="ifb")
    )
    assert question.external(net, AUTO) == ((), ())
    alone = question.external(network(interface("eth0", link_local)), AUTO)
    assert alone.names == () and len(alone.unseen) == 2


def test_a_port_of_a_vrf_is_a_way_in_that_nobody_can_judge() -> None:
    vrf = Interface("mgmt", 9, True, True, "vrf")
    net = network(interface("eth0", OWN, master=9), vrf)
    assert question.external(net, AUTO).names == ("eth0",)
    asked = question.ask(facts(Seen(net), Sshd(), Seen(())), AUTO)
    assert asked.links[0].bypass == ("vrf",)


def test_tentative_addresses_are_not_asked_about() -> None:
    got = question.external(network(interface("eth0", OWN, OWN6._replace(tentative=True))), AUTO)
    assert got == (("eth0",), (("eth0", V6, "its address is tentative"),))


def test_configured_interfaces_are_just_these() -> None:
    net = network(interface("eth0", OWN), interface("docker0", OWN, kind="bridge"), routes=(default("eth0"),))
    got = question.external(net, Config(expect_interfaces=("docker0", "eth7")))
    assert got.names == ("docker0",)
    assert ("eth7", V4, "no such interface") in got.unseen and ("eth7", V6, "no such interface") in got.unseen


def facts(net: Fact[Network], sshd: Sshd, bypass: Fact[tuple[tuple[str, str], ...]]) -> Facts:
    nothing = Unseen("not asked")
    return Facts(0.0, sshd, nothing, nothing, nothing, nothing, Wrappers(), net, bypass, Machine())


def test_the_question() -> None:
    eth0 = interface("eth0", OWN, OWN6, Address(V6, 0xFE80 << 112, 64, "link"))._replace(rp_filter=1)
    sshd = Sshd(
        port=Seen((2222, 22)),
        listeners=Seen((Listener(V4, 0, 2222, device="eth0"), Listener(V6, 0, 2222, v6only=True), Listener(V4, 0, 25))),
    )
    asked = question.ask(
        facts(
            Seen(network(eth0, routes=(default("eth0"),))),
            sshd,
            Seen((("eth0", "xdp"), ("", "xfrm"), ("eth1", "tc-bpf"))),
        ),
        AUTO,
    )
    assert asked.port == 2222
    (link,) = asked.links
    assert link.addresses == (Local(V4, OWN.address, 24), Local(V6, OWN6.address, 64))
    assert (link.rp_filter, link.bypass) == (1, ("xdp", "xfrm"))
    assert asked.listeners == (
        Listening(V4, 0, 2222, device="eth0"), Listening(V6, 0, 2222, v6only=True), Listening(V4, 0, 25),
    )  # fmt: skip
    assert Local(V4, 0x7F000001, 8) in asked.local and Local(V6, 0xFE80 << 112, 64) in asked.local
    assert asked.routes == (default("eth0"),)


def test_unseen_listeners_are_taken_for_open_and_an_unseen_network_asks_nothing() -> None:
    asked = question.ask(facts(Seen(network(interface("eth0", OWN))), Sshd(), Unseen("not root")), AUTO)
    assert asked.port == 22 and {item.family for item in asked.listeners} == {V4, V6} and asked.links[0].bypass == ()
    blind = question.ask(facts(Unseen("no netlink"), Sshd(), Unseen("no netlink")), AUTO)
    assert blind.links == () and blind.unseen == (("", V4, "no netlink"), ("", V6, "no netlink"))
