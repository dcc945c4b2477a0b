"""reach/wrappers.py against libwrap itself: random hosts.allow, hosts.deny and clients, and every quirk by name.

EC2SSH_TRIPLES says how many random triples (3,000); EC2SSH_SEED repeats a run. libwrap runs in a network namespace of
its own and gets all names as text: nothing is looked up.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

from ec2ssh_agent.host import Host
from ec2ssh_agent.model import Seen
from ec2ssh_agent.observe import wrappers as observe
from ec2ssh_agent.reach import addresses, wrappers
from ec2ssh_agent.reach.ruleset import Family

TRIPLES = int(os.environ.get("EC2SSH_TRIPLES", "3000"))
SEED = int(os.environ.get("EC2SSH_SEED") or random.SystemRandom().randrange(1 << 32))
NAMES = ("unknown", "paranoid", "host.example.com", "localhost", "10.0.example.net", "a.b", "1.2.3.x")
USERS = ("unknown", "root", "bob")
SERVERS = {Family.IPV4: ("10.0.5.20", "192.0.2.1"), Family.IPV6: ("2001:db8:5::20", "::ffff:10.0.5.20")}
#: What in a table without lookups hangs on one still, or is too many ranges to be told apart.
LOOKED_UP = re.compile(rb"[ ,:\t]\.[0-9]|/0\.0\.0\.255|user|group|aclexec|allow ALL|\xe9|\0")


class Query(NamedTuple):
    allow: Optional[bytes]
    deny: Optional[bytes]
    client: str
    name: str = "unknown"
    user: str = "unknown"
    server: str = "10.0.5.20"
    port: int = 22


def libwrap(directory: Path, queries: list[Query]) -> list[str]:
    """What libwrap says to each."""
    files: dict[Optional[bytes], str] = {None: str(directory / "missing")}
    lines = []
    for query in queries:
        for content in (query.allow, query.deny):
            if content is not None and content not in files:
                files[content] = str(directory / f"table{len(files)}")
                Path(files[content]).write_bytes(content)
        lines.append(json.dumps({**query._asdict(), "allow": files[query.allow], "deny": files[query.deny]}))
    oracle = str(Path(__file__).with_name("libwrap_oracle.py"))
    ran = subprocess.run(
        ["unshare", "--net", "/usr/bin/python3", "-I", oracle],
        input="\n".join(lines) + "\n", capture_output=True, text=True, timeout=1800, check=True,
    )  # fmt: skip
    answers = ran.stdout.split()
    assert len(answers) == len(queries)
    return answers


def ours(query: Query) -> Optional[bool]:
    family, value = addresses.parse_address(query.client)
    to = addresses.parse_address(query.server)[1]
    tables = wrappers.parse(query.allow, query.deny)
    for decision in wrappers.evaluate(tables, family=family, port=query.port, to=to):
        if addresses.contains(decision.sources, value):
            return decision.granted
    raise AssertionError(f"{query.client} is in no decision")


# -- random tables


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


OCTETS = words("0 1 2 3 4 10 77 127 128 192 255")
FOURS = words("1.2.3.4 10.0.5.1 192.0.2.7")
SIXES = words("2001:db8::1 2001:db8:1:: fe80::1 ::1 :: fd00::7 ::1.2.3.4 ::ffff:1.2.3.4")
MASKS = (
    *words("0 1 8 16 24 31 32 33 -1 24x x 024 4294967320 255.255.255.0 255.255.0.0 0.0.0.0 255.255.255.255"),
    *words("255.0.255.0 0xff.0.0.0 254.0.0.0 0.0.0.255"),
    "",
)
NETS = words(
    "1.2.3.0 1.2.0.0 1.0.0.0 0.0.0.0 10.0.0.0 1.0.3.0 0x1.2.3.0 010.0.0.0 1.2 128.0.0.0 0.0.0.4 255.255.255.255"
)
PREFIXES = words("1. 1.2. 1.2.3. 1.2.3.4. 10. 01. 1.. . 256. 1.2")
SUFFIXES = words(".4 .3.4 .2.3.4 .1.2.3.4 .04 .256")
LENGTHS = (*words("0 1 10 16 31 32 33 64 96 127 128 129 -1 64x x"), "")
LOOKUPS = (
    *words("1.2.* 1.2.3.? 1.*.3.* *.4 ?.?.?.? 1* 2* f* *1 1.2.3.4** 1**4 *.*.*.* KNOWN UNKNOWN LOCAL PARANOID"),
    *words(
        "host.example.com .example.com localhost @group /nowhere/patterns *@ALL bob@ @@ KNOWN@ALL 10.0.* a. 1.2.3.x"
    ),
)
DAEMONS = (
    *words("sshd sshd ALL ALL SSHD in.telnetd ss* s?hd vsftpd 22 022 +22 2222 22x 65558 4294967318 KNOWN .sshd ssh"),
    *words("sshd. sshd@10.0.5.20 sshd@ALL ALL@10.0. sshd@[2001:db8:5::]/64 22@ALL sshd@ *"),
)
OPTIONS = (
    *("allow", "ALLOW", "deny", "allow ", "deny", "allow", "spawn /bin/true", "spawn", "severity auth.info"),
    *(
        "severity info",
        "severity nonsense",
        "severity auth.",
        "umask 022",
        "umask 09",
        "umask 1777",
        "umask -1",
        "nice",
    ),
    *("nice 5", "nice x", "linger 3", "linger -3", "rfc931 10", "rfc931 0", "rfc931", "keepalive", "keepalive 1"),
    *("setenv A b", "setenv A=b c", "setenv = A", "setenv A", "banners /nowhere", "bogus", "", "twist /bin/echo no"),
    *("allow = ", "allow=1", "spawn = (/bin/true) &", "setenv A \\: b", "group nosuch", "user nosuch", "deny\\"),
    *("nice 99999999999", "aclexec /bin/true", "aclexec /bin/false"),
)


class Maker:
    """Random tables of what is written in such files, and of what nobody should write."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    def pick(self, *choices: str) -> str:
        return self.chance.choice(choices)

    def octet(self) -> str:
        return self.pick(*OCTETS, str(self.chance.randrange(256)))

    def four(self) -> str:
        return self.pick(*FOURS, ".".join(self.octet() for _ in range(4)))

    def six(self) -> str:
        return self.pick(*SIXES, addresses.format_address(self.chance.getrandbits(128), Family.IPV6))

    def address(self) -> str:
        kind = self.chance.randrange(14)
        if kind < 3:
            return self.four()
        if kind < 6:
            return f"{self.pick(*NETS, self.four())}/{self.pick(*MASKS)}"
        if kind == 6:
            return self.pick(*PREFIXES)
        if kind == 7:
            return self.pick(*SUFFIXES)
        if kind < 10:
            return f"[{self.six()}]"
        if kind < 12:
            length = self.pick(
                "0", "1", "10", "16", "31", "32", "33", "64", "96", "127", "128", "129", "-1", "", "64x", "x"
            )
            return f"[{self.six()}]/{length}"
        if kind == 12:
            return self.pick(
                f"[{self.six()}/64]", "[1.2.3.4]", "[10.0.0.0]/8", "[]", "[::]]", "1.2.3.4-1.2.3.9", "2001:db8::1"
            )
        return self.pick("ALL", "all", "ALL", "*", "**")

    def lookup(self) -> str:
        return self.pick(*LOOKUPS, "bob@" + self.address(), "ALL@" + self.address())

    def client(self, lookups: bool) -> str:
        return self.lookup() if lookups and self.chance.random() < 0.4 else self.address()

    def words(self, make: str, lookups: bool) -> str:
        words = []
        for _ in range(self.chance.choice((1, 1, 1, 2, 3))):
            words.append(self.pick(*DAEMONS) if make == "daemon" else self.client(lookups))
        for _ in range(self.chance.choice((0, 0, 0, 0, 1, 2))):
            words += [self.pick("EXCEPT", "except"), self.pick(*DAEMONS) if make == "daemon" else self.client(lookups)]
        return self.pick(" ", ", ", ",", "\t").join(words)

    def rule(self, lookups: bool) -> str:
        text = f"{self.words('daemon', lookups)}{self.pick(':', ' : ', ': ')}{self.words('client', lookups)}"
        for _ in range(self.chance.choice((0, 0, 0, 0, 1, 1, 2))):
            text += f"{self.pick(':', ' : ')}{self.pick(*OPTIONS)}"
        return text

    def line(self, lookups: bool) -> str:
        kind = self.chance.randrange(24)
        if kind == 0:
            return self.pick(
                "# a comment", "# a comment \\", " # ALL: ALL", "", "   ", "no colon", "\t", "\r", ":", "::", "sshd:"
            )
        if kind == 1:
            return self.rule(lookups).replace(" ", " \\\n", 1)
        if kind == 2:
            return self.rule(lookups) + self.pick(" # allow ALL", "\r", " ", ":", " \\", "\x00 rest", "\xe9")
        if kind == 3:
            return self.pick("#", "sshd: ") + "1" * self.chance.choice((2000, 2039, 2040, 2041, 2046, 2047, 2100))
        return self.rule(lookups)

    def table(self, lookups: bool) -> Optional[bytes]:
        count = self.chance.choice((0, 1, 1, 2, 2, 3, 5))
        text = "\n".join(self.line(lookups) for _ in range(count)) + ("\n" if self.chance.random() < 0.9 else "")
        return None if self.chance.random() < 0.03 else text.encode("latin-1")


def clients(chance: random.Random, allow: Optional[bytes], deny: Optional[bytes]) -> Iterator[str]:
    """Addresses at the edges of what we say, and random ones."""
    tables = wrappers.parse(allow, deny)
    for family in Family:
        edges = [edge for d in wrappers.evaluate(tables, family=family) for part in d.sources for edge in part]
        for value in chance.sample(edges, min(4, len(edges))) + [chance.getrandbits(addresses.BITS[family])]:
            yield addresses.format_address(value, family)
    yield chance.choice(("1.2.3.4", "10.0.5.1", "::ffff:1.2.3.4", "2001:db8::1", "::1.2.3.4", "1.2.77.4"))


def test_random_triples(tmp_path: Path) -> None:
    print(f"seed {SEED}, {TRIPLES} triples")
    chance = random.Random(SEED)
    maker = Maker(chance)
    queries: list[Query] = []
    sure_only: list[bool] = []
    while len(queries) < TRIPLES:
        lookups = chance.random() < 0.5
        allow, deny = maker.table(lookups), maker.table(lookups)
        for client in clients(chance, allow, deny):
            server = chance.choice(SERVERS[addresses.parse_address(client)[0]])
            queries.append(Query(allow, deny, client, chance.choice(NAMES), chance.choice(USERS), server))
            sure_only.append(not lookups)
    answers = libwrap(tmp_path, queries)
    said = [ours(query) for query in queries]
    wrong = [(s, a, q) for s, a, q in zip(said, answers, queries) if s is not None and s != (a == "granted")]
    assert not wrong, f"{len(wrong)} wrong: " + "\n".join(map(repr, wrong[:3]))
    vague = [
        query
        for query, answer, certain in zip(queries, said, sure_only)
        if answer is None and certain and not LOOKED_UP.search((query.allow or b"") + (query.deny or b""))
    ]
    # A line that is continued into the next makes a host's name of a daemon's now and then.
    assert len(vague) < len(queries) / 50, f"{len(vague)} not told: {vague[0]!r}"
    print(f"{said.count(None)} of {len(queries)} hang on a lookup")
    assert said.count(None) < len(queries) / 2


# -- the quirks, by name: (hosts.allow, hosts.deny, client, whether it gets in)

DENY = b"ALL: ALL\n"
LONG = b"# " + b"x" * 2046 + b"\n"
QUIRKS: dict[str, tuple[Optional[bytes], Optional[bytes], str, bool]] = {
    "no files": (None, None, "1.2.3.4", True),
    "allow comes first": (b"sshd: 1.2.3.4\n", DENY, "1.2.3.4", True),
    "deny comes second": (b"sshd: 1.2.3.4\n", DENY, "1.2.3.5", False),
    "no match grants": (b"", b"sshd: 1.2.3.4\n", "1.2.3.5", True),
    "except in except": (b"ALL: 1. EXCEPT 1.2. EXCEPT 1.2.3.\n", DENY, "1.2.3.4", True),
    "except": (b"ALL: 1. EXCEPT 1.2. EXCEPT 1.2.3.\n", DENY, "1.2.4.4", False),
    "separators": (b"a,sshd\tb\r: 9.9.9.9,1.2.3.4\r\n", DENY, "1.2.3.4", True),
    "case does not matter": (b"SsHd: aLl eXcEpT 9.9.9.9\n", DENY, "1.2.3.4", True),
    "daemon wildcard": (b"s?h*: ALL\n", DENY, "1.2.3.4", True),
    "daemon at server": (b"sshd@10.0.5.20: ALL\n", DENY, "1.2.3.4", True),
    "daemon at another server": (b"sshd@10.0.5.21: ALL\n", DENY, "1.2.3.4", False),
    "server port": (b"22: ALL\n", DENY, "1.2.3.4", True),
    "another server port": (b"2222: ALL\n", DENY, "1.2.3.4", False),
    "cidr": (b"ALL: 1.2.3.0/24\n", DENY, "1.2.3.4", True),
    "dotted mask": (b"ALL: 1.2.0.0/255.255.0.0\n", DENY, "1.2.3.4", True),
    "mask with holes": (b"ALL: 1.0.3.0/255.0.255.0\n", DENY, "1.77.3.4", True),
    "prefix text": (b"ALL: 1.2.\n", DENY, "1.2.3.4", True),
    "address wildcard": (b"ALL: 1.2.*\n", DENY, "1.2.3.4", True),
    "half of everything": (b"ALL: 0.0.0.0/1\n", DENY, "1.2.3.4", True),
    "dotted zero mask": (b"ALL: 0.0.0.0/0.0.0.0\n", DENY, "1.2.3.4", True),
    "ipv6 network": (b"ALL: [2001:db8::]/32\n", DENY, "2001:db8::1", True),
    "mapped client": (b"ALL: 1.2.3.4\n", DENY, "::ffff:1.2.3.4", True),
    "mapped client is not ipv6": (b"ALL: [::]/0\n", DENY, "::ffff:1.2.3.4", False),
    "zero length never": (b"ALL: 0.0.0.0/0\n", DENY, "1.2.3.4", False),
    "all-ones mask never": (b"ALL: 1.2.3.4/255.255.255.255\n", DENY, "1.2.3.4", False),
    "length 32": (b"ALL: 1.2.3.4/32\n", DENY, "1.2.3.4", True),
    "host bits never": (b"ALL: 1.2.3.77/24\n", DENY, "1.2.3.77", False),
    "short network never": (b"ALL: 1.2/16\n", DENY, "1.2.3.4", False),
    "ipv6 without brackets never": (b"ALL: 2001:db8::1\n", DENY, "2001:db8::1", False),
    "range never": (b"ALL: 1.2.3.1-1.2.3.9\n", DENY, "1.2.3.4", False),
    "slash inside the brackets never": (b"ALL: [2001:db8::/32]\n", DENY, "2001:db8::1", False),
    "no length is length 0": (b"ALL: [2001:db8::]/\n", DENY, "fd00::1", True),
    "comment only in column 0": (b" # ALL: ALL\n", DENY, "1.2.3.4", True),
    "comment": (b"# ALL: ALL\n", DENY, "1.2.3.4", False),
    "the word ALL after a hash": (b"sshd: 9.9.9.9 # allow ALL\n", DENY, "1.2.3.4", True),
    "comment with a backslash": (b"# x \\\nsshd: ALL\n", DENY, "1.2.3.4", False),
    "continued line": (b"sshd: \\\nALL\n", DENY, "1.2.3.4", True),
    "no final newline in hosts.allow": (b"sshd: ALL", DENY, "1.2.3.4", False),
    "no final newline in hosts.deny": (b"", b"telnetd: 9.9.9.9", "1.2.3.4", False),
    "allowed before that": (b"sshd: ALL\n", b"telnetd: 9.9.9.9", "1.2.3.4", True),
    "long comment in hosts.allow": (LONG + b"sshd: ALL\n", DENY, "1.2.3.4", False),
    "long comment in hosts.deny": (b"", LONG + b"telnetd: ALL\n", "1.2.3.4", False),
    "a line of 2,047 characters": (b"#" * 2046 + b"\nsshd: ALL\n", DENY, "1.2.3.4", True),
    "no colon": (b"sshd ALL\nsshd: 1.2.3.4\n", DENY, "1.2.3.4", True),
    "bad option": (b"sshd: ALL: bogus\n", DENY, "1.2.3.4", False),
    "empty option": (b"sshd: ALL:\n", DENY, "1.2.3.4", False),
    "trailing colon": (b"sshd: ALL: allow:\n", DENY, "1.2.3.4", False),
    "bad option of a rule that does not match": (b"sshd: 9.9.9.9: bogus\n", b"", "1.2.3.4", True),
    "allow must be last": (b"sshd: ALL: allow: nice\n", b"", "1.2.3.4", False),
    "allow in hosts.deny": (b"", b"sshd: ALL: ALLOW\n", "1.2.3.4", True),
    "deny in hosts.allow": (b"sshd: ALL: deny\n", b"", "1.2.3.4", False),
    "spawn does not decide": (b"sshd: ALL: spawn /bin/false\n", DENY, "1.2.3.4", True),
    "twist": (b"sshd: ALL: twist /bin/echo go away\n", b"", "1.2.3.4", False),
    "a NUL ends the line's newline too": (b"sshd: ALL\0\n", b"", "1.2.3.4", True),
    "octal network": (b"ALL: 010.0.0.0/8\n", DENY, "8.1.2.3", True),
    "suffix text": (b"ALL: .2.3.4\n", DENY, "1.2.3.4", True),
    "any user": (b"sshd: ALL@1.2.3.4\n", DENY, "1.2.3.4", True),
}
LOOKUPS_OF_ALL = (
    "host.example.com",
    ".example.com",
    "@group",
    "KNOWN",
    "UNKNOWN",
    "LOCAL",
    "PARANOID",
    "bob@ALL",
    "/a",
)


def test_the_quirks_of_libwrap(tmp_path: Path) -> None:
    queries = [Query(allow, deny, client) for allow, deny, client, _ in QUIRKS.values()]
    answers = libwrap(tmp_path, queries)
    for name, query, answer in zip(QUIRKS, queries, answers):
        expected = QUIRKS[name][3]
        assert (answer == "granted") == expected, f"{name}: libwrap says {answer}"
        assert ours(query) == expected, f"{name}: {query!r}"


def test_lookups_leave_it_open() -> None:
    for token in LOOKUPS_OF_ALL:
        assert ours(Query(f"sshd: {token}\n".encode(), DENY, "192.0.2.9")) is None, token


def test_a_failing_aclexec_is_no_match(tmp_path: Path) -> None:
    query = Query(b"sshd: ALL: aclexec /bin/false\n", DENY, "1.2.3.4")
    assert libwrap(tmp_path, [query]) == ["refused"]
    assert ours(query) is None


def test_a_program_that_is_linked_with_libwrap(tmp_path: Path) -> None:
    for path, program in (("usr/sbin/sshd", "/usr/bin/env"), ("usr/lib/openssh/sshd-session", "/usr/sbin/tcpd")):
        (tmp_path / path).parent.mkdir(parents=True)
        (tmp_path / path).write_bytes(Path(program).read_bytes())
    assert observe.collect(Host(str(tmp_path))).linked == Seen(True, "/usr/lib/openssh/sshd-session")
