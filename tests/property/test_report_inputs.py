"""What strangers write and the reports read: acknowledgements, Retry-After, metadata, and what a block may hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ec2ssh_agent.config import Config
from ec2ssh_agent.host import Host
from ec2ssh_agent.report import console, delivery, identity, metrics, spool

ID = "0b8a4a3e-3c1c-4a1e-9b59-0b6d5f6f9d11"
TEXT = st.text(max_size=60)
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=8,
)
SAID = st.fixed_dictionaries(
    {}, optional={"outcome": st.sampled_from(["delivered", "parked"]) | JSON, "answer": JSON, "time": JSON}
)
FILE = st.binary(max_size=200) | (SAID | JSON).map(lambda value: json.dumps(value).encode())


@given(content=FILE)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_an_acknowledgement_is_understood_or_ignored(tmp_path: Path, content: bytes) -> None:
    host = Host(str(tmp_path))
    path = Path(host.path(f"{spool.REPORTER}/{ID}"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    said = spool.acknowledgement(host, ID)
    if said is not None:
        assert json.loads(content)["outcome"] == ("parked" if said.parked else "delivered")
        assert (said.answer + said.time).isprintable() and len(said.answer) <= 300
    state = Path(host.path(f"{spool.REPORTER}/state.json"))
    state.write_bytes(content)
    json.dumps(spool.summary(host, Config(report_url="https://a/")))


@given(value=TEXT | st.from_regex(r"(\w{3}, )?\d{1,2}[ -]\w{3}[ -]\d{1,6} [\d:]{1,10} ([+-]?\w{1,5})?", fullmatch=True))
def test_retry_after_is_a_number_of_seconds(value: str) -> None:
    assert 0 <= delivery.retry_after({"Retry-After": value}, 1_795_875_300.0) < float("inf")


SECRET = "203.0.113.7"


@given(finding=st.sampled_from(["id", "severity", "symptom"]), repair=st.sampled_from(["finding", "outcome", "time"]),
       text=TEXT)  # fmt: skip
def test_a_block_holds_identifiers_alone(finding: str, repair: str, text: str) -> None:
    made = {
        "updated": "2026-11-28T14:15:00Z", "health": text,
        "findings": [{"id": "a", "severity": "critical", "symptom": "timeout", finding: f"{text}{SECRET}"}],
        "repairs": [{"finding": "a", "outcome": "verified", "time": "2026-11-28T14:15:00Z", repair: f"{SECRET}{text}"}],
    }  # fmt: skip
    block = console.block(made)
    assert SECRET not in block and re.fullmatch(r"[ -~\n]+", block)


@given(said=st.dictionaries(st.sampled_from(["id", "az", "region", "ami"]), JSON))
def test_what_the_metadata_service_says_is_plain(said: dict[str, object]) -> None:
    assert all(re.fullmatch(r"[\w.-]{1,64}", text, re.A) for text in identity._plain(said).values())


@given(label=st.text(max_size=30))
def test_a_label_stays_within_its_line(label: str) -> None:
    family = metrics.Family("a", "gauge", "text", (((("name", label),), 1.0),))
    (sample,) = metrics._lines(family)[2:]
    assert "\n" not in sample
    value = sample[len('a{name="') : -len('"} 1')]
    assert re.sub(r"\\(.)", lambda match: {"n": "\n"}.get(match[1], match[1]), value) == label
