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
