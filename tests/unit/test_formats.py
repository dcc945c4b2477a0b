"""What is sent to each kind of endpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

import ec2ssh_agent
from ec2ssh_agent.report import content, formats
from ec2ssh_agent.status import public
from status_example import example

ID = "0b8a4a3e-3c1c-4a1e-9b59-0b6d5f6f9d11"
SCHEMAS = Path(ec2ssh_agent.__file__).parent / "schemas"


def schema(name: str) -> Any:
    return json.loads((SCHEMAS / f"{name}.json").read_text())


def report(kind: str = "change", **changes: Any) -> content.Report:
    return content.report({**example(), **changes}, previous=None, kind=kind, id=ID, sequence=7)


def test_the_example_is_a_status_document_whole_and_public() -> None:
    for document in (example(), public(example())):
        jsonschema.validate(document, schema("status"))


def test_our_own_format() -> None:
    request = formats.request_of(report(), "json", interval=300)
    assert request.path == "" and request.compress
    jsonschema.validate(json.loads(request.body), schema("report"))


def test_no_source_sets_are_reported() -> None:
    assert b"0.0.0.0/0" not in formats.request_of(report(), "json", interval=300).body


def test_an_alert_fires_until_some_heartbeats_later_and_ends_with_the_same_labels() -> None:
    (firing,) = formats.alerts(report(), 300)
    assert (firing["startsAt"], firing["endsAt"]) == ("2026-11-28T14:15:00Z", "2026-11-28T14:30:00Z")
    well = content.report(
        {**example(), "findings": [], "health": "ok"}, previous=example(), kind="change", id=ID, sequence=8
    )
    (ended,) = formats.alerts(well, 300)
    assert ended["labels"] == firing["labels"]
    assert ended["endsAt"] == "2026-11-28T14:15:00Z"


def test_two_findings_of_one_id_are_two_alerts() -> None:
    findings = [{**example()["findings"][0], "subject": subject} for subject in ("eth0:ipv4", "eth1:ipv4")]
    fired = formats.alerts(report(findings=findings), 300)
    assert len({json.dumps(alert["labels"]) for alert in fired}) == 2


def test_a_test_report_is_an_alert_of_its_own() -> None:
    names = [alert["labels"]["alertname"] for alert in formats.alerts(report("test"), 300)]
    assert names == ["EC2SSHFirewallDrop", "EC2SSHAgentTest"]


def test_where_requests_go() -> None:
    assert formats.address("https://a/in", "") == "https://a/in"
    assert formats.address("https://a", "/api/v2/alerts") == "https://a/api/v2/alerts"
    assert formats.address("https://a/x/api/v2/alerts/", "/api/v2/alerts") == "https://a/x/api/v2/alerts/"
    assert formats.address("https://a/otlp?t=1", "/v1/logs") == "https://a/otlp/v1/logs?t=1"


def test_otlp_sends_metrics_with_heartbeats_and_a_log_record_else() -> None:
    beat = formats.request_of(report("heartbeat"), "otlp", interval=300, status=example())
    assert beat.path == "/v1/metrics"
    names = [m["name"] for m in json.loads(beat.body)["resourceMetrics"][0]["scopeMetrics"][0]["metrics"]]
    assert {"ec2ssh_health", "ec2ssh_finding", "ec2ssh_reach_open"} <= set(names)
    change = formats.request_of(report(), "otlp", interval=300)
    assert change.path == "/v1/logs"
    record = json.loads(change.body)["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    assert record["timeUnixNano"] == "1795875300000000000" and record["severityText"] == "ERROR"


@given(st.text(), st.text(), st.sampled_from(["json", "alertmanager", "otlp"]), st.sampled_from(content.KINDS))
def test_any_text_can_be_sent(text: str, other: str, format: str, kind: str) -> None:
    finding = {**example()["findings"][0], "summary": text, "subject": other, "repair": other, "evidence": [text]}
    made = report(kind, findings=[finding], summary=text)
    body = formats.request_of(made, format, interval=300, status={**example(), "findings": [finding]}).body
    json.loads(body)
