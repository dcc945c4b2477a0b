"""The fake host gives what the real one gives for the same files."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ec2ssh_agent.host import Denied, Failed, Host, HostError, NotFound, Ran, TimedOut, TooLarge
from fake_host import FakeHost, hanging


def both(tmp_path: Path) -> tuple[Host, FakeHost]:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/file").write_bytes(b"one\n")
    (tmp_path / "etc/link").symlink_to("file")
    (tmp_path / "etc/dangling").symlink_to("nowhere")
    fake = FakeHost({"/etc/file": b"one\n"})
    fake.link("/etc/link", "file")
    fake.link("/etc/dangling", "nowhere")
    return Host(str(tmp_path)), fake


def outcome(act: Callable[[], object]) -> object:
    try:
        return act()
    except HostError as error:
        return type(error)


@pytest.mark.parametrize(
    "act",
    [
        lambda host: host.read("/etc/file"),
        lambda host: host.read("/etc/link"),
        lambda host: host.read("/etc/dangling"),
        lambda host: host.read("/etc/file", cap=3),
        lambda host: host.read("/etc"),
        lambda host: host.read("/none/file"),
        lambda host: host.listdir("/etc"),
        lambda host: host.listdir("/none"),
        lambda host: host.readlink("/etc/link"),
        lambda host: host.readlink("/etc/file"),
        lambda host: host.readlink("/etc/none"),
        lambda host: host.exists("/etc/dangling"),
        lambda host: host.stat("/etc/none"),
        lambda host: host.stat("/etc/link").regular,
        lambda host: host.stat("/etc/link", follow=False).symlink,
        lambda host: (host.replace("/etc/file", b"two"), host.read("/etc/file")),
        lambda host: (host.replace("/etc/new", b"x", mode=0o600), host.stat("/etc/new").mode),
        lambda host: host.replace("/etc/link", b"x"),
        lambda host: host.replace("/none/file", b"x"),
        lambda host: (host.append("/etc/file", b"two"), host.read("/etc/link")),
        lambda host: (host.remove("/etc/link"), host.listdir("/etc")),
        lambda host: host.remove("/etc/none"),
        lambda host: host.rmdir("/etc"),
        lambda host: host.rmdir("/etc/file"),
        lambda host: (host.mkdir("/a/b", 0o700), host.stat("/a/b").mode, host.mkdir("/a/b"), host.rmdir("/a/b")),
        lambda host: (host.chmod("/etc/file", 0o600), host.stat("/etc/file").mode),
        lambda host: host.chmod("/etc/none", 0o600),
        lambda host: host.run(["true"]),
    ],
)
def test_same_as_the_real_one(tmp_path: Path, act: Callable[[Host], object]) -> None:
    real, fake = both(tmp_path)
    fake.root = real.root  # commands are refused below a root
    os.chmod(tmp_path / "etc/file", 0o644)
    assert outcome(lambda: act(fake)) == outcome(lambda: act(real))


def test_replace_keeps_owner_and_mode() -> None:
    host = FakeHost()
    host.put("/etc/x", b"1", mode=0o600, uid=5, gid=6)
    before = host.nodes["/etc/x"].inode
    host.replace("/etc/x", b"2")
    got = host.stat("/etc/x")
    assert got and (got.mode & 0o7777, got.uid, got.gid) == (0o600, 5, 6) and got.inode != before
    assert host.changes == [("replace", "/etc/x")]


def test_commands_by_longest_prefix_and_by_path() -> None:
    host = FakeHost()
    host.command(["ufw"], Ran(0, b"any", b""))
    host.command(["ufw", "status"], Ran(0, b"status", b""))
    host.command(["nft"], hanging)
    host.command(["echo"], lambda call: Ran(0, call.stdin, b""))
    assert host.run(["ufw", "status", "verbose"]).out == b"status"
    assert host.run(["/usr/sbin/ufw", "allow"]).out == b"any"
    assert host.run(["echo"], stdin=b"in").out == b"in"
    assert host.program("ufw") == "/usr/sbin/ufw" and host.program("none") is None
    with pytest.raises(TimedOut):
        host.run(["nft", "-j"])
    with pytest.raises(NotFound):
        host.run(["iptables"])
    with pytest.raises(TooLarge):
        host.run(["ufw", "status"], cap=3)
    assert host.ran[0] == ("ufw", "status", "verbose")


def test_what_goes_wrong() -> None:
    host = FakeHost({"/etc/a/b": b"x", "/etc/c": b"x"})
    host.denied.add("/etc/a")
    host.immutable("/etc/c")
    with pytest.raises(Denied):
        host.read("/etc/a/b")
    with pytest.raises(Denied):
        host.replace("/etc/c", b"y")
    host.full = True
    with pytest.raises(Failed):
        host.replace("/etc/d", b"y")
    assert host.changes == [] and host.free("/var")[0] == 0


def test_clock() -> None:
    host = FakeHost()
    now, monotonic = host.now(), host.monotonic()
    host.sleep(2.5)
    assert (host.now() - now, host.monotonic() - monotonic, host.slept) == (2.5, 2.5, [2.5])


def test_an_answer_is_kept_while_what_it_hangs_on_stands(tmp_path: Path) -> None:
    host = Host()
    argv = ["sh", "-c", f"echo x >> {tmp_path}/count; cat {tmp_path}/count"]
    assert [host.ask(argv, hangs_on).text for hangs_on in ((1,), (1,), (2,), (2,))] == [
        "x\n",
        "x\n",
        "x\nx\n",
        "x\nx\n",
    ]
    assert Host("/", host.kept).ask(argv, (2,)).text == "x\nx\n"  # by the next pass, too
    assert Host("/", host.kept).ask(argv, (1,)).text == "x\n" * 3
    host.forget(argv)
    assert host.ask(argv, (2,)).text == "x\n" * 4
    failing = ["sh", "-c", f"echo x >> {tmp_path}/failed; false"]
    assert [host.ask(failing, ()).code for _ in range(2)] == [1, 1]
    assert (tmp_path / "failed").read_text() == "x\nx\n"
    host.forget(argv)
    assert len(host.kept) < 100
    large = ["head", "-c", "100000", "/dev/zero"]
    assert len(host.ask(large, ()).out) == 100000 and len(host.kept) < 100
