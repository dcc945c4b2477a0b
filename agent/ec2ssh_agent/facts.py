"""What a pass has seen of the host: the vocabulary between observe/ and everything that judges.

Each fact is `Seen(value, where)` or `Unseen(reason)`. Pure data; observe/ fills it in, diagnose.py and plan.py read it.
"""

from __future__ import annotations

from typing import Optional

from .model import Fact, Seen, Unseen
from .plain import NamedTuple
from .reach.question import Route, RoutingRule
from .reach.ruleset import Family, Ruleset

_NOT_LOOKED = Unseen("not looked at")


class UnitState(NamedTuple):
    """A unit as systemd sees it (org.freedesktop.systemd1.Unit); times in microseconds since boot (Host.monotonic), at
    the latest: whenever the machine was suspended is taken for before."""

    name: str
    load: str = "not-found"  # loaded, masked, not-found, ...
    active: str = "inactive"  # active, activating, deactivating, failed, inactive, reloading
    sub: str = ""
    file_state: str = ""  # enabled, disabled, masked, static, ...
    result: str = ""  # success, exit-code, signal, start-limit-hit, ...
    main_pid: int = 0
    exit_status: int = 0
    restart: str = "no"
    job: bool = False  # a job is queued or running
    since: int = 0  # InactiveExitTimestamp
    listen: tuple[str, ...] = ()  # of a socket that is not inactive: its ListenStream addresses
    changed: int = 0  # of a service: StateChangeTimestamp, the end of a reload among others


class Listener(NamedTuple):
    """A TCP socket in LISTEN; address 0 is any. `queue` connections wait for accept(2), `backlog` fit."""

    family: Family
    address: int
    port: int
    v6only: bool = False
    uid: int = 0
    inode: int = 0
    queue: int = 0
    backlog: int = 0
    device: str = ""
    unit: str = ""  # by cgroup, where it could be told


class HostKey(NamedTuple):
    path: str
    present: bool
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    size: int = 0

    @property
    def loose(self) -> bool:
        """There, and sshd refuses it, since others may read it. Red Hat's sshd lets a group ssh_keys read."""
        return self.present and bool(self.mode & 0o077) and not (self.mode == 0o640 and self.gid != 0)


class ConfigTest(NamedTuple):
    """`sshd -t`: good, or what it said (and of which file and line, where it names one)."""

    good: bool
    complaint: str = ""
    file: str = ""
    line: int = 0


class Effective(NamedTuple):
    """`sshd -T`, as far as anybody here asks."""

    ports: tuple[int, ...] = (22,)
    listen: tuple[str, ...] = ()
    host_keys: tuple[str, ...] = ()
    allow: tuple[str, ...] = ()  # AllowUsers and the like, as printed


class Banner(NamedTuple):
    """What a local connection got: the first line, or "" with `ended` (closed without one) or neither (silence)."""

    text: str
    seconds: float
    ended: bool = False
    refused: bool = False
    taken: bool = False  # silence, but a program has accepted the connection


class Process(NamedTuple):
    pid: int
    name: str
    stopped: bool = False  # state T
    traced: bool = False


class Sshd(NamedTuple):
    installed: Fact[str] = _NOT_LOOKED  # path of sshd
    unit: Fact[UnitState] = _NOT_LOOKED  # ssh.service or sshd.service
    socket_unit: Fact[UnitState] = _NOT_LOOKED  # ssh.socket or sshd.socket
    listeners: Fact[tuple[Listener, ...]] = _NOT_LOOKED  # all TCP listeners of uid 0
    port: Fact[tuple[int, ...]] = _NOT_LOOKED  # the ports that sshd is expected on, best first
    process: Fact[Optional[Process]] = _NOT_LOOKED  # the main process
    banner: Fact[Banner] = _NOT_LOOKED
    test: Fact[ConfigTest] = _NOT_LOOKED
    effective: Fact[Effective] = _NOT_LOOKED
    files: Fact[tuple[tuple[str, str], ...]] = _NOT_LOOKED  # configuration files read, with their SHA-256
    places: Fact[tuple[str, ...]] = _NOT_LOOKED  # the directories that Include looks into
    host_keys: Fact[tuple[HostKey, ...]] = _NOT_LOOKED
    privsep: Fact[Optional[HostKey]] = _NOT_LOOKED  # the privilege-separation directory (present, mode, uid)
    session: Fact[bool] = _NOT_LOOKED  # OpenSSH 9.8 and later: who serves a client gets the keys from who listens
    forbidden: Fact[bool] = _NOT_LOOKED  # /etc/ssh/sshd_not_to_be_run
    reasons: Fact[tuple[str, ...]] = _NOT_LOOKED  # sshd's own last words in the journal


def intruders(sshd: Sshd) -> tuple[Listener, ...]:
    """Listeners on sshd's ports that are surely another unit's: sshd's own listens there, too, at other addresses."""
    if not (isinstance(sshd.listeners, Seen) and isinstance(sshd.port, Seen)):
        return ()
    own = {fact.value.name for fact in (sshd.unit, sshd.socket_unit) if isinstance(fact, Seen)} - {""}
    there = [item for item in sshd.listeners.value if item.port in sshd.port.value]
    if not any(item.unit in own for item in there):
        return ()
    # Under socket activation systemd listens itself.
    return tuple(item for item in there if item.unit not in ("", "init.scope", *own))


class Ufw(NamedTuple):
    """ufw: `enabled` in ufw.conf, `chains` in the kernel, its rules as the lines of user.rules say."""

    enabled: bool
    chains: bool  # its chains exist and INPUT jumps to them
    tuples: tuple[str, ...] = ()  # `### tuple ###` lines, without the marker, v4 then v6


class FirewalldZone(NamedTuple):
    name: str
    interfaces: tuple[str, ...]
    services: tuple[str, ...]
    ports: tuple[tuple[str, str], ...]
    rich_rules: tuple[str, ...]
    target: str = "default"
    sources: tuple[str, ...] = ()


class Firewalld(NamedTuple):
    running: bool
    panic: bool = False
    default_zone: str = ""
    zones: tuple[FirewalldZone, ...] = ()
    permanent: tuple[FirewalldZone, ...] = ()
    policy_drop: bool = False  # `table inet firewalld_policy_drop` was left behind by a failed reload


class Wrappers(NamedTuple):
    """hosts.allow and hosts.deny (None: no such file) and whether this sshd asks libwrap."""

    allow: Fact[Optional[bytes]] = _NOT_LOOKED
    deny: Fact[Optional[bytes]] = _NOT_LOOKED
    linked: Fact[bool] = _NOT_LOOKED


class Address(NamedTuple):
    family: Family
    address: int
    prefix: int
    scope: str = "global"
    tentative: bool = False


class Interface(NamedTuple):
    name: str
    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody asks of it
    up: bool
    carrier: bool
    kind: str = ""  # IFLA_INFO_KIND: veth, bridge, wireguard, ...
    addresses: tuple[Address, ...] = ()
    rp_filter: int = 0  # the effective one: max of all and this
    loopback: bool = False
    master: int = 0  # index of the bridge, bond or VRF that it is a port of


class Network(NamedTuple):
    interfaces: tuple[Interface, ...]
    routes: tuple[Route, ...]
    rules: tuple[RoutingRule, ...]
    tcp_options: tuple[int, ...] = (3, 4, 8)  # that the kernel agrees to (Question.tcp_options)


class Machine(NamedTuple):
    """What may keep a login out, or a repair from working, besides sshd and the firewall."""

    nologin: Fact[bool] = _NOT_LOOKED
    free_bytes: Fact[int] = _NOT_LOOKED  # of the file system of /var
    free_inodes: Fact[int] = _NOT_LOOKED
    conntrack: Fact[tuple[int, int]] = _NOT_LOOKED  # count, max
    target: Fact[str] = _NOT_LOOKED  # rescue, emergency, or ""
    stopping: Fact[bool] = _NOT_LOOKED  # systemd is shutting down
    busy: Fact[tuple[str, ...]] = _NOT_LOOKED  # firewall tools, package managers, cloud-init, config management at work
    immutable: Fact[tuple[str, ...]] = _NOT_LOOKED  # of the files that a repair might write: chattr +i
    cloud_init_done: Fact[bool] = _NOT_LOOKED
    identity: Fact[str] = _NOT_LOOKED  # the instance: instance id, else machine-id hashed
    systemd: Fact[bool] = _NOT_LOOKED  # systemd is pid 1
    pressure: Fact[float] = _NOT_LOOKED  # PSI cpu some avg10, percent; without PSI the share of who waits for a CPU
    users: Fact[tuple[str, ...]] = _NOT_LOOKED  # administrators' sessions, with their start


class Facts(NamedTuple):
    taken: float  # seconds since the epoch
    sshd: Sshd
    ruleset: Fact[Ruleset]
    ufw: Fact[Optional[Ufw]]  # None: not installed
    firewalld: Fact[Optional[Firewalld]]
    foreign: Fact[tuple[str, ...]]  # owners whose chains are in the ruleset: docker, kubernetes, fail2ban, ...
    wrappers: Wrappers
    network: Fact[Network]
    bypass: Fact[tuple[tuple[str, str], ...]]  # (interface or "", what: xdp, tc-bpf, cgroup-bpf, xfrm)
    machine: Machine
    generation: Fact[int] = _NOT_LOOKED  # nf_tables generation that `ruleset` was read at
    at_rest: bool = False  # of an attached volume: there are only files
