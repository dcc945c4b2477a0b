"""What the agent learns while SSH is healthy: who gets in (the baseline), and sshd's last known good configuration.

Known good is what a running sshd was started or reloaded with while SSH was healthy from outside, not what lies on disk
meanwhile. sshd closes and opens its listening sockets when it starts and when it reloads, so their inodes tell: files
are taken when the sockets are new and the files are not, or when no file is younger than the start or the reload.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from . import memory
from .assessment import Assessment
from .config import Config
from .diagnose import seen, unseen
from .facts import Facts
from .host import Host, HostError
from .memory import Memory
from .model import Finding, Health, Severity
from .policy import fingerprint
from .quick import sha256
from .reach import addresses
from .reach.question import Outcome
from .reach.ruleset import Family, Ranges

_FILE_CAP = 1 << 20


def sshd_files(host: Host, facts: Facts) -> dict[str, bytes]:
    """sshd's configuration files as they are now; one that cannot be read is left out."""
    found: dict[str, bytes] = {}
    for path, _ in seen(facts.sshd.files) or ():
        try:
            found[path] = host.read(path, cap=_FILE_CAP)
        except HostError:
            continue
    return found


def after(host: Host, config: Config, remembered: Memory, facts: Facts, assessment: Assessment) -> Memory:
    """What a look adds to the memory."""
    boot = host.monotonic()
    critical = bool(_critical(assessment))
    remembered = memory.verdict(remembered, unhealthy=critical, boot=boot)
    whole = not unseen(facts, assessment.reach, config)
    remembered = memory.hear(remembered, {f.fault: fingerprint(f) for f in _critical(assessment)}, whole=whole)
    if critical or assessment.health is Health.UNKNOWN:
        return remembered
    sets = admitted(assessment)
    remembered = memory.observe_baseline(remembered, sets, boot, config.repair_baseline_after)
    return _known_good(host, remembered, facts)


def _critical(assessment: Assessment) -> list[Finding]:
    return [finding for finding in assessment.findings if finding.severity is Severity.CRITICAL]


def admitted(assessment: Assessment) -> dict[tuple[str, Family], Ranges]:
    """Who surely gets in, per interface and family."""
    sets: dict[tuple[str, Family], Ranges] = {}
    for answer in assessment.reach.answers:
        key = (answer.interface, answer.family)
        sets[key] = addresses.union(sets.get(key, ()), answer.of(Outcome.CONNECTED))
    return sets


def _known_good(host: Host, remembered: Memory, facts: Facts) -> Memory:
    test, files, listeners = seen(facts.sshd.test), seen(facts.sshd.files), seen(facts.sshd.listeners)
    if not (test and test.good and files and listeners is not None):
        return remembered
    ports = seen(facts.sshd.port) or ()
    sockets = tuple(sorted(item.inode for item in listeners if item.port in ports))
    good = remembered.good
    if good.sockets == sockets and good.hashes == good.looked == files:
        return remembered
    restarted = bool(good.sockets) and good.sockets != sockets  # or reloaded, since the look before
    known = good.hashes == files or restarted and good.looked == files
    remembered = remembered._replace(good=good._replace(sockets=sockets, looked=files))
    if not (known or _older_than_start(host, facts, restarted=restarted)):
        return remembered
    kept = sshd_files(host, facts)
    if {path: sha256(content).hexdigest() for path, content in kept.items()} != dict(files):
        return remembered  # written since they were looked at
    return memory.learn_known_good(remembered, kept, hashes=files, sockets=sockets)


def _older_than_start(host: Host, facts: Facts, *, restarted: bool) -> bool:
    """Whether no configuration file was written after sshd was started; or after it was reloaded, if it surely was."""
    unit = seen(facts.sshd.socket_unit) if not seen(facts.sshd.process) else seen(facts.sshd.unit)
    if not unit or not unit.since:
        return False
    since = max(unit.since, unit.changed) if restarted else unit.since
    started = host.now() - (host.monotonic() - since / 1e6) - host.suspended()  # at the earliest
    try:
        written = [host.stat(path) for path, _ in seen(facts.sshd.files) or ()]
    except HostError:
        return False  # not known
    return all(status is not None and status.mtime_ns / 1e9 <= started for status in written)


def instance(host: Host, facts: Facts) -> dict[str, Any]:
    from .report import identity

    return {**identity.local(host), "id": seen(facts.machine.identity)}


def report(host: Host, config: Config) -> Mapping[str, Any]:
    """The queue and the endpoint's last answer; who may not read the spool learns that."""
    from .report import spool

    try:
        return spool.summary(host, config)
    except HostError as error:
        return {"url": spool.shown_url(config.report_url), "last": str(error)}
