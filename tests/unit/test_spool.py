"""The spool: order, bounds, what a kill at any point leaves, and acknowledgements from a hostile reporter."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

import ec2ssh_agent
from ec2ssh_agent.config import Config, parse
from ec2ssh_agent.host import Failed, Host
from ec2ssh_agent.report import spool
from fake_host import FakeHost
from status_example import example

SCHEMA = json.loads((Path(ec2ssh_agent.__file__).parent / "schemas/report.json").read_text())
CONFIG = Config(report_url="https://user:secret@health.example/in?key=1")


def place(host: Host, path: str, content: bytes) -> None:
    target = Path(host.path(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def acknowledge(host: Host, id: str, outcome: str = "delivered", answer: str = "200 OK") -> None:
    place(host, f"{spool.REPORTER}/{id}", json.dumps({"outcome": outcome, "answer": answer, "time": "t"}).encode())


def document(health: str = "unreachable", **changes: Any) -> dict[str, Any]:
    return {**example(), "health": health, **changes}


def kinds(host: Host) -> list[str]:
    return [entry.kind for entry in spool.entries(host)]


def test_reports_are_kept_in_order_with_a_number_and_a_key(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    ids = [spool.enqueue(host, CONFIG, document(), None, kind) for kind in ("change", "repair", "change")]
    found = spool.entries(host)
    assert [entry.id for entry in found] == ids
    reports = [json.loads(spool.read(host, entry)) for entry in found]
    assert [(r["sequence"], r["kind"], r["id"]) for r in reports] == list(zip((1, 2, 3), kinds(host), ids))
    assert reports[0]["health"] == "unreachable" and reports[0]["findings"][0]["id"] == "firewall-drop"


def test_what_was_delivered_is_swept_and_its_number_not_used_again(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    acknowledge(host, spool.enqueue(host, CONFIG, document(), None, "change"))
    spool.sweep(host)
    assert spool.entries(host) == ()
    spool.enqueue(host, CONFIG, document(), None, "change")
    assert [entry.sequence for entry in spool.entries(host)] == [2]


def test_heartbeats_are_dropped_first_and_repairs_last_and_counted(tmp_path: Path) -> None:
    host, config = Host(str(tmp_path)), CONFIG._replace(report_spool_max=8_000)
    for kind in ("repair", "change", "heartbeat", "change", "heartbeat", "repair"):
        spool.enqueue(host, config, document(), None, kind)
    size = sum(len(spool.read(host, entry)) for entry in spool.entries(host))
    each = size // len(spool.entries(host))
    while size + each <= 8_000:
        spool.enqueue(host, config, document(), None, "repair")
        size += each
    dropped = []
    for _ in range(6):
        before = set(spool.entries(host))
        spool.enqueue(host, config, document(), None, "repair")
        dropped += [entry.kind for entry in sorted(before - set(spool.entries(host)))]
        assert sum(len(spool.read(host, entry)) for entry in spool.entries(host)) <= 8_000
    rank = {"heartbeat": 0, "change": 1, "repair": 2}
    assert dropped == sorted(dropped, key=lambda kind: rank[kind]) and "repair" in dropped
    assert spool.summary(host, config)["dropped"] >= len(dropped)


def test_a_test_report_drops_no_change_and_no_repair(tmp_path: Path) -> None:
    host, config = Host(str(tmp_path)), CONFIG._replace(report_spool_max=8_000)
    while not spool.read_state(host).dropped:
        spool.enqueue(host, config, document(), None, "change")
    before = spool.entries(host)
    with pytest.raises(Failed, match="full"):
        spool.enqueue(host, config, document(), None, "test")
    assert spool.entries(host) == before and spool.read_state(host).dropped == 1


def test_another_instance_begins_afresh(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    spool.enqueue(host, CONFIG, document(), None, "change")
    spool.enqueue(host, CONFIG, document(instance={"id": "i-0fedcba9876543210"}), None, "change")
    assert [entry.sequence for entry in spool.entries(host)] == [1]
    assert json.loads(spool.read(host, spool.entries(host)[0]))["instance"]["id"] == "i-0fedcba9876543210"


def test_what_is_told(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    sick, well = document(), document("ok", findings=[])
    first = document(repairs=[])
    assert spool.tell(host, CONFIG, first, None) == ("change",)
    assert spool.tell(host, CONFIG, first, first) == ()
    assert spool.tell(host, CONFIG, sick, first) == ("repair",)
    assert spool.tell(host, CONFIG, well, sick) == ("change",)
    assert spool.tell(host, Config(), first, well) == ()
    last = json.loads(spool.read(host, spool.entries(host)[-1]))
    assert last["previous"] == "unreachable" and last["findings"] == [] and last["resolved"][0]["id"] == "firewall-drop"


def test_a_repair_of_the_first_pass_is_told(tmp_path: Path) -> None:
    # The document was made after the agent's start at 14:00, the repair at 14:14.
    host = Host(str(tmp_path))
    assert spool.tell(host, CONFIG, document(), None) == ("repair",)
    old = document(agent={**example()["agent"], "started": "2026-11-28T14:20:00Z"})
    assert spool.tell(host, CONFIG, old, None) == ("change",)


def test_the_summary_says_what_waits_and_shows_no_secret(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    assert spool.summary(host, Config()) == {"url": None}
    ids = [spool.enqueue(host, CONFIG, document(), None, "change") for _ in range(3)]
    acknowledge(host, ids[0])
    acknowledge(host, ids[1], "parked", "401 Unauthorized")
    place(host, f"{spool.REPORTER}/state.json", b'{"answer": "401 Unauthorized", "delivered": "2026-11-28T14:10:00Z"}')
    assert spool.summary(host, CONFIG) == {
        "url": "https://health.example/in", "waiting": 1, "parked": 1, "parked_because": "401 Unauthorized",
        "dropped": 0, "delivered": "2026-11-28T14:10:00Z", "last": "401 Unauthorized", "last_time": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:p@ssw0rd@health.example/in?key=1", "https://health.example/in"),
        ("https://health.example/@me?to=a@b#c", "https://health.example/@me"),
        ("http+unix://%2Frun%2Fthing.sock/in", "http+unix://%2Frun%2Fthing.sock/in"),
    ],
)
def test_the_url_is_shown_without_secrets(url: str, shown: str) -> None:
    assert spool.shown_url(url) == shown


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe", b"[]", b"null", b'{"outcome": 1}', b'{"outcome": "delivered"' + b" " * 5000 + b"}",
        b"[" * 4000, b'{"outcome": "removed"}', b'"delivered"',
    ],
)  # fmt: skip
def test_an_acknowledgement_that_is_none_removes_nothing(tmp_path: Path, content: bytes) -> None:
    host = Host(str(tmp_path))
    id = spool.enqueue(host, CONFIG, document(), None, "change")
    place(host, f"{spool.REPORTER}/{id}", content)
    spool.sweep(host)
    assert len(spool.entries(host)) == 1 and spool.summary(host, CONFIG)["waiting"] == 1


def test_an_acknowledgement_may_be_anything_but_a_file(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    ids = [spool.enqueue(host, CONFIG, document(), None, "change") for _ in range(3)]
    secret = tmp_path / "secret"
    secret.write_text('{"outcome": "delivered"}')
    Path(host.path(spool.REPORTER)).mkdir(parents=True)
    os.symlink(secret, host.path(f"{spool.REPORTER}/{ids[0]}"))
    os.mkfifo(host.path(f"{spool.REPORTER}/{ids[1]}"))
    Path(host.path(f"{spool.REPORTER}/{ids[2]}")).mkdir()
    spool.sweep(host)
    assert len(spool.entries(host)) == 3


def test_what_the_endpoint_said_is_made_printable(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    id = spool.enqueue(host, CONFIG, document(), None, "change")
    acknowledge(host, id, "parked", "\x1b[2J" + "x" * 1000)
    assert spool.summary(host, CONFIG)["parked_because"].startswith("?[2Jxxx")
    assert len(spool.summary(host, CONFIG)["parked_because"]) == 300


def test_a_huge_report_is_cut(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    finding = {**example()["findings"][0], "summary": "x" * 100_000, "evidence": ["y" * 100_000] * 1000}
    spool.enqueue(host, CONFIG, document(findings=[finding] * 50), None, "change")
    spool.enqueue(host, CONFIG, document(findings=[finding] * 5000), None, "change")
    assert all(len(spool.read(host, entry)) < 1 << 20 for entry in spool.entries(host))


def test_a_report_is_cut_to_the_spools_bound_and_not_lost(tmp_path: Path) -> None:
    """At the least bound that a configuration may have, whatever characters it is made of."""
    ((_, least, _),) = parse("[report]\nspool_max = 64KiB\n", "file")
    host, bounded = Host(str(tmp_path)), CONFIG._replace(report_spool_max=least)
    for number, text in enumerate(("x" * 100_000, "\N{PILE OF POO}" * 100_000, "\0" * 100_000)):
        findings = [{**example()["findings"][0], "subject": str(n), "summary": text, "repair": text} for n in range(50)]
        repairs = [{**example()["repairs"][0], "id": f"{n}", "commands": [text] * 9, "notes": [text]} for n in range(9)]
        for kind in ("change", "repair"):
            sick = document(findings=findings, repairs=repairs, summary=text)
            id = spool.enqueue(host, bounded, sick, None, kind)
            held = {entry.id: spool.read(host, entry) for entry in spool.entries(host)}
            assert sum(map(len, held.values())) <= least, (number, kind)
            report = json.loads(held[id])
            assert report["truncated"] and report["kind"] == kind and report["health"] == "unreachable"
            assert len(report["repairs"]) == 9
            jsonschema.validate(report, SCHEMA)


# -- kill points


class Killed(BaseException):
    """What a SIGKILL looks like from inside: nothing runs after it."""


class Fragile(Host):
    """Dies at the n-th step that changes the disk, before it or having done half of it."""

    def __init__(self, root: str, steps: int, half: bool) -> None:
        super().__init__(root)
        self.steps, self.half = steps, half

    def _step(self, half: Callable[[], None]) -> None:
        self.steps -= 1
        if self.steps == 0:
            if self.half:
                half()
            raise Killed

    def replace(self, path: str, content: bytes, *, mode: int = 0o644, like: bool = True, sync: bool = True) -> None:
        self._step(lambda: place(self, f"{path}.ec2ssh-agent.99", content[: len(content) // 2]))
        super().replace(path, content, mode=mode, like=like, sync=sync)

    def remove(self, path: str) -> None:
        self._step(lambda: None)
        super().remove(path)


def test_killed_at_any_point_nothing_that_was_accepted_is_lost(tmp_path: Path) -> None:
    seed = int(os.environ.get("EC2SSH_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    chance = random.Random(seed)
    host, config = Host(str(tmp_path)), CONFIG._replace(report_spool_max=1 << 20)
    accepted: list[str] = []
    delivered: set[str] = set()
    for _ in range(150):
        fragile = Fragile(str(tmp_path), chance.randrange(1, 9), chance.random() < 0.5)
        try:
            while True:
                accepted.append(spool.enqueue(fragile, config, document(), None, "change"))
                if chance.random() < 0.3:
                    acknowledge(host, accepted[-1])
                    delivered.add(accepted[-1])
        except Killed:
            there = spool.entries(host)
            assert {id for id in accepted if id not in delivered} <= {entry.id for entry in there}
            assert [entry.sequence for entry in there] == sorted({entry.sequence for entry in there})
            for entry in there:
                assert json.loads(spool.read(host, entry))["id"] == entry.id
    order = [entry.id for entry in spool.entries(host) if entry.id in accepted]
    assert order == [id for id in accepted if id in set(order)]
    spool.sweep(host)
    leftovers = [name for name in host.listdir(spool.DIRECTORY) if ".ec2ssh-agent." in name and "json" in name]
    assert not [name for name in leftovers if name[0].isdigit()]


def test_killed_while_dropping_the_count_is_never_short(tmp_path: Path) -> None:
    host, config = Host(str(tmp_path)), CONFIG._replace(report_spool_max=20_000)
    made: set[str] = set()
    for steps in range(1, 60):
        fragile = Fragile(str(tmp_path), steps % 7 + 1, False)
        try:
            for _ in range(5):
                spool.enqueue(fragile, config, document(), None, "change")
                made |= {entry.id for entry in spool.entries(host)}
        except Killed:
            made |= {entry.id for entry in spool.entries(host)}
    missing = len(made - {entry.id for entry in spool.entries(host)})
    assert missing and spool.summary(host, config)["dropped"] >= missing


def test_a_full_disk_is_an_error_and_leaves_the_spool_whole(tmp_path: Path) -> None:
    class Full(Host):
        def replace(
            self, path: str, content: bytes, *, mode: int = 0o644, like: bool = True, sync: bool = True
        ) -> None:
            raise Failed(f"{path}: No space left on device")

    host = Host(str(tmp_path))
    spool.enqueue(host, CONFIG, document(), None, "change")
    with pytest.raises(Failed, match="No space"):
        spool.enqueue(Full(str(tmp_path)), CONFIG, document(), None, "change")
    assert len(spool.entries(host)) == 1


class NoSpace(Host):
    """A full disk: nothing can be written below /var; /run is memory."""

    def replace(self, path: str, content: bytes, *, mode: int = 0o644, like: bool = True, sync: bool = True) -> None:
        if path.startswith("/var/"):
            raise Failed(f"{path}: No space left on device")
        super().replace(path, content, mode=mode, like=like, sync=sync)


def test_what_a_full_disk_kept_from_being_told_is_told_when_there_is_room(tmp_path: Path) -> None:
    host, full = Host(str(tmp_path)), NoSpace(str(tmp_path))
    Path(host.path("/run/ec2ssh-agent")).mkdir(parents=True)
    well = document("ok", findings=[], repairs=[])
    with pytest.raises(Failed, match="No space"):
        spool.tell(full, CONFIG, document(), well)
    with pytest.raises(Failed, match="No space"):
        spool.tell(full, CONFIG, document(), document())
    assert spool.tell(host, CONFIG, document(), document()) == ("repair",)
    (entry,) = spool.entries(host)
    report = json.loads(spool.read(host, entry))
    assert (report["previous"], report["health"]) == ("ok", "unreachable") and report["repairs"]
    assert spool.tell(host, CONFIG, document(), document()) == ()


def test_the_first_report_that_a_full_disk_kept(tmp_path: Path) -> None:
    host, full = Host(str(tmp_path)), NoSpace(str(tmp_path))
    Path(host.path("/run/ec2ssh-agent")).mkdir(parents=True)
    first = document(repairs=[])
    with pytest.raises(Failed, match="No space"):
        spool.tell(full, CONFIG, first, None)
    assert spool.tell(host, CONFIG, first, first) == ("change",)
    assert json.loads(spool.read(host, spool.entries(host)[0]))["previous"] is None


def test_a_disk_that_fills_midway_leaves_no_report_that_was_not_accepted(tmp_path: Path) -> None:
    class Filling(Host):
        room = 0

        def replace(
            self, path: str, content: bytes, *, mode: int = 0o644, like: bool = True, sync: bool = True
        ) -> None:
            self.room -= 1
            if self.room < 0:
                raise Failed(f"{path}: No space left on device")
            super().replace(path, content, mode=mode, like=like, sync=sync)

    host = Filling(str(tmp_path))
    for room in range(4):
        host.room = room
        with pytest.raises(Failed, match="No space"):
            spool.enqueue(host, CONFIG, document(), None, "change")
        assert spool.entries(host) == ()


def test_a_spool_that_others_can_write_is_taken_back(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    spool.enqueue(host, CONFIG, document(), None, "change")
    directory = Path(host.path(spool.DIRECTORY))
    directory.chmod(0o777)
    os.chown(directory, 65534, 65534)
    spool.enqueue(host, CONFIG, document(), None, "change")
    status = directory.stat()
    assert (status.st_uid, status.st_mode & 0o7777) == (0, 0o750)
    assert len(spool.entries(host)) == 2


def test_a_spool_from_before_the_reporters_group_was_made(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    spool.enqueue(host, CONFIG, document(), None, "change")
    directory = Path(host.path(spool.DIRECTORY))
    assert directory.stat().st_gid == 0
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/group").write_text("root:x:0:\nec2ssh-agent:x:4321:\n")
    spool.enqueue(host, CONFIG, document(), None, "change")
    assert (directory.stat().st_gid, directory.stat().st_mode & 0o7777) == (4321, 0o750)


def test_a_spool_that_is_none(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    directory = Path(host.path(spool.DIRECTORY))
    directory.parent.mkdir(parents=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    directory.symlink_to(elsewhere)
    with pytest.raises(Failed, match="not a directory"):
        spool.enqueue(host, CONFIG, document(), None, "change")
    assert list(elsewhere.iterdir()) == []


def test_an_instance_that_is_not_known_for_a_moment_loses_nothing(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    for instance in (document()["instance"], None, {"id": None}, document()["instance"]):
        spool.enqueue(host, CONFIG, document(instance=instance), None, "change")
    assert [entry.sequence for entry in spool.entries(host)] == [1, 2, 3, 4]


def test_a_report_says_how_many_were_dropped(tmp_path: Path) -> None:
    host, config = Host(str(tmp_path)), CONFIG._replace(report_spool_max=8_000)
    for _ in range(30):
        spool.enqueue(host, config, document(), None, "change")
    last = spool.entries(host)[-1]
    said = json.loads(spool.read(host, last))["dropped"]
    assert said == spool.summary(host, config)["dropped"] == 30 - len(spool.entries(host)) > 0


WRITE = """
import sys
from ec2ssh_agent.config import Config
from ec2ssh_agent.host import Host
from ec2ssh_agent.report import spool
from status_example import example
for _ in range(40):
    print(spool.enqueue(Host(sys.argv[1]), Config(report_url="https://a/"), example(), None, "change"))
"""


def test_a_pass_and_a_command_write_at_once(tmp_path: Path) -> None:
    here = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITE, str(tmp_path)], stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": here},
        )
        for _ in range(3)
    ]  # fmt: skip
    accepted = [writer.communicate(timeout=120)[0].split() for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    found = spool.entries(Host(str(tmp_path)))
    assert [entry.sequence for entry in found] == list(range(1, 121))
    assert sorted(entry.id for entry in found) == sorted(id for ids in accepted for id in ids)


def test_status_has_the_queue_of_now_for_who_may_look(tmp_path: Path) -> None:
    host = Host(str(tmp_path))
    Path(host.path(spool.REPORTER)).mkdir(parents=True)
    config = CONFIG._replace(report_url="https://user:secret@health.example/in?key=secret")
    seen = spool.summary(host, config)
    assert (seen["url"], seen["waiting"], seen["last"]) == ("https://health.example/in", 0, "none yet")
    spool.enqueue(host, config, document(), None, "change")
    said = {"answer": "503 Down", "time": "2026-11-28T14:15:00Z"}
    Path(host.path(f"{spool.REPORTER}/state.json")).write_text(json.dumps(said))
    assert spool.latest(host, seen) == spool.summary(host, config) != seen
    assert spool.latest(host, seen)["last"] == "503 Down"
    assert spool.latest(host, {"url": None}) == {"url": None}
    denied = FakeHost()
    denied.denied.add(spool.REPORTER)
    assert spool.latest(denied, seen) == seen
