"""Which facts a wake-up makes stale, and the collection of all of them."""

from __future__ import annotations

from typing import Optional

from ..config import Config
from ..facts import Facts
from ..host import Host
from ..model import Fact, Seen, Unseen
from ..reach.ruleset import Ruleset
from . import bypass, firewalld, instance, network, rulesets, sockets, sshd, systemd, ufw, wrappers

#: What a reason (supervise/watch.py, Wake) makes stale. One that is not here makes everything stale: when in doubt,
#: look again. sshd's units, process and listeners and the machine are cheap and looked at every time.
_STALE: dict[str, frozenset[str]] = {
    "ruleset": frozenset({"ruleset"}),
    "legacy": frozenset({"ruleset"}),
    "ufw": frozenset({"owners"}),
    "firewalld": frozenset({"owners"}),
    "network": frozenset({"network"}),
    "wrappers": frozenset({"wrappers"}),
    "sshd-exit": frozenset({"sshd"}),
    "sshd-config": frozenset({"sshd"}),
    "host-keys": frozenset({"sshd"}),
    "socket-unit": frozenset({"sshd"}),
    "listener": frozenset({"sshd"}),
    "queue": frozenset({"sshd"}),
    "banner": frozenset({"sshd"}),
    "nologin": frozenset(),
}
_ALL = frozenset({"ruleset", "owners", "network", "wrappers", "sshd"})

#: Chains and tables whose names tell who made them (architecture.md, "Foreign owners").
_OWNERS = (
    ("docker", ("DOCKER", "docker")),
    ("kubernetes", ("KUBE-", "cali-", "CILIUM_", "FLANNEL", "CNI-", "kube-", "calico", "cilium")),
    ("podman", ("NETAVARK", "netavark")),
    ("libvirt", ("LIBVIRT_", "libvirt")),
    ("lxd", ("lxd", "incus", "lxc-")),
    ("fail2ban", ("f2b-", "fail2ban-")),
    ("crowdsec", ("crowdsec", "CROWDSEC")),
    ("sshguard", ("sshguard",)),
    ("csf", ("LOCALINPUT", "LOGDROPIN")),
    ("shorewall", ("shorewall", "dynamic", "net-fw", "net2fw")),
)


def sections(stale: Optional[frozenset[str]]) -> frozenset[str]:
    """The parts of the facts that these reasons make stale."""
    if stale is None:
        return _ALL
    return frozenset().union(*(_STALE.get(reason, _ALL) for reason in stale))


def collect(
    host: Host,
    config: Config,
    *,
    previous: Optional[Facts] = None,
    stale: Optional[frozenset[str]] = None,
    probe: bool = True,
) -> Facts:
    """See observe.observe."""
    again = sections(stale) if previous else _ALL
    taken = host.now()
    units = systemd.collect(host)
    groups = [unit.value.control_group for unit in units[:2] if isinstance(unit, Seen) and unit.value]
    if previous and "ruleset" not in again:
        ruleset, generation = previous.ruleset, previous.generation
    else:
        ruleset, generation = rulesets.collect(host)
    owners = "ruleset" in again or "owners" in again
    return Facts(
        taken=taken,
        sshd=sshd.collect(
            host,
            config,
            units=units,
            listening=sockets.listeners(host),
            previous=previous.sshd if previous else None,
            fresh="sshd" in again,
            probe=probe,
            explain="sshd-exit" in (stale or ()),
        ),
        ruleset=ruleset,
        ufw=ufw.collect(host, ruleset) if owners or not previous else previous.ufw,
        firewalld=firewalld.collect(host, ruleset) if owners or not previous else previous.firewalld,
        foreign=foreign(ruleset),
        wrappers=wrappers.collect(host) if not previous or "wrappers" in again else previous.wrappers,
        network=network.collect(host) if not previous or "network" in again else previous.network,
        bypass=bypass.collect(host, groups) if not previous or "network" in again else previous.bypass,
        machine=instance.collect(host, units),
        generation=generation,
    )


def foreign(ruleset: Fact[Ruleset]) -> Fact[tuple[str, ...]]:
    """Owners whose chains or tables are in the ruleset."""
    if isinstance(ruleset, Unseen):
        return ruleset
    names = {table.name for table in ruleset.value.tables}
    names.update(name for table in ruleset.value.tables for name in table.chains)
    found = [owner for owner, prefixes in _OWNERS if any(name.startswith(prefixes) for name in names)]
    return Seen(tuple(found), "names of chains and tables")
