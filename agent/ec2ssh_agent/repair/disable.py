"""The document's second form: policies ACCEPT, then the filter tables flushed, the owner switched off.

Policies go first: between a flush and the policy a DROP would shut everyone out. The inverse switches the owner on
again (which writes tables of its own) and then puts the saved tables back, so that they are what they were.
"""

from __future__ import annotations

import re

from ..steps import Argv, Disable
from . import scaffold
from .files import capture, restore, unlike
from .records import Saved, Text
from .work import Context, StepFailed, command, plain

_CHAINS = ("INPUT", "OUTPUT")
#: Where the owners keep whether they are on.
_FILES = {"ufw": ("/etc/ufw/ufw.conf",)}
_OFF: dict[str, Argv] = {"ufw": ("ufw", "disable"), "firewalld": ("systemctl", "disable", "--now", "firewalld.service")}
_ON: dict[str, Argv] = {
    "ufw": ("ufw", "--force", "enable"),
    "firewalld": ("systemctl", "enable", "--now", "firewalld.service"),
}
_START: Argv = ("systemctl", "start", "firewalld.service")


def _family(tool: str) -> str:
    return "ip6" if tool.startswith("ip6") else "ip"


class Off:
    """Disable."""

    def __init__(self, context: Context, step: Disable) -> None:
        self.context, self.host, self.step = context, context.host, step

    def _tables(self) -> tuple[Text, ...]:
        """Every table that is switched off, as its own tool restores it."""
        saved = [Text(tool, scaffold.table_text(self.context, tool)) for tool in self.step.tools]
        for family, name in self.step.nft:
            saved.append(Text(f"{family} {name}", command(self.context, ("nft", "list", "table", family, name)).out))
        return tuple(saved)

    def save(self) -> Saved:
        files = tuple(capture(self.host, path) for path in _FILES.get(self.step.owner, ()))
        made = tuple(
            text for tool in self._nft_tools() for text in scaffold.save(self.context, _family(tool), "filter")
        )
        return Saved(self.host.now(), files=files, texts=(*self._tables(), *made, *self._enabled()))

    def _enabled(self) -> tuple[Text, ...]:
        """Whether firewalld starts at boot: one that only runs is not enabled by `undo`."""
        if self.step.owner != "firewalld":
            return ()
        return (Text("is-enabled", self.host.run(("systemctl", "is-enabled", "firewalld.service")).out.strip()),)

    def _nft_tools(self) -> tuple[str, ...]:
        return tuple(tool for tool in self.step.tools if "nf_tables" in command(self.context, (tool, "-V")).text)

    def make(self, saved: Saved) -> None:
        for tool in self.step.tools:
            for chain in _CHAINS:
                command(self.context, (tool, "-w", "5", "-P", chain, "ACCEPT"))
        for tool in self.step.tools:
            command(self.context, (tool, "-w", "5", "-F"))
        for family, name in self.step.nft:
            self._flush(family, name)
        if self.step.owner in _OFF:
            command(self.context, _OFF[self.step.owner], owner=self.step.owner)

    def _flush(self, family: str, name: str) -> None:
        """Base chains to accept first, by the chain's own declaration; then all rules."""
        text = command(self.context, ("nft", "-t", "list", "table", family, name)).text
        script = []
        for chain, kind in re.findall(r"chain (\S+) \{\s*(type [^\n]+? policy) drop;", text):
            script.append(f"add chain {family} {name} {chain} {{ {kind} accept; }}")
        script.append(f"flush table {family} {name}")
        command(self.context, ("nft", "-f", "-"), stdin="\n".join(script).encode() + b"\n")

    def _now(self) -> tuple[Text, ...]:
        """As `_tables`, where a table may be gone with its owner."""
        found = []
        for tool in self.step.tools:
            found.append(Text(tool, plain(scaffold.table_text(self.context, tool))))
        for family, name in self.step.nft:
            ran = self.host.run(("nft", "list", "table", family, name), deadline=30.0)
            found.append(Text(f"{family} {name}", b"" if ran.code else plain(ran.out)))
        return tuple(found)

    def seal(self, saved: Saved) -> Saved:
        files = tuple(capture(self.host, file.path) for file in saved.files)
        return saved._replace(made=True, left_files=files, left_texts=self._now())

    def difference(self, saved: Saved) -> str:
        if not saved.made:
            return ""
        import difflib

        lines: list[str] = []
        before = {text.name: plain(text.content) for text in saved.texts}
        for now, left in zip(self._now(), saved.left_texts):
            if now.content not in (left.content, before.get(now.name)):
                old, new = (t.content.decode("utf-8", "replace").splitlines() for t in (left, now))
                lines += difflib.unified_diff(old, new, f"{now.name} (as left)", f"{now.name} (now)", n=0, lineterm="")
        return "\n".join(lines[:40])

    def revert(self, saved: Saved) -> tuple[str, ...]:
        before = {text.name: text.content for text in saved.texts}
        unchanged = all(now.content == plain(before[now.name]) for now in self._now())
        unchanged = unchanged and not any(unlike(capture(self.host, file.path), file) for file in saved.files)
        if unchanged and self.step.owner != "firewalld":
            return ()
        if before.get("is-enabled", b"enabled") != b"enabled":
            command(self.context, _START, owner=self.step.owner)
        elif self.step.owner in _ON:
            command(self.context, _ON[self.step.owner], owner=self.step.owner)
        if self.step.owner == "firewalld":
            # The unit is active before its rules are loaded; this answers when they are.
            command(self.context, ("firewall-cmd", "--state"), owner="firewalld")
        for file in saved.files:
            restore(self.host, file)
        for tool in self.step.tools:
            scaffold.put_table(self.context, tool, before[tool])
        for tool in self._nft_tools():
            family = _family(tool)
            scaffold.take_down(self.context, family, "filter", scaffold.saved(saved.texts, family, "filter"))
        for family, name in self.step.nft:
            script = f"add table {family} {name}\ndelete table {family} {name}\n".encode()
            command(self.context, ("nft", "-f", "-"), stdin=script + before[f"{family} {name}"])
        if any(now.content != plain(before[now.name]) for now in self._now()):
            raise StepFailed("the tables were put back, and are not what they were")
        return ()

    def stands(self, saved: Saved) -> bool:
        before = {text.name: plain(text.content) for text in saved.texts}
        return any(now.content != before.get(now.name) for now in self._now())
