"""What passes hand to each other: kept, distrusted, and right about time whatever the clock does."""

from __future__ import annotations

import json
from typing import Optional

import pytest

from ec2ssh_agent import memory
from ec2ssh_agent.config import Config
from ec2ssh_agent.host import Failed, Stat
from ec2ssh_agent.memory import COPY, PATH, STATE, Clock, Memory
from ec2ssh_agent.reach.ruleset import Family
from fake_host import FakeHost

YEAR = 365 * 86400.0
CONFIG = Config(repair_max_attempts=3, repair_window=600.0)
BOOT = "/proc/sys/kernel/random/boot_id"
ALL = ((0, (1 << 32) - 1),)
TEN = ((10 << 24, (11 << 24) - 1),)
ETH0 = ("eth0", Family.IPV4)


def machine(boot: str = "boot-1") -> FakeHost:
    host = FakeHost({BOOT: boot.encode() + b"\n"})
    host.directory("/var/lib/ec2ssh-agent")
    return host


def clock(host: FakeHost) -> Clock:
    return Clock(host.now(), host.monotonic())


def full(host: FakeHost) -> Memory:
    kept = memory.load(host, "i-1")
    for _ in range(4):
        kept = memory.observe_baseline(kept, {ETH0: TEN, ("eth0", Family.IPV6): ()}, host.monotonic(), 30.0)
        host.advance(20.0)
    kept = memory.attempted(kept, "firewall-drop:eth0", CONFIG, host.monotonic(), ("ansible (pid 7)",))
    kept = memory.silence(kept, "wrappers-deny")
    kept = memory.verdict(kept, unhealthy=True, boot=host.monotonic())
    files = {"/etc/ssh/sshd_config": b"Port 22\n\xff"}
    kept = memory.learn_known_good(kept, files, hashes=(("/etc/ssh/sshd_config", "ab"),), sockets=(17,))
    return memory.pause(kept, clock(host), 3600.0)


def test_what_is_saved_is_what_is_loaded() -> None:
    host = machine()
    kept = full(host)
    memory.save(host, kept)
    assert memory.load(host, "i-1") == kept
    status = host.stat(PATH)
    assert status and status.mode & 0o777 == 0o600


def test_nothing_is_written_while_nothing_changes() -> None:
    host = machine()
    memory.save(host, full(host))
    host.changes.clear()
    memory.save(host, memory.load(host, "i-1"))
    assert not [change for change in host.changes if change[0] == "replace"]


class Failing(FakeHost):
    """Its disk gives EIO for whatever is below the state directory, once `broken`."""

    broken = False

    def stat(self, path: str, *, follow: bool = True) -> Optional[Stat]:
        if self.broken and path.startswith(STATE):
            raise Failed(f"{path}: Input/output error")
        return super().stat(path, follow=follow)


def test_a_disk_that_fails_takes_no_memory_with_it_until_the_next_boot() -> None:
    host = Failing({BOOT: b"boot-1\n"})
    kept = full(host)
    memory.save(host, kept)
    host.broken = True
    found = memory.load(host, "i-1")
    assert "Input/output error" in found.notes[0] and found._replace(notes=()) == kept
    resumed = memory.resume(found)
    with pytest.raises(Failed):
        memory.save(host, resumed)
    assert memory.load(host, "i-1")._replace(notes=()) == resumed._replace(notes=())
    host.remove(COPY)
    assert "Input/output error" in memory.load(host, "i-1").notes[0]


def test_garbage_on_the_disk_takes_no_pause_with_it_until_the_next_boot() -> None:
    host = machine()
    kept = full(host)
    memory.save(host, kept)
    host.put(PATH, b"{garbage", mode=0o600)
    found = memory.load(host, "i-1")
    assert found.notes and found._replace(notes=()) == kept and memory.paused(found, clock(host))
    host.put(COPY, b"garbage, too", mode=0o600)
    assert "begun afresh" in memory.load(host, "i-1").notes[0]


def test_a_full_run_stops_no_saving() -> None:
    host = machine()
    host.denied.add("/run/ec2ssh-agent")
    memory.save(host, full(host))
    assert memory.paused(memory.load(host, "i-1"), clock(host))


def test_an_image_that_runs_elsewhere_begins_afresh() -> None:
    host = machine()
    memory.save(host, full(host))
    other = memory.load(host, "i-2")
    assert other.notes and other._replace(notes=(), booted=0.0) == Memory("i-2", "boot-1")


GARBAGE = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b"null",
    b"[" * 100_000,
    b'{"identity": 1}',
    b'{"identity": "i-1", "ways": [1]}',
]


@pytest.mark.parametrize("content", GARBAGE)
def test_garbage_begins_afresh_and_says_so(content: bytes) -> None:
    host = machine()
    host.put(PATH, content, mode=0o600)
    found = memory.load(host, "i-1")
    assert found.notes and found._replace(notes=(), booted=0.0) == Memory("i-1", "boot-1")
    memory.save(host, found)
    assert json.loads(host.read(PATH))["identity"] == "i-1"


@pytest.mark.parametrize(("mode", "uid"), [(0o666, 0), (0o620, 0), (0o600, 1000)])
def test_what_others_can_write_is_not_believed(mode: int, uid: int) -> None:
    host = machine()
    memory.save(host, full(host))
    node = host.nodes[PATH]
    host.put(PATH, node.content, mode=mode, uid=uid)
    found = memory.load(host, "i-1")
    assert found.notes and not memory.paused(found, clock(host))
    memory.save(host, found)
    status = host.stat(PATH)
    assert status and (status.uid, status.mode & 0o777) == (0, 0o600)


def test_a_symlink_is_neither_read_nor_written_through() -> None:
    host = machine()
    host.put("/home/eve/state.json", b"precious")
    host.link(PATH, "/home/eve/state.json")
    found = memory.load(host, "i-1")
    assert found.notes
    memory.save(host, found)
    assert host.read("/home/eve/state.json") == b"precious"
    assert memory.load(host, "i-1").notes == ()


def test_a_set_becomes_the_baseline_when_it_has_held() -> None:
    kept = Memory("i-1")
    kept = memory.observe_baseline(kept, {ETH0: ALL}, 100.0, 60.0)
    assert memory.baseline(kept) == {}
    assert memory.baseline_due(kept, 100.0, 60.0) == 60.0
    kept = memory.observe_baseline(kept, {ETH0: TEN}, 159.0, 60.0)  # another set: begins again
    kept = memory.observe_baseline(kept, {ETH0: TEN}, 218.0, 60.0)
    assert memory.baseline(kept) == {}
    kept = memory.observe_baseline(kept, {ETH0: TEN}, 219.0, 60.0)
    assert memory.baseline(kept) == {ETH0: TEN}
    assert memory.baseline_due(kept, 219.0, 60.0) is None


def test_an_empty_set_is_never_the_baseline() -> None:
    kept = Memory("i-1")
    for boot in (0.0, 100.0, 200.0):
        kept = memory.observe_baseline(kept, {ETH0: ALL}, boot, 60.0)
    for boot in (300.0, 400.0, 500.0):
        kept = memory.observe_baseline(kept, {ETH0: ()}, boot, 60.0)
    assert memory.baseline(kept) == {ETH0: ALL}


def test_the_verdict_settles_from_its_first_sight() -> None:
    kept = Memory("i-1")
    assert memory.unhealthy_for(kept, 5.0) == 0.0
    for boot in (10.0, 10.2, 10.4):
        kept = memory.verdict(kept, unhealthy=True, boot=boot)
    assert memory.unhealthy_for(kept, 10.5) == pytest.approx(0.5)
    kept = memory.verdict(kept, unhealthy=False, boot=11.0)
    kept = memory.verdict(kept, unhealthy=True, boot=12.0)
    assert memory.unhealthy_for(kept, 12.5) == pytest.approx(0.5)


def test_the_circuit_opens_names_the_other_doubles_and_ends() -> None:
    kept, boot, waits = Memory("i-1"), 1000.0, []
    for _ in range(10):
        for _ in range(CONFIG.repair_max_attempts):
            assert memory.may_attempt(kept, "f", boot) is None
            kept = memory.attempted(kept, "f", CONFIG, boot, ("puppet (pid 9)",))
            boot += 1.0
        tripped = memory.may_attempt(kept, "f", boot)
        assert tripped and "puppet (pid 9)" in tripped.why
        assert memory.may_attempt(kept, "another fault", boot) is None
        assert memory.shown(kept, Clock(0.0, boot))["f"] == tripped.why
        waits.append(tripped.seconds + 1.0)
        boot += tripped.seconds
    assert waits == [min(86400.0, 600.0 * 2**n) for n in range(10)]
    assert memory.may_attempt(memory.rearm(kept), "f", boot - 10.0) is None


def test_attempts_far_apart_open_nothing() -> None:
    kept = Memory("i-1")
    for n in range(50):
        kept = memory.attempted(kept, "f", CONFIG, 1000.0 + 601.0 * n)
        assert memory.may_attempt(kept, "f", 1001.0 + 601.0 * n) is None


def test_the_memory_of_attempts_is_bounded() -> None:
    kept = Memory("i-1")
    for n in range(1000):
        kept = memory.attempted(kept, f"f:{n}", CONFIG, float(n))
        kept = memory.silence(kept, f"f:{n}")
    assert len(kept.attempts) == len(kept.silenced) == 64
    for n in range(1000):
        kept = memory.attempted(kept, "f", CONFIG, 1000.0 + n / 10)
    assert len(memory._of(kept, "f").times) == CONFIG.repair_max_attempts


@pytest.mark.parametrize("jump", [-YEAR, YEAR])
def test_a_jump_of_the_clock_neither_rearms_nor_blocks(jump: float) -> None:
    host = machine()
    kept = memory.pause(memory.load(host, "i-1"), clock(host), 3600.0)
    for _ in range(3):
        kept = memory.attempted(kept, "f", CONFIG, host.monotonic())
    host.epoch += jump
    memory.save(host, kept)
    kept = memory.load(host, "i-1")
    tripped = memory.may_attempt(kept, "f", host.monotonic())
    assert tripped and tripped.seconds == pytest.approx(600.0)
    assert memory.paused(kept, clock(host)) == pytest.approx(3600.0)
    host.advance(3601.0)
    assert memory.may_attempt(kept, "f", host.monotonic()) is None
    assert memory.paused(kept, clock(host)) == 0.0


def test_a_pause_survives_a_reboot() -> None:
    host = machine()
    memory.save(host, memory.pause(memory.load(host, "i-1"), clock(host), 3600.0))
    host.put(BOOT, b"boot-2\n")
    host.epoch, host.boot = host.epoch + 600.0, 30.0
    assert memory.paused(memory.load(host, "i-1"), clock(host)) == pytest.approx(3000.0)


@pytest.mark.parametrize("jump", [-YEAR, YEAR])
def test_a_pause_ends_even_if_the_clock_jumps_over_a_reboot(jump: float) -> None:
    host = machine()
    memory.save(host, memory.pause(memory.load(host, "i-1"), clock(host), 3600.0))
    host.put(BOOT, b"boot-2\n")
    host.epoch, host.boot = host.epoch + jump, 30.0
    left = memory.paused(memory.load(host, "i-1"), clock(host))
    assert 0.0 <= left <= 3570.0
    host.advance(3600.0)
    assert memory.paused(memory.load(host, "i-1"), clock(host)) == 0.0


def test_a_reboot_keeps_the_baseline_and_gives_a_new_chance() -> None:
    host = machine()
    kept = full(host)
    for _ in range(3):
        kept = memory.attempted(kept, "f", CONFIG, host.monotonic())
    memory.save(host, kept)
    host.put(BOOT, b"boot-2\n")
    host.boot = 1.0
    kept = memory.load(host, "i-1")
    assert memory.baseline(kept) == {ETH0: TEN}
    assert memory.may_attempt(kept, "f", host.monotonic()) is None
    assert memory.unhealthy_for(kept, host.monotonic()) == 0.0
    assert memory.known_good(kept) == {"/etc/ssh/sshd_config": b"Port 22\n\xff"}
    assert memory.is_silenced(kept, "wrappers-deny")


def test_undo_silences_until_the_thing_changes() -> None:
    kept = memory.silence(Memory("i-1"), "f")
    for _ in range(3):
        kept = memory.hear(kept, {"f": "rule 1", "g": "x"})
        assert memory.is_silenced(kept, "f") and not memory.is_silenced(kept, "g")
    assert not memory.is_silenced(memory.hear(kept, {"f": "rule 2"}), "f")
    assert not memory.is_silenced(memory.hear(kept, {}), "f")
    assert not memory.is_silenced(memory.resume(kept), "f")
