"""hosts.allow and hosts.deny as libwrap evaluates them: who may connect to sshd, for all sources at once.

Theory. The first rule of hosts.allow that matches (daemon, client) grants, the first of hosts.deny refuses, and without
one access is granted; options at the end of a rule may turn that round. A pattern is a set of addresses that surely
match and a set that may (a host name, a netgroup, a user: it hangs on a lookup). A source that *may* have matched is
carried on with the results it may have got; its answer is certain only if the rule that ends it agrees with them all.

Sources: hosts_access(5), hosts_options(5); Debian's libwrap 7.6.q-32, of which the quirks below were read from its
machine code and are checked against it by tests/kernel/test_libwrap.py. Three flavours differ:
- DEBIAN: address masks outside the brackets of IPv6; a line without newline or over 2,047 characters ends its file, in
  hosts.deny with a refusal of everybody; a number as daemon is a server port; `*` and `?` wildcards.
- SUSE: masks inside the brackets, every address handled as IPv6, host bits ignored; such a line is skipped.
- UPSTREAM: no IPv6, no wildcards, only dotted masks; such a line is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Optional

from ..plain import NamedTuple
from .addresses import contains, normal, union
from .ruleset import Family, Ranges
from .sources import Sources
from .wrapper_patterns import BUDGET, Client, Flavour, Match, alternatives, glob, scanned, split_at, split_plainly

__all__ = ["Decision", "Flavour", "Rule", "Tables", "evaluate", "parse"]


class Rule(NamedTuple):
    """A logical line. `options` None: no third field. `broken`: unreadable, and this flavour stops here."""

    line: int
    text: str
    daemons: tuple[str, ...] = ()
    clients: tuple[str, ...] = ()
    options: Optional[str] = None
    broken: bool = False


class Tables(NamedTuple):
    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...]
    flavour: Flavour


class Decision(NamedTuple):
    """Sources that one rule decides. `granted` None: it hangs on a lookup or a command. `file` "": no rule matched."""

    sources: Ranges
    granted: Optional[bool]
    file: str
    line: int
    text: str


_LINE = 2048  # BUFLEN of hosts_access.c: a logical line holds one character less


# -- lines


def parse(allow: Optional[bytes], deny: Optional[bytes], *, flavour: Flavour = Flavour.DEBIAN) -> Tables:
    """The rules of both files; None: there is no such file. Total: no bytes are an error."""
    return Tables(tuple(_rules(allow or b"", flavour)), tuple(_rules(deny or b"", flavour)), flavour)


def _lines(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Logical lines with their newline, as xgets() of misc.c reads them, with the number of their first line.

    A NUL ends what libwrap sees of a line, its newline too. A line that fills the buffer comes in pieces.
    """
    place, number = 0, 1
    while place < len(content):
        start, buffer, room = number, b"", _LINE
        while place < len(content):
            end = content.find(b"\n", place, place + room - 1)
            chunk = content[place : end + 1 if end >= 0 else place + room - 1]
            place += len(chunk)
            number += chunk.endswith(b"\n")
            chunk = chunk.partition(b"\0")[0]
            if chunk.endswith(b"\\\n"):
                chunk = chunk[:-2]
            elif chunk.endswith(b"\n"):
                buffer += chunk
                break
            buffer += chunk
            room -= len(chunk)
            if room == 1:
                break
        if buffer:
            yield start, buffer


def _rules(content: bytes, flavour: Flavour) -> Iterator[Rule]:
    for number, raw in _lines(content):
        text = raw.decode("latin-1")
        shown = raw.decode("utf-8", "replace").strip()[:500]
        if not text.endswith("\n"):
            if flavour is Flavour.DEBIAN:
                yield Rule(number, shown, broken=True)
                return
            continue
        if flavour is Flavour.UPSTREAM:
            text = text.rstrip(" \t\r\n\v\f")
        if text.startswith("#") or not text.strip(" \t\r\n"):
            continue
        split = split_plainly if flavour is Flavour.UPSTREAM else split_at
        daemons, rest = split(text, ":")
        if rest is None:
            continue
        clients, options = split(rest, ":")
        separators = ", \t" if flavour is Flavour.UPSTREAM else ", \t\r\n"
        yield Rule(number, shown, _words(daemons, separators), _words(clients, separators), options)


def _words(text: str, separators: str) -> tuple[str, ...]:
    return tuple(word for word in re.split(f"[{separators}]+", text) if word)


# -- daemons


class _Server:
    """The daemon patterns of one evaluation: answers False, True, or None for may."""

    def __init__(self, daemon: str, port: int, to: Optional[int], client: Client) -> None:
        self.daemon, self.port, self.to, self.client = daemon.lower(), port, to, client

    def list(self, tokens: tuple[str, ...]) -> Optional[bool]:
        result: Optional[bool] = False
        for part in alternatives(tokens):
            answers = [self._token(token) for token in part]
            some: Optional[bool] = True if True in answers else None if None in answers else False
            if some is False or result is True:
                result = False
            else:
                result = True if some and result is False else None
        return result

    def _token(self, token: str) -> Optional[bool]:
        head, host = split_at(token[1:], "@")
        if not self._daemon(token[0] + head):
            return False
        return True if host is None else self._host(host)

    def _daemon(self, pattern: str) -> bool:
        flavour, lower = self.client.flavour, pattern.lower()
        if flavour is Flavour.DEBIAN:
            number = scanned(pattern, most=(1 << 64) - 1)
            if number is not None and 0 <= number <= 0xFFFF:
                return number == self.port
        if flavour is not Flavour.UPSTREAM and ("*" in pattern or "?" in pattern):
            return glob(lower if flavour is Flavour.DEBIAN else pattern, self.daemon)
        if lower in ("all", self.daemon):
            return True
        if lower == "known":
            return self.daemon != "unknown"
        if lower.startswith("."):
            return len(self.daemon) > len(lower) and self.daemon.endswith(lower)
        return flavour is not Flavour.SUSE and lower.endswith(".") and self.daemon.startswith(lower)

    def _host(self, pattern: str) -> Optional[bool]:
        found = self.client.host(pattern)
        if not found.maybe:
            return False
        if self.to is None:
            return True if found.sure == self.client.space else None
        if contains(found.sure, self.to):
            return True
        return None if contains(found.maybe, self.to) else False


# -- options


_FACILITIES = {"kern", "user", "mail", "daemon", "auth", "lpr", "news", "uucp", "cron"} | {
    f"local{n}" for n in range(8)
}
_LEVELS = {"emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"}
#: option: whether it has a value (None: as you like)
_OPTIONS = {
    "user": True, "group": True, "umask": True, "linger": True, "keepalive": False, "spawn": True, "twist": True,
    "rfc931": None, "setenv": True, "nice": None, "severity": True, "allow": False, "deny": False, "banners": True,
    "aclexec": True,
}  # fmt: skip
_EXPANDED = ("spawn", "twist", "setenv", "aclexec")
_PRINTERS = ("echo", "printf", "cat", "false", "true")


def _fields(text: str) -> Iterator[str]:
    """get_field() of options.c: `\\:` is a colon in a field; one at the very end ends nothing."""
    while text:
        match = re.match(r"((?:\\:|[^:])*)(:?)", text, re.DOTALL)
        assert match
        yield match.group(1).replace("\\:", ":")
        text = text[match.end() :]


def _options(text: str, table: bool) -> Optional[bool]:
    """process_options(): what the options of a rule that matched make of `table`, its file's answer."""
    fields = [field.strip(" \t\r\n") for field in _fields(text)]
    risky = False  # an option may refuse, for reasons that cannot be seen here
    for place, field in enumerate(fields):
        match = re.fullmatch(r"([^= \t\r\n]*)[ \t\r\n]*=?[ \t\r\n]*(.*)", field, re.DOTALL)
        assert match
        name, value = match.group(1).lower(), match.group(2)
        wants = _OPTIONS.get(name, True)
        if name not in _OPTIONS or wants is not None and wants != bool(value):
            return False
        if name in ("allow", "deny", "twist") and place < len(fields) - 1:
            return False
        # Each %x becomes 255 characters at most; what is over 8,191 in all refuses.
        if name in _EXPANDED and len(value) + 255 * value.count("%") > 8191:
            risky = True
        if name == "aclexec":
            return None
        effect = _option(name, value)
        if effect is False or name == "allow" or name == "twist":
            return None if risky and effect else effect
        risky = risky or effect is None
    return None if risky and table else table


def _option(name: str, value: str) -> Optional[bool]:
    """True: it lets the rule go on (`allow`: grants); False: it refuses; None: one of these."""
    if name == "deny":
        return False
    if name in ("user", "group"):
        return None
    if name == "twist":
        words = value.split()
        return (
            False if words and words[0].rpartition("/")[2] in _PRINTERS and not re.search(r"[;&|`$]", value) else None
        )
    if name == "setenv":
        variable = re.split(r"[ \t\r\n]", value, maxsplit=1)[0]
        return None if "%" in variable else "=" not in variable
    if name == "severity":
        facility, dot, level = value.partition(".")
        return facility.lower() in _FACILITIES and level.lower() in _LEVELS if dot else value.lower() in _LEVELS
    if name == "umask":
        mask = scanned(value, 8, (1 << 64) - 1)
        return mask is not None and 0 <= mask <= 0o777
    if name in ("linger", "rfc931", "nice") and value:
        number = scanned(value)
        return number is not None and (name == "nice" or number >= (name == "rfc931"))
    return True


# -- evaluation


def evaluate(
    tables: Tables, *, family: Family, daemon: str = "sshd", port: int = 22, to: Optional[int] = None
) -> tuple[Decision, ...]:
    """Who gets past libwrap: decisions that partition the family's address space, in the order of the rules.

    `to` is the server's address, for `daemon@host` (None: not known). Total, in bounded time.
    """
    client = Client(family, tables.flavour)
    walk = _Walk(client)
    server = _Server(daemon, port, to, client)
    for name, rules, answer in (("hosts.allow", tables.allow, True), ("hosts.deny", tables.deny, False)):
        for rule in rules:
            if not walk.undecided:
                break
            if rule.broken:
                # table_match() says ERR, which is neither a match in hosts.allow nor none in hosts.deny.
                if not answer:
                    walk.decide(Match(client.space, client.space), False, (name, rule))
                break
            served = server.list(rule.daemons)
            if served is False:
                continue
            found = client.list(rule.clients)
            if served is None:
                found = Match((), found.maybe)
            granted = answer if rule.options is None else _options(rule.options, answer)
            walk.decide(found, granted, (name, rule))
    return walk.finish()


_By = tuple[str, Rule]
_DEFAULT: _By = ("", Rule(0, ""))


class _Walk:
    """Sources not decided yet, and of these the ones that rules before may have decided, by what these rules say."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.undecided = Sources(client.space)
        self.clean = Sources(client.space)
        self.pending = {True: Sources(()), False: Sources(()), None: Sources(())}
        self.first: list[tuple[_By, Ranges]] = []  # the first rule that may have decided a pending source
        self.unknown: list[tuple[int, int]] = []  # pending sources that ended without a certain answer
        self.decisions: list[tuple[_By, Optional[bool], Ranges]] = []

    def decide(self, found: Match, granted: Optional[bool], by: _By) -> None:
        if self.client.spent > BUDGET:
            found, granted = Match(self.client.space, self.client.space), None
        sure = self.undecided.overlap(found.sure)
        if sure:
            self.undecided.take(sure)
            self._settle(sure, granted, by)
        for kind in (True, False):
            if kind is not granted:
                self._move(found.maybe, kind, None)
        fresh = self.clean.overlap(found.maybe)
        if fresh:
            self.clean.take(fresh)
            self._add(granted, fresh)
            self.first.append((by, fresh))
        self.client.spent += len(sure) + len(fresh)

    def _settle(self, sure: Ranges, granted: Optional[bool], by: _By) -> None:
        certain = self.clean.overlap(sure)
        self.clean.take(certain)
        for kind, sources in self.pending.items():
            part = sources.overlap(sure)
            sources.take(part)
            if kind is granted and granted is not None:
                certain = union(certain, part)
            else:
                self.unknown += part
        if certain:
            self.decisions.append((by, granted, certain))

    def _move(self, ranges: Ranges, kind: Optional[bool], to: Optional[bool]) -> None:
        part = self.pending[kind].overlap(ranges)
        if part:
            self.pending[kind].take(part)
            self._add(to, part)

    def _add(self, kind: Optional[bool], ranges: Ranges) -> None:
        self.pending[kind].add(ranges)
        self.client.spent += len(self.pending[kind].all())

    def finish(self) -> tuple[Decision, ...]:
        if self.undecided:
            self._settle(self.undecided.all(), True, _DEFAULT)
        unknown = Sources(normal(self.unknown))
        for by, ranges in self.first:
            part = unknown.overlap(ranges)
            if part:
                self.decisions.append((by, None, part))
        order = {"hosts.allow": 0, "hosts.deny": 1, "": 2}
        self.decisions.sort(key=lambda item: (order[item[0][0]], item[0][1].line))
        return tuple(
            Decision(sources, granted, file, rule.line, rule.text) for (file, rule), granted, sources in self.decisions
        )
