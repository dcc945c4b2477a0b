"""The statements of one nftables rule as items of the model (libnftables-json(5), net/netfilter/nft_*.c).

A statement is a match, an action or a verdict. What is not understood is `Unknown` where it stands in a match, and a
verdict that may be anything where it is a statement: the rest of the rule hangs on it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Optional, Union

from . import addresses, nft_keys
from .nft_keys import DEPTH, IPV4, IPV6, NUMBER, PORT, Key, NotUnderstood, What, mapping, text_of
from .nft_limits import limiter
from .ruleset import (
    Bits,
    CopyMark,
    Element,
    Field,
    IfName,
    Item,
    Kind,
    Learn,
    Limiter,
    Lookup,
    MapMark,
    Name,
    NoTrack,
    Ranges,
    Selector,
    SetMark,
    Socket,
    Test,
    Unknown,
    Verdict,
    VerdictMap,
)

#: A match that no packet passes.
NEVER = Test(Selector(Field.L4PROTO), ())

_ALL = 0xFFFFFFFF
_HARMLESS = frozenset(
    ("counter", "log", "dup", "flow", "secmark", "last", "reset", "ct helper", "ct timeout", "ct expectation")
)
_HARMLESS_CHANGES = frozenset(
    (("meta", "priority"), ("meta", "nftrace"), ("ct", "event"), ("ct", "label"), ("ct", "helper"))
)
_MATCHES = frozenset(("match", "limit", "quota", "ct count", "meter"))
_VERDICTS = {"accept": Kind.ACCEPT, "drop": Kind.DROP, "return": Kind.RETURN, "continue": Kind.CONTINUE}
_REJECTS = {
    "icmp": {
        0: "net-unreachable",
        1: "host-unreachable",
        2: "prot-unreachable",
        3: "port-unreachable",
        9: "net-prohibited",
        10: "host-prohibited",
        13: "admin-prohibited",
    },
    "icmpv6": {
        0: "no-route",
        1: "admin-prohibited",
        3: "addr-unreachable",
        4: "port-unreachable",
        5: "policy-fail",
        6: "reject-route",
    },
    "icmpx": {0: "no-route", 1: "port-unreachable", 2: "host-unreachable", 3: "admin-prohibited"},
}


class Compiler:
    """Compiles the rules of one table. `dynamic`: the sets that rules add to."""

    def __init__(
        self,
        family: str,
        table: str,
        objects: Mapping[tuple[str, str], Mapping[str, object]],
        elements: Mapping[str, list[object]],
        *,
        terse: bool,
        dynamic: frozenset[str],
    ) -> None:
        self._family = family
        self._table_name = table
        self._objects = objects
        self._elements = elements
        self._terse = terse
        self._dynamic = dynamic
        self._implied = nft_keys.REQUIRES.get(family, ())
        self._statements: Mapping[str, Callable[[object, list[Item]], None]] = {
            "match": self._match,
            "vmap": self._vmap,
            "mangle": self._mangle,
            "limit": lambda body, out: self._limiter("limit", body, out),
            "quota": lambda body, out: self._limiter("quota", body, out),
            "ct count": lambda body, out: self._limiter("ct count", body, out),
            "set": self._learn,
            "map": self._learn,
            "meter": self._meter,
            "dnat": self._dnat,
            "redirect": self._redirect,
            "snat": self._snat,
            "reject": self._reject,
            "xt": self._xt,
        }

    def rule(self, statements: list[object]) -> tuple[Item, ...]:
        """Never fails: what is not understood is an item that says so."""
        out: list[Item] = []
        opaque = False
        for statement in statements:
            kind, body = self._only(statement)
            try:
                self._statement(kind, body, out)
            except NotUnderstood as reason:
                if kind in _MATCHES:
                    out.append(Unknown(str(reason)))
                else:
                    out.append(Verdict(Kind.UNKNOWN, reason=str(reason)))
            # An extension may be the target; where the rule has a verdict of its own, it is a match.
            opaque = opaque or kind == "xt" and not (isinstance(body, dict) and body.get("type") == "match")
        if opaque and not (out and isinstance(out[-1], Verdict)):
            out.append(Verdict(Kind.UNKNOWN, reason="the target of a rule by iptables-nft"))
        return tuple(out)

    @staticmethod
    def _only(statement: object) -> tuple[str, object]:
        if isinstance(statement, dict) and len(statement) == 1:
            for kind, body in statement.items():
                return str(kind), body
        return "", statement

    def _statement(self, kind: str, body: object, out: list[Item]) -> None:
        handler = self._statements.get(kind)
        if handler:
            handler(body, out)
        elif kind in _VERDICTS or kind in ("jump", "goto", "queue"):
            out.append(self._verdict(kind, body))
        elif kind == "masquerade":
            out.append(Verdict(Kind.SNAT))
        elif kind == "notrack":
            out.append(NoTrack())
        elif kind not in _HARMLESS:
            raise NotUnderstood(f"the statement {kind[:40]!r}")

    def _verdict(self, kind: str, body: object) -> Verdict:
        if kind in ("jump", "goto"):
            target = mapping(body).get("target")
            if not isinstance(target, str):
                raise NotUnderstood(f"a {kind} without its chain")
            return Verdict(Kind.JUMP if kind == "jump" else Kind.GOTO, target)
        if kind == "queue":
            return Verdict(Kind.QUEUE, reason="a program decides (NFQUEUE)")
        if kind not in _VERDICTS:
            raise NotUnderstood(f"the verdict {kind[:40]!r}")
        return Verdict(_VERDICTS[kind])

    def _require(self, items: tuple[Item, ...], out: list[Item]) -> None:
        """What the kernel loads and compares before the key; nft does not print it where it follows from the key."""
        for item in items:
            if item not in out and item not in self._implied:
                out.append(item)

    # -- keys

    def _key(self, expression: object, depth: int = 0) -> Key:
        if depth > DEPTH:
            raise NotUnderstood("an expression nested too deeply")
        kind, body = self._only(expression)
        if kind in ("&", "|", "^", ">>", "<<"):
            return self._arithmetic(kind, body, depth)
        if kind in ("numgen", "jhash", "symhash"):
            return nft_keys.unknown(kind)
        if not isinstance(body, dict):
            raise NotUnderstood(f"the expression {text_of(expression)}")
        if kind == "payload":
            return nft_keys.payload(body)
        if kind == "meta":
            return nft_keys.meta(body)
        if kind == "ct":
            return nft_keys.ct(body, self._family)
        if kind == "fib":
            return nft_keys.fib(body)
        if kind == "tcp option":
            return nft_keys.tcp_option(body)
        if kind in ("exthdr", "ip option", "sctp chunk", "dccp option"):
            return nft_keys.headers(kind, body)
        return nft_keys.unknown(kind[:40] or "an expression")

    def _arithmetic(self, operator: str, body: object, depth: int) -> Key:
        if not isinstance(body, list) or len(body) < 2:
            raise NotUnderstood(f"an expression with {operator}")
        key = self._key(body[0], depth + 1)
        if key.what is What.UNKNOWN or key.what is What.ABSENT:
            return key
        if key.what is What.INTERFACE:
            raise NotUnderstood("arithmetic on an interface")
        for operand in body[1:]:
            number = nft_keys.value(NUMBER if operator in ("<<", ">>") else key.type, operand)
            if key.what is What.CONSTANT:
                if operator != "&":
                    raise NotUnderstood(f"an expression with {operator}")
                key = key._replace(constant=key.constant & number, open=key.open & number)
            else:
                key = key._replace(selector=self._selected(key, operator, number))
        return key

    @staticmethod
    def _selected(key: Key, operator: str, number: int) -> Selector:
        selector = key.selector
        whole = (1 << key.type.bits) - 1
        mask = whole if selector.mask is None else selector.mask
        shifted = number << selector.shift if operator in ("&", "|", "^") else 0
        if operator == "&":
            return selector._replace(mask=mask & shifted, xor=selector.xor & shifted)
        if operator == "|":
            return selector._replace(mask=mask & ~shifted, xor=selector.xor & ~shifted | shifted)
        if operator == "^":
            return selector._replace(mask=mask, xor=selector.xor ^ shifted)
        if operator == ">>" and number < 128:
            return selector._replace(mask=mask, shift=selector.shift + number)
        raise NotUnderstood(f"an expression with {operator}")

    def _keys(self, expression: object, out: list[Item]) -> tuple[Key, ...]:
        kind, body = self._only(expression)
        if kind == "concat" and isinstance(body, list):
            keys = tuple(self._key(part) for part in body)
        else:
            keys = (self._key(expression),)
        for key in keys:
            self._require(key.requires, out)
        return keys

    # -- matches

    def _match(self, given: object, out: list[Item]) -> None:
        body = mapping(given)
        operator, right = body.get("op", "=="), body.get("right")
        if not isinstance(operator, str):
            raise NotUnderstood("a match without its operator")
        if self._only(body.get("left"))[0] == "socket":
            out.append(Socket("socket"))
            return
        keys = self._keys(body.get("left"), out)
        kind, listed = self._only(right)
        if kind == "set" or isinstance(right, str) and right.startswith("@"):
            if operator not in ("==", "!=", "in"):
                raise NotUnderstood(f"a set with {operator[:10]}")
            self._lookup(keys, listed if kind == "set" else right, negated=operator == "!=", out=out)
        elif kind == "concat":
            self._lookup(keys, [right], negated=operator == "!=", out=out)
        elif len(keys) == 1:
            self._compare(keys[0], operator, right=right, out=out)
        else:
            raise NotUnderstood("a concatenation compared with one value")

    def _compare(self, key: Key, operator: str, *, right: object, out: list[Item]) -> None:
        if key.what is What.UNKNOWN or key.what is What.CONSTANT and key.open:
            raise NotUnderstood(key.reason or "a field that differs from packet to packet")
        if key.what is What.ABSENT:
            out.append(NEVER)
            return
        if key.what is What.INTERFACE:
            if operator not in ("==", "!=", "in"):
                raise NotUnderstood(f"an interface with {operator[:10]}")
            out.append(Name(key.output, (nft_keys.pattern(right),), operator == "!="))
            return
        if operator in ("in", "!") and not (isinstance(right, dict) and ("range" in right or "prefix" in right)):
            if key.what is What.CONSTANT:
                raise NotUnderstood("flags of a constant")
            out.append(Bits(key.selector, nft_keys.value(key.type, right), operator == "in"))
            return
        ranges, negated = self._ranges(key, operator, right)
        if key.what is What.FIELD:
            out.append(Test(key.selector, ranges, negated))
        elif addresses.contains(ranges, key.constant) == negated:
            out.append(NEVER)

    @staticmethod
    def _ranges(key: Key, operator: str, right: object) -> tuple[Ranges, bool]:
        if operator in ("==", "!=", "in"):
            return (nft_keys.span(key.type, right),), operator == "!="
        number = nft_keys.value(key.type, right)
        bounds = {
            "<": (0, number - 1),
            "<=": (0, number),
            ">": (number + 1, key.type.whole[0][1]),
            ">=": (number, key.type.whole[0][1]),
        }.get(operator)
        if bounds is None:
            raise NotUnderstood(f"the operator {operator[:10]!r}")
        return addresses.normal([bounds]), False

    # -- sets

    def _set(self, ref: object) -> tuple[Optional[list[object]], str]:
        """The elements of a set or map (None: not known) and its name. An anonymous one is its list."""
        if isinstance(ref, list):
            return ref, ""
        if not isinstance(ref, str) or not ref.startswith("@"):
            kind, body = self._only(ref)
            if kind == "set":
                return (body if isinstance(body, list) else [body]), ""
            raise NotUnderstood(f"the set {text_of(ref)}")
        name = ref[1:]
        if name in self._elements:
            return self._elements[name], name
        declared = self._objects.get(("set", name), self._objects.get(("map", name)))
        if declared is None:
            return None, name
        listed = declared.get("elem")
        if listed is None:
            return (None if self._terse else []), name
        return (listed if isinstance(listed, list) else [listed]), name

    def _lookup(self, keys: tuple[Key, ...], ref: object, *, negated: bool, out: list[Item]) -> None:
        """A match against a set."""
        listed, name = self._set(ref)
        if any(key.what is What.ABSENT for key in keys):
            out.append(NEVER)
            return
        dynamic = name in self._dynamic
        doubts = [key for key in keys if key.what is What.UNKNOWN or key.open]
        if len(keys) == 1 and not doubts and listed is not None and not dynamic and keys[0].what is not What.CONSTANT:
            out.append(self._simple(keys[0], listed, negated))
        else:
            if doubts and (negated or len(doubts) == len(keys)):
                raise NotUnderstood(doubts[0].reason or "a field that differs from packet to packet")
            # Who is in no element whatever the unknown part is, surely does not match.
            out.append(self._table(keys, listed, name=name, negated=negated, data=None))
            if doubts:
                out.append(Unknown(doubts[0].reason or "a field that differs from packet to packet"))
        if not negated and listed:
            self._element_limits(listed, ref, out)

    @staticmethod
    def _simple(key: Key, listed: list[object], negated: bool) -> Item:
        every = any(nft_keys.plain(element) == "*" for element in listed)
        if key.what is What.INTERFACE:
            patterns = ("*",) if every else tuple(nft_keys.pattern(element) for element in listed)
            return Name(key.output, patterns, negated)
        return Test(key.selector, key.type.whole if every else nft_keys.spans(key.type, listed), negated)

    def _element_limits(self, listed: list[object], ref: object, out: list[Item]) -> None:
        """Limits that a set's elements carry are asked when the element is found."""
        first = listed[0]
        element = first.get("elem") if isinstance(first, dict) else None
        carried: object = None
        if isinstance(element, dict):
            carried = [{kind: element[kind]} for kind in ("limit", "ct count", "quota") if kind in element]
        if not carried and isinstance(ref, str):
            carried = self._objects.get(("set", ref[1:]), {}).get("stmt")
        for statement in carried if isinstance(carried, list) else ():
            kind, body = self._only(statement)
            if kind in ("limit", "ct count", "quota"):
                self._limiter(kind, body, out)

    def _table(
        self,
        keys: tuple[Key, ...],
        listed: Optional[list[object]],
        *,
        name: str,
        negated: bool = False,
        data: Optional[Callable[[object], Union[int, Verdict]]],
    ) -> Lookup:
        """A set, or with `data` a map, as a Lookup. Parts that are constants or unknown are not in it."""
        kept = [place for place, key in enumerate(keys) if key.what in (What.FIELD, What.INTERFACE)]
        selectors = tuple(_part(keys[place]) for place in kept)
        if listed is None:
            return Lookup(selectors, None, negated, name, name in self._dynamic)
        elements: list[Element] = []
        rest: Optional[Element] = None
        for entry in listed:
            given = nft_keys.plain(entry)
            result = None
            if data:
                if not isinstance(given, list) or len(given) != 2:
                    raise NotUnderstood("a map with an element that has no data")
                result = data(given[1])
                given = nft_keys.plain(given[0])
            if given == "*":
                rest = Element(tuple(_everything(keys[place]) for place in kept), result)
                continue
            parts = self._parts(keys, given)
            if parts is not None:
                elements.append(Element(tuple(parts[place] for place in kept), result))
        if rest:
            elements.append(_remaining(rest, elements))
        dynamic = name in self._dynamic
        return Lookup(selectors, tuple(elements), negated, self._own(name) if dynamic else name, dynamic)

    def _parts(self, keys: tuple[Key, ...], given: object) -> Optional[list[Union[Ranges, tuple[str, ...]]]]:
        """One element's ranges or patterns for each key; None where a constant of the packet is not in it."""
        kind, listed = self._only(given)
        values = listed if kind == "concat" and isinstance(listed, list) else [given]
        if len(values) != len(keys):
            raise NotUnderstood("an element of another length than its key")
        parts: list[Union[Ranges, tuple[str, ...]]] = []
        for key, part in zip(keys, values):
            if key.what is What.INTERFACE:
                parts.append((nft_keys.pattern(part),))
            elif key.what is What.UNKNOWN or key.open:
                parts.append(())
            else:
                span = nft_keys.span(key.type, part)
                if key.what is What.CONSTANT and not span[0] <= key.constant <= span[1]:
                    return None
                parts.append((span,))
        return parts

    def _vmap(self, given: object, out: list[Item]) -> None:
        body = mapping(given)
        self._mapped(body, out, data=lambda value: self._verdict(*self._only(value)))

    def _mapped(
        self, body: dict[str, object], out: list[Item], *, data: Callable[[object], Union[int, Verdict]]
    ) -> None:
        """A map whose data are verdicts. Without an element for the packet the rule goes on."""
        lookup = self._map(body, out, data)
        if lookup:
            out.append(VerdictMap(lookup))
        else:
            out.append(NEVER)

    def _map(
        self, body: dict[str, object], out: list[Item], data: Callable[[object], Union[int, Verdict]]
    ) -> Optional[Lookup]:
        """None: the key is not there in any packet asked about."""
        keys = self._keys(body.get("key"), out)
        if any(key.what is What.ABSENT for key in keys):
            return None
        for key in keys:
            if key.what is What.UNKNOWN or key.open:
                raise NotUnderstood(key.reason or "a field that differs from packet to packet")
        listed, name = self._set(body.get("data"))
        if name in self._dynamic:
            raise NotUnderstood("a map that rules add to")
        return self._table(keys, listed, name=name, data=data)

    # -- limits

    def _limiter(self, kind: str, body: object, out: list[Item]) -> None:
        out.append(limiter(kind, body, self._objects, self._own))

    # -- actions

    def _learners(self, body: dict[str, object], out: list[Item]) -> tuple[tuple[Key, ...], bool]:
        """The keys that a statement adds to a set, and whether all of them are known."""
        keys = self._keys(nft_keys.plain(body.get("elem", body.get("key"))), out)
        if any(key.what is What.ABSENT for key in keys):
            out.append(NEVER)
        return keys, all(key.what in (What.FIELD, What.INTERFACE) for key in keys)

    def _learn(self, given: object, out: list[Item]) -> None:
        """`add`, `update` or `delete` of a set (or map) while the packet passes."""
        body = mapping(given)
        name = body.get("set", body.get("map"))
        if not isinstance(name, str):
            raise NotUnderstood("a set without its name")
        keys, known = self._learners(body, out)
        listed = body.get("stmt")
        inner = self._inner(listed if isinstance(listed, list) else [listed] if listed else [])
        if not known:
            inner = (*inner, Unknown("the key that is added to a set"))
        selectors = tuple(_part(key) for key in keys) if known else ()
        out.append(Learn(self._own(name.lstrip("@")), selectors, inner, body.get("op") == "delete"))

    def _meter(self, given: object, out: list[Item]) -> None:
        body = mapping(given)
        keys, known = self._learners(body, out)
        inner = self._inner([body.get("stmt")])
        name = body.get("name")
        selectors = tuple(_part(key) for key in keys) if known else ()
        out.append(Learn(self._own(text_of(name)), selectors, inner))

    def _own(self, name: str) -> str:
        """What a set is called where sets of all tables are told apart."""
        return f"{self._family} {self._table_name} {name}"

    def _inner(self, statements: list[object]) -> tuple[Union[Limiter, Unknown], ...]:
        out: list[Item] = []
        for statement in statements:
            kind, body = self._only(statement)
            if kind in ("limit", "quota", "ct count"):
                self._limiter(kind, body, out)
            elif kind not in _HARMLESS:
                out.append(Unknown(f"the statement {kind[:40]!r} in a set"))
        return tuple(item for item in out if isinstance(item, (Limiter, Unknown)))

    def _mangle(self, given: object, out: list[Item]) -> None:
        body = mapping(given)
        kind, key = self._only(body.get("key"))
        name = mapping(key).get("key")
        if kind in ("meta", "ct") and name == "mark":
            self._mark(kind == "ct", body.get("value"), out)
        elif isinstance(name, str) and (kind, name) in _HARMLESS_CHANGES:
            return
        elif kind == "payload":
            self._rewrite(mapping(key), out)
        elif kind not in ("tcp option", "exthdr"):
            raise NotUnderstood(f"a change of {kind[:20]} {text_of(name)}")

    def _rewrite(self, body: dict[str, object], out: list[Item]) -> None:
        field = body.get("field")
        if field not in ("dscp", "ttl", "hoplimit", "ecn", "flowlabel"):
            self._require(nft_keys.payload(body).requires, out)
            raise NotUnderstood(f"a change of {text_of(body.get('protocol'))} {text_of(field)}")

    def _mark(self, ct: bool, value: object, out: list[Item]) -> None:
        kind, body = self._only(value)
        if kind == "map":
            lookup = self._map(mapping(body), out, lambda data: nft_keys.value(NUMBER, nft_keys.plain(data)))
            out.append(MapMark(ct, lookup) if lookup else NEVER)
            return
        try:
            source, keep, flip = self._linear(value)
        except NotUnderstood:
            out.append(MapMark(ct, Lookup((), None)))  # the mark is any from here on
            return
        if source is None:
            out.append(SetMark(ct, _ALL, flip))
        elif source == ("ct" if ct else "meta"):
            out.append(SetMark(ct, keep ^ _ALL, flip))
        else:
            out.append(CopyMark(True, _ALL, keep) if ct else CopyMark(False, keep, _ALL))
            if flip:
                out.append(SetMark(ct, 0, flip))

    def _linear(self, value: object, depth: int = 0) -> tuple[Optional[str], int, int]:
        """A mark as `(source & keep) ^ flip`; source None: a number."""
        if depth > DEPTH:
            raise NotUnderstood("an expression nested too deeply")
        kind, body = self._only(value)
        if kind in ("meta", "ct") and isinstance(body, dict) and body.get("key") == "mark":
            return kind, _ALL, 0
        if kind not in ("&", "|", "^") or not isinstance(body, list) or len(body) < 2:
            return None, 0, nft_keys.value(NUMBER, value)
        source, keep, flip = self._linear(body[0], depth + 1)
        for operand in body[1:]:
            other, more, number = self._linear(operand, depth + 1)
            if other is not None:
                if source is not None or more != _ALL or number:
                    raise NotUnderstood("a mark from two marks")
                source, keep, flip, number = other, _ALL, 0, flip
            if kind == "&":
                keep, flip = keep & number, flip & number
            elif kind == "|":
                keep, flip = keep & ~number, flip & ~number | number
            else:
                flip ^= number
        return source, keep, flip

    # -- verdicts with more to them

    def _reject(self, given: object, out: list[Item]) -> None:
        body = given if isinstance(given, dict) else {}
        kind, code = body.get("type"), body.get("expr", "port-unreachable")
        if kind == "tcp reset":
            self._require(nft_keys.REQUIRES["tcp"], out)
            out.append(Verdict(Kind.REJECT, reject="tcp-reset"))
            return
        if kind is not None and not (isinstance(kind, str) and kind in _REJECTS):
            raise NotUnderstood(f"a reject with {text_of(kind)}")
        if kind in ("icmp", "icmpv6"):
            self._require(nft_keys.REQUIRES["ip" if kind == "icmp" else "ip6"], out)
        names = _REJECTS[str(kind or {"ip": "icmp", "ip6": "icmpv6"}.get(self._family, "icmpx"))]
        name = names.get(code) if isinstance(code, int) else code
        if not isinstance(name, str):
            raise NotUnderstood(f"a reject with {text_of(kind)} {text_of(code)}")
        out.append(Verdict(Kind.REJECT, reject=name))

    def _dnat(self, given: object, out: list[Item]) -> None:
        body = mapping(given)
        where, port = body.get("addr"), body.get("port")
        family = body.get("family", self._family)
        if isinstance(family, str) and (where is not None):
            self._require(nft_keys.REQUIRES.get(family, ()), out)
        kind = IPV6 if family == "ip6" or isinstance(where, str) and ":" in where else IPV4
        mapped, table = self._only(where)
        if mapped == "map" and port is None:
            self._mapped(mapping(table), out, data=lambda value: _translated(kind, value))
            return
        to = (nft_keys.span(kind, where),) if where is not None else ()
        mapped, table = self._only(port)
        if mapped == "map":
            self._mapped(
                mapping(table),
                out,
                data=lambda value: Verdict(Kind.DNAT, to=to, ports=(nft_keys.span(PORT, value),)),
            )
            return
        ports = (nft_keys.span(PORT, port),) if port is not None else ()
        out.append(Verdict(Kind.DNAT, to=to, ports=ports))

    def _snat(self, given: object, out: list[Item]) -> None:
        """Where it matters, in a chain at input, an address that is not told is any."""
        body = mapping(given)
        where, family = body.get("addr"), body.get("family", self._family)
        if isinstance(family, str) and where is not None:
            self._require(nft_keys.REQUIRES.get(family, ()), out)
        kind = IPV6 if family == "ip6" or isinstance(where, str) and ":" in where else IPV4
        to = (nft_keys.span(kind, where),) if isinstance(where, str) else ()
        ports = () if body.get("port") is None else ((0, 0xFFFF),)
        out.append(Verdict(Kind.SNAT, to=to, ports=ports))

    def _redirect(self, given: object, out: list[Item]) -> None:
        port = mapping(given).get("port") if given is not None else None
        kind, table = self._only(port)
        if kind == "map":
            self._mapped(
                mapping(table), out, data=lambda value: Verdict(Kind.REDIRECT, ports=(nft_keys.span(PORT, value),))
            )
            return
        out.append(Verdict(Kind.REDIRECT, ports=(nft_keys.span(PORT, port),) if port is not None else ()))

    def _xt(self, given: object, out: list[Item]) -> None:
        """A rule of iptables-nft whose line is not at hand."""
        body = given if isinstance(given, dict) else {}
        name = body.get("name")
        if name == "comment":
            return
        what = f"xt {name[:40]}" if isinstance(name, str) else "an extension of iptables"
        out.append(Unknown(f"{what}, printed without parameters"))


def _part(key: Key) -> Union[Selector, IfName]:
    return IfName(key.output) if key.what is What.INTERFACE else key.selector


def _everything(key: Key) -> Union[Ranges, tuple[str, ...]]:
    return ("*",) if key.what is What.INTERFACE else key.type.whole


def _remaining(rest: Element, elements: list[Element]) -> Element:
    """The catch-all element `*`: of one number, what the others leave; else it is tried last."""
    if len(rest.parts) != 1 or rest.parts[0] == ("*",):
        return rest
    taken = addresses.normal([span for element in elements for span in element.parts[0] if isinstance(span, tuple)])
    whole = tuple(span for span in rest.parts[0] if isinstance(span, tuple))
    return rest._replace(parts=(addresses.subtract(whole, taken),))


def _translated(kind: nft_keys.Type, data: object) -> Verdict:
    """The data of a `dnat to … map`: an address, or an address and a port."""
    data = nft_keys.plain(data)
    parts = data.get("concat") if isinstance(data, dict) else None
    if isinstance(parts, list) and len(parts) == 2:
        to, ports = (nft_keys.span(kind, parts[0]),), (nft_keys.span(PORT, parts[1]),)
        return Verdict(Kind.DNAT, to=to, ports=ports)
    return Verdict(Kind.DNAT, to=(nft_keys.span(kind, data),))
