"""What mends sshd itself: the document's step 2, and with `[repair] sshd = restore` what keeps it from starting. Pure.

One rung mends one cause: after a key is made or a file put back, the next look finds that sshd does not run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Optional

from .config import Config
from .diagnose import PRIVSEP, listen_text, seen
from .facts import Facts, UnitState, intruders
from .model import Finding, Seen, Unseen
from .steps import Argv, Directory, HostKeys, Ladder, Mode, Run, Rung, Step, Write

#: Nothing is done for these, and why.
_WITHHELD = {
    "sshd-not-installed": "sshd is not installed; the agent installs nothing",
    "sshd-masked": "a masked unit is an administrator's decision (systemctl unmask undoes it)",
    "sshd-forbidden": "sshd_not_to_be_run is an administrator's decision (remove the file to undo it)",
    "no-route": "routes and addresses are the network's own; the agent sets none",
    "sshd-port-taken": "the agent ends no program of others; when that one is stopped, sshd is started",
}
#: sshd runs, but not where clients come.
_MISPLACED = ("sshd-not-listening-outside", "sshd-other-port")
# Runs systemd's generators, Ubuntu's among them, which writes the socket's addresses from sshd's configuration.
_REREAD = ("systemctl", "daemon-reload")
_BUSY = ("activating", "deactivating", "reloading")
_UNITS_UNSEEN = "sshd's units could not be looked at"


def ladder(
    finding: Finding, facts: Facts, config: Config, known_good: Mapping[str, bytes], current: Mapping[str, bytes]
) -> Ladder:
    """The rungs for a finding about sshd, or why there are none."""
    reason = _WITHHELD.get(finding.id) or _hands_off(facts, config)
    if reason:
        return Ladder(finding, withheld=reason, blind=reason.startswith(_UNITS_UNSEEN))
    if finding.id == "sshd-not-running":
        return Ladder(finding, (_rung("start", "the document's step: sshd is started", (_start(facts),)),))
    if finding.id == "sshd-hung":
        return _hung(finding, facts)
    if config.repair_sshd != "restore":
        return Ladder(finding, withheld="[repair] sshd = restart: only restarts are allowed")
    return _restore(finding, facts, known_good, current)


def _hands_off(facts: Facts, config: Config) -> str:
    if config.repair_sshd == "off":
        return "[repair] sshd = off"
    if seen(facts.machine.systemd):
        for fact in (facts.sshd.unit, facts.sshd.socket_unit):
            if isinstance(fact, Unseen):
                return f"{_UNITS_UNSEEN} ({fact.reason})"
        if not any(unit and unit.name for unit in (seen(facts.sshd.unit), seen(facts.sshd.socket_unit))):
            return "systemd has no unit of sshd's"
    for unit in (seen(facts.sshd.unit), seen(facts.sshd.socket_unit)):
        # In auto-restart it only waits, for 42 s as some distributions set RestartSec=.
        waits = unit is not None and unit.sub.startswith("auto-restart") and not unit.job
        if unit and not waits and (unit.job or unit.active in _BUSY):
            return f"systemd is at work on {unit.name} ({unit.active}{', a job is queued' if unit.job else ''})"
    return ""


def _rung(name: str, why: str, steps: tuple[Step, ...]) -> Rung:
    return Rung(name, why, steps, "step 2: sshd runs and listens")


def _chosen(facts: Facts) -> Optional[UnitState]:
    """The unit that runs, else the one that is enabled: ssh.socket or ssh.service; of two or none the service."""
    service, socket = seen(facts.sshd.unit), seen(facts.sshd.socket_unit)
    if service and service.active == "active":
        return service
    by_socket = socket and socket.load == "loaded" and socket.file_state.startswith("enabled")
    if by_socket and not (service and service.file_state.startswith("enabled")):
        return socket
    return service if service and service.load == "loaded" else socket


def _afresh(facts: Facts) -> Run:
    """sshd's addresses are bound anew. One that runs is stopped only if it would start again."""
    service, socket = seen(facts.sshd.unit), seen(facts.sshd.socket_unit)
    if not (socket and socket.active == "active"):
        return _start(facts, _tests(facts))
    # While none runs, sshd's directory is not there, and the test would fail.
    tests = _tests(facts) if seen(facts.sshd.process) else ()
    # systemd starts no socket whose service runs.
    names = [unit.name for unit in (socket, service) if unit and unit.name]
    start = (_REREAD, ("systemctl", "stop", *names), ("systemctl", "start", socket.name))
    return Run((*tests, *start), owner="systemd")


def _start(facts: Facts, tests: tuple[Argv, ...] = ()) -> Run:
    """`reset-failed` first: after five starts in ten seconds systemd refuses any more."""
    unit = _chosen(facts)
    if not seen(facts.machine.systemd):
        return Run((*tests, ("service", unit.name if unit and unit.name else "ssh", "restart")), owner="systemd")
    failed = [u for u in (seen(facts.sshd.unit), seen(facts.sshd.socket_unit)) if u and u.active == "failed"]
    resets = tuple(("systemctl", "reset-failed", item.name) for item in failed)
    name = unit.name if unit else "ssh.service"
    return Run((*tests, *resets, ("systemctl", "restart", name)), owner="systemd")


def _reread(facts: Facts) -> tuple[Step, ...]:
    """What a socket's addresses are generated from was put back: they are generated anew."""
    socket = seen(facts.sshd.socket_unit)
    used = socket is not None and (socket.active == "active" or _chosen(facts) is socket)
    return (Run((_REREAD,), owner="systemd"),) if used else ()


def _tests(facts: Facts) -> tuple[Argv, ...]:
    """`sshd -t` with the options that the unit gives it, as it was asked when it was looked at."""
    test = facts.sshd.test
    program, *options = test.where.split() if isinstance(test, Seen) and test.where else [""]
    return ((program, "-t", *options[1:]),) if program else ()


def _hung(finding: Finding, facts: Facts) -> Ladder:
    test = seen(facts.sshd.test)
    if test is None or not test.good:
        return Ladder(finding, withheld="a listening sshd is never restarted unless `sshd -t` passes")
    return Ladder(finding, (_rung("restart", "a hung sshd is restarted", (_start(facts),)),))


def _restore(finding: Finding, facts: Facts, known_good: Mapping[str, bytes], current: Mapping[str, bytes]) -> Ladder:
    if finding.id == "host-keys-missing":
        made = _host_keys(finding, facts)
        if made.rungs or seen(facts.machine.cloud_init_done) is False:
            return made
        # Its configuration may name keys that never were.
        return _configuration(finding, facts, known_good, current)._replace(withheld=made.withheld)
    if finding.id == "host-key-modes":
        keys = [key for key in seen(facts.sshd.host_keys) or () if key.loose]
        steps = tuple(Mode(key.path, 0o600, key.uid, key.gid) for key in keys)
        why = "only root may read host keys"
        return Ladder(finding, (_rung("host-key-modes", why, steps),))
    if finding.id == "privsep-missing":
        return _privsep(finding, facts)
    if finding.id in ("sshd-config-invalid", *_MISPLACED):
        return _configuration(finding, facts, known_good, current)
    return Ladder(finding, withheld="the agent knows no repair for it")


def _privsep(finding: Finding, facts: Facts) -> Ladder:
    test, directory = seen(facts.sshd.test), seen(facts.sshd.privsep)
    named = PRIVSEP.search(test.complaint) if test else None
    path = (named.group(1) or named.group(2)) if named else directory.path if directory else ""
    if not path:
        return Ladder(finding, withheld="sshd does not say which directory it wants")
    there = directory is not None and directory.path == path and directory.present
    step: Step = Mode(path, 0o755, 0, 0) if there else Directory(path, 0o755)
    return Ladder(finding, (_rung("privsep", "sshd locks itself into this directory before a login", (step,)),))


def _host_keys(finding: Finding, facts: Facts) -> Ladder:
    if seen(facts.machine.cloud_init_done) is False:
        return Ladder(finding, withheld="cloud-init is not done, and makes host keys itself")
    missing = [key.path for key in seen(facts.sshd.host_keys) or () if not key.present]
    if not missing:
        return Ladder(finding, withheld="the host keys are there, but damaged; the agent replaces none")
    kinds = []
    for path in missing:
        kind = next((k for k in ("ed25519", "ecdsa", "rsa") if k in path.rsplit("/", 1)[-1]), None)
        if kind:
            kinds.append((kind, path))
    if not kinds:
        return Ladder(finding, withheld="of the missing host keys none has a type that its name tells")
    why = "only the missing keys are made; clients will be asked about the new ones"
    return Ladder(finding, (_rung("host-keys", why, (HostKeys(tuple(kinds)),)),))


def _configuration(
    finding: Finding, facts: Facts, known_good: Mapping[str, bytes], current: Mapping[str, bytes]
) -> Ladder:
    """The files that differ from the last known good ones are put back; without such files nothing is guessed."""
    immutable = seen(facts.machine.immutable) or ()
    # A file that is in nobody's known good set is left where it is: it may be a new drop-in that is at fault.
    writes = tuple(
        Write(path, content, read=current.get(path))
        for path, content in sorted(known_good.items())
        if current.get(path) != content
    )
    fixed = [step.path for step in writes if step.path in immutable]
    if fixed:
        return Ladder(finding, withheld=f"{fixed[0]} is immutable (chattr +i): somebody closed it on purpose")
    new = sorted(set(current) - set(known_good)) if known_good else []
    emptied = tuple(
        Write(path, b"", f"truncate -s 0 {path}  # new since SSH was healthy", current[path]) for path in new
    )
    # A configuration that does not parse is put back first; that sshd does not run is then a finding of its own, with a
    # rung of its own. One that listens in the wrong place takes effect only by a restart.
    start = (_afresh(facts),) if finding.id in _MISPLACED else _reread(facts)
    rungs = []
    if writes:
        rungs.append(_rung("known-good", "the last configuration with which SSH was healthy", (*writes, *start)))
    if emptied:
        why = "the last configuration with which SSH was healthy, and nothing of the files that came later"
        rungs.append(_rung("known-good-only", why, (*writes, *emptied, *start)))
    if finding.id in _MISPLACED and not rungs:
        held = intruders(facts.sshd)
        if held:
            return Ladder(finding, withheld=f"{held[0].unit} holds the address; the agent ends no program of others")
        if not _unbound(facts):
            return Ladder(finding, withheld="sshd listens on all that it is told to: a restart would change nothing")
        # sshd may have been started before its address was there.
        rungs.append(_rung("restart", "its configuration is what it was: sshd binds its addresses afresh", start))
    return Ladder(finding, tuple(rungs), "" if rungs else "no known good configuration to go back to")


def _unbound(facts: Facts) -> bool:
    """Whether sshd's configuration names an address and port on which nobody listens."""
    effective, listeners = seen(facts.sshd.effective), seen(facts.sshd.listeners) or ()
    bound = {listen_text(item.family, item.address, item.port) for item in listeners}
    return effective is not None and not set(effective.listen) <= bound
