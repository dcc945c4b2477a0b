"""Tables and base chains that iptables-nft makes where there are none; they go again with what they were for."""

from __future__ import annotations

import json
from typing import Any, Optional

from .records import Text
from .work import Context, StepFailed, command


def listing(context: Context, family: str, table: str) -> list[dict[str, Any]]:
    """`nft -j list table` without sets' elements; empty where there is no such table. Raises StepFailed, HostError."""
    ran = context.host.run(("nft", "-j", "-t", "-a", "list", "table", family, table), deadline=30.0)
    if ran.code:
        if "No such file or directory" in ran.err.decode("utf-8", "replace"):
            return []
        raise StepFailed(f"nft list table {family} {table}: {ran.complaint}")
    try:
        return list(json.loads(ran.out)["nftables"])
    except (ValueError, KeyError, TypeError) as error:
        raise StepFailed(f"nft -j: {error}") from error


def save(context: Context, family: str, table: str) -> tuple[Text, ...]:
    """The chains that there are; nothing where there is no nft to take others away with."""
    if not context.host.program("nft"):
        return ()
    chains = _chains(listing(context, family, table))
    return (Text(_name(family, table), json.dumps(chains).encode()),)


def take_down(context: Context, family: str, table: str, before: Optional[bytes]) -> None:
    """Removes what `save` did not see, if nobody has put anything into it since."""
    found = listing(context, family, table) if before is not None else []
    if before is None or not found:
        return
    known = json.loads(before)
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


def _chains(found: list[dict[str, Any]]) -> Optional[list[str]]:
    """None: no such table."""
    return [item["chain"]["name"] for item in found if "chain" in item] if found else None
