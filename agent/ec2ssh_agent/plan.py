"""Findings to ladders: what could mend each, in the document's order, the smallest change first. Pure.

What an administrator decided on purpose is withheld here, from the facts alone: a masked unit, panic mode, immutable
files, a unit that systemd is at work on. What hangs on time and history (settle, pause, circuit) is passes.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Optional

from . import bans, opening, plan_sshd
from .assessment import Assessment, Gap
from .config import Config
from .diagnose import BANS, seen, shut
from .facts import Facts, FirewalldZone
from .model import Finding, Seen, Severity, Unseen
from .opening import Rehearse
from .plain import NamedTuple
from .reach import addresses, with_rule
from .reach.ruleset import Backend, Family, Ruleset, Table
from .steps import Disable, Ladder, Run, Rung, Step, Write

HOSTS_ALLOW, HOSTS_DENY = "/etc/hosts.allow", "/etc/hosts.deny"
#: The document's line, step 3.
DOCUMENT_LINE = "sshd2 sshd : ALL: allow"
#: Everybody of one family, as libwrap understands it: `/0` never matches.
_HALVES = {Family.IPV4: ("0.0.0.0/1", "128.0.0.0/1"), Family.IPV6: ("::/1", "8000::/1")}
_UFW_FILES = ("/etc/ufw/user.rules", "/etc/ufw/user6.rules")
_UFW_TABLES = ("iptables", "ip6tables")
#: How the names of an owner's tables or chains begin; INPUT_ZONES: of firewalld with its iptables backend.
_UFW_NAMES, _FIREWALLD_NAMES = ("ufw-", "ufw6-"), ("firewalld", "INPUT_ZONES")
#: Owners whose chains live in the filter table: flushing it would cut them off.
_CONTAINERS = ("docker", "kubernetes", "podman", "libvirt", "lxd")
#: An owner's tool takes 0.1–0.2 s a network; more than these are opened by a raw rule with a set of them.
_OWNER_NETWORKS = 32
#: Tools that make whole firewalls: an opening goes in front of theirs only for a proven regression.
_MANAGERS = ("csf", "shorewall", "ferm", "kubernetes", "crowdsec", "sshguard")


class Situation(NamedTuple):
    """What a plan is made from. `known_good`: sshd's configuration files while SSH was healthy, or empty."""

    facts: Facts
    assessment: Assessment
    config: Config
    ruleset: Optional[Ruleset]
    rehearse: Rehearse
    known_good: Mapping[str, bytes]
    current: Mapping[str, bytes]  # those files as they are now
    allow_disable: bool = False


def plan(situation: Situation) -> tuple[Ladder, ...]:
    """A ladder for each critical finding, in the findings' order.

    Where nobody was seen to get in before, one way in is enough: the first that can be opened.
    """
    ladders: list[Ladder] = []
    findings = [finding for finding in situation.assessment.findings if finding.severity is Severity.CRITICAL]
    if findings:
        situation = situation._replace(rehearse=_remembered(situation.rehearse))
    for finding in findings:
        opened = [ladder.finding.subject for ladder in ladders if ladder.rungs and _of_first_boot(ladder, situation)]
        made = _ladder(finding, situation)
        if opened and _of_first_boot(made, situation):
            made = Ladder(finding, withheld=f"one way in is enough as long as nobody got in before: {opened[0]}")
        ladders.append(made)
    return tuple(ladders)


def _remembered(rehearse: Rehearse) -> Rehearse:
    """Every opening asks who would get in without any rule: that is answered once."""
    bare = rehearse(Ruleset(()))
    return lambda ruleset: rehearse(ruleset) if ruleset.tables else bare


def _of_first_boot(ladder: Ladder, situation: Situation) -> bool:
    """Whether it opens the firewall though there is no baseline."""
    gap = next((g for g in situation.assessment.gaps), None)
    return ladder.finding.id.startswith("firewall-") and gap is not None and not gap.regression


def _ladder(finding: Finding, situation: Situation) -> Ladder:
    machine = situation.facts.machine
    if seen(machine.stopping):
        return Ladder(finding, withheld="the system is stopping")
    target = seen(machine.target)
    if target:
        return Ladder(finding, withheld=f"the system is in {target} mode")
    if finding.id.startswith("firewall-"):
        return _firewall(finding, situation)
    if finding.id == "wrappers-deny":
        return _wrappers(finding, situation)
    return plan_sshd.ladder(finding, situation.facts, situation.config, situation.known_good, situation.current)


# -- step 1: the firewall


def _firewall(finding: Finding, situation: Situation) -> Ladder:
    facts, config = situation.facts, situation.config
    if config.repair_firewall == "off":
        return Ladder(finding, withheld="[repair] firewall = off")
    if not situation.assessment.gaps or situation.ruleset is None:
        return Ladder(finding, withheld="the ruleset could not be read")
    firewalld = seen(facts.firewalld)
    if firewalld and firewalld.panic:
        return Ladder(finding, withheld="firewalld is in panic mode: somebody locked the machine on purpose")
    hidden = _unasked(facts, situation.ruleset)
    if hidden:
        return Ladder(finding, withheld=hidden, blind=True)
    fixed = _immutable(facts)
    if fixed:
        return Ladder(finding, withheld=f"{fixed} is immutable (chattr +i): somebody closed it on purpose")
    gap = next(g for g in situation.assessment.gaps if f"{g.interface}/{g.family.value}" == finding.subject)
    if not gap.regression:
        if config.repair_without_baseline == "report":
            return Ladder(finding, withheld="no baseline yet, and [repair] without_baseline = report")
        managers = [name for name in seen(facts.foreign) or () if name in _MANAGERS]
        if managers:
            return Ladder(
                finding, withheld=f"{', '.join(managers)} made this firewall, and nobody was seen to get in before"
            )
    rungs = [*_owner_rungs(gap, situation), *_raw_rungs(gap, situation)]
    withheld = "" if rungs else "no rule that the agent knows how to make would help"
    if situation.allow_disable or config.repair_firewall == "disable":
        containers = [name for name in seen(facts.foreign) or () if name in _CONTAINERS]
        if containers:
            withheld = f"the firewall is not switched off: {', '.join(containers)} keep rules in it"
        else:
            rungs.append(_disable(situation))
    return Ladder(finding, tuple(rungs), withheld)


def _unasked(facts: Facts, ruleset: Ruleset) -> str:
    """What could not be looked at and may say that somebody closed the firewall on purpose, or who is to open it.

    Of an owner only where its chains are in the ruleset: a bus that hangs keeps no other firewall shut.
    """
    names = [name for table in ruleset.tables for name in (table.name, *table.chains)]
    for owner, fact, marks in (("firewalld", facts.firewalld, _FIREWALLD_NAMES), ("ufw", facts.ufw, _UFW_NAMES)):
        if isinstance(fact, Unseen) and any(name.startswith(marks) for name in names):
            return f"{owner} made this firewall, and could not be looked at ({fact.reason})"
    ufw, firewalld = seen(facts.ufw), seen(facts.firewalld)
    if (ufw and ufw.enabled) or (firewalld and firewalld.running):
        return _maybe_immutable(facts)
    return ""


def _maybe_immutable(facts: Facts) -> str:
    fixed = facts.machine.immutable
    return f"whether a file is immutable could not be seen ({fixed.reason})" if isinstance(fixed, Unseen) else ""


def _immutable(facts: Facts) -> str:
    """A file of the firewall's owner that nobody may write."""
    ufw, firewalld = seen(facts.ufw), seen(facts.firewalld)
    mine = "/etc/ufw/" if ufw and ufw.enabled else "/etc/firewalld/" if firewalld and firewalld.running else ""
    return next((path for path in seen(facts.machine.immutable) or () if mine and path.startswith(mine)), "")


def _owner_rungs(gap: Gap, situation: Situation) -> Iterator[Rung]:
    ufw, firewalld = seen(situation.facts.ufw), seen(situation.facts.firewalld)
    if len(_networks(gap, situation)) > _OWNER_NETWORKS:
        return
    if ufw and ufw.enabled:
        yield from _ufw(gap, situation)
    elif firewalld and firewalld.running:
        yield from _firewalld(gap, situation)


def _networks(gap: Gap, situation: Situation) -> tuple[str, ...]:
    """The sources that an owner's rule must name; empty: everybody."""
    return addresses.cidrs(opening.restricted(gap, situation.rehearse), gap.family)


def _rest(gap: Gap, situation: Situation, table: str, chain: str, backend: Backend) -> Optional[tuple[Step, ...]]:
    """What must be opened beside an owner's rule at the end of `chain`: the owner's rule alone may not be enough.

    None: even so nobody would get in. Rehearsed with the owner's rule in the model.
    """
    if situation.ruleset is None:
        return None
    networks = opening.restricted(gap, situation.rehearse)
    rule = opening.model(opening.Opening(backend, gap.family, "", "", "", bans.Place(1), "in", gap.port, "", networks))
    if not _there(situation.ruleset, table, chain):
        return None
    ruleset = with_rule(situation.ruleset, table, backend, chain, rule, 1)
    reach = situation.rehearse(ruleset)
    before, alone = situation.assessment.reach, _alone(situation)
    found = opening.find(gap, reach, ruleset, situation.rehearse, alone=alone, before=before)
    return None if found is None else tuple(step for item in found for step in opening.steps(item))


def _there(ruleset: Optional[Ruleset], table: str, chain: str) -> bool:
    return any(item.label == table and chain in item.chains for item in (ruleset.tables if ruleset else ()))


def _alone(situation: Situation) -> bool:
    """Whether there is but one external interface, those without an address or link now among them."""
    reach = situation.assessment.reach
    return len({answer.interface for answer in reach.answers} | {name for name, _, _ in reach.unseen if name}) == 1


def _ufw(gap: Gap, situation: Situation) -> Iterator[Rung]:
    """Its own rule, and what must be opened beside it. To take ufw down and up is no repair: it lets everybody in
    meanwhile, and leads to chains that were flushed no more than before (ufw-init-functions: they exist already).
    """
    ufw = seen(situation.facts.ufw)
    assert ufw is not None
    six = gap.family is Family.IPV6
    table, chain = ("ip6 filter", "ufw6-user-input") if six else ("ip filter", "ufw-user-input")
    backend = _filter_backend(situation.ruleset, table, chain)
    rest = _rest(gap, situation, table, chain, backend) if backend else None
    allows = [words for words in map(str.split, ufw.tuples) if words[:1] == ["allow"]]
    networks = _networks(gap, situation) or ("",)
    flushed = not ufw.chains and all(any(_same(words, gap.port, n) for words in allows) for n in networks)
    if rest is None or flushed:
        return  # it leaves this family alone; or it allows SSH already, and nothing leads to its chains
    why = "ufw owns the firewall: its rule survives `ufw reload` and a reboot"
    # The rest first: it opens in a few milliseconds, and each of ufw's commands takes a fifth of a second.
    yield Rung("ufw-allow", why, (*rest, _ufw_allow(gap, situation, ufw.tuples)), "step 1: firewall")


def _filter_backend(ruleset: Optional[Ruleset], table: str, chain: str) -> Optional[Backend]:
    for item in ruleset.tables if ruleset else ():
        if item.label == table and chain in item.chains:
            return item.backend
    return None


def _ufw_allow(gap: Gap, situation: Situation, tuples: tuple[str, ...]) -> Run:
    """`ufw prepend allow`; an equal rule is deleted first, since ufw would skip ours and leave that where it stands.

    Where that is the first one anyhow, `ufw allow` makes an allowance of it: one command in place of two, of a fifth of
    a second each.
    """
    commands: list[tuple[str, ...]] = []
    inverse: list[tuple[str, ...]] = []
    known = [line.split() for line in tuples]
    for network in _networks(gap, situation) or ("",):
        rule: tuple[str, ...] = (f"{gap.port}/tcp",)
        if network:
            rule = ("proto", "tcp", "from", network, "to", "any", "port", str(gap.port))
        actions = sorted({words[0] for words in known if _same(words, gap.port, network)})
        if not network and len(actions) == 1 and _comes_first(known, actions[0], gap.port):
            commands.append(("ufw", "allow", *rule))
            inverse.insert(0, ("ufw", actions[0], *rule))
            continue
        for action in actions:
            said = action.split("_")  # deny_log: `ufw deny log`
            commands.append(("ufw", "--force", "delete", *said, *rule))
            inverse.append(("ufw", *said, *rule))
        commands.append(("ufw", "prepend", "allow", *rule))
        inverse.insert(0, ("ufw", "--force", "delete", "allow", *rule))
    return Run(tuple(commands), tuple(inverse), _UFW_FILES, (("ufw", "reload"),), "ufw", _UFW_TABLES)


def _comes_first(known: list[list[str]], action: str, port: int) -> bool:
    """Whether the first rule of both families is ACTION, which shuts, for the port and every source, and no more than
    that: without log or comment."""
    first = {family: next((w for w in known if (":" in "".join(w[3:6])) is family), []) for family in (False, True)}
    return action != "allow" and all(
        words[:1] == [action] and len(words) == 7 and _same(words, port, "") for words in first.values()
    )


def _same(words: list[str], port: int, network: str) -> bool:
    """`ACTION tcp PORT ANY any SOURCE in [comment=...]`: the tuple that `ufw ACTION ...` makes; none of an
    application's or an interface's."""
    wide = ("0.0.0.0/0", "::/0")
    head = words[1:3] == ["tcp", str(port)] and words[6:7] == ["in"] and words[3] in wide
    return head and words[5] in ((network,) if network else wide)


def _firewalld(gap: Gap, situation: Situation) -> Iterator[Rung]:
    firewalld = seen(situation.facts.firewalld)
    assert firewalld is not None
    # The unit is active before its rules are loaded, when everybody gets in; `--state` answers when they are.
    commands = (("systemctl", "restart", "firewalld.service"), ("firewall-cmd", "--state"))
    step, restart = "step 1: firewall", Run(commands, owner="firewalld")
    if firewalld.policy_drop:
        yield Rung(
            "firewalld-restart", "a reload of firewalld failed and left its policy DROP behind", (restart,), step
        )
    zones = {zone.name: zone for zone in firewalld.zones}
    name = next((z.name for z in firewalld.zones if gap.interface in z.interfaces), firewalld.default_zone)
    permanent = {zone.name: zone for zone in firewalld.permanent}
    if name in zones:
        run = _firewall_cmd(gap, situation, zones[name], permanent.get(name))
        table, chain = "inet firewalld", f"filter_IN_{name}_allow"
        there = _there(situation.ruleset, table, chain)
        rest = _rest(gap, situation, table, chain, Backend.NFTABLES)
        if run.commands and (rest is not None or not there):
            why = f"firewalld owns the firewall: zone {name} is the way in on {gap.interface}"
            yield Rung("firewalld-allow", why, (run, *(rest or ())), step)
        if firewalld.policy_drop or (run.commands and there):
            return  # a restart would forget what the administrator set at run time only, and change nothing else
        yield Rung("firewalld-restart", "the kernel's rules are not what firewalld says of them", (restart,), step)


def _firewall_cmd(gap: Gap, situation: Situation, zone: FirewalldZone, permanent: Optional[FirewalldZone]) -> Run:
    """What is missing, in the running and in the permanent configuration; ALREADY_ENABLED would be undone wrongly."""
    networks = _networks(gap, situation)
    if networks:
        wanted = [
            f'rule family="{gap.family.value}" source address="{network}" port port="{gap.port}" protocol="tcp" accept'
            for network in networks
        ]
        options = [("rich-rule", rule) for rule in wanted]
    elif gap.port == 22:
        options = [("service", "ssh")]
    else:
        options = [("port", f"{gap.port}/tcp")]
    commands: list[tuple[str, ...]] = []
    inverse: list[tuple[str, ...]] = []
    for where, known in (((), zone), (("--permanent",), permanent)):
        for kind, value in options:
            if known and _has(known, kind, value):
                continue
            target = ("firewall-cmd", *where, f"--zone={zone.name}")
            commands.append((*target, f"--add-{kind}={value}"))
            inverse.insert(0, (*target, f"--remove-{kind}={value}"))
    path = f"/etc/firewalld/zones/{zone.name}.xml"
    files = (path, f"{path}.old") if any("--permanent" in c for c in commands) else ()
    return Run(tuple(commands), tuple(inverse), files, (), "firewalld")


def _has(zone: FirewalldZone, kind: str, value: str) -> bool:
    if kind == "service":
        return value in zone.services
    if kind == "port":
        return tuple(value.split("/")) in zone.ports
    return value in zone.rich_rules


def _raw_rungs(gap: Gap, situation: Situation) -> Iterator[Rung]:
    if situation.ruleset is None:
        return
    reach = situation.assessment.reach
    found = opening.find(gap, reach, situation.ruleset, situation.rehearse, alone=_alone(situation))
    if not found:
        return
    inserts = tuple(step for item in found for step in opening.steps(item))
    yield Rung("open", "the smallest opening: a rule in front of each chain that decides", inserts, "step 1: firewall")


def _disable(situation: Situation) -> Rung:
    """The document's second form: everything off."""
    ufw, firewalld = seen(situation.facts.ufw), seen(situation.facts.firewalld)
    owner = "ufw" if ufw and ufw.enabled else "firewalld" if firewalld and firewalld.running else ""
    tables = situation.ruleset.tables if situation.ruleset else ()
    tools = []
    for backend, four, six in (
        (Backend.IPTABLES_NFT, "iptables", "ip6tables"),
        (Backend.LEGACY, "iptables-legacy", "ip6tables-legacy"),
    ):
        mine = {table.family for table in tables if table.backend is backend}
        tools += [tool for tool, family in ((four, "ip"), (six, "ip6")) if family in mine]
    nft = tuple(
        (t.family, t.name)
        for t in tables
        if t.backend is Backend.NFTABLES and _filters(t) and not t.name.startswith(("firewalld", *BANS))
    )
    why = "the document's second form: the firewall of the operating system is switched off"
    return Rung("disable", why, (Disable(tuple(tools), owner, nft),), "step 1: firewall, second form")


def _filters(table: Table) -> bool:
    hooks = ("ingress", "prerouting", "input", "output", "postrouting")
    return any(chain.hook in hooks and chain.type == "filter" for chain in table.chains.values())


# -- step 3: TCP wrappers


def _wrappers(finding: Finding, situation: Situation) -> Ladder:
    facts = situation.facts
    if situation.config.repair_tcp_wrappers == "off":
        return Ladder(finding, withheld="[repair] tcp_wrappers = off")
    for path in (HOSTS_ALLOW, HOSTS_DENY):
        if path in (seen(facts.machine.immutable) or ()):
            return Ladder(finding, withheld=f"{path} is immutable (chattr +i): somebody closed it on purpose")
    hidden = _maybe_immutable(facts)
    if hidden:
        return Ladder(finding, withheld=hidden, blind=True)
    allow = facts.wrappers.allow
    if not isinstance(allow, Seen):
        return Ladder(finding, withheld=f"{HOSTS_ALLOW} could not be read, so nothing is put in front of it")
    gaps = [g for g in situation.assessment.gaps if any(b.backend is Backend.WRAPPERS for b in g.blockers)]
    lines = _lines(gaps, situation)
    content = "".join(f"{line}\n" for line in lines).encode() + (allow.value or b"")
    shown = "; ".join(f"sed -i '1i {line}' {HOSTS_ALLOW}" for line in lines)
    step = Write(HOSTS_ALLOW, content, shown, allow.value or b"")
    return Ladder(
        finding, (Rung("hosts-allow", "the document's line in front of hosts.allow", (step,), finding.document),)
    )


def _lines(gaps: list[Gap], situation: Situation) -> list[str]:
    """The document's line; or, where only some ever got in, or one family never did, lines that name just those."""
    networks = [(gap.family, _networks(gap, situation)) for gap in gaps]
    families = {gap.family for gap in gaps}
    others = [answer for answer in situation.assessment.reach.answers if answer.family not in families]
    denied = any(rule.backend is Backend.WRAPPERS and shut(rule) for answer in others for rule in answer.rules)
    if not denied and not any(some for _, some in networks):
        return [DOCUMENT_LINE]
    words = [_pattern(family, network) for family, some in networks for network in some or _HALVES[family]]
    # libwrap reads at most 2,047 characters of a line.
    return [f"sshd2 sshd : {' '.join(words[i : i + 24])} : allow" for i in range(0, len(words), 24)]


def _pattern(family: Family, network: str) -> str:
    """As hosts_access(5) wants it: `[v6]/len`; `/32` never matches."""
    address, slash, length = network.partition("/")
    if family is Family.IPV6:
        return f"[{address}]/{length}" if slash else f"[{address}]"
    return network
