"""The targets of iptables-extensions(8), as items of the model.

Targets that let the rule set go on and change nothing that a later rule can ask about give no item.
"""

from __future__ import annotations

from collections.abc import Callable

from . import values
from .ipsets import selectors
from .iptables_matches import flags
from .ruleset import CopyMark, Family, Item, Kind, Learn, NoTrack, Ranges, SetMark, Verdict
from .xtables import Context, Extension, Option, Options, options

Built = tuple[Item, ...]
_ALL = 0xFFFFFFFF

_REJECT_V4 = {
    "net-unreachable": "net-unreach", "host-unreachable": "host-unreach", "prot-unreachable": "proto-unreach",
    "port-unreachable": "port-unreach", "net-prohibited": "net-prohib", "host-prohibited": "host-prohib",
    "tcp-reset": "tcp-rst", "admin-prohibited": "admin-prohib",
}  # fmt: skip
_REJECT_V6 = {
    "no-route": "icmp6-no-route", "admin-prohibited": "adm-prohibited", "addr-unreachable": "addr-unreach",
    "port-unreachable": "port-unreach", "tcp-reset": "tcp-reset", "policy-fail": "policy-fail",
    "reject-route": "reject-route",
}  # fmt: skip


def _reject_names(family: Family) -> dict[str, str]:
    """Every spelling that iptables takes, as nft spells it."""
    table = {}
    for nft, short in (_REJECT_V4 if family is Family.IPV4 else _REJECT_V6).items():
        for name in (nft, short):
            for prefix in ("", "icmp-" if family is Family.IPV4 else "icmp6-"):
                table[prefix + name] = nft
    if family is Family.IPV4:
        table["icmp-proto-unreachable"] = table["proto-unreachable"] = "prot-unreachable"
    else:
        table["icmp6-adm-prohibited"] = "admin-prohibited"
    return table


_REJECTS = {family: _reject_names(family) for family in Family}


def _reject(given: Options, context: Context) -> Built:
    kind = given[0].value if given else "port-unreachable"
    if kind not in _REJECTS[context.family]:
        raise ValueError(f"{kind[:40]!r} is no kind of rejection")
    return (Verdict(Kind.REJECT, reject=_REJECTS[context.family][kind]),)


def _operation(option: Option, *, ct: bool) -> Built:
    """xt_MARK and xt_CONNMARK: `mark = (mark & ~mask) ^ value`."""
    name = option.name
    if name in ("--set-xmark", "--set-mark"):
        value, mask = values.masked(option.value)
        return (SetMark(ct, mask if name == "--set-xmark" else mask | value, value),)
    value = values.number(option.value)
    mask, bits = {"--and-mark": (value ^ _ALL, 0), "--or-mark": (value, value), "--xor-mark": (0, value)}[name]
    return (SetMark(ct, mask, bits),)


def _mark(given: Options, context: Context) -> Built:
    if len(given) != 1:
        raise ValueError("MARK takes one operation")
    return _operation(given[0], ct=False)


def _connmark(given: Options, context: Context) -> Built:
    named = {option.name: option for option in given}
    if "--left-shift-mark" in named or "--right-shift-mark" in named:
        return (Verdict(Kind.UNKNOWN, reason="CONNMARK with a shift"),)
    if "--save-mark" in named or "--restore-mark" in named:
        whole = values.number(named["--mask"].value) if "--mask" in named else _ALL
        ctmask, nfmask = (
            values.number(named[name].value) if name in named else whole for name in ("--ctmask", "--nfmask")
        )
        return (CopyMark("--save-mark" in named, ctmask, nfmask),)
    operations = [option for option in given if option.name not in ("--mask", "--ctmask", "--nfmask")]
    if len(operations) != 1:
        raise ValueError("CONNMARK takes one operation")
    return _operation(operations[0], ct=True)


def _ct(given: Options, context: Context) -> Built:
    names = {option.name for option in given}
    if names & {"--zone", "--zone-orig", "--zone-reply"}:
        return (Verdict(Kind.UNKNOWN, reason="CT --zone: the connection is tracked in another zone"),)
    return (NoTrack(),) if "--notrack" in names else ()


def _destination(text: str, family: Family) -> tuple[Ranges, Ranges]:
    """`ADDR[-ADDR][:PORT[-PORT[/BASE]]]`, IPv6 in brackets where ports follow."""
    if text.startswith("["):
        hosts, closed, ports = text[1:].partition("]")
        if not closed or (ports and ports[0] != ":"):
            raise ValueError(f"{text[:90]!r} is not a destination")
        ports = ports[1:]
    elif family is Family.IPV6 and (text[:1] != ":" or text[:2] == "::"):
        hosts, ports = text, ""
    else:
        hosts, _, ports = text.partition(":")
    to: Ranges = ()
    if hosts:
        low, dash, high = hosts.partition("-")
        first = values.address(low, family)
        to = ((first, values.address(high, family) if dash else first),)
    return to, values.ports(ports.partition("/")[0], "-") if ports else ()


def _nat(kind: Kind, name: str) -> Callable[[Options, Context], Built]:
    """DNAT or SNAT, to what the option `name` says."""

    def built(given: Options, context: Context) -> Built:
        to = [option.value for option in given if option.name == name]
        if len(to) != 1:
            raise ValueError(f"{kind.name} takes one {name}")
        where, ports = _destination(to[0], context.family)
        return (Verdict(kind, to=where, ports=ports),)

    return built


def _redirect(given: Options, context: Context) -> Built:
    ports = [values.ports(option.value, "-") for option in given if option.name == "--to-ports"]
    return (Verdict(Kind.REDIRECT, ports=ports[0] if ports else ()),)


def _set(given: Options, context: Context) -> Built:
    items: list[Item] = []
    for option in given:
        if option.name == "--map-set":
            return (Verdict(Kind.UNKNOWN, reason="SET --map-set"),)
        if option.name in ("--add-set", "--del-set"):
            found = context.ipsets.get(option.values[0])
            wanted = flags(option.values[1])
            if found is not None:
                key = selectors(found.parts, wanted)
                items.append(Learn(found.name, key, delete=option.name == "--del-set"))
    return tuple(items)


def _goes_on(given: Options, context: Context) -> Built:
    return ()


def _verdict(kind: Kind, reason: str = "") -> Callable[[Options, Context], Built]:
    items = (Verdict(kind, reason=reason),)
    return lambda given, context: items


_OPERATIONS = "--set-xmark=1 --set-mark=1 --and-mark=1 --or-mark=1 --xor-mark=1"
_RANDOM = "--random --random-fully --persistent"

TARGETS: dict[str, Extension] = {
    "ACCEPT": Extension({}, _verdict(Kind.ACCEPT)),
    "DROP": Extension({}, _verdict(Kind.DROP)),
    "RETURN": Extension({}, _verdict(Kind.RETURN)),
    "QUEUE": Extension({}, _verdict(Kind.QUEUE, "a program decides (QUEUE)")),
    "NFQUEUE": Extension(
        options("--queue-num=1 --queue-balance=1 --queue-bypass --queue-cpu-fanout"),
        _verdict(Kind.QUEUE, "a program decides (NFQUEUE)"),
    ),
    "REJECT": Extension(options("--reject-with=1"), _reject),
    "LOG": Extension(
        options(
            "--log-level=1 --log-prefix=1 --log-tcp-sequence --log-tcp-options --log-ip-options --log-uid "
            "--log-macdecode"
        ),
        _goes_on,
    ),
    "NFLOG": Extension(
        options("--nflog-group=1 --nflog-prefix=1 --nflog-range=1 --nflog-size=1 --nflog-threshold=1"), _goes_on
    ),
    "ULOG": Extension(options("--ulog-nlgroup=1 --ulog-cprange=1 --ulog-qthreshold=1 --ulog-prefix=1"), _goes_on),
    "AUDIT": Extension(options("--type=1"), _goes_on),
    "TRACE": Extension({}, _goes_on),
    "ACCOUNT": Extension(options("--addr=1 --tname=1"), _goes_on),
    "CLASSIFY": Extension(options("--set-class=1"), _goes_on),
    "DSCP": Extension(options("--set-dscp=1 --set-dscp-class=1"), _goes_on),
    "TOS": Extension(options("--set-tos=1 --and-tos=1 --or-tos=1 --xor-tos=1"), _goes_on),
    "TTL": Extension(options("--ttl-set=1 --ttl-dec=1 --ttl-inc=1"), _goes_on),
    "HL": Extension(options("--hl-set=1 --hl-dec=1 --hl-inc=1"), _goes_on),
    "ECN": Extension(options("--ecn-tcp-remove --ecn-tcp-cwr=1 --ecn-tcp-ece=1 --ecn-ip-ect=1"), _goes_on),
    "TCPMSS": Extension(options("--set-mss=1 --clamp-mss-to-pmtu"), _goes_on),
    "TCPOPTSTRIP": Extension(options("--strip-options=1"), _goes_on),
    "CHECKSUM": Extension(options("--checksum-fill"), _goes_on),
    "SECMARK": Extension(options("--selctx=1"), _goes_on),
    "CONNSECMARK": Extension(options("--save --restore"), _goes_on),
    "IDLETIMER": Extension(options("--timeout=1 --label=1 --alarm"), _goes_on),
    "LED": Extension(options("--led-trigger-id=1 --led-delay=1 --led-always-blink"), _goes_on),
    "RATEEST": Extension(options("--rateest-name=1 --rateest-interval=1 --rateest-ewmalog=1"), _goes_on),
    "TEE": Extension(options("--gateway=1 --oif=1"), _goes_on),
    "MARK": Extension(options(_OPERATIONS), _mark),
    "CONNMARK": Extension(
        options(
            f"{_OPERATIONS} --save-mark --restore-mark --mask=1 --ctmask=1 --nfmask=1 --left-shift-mark=1 "
            "--right-shift-mark=1"
        ),
        _connmark,
    ),
    "NOTRACK": Extension({}, lambda given, context: (NoTrack(),)),
    "CT": Extension(
        options("--notrack --helper=1 --ctevents=1 --expevents=1 --zone=1 --zone-orig=1 --zone-reply=1 --timeout=1"),
        _ct,
    ),
    "DNAT": Extension(options(f"--to-destination=1 {_RANDOM}"), _nat(Kind.DNAT, "--to-destination")),
    "REDIRECT": Extension(options(f"--to-ports=1 {_RANDOM}"), _redirect),
    "SNAT": Extension(options(f"--to-source=1 {_RANDOM}"), _nat(Kind.SNAT, "--to-source")),
    "MASQUERADE": Extension(options(f"--to-ports=1 {_RANDOM}"), _verdict(Kind.SNAT)),
    "SET": Extension(
        options("--add-set=2 --del-set=2 --map-set=2 --exist --timeout=1 --map-mark --map-prio --map-queue"), _set
    ),
}
