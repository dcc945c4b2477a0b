"""`nft -j list ruleset` as a Ruleset (libnftables-json(5), schema version 1; nft 0.9 to 1.1).

Every rule becomes items from left to right. What a rule asks that no model knows becomes `Unknown` with its reason, a
statement that nobody knows a verdict that may be anything: never a guess. Rules that iptables-nft made of xtables
extensions are opaque here (`{"xt": …}`); what stands at the same place in iptables-nft-save's output replaces them, and
only them: that prints rules of nftables' own wrongly.

Limits: elements of named sets are left out of a terse listing (`nft -t`), and arrive by `elements`. nft 1.0.6 prints no
devices of ingress chains: they arrive by `devices`, and where nobody knows them the chain is taken to be for every one.
It forgets `meta nfproto` in rules that end in `reject with tcp reset`: what is known of that arrives by `versions`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Optional

from ..model import AgentError
from ..plain import NamedTuple
from . import nft_text
from .nft_rules import Compiler
from .ruleset import Backend, Chain, Field, Item, Kind, Rule, Ruleset, Selector, Table, Test, Unknown, Verdict

RULES = 250_000

_HOOKS = frozenset(("ingress", "egress", "prerouting", "input", "forward", "output", "postrouting"))
_FAMILIES = ("ip", "ip6")
_IPTABLES = {"filter": (0,), "nat": (-100, 100), "mangle": (-150,), "raw": (-300,), "security": (50,)}


class NftablesError(AgentError):
    """Not a document of `nft -j list ruleset`, or one with too many rules."""

    exit_status = 65


class Given(NamedTuple):
    """What a document does not say itself."""

    saved: Mapping[str, Table]
    elements: Mapping[tuple[str, str], list[object]]
    devices: Mapping[tuple[str, str, str], tuple[str, ...]]
    versions: Mapping[tuple[str, str, str, int], int]
    terse: bool


def load(data: bytes) -> dict[str, object]:
    """JSON text as a document for `parse`. Raises NftablesError."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise NftablesError(f"not JSON: {str(error)[:100]}") from None
    if not isinstance(document, dict):
        raise NftablesError("not a listing by nft -j: no object")
    return document


def parse(
    document: Mapping[str, object],
    *,
    saved: Sequence[Table] = (),
    elements: Mapping[tuple[str, str], list[object]] = {},
    devices: Mapping[tuple[str, str, str], tuple[str, ...]] = {},
    versions: Mapping[tuple[str, str, str, int], int] = {},
    terse: bool = False,
) -> Ruleset:
    """The tables of a listing, in its order.

    `saved`: tables read from iptables-nft-save's output. `elements`: of named sets, as nft prints them, by (table
    label, set). `devices`: of ingress chains, by (family, table, chain). `terse`: a set that has no elements in the
    document has unknown ones. `versions`: the NFPROTO that a rule is for, by (family, table, chain, handle), where nft
    does not print it. Raises NftablesError.
    """
    given = Given({table.label: table for table in saved}, elements, devices, versions, terse)
    drafts: dict[tuple[str, str], _Draft] = {}
    count = 0
    for kind, body in _objects(document):
        if kind == "table":
            name = (_text(body, "family"), _text(body, "name"))
            drafts.setdefault(name, _Draft(*name)).dormant = "dormant" in _listed(body.get("flags"))
            continue
        family, table = body.get("family"), body.get("table")
        if not isinstance(family, str) or not isinstance(table, str):
            continue
        draft = drafts.setdefault((family, table), _Draft(family, table))
        if kind == "rule":
            count += 1
            if count > RULES:
                raise NftablesError(f"more than {RULES} rules")
            draft.rules.setdefault(_text(body, "chain"), []).append(body)
        elif kind == "chain":
            draft.chains[_text(body, "name")] = body
        else:
            draft.objects[kind, _text(body, "name")] = body
    order = 0
    tables = []
    for draft in drafts.values():
        tables.append(draft.table(given, order))
        order += len(draft.chains)
    return Ruleset(tuple(tables))


def _objects(document: Mapping[str, object]) -> Iterator[tuple[str, dict[str, object]]]:
    listed = document.get("nftables")
    if not isinstance(listed, list):
        raise NftablesError("not a listing by nft -j: no array `nftables`")
    for entry in listed:
        if not isinstance(entry, dict):
            raise NftablesError("not a listing by nft -j: an entry that is no object")
        for kind, body in entry.items():
            if kind != "metainfo":
                if not isinstance(body, dict):
                    raise NftablesError(f"not a listing by nft -j: a {kind[:40]} that is no object")
                yield kind, body


def _text(body: Mapping[str, object], name: str) -> str:
    value = body.get(name)
    if not isinstance(value, str):
        raise NftablesError(f"not a listing by nft -j: {name} is {type(value).__name__}, not a name")
    return value


def _listed(value: object) -> tuple[str, ...]:
    """nft prints a list of one as the one."""
    if isinstance(value, list):
        return tuple(item for item in value if isinstance(item, str))
    return (value,) if isinstance(value, str) else ()


def _integer(value: object) -> int:
    return value if isinstance(value, int) else 0


class _Draft:
    """A table while the document is read: its objects as they stand there."""

    def __init__(self, family: str, name: str) -> None:
        self.family = family
        self.name = name
        self.dormant = False
        self.chains: dict[str, dict[str, object]] = {}
        self.rules: dict[str, list[dict[str, object]]] = {}
        self.objects: dict[tuple[str, str], dict[str, object]] = {}

    def table(self, given: Given, order: int) -> Table:
        label = f"{self.family} {self.name}"
        rules = [body for listed in self.rules.values() for body in listed]
        compiler = Compiler(
            self.family,
            self.name,
            self.objects,
            {name: listed for (owner, name), listed in given.elements.items() if owner == label},
            terse=given.terse,
            dynamic=_updated(rules),
        )
        chains: dict[str, Chain] = {}
        for name, body in self.chains.items():
            chains[name] = self._chain(name, body, given=given, compiler=compiler, order=order + len(chains))
        # Rules of a chain that the document does not declare: nft never prints that, a person's excerpt may.
        for name in self.rules:
            if name not in chains:
                chains[name] = self._chain(name, {}, given=given, compiler=compiler, order=order + len(chains))
        return Table(self.family, self.name, self._backend(), chains)

    def _backend(self) -> Backend:
        """iptables-nft's tables have its names, its base chains, and a counter in every rule."""
        if self.family not in _FAMILIES or self.name not in _IPTABLES:
            return Backend.NFTABLES
        for name, body in self.chains.items():
            hook = body.get("hook")
            ours = isinstance(hook, str) and name == hook.upper() and body.get("prio") in _IPTABLES[self.name]
            if hook is not None and not ours:
                return Backend.NFTABLES
        for body in (rule for listed in self.rules.values() for rule in listed):
            statements = body.get("expr")
            if not any(isinstance(s, dict) and s.keys() & {"counter", "xt"} for s in _sequence(statements)):
                return Backend.NFTABLES
        return Backend.IPTABLES_NFT

    def _chain(self, name: str, body: dict[str, object], *, given: Given, compiler: Compiler, order: int) -> Chain:
        rules = [
            self._rule(rule, name, number, given=given, compiler=compiler)
            for number, rule in enumerate(self.rules.get(name, ()), 1)
        ]
        hook = body.get("hook")
        if not isinstance(hook, str) or hook not in _HOOKS or self.dormant:
            return Chain(name, tuple(rules))
        policy = Kind.DROP if body.get("policy") == "drop" else Kind.ACCEPT
        devices = given.devices.get((self.family, self.name, name), ()) or _listed(body.get("dev"))
        if hook in ("ingress", "egress") and not devices:
            devices = ("*",)
        kind = body.get("type")
        return Chain(
            name,
            tuple(rules),
            hook,
            _integer(body.get("prio")),
            kind if isinstance(kind, str) else "filter",
            policy,
            devices,
            order,
        )

    def _rule(self, body: dict[str, object], chain: str, number: int, *, given: Given, compiler: Compiler) -> Rule:
        handle = body.get("handle")
        known = handle if isinstance(handle, int) else None
        statements = _sequence(body.get("expr"))
        line = self._line(chain, number, given)
        if line and any(isinstance(statement, dict) and "xt" in statement for statement in statements):
            return line._replace(handle=known, backend=Backend.IPTABLES_NFT)
        items: tuple[Item, ...]
        try:
            items = compiler.rule(statements)
        except RecursionError:
            items = (Unknown("nested too deeply"), Verdict(Kind.UNKNOWN, reason="nested too deeply"))
        version = given.versions.get((self.family, self.name, chain, known or 0))
        if version and not any(isinstance(i, Test) and i.selector.field is Field.NFPROTO for i in items):
            items = (Test(Selector(Field.NFPROTO), ((version, version),)), *items)
        if line and set(line.items) == set(items):
            return Rule(items, line.text, number, known)
        return Rule(items, nft_text.rule(statements, body.get("comment")), number, known)

    def _line(self, chain: str, number: int, given: Given) -> Optional[Rule]:
        """The rule at the same place in iptables-nft-save's output."""
        table = given.saved.get(f"{self.family} {self.name}")
        lines = table.chains[chain].rules if table and chain in table.chains else ()
        return lines[number - 1] if len(lines) == len(self.rules[chain]) else None


def _sequence(value: object) -> list[object]:
    return value if isinstance(value, list) else []


#: Statements that add to a set, and what of them names it.
_ADDING = {"set": "set", "map": "map", "meter": "name"}


def _updated(rules: list[dict[str, object]]) -> frozenset[str]:
    """The names of sets and maps that rules add to while packets pass."""
    found = set()
    for body in rules:
        for statement in _sequence(body.get("expr")):
            if not isinstance(statement, dict) or _ADDING.keys().isdisjoint(statement):
                continue
            for kind, called in _ADDING.items():
                added = statement.get(kind)
                name = added.get(called) if isinstance(added, dict) else None
                if isinstance(name, str):
                    found.add(name.lstrip("@"))
    return frozenset(found)
