"""Files of the agent's own that are not as it writes them: taken for absent, and written anew."""

from __future__ import annotations

import json
from typing import Any

import pytest

from ec2ssh_agent import codec, daemon, memory, publish
from ec2ssh_agent.config import FILE, Config
from ec2ssh_agent.memory import Memory
from ec2ssh_agent.repair import records
from ec2ssh_agent.report import spool
from fake_host import FakeHost
from status_example import example

DEEP, HUGE = b"[" * 100_000, b"1" + b"0" * 400
URL = Config(report_url="http://127.0.0.1:1/")
GOOD = "/var/lib/ec2ssh-agent/config.json"
STATUS, UNTOLD, CONSOLE = (f"{publish.RUN}/{name}.json" for name in ("status", "untold", "console"))


def short(content: bytes) -> str:
    return repr(content[:30])


def machine() -> FakeHost:
    host = FakeHost({"/proc/sys/kernel/random/boot_id": b"boot-1\n", "/etc/group": b"adm:x:4:\n"})
    host.directory("/var/lib/ec2ssh-agent")
    return host


@pytest.mark.parametrize("value", [HUGE, b"1e999", b"-1e999", b"NaN", b"Infinity", b"9007199254740993"])
def test_a_number_that_no_time_is(value: bytes) -> None:
    host = machine()
    memory.save(host, memory.load(host, "i-1"))
    content = host.read(memory.PATH).replace(b'"paused_wall": 0.0', b'"paused_wall": ' + value)
    for path in (memory.PATH, memory.COPY):
        host.put(path, content, mode=0o600)
    found = memory.load(host, "i-1")
    assert "paused_wall" in found.notes[0] and found._replace(notes=(), booted=0.0) == Memory("i-1", "boot-1")
    memory.save(host, found)
    assert memory.load(host, "i-1").notes == ()


def test_a_record_with_a_number_that_no_time_is() -> None:
    name = "20261128T141459-0001"
    host = FakeHost()
    host.put(f"{records.CHANGES}/{name}/record.json", b'{"id": "%s", "time": %s}' % (name.encode(), HUGE), mode=0o600)
    with pytest.raises(records.BadRecord):
        records.load(host, name)


WHOLE = codec.encode(Config(repair_settle=5.0))
PARTS = [{}, {"repair_settle": 5.0}, {key: value for key, value in WHOLE.items() if key != "repair_mode"}]


@pytest.mark.parametrize(
    "content",
    [DEEP, HUGE, b"", b"null", b" " * (65 << 20), *(json.dumps(part).encode() for part in PARTS)],
    ids=short,
)
def test_a_last_good_configuration_that_is_not_whole_repairs_nothing(content: bytes) -> None:
    host = machine()
    host.put(FILE, b"nonsense\n")
    host.put(GOOD, content, mode=0o600)
    assert daemon.configuration(host, FILE)[0].repair_mode == "off"
    host.put(FILE, b"[repair]\nsettle = 5s\n")
    daemon.configuration(host, FILE)
    host.put(FILE, b"nonsense\n")
    config, trouble = daemon.configuration(host, FILE)
    assert (config.repair_mode, config.repair_settle) == ("repair", 5.0) and trouble


def document(**changes: Any) -> bytes:
    return json.dumps({**example(), **changes}).encode()


DOCUMENTS = [
    DEEP,
    HUGE,
    b'{"health": "ok"}',
    document(health=["ok"]),
    document(findings=None),
    document(findings=[1]),
    document(findings=[{"id": "x"}]),
    document(findings=[{**example()["findings"][0], "id": []}]),
    document(findings=[{**example()["findings"][0], "subject": {}}]),
    document(repairs=[1]),
    document(repairs=[{**example()["repairs"][0], "outcome": []}]),
]


@pytest.mark.parametrize("content", DOCUMENTS, ids=short)
@pytest.mark.parametrize("config", [Config(), URL])
def test_a_status_that_is_none_is_the_first(config: Config, content: bytes) -> None:
    host = machine()
    host.put(STATUS, content)
    daemon._tell(host, config, example(), daemon._previous(host), often=True)
    assert json.loads(host.read(STATUS))["health"] == "unreachable"
    assert [entry.kind for entry in spool.entries(host)] == (["repair"] if config is URL else [])
    previous = daemon._previous(host)
    assert previous and previous["health"] == "unreachable"


@pytest.mark.parametrize("content", DOCUMENTS, ids=short)
def test_what_was_not_told_and_is_no_status_is_not_told(content: bytes) -> None:
    host = machine()
    host.put(UNTOLD, content)
    assert spool.tell(host, URL, example(), example()) == ()
    assert spool.tell(host, URL, {**example(), "health": "ok"}, example()) == ("change",)


STATES = [b'{"instance": "", "sequence": 1e999, "dropped": 0}', b'{"sequence": -1}', b'{"sequence": %s}' % HUGE]


@pytest.mark.parametrize("content", [DEEP, HUGE, *STATES], ids=short)
def test_a_state_of_the_spool_that_is_none(content: bytes) -> None:
    host = machine()
    host.directory(spool.DIRECTORY)
    host.put(f"{spool.DIRECTORY}/state.json", content)
    spool.enqueue(host, URL, example(), None, "change")
    assert [entry.sequence for entry in spool.entries(host)] == [1]
    assert spool.read_state(host).sequence == 1


@pytest.mark.parametrize(
    "content", [DEEP, b" " * (2 << 20), b'{"times": [%s], "shown": "ok"}' % HUGE, b'{"times": 1}'], ids=short
)
def test_a_memory_of_the_console_that_is_none(content: bytes) -> None:
    host = machine()
    host.put(CONSOLE, content)
    daemon._tell(host, Config(), example(), None, often=True)
    assert json.loads(host.read(CONSOLE))["shown"] == "unreachable"
