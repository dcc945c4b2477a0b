"""The packet filter's rules as the kernel has them, of all backends, as one Ruleset.

nf_tables is read with `nft -j -t`, all of one generation: if that is another one after the reading than before it, all
is read again. Where rules change all the time that would never end: there it is enough that those tables of which more
was read than nft lists are the same in a second listing. Rules that iptables-nft made of extensions are taken from what
iptables-nft-save prints at their place. Legacy tables are read only where /proc/net/ip_tables_names has some: asking
otherwise makes them.

What is costly is read when the analysis meets it (`resolve`): the elements of named sets, and on hosts with more than
2,000 rules every chain but the base chains. What is not read yet is unknown to the analysis, never empty.

Sources: nft(8), iptables-save(8), ipset(8), include/uapi/linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Optional

from .. import netlink
from ..host import Denied, Failed, Host, HostError, NotFound, Ran
from ..model import AgentError, Fact, Seen, Unseen
from ..plain import NamedTuple
from ..reach import iptables, nftables
from ..reach.ipsets import IpSet
from ..reach.question import Outcome, Reach
from ..reach.ruleset import (
    Backend,
    Chain,
    Family,
    Field,
    Kind,
    Lookup,
    Rule,
    Ruleset,
    Selector,
    Table,
    Unknown,
    Verdict,
)
from . import nf_tables

Json = dict[str, object]

_LARGE = 2000  # rules; beyond, chains are read one by one
_TRIES, _RESTARTS = 10, 5
_REST = 0.025  # seconds without a change, after which the rules are read again
_WAIT, _PATIENCE = 2, 30  # times that: the wait for it before the second try, doubled for each further one; all waits
_CAP = 128 << 20
_DEADLINE = 30.0

_HOOKS = frozenset(("ingress", "egress", "prerouting", "input", "output", "postrouting"))
_SIDES = {"ip": Family.IPV4, "ip6": Family.IPV6}
_LEGACY = {Family.IPV4: "/proc/net/ip_tables_names", Family.IPV6: "/proc/net/ip6_tables_names"}
_PREFIX = {Family.IPV4: "iptables", Family.IPV6: "ip6tables"}
_USES_SET = re.compile(r"--(?:match|add|del)-set\s+(\S+)")

_ADDS = frozenset(("set", "map", "meter"))

#: In `missing_sets`: not a set, but a chain that is not read yet. No set's name has a blank.
_CHAIN = "chain "


class Live(Ruleset):
    """A ruleset that can be read further."""

    reader: Reader


def generation(host: Host) -> Optional[int]:
    """The nf_tables generation of this network namespace; None: this kernel has no nf_tables. Raises HostError."""
    if host.root:
        raise Failed("nf_tables: not asked for an attached volume")
    try:
        with netlink.open_socket(netlink.NETFILTER) as via:
            return netlink.generation(via)
    except OSError as error:
        if error.errno in (errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL, errno.EAFNOSUPPORT):
            return None
        if error.errno in (errno.EPERM, errno.EACCES):
            raise Denied("nf_tables: only root may ask") from error
        raise Failed(f"nf_tables: {error.strerror}") from error


def _rest(host: Host, longest: int) -> int:
    """Waits until nf_tables was left alone for _REST seconds, `longest` times that at most; how many times it was."""
    for waited in range(1, longest + 1):
        before = generation(host)
        host.sleep(_REST)
        if generation(host) == before:
            return waited
    return longest


def collect(host: Host) -> tuple[Fact[Ruleset], Fact[int]]:
    """All rules, and the generation of those of nf_tables. Changes and loads nothing."""
    try:
        reader = Reader.read(host)
    except AgentError as error:
        return Unseen(str(error)), Unseen(str(error))
    if reader.generation is None:
        return Seen(reader.ruleset(), "no nf_tables"), Unseen("this kernel has no nf_tables")
    where = f"nf_tables generation {reader.generation}"
    return Seen(reader.ruleset(), where), Seen(reader.generation, "NFT_MSG_GETGEN")


def resolve(host: Host, ruleset: Ruleset, analysed: Callable[[Ruleset], Reach]) -> tuple[Reach, Ruleset]:
    """The analysis, with all sets and chains read that it needs, and the ruleset with them in it.

    Where nobody gets in, what an opening would let packets meet is read, too: a repair is rehearsed on the ruleset.
    What cannot be read stays unknown, and the answer uncertain where it hangs on it. Raises AnalysisError.
    """
    while True:
        reach = analysed(ruleset)
        if not isinstance(ruleset, Live):
            return reach, ruleset
        missing = reach.missing_sets
        if not ruleset.reader.wanted(missing) and any(not answer.of(Outcome.CONNECTED) for answer in reach.answers):
            missing = analysed(_opened(ruleset)).missing_sets
        if not ruleset.reader.wanted(missing):
            return reach, ruleset
        ruleset = ruleset.reader.more(host, missing)


def _opened(ruleset: Ruleset) -> Ruleset:
    """The same with base chains that may accept the packet at once: the analysis then goes on to all that follows."""
    perhaps = Rule((Unknown("what an opening would do"), Verdict(Kind.ACCEPT)), "", -1)
    tables = []
    for table in ruleset.tables:
        chains = {
            name: chain._replace(rules=(perhaps, *chain.rules)) if chain.hook in _HOOKS else chain
            for name, chain in table.chains.items()
        }
        tables.append(table._replace(chains=chains))
    return Ruleset(tuple(tables))


class _Place(NamedTuple):
    """A chain of nf_tables."""

    family: str
    table: str
    chain: str

    @property
    def label(self) -> str:
        return f"{self.family} {self.table}"


class _Large:
    """The tables of a host with many rules: of most chains only that they are there.

    A packet that comes to a chain that is not read asks for it: the chain is a lookup in a set that is not read.
    """

    def __init__(self, listing: list[object]) -> None:
        self._heads: dict[_Place, object] = {}
        for entry in listing:
            for body in _bodies([entry], "chain"):
                place = _Place(str(body.get("family")), str(body.get("table")), str(body.get("name")))
                self._heads[place] = entry
        self._names = [entry for entry in listing if isinstance(entry, dict) and "table" in entry]
        self._bare = nftables.parse({"nftables": listing}).tables
        self._unread = {table.label: {c.name: self._asking(c) for c in table.chains.values()} for table in self._bare}
        self._rules: dict[_Place, list[object]] = {}
        self._parsed: dict[str, Table] = {}  # by label: the chains that are read

    @staticmethod
    def _asking(chain: Chain) -> Chain:
        ask = Lookup((Selector(Field.L4PROTO),), None, name=_CHAIN + chain.name)
        verdict = Verdict(Kind.UNKNOWN, reason="a chain that is not read")
        rule = Rule((ask, verdict), "not read", 1)
        return Chain(
            chain.name, (rule,), chain.hook, chain.priority, chain.type, chain.policy, chain.devices, chain.order
        )

    def hooks(self) -> Iterator[tuple[_Place, str]]:
        for place, entry in self._heads.items():
            for body in _bodies([entry], "chain"):
                yield place, _hook(body)

    def read(self, place: _Place, rules: list[object]) -> None:
        self._rules[place] = rules
        # A chain that adds to sets changes what lookups in them mean in all the others.
        if not all(_ADDS.isdisjoint(statement) for body in _bodies(rules, "rule") for statement in _statements(body)):
            self.forget()

    def forget(self) -> None:
        """All chains that are read are parsed anew: a set's elements are known now."""
        self._parsed = {}

    def tables(self, parse: Callable[[list[object]], tuple[Table, ...]]) -> tuple[Table, ...]:
        known = {_Place(table.family, table.name, name) for table in self._parsed.values() for name in table.chains}
        fresh = [place for place in self._rules if place not in known]
        listing = [*self._names, *(self._heads[place] for place in fresh if place in self._heads)]
        for table in parse([*listing, *(entry for place in fresh for entry in self._rules[place])]):
            older = self._parsed.get(table.label, table)
            order = self._unread.get(table.label, {})
            chains = {
                chain.name: chain._replace(order=order[chain.name].order if chain.name in order else 0)
                for chain in table.chains.values()
            }
            self._parsed[table.label] = table._replace(chains={**older.chains, **chains})
        return tuple(
            self._parsed.get(table.label, table)._replace(
                chains={**self._unread[table.label], **self._parsed.get(table.label, table).chains}
            )
            for table in self._bare
        )


class Reader:
    """What has been read of one generation. `more` reads on, or anew where the rules have changed since."""

    def __init__(self, host: Host) -> None:
        self.generation: Optional[int] = None
        self._tools = _Tools(host, self)
        self._restarts = 0
        self._given_up: set[tuple[str, str]] = set()
        self._elements: dict[tuple[str, str], list[object]] = {}
        self._listing: list[object] = []  # of everything, or of all chains' heads
        self._large: Optional[_Large] = None
        self._saved: dict[str, Table] = {}
        self._devices: dict[tuple[str, str, str], tuple[str, ...]] = {}
        self._others: tuple[Table, ...] = ()  # what nft does not print

    @classmethod
    def read(cls, host: Host) -> Reader:
        """Raises HostError, and what the parsers raise."""
        left = _PATIENCE
        for attempt in range(_TRIES):
            reader = cls(host)
            reader.generation = generation(host)
            last = not left or attempt == _TRIES - 1
            try:
                reader._everything()
            except AgentError:
                # A chain that is deleted while it is read, for one.
                if last or generation(host) == reader.generation:
                    raise
            else:
                if generation(host) == reader.generation or reader._steady():
                    return reader
            if last:
                break
            left -= _rest(host, min(_WAIT << attempt, left))
        raise Failed(f"the rules were changed while they were read, {attempt + 1} times in a row")

    def wanted(self, missing: Iterable[tuple[str, str]]) -> bool:
        return any(name not in self._given_up for name in missing)

    def more(self, host: Host, missing: Iterable[tuple[str, str]]) -> Live:
        """Reads those sets and chains."""
        wanted = [name for name in missing if name not in self._given_up]
        for label, name in wanted:
            try:
                if name.startswith(_CHAIN):
                    family, _, table = label.partition(" ")
                    self._chain(_Place(family, table, name[len(_CHAIN) :]))
                else:
                    self._elements[label, name] = self._set(label, name)
                    if self._large:
                        self._large.forget()
            except HostError:
                self._given_up.add((label, name))
        if generation(host) == self.generation or self._steady():
            return self.ruleset()
        self._given_up.update(wanted)
        if self._restarts >= _RESTARTS:
            return self.ruleset()
        fresh = Reader.read(host)
        fresh._restarts = self._restarts + 1
        return fresh.ruleset()

    def _steady(self) -> bool:
        """The tables of which more was read than nft listed are what they were: only others changed meanwhile.

        nft lists one generation. A rule that is changed or moved gets a new handle: what is listed alike is the same.
        """
        if not self._listing or self._large:
            return False
        listed = self._tools.nft("-t", "list", "ruleset", now=True)
        more = {*self._saved, *(label for label, _ in self._elements)}
        before, self._listing = self._listing, listed
        return list(_of_tables(before, more)) == list(_of_tables(listed, more))

    def ruleset(self) -> Live:
        tables = self._large.tables(self._parse) if self._large else self._parse(self._listing)
        live = Live((*tables, *self._others))
        live.reader = self
        return live

    def _parse(self, listing: list[object]) -> tuple[Table, ...]:
        return nftables.parse(
            {"nftables": listing},
            saved=tuple(self._saved.values()),
            elements=self._elements,
            devices=self._devices,
            versions=self._versions(listing),
            terse=True,
        ).tables

    def _versions(self, listing: list[object]) -> dict[tuple[str, str, str, int], int]:
        """Of chains of both versions of IP with TCP resets: which version a rule is for."""
        chains = {
            _Place("inet", str(body.get("table")), str(body.get("chain")))
            for body in _bodies(listing, "rule")
            if body.get("family") == "inet" and any(_resets(statement) for statement in _statements(body))
        }
        return {(*place, handle): version for place in chains for handle, version in nf_tables.versions(*place).items()}

    # -- reading

    def _everything(self) -> None:
        self._others = tuple(self._legacy_tables())
        if self.generation is None:
            return
        tables = nf_tables.tables()
        if not tables:
            return
        if not self._tools.host.program("nft"):
            self._without_nft()
        elif nf_tables.more_rules_than(_LARGE):
            self._heads(tables)
        else:
            self._listing = self._tools.nft("-t", "list", "ruleset")
            self._save()
        if any(_hook(body) in ("ingress", "egress") for body in _bodies(self._listing, "chain")):
            self._devices = nf_tables.devices()

    def _without_nft(self) -> None:
        """By iptables-nft alone, where all rules are its own."""
        foreign = nf_tables.unprintable(self._tools.modern())
        if foreign:
            raise NotFound(f"nft is not installed, and iptables cannot print {foreign}")
        for side in _SIDES.values():
            self._others += self._parsed(self._tools.save(side, Backend.IPTABLES_NFT), side, Backend.IPTABLES_NFT)

    def _heads(self, tables: tuple[tuple[str, str, bool], ...]) -> None:
        flags = {True: ["dormant"], False: []}
        heads: list[object] = [{"table": {"family": f, "name": n, "flags": flags[off]}} for f, n, off in tables]
        self._listing = heads + self._tools.nft("-t", "list", "chains")
        self._large = _Large(self._listing)
        for place, hook in self._large.hooks():
            if hook in _HOOKS and place.family not in ("arp", "bridge"):
                self._chain(place)

    def _save(self) -> None:
        """The tables of iptables-nft in its own words. Without the program its extensions stay unknown."""
        for family, side in _SIDES.items():
            heads = (body for body in _bodies(self._listing, "chain") if body.get("family") == family)
            if any(_hook(body) and body.get("name") == _hook(body).upper() for body in heads):
                with contextlib.suppress(NotFound):
                    text = self._tools.save(side, Backend.IPTABLES_NFT)
                    self._saved.update((table.label, table) for table in self._parsed(text, side, Backend.IPTABLES_NFT))

    def _chain(self, place: _Place) -> None:
        entries = self._tools.nft("-t", "list", "chain", place.family, place.table, place.chain)
        rules: list[object] = [entry for entry in entries if isinstance(entry, dict) and "rule" in entry]
        side = _SIDES.get(place.family)
        bodies = list(_bodies(rules, "rule"))
        if side and any(_opaque(body) for body in bodies):
            listed = self._tools.list_chain(side, place)
            heads = "".join(f":{name} - [0:0]\n" for name in sorted(set(_targets(bodies))))
            for table in self._parsed(f"*{place.table}\n{heads}{listed}COMMIT\n", side, Backend.IPTABLES_NFT):
                known = self._saved.get(table.label, table)
                chains = {**known.chains, place.chain: table.chains.get(place.chain, Chain(place.chain, ()))}
                self._saved[table.label] = known._replace(chains=chains)
        if self._large:
            self._large.read(place, rules)

    def _set(self, label: str, name: str) -> list[object]:
        family, table = label.split(" ", 1)
        kinds = [kind for kind in ("set", "map") for body in _bodies(self._listing, kind) if body.get("name") == name]
        for kind in kinds or ("set", "map"):
            try:
                entries = self._tools.nft("list", kind, family, table, name)
            except HostError:
                if kind == "map":
                    raise
                continue
            for body in _bodies(entries, kind):
                elements = body.get("elem", [])
                return elements if isinstance(elements, list) else [elements]
        raise NotFound(f"nf_tables: no set {name} in table {label}")

    def _legacy_tables(self) -> Iterator[Table]:
        for side, path in _LEGACY.items():
            try:
                names = self._tools.host.read(path)
            except NotFound:
                continue
            if names.strip():
                yield from self._parsed(self._tools.save(side, Backend.LEGACY), side, Backend.LEGACY)

    def _parsed(self, text: str, side: Family, backend: Backend) -> tuple[Table, ...]:
        ipsets = self._tools.ipsets(_USES_SET.findall(text))
        return iptables.parse(text, family=side, backend=backend, ipsets=ipsets).tables


class _Tools:
    """The programs that print rules."""

    def __init__(self, host: Host, reader: Reader) -> None:
        self.host, self._reader = host, reader
        self._sets: dict[str, Optional[IpSet]] = {}

    def _run(self, *argv: str) -> Ran:
        return self._good(argv, self.host.run(argv, deadline=_DEADLINE, cap=_CAP))

    @staticmethod
    def _good(argv: tuple[str, ...], ran: Ran) -> Ran:
        if ran.code:
            raise Failed(f"{' '.join(argv)[:80]}: {ran.complaint}")
        return ran

    def _static(self, *argv: str) -> Ran:
        """As `_run`, for what changes (but for counters, which mean nothing) with the generation of nf_tables alone."""
        ran = self._good(argv, self.host.ask(argv, (self._reader.generation,), deadline=_DEADLINE, cap=_CAP))
        if b"quota" in ran.out:
            self.host.forget(argv)  # what of it is used, packets change
        return ran

    def nft(self, *words: str, now: bool = False) -> list[object]:
        """What `nft -j` lists; with `now` not what it listed before."""
        ran = (self._static if words[0] == "-t" and not now else self._run)("nft", "-j", *words)
        listed = nftables.load(ran.out).get("nftables")
        return listed if isinstance(listed, list) else []

    def _variant(self, backend: Backend, prefix: str, suffix: str) -> str:
        """The program of that variant: `iptables-nft-save`, or `iptables-save` where it is of that variant."""
        name = f"{prefix}-{'legacy' if backend is Backend.LEGACY else 'nft'}{suffix}"
        if self.host.program(name):
            return name
        plain = prefix + suffix
        if self.host.program(plain):
            version = self.host.run([plain, "-V"]).out
            if (b"nf_tables" in version) == (backend is Backend.IPTABLES_NFT):
                return plain
        raise NotFound(f"there are rules of {backend.value}, but {name} is not installed")

    def modern(self) -> bool:
        """iptables-nft compares ports without an extension since 1.8.8."""
        printed = self._run(self._variant(Backend.IPTABLES_NFT, "iptables", ""), "-V").out
        version = re.search(rb"v(\d+)\.(\d+)\.(\d+)", printed)
        return version is not None and tuple(int(part) for part in version.groups()) >= (1, 8, 8)

    def save(self, side: Family, backend: Backend) -> str:
        run = self._static if backend is Backend.IPTABLES_NFT else self._run
        return run(self._variant(backend, _PREFIX[side], "-save")).text

    def list_chain(self, side: Family, place: _Place) -> str:
        program = self._variant(Backend.IPTABLES_NFT, _PREFIX[side], "")
        return self._run(program, "-t", place.table, "-S", place.chain).text

    def ipsets(self, names: Iterable[str]) -> Mapping[str, IpSet]:
        """The sets of those names and what they are made of; one that cannot be read is left out."""
        waiting = [name.strip('"') for name in names]
        found: dict[str, IpSet] = {}
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            if name not in self._sets:
                self._sets[name] = self._ipset(name)
            known = self._sets[name]
            if known:
                found[name] = known
                waiting.extend(known.members)
        return found

    def _ipset(self, name: str) -> Optional[IpSet]:
        try:
            return iptables.parse_ipsets(self._run("ipset", "save", name).text).get(name)
        except AgentError:
            return None


# -- what nft prints


def _bodies(listing: Iterable[object], kind: str) -> Iterator[Json]:
    for entry in listing:
        body = entry.get(kind) if isinstance(entry, dict) else None
        if isinstance(body, dict):
            yield body


def _of_tables(listing: Iterable[object], labels: Collection[str]) -> Iterator[object]:
    """What makes up these tables: of rules the place and handle (their counters change), of the rest all."""
    for entry in listing:
        for kind, body in entry.items() if isinstance(entry, dict) else ():
            name = body.get("name") if kind == "table" else body.get("table")
            if f"{body.get('family')} {name}" in labels:
                yield (kind, body["chain"], body["handle"]) if kind == "rule" else body


def _hook(body: Json) -> str:
    hook = body.get("hook")
    return hook if isinstance(hook, str) else ""


def _statements(body: Json) -> Iterator[Json]:
    listed = body.get("expr")
    for statement in listed if isinstance(listed, list) else ():
        if isinstance(statement, dict):
            yield statement


def _opaque(body: Json) -> bool:
    return any("xt" in statement for statement in _statements(body))


def _resets(statement: Json) -> bool:
    reject = statement.get("reject")
    return isinstance(reject, dict) and reject.get("type") == "tcp reset"


def _targets(bodies: Iterable[Json]) -> Iterator[str]:
    for body in bodies:
        for statement in _statements(body):
            verdict = statement.get("jump") or statement.get("goto")
            if isinstance(verdict, dict) and isinstance(verdict.get("target"), str):
                yield verdict["target"]
