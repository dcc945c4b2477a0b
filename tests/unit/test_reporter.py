"""The reporter: order, once each by key, back-off, kills at random, heartbeats."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

import jsonschema
import pytest

import ec2ssh_agent
from ec2ssh_agent.config import Config
from ec2ssh_agent.host import Failed, Host
from ec2ssh_agent.report import spool
from ec2ssh_agent.report.reporter import Reporter, heartbeat_status
from endpoint import Got, Server, reply, serving, url
from status_example import example

PACKAGE = Path(ec2ssh_agent.__file__).parent
SCHEMA = json.loads((PACKAGE / "schemas/report.json").read_text())
START = 1_795_875_300.0  # 2026-11-28T14:15:00Z, when the example was made


class Clocked(Host):
    """A real disk below a directory, and a clock that only moves when somebody sleeps."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.epoch = START

    def now(self) -> float:
        return self.epoch

    def monotonic(self) -> float:
        return self.epoch - START

    def sleep(self, seconds: float) -> None:
        self.epoch += seconds


def host_in(directory: Path, kind: type[Host] = Clocked) -> Any:
    host = kind(str(directory))
    for path in (spool.REPORTER, "/run/ec2ssh-agent", "/etc/ec2ssh-agent"):
        Path(host.path(path)).mkdir(parents=True, exist_ok=True)
    publish(host)
    return host


def publish(host: Host, document: Optional[dict[str, Any]] = None) -> None:
    Path(host.path("/run/ec2ssh-agent/status.json")).write_text(json.dumps(document or example()))


def config_for(server: Server, **more: Any) -> Config:
    return Config(report_url=url(server), identity_imds="off", **more)


def reports(server: Server) -> list[dict[str, Any]]:
    return [json.loads(got.body) for got in server.got]


def quiet(host: Host, config: Config) -> None:
    """Marks this slot's heartbeat as sent."""
    reporter = Reporter(host, config)
    reporter._heartbeat_due()
    from ec2ssh_agent.report import schedule

    slot = schedule.slot(reporter._who(), config.report_interval, host.now())
    reporter._keep(reporter.state._replace(slot=slot))


def test_reports_go_in_order_with_their_keys_and_then_a_heartbeat(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving() as server:
        config = config_for(server)
        ids = [spool.enqueue(host, config, example(), None, kind) for kind in ("change", "repair")]
        done = Reporter(host, config).run()
        got = reports(server)
    for report in got:
        jsonschema.validate(report, SCHEMA)
    assert [report["kind"] for report in got] == ["change", "repair", "heartbeat"]
    assert [report["id"] for report in got[:2]] == ids == [g.headers["idempotency-key"] for g in server.got[:2]]
    assert (done.sent, done.answer) == (3, "200 OK")
    assert spool.summary(host, config)["waiting"] == 0
    spool.sweep(host)
    assert spool.entries(host) == ()


def test_nothing_is_sent_twice_and_the_heartbeat_once_in_its_interval(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving() as server:
        config = config_for(server)
        spool.enqueue(host, config, example(), None, "change")
        for _ in range(4):
            Reporter(host, config).run()
            host.sleep(1)
        assert [report["kind"] for report in reports(server)] == ["change", "heartbeat"]
        host.sleep(300)
        Reporter(host, config).run()
        assert [report["kind"] for report in reports(server)][2:] == ["heartbeat"]


def test_a_mended_address_is_tried_at_once(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    wrong = Config(report_url="http://127.0.0.1:9/", identity_imds="off")
    spool.enqueue(host, wrong, example(), None, "change")
    for _ in range(8):
        Reporter(host, wrong, draw=lambda: 1.0).run(now=True)
    before = host.now()
    assert Reporter(host, wrong)._wait() > 60
    with serving() as server:
        Reporter(host, config_for(server)).run()
        assert [report["kind"] for report in reports(server)] == ["change", "heartbeat"]
    assert host.now() == before


def test_heartbeats_more_often_than_the_timer_comes(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving() as server:
        Reporter(host, config_for(server, report_interval=60.0)).run()
        assert 5 <= len(server.got) <= 6
        assert host.monotonic() < 300


def test_a_dead_daemon_is_told(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    host.sleep(3600)
    with serving() as server:
        Reporter(host, config_for(server)).run()
        (report,) = reports(server)
    assert report["health"] == "unknown" and "has not looked since 2026-11-28T14:15:00Z" in report["summary"]
    assert report["time"] == "2026-11-28T15:15:00Z"
    jsonschema.validate(report, SCHEMA)


def test_a_status_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    for content in (b"", b"[]", b"{}", b"\xff"):
        Path(host.path("/run/ec2ssh-agent/status.json")).write_bytes(content)
        assert heartbeat_status(host)["health"] == "unknown"


def test_what_was_seen_before_passes_failed_is_no_health(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    Path(host.path("/run/ec2ssh-agent/trouble")).write_text("the pass took too long\n")
    told = heartbeat_status(host)
    assert told["health"] == "unknown" and "the pass took too long" in told["summary"]


def test_an_endpoint_that_is_down_is_asked_with_growing_delays(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving(reply("500 No")) as server:
        config = config_for(server)
        spool.enqueue(host, config, example(), None, "change")
        Reporter(host, config, draw=lambda: 1.0).run()
        assert host.monotonic() == 1 + 2 + 4 + 8 + 16 + 32
        before = len(server.got)
        Reporter(host, config, draw=lambda: 1.0).run()
        assert len(server.got) == before and host.monotonic() == 63  # it waits for no endpoint that was down before
        host.sleep(64)
        Reporter(host, config, draw=lambda: 1.0).run()
        assert len(server.got) == before + 1
        summary = spool.summary(host, config)
        assert (summary["waiting"], summary["last"]) == (1, "500 No")


def test_retry_after_is_kept(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving(reply("503 Busy", "Retry-After: 60\r\n")) as server:
        config = config_for(server)
        spool.enqueue(host, config, example(), None, "change")
        Reporter(host, config, draw=lambda: 0.0).run()
        assert len(server.got) == 3 and host.monotonic() == 120


def test_what_is_refused_for_good_is_parked_and_the_next_goes_on(tmp_path: Path) -> None:
    host = host_in(tmp_path)

    def behaviour(got: Got, connection: socket.socket) -> None:
        reply("400 Bad Request" if json.loads(got.body)["sequence"] == 1 else "200 OK")(got, connection)

    with serving(behaviour) as server:
        config = config_for(server)
        for _ in range(2):
            spool.enqueue(host, config, example(), None, "change")
        quiet(host, config)
        Reporter(host, config).run()
        assert [report["sequence"] for report in reports(server)] == [1, 2]
        summary = spool.summary(host, config)
        assert (summary["waiting"], summary["parked"], summary["parked_because"]) == (0, 1, "400 Bad Request")
        Reporter(host, config).run()
        assert len(server.got) == 2
        server.behaviour = reply()
        assert Reporter(host, config).run(now=True).sent == 1
        assert spool.summary(host, config)["parked"] == 0


def test_a_heartbeat_that_fails_is_not_tried_again_before_the_next_slot(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving(reply("503 Busy")) as server:
        config = config_for(server)
        for _ in range(3):
            Reporter(host, config).run()
            host.sleep(1)
        assert len(server.got) == 1
        host.sleep(300)
        server.behaviour = reply()
        Reporter(host, config).run()
        assert len(server.got) == 2


def test_often_a_heartbeat_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving(reply("503 Busy")) as server:
        Reporter(host, config_for(server, report_interval=30.0), draw=lambda: 0.0).run()
        assert 9 <= len(server.got) <= 10 and host.monotonic() > 250


def test_a_run_that_waits_ends_for_one_that_somebody_asked_for(tmp_path: Path) -> None:
    """With heartbeats every minute a run of its own stays for nearly five."""
    host = host_in(tmp_path, Host)
    publish(host, {**example(), "valid_until": "2099-01-01T00:00:00Z"})
    with serving() as server:
        command, environment = _program(tmp_path, server, more="interval = 1m\n")
        with subprocess.Popen(command, env=environment) as stays:
            try:
                _wait_until(lambda: len(server.got) == 1, 60)
                id = spool.enqueue(host, config_for(server), example(), None, "test")
                asked = [*command, f"--only={id}"]
                ran = subprocess.run(asked, env=environment, capture_output=True, timeout=60, check=True)
                assert stays.wait(10) == 0
            finally:
                stays.kill()
        # Either of them may have sent it.
        assert json.loads(ran.stdout)["sent"] in (0, 1) and id in [report["id"] for report in reports(server)]


def test_a_heartbeat_has_the_last_number_and_what_was_dropped(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving() as server:
        config = config_for(server, report_spool_max=4_000)
        for _ in range(9):
            spool.enqueue(host, config, example(), None, "change")
        Reporter(host, config).run()
        spool.sweep(host)
        host.sleep(300)
        Reporter(host, config).run()
        last = reports(server)[-1]
    assert (last["kind"], last["sequence"]) == ("heartbeat", 9)
    assert last["dropped"] == spool.read_state(host).dropped > 0


class NoSpace(Clocked):
    """What the reporter cannot write on while `full`."""

    full = True

    def replace(self, path: str, content: bytes, *, mode: int = 0o644, like: bool = True, sync: bool = True) -> None:
        if self.full and path.startswith(spool.REPORTER):
            raise Failed(f"{path}: No space left on device")
        super().replace(path, content, mode=mode, like=like, sync=sync)


def test_a_full_disk_keeps_no_report_from_going_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    host = host_in(tmp_path, NoSpace)
    with serving() as server:
        config = config_for(server)
        ids = [spool.enqueue(host, config, example(), None, "change") for _ in range(3)]
        Reporter(host, config).run()
        assert [report["id"] for report in reports(server)][:3] == ids and len(server.got) == 4
        assert "No space left" in capsys.readouterr().err
        host.full = False
        for _ in range(2):
            Reporter(host, config).run()
        # Sent again by the same keys: at least once. Then they are done with.
        assert [r["id"] for r in reports(server) if r["kind"] == "change"] == ids * 2


def test_a_disk_that_became_read_only_keeps_no_report_from_going_out(tmp_path: Path) -> None:
    """With what could not be removed lying there. In a mount namespace of its own, as root."""
    host = host_in(tmp_path, Host)
    publish(host, {**example(), "valid_until": "2099-01-01T00:00:00Z"})
    with serving() as server:
        command, environment = _program(tmp_path, server)
        ran = subprocess.run(command, env=environment, capture_output=True, timeout=60)
        assert ran.returncode == 0 and len(server.got) == 1
        left = Path(host.path(spool.REPORTER))
        (left / "0b8a4a3e-3c1c-4a1e-9b59-0b6d5f6f9d11").write_bytes(b"{}")
        (left / "state.json").unlink()
        id = spool.enqueue(host, config_for(server), example(), None, "change")
        script = 'mount --bind "$0" "$0"; mount -o remount,bind,ro "$0"; exec "$@"'
        ran = subprocess.run(["unshare", "-m", "sh", "-ec", script, str(left), *command],
                             env=environment, capture_output=True, timeout=60)  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        assert ran.stderr.count(b"Read-only file system") >= 3 and b"Traceback" not in ran.stderr
    assert [report["kind"] for report in reports(server)] == ["heartbeat", "change", "heartbeat"]
    assert reports(server)[1]["id"] == id


def test_what_a_kill_left_half_written_goes(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    left = Path(host.path(spool.REPORTER))
    with serving() as server:
        config = config_for(server)
        id = spool.enqueue(host, config, example(), None, "change")
        for name in (f"{id}.ec2ssh-agent.77", "state.json.ec2ssh-agent.78"):
            (left / name).write_bytes(b"{")
        (Path(host.path(spool.DIRECTORY)) / "wake.ec2ssh-agent.79").write_bytes(b"")
        Reporter(host, config).run()
        spool.sweep(host)
    assert sorted(path.name for path in left.iterdir()) == [id, "state.json"]
    assert host.listdir(spool.DIRECTORY) == ("config.json", "lock", "state.json", "wake")


def test_what_cannot_be_read_holds_nothing_up(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving() as server:
        config = config_for(server)
        id = spool.enqueue(host, config, example(), None, "change")
        directory, name = Path(host.path(spool.DIRECTORY)), "-change-{}0000000-0000-0000-0000-000000000000.json"
        (directory / f"0000000000{name.format(1)}").symlink_to("/etc/hostname")
        (directory / f"0000000000{name.format(2)}").mkdir()
        (directory / f"0000000000{name.format(3)}").write_bytes(b"[]")
        (directory / f"0000000000{name.format(4)}").write_bytes(b'{"id": "1"}')
        (directory / f"0000000000{name.format(5)}").write_bytes(b" " * (2 << 20))
        Reporter(host, config).run()
        assert [report["id"] for report in reports(server)][:1] == [id]
        assert spool.summary(host, config)["parked"] == 5


YEAR = 365.0 * 86_400


@pytest.mark.parametrize("jump", [YEAR, -YEAR, 3_000.0, -3_000.0])
def test_a_clock_that_jumps_stops_neither_reports_nor_heartbeats(tmp_path: Path, jump: float) -> None:
    """Within what Retry-After may ask for (an hour) and the longest delay (five minutes) everything goes out again."""
    host = host_in(tmp_path)
    with serving(reply("503 Busy", "Retry-After: 3600\r\n")) as server:
        config = config_for(server)
        spool.enqueue(host, config, example(), None, "change")
        Reporter(host, config).run()
        assert len(server.got) == 1
        server.behaviour = reply()
        host.epoch += jump
        waited = 0.0
        while len(server.got) < 3:
            Reporter(host, config).run()
            host.sleep(300)
            waited += 300
        assert waited <= {YEAR: 300, -YEAR: 300, 3_000.0: 1_200, -3_000.0: 7_500}[jump]
        assert [r["kind"] for r in reports(server)][1:3] == ["change", "heartbeat"]
        before = len(server.got)
        for _ in range(4):
            Reporter(host, config).run()
            host.sleep(300)
        assert len(server.got) == before + 4


def test_a_long_queue_is_listed_once_in_a_while(tmp_path: Path) -> None:
    class Counting(Clocked):
        listings = reads = 0

        def listdir(self, path: str) -> tuple[str, ...]:
            self.listings += 1
            return super().listdir(path)

        def read(self, path: str, *, cap: int = 1 << 20, follow: bool = True) -> bytes:
            self.reads += 1
            return super().read(path, cap=cap, follow=follow)

    host = host_in(tmp_path, Counting)
    with serving() as server:
        config = config_for(server)
        for _ in range(60):
            spool.enqueue(host, config, example(), None, "change")
        host.listings = host.reads = 0
        Reporter(host, config).run()
        assert len(server.got) == 61 and host.listings < 10 and host.reads < 200


@pytest.mark.parametrize("refusal", ["400 Bad Request", "415 Unsupported Media Type"])
def test_a_receiver_of_otlp_that_takes_protobuf_alone(tmp_path: Path, refusal: str) -> None:
    taken = "application/x-protobuf"

    def behaviour(got: Got, connection: socket.socket) -> None:
        good = got.headers["content-type"] == taken
        reply("200 OK" if good else refusal)(got, connection)

    host = host_in(tmp_path)
    with serving(behaviour) as server:
        config = config_for(server, report_format="otlp")
        spool.enqueue(host, config, example(), None, "change")
        assert Reporter(host, config).run().sent == 2
        kinds = [got.headers["content-type"].rpartition("/")[2] for got in server.got]
        # What it takes is learned once (a 415 may be gzip's).
        assert kinds.count("json") <= 2 and kinds[-2:] == ["x-protobuf"] * 2
        assert [got.path for got in server.got][-2:] == ["/in/v1/logs", "/in/v1/metrics"]
        assert len({got.headers["idempotency-key"] for got in server.got}) == 2
        host.sleep(300)
        Reporter(host, config).run()
        assert [got.headers["content-type"] for got in server.got][len(kinds) :] == ["application/x-protobuf"]
        # Another is there now, which takes JSON alone: nothing is parked.
        taken = "application/json"
        for _ in range(2):
            host.sleep(300)
            ran = Reporter(host, config).run()
            assert (ran.sent, ran.parked) == (1, 0)
        assert [got.headers["content-type"] for got in server.got][-1] == taken


def test_what_is_wrong_in_either_encoding_is_parked_with_the_first_reason(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving(reply("400 Bad Request", body=b"no")) as server:
        config = config_for(server, report_format="otlp")
        spool.enqueue(host, config, example(), None, "change")
        assert Reporter(host, config).run().parked == 2
        assert len(server.got) == 4 and spool.summary(host, config)["parked_because"] == "400 Bad Request: no"


def test_one_report_alone(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving() as server:
        config = config_for(server)
        spool.enqueue(host, config, example(), None, "change")
        id = spool.enqueue(host, config, example(), None, "test")
        assert Reporter(host, config).run(only=id).sent == 1
        assert [report["id"] for report in reports(server)] == [id]


def test_a_clock_that_was_set_back_silences_nobody(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving() as server:
        config = config_for(server)
        reporter = Reporter(host, config)
        reporter._keep(reporter.state._replace(not_before=START + 1e8, failures=3))
        spool.enqueue(host, config, example(), None, "change")
        Reporter(host, config).run()
        assert len(server.got) == 2


def test_a_state_of_another_instance_is_forgotten(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving() as server:
        config = config_for(server)
        Reporter(host, config).run()
        publish(host, {**example(), "instance": {"id": "i-0fedcba9876543210"}})
        Reporter(host, config).run()
        assert [report["instance"]["id"][-4:] for report in reports(server)] == ["def0", "3210"]


def _program(directory: Path, server: Server, more: str = "") -> tuple[list[str], dict[str, str]]:
    """The real program's command line and environment, with its configuration written. `more`: of [report]."""
    (directory / "etc/ec2ssh-agent/agent.conf").write_text(
        f"[repair]\nmode = off\n[report]\nurl = {url(server)}\n{more}[identity]\nimds = off\n"
    )
    command = ["/usr/bin/python3", "-m", "ec2ssh_agent.report.reporter", f"--root={directory}"]
    return command, {"PATH": os.environ["PATH"], "PYTHONPATH": str(PACKAGE.parent)}


class Kills:
    """The real program, killed (SIGKILL) at a random moment."""

    def __init__(self, directory: Path, server: Server, chance: random.Random) -> None:
        self.command, self.environment = _program(directory, server)
        self.chance, self.count = chance, 0

    def one(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        with subprocess.Popen(self.command, env=self.environment, stderr=subprocess.DEVNULL) as process:
            time.sleep(self.chance.uniform(0.02, 0.4))
            meanwhile()
            process.kill()
        self.count += 1


def _reboot(host: Host) -> None:
    """What is in memory goes; of what was not synced the names are there and the contents are not."""
    shutil.rmtree(host.path("/run/ec2ssh-agent"))
    Path(host.path("/run/ec2ssh-agent")).mkdir()
    for path in (f"{spool.REPORTER}/state.json", spool.CONFIG, f"{spool.DIRECTORY}/wake"):
        Path(host.path(path)).write_bytes(b"")
    publish(host)


def test_a_day_without_the_endpoint(tmp_path: Path) -> None:
    """Changes and repairs go on for a day in which the reporter is killed again and again and the instance is booted
    once; a hundred kills in all, the last ones while the endpoint is back: each arrives, in order, once by its key."""
    seed = int(os.environ.get("EC2SSH_SEED") or random.SystemRandom().randrange(1 << 32))
    print(f"seed {seed}")
    chance = random.Random(seed)
    host = host_in(tmp_path)
    accepted: list[str] = []
    largest = 0

    def slowly(got: Got, connection: socket.socket) -> None:
        time.sleep(0.02)
        reply()(got, connection)

    with serving(reply("503 Down")) as server:
        config = config_for(server, report_spool_max=4 << 20)
        kills = Kills(tmp_path, server, chance)

        def change() -> None:
            accepted.append(spool.enqueue(host, config, example(), None, chance.choice(("change", "repair"))))

        booted = False
        while host.monotonic() < 86_400:
            if chance.random() < 0.2:
                change()
            if kills.count < 60 * host.monotonic() / 86_400:
                kills.one()
            Reporter(host, config, draw=chance.random).run()
            largest = max(largest, sum(len(spool.read(host, entry)) for entry in spool.entries(host)))
            host.sleep(chance.uniform(60, 300))
            if not booted and host.monotonic() > 43_200:
                _reboot(host)
                booted = True
        assert len(server.got) < 86_400 / 30
        print(f"{len(accepted)} reports, {len(server.got)} requests that failed, spool {largest} bytes at most")
        server.got.clear()
        server.behaviour = slowly
        while kills.count < 100:
            kills.one(change)
            spool.sweep(host)
        for _ in range(3):
            host.sleep(300)
            Reporter(host, config, draw=chance.random).run()
        arrived = [r["id"] for r in reports(server) if r["kind"] != "heartbeat"]
    assert largest <= config.report_spool_max and spool.summary(host, config)["dropped"] == 0
    assert list(dict.fromkeys(arrived)) == accepted
    # What was sent again is what a kill kept from being acknowledged: one report a kill at most.
    print(f"{len(arrived) - len(accepted)} of {len(accepted)} came twice")
    assert len(arrived) < len(accepted) + 100
    spool.sweep(host)
    assert spool.entries(host) == ()


def test_a_spool_that_cannot_be_used_is_told_in_status(tmp_path: Path) -> None:
    host = host_in(tmp_path, Host)
    with serving() as server:
        command, environment = _program(tmp_path, server)
        Path(host.path(f"{spool.DIRECTORY}/state.json")).mkdir(parents=True)
        ran = subprocess.run(command, env=environment, capture_output=True, timeout=60)
        assert ran.returncode == 3 and b"state.json" in ran.stderr and server.got == []
        Path(host.path(f"{spool.DIRECTORY}/state.json")).rmdir()
        last = spool.summary(host, config_for(server))["last"]
    assert last.startswith("not sent: ") and "state.json" in last


def test_a_heartbeat_costs_little(tmp_path: Path) -> None:
    """0.1 % of a CPU at the default interval of 300 s, the start of the program included: the best of some runs."""
    host = host_in(tmp_path, Host)
    publish(host, {**example(), "valid_until": "2099-01-01T00:00:00Z"})
    spent = []
    with serving() as server:
        command, environment = _program(tmp_path, server)
        for _ in range(4):
            Path(host.path(f"{spool.REPORTER}/state.json")).unlink(missing_ok=True)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run(command, env=environment, check=True, timeout=120)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert len(server.got) == 4
    print(f"seconds of CPU: {spent}")
    assert min(spent) <= 0.3


@pytest.mark.parametrize("count", [20, pytest.param(200, marks=pytest.mark.slow)])
def test_many_reporters_at_once_and_one_server(tmp_path: Path, count: int) -> None:
    """All are alive together, wait at their locks, and are let go at once: each report arrives, once by its key."""
    started: list[subprocess.Popen[bytes]] = []
    accepted: list[str] = []
    with contextlib.ExitStack() as stack, serving() as server:
        locks = stack.enter_context(contextlib.ExitStack())
        for number in range(count):
            directory = tmp_path / str(number)
            directory.mkdir()
            host = host_in(directory, Host)
            publish(host, {**example(), "instance": {"id": f"i-{number:017x}"}, "valid_until": "2099-01-01T00:00:00Z"})
            accepted.append(spool.enqueue(host, config_for(server), example(), None, "change"))
            locks.enter_context(host.lock(f"{spool.REPORTER}/lock"))
            command, environment = _program(directory, server)
            started.append(
                stack.enter_context(subprocess.Popen([*command, "--now"], env=environment, stdout=subprocess.DEVNULL))
            )
            stack.callback(started[-1].kill)
        _wait_until(lambda: all(_has_open(process.pid, "ec2ssh-agent-report/lock") for process in started), 180)
        assert [process.poll() for process in started] == [None] * count and server.got == []
        let_go = time.monotonic()
        locks.close()
        assert [process.wait(180) for process in started] == [0] * count
        print(f"{count} reporters: all done {time.monotonic() - let_go:.1f} s after they were let go")
        ids = [report["id"] for report in reports(server) if report["kind"] == "change"]
        beats = {report["instance"]["id"] for report in reports(server) if report["kind"] == "heartbeat"}
    assert sorted(ids) == sorted(accepted) and len(beats) == count


def _has_open(pid: int, name: str) -> bool:
    """Whether a process has a file open whose path ends so."""
    with contextlib.suppress(FileNotFoundError):
        return any(os.readlink(link).endswith(name) for link in Path(f"/proc/{pid}/fd").iterdir())
    return False


def _wait_until(true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_a_spool_full_of_rubbish(tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with serving() as server:
        config = config_for(server)
        id = spool.enqueue(host, config, example(), None, "change")
        quiet(host, config)
        directory = Path(host.path(spool.DIRECTORY))
        (directory / "0000000000-change-00000000-0000-0000-0000-000000000000.json").write_bytes(b"not JSON")
        (directory / "x.json").write_bytes(b"")
        Reporter(host, config).run()
        assert [report["id"] for report in reports(server)] == [id]
        assert "cannot be read" in spool.summary(host, config)["parked_because"]
