"""An endpoint that is hostile, of each kind, while a report is being delivered to it: the daemon is not disturbed."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from daemon import status, wait_baseline, wait_daemon
from endpoint import HOSTILE, Server, authority, reply, serving_on
from harness import CLIENTS4, Instance, boot, wait_for

PORT = 8443
SPOOL_MAX = 128 << 10
#: Until the endpoint is there, nobody answers. The interval keeps the reporter there, waiting for its next try.
CONFIG = f"""\
[repair]
settle = 0s
baseline_after = 1s
max_attempts = 200
[identity]
imds = off
[report]
url = https://{CLIENTS4[0]}:{PORT}/in
ca_file = /etc/ec2ssh-agent/ca.pem
interval = 30s
spool_max = {SPOOL_MAX}
"""
NO_ENDPOINT = "/etc/ec2ssh-agent/agent.conf.d/60-none.conf"
DAEMON, REPORTER = "ec2ssh-agent.service", "ec2ssh-agent-report.service"
SPOOL, STATE = "/var/lib/ec2ssh-agent/spool", "/var/lib/ec2ssh-agent-report"
BREAK, HEAL = (f"iptables -{how} INPUT -p tcp --dport 22 -j DROP" for how in "AD")
#: Of the reporter, at any time (KiB): half of what its unit may have.
REPORTER_MOST = 64 << 10
#: What status says, where the deadlines are the real ones.
LINES = {"hangs": "Read timed out", "slow bytes": "no whole answer within 30 s"}


class World(NamedTuple):
    """`undisturbed` is how long a repair takes without an endpoint (seconds)."""

    made: Instance
    unit: str
    undisturbed: float
    good: ssl.SSLContext
    bad: ssl.SSLContext


def context(directory: Path) -> ssl.SSLContext:
    directory.mkdir()
    authority(directory, name=CLIENTS4[0])
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(directory / "server.pem", directory / "server.key")
    return made


@contextlib.contextmanager
def world(directory: Path, unit: str = DAEMON) -> Iterator[World]:
    """An instance with a report that waits. `unit` is the daemon's."""
    good, bad = context(directory / "good"), context(directory / "bad")

    def prepare(root: Path) -> None:
        (root / "etc/ec2ssh-agent/ca.pem").write_bytes((directory / "good/ca.pem").read_bytes())

    with boot(config=CONFIG, prepare=prepare) as made:
        wait_baseline(made)
        if unit != DAEMON:
            without_systemd(made, unit)
        took = without_endpoint(made, unit)
        print(f"without an endpoint: {took:.2f} s")
        yield World(made, unit, took, good, bad)


def without_endpoint(made: Instance, unit: str) -> float:
    """How long a repair takes then (seconds)."""
    reload = f"systemctl kill -s HUP --kill-whom=main {unit}"
    made.write(NO_ENDPOINT, "[report]\nurl =\n")
    made.run(reload)
    wait_for("no endpoint", lambda: not status(made)["report"]["url"], 30)
    took = repaired(made)
    healed(made)
    made.run(f"rm {NO_ENDPOINT}; {reload}")
    wait_for("an endpoint", lambda: bool(status(made)["report"]["url"]), 30)
    return took


def without_systemd(made: Instance, unit: str) -> None:
    """The daemon again, where it sees no systemd: it starts the reporter itself."""
    made.run(f"systemctl stop {DAEMON} ec2ssh-agent-report.path ec2ssh-agent-report.timer {REPORTER}")
    made.run(
        f"systemd-run -q --unit={unit} -p KillMode=mixed -p Restart=on-failure"
        " unshare -m sh -c 'mount -t tmpfs none /run/systemd; exec ec2ssh-agent run'"
    )
    wait_daemon(made)


def repaired(made: Instance) -> float:
    """Shuts SSH, and gives how long it took until somebody outside got in again (seconds)."""
    made.run(BREAK)
    return made.client.wait_ssh(60)


def healed(made: Instance) -> None:
    made.run(HEAL)
    wait_for("the withdrawal", lambda: "ec2ssh" not in made.run("iptables-save").out, 60)


def reporters(made: Instance) -> list[int]:
    """Those that run by themselves: one that a pass is about to start is that pass's child."""
    return [int(pid) for pid in made.run("pgrep -u ec2ssh-agent -P 1", check=False).out.split()]


def memory(made: Instance, pid: int, field: str) -> int:
    """KiB; 0 where the process is gone."""
    text = made.run(f"cat /proc/{pid}/status", check=False).out
    return max(map(int, re.findall(rf"^{field}:\s+(\d+) kB", text, re.M)), default=0)


def own_memory(made: Instance, pid: int) -> int:
    """KiB that nobody else has; the pages of files come and go, as the machine needs the room."""
    return memory(made, pid, "RssAnon") + memory(made, pid, "VmSwap")


def delivering(world: World, server: Server) -> None:
    """Has a reporter begin anew, with no back-off, and waits until the endpoint has met it."""
    before = server.connections
    wait_for("a report under way", lambda: _begun(world, server, before), 60)


def _begun(world: World, server: Server, before: int) -> bool:
    made, old = world.made, set(reporters(world.made))
    made.run(f"kill {' '.join(map(str, old))}", check=False)
    wait_for("the reporter's end", lambda: not old & set(reporters(made)), 30)
    made.run(f"rm -f {STATE}/*")
    if world.unit == DAEMON:
        made.run(f"systemctl start --no-block {REPORTER}")
    else:
        look(world)
    end = time.monotonic() + 10
    while server.connections == before and time.monotonic() < end:
        time.sleep(0.05)
    return server.connections > before


def waiting(made: Instance) -> list[str]:
    """The ids of the reports in the spool, oldest first."""
    found = re.findall(r"^\d{10}-[a-z]+-([0-9a-f-]{36})\.json$", made.run(f"ls {SPOOL}").out, re.M)
    return [*map(str, found)]


def undisturbed(world: World, name: str) -> None:
    made, hostile = world.made, HOSTILE[name]
    pid, own = daemon(world), own_memory(made, daemon(world))
    with serving_on(listening(made), hostile.behaviour, tls=world.bad if name == "bad TLS" else world.good) as server:
        if not waiting(made):
            repaired(made)
            healed(made)
        wait_for("a report that waits", lambda: bool(waiting(made)), 30)
        took, most = met(world, server), 2 * world.undisturbed + 2.0
        # Once more: a machine that is busy for a moment is no endpoint's doing.
        took = took if took <= most else met(world, server)
        largest = max((memory(made, reporter, "VmHWM") for reporter in reporters(made)), default=0)
        print(f"{name}: {took:.2f} s, reporter {largest >> 10} MiB, supervisor {own} KiB")
        assert took <= most and largest < REPORTER_MOST
        named(made, LINES.get(name, hostile.line))
        wait_for("health", lambda: status(made)["health"] == "ok" and made.agent("status").code == 0, 30)
        assert daemon(world) == pid and own_memory(made, pid) <= own + 1024
        assert int(made.run(f"du -b --summarize --separate-dirs {SPOOL}").out.split()[0]) <= SPOOL_MAX + 8192
        unharmed(world)
        delivered(world, server, in_order=not hostile.refused)


def listening(made: Instance) -> socket.socket:
    listener = made.network.socket(socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((CLIENTS4[0], PORT))
    return listener


def met(world: World, server: Server) -> float:
    """How long a repair takes while a report is being delivered (seconds)."""
    delivering(world, server)
    took = repaired(world.made)
    healed(world.made)
    return took


def look(world: World) -> None:
    world.made.run(f"systemctl kill -s USR1 --kill-whom=main {world.unit}")


def daemon(world: World) -> int:
    return int(world.made.run(f"systemctl show -P MainPID {world.unit}").out)


def named(made: Instance, line: str) -> None:
    """The page has it as soon as the reporter has: no pass is needed for that."""
    wait_for(f"a status that says {line!r}", lambda: line in told(made), 60, every=0.2)


def told(made: Instance) -> str:
    """The line of the status page."""
    return " ".join(made.agent("status").out.partition("the endpoint's last answer: ")[2].split())


def unharmed(world: World) -> None:
    made = world.made
    assert made.run(f"systemctl show -P NRestarts {world.unit}").out.strip() == "0"
    assert made.run("test -e /run/ec2ssh-agent/trouble", check=False).code == 1
    journal = made.journal("-u", "ec2ssh-agent*", "-u", world.unit)
    assert not re.search(r"Traceback|the pass (was|took|ended|wrote)|not reported", journal), journal[-4000:]


def delivered(world: World, server: Server, *, in_order: bool) -> None:
    """The endpoint behaves again: all that waits arrives, and nothing is left.

    Not `in_order`: what was refused goes out again only when somebody drains, maybe after what came later.
    """
    made = world.made
    ids, before = waiting(made), len(server.got)
    assert ids
    server.behaviour, server.tls = reply("202 Accepted"), world.good
    # Once more, where a pass puts one in just as it ends.
    wait_for("an empty queue", lambda: made.agent("report", "--drain").code == 0 and not waiting(made), 60)
    # Each once by its key: the run that `--drain` ends may have been about to write down that one had arrived.
    got = dict.fromkeys(json.loads(request.body)["id"] for request in server.got[before:])
    arrived = [id for id in got if id in ids]
    assert arrived == ids if in_order else {*arrived} == {*ids}
    named(made, "202 Accepted")


@pytest.fixture(scope="module")
def booted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with world(tmp_path_factory.mktemp("hostile")) as made:
        yield made


_SAMPLE = ("hangs",)


@pytest.mark.parametrize("name", [n if n in _SAMPLE else pytest.param(n, marks=pytest.mark.slow) for n in HOSTILE])
def test_a_hostile_endpoint_does_not_disturb_the_daemon(booted: World, name: str) -> None:
    undisturbed(booted, name)


@pytest.mark.slow
def test_nor_where_the_daemon_starts_the_reporter(tmp_path: Path) -> None:
    with world(tmp_path, "no-systemd.service") as made:
        for name in HOSTILE:
            undisturbed(made, name)
