"""firewalld over D-Bus: whether it runs, panic mode, its zones now and permanently, what a failed reload left.

Source: firewalld.dbus(5). Settings come as a dictionary since firewalld 0.9 (getZoneSettings2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from ..facts import Firewalld, FirewalldZone
from ..host import Host, HostError, NotFound
from ..model import Fact, Seen, Unseen
from ..reach.ruleset import Ruleset
from .dbus import Bus, Call, Refused

NAME, PATH = "org.fedoraproject.FirewallD1", "/org/fedoraproject/FirewallD1"
ZONE, _CONFIG = f"{NAME}.zone", f"{NAME}.config"
_LEFT_OVER = "inet firewalld_policy_drop"
_SECONDS = 2.0


def collect(host: Host, ruleset: Fact[Ruleset]) -> Fact[Optional[Firewalld]]:
    """None where firewalld is not installed. A bus that hangs is Unseen after two seconds."""
    left_over = isinstance(ruleset, Seen) and any(table.label == _LEFT_OVER for table in ruleset.value.tables)
    try:
        if host.program("firewalld") is None and host.program("firewall-cmd") is None:
            return Seen(None, "firewalld is not installed")
        try:
            with Bus(host, deadline=_SECONDS) as bus:
                state = _state(bus)
        except NotFound:
            return Seen(Firewalld(False, policy_drop=left_over), "no system bus")
    except HostError as error:
        return Unseen(f"firewalld: {error}")
    return Seen(state._replace(policy_drop=left_over), PATH)


def _state(bus: Bus) -> Firewalld:
    dbus = "org.freedesktop.DBus"
    if not bus.one(Call(dbus, "/org/freedesktop/DBus", dbus, "NameHasOwner", "s", (NAME,)))[0]:
        return Firewalld(False)
    panic, default, active = _must(
        bus,
        [
            Call(NAME, PATH, NAME, "queryPanicMode"),
            Call(NAME, PATH, NAME, "getDefaultZone"),
            Call(NAME, PATH, ZONE, "getActiveZones"),
        ],
    )
    names = sorted({default[0], *active[0]})
    settings = _must(bus, [Call(NAME, PATH, ZONE, "getZoneSettings2", "s", (name,)) for name in names])
    bound = active[0]
    zones = tuple(
        parse_zone(name, body[0])._replace(
            interfaces=tuple(bound.get(name, {}).get("interfaces", ())),
            sources=tuple(bound.get(name, {}).get("sources", ())),
        )
        for name, body in zip(names, settings)
    )
    return Firewalld(True, bool(panic[0]), default[0], zones, _permanent(bus, names))


def _permanent(bus: Bus, names: Sequence[str]) -> tuple[FirewalldZone, ...]:
    """The same zones as they will be after a reload; one that exists only at run time is missing."""
    config = f"{PATH}/config"
    paths = bus.ask([Call(NAME, config, _CONFIG, "getZoneByName", "s", (name,)) for name in names])
    known = [(name, path[0]) for name, path in zip(names, paths) if not isinstance(path, Refused)]
    settings = _must(bus, [Call(NAME, path, f"{_CONFIG}.zone", "getSettings2") for _, path in known])
    return tuple(parse_zone(name, body[0]) for (name, _), body in zip(known, settings))


def _must(bus: Bus, calls: Sequence[Call]) -> list[Any]:
    answers = bus.ask(calls)
    for answer in answers:
        if isinstance(answer, Refused):
            raise answer
    return answers


def parse_zone(name: str, settings: dict[str, Any]) -> FirewalldZone:
    """getZoneSettings2's a{sv}: each value is (signature, value)."""

    def value(key: str) -> Any:
        return settings.get(key, ("", ()))[1]

    return FirewalldZone(
        name=name,
        interfaces=tuple(value("interfaces")),
        services=tuple(value("services")),
        ports=tuple((port, protocol) for port, protocol in value("ports")),
        rich_rules=tuple(value("rules_str") or value("rich_rules")),
        target=str(value("target") or "default"),
        sources=tuple(value("sources")),
    )
