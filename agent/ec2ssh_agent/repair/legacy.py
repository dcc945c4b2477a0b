"""Rules of legacy xtables tables, written with python-iptables where it is installed.

iptc never takes xtables' lock, commits behind one's back, and its `easy` layer swallows errors of encoding. So: Rule
objects, autocommit off, flock on /run/xtables.lock, an explicit commit that is tried again on EAGAIN (the kernel
refuses a table that changed since it was read), and the caller reads back with iptables-legacy. XTABLES_LIBDIR and
IPTABLES_LIBDIR save a fork of ldconfig and of gcc at import. Importing loads the legacy tables' modules: it is done
only to write to them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

from ..host import Host
from .work import StepFailed

LOCK = "/run/xtables.lock"
_LIBRARIES = ("/usr/lib64", "/usr/lib")


class Unsupported(StepFailed):
    """python-iptables is not here, or a word of the rule is not ours: the command line tool writes it."""


def _iptc(host: Host) -> Any:
    """The module. Raises Unsupported; AttributeError and TypeError are what it gives without libiptc."""
    directories = [*(f"/usr/lib/{n}" for n in host.listdir("/usr/lib") if "-linux-" in n), *_LIBRARIES]
    for directory in directories:
        if host.exists(f"{directory}/xtables"):
            os.environ.setdefault("XTABLES_LIBDIR", f"{directory}/xtables")
            os.environ.setdefault("IPTABLES_LIBDIR", directory)
            break
    try:
        import iptc
    except (ImportError, AttributeError, TypeError, OSError) as error:
        raise Unsupported(f"python-iptables: {error}") from error
    return iptc


def _rule(iptc: Any, words: Sequence[str], *, table: Any, six: bool) -> Any:
    """`-i eth0 -p tcp --dport 22 -j ACCEPT` as a Rule. Raises Unsupported, or what iptc raises on a bad value."""
    # A target makes iptc look for a chain of its name in every table, which loads them all: ours is the only one.
    rule = type("Rule", (iptc.Rule6 if six else iptc.Rule,), {"tables": [table]})()
    general = {"-i": "in_interface", "-o": "out_interface", "-s": "src", "-d": "dst", "-p": "protocol"}
    match: Any = None
    protocol, name = "", ""
    place = 0
    while place < len(words):
        word = words[place]
        values: list[str] = []
        place += 1
        while place < len(words) and not words[place].startswith("-") and words[place] != "!":
            values.append(words[place])
            place += 1
        if word in general and len(values) == 1:
            if word == "-p":
                protocol = values[0] = {"ipv6-icmp": "icmpv6"}.get(values[0], values[0])
            setattr(rule, general[word], values[0])
        elif word == "-m" and len(values) == 1:
            name, match = values[0], rule.create_match(values[0])
        elif word.startswith("--") and values:
            implied = {"icmpv6": "icmp6"}.get(protocol, protocol)
            if word in ("--dport", "--sport", "--icmpv6-type") and name != implied:
                name, match = implied, rule.create_match(implied)
            if match is None:
                raise Unsupported(f"{word}: of no match")
            match.set_parameter(word[2:].replace("-", "_"), values[0] if len(values) == 1 else values)
        elif word == "-j" and len(values) == 1:
            rule.create_target(values[0])
        else:
            raise Unsupported(f"{word}: not a word that is written through python-iptables")
    return rule


def _change(host: Host, table: str, *, six: bool, change: Callable[[Any, Any], None]) -> None:
    """Reads the table, lets `change` change it, commits, under xtables' lock. Raises StepFailed, Locked."""
    # The lock comes before the import: who may not take it does not touch the tables.
    with host.lock(LOCK, wait=5.0):
        iptc = _iptc(host)
        errors = (iptc.IPTCError, iptc.XTablesError, ValueError, AttributeError, TypeError)
        for attempt in range(5):
            handle = None
            try:
                kind = iptc.Table6 if six else iptc.Table
                handle = kind(table, autocommit=False)
                handle.refresh()
                change(iptc, handle)
                handle.commit()
                return
            except errors as error:
                if "temporarily unavailable" not in str(error) or attempt == 4:
                    raise StepFailed(f"python-iptables: {error}") from error
                host.sleep(0.02)
            finally:
                if handle is not None:
                    handle.close()


def insert(host: Host, chain: tuple[str, str], words: Sequence[str], *, position: int, six: bool) -> None:
    """Puts a rule into `chain` (table, name) at `position`, from 1. Raises Unsupported, StepFailed, Locked."""

    def change(iptc: Any, table: Any) -> None:
        iptc.Chain(table, chain[1]).insert_rule(_rule(iptc, words, table=table, six=six), position - 1)

    _change(host, chain[0], six=six, change=change)


def delete(host: Host, chain: tuple[str, str], rules: Sequence[Sequence[str]], *, six: bool) -> None:
    """Deletes the rules, as `iptables-legacy -S` prints them. Raises Unsupported, StepFailed, Locked."""

    def change(iptc: Any, table: Any) -> None:
        for words in rules:
            iptc.Chain(table, chain[1]).delete_rule(_rule(iptc, words, table=table, six=six))

    _change(host, chain[0], six=six, change=change)
