"""The patterns of hosts_access(5) as sets of addresses, as each flavour of libwrap reads them (see wrappers.py)."""

from __future__ import annotations

import enum
import re
from typing import Optional

from ..plain import NamedTuple
from .addresses import SPACE, intersect, normal, parse_address, prefix_range, subtract, union
from .ruleset import Family, Ranges


class Flavour(enum.Enum):
    DEBIAN = "debian"
    SUSE = "suse"
    UPSTREAM = "upstream"


class Match(NamedTuple):
    """Who surely matches a pattern, and who may (those who surely do included)."""

    sure: Ranges
    maybe: Ranges


#: Ranges handled before the rest is given up as unknown: some seconds, far beyond any real file.
BUDGET = 5_000_000
_WILD_COST = 2_000
_MAPPED = 0xFFFF << 32  # ::ffff:0.0.0.0
#: A pattern that is more ranges than this is taken as one that may match anybody.
_MOST_RANGES = 4096
NOBODY = Match((), ())
_ALL4 = SPACE[Family.IPV4]
#: 255.255.255.255 is INADDR_NONE to libwrap: in no network, and mapped no IPv4 address.
_NONE: Ranges = ((0xFFFFFFFF, 0xFFFFFFFF),)
_MAPPED_BLOCK: Ranges = ((_MAPPED, _MAPPED | 0xFFFFFFFE),)
#: What else inet_ntop(3) writes with dots: ::1.2.3.4, and the last mapped one.
_WITH_DOTS: Ranges = ((0, 0xFFFFFFFF), (_MAPPED | 0xFFFFFFFF, _MAPPED | 0xFFFFFFFF))


# -- words


def split_plainly(text: str, delimiter: str) -> tuple[str, Optional[str]]:
    head, found, tail = text.partition(delimiter)
    return head, tail if found else None


def split_at(text: str, delimiter: str) -> tuple[str, Optional[str]]:
    """split_at() of misc.c: the first delimiter that is not inside brackets, however they are nested."""
    if "[" not in text and "]" not in text:
        return split_plainly(text, delimiter)
    depth = 0
    for place, character in enumerate(text):
        if character == "[":
            depth += 1
        elif character == "]":
            depth -= 1
        elif character == delimiter and depth == 0:
            return text[:place], text[place + 1 :]
    return text, None


# -- numbers as the C library reads them


def strtol(text: str, base: int = 10, most: int = (1 << 63) - 1) -> tuple[int, str]:
    """strtol(3), whose result stops at `most`: its low 32 bits, signed, and what follows; no digits: (0, text)."""
    digits = "01234567" if base == 8 else "0123456789"
    match = re.match(rf"[ \t\n\v\f\r]*([+-]?)([{digits}]+)", text)
    if not match:
        return 0, text
    # More than 24 digits are past 64 bits in either base.
    value = min(int(match.group(2).lstrip("0")[:24] or "0", base), most + (match.group(1) == "-"))
    value = (-value if match.group(1) == "-" else value) & 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value, text[match.end() :]


def scanned(text: str, base: int = 10, most: int = (1 << 63) - 1) -> Optional[int]:
    """sscanf(text, "%d%c", …) == 1: a number and nothing after it."""
    value, rest = strtol(text, base, most)
    return None if rest else value


_OCTET = re.compile(r"0[xX]([0-9a-fA-F]+)|(0[0-7]*)|([1-9][0-9]*)")


def _dot_quad(text: str) -> Optional[int]:
    """dot_quad_addr(): four numbers, octal and hexadecimal too, as inet_addr(3) reads them.

    255.255.255.255 is INADDR_NONE, an error.
    """
    parts = text.split(".")
    if len(parts) != 4:
        return None
    value = 0
    for part in parts:
        match = _OCTET.fullmatch(part)
        if not match:
            return None
        hexadecimal, octal, decimal = match.groups()
        octet = int(hexadecimal, 16) if hexadecimal else int(octal, 8) if octal else int(decimal)
        if octet > 255:
            return None
        value = value << 8 | octet
    return None if value == 0xFFFFFFFF else value


# -- patterns for addresses


def _masked(net: int, mask: int) -> Optional[Ranges]:
    """Addresses with (address & mask) == net, 32 bits; None: too many ranges."""
    if net & ~mask & 0xFFFFFFFF:
        return ()
    # The free bits above the lowest run of them each double the number of ranges.
    free = ~mask & 0xFFFFFFFF
    low = 0
    while free >> low & 1:
        low += 1
    high = [bit for bit in range(low, 32) if free >> bit & 1]
    if 1 << len(high) > _MOST_RANGES:
        return None
    starts = [net]
    for bit in high:
        starts += [start | 1 << bit for start in starts]
    return normal((start, start | (1 << low) - 1) for start in starts)


def _in_network(net: int, mask: int) -> Optional[Ranges]:
    found = _masked(net, mask)
    return found if found is None else subtract(found, _NONE)


def _pattern(text: str) -> tuple[str, ...]:
    """A wildcard pattern as its steps. `**` at the end wants a character (match_pattern_ylo's way)."""
    stars = re.search(r"\*{2,}$", text)
    if stars:
        text = text[: stars.start()] + "?*"
    return tuple(re.sub(r"\*+", "*", text))


def takes_all(pattern: str) -> bool:
    """Whether a wildcard pattern takes every text that is not empty."""
    return "".join(_pattern(pattern)) in ("*", "?*", "*?", "*?*")


def _advance(pattern: tuple[str, ...], states: frozenset[int], text: str) -> frozenset[int]:
    """The places in the pattern after `text`; a place at a star stays there and goes past it."""
    for character in text:
        after: set[int] = set()
        for state in states:
            if state < len(pattern):
                step = pattern[state]
                if step == "*":
                    after.add(state)
                elif step in ("?", character):
                    after.add(state + 1)
        states = _closure(pattern, after)
    return states


def _closure(pattern: tuple[str, ...], states: set[int]) -> frozenset[int]:
    for state in tuple(states):
        while state < len(pattern) and pattern[state] == "*":
            state += 1
            states.add(state)
    return frozenset(states)


def _octets(pattern: tuple[str, ...], states: frozenset[int], end: str) -> dict[frozenset[int], Ranges]:
    """Where each octet, written with `end` after it, leads; octets that lead nowhere are left out."""
    leads: dict[frozenset[int], list[tuple[int, int]]] = {}
    for octet in range(256):
        after = _advance(pattern, states, f"{octet}{end}")
        if after:
            leads.setdefault(after, []).append((octet, octet))
    return {after: normal(octets) for after, octets in leads.items()}


def _below(prefixes: Ranges, octets: Ranges) -> Optional[list[tuple[int, int]]]:
    """Each prefix with each octet behind it; None: too many ranges."""
    if octets == ((0, 255),):
        return [(low << 8, high << 8 | 255) for low, high in prefixes]
    if sum(high - low + 1 for low, high in prefixes) * len(octets) > _MOST_RANGES:
        return None
    return [(p << 8 | a, p << 8 | b) for low, high in prefixes for p in range(low, high + 1) for a, b in octets]


def _wild4(text: str) -> Optional[Ranges]:
    """IPv4 addresses whose text the wildcard pattern matches; None: too many ranges."""
    pattern = _pattern(text.lower())
    if sum(step != "*" for step in pattern) > 15:
        return ()
    out: list[tuple[int, int]] = []
    states: dict[frozenset[int], Ranges] = {_closure(pattern, {0}): ((0, 0),)}
    for level in range(4):
        following: dict[frozenset[int], list[tuple[int, int]]] = {}
        for state, prefixes in states.items():
            for after, octets in _octets(pattern, state, "." if level < 3 else "").items():
                found = _below(prefixes, octets)
                if found is None:
                    return None
                # A star at the end takes all that follows.
                if len(pattern) - 1 in after and pattern[-1] == "*" or level == 3 and len(pattern) in after:
                    width = 8 * (3 - level)
                    out += [(low << width, (high + 1 << width) - 1) for low, high in found]
                elif level < 3:
                    following.setdefault(after, []).extend(found)
        states = {state: normal(prefixes) for state, prefixes in following.items()}
    return normal(out)


def _wild6(text: str) -> Ranges:
    """IPv6 addresses that the wildcard pattern surely matches: all, or `hex*`. A colon cannot stand in a pattern."""
    pattern = "".join(_pattern(text.lower()))
    if pattern in ("*", "?*"):
        return SPACE[Family.IPV6]
    match = re.fullmatch(r"([1-9a-f][0-9a-f]{0,3})\*", pattern)
    if not match:
        return ()
    out = []
    for length in range(len(match.group(1)), 5):
        low = int(match.group(1), 16) << 4 * (length - len(match.group(1)))
        width = 4 * (length - len(match.group(1)))
        out.append((low << 112, (low + (1 << width) << 112) - 1))
    return normal(out)


def _dotted(text: str) -> Optional[tuple[int, ...]]:
    """`1.2` as octets, written as inet_ntop(3) writes them; None where they are no such text."""
    parts = text.split(".")
    if not all(re.fullmatch(r"0|[1-9][0-9]{0,2}", part, re.ASCII) and int(part) < 256 for part in parts):
        return None
    return tuple(int(part) for part in parts)


def _text4(token: str) -> Optional[Ranges]:
    """`1.2.3.4`, `1.2.` and `.3.4` as text of an IPv4 address; None: too many ranges."""
    body = token.strip(".")
    octets = _dotted(body)
    # The octet beside the end of a suffix stands after a dot, so it is whole.
    if octets is None or len(octets) > 4 or token not in (body, body + ".", "." + body):
        return ()
    value = int.from_bytes(bytes(octets), "big")
    bits = 8 * len(octets)
    if token == body:
        return ((value, value),) if bits == 32 else ()
    if bits == 32:
        return ()
    if token.endswith("."):
        return ((value << 32 - bits, (value + 1 << 32 - bits) - 1),)
    return _masked(value, (1 << bits) - 1)


def _v6(text: str) -> Optional[int]:
    """An IPv6 address for getaddrinfo(3) with AI_NUMERICHOST."""
    try:
        family, value = parse_address(text)
    except ValueError:
        return None
    return value if family is Family.IPV6 else None


def _is_name(token: str) -> bool:
    """Whether it may be a host's name: NOT_INADDR of tcpd.h, without what no name is: no top-level domain is a number
    (RFC 3696, section 2; `1.2.3.4-1.2.3.9`), and brackets and slashes are in none.
    """
    if not token.strip("0123456789./") or re.search(r"[\[\]/]", token):
        return False
    return not token.rpartition(".")[2].isdecimal()


def _mapped(ranges: Ranges) -> Ranges:
    return intersect(tuple((low | _MAPPED, high | _MAPPED) for low, high in ranges), _MAPPED_BLOCK)


def _on_both(family: Family, four: Optional[Ranges], six: Ranges = (), maybe_six: Ranges = ()) -> Match:
    """A pattern's addresses in one family. A mapped IPv6 address is judged as the IPv4 one in it."""
    sure4, maybe4 = ((), _ALL4) if four is None else (four, four)
    if family is Family.IPV4:
        return Match(sure4, maybe4)
    sure = union(subtract(six, _MAPPED_BLOCK), _mapped(sure4))
    return Match(sure, union(union(sure, _mapped(maybe4)), maybe_six))


def _debian_address(token: str, family: Family) -> Match:
    """A token of host_match() and string_match(), Debian's, that is no special word."""
    net, mask = split_at(token, "/")
    if mask is not None:
        return _debian_masked(net, mask, family)
    name = _is_name(token)
    if "*" in token or "?" in token:
        found = _on_both(family, _wild4(token), _wild6(token))
        # A wildcard is no address for libwrap: a client's name may match it too (`10.0.*` matches 10.0.example.net).
        return Match(found.sure, SPACE[family])
    if token.startswith("[") and token.endswith("]"):
        if "%" in token:
            return Match((), SPACE[family])  # a zone: it hangs on the interfaces
        value = _v6(token[1:-1])
        return _on_both(family, (), () if value is None else ((value, value),))
    if name:
        return Match((), SPACE[family])
    four = _text4(token)
    return _on_both(family, four, (), _WITH_DOTS if four != () and token.startswith(".") else ())


def _debian_masked(net: str, mask: str, family: Family) -> Match:
    """masked_match4() and masked_match6(): `net/mask`."""
    four: Optional[Ranges] = ()
    net4 = _dot_quad(net)
    if net4 is not None:
        mask4 = _dot_quad(mask)
        if mask4 is None:
            length = strtol(mask)[0]
            mask4 = 0xFFFFFFFF << 32 - length & 0xFFFFFFFF if 1 <= length <= 32 else None
        four = () if mask4 is None else _in_network(net4, mask4)
    six: Ranges = ()
    if net.startswith("[") and net.endswith("]"):
        if "%" in net:
            return Match((), SPACE[family])
        value, length = _v6(net[1:-1]), strtol(mask)[0]
        if value is not None and 0 <= length <= 128:
            six = (prefix_range(Family.IPV6, value, length),)
    return _on_both(family, four, six)


def _suse_address(token: str, family: Family) -> Match:
    """string_match() of SUSE: pattern and client become IPv6 addresses (IPv4 mapped), compared up to a prefix."""
    if "*" in token or "?" in token:
        found = _on_both(family, _wild4(token) if token == token.lower() else (), _wild6(token))
        return Match(found.sure, SPACE[family])
    if token.startswith("."):
        return _debian_address(token, family)
    body = token
    if token.endswith("."):
        if not 1 <= token.count(".") <= 3:
            return NOBODY
        body = token + ("0.0.0/8", "0.0/16", "0/24")[token.count(".") - 1]
    elif token.startswith("[") and token.endswith("]"):
        body = token[1:-1]
    text, slash, mask = body[:46].partition("/")
    found6 = _suse_range(text, mask if slash else None)
    if found6 is None:
        # Neither an address: a name, if anything.
        return Match((), SPACE[family]) if _is_name(token) else NOBODY
    if family is Family.IPV6:
        return Match((found6,), (found6,))
    inside = intersect((found6,), _MAPPED_BLOCK)
    four = tuple((low & 0xFFFFFFFF, high & 0xFFFFFFFF) for low, high in inside)
    return Match(four, four)


def _suse_range(text: str, mask: Optional[str]) -> Optional[tuple[int, int]]:
    """The range of an address and its mask, in IPv6; None: it is none, and matches nobody."""
    try:
        parsed, value = parse_address(text)
    except ValueError:
        return None
    length = 128
    if mask is not None:
        if "." in mask:
            netmask = 0
            for octet in mask.split(".")[:4]:
                netmask = netmask * 256 + strtol(octet)[0] & 0xFFFFFFFF
            # It counts shifts until nothing is left: the place of the lowest bit, whatever is above.
            length = 32 - ((netmask & -netmask).bit_length() - 1) if netmask else 0
        else:
            length, rest = strtol(mask)
            if rest == mask or length < 0:
                return None
        length += 96 if parsed is Family.IPV4 else 0
        if length > 128:
            return None
    return prefix_range(Family.IPV6, value | (_MAPPED if parsed is Family.IPV4 else 0), length)


def _upstream_address(token: str, family: Family) -> Match:
    """7.6 as Wietse Venema left it: what it makes of an IPv6 client, nobody knows."""
    if family is Family.IPV6:
        return Match((), SPACE[family])
    net, slash, mask = token.partition("/")
    if slash:
        net4, mask4 = _dot_quad(net), _dot_quad(mask)
        found = () if net4 is None or mask4 is None else _in_network(net4, mask4)
        return _on_both(family, found)
    return Match((), SPACE[family]) if _is_name(token) else _on_both(family, _text4(token))


_ADDRESS = {
    Flavour.DEBIAN: _debian_address,
    Flavour.SUSE: _suse_address,
    Flavour.UPSTREAM: _upstream_address,
}


def alternatives(tokens: tuple[str, ...]) -> list[list[str]]:
    """list_match(): `a b EXCEPT c EXCEPT d` is (a or b) except (c except d): the lists, the innermost first."""
    parts: list[list[str]] = [[]]
    for token in tokens:
        if token.upper() == "EXCEPT":
            parts.append([])
        else:
            parts[-1].append(token)
    return parts[::-1]


class Client:
    """The client patterns of one evaluation; a pattern is worked out once."""

    def __init__(self, family: Family, flavour: Flavour) -> None:
        self.family, self.flavour = family, flavour
        self.space = SPACE[family]
        self.anybody = Match((), self.space)
        self.spent = 0
        self._known: dict[str, Match] = {}

    def host(self, token: str) -> Match:
        """host_match()."""
        found = self._known.get(token)
        if found is None:
            found = self._known[token] = self._host(token)
            self.spent += len(found.maybe) + (_WILD_COST if "*" in token or "?" in token else 1)
        return found

    def _host(self, token: str) -> Match:
        upper = token.upper()
        if upper == "ALL":
            return Match(self.space, self.space)
        if not token:
            return NOBODY  # `user@`
        if token[0] in "@/" or upper in ("KNOWN", "LOCAL", "UNKNOWN", "PARANOID") or self.spent > BUDGET:
            return self.anybody  # a netgroup, a file of patterns, or what a lookup says
        return _ADDRESS[self.flavour](token, self.family)

    def token(self, token: str) -> Match:
        """client_match(): `host` or `user@host`."""
        head, host = split_at(token[1:], "@")
        if host is None:
            return self.host(token)
        found, user = self.host(host), token[0] + head
        anyone = user.upper() == "ALL" or self.flavour is not Flavour.UPSTREAM and takes_all(user)
        return found if anyone else Match((), found.maybe)

    def list(self, tokens: tuple[str, ...]) -> Match:
        result = NOBODY
        for part in alternatives(tokens):
            sure: list[tuple[int, int]] = []
            maybe: list[tuple[int, int]] = []
            for token in part:
                found = self.token(token)
                sure += found.sure
                maybe += found.maybe
            self.spent += len(sure) + len(maybe)
            if self.spent > BUDGET:
                return self.anybody
            result = Match(subtract(normal(sure), result.maybe), subtract(normal(maybe), result.sure))
        return result


def glob(pattern: str, text: str) -> bool:
    steps = _pattern(pattern)
    return len(steps) in _advance(steps, _closure(steps, {0}), text)
