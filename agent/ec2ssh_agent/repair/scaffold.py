"""Tables and base chains that iptables-nft makes where there are none; they go again with what they were for."""

from __future__ import annotations

import json
from typing import Any, Optional

from .records import Text
from .work import Context, StepFailed, command


def listing(context: Context, family: str, table: str, chain: str = "") -> list[dict[str, Any]]:
    """`nft -j list` of a table or chain, without sets' elements; empty where there is none. Raises StepFailed."""
    what = ("chain", family, table, chain) if chain else ("table", family, table)
    ran = context.host.run(("nft", "-j", "-t", "-a", "list", *what), deadline=30.0)
    if ran.code:
        if "No such file or directory" in ran.err.decode("utf-8", "replace"):
            return []
        raise StepFailed(f"nft list {' '.join(what)}: {ran.complaint}")
    return _items(ran.out)


def _items(out: bytes) -> list[dict[str, Any]]:
    try:
        return list(json.loads(out)["nftables"])
    except (ValueError, KeyError, TypeError) as error:
        raise StepFailed(f"nft -j: {error}") from error


def save(context: Context, family: str, table: str) -> tuple[Text, ...]:
    """The chains that there are; nothing where there is no nft to take others away with."""
    if not context.host.program("nft"):
        return ()
    return (Text(_name(family, table), json.dumps(_chains(context, family, table)).encode()),)


def take_down(context: Context, family: str, table: str, before: Optional[bytes]) -> None:
    """Removes what `save` did not see, if nobody has put anything into it since."""
    if before is None:
        return
    known, present = json.loads(before), _chains(context, family, table)
    if not set(present or ()) - set(known or ()):
        return
    found = listing(context, family, table)
    used = {item["rule"]["chain"] for item in found if "rule" in item}
    chains = [item["chain"] for item in found if "chain" in item]
    empty = [c for c in chains if c["name"] not in used and c.get("hook") and c.get("policy") == "accept"]
    script = [f"delete chain {family} {table} {c['name']}" for c in empty if c["name"] not in (known or ())]
    others = [item for item in found if not {"metainfo", "table", "chain"} & set(item)]
    if known is None and len(script) == len(chains) and not others:
        script.append(f"delete table {family} {table}")
    if script:
        command(context, ("nft", "-f", "-"), stdin="\n".join(script).encode() + b"\n")


def table_text(context: Context, tool: str) -> bytes:
    """The filter table as `TOOL-restore` makes it again: only the chains that there are, in their order. b"": none."""
    text = command(context, (f"{tool}-save", "-t", "filter")).out
    if b"(nf_tables)" not in text.partition(b"\n")[0]:
        return text
    names = _chains(context, "ip6" if tool.startswith("ip6") else "ip", "filter")
    if names is None:
        return b""
    lines = text.splitlines(keepends=True)
    declared = {line[1:].split(b" ")[0].decode(): line for line in lines if line.startswith(b":")}
    first = next(number for number, line in enumerate(lines) if line.startswith(b":"))
    ordered = [declared[name] for name in names if name in declared]
    return b"".join([*lines[:first], *ordered, *(line for line in lines[first:] if not line.startswith(b":"))])


def put_table(context: Context, tool: str, text: bytes) -> None:
    """The filter table as `table_text` gave it, in one transaction."""
    if text:
        command(context, (f"{tool}-restore", "-T", "filter"), stdin=text)
    elif _chains(context, "ip6" if tool.startswith("ip6") else "ip", "filter") is not None:
        command(context, ("nft", "delete", "table", "ip6" if tool.startswith("ip6") else "ip", "filter"))


def saved(texts: tuple[Text, ...], family: str, table: str) -> Optional[bytes]:
    return next((text.content for text in texts if text.name == _name(family, table)), None)


def _name(family: str, table: str) -> str:
    return f"chains of {family} {table}"


def _chains(context: Context, family: str, table: str) -> Optional[list[str]]:
    """Names; None: no such table. Listing all chains is cheap, whatever the number of rules."""
    items = _items(command(context, ("nft", "-j", "list", "chains", family)).out)
    chains = [item["chain"] for item in items if "chain" in item]
    names = [chain["name"] for chain in chains if (chain["family"], chain["table"]) == (family, table)]
    return names if names or listing(context, family, table) else None
