"""The rulesets and the question of `reach` when files are given: nothing of this host is looked at.

An iptables-save file of the nft variant beside an `nft -j` listing that has the same tables tells what the listing's
opaque `xt` rules say, and adds nothing else.
"""

from __future__ import annotations

import argparse
import sys
from typing import Optional

from .model import AgentError, UsageError
from .plain import NamedTuple
from .reach import addresses, iptables, wrappers
from .reach.question import Link, Listening, Local, Question, Route
from .reach.ruleset import Backend, Family, Ruleset, Table

_CAP = 256 << 20
_TO = ("10.0.5.20/24", "2001:db8:5::20/64")
_LABEL = {Family.IPV4: "ip", Family.IPV6: "ip6"}
_LOCAL_TABLE = 255

Decisions = Optional[dict[Family, tuple[wrappers.Decision, ...]]]


class InputError(AgentError):
    """A file that cannot be read, or files that contradict each other (sysexits: EX_NOINPUT, EX_DATAERR)."""

    def __init__(self, message: str, exit_status: int = 65) -> None:
        super().__init__(message)
        self.exit_status = exit_status


class Asked(NamedTuple):
    """A question for each interface, the rules, and what hosts.allow and hosts.deny decide (None: not asked)."""

    questions: tuple[Question, ...]
    ruleset: Ruleset
    decisions: Decisions


def named(arguments: argparse.Namespace) -> bool:
    """Whether any file option is there: then only files count."""
    return bool(
        arguments.iptables_save
        or arguments.ip6tables_save
        or arguments.nft_json
        or arguments.hosts_allow
        or arguments.hosts_deny
    )


def ask(arguments: argparse.Namespace) -> Asked:
    """Raises UsageError, InputError, and the errors of the parsers."""
    port = arguments.port or 22
    to = [local(text) for text in arguments.to or _TO]
    names = arguments.interface or ["eth0"]
    questions = tuple(_question(name, place, port=port, to=to) for place, name in enumerate(names, 2))
    files = _Files()
    found = _ruleset(arguments, files)
    return Asked(questions, found, _decisions(arguments, files, port=port, to=to))


def local(text: str) -> Local:
    """`ADDR[/LEN]`; without a length the address stands alone."""
    address, slash, length = text.partition("/")
    try:
        family, value = addresses.parse_address(address)
    except ValueError as error:
        raise UsageError(f"--to {error}") from error
    bits = addresses.BITS[family]
    if slash and not (length.isascii() and length.isdecimal() and len(length) < 4 and int(length) <= bits):
        raise UsageError(f"--to not a prefix length: {text[:60]}")
    return Local(family, value, int(length) if slash else bits)


def _question(name: str, index: int, *, port: int, to: list[Local]) -> Question:
    """One interface, with a default route by it. Of several interfaces each is asked about as if it were the only one:
    nothing says by which of them replies leave.
    """
    routes = []
    for family, space in addresses.SPACE.items():
        routes.append(Route(family, space[0], name))
    for own in to:
        routes.append(Route(own.family, (own.address, own.address), name, "local", _LOCAL_TABLE))
        routes.append(Route(own.family, addresses.prefix_range(own.family, own.address, own.prefix), name))
    listening = tuple(Listening(family, 0, port, v6only=True) for family in Family)
    return Question(port, (Link(name, index, tuple(to)),), listening, tuple(routes))


class _Files:
    """Reads what was named; standard input once."""

    def __init__(self) -> None:
        self.stdin_read = False

    def read(self, name: str) -> bytes:
        if name == "-":
            if self.stdin_read:
                raise UsageError("standard input (-) can be read once only")
            self.stdin_read = True
            data = sys.stdin.buffer.read(_CAP + 1)
        else:
            try:
                # Not the host's file but the caller's, perhaps a pipe: like standard input.
                with open(name, "rb") as file:
                    data = file.read(_CAP + 1)
            except (OSError, ValueError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not a file name"
                raise InputError(f"{name}: {reason}", 66) from error
        if len(data) > _CAP:
            raise InputError(f"{name}: larger than {_CAP >> 20} MiB")
        return data

    def text(self, name: str) -> str:
        data = self.read(name)
        if data[:3] == b"\xef\xbb\xbf":
            data = data[3:]
        return data.decode("utf-8", "surrogateescape")


def _ruleset(arguments: argparse.Namespace, files: _Files) -> Ruleset:
    saves: dict[tuple[Family, Backend], Ruleset] = {}
    for family, names in ((Family.IPV4, arguments.iptables_save), (Family.IPV6, arguments.ip6tables_save)):
        for name in names:
            text = files.text(name)
            backend = iptables.variant(text)
            if (family, backend) in saves:
                raise UsageError(f"{name}: a second file of {backend.value} for {family.value}")
            saves[family, backend] = _parsed(name, text, family)
    saved = {
        table.label: table
        for (_, backend), save in saves.items()
        if backend is Backend.IPTABLES_NFT
        for table in save.tables
    }
    tables: list[Table] = []
    for name in arguments.nft_json:
        from .reach import nftables

        tables += nftables.parse(nftables.load(files.read(name)), saved=tuple(saved.values())).tables
    listed = {table.label for table in tables}
    for (_, backend), save in saves.items():
        tables += [table for table in save.tables if backend is Backend.LEGACY or table.label not in listed]
    labels = [(table.label, table.backend is Backend.LEGACY) for table in tables]
    if len(set(labels)) < len(labels):
        raise UsageError("two files list the same table")
    return Ruleset(tuple(tables))


def _parsed(name: str, text: str, family: Family) -> Ruleset:
    try:
        return iptables.parse(text, family=family)
    except iptables.IptablesError as error:
        raise InputError(f"{name}: {error}") from error


def _decisions(arguments: argparse.Namespace, files: _Files, *, port: int, to: list[Local]) -> Decisions:
    if not arguments.hosts_allow and not arguments.hosts_deny:
        return None
    allow, deny = (files.read(name) if name else None for name in (arguments.hosts_allow, arguments.hosts_deny))
    tables = wrappers.parse(allow, deny)
    decisions = {}
    for family in Family:
        own = {item.address for item in to if item.family is family}
        decisions[family] = wrappers.evaluate(tables, family=family, port=port, to=own.pop() if len(own) == 1 else None)
    return decisions
