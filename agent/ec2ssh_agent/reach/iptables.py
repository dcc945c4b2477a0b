"""iptables-save text as a Ruleset.

A file may be what a tool wrote or what a person kept: CRLF, counters, a shell prompt before the first line, no final
COMMIT, `-s ! x`, dotted masks and service names are read as iptables-restore or a person reads them. What cannot be
read is an error with its line; it is never left out.

Most lines of a long ruleset differ in an address, a port, a comment. So a line is split: its addresses, and its rest
without comment; the rest into the part of each extension. What was understood once is looked up.

Sources: iptables-save(8), iptables(8), iptables/xshared.c and iptables-restore.c of iptables.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Optional

from ..model import AgentError
from ..plain import NamedTuple
from . import values
from .ipsets import IpSet
from .ipsets import parse as parse_ipsets
from .iptables_matches import MATCHES, NEVER, implied, unknown
from .iptables_targets import TARGETS
from .ruleset import (
    Backend,
    Chain,
    Family,
    Field,
    Item,
    Kind,
    Name,
    Rule,
    Ruleset,
    Selector,
    Table,
    Test,
    Unknown,
    Verdict,
)
from .xtables import Context, Extension, Option

__all__ = ["IptablesError", "parse", "parse_ipsets", "parse_rule", "variant"]

#: More rules than this are an error: the analysis must end in bounded time and memory.
RULES = 250_000
_LINES = 1_000_000
_LINE = 65_536
_COMMENTED = 2_048  # a rule with a comment of several lines is not longer

#: table -> chain -> (hook, priority); linux/netfilter_ipv4.h.
_BASE = {
    "raw": {"PREROUTING": ("prerouting", -300), "OUTPUT": ("output", -300)},
    "mangle": {
        "PREROUTING": ("prerouting", -150),
        "INPUT": ("input", -150),
        "FORWARD": ("forward", -150),
        "OUTPUT": ("output", -150),
        "POSTROUTING": ("postrouting", -150),
    },
    "nat": {
        "PREROUTING": ("prerouting", -100),
        "INPUT": ("input", 100),
        "OUTPUT": ("output", -100),
        "POSTROUTING": ("postrouting", 100),
    },
    "filter": {"INPUT": ("input", 0), "FORWARD": ("forward", 0), "OUTPUT": ("output", 0)},
    "security": {"INPUT": ("input", 50), "FORWARD": ("forward", 50), "OUTPUT": ("output", 50)},
}
_BUILT_IN = ("ACCEPT", "DROP", "RETURN", "QUEUE")


class IptablesError(AgentError):
    """A line that cannot be read: its number (0: the whole), the line, and why (sysexits: EX_DATAERR)."""

    exit_status = 65

    def __init__(self, reason: str, line: str = "", number: int = 0) -> None:
        where = f"line {number}: " if number else ""
        shown = line if len(line) <= 160 else f"{line[:160]}..."
        super().__init__(f"iptables: {where}{reason}" + (f": {shown}" if line else ""))
        self.reason, self.line, self.number = reason, shown, number


# --- one rule ----------------------------------------------------------------------------------------------------

#: A word in apostrophes, as a shell has it; one with quotes, which end it (add_param_to_argv of xshared.c); any other.
_WORD = re.compile(r"""\s*(?:'([^']*)'(?!\S)|([^\s"]*)"((?:[^"\\]|\\.)*)"|([^\s"]+))""", re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


def _words(text: str) -> list[str]:
    if '"' not in text and "'" not in text:
        return text.split()
    if '"' in _WORD.sub("", text):
        raise ValueError("the quote is not closed")
    return [
        single or plain or start + _ESCAPED.sub(r"\1", quoted) for single, start, quoted, plain in _WORD.findall(text)
    ]


#: Options of iptables itself that say what the packet must be: option -> its usual name.
_OWN = {
    "-s": "-s", "--source": "-s", "--src": "-s", "-d": "-d", "--destination": "-d", "--dst": "-d",
    "-i": "-i", "--in-interface": "-i", "-o": "-o", "--out-interface": "-o",
    "-p": "-p", "--protocol": "-p", "--proto": "-p", "-f": "-f", "--fragment": "-f",
}  # fmt: skip
_GO = {"-j": Kind.JUMP, "--jump": Kind.JUMP, "-g": Kind.GOTO, "--goto": Kind.GOTO}


#: Other names of matches (xtables_find_match).
_ALIASES = {"icmpv6": "icmp6", "ipv6-icmp": "icmp6"}


_NO_CONDITIONS = ("-m", "--match", "-c", "--set-counters")


class _Use(NamedTuple):
    """An extension that the rule names, with the options it has been given."""

    name: str
    extension: Extension
    given: list[Option]


class _Line:
    """The words of one rule (without `-A CHAIN`), read from left to right."""

    def __init__(self, words: list[str], context: Context) -> None:
        self.words, self.context = words, context
        self.place = 0
        self.own: dict[str, Option] = {}
        self.matches: list[_Use] = []
        self.target: Optional[_Use] = None
        self.verdict: Optional[Verdict] = None
        self.loaded: list[_Use] = []
        # Then what an option means hangs on what else is loaded, before it.
        self.abbreviated = self.implied = False

    def next(self, word: str) -> str:
        if self.place >= len(self.words):
            raise ValueError(f"{word} lacks its value")
        self.place += 1
        return self.words[self.place - 1]

    def read(self) -> None:
        negated = False
        while self.place < len(self.words):
            word = self.next("")
            if word == "!":
                if negated:
                    raise ValueError("two ! in a row")
                negated = True
                continue
            # `--proto` is also an option of policy, whose exact name goes before iptables' abbreviation.
            if word in _OWN and not (word == "--proto" and self._has(word)):
                self._own(_OWN[word], negated)
            elif negated and (word[:1] != "-" or word in _GO or word in _NO_CONDITIONS):
                raise ValueError("! stands before no option")
            elif word in ("-m", "--match"):
                self._match(self.next(word))
            elif word in _GO:
                self._go(_GO[word], self.next(word))
            elif word in ("-c", "--set-counters"):
                self.next(word), self.next(word)
            else:
                self._option(word, negated)
            negated = False
        if negated:
            raise ValueError("! stands before no option")

    def _own(self, name: str, negated: bool) -> None:
        if name in self.own:
            raise ValueError(f"{name} twice")
        value = ""
        if name != "-f":
            value = self.next(name)
            if value == "!" and not negated:
                negated, value = True, self.next(name)
        self.own[name] = Option(name, negated, (value,))

    def _match(self, name: str) -> None:
        name = _ALIASES.get(name, name)
        use = _Use(name, MATCHES.get(name) or Extension(None, unknown(f"the match {name[:40]} is not known")), [])
        self.matches.append(use)
        self.loaded.append(use)

    def _go(self, kind: Kind, name: str) -> None:
        if self.target or self.verdict:
            raise ValueError("two targets")
        chains = self.context.chains
        is_chain = name not in _BUILT_IN and (name in chains if chains is not None else name not in TARGETS)
        if kind is Kind.GOTO or is_chain:
            if chains is not None and not is_chain:
                raise ValueError(f"there is no chain {name[:60]!r} to go to")
            self.verdict = Verdict(kind, name)
            return
        missing = Verdict(Kind.UNKNOWN, reason=f"the target {name[:40]} is not known")
        self.target = _Use(name, TARGETS.get(name) or Extension(None, lambda given, context: (missing,)), [])
        self.loaded.append(self.target)

    def _option(self, word: str, negated: bool) -> None:
        use, full = self._owner(word)
        name, count, inverts = word, None, True
        if use.extension.options is not None:
            name, count, inverts = use.extension.options[full]
        elif word[:1] != "-":
            raise ValueError(f"{word[:60]!r} stands where an option is due")
        found: list[str] = []
        if count is None:
            while self.place < len(self.words) and self.words[self.place][:1] not in ("-", "!"):
                found.append(self.next(word))
        while count is not None and len(found) < count:
            value = self.next(word)
            if value == "!" and not negated and not found:
                negated = True
                continue
            found.append(value)
        if negated and not inverts:
            raise ValueError(f"{name} cannot be negated")
        use.given.append(Option(name, negated, tuple(found)))

    def _has(self, word: str) -> bool:
        return any(word in (use.extension.options or ()) for use in self.loaded)

    def _owner(self, word: str) -> tuple[_Use, str]:
        """Whose option it is, and its whole name: getopt_long(3) takes the extension loaded last that has it, then an
        abbreviation that can mean one option only; then iptables tries the match that `-p` implies.
        """
        for use in reversed(self.loaded):
            if use.extension.options is not None and word in use.extension.options:
                return use, word
        strange = [use for use in self.loaded if use.extension.options is None]
        if len(word) > 3 and not strange:
            meant = {
                (use.name, known.name): (use, option)
                for use in self.loaded
                for option, known in (use.extension.options or {}).items()
                if option.startswith(word)
            }
            if len(meant) == 1:
                self.abbreviated = True
                return next(iter(meant.values()))
        if "-p" in self.own and not self.own["-p"].negated:
            name = implied(values.protocol(self.own["-p"].value), self.context.family)
            options = MATCHES[name].options if name else None
            if options and word in options and all(use.name != name for use in self.matches):
                self._match(name)
                self.implied = True
                return self.matches[-1], word
        if strange:
            return strange[-1], word
        raise ValueError(f"{word[:60]!r} is not understood")


_FIELDS = {"-s": Field.SADDR, "-d": Field.DADDR}
_FRAGMENT = Selector(Field.FRAGMENT)
_PROTOCOL = Selector(Field.L4PROTO)


def _own_items(own: Mapping[str, Option], family: Family) -> list[Item]:
    """In the order in which the kernel looks (ip_packet_match)."""
    items: list[Item] = []
    if "-f" in own:
        items.append(Test(_FRAGMENT, ((1, 1),), own["-f"].negated))
    for name in ("-s", "-d"):
        if name in own:
            items.append(_address(_FIELDS[name], own[name].value, negated=own[name].negated, family=family))
    for name in ("-i", "-o"):
        if name in own:
            items += _interface(own[name])
    if "-p" in own:
        number = values.protocol(own["-p"].value)
        if number:
            items.append(Test(_PROTOCOL, ((number, number),), own["-p"].negated))
        elif own["-p"].negated:
            raise ValueError("! -p all matches nothing")
    return items


def _address(field: Field, text: str, *, negated: bool, family: Family) -> Item:
    if any(values.is_host_name(part) for part in text.split(",")):
        return Unknown(f"the host name {text[:60]}")
    return values.address_test(field, text, family=family, negated=negated)


def _interface(option: Option) -> list[Item]:
    """`eth+` is every name that begins with eth; `+` alone is no condition (and `! +` never true)."""
    if option.value == "+":
        return [NEVER] if option.negated else []
    pattern = option.value[:-1] + "*" if option.value.endswith("+") else option.value
    return [Name(option.name == "-o", (pattern,), option.negated)]


#: (extension, options) -> items: equal matches are one object.
_Shared = dict[tuple[str, tuple[Option, ...]], tuple[Item, ...]]


def _items(words: list[str], context: Context, shared: _Shared) -> tuple[Item, ...]:
    line = _Line(words, context)
    line.read()
    items = _own_items(line.own, context.family)
    for use in line.matches + ([line.target] if line.target else []):
        key = (use.name, tuple(use.given))
        built = shared.get(key)
        if built is None:
            built = shared[key] = use.extension.build(key[1], context)
        items += built
    if line.verdict:
        items.append(line.verdict)
    return tuple(items)


class _Part(NamedTuple):
    """What one extension's words mean by themselves. `names`: iptables' own options among them, and their items.

    `leads`: only where nothing stands before them.
    """

    names: frozenset[str]
    own: tuple[Item, ...]
    others: tuple[Item, ...]
    leads: bool


def _part(text: str, context: Context) -> Optional[_Part]:
    """None where the words cannot be told apart from the rest of the rule, or from nonsense."""
    line = _Line(text.split(), context)
    try:
        line.read()
        own = _own_items(line.own, context.family)
        uses = line.matches + ([line.target] if line.target else [])
        built = [use.extension.build(tuple(use.given), context) for use in uses]
    except ValueError:
        return None
    if line.abbreviated or any(use.extension.options is None for use in line.matches):
        return None
    others = tuple(item for part in built for item in part)
    return _Part(frozenset(line.own), tuple(own), others + ((line.verdict,) if line.verdict else ()), line.implied)


# --- a whole text ------------------------------------------------------------------------------------------------

#: `-A CHAIN`, then the addresses as iptables-save prints them, then the rest.
_ADDRESSED = re.compile(r"(?:^| )(?:-s|-d|--src|--dst|--source|--destination) ")
_APPEND = re.compile(r"-A (\S+)(?: (! )?-s ([^\s!]+))?(?: (! )?-d ([^\s!]+))?(?: (.*))?", re.DOTALL)
#: A comment among the matches. What it says means nothing.
_COMMENT = re.compile(r"""(?<!\S)-m comment --comment (?:"(?:[^"\\]|\\.)*"|[^\s"'!-][^\s"']*)(?!\S)""")
_PARTS = re.compile(r" (?=-[mjg] )")
_SELECTORS = {field: Selector(field) for field in (Field.SADDR, Field.DADDR)}
_COUNTERS = re.compile(r"\[\d+:\d+\]\s*")
_DECLARED = re.compile(r":\s*(\S+)\s+(\S+)(?:\s+\[\d+:\d+\])?")
#: A shell prompt, alone or with the command that was typed at it.
_PROMPT = re.compile(r"(?:[^*:#$%>-][^#$%>]*)?[#$%>](?:\s.*)?")
_EDITS = {
    "-A": "-A", "--append": "-A", "-I": "-I", "--insert": "-I", "-N": "-N", "--new-chain": "-N",
    "-P": "-P", "--policy": "-P",
}  # fmt: skip


class _TableDraft:
    def __init__(self, name: str) -> None:
        self.name = name
        self.rules: dict[str, list[Rule]] = {chain: [] for chain in _BASE[name]}
        self.policies = dict.fromkeys(_BASE[name], Kind.ACCEPT)
        self.shifted: set[str] = set()  # chains whose rules an insertion has moved
        self.forget()

    def forget(self) -> None:
        """The meaning of words depends on what chains there are: `-j NAME`."""
        self.rests: dict[Optional[str], tuple[Item, ...]] = {None: ()}
        self.parts: dict[str, Optional[_Part]] = {}

    def declare(self, chain: str, policy: str) -> None:
        self.rules.setdefault(chain, [])
        if chain in self.policies and policy != "-":
            if policy not in ("ACCEPT", "DROP"):
                raise ValueError(f"{policy[:40]!r} is no policy")
            self.policies[chain] = Kind.ACCEPT if policy == "ACCEPT" else Kind.DROP

    def finish(self, family: Family, backend: Backend) -> Table:
        chains = {}
        for name, rules in self.rules.items():
            hook, priority = _BASE[self.name].get(name, ("", 0))
            if self.name == "security" and backend is Backend.IPTABLES_NFT:
                priority = 150  # as iptables-nft has it, after NAT
            kind = "nat" if hook and self.name == "nat" else "filter"
            policy = self.policies.get(name, Kind.ACCEPT)
            if name in self.shifted:
                rules = [rule._replace(number=number) for number, rule in enumerate(rules, 1)]
            chains[name] = Chain(name, tuple(rules), hook, priority, kind, policy)
        return Table("ip" if family is Family.IPV4 else "ip6", self.name, backend, chains)


class _Text:
    """Reads line after line; holds what has been read."""

    def __init__(self, family: Family, ipsets: Mapping[str, IpSet], learned: frozenset[str]) -> None:
        self.family, self.ipsets, self.learned = family, ipsets, learned
        self.tables: dict[str, _TableDraft] = {}
        self.table: Optional[_TableDraft] = None
        self.context = Context(family, ipsets, (), learned)
        self.shared: _Shared = {}
        self.count = 0

    def line(self, raw: str) -> None:
        match = _APPEND.fullmatch(raw)
        if match is None or self.table is None:
            self._other(raw.strip())
            return
        chain, *parts = match.groups()
        rest = parts[-1]
        if rest is not None and "--comment" in rest:
            rest = parts[-1] = _COMMENT.sub("-m comment", rest)
        if rest is not None and rest not in self.table.rests and _ADDRESSED.search(rest):
            self._edit(self.table, raw)
        else:
            self._append(self.table, chain, parts, raw)

    def _append(self, table: _TableDraft, chain: str, parts: list[Optional[str]], text: str) -> None:
        not_source, source, not_destination, destination, rest = parts
        items = table.rests.get(rest)
        if items is None:
            items = table.rests[rest] = self._rest(table, rest or "")
        if destination is not None:
            items = (self._test(Field.DADDR, destination, not_destination), *items)
        if source is not None:
            items = (self._test(Field.SADDR, source, not_source), *items)
        self._add(table, chain, items, text)

    def _rest(self, table: _TableDraft, rest: str) -> tuple[Item, ...]:
        """Part by part where the parts stand for themselves, else word by word."""
        texts = _PARTS.split(rest)
        whole = '"' not in rest and "'" not in rest and not any(text[1:2] in "jg" for text in texts[:-1])
        own: tuple[Item, ...] = ()
        others: tuple[Item, ...] = ()
        names: frozenset[str] = frozenset()
        for text in texts if whole else ():
            if text not in table.parts:
                table.parts[text] = _part(text, self.context)
            part = table.parts[text]
            if part is None or part.names & names or part.leads and text is not texts[0]:
                whole = False
                break
            names |= part.names
            own += part.own
            others += part.others
        return own + others if whole else _items(_words(rest), self.context, self.shared)

    def _test(self, field: Field, text: str, negation: Optional[str]) -> Item:
        if self.family is Family.IPV4:
            whole = values.plain_v4(text)
            if whole is not None:
                return Test(_SELECTORS[field], (whole,), negation is not None)
        return _address(field, text, negated=negation is not None, family=self.family)

    def _add(self, table: _TableDraft, chain: str, items: tuple[Item, ...], text: str, *, at: int = 0) -> None:
        rules = table.rules.get(chain)
        if rules is None:
            raise ValueError(f"the chain {chain[:60]!r} is not declared")
        self.count += 1
        if self.count > RULES:
            raise IptablesError(f"more than {RULES} rules")
        if at:
            if at > len(rules) + 1:
                raise ValueError(f"the chain has no place {at}")
            rules.insert(at - 1, Rule(items, text, at))
            table.shifted.add(chain)
        else:
            rules.append(Rule(items, text, len(rules) + 1))

    def _other(self, line: str) -> None:
        """Whatever is no plain `-A`: tables, chains, comments, and rules with a person's hand in them."""
        if not line or line[0] == "#" or line == "COMMIT":
            if line == "COMMIT":
                self.table = None
            return
        if line[0] == "*":
            self._open(line[1:].strip())
        elif self.table is None and _PROMPT.fullmatch(line):
            return
        elif self.table is None:
            raise ValueError("this stands in no table")
        elif line[0] == ":":
            declared = _DECLARED.fullmatch(line)
            if declared is None:
                raise ValueError("this declares no chain")
            self._declare(self.table, declared.group(1), declared.group(2))
        else:
            self._edit(self.table, _COUNTERS.sub("", line, 1) if line[0] == "[" else line)

    def _open(self, name: str) -> None:
        if name not in _BASE:
            raise ValueError(f"there is no table {name[:60]!r}")
        if name in self.tables:
            raise ValueError(f"the table {name} stands here a second time")
        self.table = self.tables[name] = _TableDraft(name)
        self.context = Context(self.family, self.ipsets, self.table.rules, self.learned)
        self.shared = {}

    def _declare(self, table: _TableDraft, chain: str, policy: str) -> None:
        if chain not in table.rules:
            table.forget()
        table.declare(chain, policy)

    def _edit(self, table: _TableDraft, text: str) -> None:
        words = _words(text)
        command = _EDITS.get(words[0]) if len(words) > 1 else None
        if command is None:
            raise ValueError("this is no rule")
        if command == "-N":
            self._declare(table, words[1], "-")
        elif command == "-P" and len(words) == 3 and words[1] in table.policies:
            table.declare(words[1], words[2])
        elif command == "-P":
            raise ValueError("this sets no policy")
        else:
            place = 0
            if command == "-I":
                place = int(words.pop(2)) if len(words) > 2 and words[2].isdecimal() and len(words[2]) < 8 else 1
            self._add(table, words[1], _items(words[2:], self.context, self.shared), text, at=place)


_ADDS = re.compile(r"--add-set\s+(\S+)")
_BEGINS = re.compile(r"\s*(?:-[AIPN] |\*|:|#|COMMIT\b|\[\d+:\d+\])")
_NFT = re.compile(r"^# Generated by [^\n]*(?:\(nf_tables\)|tables-nft-save|xtables-save)", re.MULTILINE)


def variant(text: str) -> Backend:
    """Which iptables wrote the text: its header says."""
    return Backend.IPTABLES_NFT if _NFT.search(text) else Backend.LEGACY


def _logical(text: str) -> Iterator[tuple[int, str]]:
    """Lines by number. A line feed within a comment iptables-save prints as it is: such a rule takes several lines."""
    start, rule = 0, ""
    for number, line in enumerate(text.split("\n"), 1):
        if rule and (_BEGINS.match(line) or len(rule) > _COMMENTED):
            break
        if not rule:
            start = number
        rule = f"{rule}\n{line}" if rule else line
        if '"' not in rule or rule.lstrip()[:1] not in ("-", "[") or rule.replace('\\"', "").count('"') % 2 == 0:
            yield start, rule
            rule = ""
    if rule:
        raise IptablesError("the quote is not closed", rule.split("\n")[0], start)


def parse(
    text: str, *, family: Family, backend: Optional[Backend] = None, ipsets: Optional[Mapping[str, IpSet]] = None
) -> Ruleset:
    """The output of iptables-save or ip6tables-save, of either variant (`backend` None: what the header says).

    `ipsets` holds what `parse_ipsets` has read; a rule that asks for a set that is not there is Unknown.
    Raises IptablesError.
    """
    if text.count("\n") > _LINES:
        raise IptablesError(f"more than {_LINES} lines")
    if backend is None:
        backend = variant(text)
    learned = frozenset(_ADDS.findall(text)) if "--add-set" in text else frozenset()
    reader = _Text(family, ipsets or {}, learned)
    for number, line in _logical(text):
        if len(line) > _LINE:
            raise IptablesError(f"a line of {len(line)} characters", line[:200], number)
        try:
            reader.line(line.rstrip())
        except ValueError as error:
            raise IptablesError(str(error), line.strip(), number) from error
    return Ruleset(tuple(draft.finish(family, backend) for draft in reader.tables.values()))


def parse_rule(
    line: str, family: Family, ipsets: Optional[Mapping[str, IpSet]] = None, *, chains: Optional[Collection[str]] = None
) -> Rule:
    """One `-A CHAIN ...` line as iptables-save prints it; `number` is 0. `chains`: the names of the table's chains,
    where known: any other target is then none. Raises IptablesError.
    """
    text = line.strip()
    if len(text) > _LINE:
        raise IptablesError(f"a line of {len(text)} characters", text[:200])
    text = _COUNTERS.sub("", text, 1) if text[:1] == "[" else text
    words = _words(text)
    if len(words) < 2 or _EDITS.get(words[0]) != "-A":
        raise IptablesError("this is no rule", text)
    try:
        return Rule(_items(words[2:], Context(family, ipsets or {}, chains), {}), text, 0)
    except ValueError as error:
        raise IptablesError(str(error), text) from error
