"""sshd as observed on a host in memory: configuration files, options, the test, ports, process, what is reused."""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable
from typing import Optional

import pytest

from ec2ssh_agent.config import Config
from ec2ssh_agent.facts import Banner, Effective, Listener, Sshd, UnitState
from ec2ssh_agent.host import Ran
from ec2ssh_agent.model import Fact, Seen, Unseen
from ec2ssh_agent.observe import banner, sshd, sshd_config
from ec2ssh_agent.observe.systemd import Looked, Systemd
from ec2ssh_agent.reach.ruleset import Family
from fake_host import FakeHost, hanging

PLAIN = Config()
DUMP = b"""port 22
listenaddress [::]:22
listenaddress 0.0.0.0:22
hostkey /etc/ssh/ssh_host_ed25519_key
allowusers admin
"""


def a_host(config: bytes = b"Port 22\n", *, dump: Optional[bytes] = DUMP) -> FakeHost:
    host = FakeHost(
        {"/etc/ssh/sshd_config": config, "/etc/debian_version": b"12\n", "/etc/default/ssh": b"SSHD_OPTS=\n"}
    )
    host.installed("sshd")
    host.put("/etc/ssh/ssh_host_ed25519_key", b"key", mode=0o600)
    host.directory("/run/sshd")
    host.put("/proc/77/status", b"Name:\tsshd\nState:\tS (sleeping)\nTracerPid:\t0\n")
    if dump is not None:
        host.command(["/usr/sbin/sshd", "-T"], Ran(0, dump, b""))
    return host


def units(service: Optional[UnitState] = None, socket_unit: Optional[Looked] = None) -> Systemd:
    state = service or UnitState("ssh.service", "loaded", "active", "running", "enabled", "success", main_pid=77)
    looked = Looked(
        state,
        "/system.slice/ssh.service",
        start=("/usr/sbin/sshd", "-D", "$SSHD_OPTS"),
        environment_files=("/etc/default/ssh",),
        runtime_directories=("sshd",),
    )
    return Systemd(Seen(looked), Seen(socket_unit), Seen(""), Seen(False))


def listening(*ports: int, unit: str = "ssh.service") -> Fact[tuple[Listener, ...]]:
    return Seen(tuple(Listener(Family.IPV4, 0, port, inode=1000 + port, unit=unit) for port in ports))


def look(
    host: FakeHost,
    *,
    using: Optional[Systemd] = None,
    heard: Optional[Fact[tuple[Listener, ...]]] = None,
    config: Config = PLAIN,
) -> Sshd:
    return sshd.collect(
        host,
        config,
        units=using or units(),
        listening=heard or listening(22),
        probe=False,
    )


def test_a_healthy_one() -> None:
    seen = look(a_host())
    assert seen.installed == Seen("/usr/sbin/sshd", "/usr/sbin/sshd")
    assert isinstance(seen.test, Seen) and seen.test.value.good
    assert isinstance(seen.effective, Seen)
    assert seen.effective.value == Effective(
        (22,), ("[::]:22", "0.0.0.0:22"), ("/etc/ssh/ssh_host_ed25519_key",), ("allowusers admin",)
    )
    assert seen.port == Seen((22,), "sshd's listeners")
    assert isinstance(seen.process, Seen) and seen.process.value and not seen.process.value.stopped
    assert isinstance(seen.host_keys, Seen) and [key.mode for key in seen.host_keys.value] == [0o600]
    assert seen.files == Seen(
        (("/etc/ssh/sshd_config", hashlib.sha256(b"Port 22\n").hexdigest()),), "/etc/ssh/sshd_config"
    )
    assert seen.forbidden == Seen(False, "/etc/ssh/sshd_not_to_be_run")
    assert seen.banner == Unseen("not probed")


def test_include_is_followed_in_order_with_globs_and_match() -> None:
    host = FakeHost(
        {
            "/etc/ssh/sshd_config": b"Include sshd_config.d/*.conf\nMatch User bob\n  include more\n  Port 9\n",
            "/etc/ssh/sshd_config.d/20-b.conf": b'port=2222\r\nHostKey "/etc/my keys/a"\n',
            "/etc/ssh/sshd_config.d/10-a.conf": b"Match all\nPort 7\n",
            "/etc/ssh/sshd_config.d/.hidden.conf": b"Port 1\n",
            "/etc/ssh/more": b"Port 8\n",
        }
    )
    read = sshd_config.read(host)
    assert [path.rpartition("/")[2] for path, _ in read.files] == ["sshd_config", "10-a.conf", "20-b.conf", "more"]
    assert sshd_config.effective(read.said) == Effective((2222,), (), ("/etc/my keys/a",))
    assert read.places == ("/etc/ssh/sshd_config.d", "/etc/ssh")


def test_a_line_ends_where_sshd_ends_it() -> None:
    """At a NUL, which a power failure leaves at the end of a file."""
    host = FakeHost({"/etc/ssh/sshd_config": b"Port 2222\nInclude /opt/a\0b/*.conf\nInclude /opt/c/d\0\0\0"})
    assert sshd_config.read(host).places == ("/opt", "/opt/c")
    assert sshd_config.places(host, "/etc/ssh/sshd_config") == ("/etc/ssh", "/opt", "/opt/c")


@pytest.mark.parametrize(
    ("lines", "ports"),
    [
        (b"", (22,)),
        (b"Port 2200\nPort 22\n", (2200, 22)),
        (b"ListenAddress 10.0.0.1:2022\n", (2022,)),
        (b"ListenAddress [2001:db8::1]:2022\nListenAddress 10.0.0.1\n", (22, 2022)),
        (b"ListenAddress 2001:db8::22\n", (22,)),
        (b"Port 70000000000000000000\nPort 0\n", (22,)),
        (b"#Port 23\nPort 24 # comment\n", (24,)),
    ],
)
def test_ports_of_the_files(lines: bytes, ports: tuple[int, ...]) -> None:
    assert sshd_config.effective(sshd_config.read(FakeHost({"/etc/ssh/sshd_config": lines})).said).ports == ports


def test_a_loop_of_includes_ends() -> None:
    host = a_host(b"Include /etc/ssh/sshd_config\n")
    assert isinstance(look(host).files, Unseen)


@pytest.mark.parametrize("content", [b"\x00\xff\xfe" * 5000, b"x" * (10 << 20), b"Include " + b"*/" * 4000 + b"\n"])
def test_garbage_is_no_crash(content: bytes) -> None:
    seen = look(a_host(content))
    assert isinstance(seen.test, Seen) and isinstance(seen.port, Seen)


def test_options_of_the_unit_reach_sshd() -> None:
    host = a_host(dump=None)
    host.put("/etc/default/ssh", b"# comment\nSSHD_OPTS='-p 2222 -f /etc/other -E /log -oLogLevel=ERROR'\n")
    host.put("/etc/other", b"Port 5\n")
    host.command(["/usr/sbin/sshd", "-T"], Ran(0, b"port 2222\nhostkey /etc/ssh/k\n", b""))
    seen = look(host, heard=listening())
    assert host.ran == [("/usr/sbin/sshd", "-T", "-p", "2222", "-f", "/etc/other", "-oLogLevel=ERROR")]
    assert isinstance(seen.files, Seen) and seen.files.value[0][0] == "/etc/other"
    assert isinstance(seen.port, Seen) and seen.port.value == (2222,)


@pytest.mark.parametrize(
    ("start", "options"),
    [
        (("/usr/sbin/ip", "vrf", "exec", "mgmt", "/usr/sbin/sshd", "-D", "-p", "2222"), ("-p", "2222")),
        (("/bin/sh", "-c", "exec /usr/sbin/sshd -D"), ()),
        (("/usr/sbin/not-sshd", "-D"), ()),
    ],
)
def test_what_starts_sshd_is_never_run(start: tuple[str, ...], options: tuple[str, ...]) -> None:
    host = a_host()
    host.installed("ip", "not-sshd", "/bin/sh")
    host.put("/etc/default/ssh", b"")
    service = units().service
    assert isinstance(service, Seen) and service.value
    look(host, using=units()._replace(service=Seen(service.value._replace(start=start))))
    assert host.ran == [("/usr/sbin/sshd", "-T", *options)]


def test_a_broken_configuration_is_quoted_and_read() -> None:
    said = b"/etc/ssh/sshd_config: line 3: Bad configuration option: Bogus\n/etc/ssh/sshd_config: terminating, 1 bad\n"
    host = a_host(b"Port 2222\n\nBogus\n", dump=None)
    host.command(["/usr/sbin/sshd"], Ran(255, b"", said))
    seen = look(host, heard=listening())
    assert isinstance(seen.test, Seen)
    assert (seen.test.value.good, seen.test.value.file, seen.test.value.line) == (False, "/etc/ssh/sshd_config", 3)
    assert "Bogus" in seen.test.value.complaint
    assert isinstance(seen.port, Seen) and seen.port.value == (2222,)


def test_a_hanging_sshd_test_is_unseen() -> None:
    host = a_host(dump=None)
    host.command(["/usr/sbin/sshd"], hanging)
    assert isinstance(look(host).test, Unseen)


def test_what_systemd_makes_may_be_missing_while_nothing_runs() -> None:
    host = a_host(dump=None)
    host.command(["/usr/sbin/sshd"], Ran(255, b"", b"Missing privilege separation directory: /run/sshd\r\n"))
    host.rmdir("/run/sshd")
    stopped = look(host, using=units(UnitState("ssh.service", "loaded", main_pid=0)), heard=listening())
    assert isinstance(stopped.test, Seen) and stopped.test.value.good
    assert isinstance(stopped.privsep, Seen) and stopped.privsep.value and not stopped.privsep.value.present
    running = look(host)
    assert isinstance(running.test, Seen) and not running.test.value.good


def test_unprotected_keys_are_named() -> None:
    frame = b"@" * 59 + b"\r\n@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @\r\n" + b"@" * 59
    said = b"\nPermissions 0666 for '/k' are too open.\nsshd: no hostkeys available -- exiting.\n"
    assert sshd.complaint(1, (frame + said).decode()).complaint == (
        "WARNING: UNPROTECTED PRIVATE KEY FILE!; Permissions 0666 for '/k' are too open.; "
        "sshd: no hostkeys available -- exiting."
    )


def test_sshd_is_asked_again_only_when_something_changed() -> None:
    key = "/etc/ssh/ssh_host_ed25519_key"
    host = a_host(f"HostKey {key}\n".encode())
    host.put("/etc/passwd", b"sshd:x:1::/run/sshd:/bin/false\n")
    first = look(host)
    assert look(host) == first and len(host.calls) == 1
    changes: tuple[Callable[[], object], ...] = (
        lambda: host.chmod(key, 0o666),
        lambda: host.replace("/etc/ssh/sshd_config", f"HostKey {key}\nPort 23\n".encode()),
        lambda: host.replace("/etc/passwd", b""),
    )
    for number, change in enumerate(changes, start=2):
        change()
        for _ in range(2):
            look(host)
            assert len(host.calls) == number
    for option in ("-T", "-t"):
        host.command(["/usr/sbin/sshd", option], Ran(255, b"", b"no"))
    host.replace("/etc/ssh/sshd_config", b"Bogus\n")
    look(host)
    look(host)
    assert len(host.calls) == 8  # what it complains of is asked again each time


def test_an_sshd_that_failed_is_always_asked() -> None:
    host = a_host()
    failed = units(UnitState("ssh.service", "loaded", "failed", "failed", result="exit-code"))
    look(host, using=failed)
    look(host, using=failed)
    assert len(host.calls) == 2


def test_the_port_comes_from_configuration_socket_listeners_sshd_in_this_order() -> None:
    socket_unit = Looked(UnitState("ssh.socket", "loaded", "active", listen=("[::]:2022", "0.0.0.0:2022", "/run/x")))
    using = units(socket_unit=socket_unit)
    host = a_host()
    assert look(host, config=Config(expect_port=99), using=using).port == Seen((99,), "default")
    assert look(host, heard=listening(2022, unit="ssh.socket"), using=using).port == Seen((2022,), "ssh.socket")
    assert look(host, heard=listening(), using=using).port == Seen((2022,), "ssh.socket")
    moved = look(host, heard=listening(2200))  # the running sshd is on another port than the file says by now
    assert isinstance(moved.port, Seen) and moved.port.value == (2200,)
    both = look(host, heard=listening(6010, 22))
    assert isinstance(both.port, Seen) and both.port.value == (22,)
    others = look(host, heard=listening(80, 25, unit="other.service"))
    assert others.port == Seen((22,), "/usr/sbin/sshd -T")


def test_an_sshd_keeps_the_port_it_was_given_though_its_socket_unit_names_another_by_now() -> None:
    """After `Port 2022` and a daemon-reload systemd has closed its own socket, and opens none before a restart."""
    given = Looked(UnitState("ssh.socket", "loaded", "active", "running", listen=("0.0.0.0:2022", "[::]:2022")))
    for unit in ("ssh.socket", "ssh.service"):
        assert look(a_host(), heard=listening(22, unit=unit), using=units(socket_unit=given)).port == Seen(
            (22,), "sshd's listeners"
        )


def test_listeners_are_known_by_the_main_process_where_the_unit_is_not() -> None:
    host = a_host()
    host.link("/proc/77/fd/3", "socket:[3200]")
    host.link("/proc/77/fd/4", "/dev/null")
    seen = look(host, heard=listening(2200, 80, unit=""))
    assert isinstance(seen.port, Seen) and seen.port.value == (2200,)
    host.denied.add("/proc/77/fd")
    fallback = look(host, heard=listening(2200, 80, unit=""))
    assert isinstance(fallback.port, Seen) and fallback.port.value == (22,)


def test_others_listeners_are_left_out() -> None:
    mine, other = Listener(Family.IPV4, 0, 22, unit="ssh.service"), Listener(Family.IPV4, 0, 22, uid=1000)
    assert look(a_host(), heard=Seen((mine, other))).listeners == Seen((mine,))


@pytest.mark.parametrize(
    ("status", "stopped", "traced"),
    [(b"State:\tT (stopped)\nTracerPid:\t0\n", True, False), (b"State:\tt (tracing)\nTracerPid:\t9\n", True, True)],
)
def test_a_stopped_process(status: bytes, stopped: bool, traced: bool) -> None:
    host = a_host()
    host.put("/proc/77/status", b"Name:\tsshd\n" + status)
    seen = look(host)
    assert isinstance(seen.process, Seen) and seen.process.value
    assert (seen.process.value.stopped, seen.process.value.traced) == (stopped, traced)


def test_no_sshd() -> None:
    seen = sshd.collect(
        FakeHost(),
        Config(),
        units=Systemd(Seen(None), Seen(None), Seen(""), Seen(False)),
        listening=Seen(()),
        probe=False,
    )
    assert isinstance(seen.installed, Seen) and seen.installed.value == ""
    assert isinstance(seen.test, Unseen) and seen.process == Seen(None, "no main process")


def test_what_may_not_be_read_is_unseen() -> None:
    host = a_host()
    host.denied.update({"/etc/ssh", "/proc/77"})
    seen = look(host)
    assert all(isinstance(fact, Unseen) for fact in (seen.files, seen.host_keys, seen.process, seen.forbidden))


# -- the banner


def serve(answer: bytes, *, close: bool) -> tuple[banner.Target, list[bytes], threading.Thread]:
    """One connection on loopback; what the client said comes into the list."""
    server = socket.create_server(("127.0.0.1", 0))
    said: list[bytes] = []

    def talk() -> None:
        with server, server.accept()[0] as client:
            client.settimeout(10)
            client.sendall(answer)
            if not close:
                said.append(client.recv(100))

    thread = threading.Thread(target=talk, daemon=True)
    thread.start()
    return banner.Target(Family.IPV4, "127.0.0.1", server.getsockname()[1]), said, thread


def value(fact: Fact[Banner]) -> Banner:
    assert isinstance(fact, Seen), fact
    return fact.value


def test_the_banner_is_read_and_answered() -> None:
    at, said, thread = serve(b"SSH-2.0-OpenSSH_9.2p1\r\n", close=False)
    got = value(banner.probe(at))
    thread.join(10)
    assert got.text == "SSH-2.0-OpenSSH_9.2p1" and not got.ended and said == [b"SSH-2.0-ec2ssh-agent\r\n"]


def test_silence_an_end_and_a_refusal_are_told_apart() -> None:
    at, _, thread = serve(b"", close=False)
    silent = value(banner.probe(at, seconds=0.2))
    thread.join(10)
    assert (silent.text, silent.ended, silent.refused) == ("", False, False) and silent.seconds >= 0.2
    assert silent.taken
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert not value(banner.probe(at._replace(port=server.getsockname()[1]), seconds=0.2)).taken
    at, _, thread = serve(b"", close=True)
    ended = value(banner.probe(at))
    thread.join(10)
    assert (ended.text, ended.ended) == ("", True)
    with socket.socket() as bound:  # bound, and nobody listens
        bound.bind(("127.0.0.1", 0))
        refused = value(banner.probe(at._replace(port=bound.getsockname()[1])))
    assert refused.refused and not refused.ended


def test_an_accept_queue_that_is_full_and_stands_still_is_silence() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=1))
        at = banner.Target(Family.IPV4, "127.0.0.1", server.getsockname()[1])
        for _ in range(2):  # one more than the backlog
            stack.enter_context(socket.create_connection((at.address, at.port)))
        silent = value(banner.probe(at, seconds=0.6))
        assert (silent.text, silent.ended, silent.refused) == ("", False, False) and silent.seconds >= 0.6

        def accept() -> None:
            time.sleep(0.4)
            for _ in range(2):
                stack.enter_context(server.accept()[0])

        thread = threading.Thread(target=accept)
        thread.start()
        assert isinstance(banner.probe(at, seconds=2.0), Unseen), "somebody takes from it, if late"
        thread.join()


def test_a_place_far_back_in_a_queue_that_moves_is_no_hang() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        address, port = server.getsockname()
        clients = [stack.enter_context(socket.create_connection((address, port))) for _ in range(10)]
        before = banner._queue(port)
        assert (len(before.waiting), before.room) == (10, 91) and not banner._taken(clients[-1], port, before)
        for _ in range(6):
            stack.enter_context(server.accept()[0])
        assert banner._taken(clients[-1], port, before), "not yet accepted, but others are"
        assert banner._taken(clients[0], port, banner._Queue())


def test_a_queue_that_is_filling_up_does_not_move_for_that() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=20))
        address, port = server.getsockname()
        first, *_ = [stack.enter_context(socket.create_connection((address, port))) for _ in range(19)]
        before = banner._queue(port)
        for _ in range(2):
            stack.enter_context(socket.create_connection((address, port)))
        assert before.room == 2 and not banner._taken(first, port, before)


def test_a_queue_that_a_flood_fills_again_does_not_stand_still() -> None:
    done = threading.Event()
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
        at = banner.Target(Family.IPV4, "127.0.0.1", server.getsockname()[1])

        def client() -> None:
            made = stack.enter_context(socket.socket())
            made.setblocking(False)  # on loopback it is connected at once, or not at all
            made.connect_ex((at.address, at.port))

        def slowly() -> None:
            while not done.wait(0.05):
                stack.enter_context(server.accept()[0])
                client()

        for _ in range(101):
            client()
        thread = threading.Thread(target=slowly)
        thread.start()
        try:
            found = banner.probe(at, seconds=0.8)
            assert isinstance(found, Unseen) or found.value.taken
        finally:
            done.set()
            thread.join()


def test_a_refusal_in_words_is_kept() -> None:
    at, _, thread = serve(b"Exceeded MaxStartups\r\n", close=True)
    got = value(banner.probe(at))
    thread.join(10)
    assert got.text == "Exceeded MaxStartups"


def test_where_to_knock() -> None:
    any4, any6 = Listener(Family.IPV4, 0, 22), Listener(Family.IPV6, 0, 22, v6only=True)
    dual, own = Listener(Family.IPV6, 0, 22), Listener(Family.IPV4, 0x0A000514, 22)
    assert banner.target([any6, any4]).address == "127.0.0.1"
    assert banner.target([any6]).address == "::1"
    assert banner.target([dual]).address == "127.0.0.1"
    assert banner.target([own]).address == "10.0.5.20"
    assert banner.target([Listener(Family.IPV6, 0x20010DB8 << 96, 22)]).address == "2001:db8::"
