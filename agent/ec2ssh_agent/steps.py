"""The steps that a repair is made of, as data: plan.py makes them, repair/ carries them out and takes them back.

Each kind has an inverse that can be written down before it is made; what has none is not in this list. `commands` tells
what a person would type to the same effect; `repair --dry-run` prints it.
"""

from __future__ import annotations

import shlex
from typing import Optional, Union

from .model import Finding
from .plain import NamedTuple
from .reach.ruleset import Backend, Family

Argv = tuple[str, ...]

#: Stands in a step's text for the id of the change, which is known only when the change is recorded.
CHANGE = "@CHANGE@"
#: How a rule of ours is known again: its comment.
COMMENT = f"ec2ssh-agent:{CHANGE}"


class Run(NamedTuple):
    """Commands of whoever owns the thing, and those that take them back.

    `files` are what the tool writes: their bytes are saved before. After the inverse they must be what they were, or
    they are written back and `reload` is run. `owner` names the tool, whose runs are never cut short: ufw, firewalld,
    systemd.
    """

    commands: tuple[Argv, ...]
    inverse: tuple[Argv, ...] = ()
    files: tuple[str, ...] = ()
    reload: tuple[Argv, ...] = ()
    owner: str = ""
    tables: tuple[str, ...] = ()  # xtables commands whose filter table the tool writes: saved, and put back as it was


class Insert(NamedTuple):
    """A rule in front of a base chain. xtables: `spec` is what follows `-I CHAIN 1`; nft: the statement, as words.

    `backend` says with which tool: iptables-nft, iptables-legacy (python-iptables), nftables. `family` is the table's:
    ip, ip6, inet, netdev. Its inverse deletes the rule that carries the change's comment.
    `networks`, where there are too many for one rule, become an ipset (or an nft set) named after the change.
    """

    backend: Backend
    family: str
    table: str
    chain: str
    spec: Argv
    networks: tuple[str, ...] = ()
    source: bool = True  # the networks are the packet's source (else its destination: replies)
    position: int = 1  # xtables: behind the bans that somebody put at the head of the chain
    after: int = 0  # nft: the same, by the handle of the last of them; the rule goes behind it
    before: int = 0  # nft: the handle of the rule that it goes in front of


class Write(NamedTuple):
    """A file's new content; the old bytes (or that there was none) are saved. Owner, mode, ACL and label are kept."""

    path: str
    content: bytes
    shown: str = ""  # the command that a person would type
    read: Optional[bytes] = None  # what the plan found there (nothing: b""): a file that changed since is left


class Mode(NamedTuple):
    path: str
    mode: int
    uid: int
    gid: int


class Directory(NamedTuple):
    path: str
    mode: int


class HostKeys(NamedTuple):
    """Missing host keys made by ssh-keygen; (type, path) each. The inverse removes just these."""

    keys: tuple[tuple[str, str], ...]


class Disable(NamedTuple):
    """The document's second form: policies ACCEPT, then the filter tables flushed, the owner switched off.

    The inverse restores the filter tables as saved (`tools` are the iptables commands: iptables, ip6tables, their
    legacy forms) and switches the owner on again. `nft` tables (family, name) that filter are emptied the same way.
    """

    tools: tuple[str, ...]
    owner: str = ""  # ufw, firewalld or nobody
    nft: tuple[tuple[str, str], ...] = ()


Step = Union[Run, Insert, Write, Mode, Directory, HostKeys, Disable]


class Rung(NamedTuple):
    """One attempt: its steps are made together, verified together, undone together. `name`: what was tried."""

    name: str
    why: str
    steps: tuple[Step, ...]
    document: Optional[str] = None


class Ladder(NamedTuple):
    """What could mend a finding, in the order in which it is tried; `withheld` says why nothing (more) is.

    `blind`: since something could not be looked at, which may be seen soon.
    """

    finding: Finding
    rungs: tuple[Rung, ...] = ()
    withheld: str = ""
    blind: bool = False


XTABLES = {
    (Backend.IPTABLES_NFT, Family.IPV4): "iptables",
    (Backend.IPTABLES_NFT, Family.IPV6): "ip6tables",
    (Backend.LEGACY, Family.IPV4): "iptables-legacy",
    (Backend.LEGACY, Family.IPV6): "ip6tables-legacy",
}


def insert_argv(step: Insert) -> Argv:
    """The command that inserts (for networks that became a set: without the set's own commands)."""
    if step.backend is Backend.NFTABLES:
        return ("nft", *nft_place(step), *step.spec, "comment", f'"{COMMENT}"')
    tool = XTABLES[step.backend, Family.IPV6 if step.family == "ip6" else Family.IPV4]
    table = () if step.table == "filter" else ("-t", step.table)
    # `-j TARGET` comes last, as a person writes it.
    return (
        tool,
        "-w",
        "5",
        *table,
        "-I",
        step.chain,
        str(step.position),
        *step.spec[:-2],
        "-m",
        "comment",
        "--comment",
        COMMENT,
        *step.spec[-2:],
    )


def nft_place(step: Insert) -> Argv:
    """nft(8): `add` puts a rule behind the one that `position` names, `insert` in front of it."""
    handle = step.after or step.before
    where = ("position", str(handle)) if handle else ()
    return ("add" if step.after else "insert", "rule", step.family, step.table, step.chain, *where)


def commands(step: Step) -> tuple[str, ...]:
    """What a person would type."""
    if isinstance(step, Run):
        return tuple(shlex.join(argv) for argv in step.commands)
    if isinstance(step, Insert):
        sets: tuple[str, ...] = ()
        if step.networks:
            sets = (f"# a set {set_name(step)} of {len(step.networks)} networks",)
        return (
            *sets,
            shlex.join(insert_argv(step)) if step.backend is not Backend.NFTABLES else " ".join(insert_argv(step)),
        )
    if isinstance(step, Write):
        return (step.shown or f"cat > {shlex.quote(step.path)}  # {len(step.content)} bytes, the last known good ones",)
    if isinstance(step, Mode):
        return (
            f"chown {step.uid}:{step.gid} {shlex.quote(step.path)}",
            f"chmod {step.mode:04o} {shlex.quote(step.path)}",
        )
    if isinstance(step, Directory):
        return (f"install -d -m {step.mode:04o} -o root -g root {shlex.quote(step.path)}",)
    if isinstance(step, HostKeys):
        return tuple(f"ssh-keygen -q -N '' -t {kind} -f {shlex.quote(path)}" for kind, path in step.keys)
    return _disable(step)


def set_name(step: Insert) -> str:
    """At most 31 characters (ipset); the change's id is cut to its random end by repair/."""
    return f"ec2ssh-{CHANGE}-{'6' if step.family == 'ip6' else '4'}"


def _disable(step: Disable) -> tuple[str, ...]:
    # Policies first: between a flush and the policy a DROP would shut everyone out.
    policies = [f"{tool} -w 5 -P {chain} ACCEPT" for tool in step.tools for chain in ("INPUT", "OUTPUT")]
    flushes = [f"{tool} -w 5 -F" for tool in step.tools]
    nft = [f"nft flush table {family} {name}" for family, name in step.nft]
    owner = {"ufw": ["ufw disable"], "firewalld": ["systemctl disable --now firewalld"]}.get(step.owner, [])
    return (*policies, *flushes, *nft, *owner)
