"""From facts to the question that reach.analyse is asked: which interfaces are external, and what listens there.

Pure. External (architecture.md, "What reachable means"): an address of scope global, private ranges included; never
the loopback, nor what leads only to this host's own containers and virtual machines. An interface with a default
route leads outside whatever it is called: a container's eth0 is a veth.
"""

from __future__ import annotations

import fnmatch

from ..config import Config
from ..facts import Facts, Interface, Network, intruders
from ..model import Seen
from ..plain import NamedTuple
from ..reach.question import Link, Listening, Local, Question, Route
from ..reach.ruleset import Family

_INSIDE = (
    *("docker*", "br-*", "cni*", "cali*", "cilium*", "flannel*", "podman*", "virbr*", "lxc*", "lxdbr*", "veth*"),
    *("incusbr*", "nerdctl*", "kube-*", "vxlan.calico", "tunl*", "weave*"),
)
_INSIDE_KINDS = frozenset({"veth", "dummy", "ifb", "nlmon", "vrf", "vcan"})
#: Tunnel devices that a kernel module makes by itself, down and without an address.
_FALLBACK = frozenset({"ipip", "sit", "gre", "gretap", "erspan", "ip6tnl", "ip6gre", "vti", "vti6"})
_SPACE = {Family.IPV4: (0, (1 << 32) - 1), Family.IPV6: (0, (1 << 128) - 1)}
Reason = tuple[str, Family, str]


class External(NamedTuple):
    names: tuple[str, ...]
    unseen: tuple[Reason, ...]  # (interface, family, why it cannot be asked about)


def external(network: Network, config: Config) -> External:
    """The interfaces by which clients come in, and what of them cannot be judged."""
    names: list[str] = []
    unseen: list[Reason] = []
    by_name = {interface.name: interface for interface in network.interfaces}
    for name in config.expect_interfaces:
        if name not in by_name:
            unseen += [(name, family, "no such interface") for family in Family]
    for interface in network.interfaces:
        if not _wanted(interface, network.interfaces, network.routes, config=config):
            continue
        reasons = {family: _hidden(interface, family) for family in Family}
        if not all(reasons.values()):
            names.append(interface.name)
        unseen += [(interface.name, family, reason) for family, reason in reasons.items() if reason]
    return External(tuple(names), tuple(unseen))


def _wanted(
    interface: Interface, interfaces: tuple[Interface, ...], routes: tuple[Route, ...], *, config: Config
) -> bool:
    if interface.loopback:
        return False
    if config.expect_interfaces:
        return interface.name in config.expect_interfaces
    if _has_default(interface.name, routes):
        return True
    # A port of a VRF has addresses of its own; one of a bridge or bond has none that count.
    if (
        interface.master
        and not _in_vrf(interface, interfaces)
        or interface.kind in _INSIDE_KINDS
        or (interface.kind in _FALLBACK and not interface.addresses)
    ):
        return False
    return not any(fnmatch.fnmatchcase(interface.name, pattern) for pattern in _INSIDE)


def _in_vrf(interface: Interface, interfaces: tuple[Interface, ...]) -> bool:
    return any(one.index == interface.master and one.kind == "vrf" for one in interfaces)


def _has_default(name: str, routes: tuple[Route, ...]) -> bool:
    return any(
        route.device == name and route.kind == "unicast" and route.destination == _SPACE[route.family]
        for route in routes
    )


def _hidden(interface: Interface, family: Family) -> str:
    """Why this family cannot be asked about on this interface; "" where it can."""
    mine = [a for a in interface.addresses if a.family is family and a.scope == "global"]
    if not mine:
        return "no address"
    if not interface.up or not interface.carrier:
        return "no link"
    return "" if any(not address.tentative for address in mine) else "its address is tentative"


def ports(facts: Facts) -> tuple[int, ...]:
    """The ports that sshd is expected on, best first: who gets in by any of them gets in."""
    return (facts.sshd.port.value if isinstance(facts.sshd.port, Seen) else ()) or (22,)


def ask(facts: Facts, config: Config) -> Question:
    """The question for these facts, on the best of the ports that sshd is expected on.

    Where the listeners could not be seen sshd is taken to listen everywhere: then only the firewall is judged.
    """
    port = ports(facts)[0]
    listeners = facts.sshd.listeners
    if isinstance(listeners, Seen):
        others = intruders(facts.sshd)
        listening = tuple(
            Listening(i.family, i.address, i.port, i.v6only, i.device) for i in listeners.value if i not in others
        )
    else:
        listening = tuple(Listening(family, 0, any_, v6only=True) for family in Family for any_ in ports(facts))
    if not isinstance(facts.network, Seen):
        reason = facts.network.reason
        return Question(port, (), listening, (), unseen=tuple(("", family, reason) for family in Family))
    network = facts.network.value
    outside = external(network, config)
    bypass = facts.bypass.value if isinstance(facts.bypass, Seen) else ()
    links = tuple(
        _link(item, bypass, _in_vrf(item, network.interfaces))
        for item in network.interfaces
        if item.name in outside.names
    )
    local = tuple(Local(a.family, a.address, a.prefix) for item in network.interfaces for a in item.addresses)
    return Question(port, links, listening, network.routes, network.rules, local, outside.unseen, network.tcp_options)


def _link(interface: Interface, bypass: tuple[tuple[str, str], ...], in_vrf: bool) -> Link:
    usable = tuple(
        Local(a.family, a.address, a.prefix) for a in interface.addresses if a.scope == "global" and not a.tentative
    )
    what = tuple(what for name, what in bypass if name in ("", interface.name))
    # Sockets, routes and the names of interfaces have a meaning of their own there, which the analysis does not know.
    what += ("vrf",) if in_vrf else ()
    return Link(interface.name, interface.index, usable, interface.rp_filter, what)
