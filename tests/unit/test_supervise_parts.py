"""Parts of the supervisor with real kernel objects: inotify, the notify socket, the accept queue's rule, the pipe."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable

import pytest

from ec2ssh_agent.supervise import channel
from ec2ssh_agent.supervise.inotify import Inotify
from ec2ssh_agent.supervise.notify import Notifier
from ec2ssh_agent.supervise.probe import Probe
from ec2ssh_agent.supervise.socklook import HUNG, Queue
from ec2ssh_agent.supervise.watch import Wake, WatchList
from ec2ssh_agent.supervise.worker import GRACE, Pass

PATIENCE = 20.0


# -- inotify


def reasons(inotify: Inotify) -> set[str]:
    """All that comes within 100 ms of the last event."""
    found: set[str] = set()
    while select.select([inotify], [], [], 0.1)[0]:
        found.update(inotify.read())
    return found


def test_a_directory_above_that_is_moved(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    inotify = Inotify()
    inotify.watch(
        (
            (str(tmp_path / "a" / "b"), (), "sshd-config"),
            (str(tmp_path), ("a",), "sshd-config"),
            (str(tmp_path / "a"), ("b",), "sshd-config"),
        )
    )
    (tmp_path / "a").rename(tmp_path / "c")
    assert reasons(inotify) == {"sshd-config"}
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert reasons(inotify) == {"sshd-config"}
    (tmp_path / "a" / "b" / "key").touch(0o600)
    assert reasons(inotify) == {"sshd-config"}
    (tmp_path / "c" / "b" / "key").touch(0o600)
    assert reasons(inotify) == set()
    inotify.close()


def test_a_directory_that_is_no_name_is_not_watched_and_harms_nobody(tmp_path: Path) -> None:
    inotify = Inotify()
    inotify.watch(((f"{tmp_path}/a\0b", (), "sshd-config"), (str(tmp_path), ("c",), "wrappers")))
    (tmp_path / "c").touch()
    assert reasons(inotify) == {"wrappers"}
    inotify.close()


def test_replaced_edited_removed_and_chmodded_files_are_seen(tmp_path: Path) -> None:
    inotify = Inotify()
    inotify.watch(((str(tmp_path), ("hosts.deny",), "wrappers"),))
    target = tmp_path / "hosts.deny"
    (tmp_path / "new").touch()
    assert reasons(inotify) == set()
    for change in (
        lambda: target.write_text("ALL: ALL\n"),
        lambda: (tmp_path / "new").rename(target),
        lambda: target.chmod(0o600),
        lambda: target.unlink(),
    ):
        change()
        assert reasons(inotify) == {"wrappers"}
    (tmp_path / "other").write_text("x")
    assert reasons(inotify) == set()
    inotify.close()


def test_two_reasons_in_one_directory_and_any_name(tmp_path: Path) -> None:
    inotify = Inotify()
    path = str(tmp_path)
    inotify.watch(((path, ("a",), "first"), (path, (), "second")))
    (tmp_path / "b").touch()
    assert reasons(inotify) == {"second"}
    (tmp_path / "a").touch()
    assert reasons(inotify) == {"first", "second"}
    inotify.close()


def test_a_directory_that_comes_goes_and_comes_again(tmp_path: Path) -> None:
    inotify = Inotify()
    deep = tmp_path / "etc" / "ssh" / "sshd_config.d"
    inotify.watch(((str(deep), (), "sshd-config"),))
    assert inotify.missing == {}
    (tmp_path / "noise").touch()
    assert reasons(inotify) == set()
    for _ in range(2):
        for part in (tmp_path / "etc", tmp_path / "etc" / "ssh", deep):
            part.mkdir()
            assert reasons(inotify) == {"sshd-config"}
        (deep / "50-cloud.conf").write_text("Port 22\n")
        assert reasons(inotify) == {"sshd-config"}
        (deep / "50-cloud.conf").unlink()
        deep.rmdir()
        assert reasons(inotify) == {"sshd-config"}
        (tmp_path / "etc" / "ssh").rename(tmp_path / "elsewhere")
        assert reasons(inotify) == {"sshd-config"}
        (tmp_path / "etc").rmdir()
        (tmp_path / "elsewhere").rmdir()
        assert reasons(inotify) <= {"sshd-config"}
    inotify.close()


def test_a_named_file_that_is_a_link_is_seen_where_it_lies_and_where_it_leads(tmp_path: Path) -> None:
    etc, opt = tmp_path / "etc", tmp_path / "opt"
    etc.mkdir()
    inotify = Inotify()
    inotify.watch(((str(etc), ("hosts.deny",), "wrappers"),))
    (etc / "hosts.deny").symlink_to("../opt/now")
    assert reasons(inotify) == {"wrappers"}
    opt.mkdir()
    assert reasons(inotify) == {"wrappers"}
    (opt / "good").touch()
    (opt / "bad").write_text("ALL: ALL\n")
    assert reasons(inotify) == set()
    for target in ("good", "bad", "good"):
        (opt / "next").symlink_to(opt / target)
        (opt / "next").rename(opt / "now")  # a link in between leads elsewhere
        assert reasons(inotify) == {"wrappers"}
        with open(opt / target, "a") as file:
            file.write("#\n")
        assert reasons(inotify) == {"wrappers"}
    (opt / "bad").write_text("")
    assert reasons(inotify) == set()
    (etc / "hosts.deny").unlink()
    assert reasons(inotify) == {"wrappers"}
    (opt / "good").write_text("")
    assert reasons(inotify) == set()
    inotify.close()


def test_a_directory_that_is_a_link_is_followed_when_it_leads_elsewhere(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / "data" / name / "ssh").mkdir(parents=True)
    link = tmp_path / "data" / "now"
    link.symlink_to("one")
    (tmp_path / "etc").symlink_to(link)
    inotify = Inotify()
    inotify.watch(((str(tmp_path / "etc" / "ssh"), (), "sshd-config"),))
    (tmp_path / "data" / "one" / "ssh" / "x").touch()
    assert reasons(inotify) == {"sshd-config"}
    link.unlink()
    assert reasons(inotify) == {"sshd-config"}
    link.symlink_to("two")
    assert reasons(inotify) == {"sshd-config"}
    (tmp_path / "data" / "one" / "ssh" / "y").touch()
    assert reasons(inotify) == set()
    (tmp_path / "data" / "two" / "ssh" / "x").touch()
    assert reasons(inotify) == {"sshd-config"}
    (tmp_path / "etc").unlink()
    (tmp_path / "etc").symlink_to(tmp_path / "data" / "one")
    assert reasons(inotify) == {"sshd-config"}
    (tmp_path / "data" / "one" / "ssh" / "z").touch()
    assert reasons(inotify) == {"sshd-config"}
    inotify.close()


def test_links_in_a_circle_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    inotify = Inotify()
    inotify.watch(((str(tmp_path), ("a",), "file"), (str(tmp_path / "a" / "d"), (), "directory")))
    (tmp_path / "b").unlink()
    assert "file" in reasons(inotify)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "d").mkdir()
    assert reasons(inotify) == {"file", "directory"}
    assert inotify.missing == {}
    inotify.close()


def test_a_new_list_drops_what_is_not_on_it_and_keeps_the_rest(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    inotify = Inotify()
    inotify.watch(((str(tmp_path / "a"), (), "a"), (str(tmp_path / "b"), (), "b")))
    (tmp_path / "b" / "x").touch()
    inotify.watch(((str(tmp_path / "b"), (), "b"),))
    (tmp_path / "a" / "x").touch()
    assert reasons(inotify) == {"b"}
    inotify.close()


def test_what_is_named_for_the_first_time_was_not_watched_till_now(tmp_path: Path) -> None:
    inotify, here = Inotify(), str(tmp_path)
    assert inotify.watch(((here, (), "sshd-config"), (here, ("hosts.deny",), "wrappers"))) == ()
    some = ((here, ("sshd_config",), "sshd-config"), (here, ("hosts.deny",), "wrappers"))
    assert inotify.watch((*some, (here, (), "sshd-config"))) == (), "any name of that directory was watched"
    assert inotify.watch((*some, (here, ("hosts.allow",), "wrappers"), (here, ("ufw",), "ufw"))) == ("wrappers", "ufw")


def test_an_overflow_makes_everything_stale(tmp_path: Path) -> None:
    inotify = Inotify()
    inotify.watch(((str(tmp_path), ("never",), "files"),))
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    a, b = tmp_path / "a", tmp_path / "b"
    a.touch()
    for _ in range(limit // 2 + 10):  # each rename is two events; equal neighbours would be merged
        a.rename(b)
        a, b = b, a
    assert reasons(inotify) == {"files"}
    inotify.close()


# -- notify


@pytest.fixture
def systemd(tmp_path: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(str(tmp_path / "notify"))
    made.settimeout(PATIENCE)
    return made


def test_what_systemd_is_told(systemd: socket.socket) -> None:
    environment = {
        "NOTIFY_SOCKET": systemd.getsockname(),
        "WATCHDOG_USEC": "30000000",
        "WATCHDOG_PID": str(os.getpid()),
    }
    notifier = Notifier(environment)
    assert environment == {}
    assert notifier.every == 15.0
    notifier.ready("watching\nport 22")
    assert systemd.recv(4096).decode().split("\n") == ["READY=1", f"MAINPID={os.getpid()}", "STATUS=watching port 22"]
    notifier.status("watching port 22")
    notifier.status("healthy")
    notifier.status("healthy")
    notifier.alive()
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    notifier.stopping()
    told = [systemd.recv(4096).decode() for _ in range(5)]
    assert told[:3] == ["STATUS=watching port 22", "STATUS=healthy", "WATCHDOG=1"]
    assert told[4] == "STOPPING=1"
    reload = dict(line.split("=") for line in told[3].split("\n"))
    assert reload["RELOADING"] == "1" and reload["MAINPID"] == str(os.getpid())
    assert before <= int(reload["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000


def test_without_systemd_nothing_is_told_and_nothing_is_due() -> None:
    notifier = Notifier({})
    notifier.ready("x")
    assert notifier.every == float("inf")
    assert Notifier({"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}).every == float("inf")


def test_what_systemd_waits_for_is_told_again(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.setblocking(False)
        notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "notify")})

        def told() -> list[str]:
            found = []
            with contextlib.suppress(BlockingIOError):
                while True:
                    found.append(systemd.recv(4096).decode().split("\n")[0])
            return found

        for _ in range(10_000):  # systemd is behind: its queue takes some hundreds
            notifier.alive()
        notifier.ready("healthy")
        assert "READY=1" not in told()
        notifier.alive()
        notifier.alive()
        assert told() == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
        notifier.status("a file name \udcff")
        assert told() == ["STATUS=a file name ?"]


def test_an_abstract_socket_and_one_that_is_gone(capfd: pytest.CaptureFixture[str]) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(f"\0ec2ssh-notify-{os.getpid()}")
        notifier = Notifier({"NOTIFY_SOCKET": f"@ec2ssh-notify-{os.getpid()}"})
        notifier.alive()
        made.settimeout(PATIENCE)
        assert made.recv(100) == b"WATCHDOG=1"
    notifier.alive()
    assert "systemd was not told WATCHDOG=1" in capfd.readouterr().err


# -- the accept queue


def test_a_queue_that_drains_is_not_hung() -> None:
    queue = Queue()
    now = 0.0
    for length in (1, 2, 1, 2, 1, 0, 3, 0, 1, 1, 1) * 10:
        assert not queue.changed(length, now)
        now += 0.2


def test_a_queue_that_only_grows_is_hung_until_it_drains() -> None:
    queue = Queue()
    for after in (0, 3):
        told = [queue.changed(length, step * 0.25) for step, length in enumerate((0, 1, 1, 2, 2, 3, 3, 4))]
        assert told == [False] * 5 + [True, False, False]
        assert not queue.suspect
        assert queue.changed(after, 2.0)
        assert not queue.changed(0, 2.25)
    assert HUNG == 1.0


# -- the banner probe


def answer(listener: socket.socket, greeting: bytes) -> tuple[str, bytes]:
    probe = Probe()
    probe.begin(listener.getsockname(), 0.0)
    peer, _ = listener.accept()
    with peer:
        peer.settimeout(PATIENCE)
        if greeting:
            peer.sendall(greeting)
        else:
            peer.close()
        assert select.select([probe], [], [], PATIENCE)[0]
        got = probe.read()
        sent = peer.recv(100) if greeting else b""
    assert got and probe.until == float("inf")
    return got, sent


def test_the_probe_reads_the_banner_and_says_who_it_is() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        assert answer(listener, b"SSH-2.0-OpenSSH_9.2p1\r\n") == ("banner", b"SSH-2.0-ec2ssh-agent\r\n")
        assert answer(listener, b"Exceeded MaxStartups\r\n")[0] == "banner"
        assert answer(listener, b"") == ("closed", b"")
        silent = Probe()
        silent.begin(listener.getsockname(), 5.0)
        assert silent.read() is None and silent.until > 5.0
        silent.give_up()
        assert silent.answer == "silent" and silent.fileno() == -1
        address = listener.getsockname()
    refused = Probe()
    refused.begin(address, 0.0)
    if refused.answer is None:
        assert select.select([refused], [], [], PATIENCE)[0]
    assert refused.read() == "refused"


# -- passes


def finished(made: Pass, *, clock: float = 0.0) -> Pass:
    """Reads to the end of the pipe and reaps."""
    while select.select([made], [], [], PATIENCE)[0] and made.read(clock):
        continue
    made.ended(*reaped(made))
    return made


def reaped(made: Pass) -> tuple[int, float]:
    """The wait status, and the CPU time."""
    _, status, usage = os.wait4(made.pid, 0)
    return status, usage.ru_utime + usage.ru_stime


def good(config_path: str, root: str, wake: Wake) -> WatchList:
    return WatchList(status=f"{config_path} {root} {wake.reasons}", ports=(22,))


def test_a_pass_hands_back_its_watch_list() -> None:
    made = finished(Pass(good, "/c", "/r", wake=Wake(("start",)), now=0.0, deadline=9.0))
    assert made.trouble == ""
    assert made.watch == WatchList(status="/c /r ('start',)", ports=(22,))


def test_a_worker_has_its_own_session_and_no_descriptor_of_the_supervisor(tmp_path: Path) -> None:
    def worker(config_path: str, root: str, wake: Wake) -> WatchList:
        assert os.getsid(0) == os.getpid()
        return WatchList(status=str(sorted(int(n) for n in os.listdir("/proc/self/fd"))))

    with socket.socket() as kept:
        assert kept.fileno() > 2
        made = finished(Pass(worker, "", "", wake=Wake(()), now=0.0, deadline=9.0))
    assert made.watch
    assert len(made.watch.status.split(",")) == 5  # 0, 1, 2, the pipe, and the listing itself


def test_a_crash_is_told_with_its_reason(capfd: pytest.CaptureFixture[str]) -> None:
    def worker(config_path: str, root: str, wake: Wake) -> WatchList:
        raise ZeroDivisionError("by nought")

    made = finished(Pass(worker, "", "", wake=Wake(()), now=0.0, deadline=9.0))
    assert (made.watch, made.trouble) == (None, "ZeroDivisionError: by nought")
    assert "Traceback" in capfd.readouterr().err


def test_a_pass_whose_supervisor_is_gone_ends_and_becomes_none_itself() -> None:
    from ec2ssh_agent.supervise import channel

    reader, writer = os.pipe()
    os.close(reader)
    pid = os.fork()
    if not pid:
        try:
            channel.be_worker(writer, good, "", "", Wake(()))
        finally:
            os._exit(7)  # it went on
    os.close(writer)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 1


def test_a_killed_worker_and_one_that_hands_back_nothing() -> None:
    def killed(config_path: str, root: str, wake: Wake) -> WatchList:
        os.kill(os.getpid(), 9)
        return WatchList()

    def gone(config_path: str, root: str, wake: Wake) -> WatchList:
        os._exit(0)

    assert (
        finished(Pass(killed, "", "", wake=Wake(()), now=0.0, deadline=9.0)).trouble
        == "the pass was killed by signal 9"
    )
    assert "handed back nothing" in finished(Pass(gone, "", "", wake=Wake(()), now=0.0, deadline=9.0)).trouble


def following(worker: Callable[[str, str, Wake], WatchList], *, stay: bool = True) -> Pass:
    """The first pass of a worker that is to stay for others, when it has ended or rests."""
    made = Pass(worker, "", "", wake=Wake(("first",), stay=stay), now=0.0, deadline=9.0)
    while select.select([made], [], [], PATIENCE)[0] and made.read(0.0) and not made.rests:
        continue
    return made


def burning(config_path: str, root: str, wake: Wake) -> WatchList:
    """Takes a tenth of a second of CPU, and tells who it is, and that it knows its wake."""
    end = time.process_time() + 0.1
    while time.process_time() < end:
        continue
    if "crash" in wake.reasons:
        raise ZeroDivisionError("by nought")
    return WatchList(status=f"{os.getpid()} {wake.reasons}", kept=wake.kept)


def test_a_worker_that_is_to_stay_makes_the_next_pass_too() -> None:
    made = following(burning)
    assert made.rests and made.watch and made.watch.status == f"{made.pid} ('first',)"
    assert 0.1 <= made.cost < 0.2
    kept = b"x" * 30_000
    assert made.again(Wake(("ruleset",), kept=kept), now=5.0, deadline=9.0)
    assert not made.rests and made.watch is None and made.next == 14.0
    finished(made)
    assert made.watch == WatchList(status=f"{made.pid} ('ruleset',)", kept=kept), made.trouble
    assert 0.1 <= made.cost < 0.2, "of this pass alone"


def test_a_crash_of_a_worker_that_stayed_costs_and_is_told_like_any_other(capfd: pytest.CaptureFixture[str]) -> None:
    made = following(burning)
    assert made.again(Wake(("crash",), stay=True), now=5.0, deadline=9.0)
    finished(made)
    assert (made.watch, made.trouble) == (None, "ZeroDivisionError: by nought")
    assert 0.1 <= made.cost < 0.25


def test_a_worker_stays_for_no_pass_that_is_dear_nor_for_ever() -> None:
    def dear(config_path: str, root: str, wake: Wake) -> WatchList:
        for _ in range(3):
            burning(config_path, root, wake)
        return WatchList(status="dear")

    made = finished(following(dear))
    assert made.watch and not made.rests and made.cost >= 0.3

    made, passes = following(good), 1
    while made.again(Wake((), stay=True), now=0.0, deadline=9.0):
        passes += 1
        while select.select([made], [], [], PATIENCE)[0] and made.read(0.0) and not made.rests:
            continue
    made.dismiss()
    assert reaped(made)[0] == signal.SIGKILL
    assert passes == 30


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_resting_worker_ends_at_once_and_takes_no_other_pass(number: int) -> None:
    made = following(good)
    os.kill(made.pid, number)
    code = os.waitstatus_to_exitcode(reaped(made)[0])
    assert code == (0 if number == signal.SIGTERM else -number)
    assert not made.again(Wake(()), now=0.0, deadline=9.0)
    made.close()


def test_a_resting_worker_ends_with_its_supervisor() -> None:
    made = following(good)
    made.close()
    assert reaped(made)[0] == 0


def test_sigterm_ends_no_pass_that_a_resting_worker_was_just_given() -> None:
    made = following(good)
    os.kill(made.pid, signal.SIGSTOP)
    assert made.again(Wake(("ruleset",)), now=0.0, deadline=9.0)
    made.stop(0.0, within=9.0)
    os.kill(made.pid, signal.SIGCONT)
    assert finished(made).watch == WatchList(status="  ('ruleset',)", ports=(22,)), made.trouble


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def started_with(tmp_path: Path, *, tool: bool) -> tuple[Pass, int]:
    """A pass that hangs in a program of its own session, with or without saying that it is an owner's tool."""
    from ec2ssh_agent.supervise import channel

    def worker(config_path: str, root: str, wake: Wake) -> WatchList:
        import contextlib
        import subprocess

        with channel.busy(5.0) if tool else contextlib.nullcontext():
            child = subprocess.Popen(["sleep", "300"], start_new_session=True)
            (tmp_path / "new").write_text(str(child.pid))
            os.replace(tmp_path / "new", tmp_path / "pid")
            while True:  # deaf to SIGTERM, as a pass that hangs is
                time.sleep(300)

    made = Pass(worker, "", "", wake=Wake(()), now=100.0, deadline=2.0)
    end = time.monotonic() + PATIENCE
    while not (tmp_path / "pid").exists() and time.monotonic() < end:
        time.sleep(0.02)
    made.read(100.5)
    return made, int((tmp_path / "pid").read_text())


def test_a_pass_past_its_deadline_is_killed_with_what_it_started(tmp_path: Path) -> None:
    made, child = started_with(tmp_path, tool=False)
    assert made.next == 102.0
    made.enforce(101.9)
    made.enforce(102.0)
    assert made.next == 102.0 + GRACE
    assert alive(made.pid) and alive(child)
    made.enforce(102.0 + GRACE)
    assert not made.stuck
    made.enforce(102.0 + 2 * GRACE)
    assert made.stuck, "for all that it knows: it has not heard of the end"
    assert finished(made).trouble == "the pass took too long"
    end = time.monotonic() + PATIENCE
    while alive(child) and time.monotonic() < end:
        time.sleep(0.02)
    assert not alive(child)


def test_an_owners_tool_has_its_own_time_and_is_never_killed(tmp_path: Path) -> None:
    made, child = started_with(tmp_path, tool=True)
    try:
        assert made.next == 100.5 + 5.0 + GRACE
        made.stop(101.0, within=1.0)
        assert made.next == 100.5 + 5.0 + GRACE
        made.enforce(made.next)
        made.ended(*reaped(made))
        assert made.watch is None and made.trouble
        time.sleep(0.1)
        assert alive(child)
    finally:
        os.kill(child, 9)


def test_a_stopped_daemon_lets_the_pass_finish() -> None:
    from ec2ssh_agent.supervise import channel

    def worker(config_path: str, root: str, wake: Wake) -> WatchList:
        with channel.busy(5.0):
            print("ready", flush=True)
        end = time.monotonic() + PATIENCE
        while not channel.stopping() and time.monotonic() < end:
            time.sleep(0.01)
        return WatchList(status="finished")

    made = Pass(worker, "", "", wake=Wake(()), now=0.0, deadline=9.0)
    assert select.select([made], [], [], PATIENCE)[0]  # its handlers are in place
    made.stop(1.0, within=15.0)
    watch = finished(made, clock=1.0).watch
    assert watch and watch.status == "finished"


def test_a_signal_is_written_into_no_file_of_the_workers(tmp_path: Path) -> None:
    """The supervisor hears of signals by a descriptor; in the worker its number may be another file's."""
    file = tmp_path / "rules"
    for_signals, end = socket.socketpair()
    end.setblocking(False)

    def worker(config_path: str, root: str, wake: Wake) -> WatchList:
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), end.fileno())
        os.kill(os.getpid(), signal.SIGTERM)
        return WatchList(status=repr(file.read_bytes()))

    with for_signals, end:
        before = signal.set_wakeup_fd(end.fileno())
        try:
            made = finished(Pass(worker, "", "", wake=Wake(()), now=0.0, deadline=9.0))
        finally:
            signal.set_wakeup_fd(before)
    assert made.watch and made.watch.status == "b''"


# -- memory


def test_the_loop_imports_nothing_that_weighs() -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); import ec2ssh_agent.supervise.loop; print(*sys.modules)"
    argv = [sys.executable, "-I", "-S", "-c", code, str(Path(__file__).resolve().parents[2] / "agent")]
    modules = set(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True, timeout=60).stdout.split())
    heavy = {"typing", "re", "enum", "json", "socket", "signal", "contextlib", "subprocess", "logging", "argparse"}
    assert not modules & heavy
    assert {name for name in modules if name.startswith("ec2ssh_agent.")} <= {
        "ec2ssh_agent.netlink",
        "ec2ssh_agent.plain",
        "ec2ssh_agent.supervise",
    } | {name for name in modules if name.startswith("ec2ssh_agent.supervise.")}


def test_a_plain_tuple_is_what_typing_makes_of_it() -> None:
    assert Wake._fields[:3] == ("reasons", "by", "mono")
    assert Wake(("start",)) == (("start",), (), 0.0, 0, "", (), b"", False, False)
    assert Wake(("start",))._replace(crashes=2).crashes == 2
    assert repr(WatchList()).startswith("WatchList(interval=1800.0, pulse=1.0, again=None")
    assert (Wake.__name__, Wake.__module__) == ("Wake", "ec2ssh_agent.supervise.watch")
    assert Wake.__doc__ and Wake.__doc__.startswith("Why a pass is made")


@pytest.mark.parametrize(("before", "after"), [(b"-500\n", b"0"), (b"0\n", b"0\n"), (b"200\n", b"200\n")])
def test_a_pass_is_not_protected_from_the_oom_killer(tmp_path: Path, before: bytes, after: bytes) -> None:
    """To protect anything takes a capability that a container may not have: a file stands in for the kernel's."""
    score = tmp_path / "score"
    score.write_bytes(before)
    channel.be_expendable(str(score))
    assert score.read_bytes() == after
