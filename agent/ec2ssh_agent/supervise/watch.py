"""What the supervisor tells a pass (Wake), and what a pass hands back (WatchList). Plain data."""

from __future__ import annotations

from ..plain import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from typing import Optional


RESTART = 1.0  # seconds that systemd gets to restart a killed sshd
#: What it brings about meanwhile: the unit's link and control group go and come, and so does its RuntimeDirectory.
RESTARTING = frozenset(("socket-unit", "sshd-config"))


class Wake(NamedTuple):
    """Why a pass is made. Reasons: start, timer, reload, verify (a pass wanted to be followed), request (SIGUSR1),
    clock, ruleset, legacy, network, sshd-exit, listener (the set of listeners on sshd's ports changed), queue (the
    accept queue did not drain for a second, or does again), banner (the probe's answer changed), sources (what is
    `missing` changed), and those of `directories`."""

    reasons: tuple[str, ...]
    by: tuple[tuple[int, str], ...] = ()  # pid (outer namespace) and program of who changed the rules, latest last
    mono: float = 0.0  # first sight, seconds of CLOCK_BOOTTIME
    crashes: int = 0  # passes in a row that crashed or overran
    trouble: str = ""  # how the last of them ended
    missing: tuple[str, ...] = ()  # wake-up sources that this machine does not give: "name: why"
    kept: bytes = b""  # what the last pass handed back; empty after a crash
    hung: bool = False  # connections wait in sshd's accept queue, and it does not drain
    stay: bool = False  # another pass will follow soon: the worker is to wait for it


class WatchList(NamedTuple):
    """What to watch until the next pass. Times in seconds."""

    interval: float = 1800.0  # a full pass at least this often
    pulse: float = 1.0  # the supervisor's own look; 0: none
    again: Optional[float] = None  # until a wanted pass: settle, verification, back-off
    pids: tuple[int, ...] = ()  # sshd's main process
    ports: tuple[int, ...] = ()
    directories: tuple[tuple[str, tuple[str, ...], str], ...] = ()  # path, names (empty: any), reason
    legacy: bool = True  # look at the legacy tables
    deadline: float = 60.0  # of the next pass
    status: str = ""  # one line for systemd
    restarts_itself: bool = False  # systemd restarts a killed sshd: wait before acting
    busy: bool = False  # this pass looked at nothing, for another agent repairs: it is to be made again
    partly: bool = False  # not all of sshd's configuration could be read: what is watched stays watched
    patient: bool = False  # this pass looked at nothing, for systemd restarts sshd: the last list stands for RESTART
    generation: int = 0  # of nf_tables, as the pass last read the rules; 0: unknown
    probe: float = 0.0  # every so often, read sshd's banner; 0: never
    probe_at: tuple[str, int] = ("127.0.0.1", 22)
    repaired: bool = False  # this pass changed something: the circuit bounds how often, not the budget of CPU time
    trouble_file: str = ""  # where it is written, for `status`, that the last pass failed; "": nowhere
    kept: bytes = b""  # for the next pass: what programs said that need not be asked again (host.py, `ask`)
    own: tuple[tuple[int, int], ...] = ()  # generations that the pass's tools made: after the first, up to the second


def default(config_path: str) -> WatchList:
    """What is watched before the first pass has said what there is; a pass may start from it, too."""
    configuration, _, name = config_path.rpartition("/")
    units = ("ssh.service", "sshd.service", "ssh.socket", "sshd.socket")
    return WatchList(
        status="starting",
        trouble_file="/run/ec2ssh-agent/trouble",
        directories=(
            (configuration or "/", (name, f"{name}.d"), "config"),
            (f"{config_path}.d", (), "config"),
            ("/etc/ssh", (), "sshd-config"),
            ("/etc/ssh/sshd_config.d", (), "sshd-config"),
            ("/etc", ("hosts.allow", "hosts.deny"), "wrappers"),
            ("/etc", ("nologin",), "nologin"),
            ("/run", ("nologin",), "nologin"),
            ("/run", ("sshd",), "sshd-config"),
            ("/run/ec2ssh-agent", ("request",), "request"),
            ("/etc/ufw", (), "ufw"),
            ("/etc/firewalld", (), "firewalld"),
            ("/etc/firewalld/zones", (), "firewalld"),
            # systemd keeps a link here for every service that is up, and a control group for every unit.
            ("/run/systemd/units", tuple(f"invocation:{unit}" for unit in units), "socket-unit"),
            ("/sys/fs/cgroup/system.slice", units, "socket-unit"),  # version 2 alone
            ("/sys/fs/cgroup/unified/system.slice", units, "socket-unit"),  # beside version 1
            ("/sys/fs/cgroup/systemd/system.slice", units, "socket-unit"),  # version 1 alone
        ),
    )
