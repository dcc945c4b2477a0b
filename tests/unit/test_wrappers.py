"""TCP wrappers: flavours, bounds on time, what is read of the host. Debian's quirks: tests/kernel/test_libwrap.py."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ec2ssh_agent.facts import Wrappers
from ec2ssh_agent.host import Host
from ec2ssh_agent.model import Seen, Unseen
from ec2ssh_agent.observe import wrappers as observe
from ec2ssh_agent.reach import addresses, wrappers
from ec2ssh_agent.reach.ruleset import Family
from ec2ssh_agent.reach.wrappers import Decision, Flavour

DENY = b"ALL: ALL\n"


def granted(allow: bytes, client: str, flavour: Flavour = Flavour.DEBIAN, deny: bytes = DENY) -> object:
    family, value = addresses.parse_address(client)
    for decision in wrappers.evaluate(wrappers.parse(allow, deny, flavour=flavour), family=family):
        if addresses.contains(decision.sources, value):
            return decision.granted
    raise AssertionError("in no decision")


@pytest.mark.parametrize(
    ("allow", "client", "debian", "suse", "upstream"),
    [
        (b"sshd: 1.2.3.0/24\n", "1.2.3.4", True, True, False),
        (b"sshd: 1.2.3.77/24\n", "1.2.3.4", False, True, False),
        (b"sshd: 0.0.0.0/0\n", "1.2.3.4", False, True, False),
        (b"sshd: 1.2.0.0/255.255.0.0\n", "1.2.3.4", True, True, True),
        (b"sshd: 1.2.\n", "1.2.3.4", True, True, True),
        (b"sshd: [2001:db8::]/32\n", "2001:db8::1", True, False, False),
        (b"sshd: [2001:db8::/32]\n", "2001:db8::1", False, True, False),
        (b"sshd: [::/0]\n", "1.2.3.4", False, True, False),
        (b"s*: ALL\n", "1.2.3.4", True, True, False),
        (b"S*: ALL\n", "1.2.3.4", True, False, False),
        (b"22: ALL\n", "1.2.3.4", True, False, False),
        (b"sshd: 9.9.9.9 # " + b"x" * 2100 + b"\nsshd: 1.2.3.4\n", "1.2.3.4", False, True, True),
        (b"sshd: ALL:\n", "1.2.3.4", False, False, True),
    ],
)
def test_flavours(allow: bytes, client: str, debian: object, suse: object, upstream: object) -> None:
    assert granted(allow, client, Flavour.DEBIAN) is debian
    assert granted(allow, client, Flavour.SUSE) is suse
    assert granted(allow, client, Flavour.UPSTREAM) is upstream


def test_a_missing_newline_in_hosts_deny_refuses_only_on_debian() -> None:
    for flavour, answer in ((Flavour.DEBIAN, False), (Flavour.SUSE, True), (Flavour.UPSTREAM, True)):
        assert granted(b"", "1.2.3.4", flavour, b"telnetd: ALL") is answer


def test_the_rule_that_decides_is_named() -> None:
    tables = wrappers.parse(b"# x\nsshd: 10.0.0.0/8\n", b"sshd: \\\n ALL\n")
    assert wrappers.evaluate(tables, family=Family.IPV4) == (
        Decision(((10 << 24, (11 << 24) - 1),), True, "hosts.allow", 2, "sshd: 10.0.0.0/8"),
        Decision(((0, (10 << 24) - 1), (11 << 24, (1 << 32) - 1)), False, "hosts.deny", 1, "sshd:  ALL"),
    )


def test_no_rule_grants_by_default() -> None:
    whole = Decision(((0, (1 << 32) - 1),), True, "", 0, "")
    assert wrappers.evaluate(wrappers.parse(None, None), family=Family.IPV4) == (whole,)


def test_a_name_that_may_match_leaves_open_only_what_hangs_on_it() -> None:
    # Whether the name matches or not: 10/8 gets in either way, the others only if it does.
    allow = b"sshd: .example.com\nsshd: 10.0.0.0/8\n"
    assert granted(allow, "10.1.2.3") is True
    assert granted(allow, "192.0.2.1") is None
    assert granted(b"", "192.0.2.1", deny=b"sshd: .example.com\nALL: ALL\n") is False
    assert granted(b"", "192.0.2.1", deny=b"sshd: .example.com\n") is None
    assert granted(b"sshd: .example.com: deny\n", "192.0.2.1") is False


def test_a_daemon_at_an_unknown_server_address_may_match() -> None:
    assert granted(b"sshd@10.0.5.20: ALL\n", "1.2.3.4") is None
    assert granted(b"sshd@ALL: ALL\n", "1.2.3.4") is True


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(st.binary(max_size=300), st.text("sdhAL:@[]/.*?,0123459a# \\\n\0-", max_size=200).map(str.encode)),
    st.text("sshd: ALEXCPT@[]/.*?,012a# \\\n:deny", max_size=200).map(str.encode),
    st.sampled_from(Family),
    st.sampled_from(Flavour),
)
def test_the_decisions_partition_the_space(allow: bytes, deny: bytes, family: Family, flavour: Flavour) -> None:
    decisions = wrappers.evaluate(wrappers.parse(allow, deny, flavour=flavour), family=family)
    ranges = sorted(part for decision in decisions for part in decision.sources)
    assert ranges[0][0] == 0 and ranges[-1][1] == (1 << addresses.BITS[family]) - 1
    assert all(left[1] + 1 == right[0] for left, right in zip(ranges, ranges[1:]))


@pytest.mark.parametrize(
    "content",
    [
        b"".join(b"sshd: 10.%d.%d.%d\n" % (n >> 12 & 255, n >> 4 & 255, n % 16 * 16) for n in range(55_000)),
        b"".join(b"sshd: host%d.example.com\n" % n for n in range(40_000)),
        b"".join(b"ALL: u@1.%d.%d.%d\n" % (n >> 14, n >> 6 & 255, n % 64 * 2) for n in range(55_000)),
        b"".join(b"sshd: 1%d*%d*\n" % (n % 250, n) for n in range(60_000)),
        b"".join(b"sshd: 0.%d.%d.1/0.255.255.3\n" % (n >> 8, n & 255) for n in range(35_000)),
        b"sshd: " + b"1.2.3.4, \\\n" * 90_000,
        b"[" * (1 << 20),
        b"sshd: " + b"*1" * 1000 + b"\n",
        b"sshd: ALL EXCEPT 1.2.3.4 " + b"EXCEPT 1.2.3.4 " * 100 + b"\n",
        b"\0" * (1 << 20),
    ],
    ids=["addresses", "names", "users", "wildcards", "masks", "one line", "brackets", "stars", "excepts", "nuls"],
)
def test_a_mebibyte_of_anything_ends_soon(content: bytes) -> None:
    started = time.process_time()
    decisions = wrappers.evaluate(wrappers.parse(content, content), family=Family.IPV4)
    assert decisions
    assert time.process_time() - started < 20


# -- what is read of the host


def place(root: Path, path: str, content: bytes) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def test_no_files_and_no_sshd(tmp_path: Path) -> None:
    assert observe.collect(Host(str(tmp_path))) == Wrappers(
        Seen(None, "/etc/hosts.allow"), Seen(None, "/etc/hosts.deny"), Unseen("no sshd is installed")
    )


def test_the_files_are_read_as_they_are(tmp_path: Path) -> None:
    place(tmp_path, "/etc/hosts.allow", b"sshd: ALL")
    place(tmp_path, "/etc/hosts.deny", b"x" * (1 << 20) + b"y")
    seen = observe.collect(Host(str(tmp_path)))
    assert seen.allow == Seen(b"sshd: ALL", "/etc/hosts.allow")
    assert isinstance(seen.deny, Unseen) and "larger than" in seen.deny.reason


def test_needed_libraries_of_a_real_program() -> None:
    program = Path("/usr/bin/env").read_bytes()
    assert any(name.startswith(b"libc.so") for name in observe.needed(program))


def test_a_program_without_libwrap_and_one_that_cannot_be_read(tmp_path: Path) -> None:
    place(tmp_path, "/usr/sbin/sshd", Path("/usr/bin/env").read_bytes())
    host = Host(str(tmp_path))
    assert observe.collect(host).linked == Seen(False, "/usr/sbin/sshd")
    place(tmp_path, "/usr/lib/openssh/sshd-session", b"garbage")
    assert observe.collect(host).linked == Unseen("/usr/lib/openssh/sshd-session: not an ELF file")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400), st.integers(1, 2), st.integers(1, 2))
def test_no_bytes_crash_the_elf_reader(content: bytes, width: int, order: int) -> None:
    header = b"\x7fELF" + bytes((width, order)) + content
    try:
        observe.needed(header)
    except ValueError as error:
        assert "ELF" in str(error)


@pytest.mark.parametrize("end", [0, 3, 63, 64, 500, 5000])
def test_a_program_that_was_cut_short(end: int) -> None:
    with pytest.raises(ValueError, match="ELF"):
        observe.needed(Path("/usr/bin/env").read_bytes()[:end])
