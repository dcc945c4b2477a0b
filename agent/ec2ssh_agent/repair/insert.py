"""A rule in front of a base chain, found again by its comment: iptables-nft, iptables-legacy, nft.

Many networks become one ipset or nft set, named after the change; where ipset is not installed, one rule a network, put
in by one transaction of iptables-restore --noflush.
"""

from __future__ import annotations

import contextlib
import json
import re
import shlex

from ..host import HostError
from ..reach.ruleset import Backend
from ..steps import COMMENT, Argv, Insert, insert_argv, nft_place, set_name
from . import legacy, scaffold
from .records import Saved, Text
from .work import Context, StepFailed, command, substitute

_HALVES = {"0.0.0.0/0": ("0.0.0.0/1", "128.0.0.0/1"), "::/0": ("::/1", "8000::/1")}


def xtables(context: Context, backend: Backend, *, six: bool) -> str:
    """The command for a backend: `iptables` may be either variant. Raises StepFailed, HostError."""
    plain = "ip6tables" if six else "iptables"
    named = f"{plain}-nft" if backend is Backend.IPTABLES_NFT else f"{plain}-legacy"
    if context.host.program(named):
        return named
    version = command(context, (plain, "-V")).text
    if ("nf_tables" in version) is not (backend is Backend.IPTABLES_NFT):
        raise StepFailed(f"{named}: not installed")
    return plain


class Rule:
    """Insert."""

    def __init__(self, context: Context, step: Insert) -> None:
        self.context, self.host, self.step = context, context.host, step
        self.comment = substitute(COMMENT, context.change)
        # One change may open several chains, each with a set of its own; ipset takes 31 characters.
        self.set = f"{substitute(set_name(step), context.change)}{context.number or ''}"
        self.six = step.family == "ip6" or any(":" in network for network in step.networks)
        self.nft = step.backend is Backend.NFTABLES

    def save(self) -> Saved:
        made = scaffold.save(self.context, *self._table()) if self.step.backend is Backend.IPTABLES_NFT else ()
        return Saved(self.host.now(), texts=made)

    def _table(self) -> tuple[str, str]:
        return self.step.family, self.step.table

    # -- making

    def make(self, saved: Saved) -> None:
        if self.nft:
            self._make_nft()
        elif self.step.networks and not self.host.program("ipset"):
            rules = [self._words((flag, network)) for flag in self._flag("-s", "-d") for network in self._networks()]
            self._restore([f"-I {self.step.chain} {self.step.position} {shlex.join(rule)}" for rule in rules])
        else:
            self._make_xtables()

    def _flag(self, source: str, destination: str) -> Argv:
        return (source if self.step.source else destination,)

    def _networks(self) -> Argv:
        return tuple(half for network in self.step.networks for half in _HALVES.get(network, (network,)))

    def _words(self, first: Argv = ()) -> Argv:
        """What follows `-I CHAIN POSITION`."""
        argv = insert_argv(self.step._replace(spec=(*first, *self.step.spec)))
        words = argv[argv.index("-I") + 3 :]
        return tuple(substitute(word, self.context.change) for word in words)

    def _make_xtables(self) -> None:
        first: Argv = ()
        if self.step.networks:
            family, networks = ("inet6" if self.six else "inet"), self._networks()
            script = [f"create {self.set} hash:net family {family} maxelem {max(1024, len(networks))}"]
            script += [f"add {self.set} {network}" for network in networks]
            command(self.context, ("ipset", "restore"), stdin="\n".join(script).encode() + b"\n")
            first = ("-m", "set", "--match-set", self.set, *self._flag("src", "dst"))
        words = self._words(first)
        if self.step.backend is Backend.LEGACY:
            place = (self.step.table, self.step.chain)
            # What python-iptables cannot do (it is not installed, a word is not ours) the command line tool can.
            with contextlib.suppress(legacy.Unsupported):
                legacy.insert(self.host, place, words, position=self.step.position, six=self.six)
                self._read_back(words)
                return
        command(self.context, (*self._tool(), "-I", self.step.chain, str(self.step.position), *words))

    def _read_back(self, words: Argv) -> None:
        """iptc has been seen to encode less than it was told: the listing must have each option and each port."""
        lines = [shlex.split(line) for line in self._find_xtables()]
        wanted = {w for w in words if w.startswith("-") and w != "-m"}
        ports = {words[i + 1] for i, w in enumerate(words) if w in ("--dport", "--sport")}
        if not any(wanted <= set(line) and ports <= set(line) for line in lines):
            raise StepFailed(f"python-iptables put in another rule than {shlex.join(words)}: {lines}")

    def _make_nft(self) -> None:
        step = self.step
        argv = tuple(substitute(word, self.context.change) for word in insert_argv(step))
        if not step.networks:
            command(self.context, argv)
            return
        kind, key = ("ipv6_addr", "ip6") if self.six else ("ipv4_addr", "ip")
        place = f"{step.family} {step.table} {self.set}"
        rest = 1 + len(nft_place(step))
        rule = [*argv[1:rest], key, *self._flag("saddr", "daddr"), f"@{self.set}", *argv[rest:]]
        script = [f"add set {place} {{ type {kind}; flags interval; }}"]
        script += [f"add element {place} {{ {', '.join(self._networks())} }}", " ".join(rule)]
        command(self.context, ("nft", "-f", "-"), stdin="\n".join(script).encode() + b"\n")

    # -- finding

    def _tool(self) -> Argv:
        return (xtables(self.context, self.step.backend, six=self.six), "-w", "5", "-t", self.step.table)

    def _restore(self, lines: list[str]) -> None:
        tool = xtables(self.context, self.step.backend, six=self.six)
        script = "\n".join([f"*{self.step.table}", *lines, "COMMIT", ""])
        command(self.context, (f"{tool}-restore", "-w", "5", "--noflush"), stdin=script.encode())

    def find(self) -> tuple[str, ...]:
        """The rules with the change's comment, wherever in the table they are now."""
        return tuple(text for _, text in self._find_nft()) if self.nft else self._find_xtables()

    def _find_xtables(self) -> tuple[str, ...]:
        if self.step.backend is Backend.LEGACY and not self._loaded():
            return ()
        pattern = re.compile(rf'--comment "?{re.escape(self.comment)}"?( |$)')
        text = command(self.context, (*self._tool(), "-S")).text
        return tuple(line for line in text.splitlines() if line.startswith("-A ") and pattern.search(line))

    def _loaded(self) -> bool:
        """Listing a legacy table makes it; one that is not there holds no rule."""
        try:
            names = self.host.read(f"/proc/net/ip{'6' if self.six else ''}_tables_names").decode()
        except HostError:
            return False
        return self.step.table in names.split()

    def _find_nft(self) -> list[tuple[Argv, str]]:
        """(chain and handle, text) of each: in its chain, else, if somebody moved it, anywhere in the table."""
        return self._among(self.step.chain) or self._among("")

    def _among(self, chain: str) -> list[tuple[Argv, str]]:
        items = scaffold.listing(self.context, self.step.family, self.step.table, chain)
        rules = [item["rule"] for item in items if "rule" in item]
        return [
            ((rule["chain"], "handle", str(rule["handle"])), f"{rule['chain']}: {json.dumps(rule['expr'])}")
            for rule in rules
            if rule.get("comment") == self.comment
        ]

    # -- taking back

    def seal(self, saved: Saved) -> Saved:
        found = self.find()
        if not found:
            raise StepFailed(f"{self.step.table} {self.step.chain}: the rule was put in, and is not there")
        return saved._replace(made=True, left_texts=tuple(Text("rule", line.encode()) for line in sorted(found)))

    def difference(self, saved: Saved) -> str:
        known = self.context.known
        strange = [line for line in self.find() if line.encode() not in known] if known is not None else []
        if not strange:
            return ""
        left = {text.content.decode() for text in saved.left_texts}
        return "\n".join([*(f"- {line}" for line in sorted(left)), *(f"+ {line}" for line in strange)])

    def revert(self, saved: Saved) -> tuple[str, ...]:
        if self.nft:
            self._revert_nft()
            return ()
        for _ in range(3):
            lines = self._find_xtables()
            if not lines:
                break
            self._delete(lines)
        else:
            if self._find_xtables():
                raise StepFailed(f"{lines[0]}: cannot be deleted")
        if self.step.networks and self.host.program("ipset"):
            self._destroy_set()
        scaffold.take_down(self.context, *self._table(), scaffold.saved(saved.texts, *self._table()))
        return ()

    def _delete(self, lines: tuple[str, ...]) -> None:
        if self.step.backend is Backend.LEGACY:
            try:
                for chain in sorted({line.split()[1] for line in lines}):
                    rules = [shlex.split(line)[2:] for line in lines if line.split()[1] == chain]
                    legacy.delete(self.host, (self.step.table, chain), rules, six=self.six)
                if not self._find_xtables():
                    return
            except legacy.Unsupported:
                lines = self._find_xtables()
        self._restore(["-D" + line[2:] for line in lines])

    def _destroy_set(self) -> None:
        """The kernel lets go of a set a moment after the last rule that used it."""
        for attempt in range(40):
            ran = self.host.run(("ipset", "destroy", self.set))
            words = ran.err.decode("utf-8", "replace")
            if not ran.code or "does not exist" in words:
                return
            if "in use" not in words or attempt == 39:
                raise StepFailed(f"ipset destroy {self.set}: {ran.complaint}")
            self.host.sleep(0.05)

    def _revert_nft(self) -> None:
        step = self.step
        script = [f"delete rule {step.family} {step.table} {' '.join(place)}" for place, _ in self._find_nft()]
        items = scaffold.listing(self.context, step.family, step.table) if step.networks else []
        if any(item["set"]["name"] == self.set for item in items if "set" in item):
            script.append(f"delete set {step.family} {step.table} {self.set}")
        if script:
            command(self.context, ("nft", "-f", "-"), stdin="\n".join(script).encode() + b"\n")

    def stands(self, saved: Saved) -> bool:
        return bool(self.find())
