"""The supervisor in a network namespace: each wake-up source by what it watches, with the pulse off unless it is the
pulse that looks; passes that crash, hang, or change the rules themselves; systemd; signals."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Callable, Optional

import pytest

from namespace import Namespace, namespace

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 30.0
QUIET: Mapping[str, Any] = {"interval": 3600.0, "pulse": 0.0}


def wait(condition: Callable[[], object], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"never: {what}"
        time.sleep(0.01)


def put(path: Path, text: str) -> None:
    """Of one event: a file that is made and closed later, as on a busy machine, may be looked at twice."""
    made = path.parent.with_name(f"{path.name}.new")  # a directory that nobody watches
    made.write_text(text)
    os.replace(made, path)


class Daemon:
    def __init__(self, directory: Path, space: Namespace) -> None:
        self.directory, self.space = directory, space
        self.process: Optional[subprocess.Popen[bytes]] = None
        self.systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.systemd.bind(str(directory / "notify"))
        self.systemd.settimeout(PATIENCE)
        self.plan()

    def plan(self, watch: Mapping[str, Any] = {}, **actions: object) -> None:
        (self.directory / "plan.new").write_text(json.dumps({"watch": {**QUIET, **watch}, **actions}))
        os.replace(self.directory / "plan.new", self.directory / "plan")

    def start(self, *prefix: str, environment: Mapping[str, str] = {}, log_to: str = "") -> None:
        argv = self.space.argv(
            *prefix, sys.executable, str(ROOT / "tests/kernel/supervise_daemon.py"), str(self.directory)
        )
        variables = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT / "agent"),
            "NOTIFY_SOCKET": str(self.directory / "notify"),
            **environment,
        }
        (self.directory / "log").touch()
        with open(log_to or self.directory / "log", "w") as log:
            process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=variables)
        self.process = process
        assert self.told("READY=1")["MAINPID"] == str(process.pid)

    def told(self, first: str) -> dict[str, str]:
        """The next message to systemd that begins so."""
        while True:
            text = self.systemd.recv(4096).decode()
            if text.startswith(first):
                return dict(line.split("=", 1) for line in text.split("\n"))

    @property
    def wakes(self) -> list[dict[str, Any]]:
        try:
            text = (self.directory / "wakes").read_text()
        except FileNotFoundError:
            return []
        return [json.loads(line) for line in text.splitlines() if line.endswith("}")]

    def settled(self, number: int = 1) -> None:
        """That many passes were begun."""
        wait(lambda: len(self.wakes) >= number, f"pass {number} of {self.wakes}\n{self.log}")

    def over(self) -> None:
        """No pass is being made."""
        assert self.process
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        wait(lambda: not children.read_text(), "the end of the pass")

    def next(self, change: Callable[[], object]) -> dict[str, Any]:
        """The wake of the pass that follows a change."""
        before = len(self.wakes)
        change()
        wait(lambda: len(self.wakes) > before, f"a pass after {before}: {self.log}")
        return self.wakes[before]

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text()

    def signal(self, number: int) -> None:
        assert self.process
        self.process.send_signal(number)

    def stop(self) -> int:
        if self.process is None:
            return 0
        process, self.process = self.process, None
        process.send_signal(signal.SIGTERM)
        try:
            return process.wait(PATIENCE)
        finally:
            process.kill()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    with namespace() as space:
        made = Daemon(tmp_path, space)
        try:
            yield made
        finally:
            made.stop()
            made.systemd.close()


def armed(daemon: Daemon, watch: Mapping[str, Any] = {}, **actions: object) -> Daemon:
    """Started, its first pass made, and its watch list in force; what that names for the first time was looked at."""
    daemon.plan({"status": "armed", **watch}, **actions)
    daemon.start()
    daemon.told("STATUS=armed")
    if "directories" in watch:
        daemon.settled(2)
        daemon.over()
    return daemon


def reasons(wake: Mapping[str, Any]) -> set[str]:
    return set(wake["reasons"])


# -- sources


def test_a_change_of_the_rules_and_who_made_it(daemon: Daemon) -> None:
    armed(daemon)
    assert reasons(daemon.wakes[0]) == {"start"} and daemon.wakes[0]["missing"] == []
    wake = daemon.next(lambda: daemon.space.run("nft", "add", "table", "inet", "x"))
    assert reasons(wake) == {"ruleset"}
    assert [program for _, program in wake["by"]] == ["nft"]
    wake = daemon.next(lambda: daemon.space.run("iptables-nft", "-A", "INPUT", "-j", "DROP"))
    assert reasons(wake) == {"ruleset"}
    assert any(program.startswith(("iptables", "xtables")) for _, program in wake["by"])


def test_a_large_restore_is_one_pass(daemon: Daemon) -> None:
    armed(daemon)
    rules = "".join(f"add rule inet x y tcp dport {1 + n % 65535} drop\n" for n in range(5000))
    text = "add table inet x\nadd chain inet x y\n" + rules
    before = len(daemon.wakes)
    daemon.next(lambda: daemon.space.run("nft", "-f", "-", stdin=text))
    time.sleep(0.5)
    assert len(daemon.wakes) == before + 1


def test_more_changes_than_a_socket_holds_are_one_pass(daemon: Daemon) -> None:
    """While the supervisor does not run, as on a machine whose cores are others'."""
    armed(daemon)
    daemon.signal(signal.SIGSTOP)
    daemon.space.run("nft", "-i", stdin="add table inet x\ndelete table inet x\n" * 600)
    daemon.space.run("ip", "link", "set", "lo", "up")
    routes = [f"route add 10.7.{number // 250}.{number % 250} dev lo\n" for number in range(3000)]
    daemon.space.run("ip", "-batch", "-", stdin="".join(routes))
    drops = [line.split()[8] for line in daemon.space.run("cat", "/proc/net/netlink").splitlines()[1:]]
    assert sum(drop != "0" for drop in drops) >= 2, "no socket was overrun"
    before = len(daemon.wakes)
    wake = daemon.next(lambda: daemon.signal(signal.SIGCONT))
    assert reasons(wake) == {"ruleset", "network"}
    time.sleep(0.5)
    assert len(daemon.wakes) == before + 1
    assert daemon.next(lambda: daemon.space.run("nft", "add", "table", "inet", "y"))["missing"] == []


def test_who_reverts_a_repair_before_the_pass_looks_again_is_named_and_the_pass_is_not(daemon: Daemon) -> None:
    armed(daemon, {}, run=[["nft", "add table inet own"]], burn=1.0, generation=1)
    daemon.plan({"status": "reverted"}, run=[["nft", "add table inet again"]], burn=2.0, generation=1)
    daemon.next(lambda: daemon.signal(signal.SIGUSR1))
    wait(lambda: "again" in daemon.space.run("nft", "list", "tables"), "the repair")
    daemon.space.run("iptables-nft", "-A", "INPUT", "-j", "DROP")
    daemon.told("STATUS=reverted")
    wake = daemon.next(lambda: daemon.signal(signal.SIGUSR1))
    assert wake["by"] and all(program.startswith(("iptables", "xtables")) for _, program in wake["by"])


def test_the_own_change_of_a_pass_is_no_wake_up(daemon: Daemon) -> None:
    change = ["nft", "add table inet x; add chain inet x y"]
    armed(daemon, {}, run=[change], generation=1)
    time.sleep(0.5)
    assert len(daemon.wakes) == 1
    daemon.plan({"status": "unknown"}, run=[change])
    daemon.next(lambda: daemon.signal(signal.SIGUSR1))
    daemon.plan()
    daemon.settled(3)
    time.sleep(0.5)
    assert [reasons(wake) for wake in daemon.wakes] == [{"start"}, {"request"}, {"ruleset"}]


def test_a_file_and_a_directory_that_appears(daemon: Daemon, tmp_path: Path) -> None:
    late = tmp_path / "late"
    armed(daemon, {"directories": [[str(tmp_path), ["hosts.deny"], "wrappers"], [str(late), [], "ufw"]]})
    assert reasons(daemon.next(lambda: put(tmp_path / "hosts.deny", "ALL: ALL\n"))) == {"wrappers"}
    assert reasons(daemon.next(late.mkdir)) == {"ufw"}
    assert reasons(daemon.next(lambda: put(late / "user.rules", "x"))) == {"ufw"}


def test_a_file_that_changes_while_the_first_pass_that_names_it_looks(daemon: Daemon, tmp_path: Path) -> None:
    place = tmp_path / "new"
    place.mkdir()
    watch = {"directories": [[str(place), [], "sshd-config"]]}
    daemon.plan(watch, run=[["sh", "-c", f"sleep 0.3; echo Bogus > {place}/a.conf; sleep 0.3"]])
    daemon.start()
    daemon.settled(1)
    daemon.plan(watch)
    daemon.settled(2)
    assert reasons(daemon.wakes[1]) == {"sshd-config"}
    daemon.over()
    time.sleep(0.5)
    assert len(daemon.wakes) == 2, "it is known now"


@pytest.mark.parametrize("restarts", [False, True])
def test_the_end_of_sshd(daemon: Daemon, restarts: bool) -> None:
    process = subprocess.Popen(["sleep", "3600"], stdout=subprocess.DEVNULL)
    armed(daemon, {"pids": [process.pid], "restarts_itself": restarts})
    begin = time.monotonic()
    wake = daemon.next(lambda: end(process))
    assert reasons(wake) == {"sshd-exit"}
    assert (time.monotonic() - begin >= 1.0) is restarts  # the first second is systemd's


def test_systemd_is_left_to_restart_sshd_for_a_second(daemon: Daemon, tmp_path: Path) -> None:
    """The pass that says so leaves the last list in force: what befalls the unit waits, and all else does not."""
    watch = {"directories": [[str(tmp_path), ["unit"], "socket-unit"], [str(tmp_path), ["hosts.deny"], "wrappers"]]}
    armed(daemon, watch)
    daemon.plan({"patient": True})
    begin = time.monotonic()
    assert reasons(daemon.next(lambda: put(tmp_path / "unit", "gone"))) == {"socket-unit"}
    daemon.plan(watch)
    daemon.over()
    assert reasons(daemon.next(lambda: put(tmp_path / "unit", "back"))) == {"verify"}
    assert time.monotonic() - begin >= 1.0
    daemon.plan({"patient": True})
    daemon.next(lambda: put(tmp_path / "unit", "gone again"))
    daemon.plan(watch)
    daemon.over()
    assert reasons(daemon.next(lambda: put(tmp_path / "hosts.deny", "ALL: ALL\n"))) == {"wrappers"}
    daemon.over()
    assert reasons(daemon.next(lambda: put(tmp_path / "unit", "looked at"))) == {"socket-unit"}


def test_a_pass_that_finds_another_agent_at_work_is_made_again(daemon: Daemon, tmp_path: Path) -> None:
    """With all that it was for; a reload is done once it was, and all is watched meanwhile."""
    watch = {"directories": [[str(tmp_path), ["hosts.deny"], "wrappers"]]}
    armed(daemon, {**watch, "trouble_file": str(tmp_path / "trouble")})
    daemon.plan({"busy": True, "status": "another repairs"})
    assert "reload" in daemon.next(lambda: daemon.signal(signal.SIGHUP))["reasons"]
    assert daemon.told("STATUS") == {"STATUS": "another repairs"}
    assert "wrappers" in daemon.next(lambda: put(tmp_path / "hosts.deny", "ALL: ALL\n"))["reasons"]
    looked = len(daemon.wakes)
    wait((tmp_path / "trouble").exists, "that it cannot look is written down, after a while")
    daemon.plan({**watch, "status": "looked", "trouble_file": str(tmp_path / "trouble")})
    assert daemon.told("READY=1")["STATUS"] == "looked"
    assert not (tmp_path / "trouble").exists()
    wait(lambda: any("wrappers" in wake["reasons"] for wake in daemon.wakes[looked:]), "the other reason")


def test_a_configuration_that_cannot_be_read_stays_watched(daemon: Daemon, tmp_path: Path) -> None:
    (tmp_path / "opt").mkdir()
    armed(daemon, {"directories": [[str(tmp_path / "opt"), [], "sshd-config"]]})
    daemon.plan({"partly": True})
    daemon.next(lambda: put(tmp_path / "opt" / "sshd_config", "Include nothing\n"))
    daemon.over()
    assert reasons(daemon.next(lambda: put(tmp_path / "opt" / "sshd_config", "Port 22\n"))) == {"sshd-config"}


def test_what_befalls_the_unit_while_a_pass_looks_is_looked_at(daemon: Daemon, tmp_path: Path) -> None:
    """That pass, which something else asked for, ended systemd's time, and may have looked at the unit before."""
    watch = {"directories": [[str(tmp_path), ["unit"], "socket-unit"], [str(tmp_path), ["hosts.deny"], "wrappers"]]}
    armed(daemon, watch)
    daemon.plan({"patient": True})
    daemon.next(lambda: put(tmp_path / "unit", "gone"))
    daemon.plan(watch, run=[["sleep", "0.5"]])
    daemon.over()
    daemon.next(lambda: put(tmp_path / "hosts.deny", "ALL: ALL\n"))
    looked = len(daemon.wakes)
    put(tmp_path / "unit", "changed")
    wait(lambda: any("socket-unit" in wake["reasons"] for wake in daemon.wakes[looked:]), "a look at the unit")


def test_a_process_that_is_gone_before_it_is_watched(daemon: Daemon) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    daemon.plan({"pids": [process.pid]})
    daemon.start()
    daemon.settled(1)
    daemon.plan()
    daemon.settled(2)
    assert reasons(daemon.wakes[1]) == {"sshd-exit"}


def test_addresses_and_routes(daemon: Daemon) -> None:
    daemon.space.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    armed(daemon)
    for words in (
        "link set eth0 up",
        "addr add 10.9.8.7/24 dev eth0",
        "route add 10.77.0.0/16 via 10.9.8.1",
        "rule add from 10.9.8.7 lookup 100",
        "-6 addr add 2001:db8::7/64 dev eth0 nodad",
        "addr del 10.9.8.7/24 dev eth0",
    ):
        assert reasons(daemon.next(lambda: daemon.space.run("ip", *words.split()))) == {"network"}  # noqa: B023 called at once
        time.sleep(0.3)  # IPv6 has more to say about a link that came up


def test_an_address_that_is_announced_again_is_no_change(daemon: Daemon) -> None:
    daemon.space.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1")
    armed(daemon)
    again = "addr replace 10.9.8.7/24 dev eth0 valid_lft 300 preferred_lft 300".split()
    daemon.next(lambda: daemon.space.run("ip", *again))
    time.sleep(0.3)
    before = len(daemon.wakes)
    for _ in range(3):
        daemon.space.run("ip", *again)
    time.sleep(0.4)
    assert len(daemon.wakes) == before


# -- the pulse


def listen(space: Namespace, port: int, *, accept: bool = False) -> subprocess.Popen[bytes]:
    code = f"""
import socket
s = socket.create_server(("0.0.0.0", {port}))
print("ready", flush=True)
while True:
    if {accept}:
        s.accept()[0].close()
    else:
        import time; time.sleep(3600)
"""
    process = subprocess.Popen(space.argv(sys.executable, "-c", code), stdout=subprocess.PIPE)
    assert process.stdout and process.stdout.readline() == b"ready\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    if process.stdout:
        process.stdout.close()


def test_a_listener_that_goes_and_comes(daemon: Daemon) -> None:
    process = listen(daemon.space, 2222)
    armed(daemon, {"ports": [2222], "pulse": 0.1})
    time.sleep(0.3)
    assert len(daemon.wakes) == 1
    assert reasons(daemon.next(lambda: end(process))) == {"listener"}
    other = listen(daemon.space, 2223)
    time.sleep(0.3)
    assert len(daemon.wakes) == 2
    again = []
    assert reasons(daemon.next(lambda: again.append(listen(daemon.space, 2222)))) == {"listener"}
    end(other)
    end(again[0])


def test_an_accept_queue_that_does_not_drain(daemon: Daemon) -> None:
    hung, fine = listen(daemon.space, 2222), listen(daemon.space, 2223, accept=True)
    armed(daemon, {"ports": [2222, 2223], "pulse": 1.0})
    connect = "import socket, time; s = socket.create_connection(('127.0.0.1', %d)); time.sleep(%d)"
    for _ in range(3):
        daemon.space.run(sys.executable, "-c", connect % (2223, 0))
    begin = time.monotonic()
    clients = []
    argv = daemon.space.argv(sys.executable, "-c", connect % (2222, 3600))
    wake = daemon.next(lambda: clients.append(subprocess.Popen(argv)))
    assert reasons(wake) == {"queue"}
    assert 1.0 <= time.monotonic() - begin < 4.0
    for process in (hung, fine, *clients):
        end(process)


def test_legacy_tables_by_their_fingerprint_without_counters(daemon: Daemon) -> None:
    armed(daemon, {"pulse": 0.1})
    for program in ("iptables-legacy", "ip6tables-legacy"):
        for words in ("-A INPUT -p tcp --dport 9 -j DROP", "-R INPUT 1 -p tcp --dport 10 -j DROP"):
            wake = daemon.next(lambda: daemon.space.run(program, "-w", *words.split()))  # noqa: B023 called at once
            assert reasons(wake) == {"legacy"}
            time.sleep(0.3)
    before = len(daemon.wakes)
    daemon.space.run(sys.executable, "-c", "import socket; print(socket.socket().connect_ex(('127.0.0.1', 1)))")
    time.sleep(0.4)
    assert len(daemon.wakes) == before
    assert daemon.wakes[0]["missing"] == daemon.wakes[-1]["missing"] == []


def test_the_legacy_command_is_met_without_a_pulse(daemon: Daemon) -> None:
    # The first call makes the lock file where there is none yet, and is over before it can be watched.
    daemon.space.run("iptables-legacy", "-w", "-S")
    armed(daemon)
    for words in ("-A INPUT -p tcp --dport 9 -j DROP", "-D INPUT 1"):
        wake = daemon.next(lambda: daemon.space.run("iptables-legacy", "-w", *words.split()))  # noqa: B023 called at once
        assert reasons(wake) == {"legacy"}
        time.sleep(0.3)
    daemon.space.run("iptables-legacy", "-w", "-S")
    time.sleep(0.3)
    assert len(daemon.wakes) == 3


LOOKS = """
import os, subprocess
from ec2ssh_agent.supervise.firewall import Legacy

def filled(number):
    rules = "".join(f"-A INPUT -s 10.8.{i // 250}.{i % 250} -j DROP\\n" for i in range(number))
    subprocess.run(["iptables-legacy-restore"], input=f"*filter\\n{rules}COMMIT\\n".encode(), check=True)

def size():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

looks = Legacy()
filled(5000)
assert looks.moved(1.0) is False and looks.moved(2.0) is None
filled(5001)
assert looks.moved(2.5) is True and looks.moved(2.6) is None

looks, now, sizes = Legacy(), 0.0, []
for number in (10, 20000, 10, 20000, 10):
    filled(number)
    now += 1e6
    assert looks.moved(now) is (now > 1e6)
    sizes.append(size())
assert sizes[-1] - sizes[2] < 1 << 20, sizes

lists = [f for f in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{f}")
         and os.readlink(f"/proc/self/fd/{f}").endswith("/ip_tables_names")]
os.dup2(os.pipe()[0], int(lists[0]))  # as when the module ip_tables was taken out: it cannot be read any more
try:
    looks.moved(now + 1e6)
    raise SystemExit("it read a pipe")
except OSError:
    filled(11)
assert looks.moved(now + 2e6) is True
"""


def test_looks_at_large_legacy_tables_keep_no_memory_and_a_dead_list_is_opened_anew(daemon: Daemon) -> None:
    daemon.space.run("env", f"PYTHONPATH={ROOT / 'agent'}", sys.executable, "-c", LOOKS)


def test_a_clock_that_is_set(daemon: Daemon) -> None:
    armed(daemon, {"pulse": 0.1})
    assert reasons(daemon.next(lambda: put(daemon.directory / "offset", "3600"))) == {"clock"}
    time.sleep(0.3)
    assert len(daemon.wakes) == 2


def test_the_banner_probe_reports_a_change_of_the_answer_only(daemon: Daemon) -> None:
    process = listen(daemon.space, 2222, accept=True)
    armed(daemon, {"probe": 0.1, "probe_at": ["127.0.0.1", 2222]})
    daemon.settled(2)
    assert reasons(daemon.wakes[1]) == {"banner"}  # closed without a banner
    time.sleep(0.5)
    assert len(daemon.wakes) == 2
    assert reasons(daemon.next(lambda: end(process))) == {"banner"}


# -- timer, verification, budget


def test_the_timer_and_a_wanted_pass(daemon: Daemon) -> None:
    daemon.plan({"interval": 0.3, "again": 0.1})
    daemon.start()
    daemon.settled(2)
    assert reasons(daemon.wakes[1]) == {"verify"}
    daemon.plan({"interval": 0.3})
    wait(lambda: any(reasons(wake) == {"timer"} for wake in daemon.wakes), "the timer")


def test_endless_change_is_met_with_few_passes(daemon: Daemon) -> None:
    """One worker makes them, which rests between them and goes when the flood is over."""
    armed(daemon, {}, burn=0.05)
    text = "".join("flush chain inet x y\nadd rule inet x y drop\n" for _ in range(5))
    daemon.space.run("nft", "add table inet x; add chain inet x y")
    begin, changes = time.monotonic(), 0
    while time.monotonic() - begin < 8.0:
        daemon.space.run("nft", "-f", "-", stdin=text)
        changes += 1
        time.sleep(0.02)
    took = time.monotonic() - begin
    passes = len(daemon.wakes) - 1
    # 0.05 s and a little each; half a second of CPU at once, 3.5 % of the time after it.
    assert 6 <= passes <= 2 + (0.5 + took * 0.035) / 0.05, (passes, changes, took)
    stayed = [wake["kept"] for wake in daemon.wakes if wake["stay"]]
    assert len(stayed) >= 3 and len(set(stayed[1:])) == 1, stayed
    daemon.over()
    made = len(daemon.wakes)
    daemon.next(lambda: daemon.space.run("nft", "delete", "table", "inet", "x"))
    assert not daemon.wakes[made]["stay"] and "failed" not in daemon.log, daemon.log


def test_a_pass_that_repairs_keeps_the_next_fault_waiting_for_nothing(daemon: Daemon) -> None:
    armed(daemon, {"repaired": True}, burn=1.0)
    begin = time.monotonic()
    daemon.next(lambda: daemon.space.run("nft", "add", "table", "inet", "x"))
    assert time.monotonic() - begin < 3.0  # else five seconds, the longest that a dear pass is paid for


# -- passes that go wrong


def test_what_a_pass_keeps_the_next_one_gets_unless_it_crashed(daemon: Daemon) -> None:
    armed(daemon)
    assert daemon.wakes[0]["kept"] == ""
    first = daemon.next(lambda: daemon.signal(signal.SIGUSR1))["kept"]
    second = daemon.next(lambda: daemon.signal(signal.SIGUSR1))["kept"]
    assert first.startswith("of ") and second.startswith("of ") and first != second
    daemon.plan(crash=True)
    daemon.next(lambda: daemon.signal(signal.SIGUSR1))
    daemon.plan()
    daemon.settled(5)
    assert daemon.wakes[4]["kept"] == ""


def test_a_crash_is_told_to_the_next_pass_and_the_supervisor_lives(daemon: Daemon) -> None:
    armed(daemon)
    daemon.plan(crash=True)
    daemon.next(lambda: daemon.space.run("nft", "add", "table", "inet", "x"))
    daemon.plan()
    daemon.settled(3)
    wake = daemon.wakes[2]
    assert wake["crashes"] == 1 and wake["trouble"] == "ZeroDivisionError: by nought"
    assert "ruleset" in wake["reasons"] and wake["by"]
    assert "Traceback" in daemon.log
    assert daemon.next(lambda: daemon.signal(signal.SIGUSR1))["crashes"] == 0


def test_while_passes_fail_a_file_says_so_to_everybody(daemon: Daemon) -> None:
    trouble = daemon.directory / "trouble"
    watch = {"trouble_file": str(trouble)}
    armed(daemon, watch)
    daemon.plan(watch, crash=True)
    daemon.next(lambda: daemon.signal(signal.SIGUSR1))
    wait(lambda: trouble.exists() and trouble.read_text(), "the trouble file")
    assert trouble.read_text() == "ZeroDivisionError: by nought\n" and trouble.stat().st_mode & 0o777 == 0o644
    daemon.plan(watch)
    wait(lambda: not trouble.exists(), "the end of the trouble")


def test_a_pass_that_hangs_is_killed_and_made_again(daemon: Daemon) -> None:
    daemon.plan(hang=True)
    daemon.start(environment={"DEADLINE": "0.5", "WATCHDOG_USEC": "400000"})
    daemon.told("WATCHDOG=1")
    daemon.settled(1)
    daemon.plan()
    daemon.settled(2)
    assert daemon.wakes[1]["trouble"] == "the pass took too long"
    daemon.told("WATCHDOG=1")


# -- systemd and signals


def test_a_reload_is_over_when_its_pass_is(daemon: Daemon) -> None:
    armed(daemon)
    wake = daemon.next(lambda: daemon.signal(signal.SIGHUP))
    assert reasons(wake) == {"reload"}
    assert set(daemon.told("RELOADING=1")) == {"RELOADING", "MAINPID", "MONOTONIC_USEC"}
    daemon.told("READY=1")


def test_stopping_lets_the_pass_finish(daemon: Daemon) -> None:
    armed(daemon)
    daemon.plan(until_stopped=True)
    daemon.next(lambda: daemon.signal(signal.SIGUSR1))
    assert daemon.stop() == 0
    assert (daemon.directory / "finished").read_text() == "yes"
    daemon.told("STOPPING=1")


def test_without_its_capability_a_source_is_missing_and_the_rest_works(daemon: Daemon, tmp_path: Path) -> None:
    setpriv = shutil.which("setpriv")
    assert setpriv
    watch = {"directories": [[str(tmp_path), ["x"], "config"]], "pulse": 0.1, "ports": [2222]}
    daemon.plan({"status": "armed", **watch})
    daemon.start(setpriv, "--bounding-set=-net_admin,-net_raw", "--inh-caps=-net_admin,-net_raw")
    daemon.told("STATUS=armed")
    assert [re.sub(":.*", "", item) for item in daemon.wakes[0]["missing"]] == ["ruleset"]
    assert reasons(daemon.next(lambda: (tmp_path / "x").touch())) == {"config"}
    assert daemon.next(lambda: daemon.signal(signal.SIGUSR1))["missing"]


def test_a_source_that_goes_and_comes_is_told_at_once(daemon: Daemon, tmp_path: Path) -> None:
    place = tmp_path / "circle"
    os.symlink("circle", place)
    armed(daemon, {"directories": [[str(place), [], "ufw"]]})
    [told] = daemon.wakes[1]["missing"]
    assert reasons(daemon.wakes[1]) == {"sources", "ufw"} and told.startswith(f"files: {place} (")
    place.unlink()
    wait(lambda: daemon.wakes[-1]["missing"] == [], "the source again")
    daemon.over()
    known = len(daemon.wakes)
    assert daemon.next(lambda: os.symlink("circle", place))["missing"] == [told]
    daemon.over()
    time.sleep(0.5)
    assert len(daemon.wakes) == known + 1, "told once"


def test_listeners_as_a_pass_observes_them(daemon: Daemon) -> None:
    code = """
import socket
from ec2ssh_agent.observe import sockets
from ec2ssh_agent.reach.ruleset import Family
a = socket.create_server(("127.0.0.1", 2201), backlog=7)
b = socket.create_server(("::", 2202), family=socket.AF_INET6, dualstack_ipv6=True)
c = socket.create_server(("::1", 2203), family=socket.AF_INET6)
d = socket.socket(); d.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo"); d.bind(("", 2204)); d.listen()
e = socket.create_connection(("127.0.0.1", 2201))
found = {one.port: one for one in sockets.listeners().value}
assert sorted(found) == [2201, 2202, 2203, 2204], found
assert found[2201].family is Family.IPV4 and found[2201].address == 0x7F000001
assert (found[2201].queue, found[2201].backlog, found[2201].uid) == (1, 7, 0)
assert found[2202].family is Family.IPV6 and found[2202].address == 0 and not found[2202].v6only
assert found[2203].address == 1 and found[2203].v6only
assert found[2204].device == "lo" and found[2201].device == ""
import os
assert found[2201].inode == os.fstat(a.fileno()).st_ino
"""
    daemon.space.run("env", f"PYTHONPATH={ROOT / 'agent'}", sys.executable, "-c", code)


def test_a_log_that_nobody_takes_ends_neither_the_supervisor_nor_makes_a_second(daemon: Daemon) -> None:
    daemon.plan(crash=True)
    daemon.start(log_to="/dev/full")
    daemon.settled(2)  # one that crashed, and the next
    daemon.plan({"status": "recovered"})
    daemon.told("STATUS=recovered")
    assert daemon.process and daemon.process.poll() is None
    daemon.over()
    assert daemon.stop() == 0
