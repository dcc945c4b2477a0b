"""The collection of all facts, and whose chains are in a ruleset."""

from __future__ import annotations

from ..config import Config
from ..facts import Facts
from ..host import Host
from ..model import Fact, Seen, Unseen
from ..reach.ruleset import Ruleset
from . import PROBE, bypass, firewalld, instance, network, rulesets, sockets, sshd, systemd, ufw, wrappers

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


def collect(host: Host, config: Config, *, probe: float = PROBE) -> Facts:
    """See observe.observe."""
    taken = host.now()
    units = systemd.collect(host)
    groups = [unit.value.control_group for unit in units[:2] if isinstance(unit, Seen) and unit.value]
    ruleset, generation = rulesets.collect(host)
    return Facts(
        taken=taken,
        sshd=sshd.collect(host, config, units=units, listening=sockets.listeners(host), probe=probe),
        ruleset=ruleset,
        ufw=ufw.collect(host, ruleset),
        firewalld=firewalld.collect(host, ruleset),
        foreign=foreign(ruleset),
        wrappers=wrappers.collect(host),
        network=network.collect(host),
        bypass=bypass.collect(host, groups),
        machine=instance.collect(host, units),
        generation=generation,
        at_rest=bool(host.root),
    )


def foreign(ruleset: Fact[Ruleset]) -> Fact[tuple[str, ...]]:
    """Owners whose chains or tables are in the ruleset."""
    if isinstance(ruleset, Unseen):
        return ruleset
    names = {table.name for table in ruleset.value.tables}
    names.update(name for table in ruleset.value.tables for name in table.chains)
    found = [owner for owner, prefixes in _OWNERS if any(name.startswith(prefixes) for name in names)]
    return Seen(tuple(found), "names of chains and tables")
