"""A report as requests to the endpoint: json (ours), alertmanager (v2 API), otlp (OTLP/HTTP, JSON first). Pure.

Sources: contracts.md; Alertmanager's api/v2/openapi.yaml (postAlerts); opentelemetry-proto 1.x, "JSON Protobuf
Encoding" (64-bit numbers as strings, field names in lowerCamelCase).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Optional

from ..plain import NamedTuple
from . import metrics, protobuf

#: An alert that nothing refreshes for so many heartbeats ends by itself.
_HEARTBEATS = 3


class Request(NamedTuple):
    """`path` is put after the configured URL. `compress`: whether the format's receivers must understand gzip.

    `otlp`: what `body` says, for receivers that take protobuf alone.
    """

    path: str
    body: bytes
    compress: bool = True
    otlp: Optional[Mapping[str, Any]] = None

    def binary(self) -> Request:
        """The same as protobuf."""
        return self._replace(body=protobuf.encode(self.otlp or {}))


def request_of(
    report: Mapping[str, Any], format: str, *, interval: float, status: Optional[Mapping[str, Any]] = None
) -> Request:
    """What is sent for a report. `status` is the status document of a heartbeat, whose metrics otlp sends."""
    if format == "alertmanager":
        return Request("/api/v2/alerts", _encode(alerts(report, interval)), compress=False)
    if format == "otlp" and report["kind"] == "heartbeat" and status is not None:
        return _otlp("/v1/metrics", otlp_metrics(report, status))
    if format == "otlp":
        return _otlp("/v1/logs", otlp_logs(report))
    return Request("", _encode(report))


def _encode(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":"), sort_keys=True).encode()


def address(url: str, path: str) -> str:
    """The configured URL with the format's path, unless it ends with that already."""
    base, query, rest = url.partition("?")
    if path and not base.rstrip("/").endswith(path):
        base = base.rstrip("/") + path
    return base + query + rest


def _instance(report: Mapping[str, Any]) -> str:
    return str((report["instance"] or {}).get("id") or "unknown")


# -- Alertmanager


def alerts(report: Mapping[str, Any], interval: float) -> list[dict[str, Any]]:
    """Findings fire until some heartbeats after the report; what is resolved ends at its time."""
    start = metrics.seconds(report["time"]) or 0.0
    ends = _stamp(start + _HEARTBEATS * interval)
    firing = [
        {**_alert(report, finding), "annotations": _annotations(finding), "startsAt": report["time"], "endsAt": ends}
        for finding in report["findings"]
    ]
    gone = [
        {**_alert(report, finding), "annotations": {}, "startsAt": report["time"], "endsAt": report["time"]}
        for finding in report["resolved"]
    ]
    if report["kind"] == "test":
        labels = {"alertname": "EC2SSHAgentTest", "instance": _instance(report), "severity": "none"}
        firing.append({"labels": labels, "annotations": {"summary": "a test report"},
                       "startsAt": report["time"], "endsAt": _stamp(start + 60)})  # fmt: skip
    return firing + gone


def _alert(report: Mapping[str, Any], finding: Mapping[str, Any]) -> dict[str, Any]:
    """The labels identify the alert, so that what resolves it has the same."""
    labels = {
        "alertname": "EC2SSH" + "".join(part.capitalize() for part in str(finding["id"]).split("-")),
        "instance": _instance(report),
        "finding": str(finding["id"]),
        "subject": str(finding["subject"]),
        "severity": str(finding["severity"]),
    }
    return {"labels": {name: value for name, value in labels.items() if value}}


def _annotations(finding: Mapping[str, Any]) -> dict[str, str]:
    said = {"summary": finding["summary"], "repair": finding["repair"], "symptom": finding["symptom"]}
    return {name: str(text) for name, text in said.items() if text}


def _stamp(seconds: float) -> str:
    import time

    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + "Z"


# -- OTLP


def _otlp(path: str, value: Mapping[str, Any]) -> Request:
    return Request(path, _encode(value), otlp=value)


def _attributes(pairs: Mapping[str, object]) -> list[dict[str, Any]]:
    return [{"key": name, "value": {"stringValue": str(value)}} for name, value in pairs.items() if value]


def _resource(report: Mapping[str, Any]) -> dict[str, Any]:
    """Semantic conventions: service.*, host.*, cloud.*."""
    about = report["instance"] or {}
    cloud = {"cloud.provider": "aws", "cloud.platform": "aws_ec2"} if about.get("region") else {}
    return {
        "attributes": _attributes(
            {
                "service.name": "ec2ssh-agent",
                "service.version": report["agent"],
                "service.instance.id": _instance(report),
                "host.id": _instance(report),
                "host.type": about.get("type"),
                "host.image.id": about.get("ami"),
                "cloud.region": about.get("region"),
                "cloud.availability_zone": about.get("az"),
                **cloud,
            }
        )
    }


def _nanoseconds(report: Mapping[str, Any]) -> str:
    return str(int((metrics.seconds(report["time"]) or 0.0) * 1e9))


_SCOPE = {"name": "ec2ssh-agent"}
#: severityNumber of the logs data model: INFO, WARN, ERROR.
_LEVEL = {"ok": (9, "INFO"), "degraded": (13, "WARN"), "unreachable": (17, "ERROR"), "unknown": (13, "WARN")}


def otlp_logs(report: Mapping[str, Any]) -> dict[str, Any]:
    """One log record, whose body is the report."""
    number, text = _LEVEL.get(str(report["health"]), (13, "WARN"))
    record = {
        "timeUnixNano": _nanoseconds(report),
        "severityNumber": number,
        "severityText": text,
        "body": {"stringValue": json.dumps(report, separators=(",", ":"), sort_keys=True)},
        "attributes": _attributes(
            {
                "event.name": f"ec2ssh-agent.{report['kind']}",
                "log.record.uid": report["id"],
                "ec2ssh.health": report["health"],
                "ec2ssh.findings": ",".join(str(finding["id"]) for finding in report["findings"]),
            }
        ),
    }
    return {"resourceLogs": [{"resource": _resource(report), "scopeLogs": [{"scope": _SCOPE, "logRecords": [record]}]}]}


def otlp_metrics(report: Mapping[str, Any], status: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of the status document, as metrics.py has them."""
    at = _nanoseconds(report)
    found = []
    for family in metrics.families(status):
        points = [
            {"timeUnixNano": at, "asDouble": value, "attributes": _attributes(dict(labels))}
            for labels, value in family.samples
        ]
        data: dict[str, Any] = {"gauge": {"dataPoints": points}}
        if family.kind == "counter":
            data = {"sum": {"dataPoints": points, "aggregationTemporality": 2, "isMonotonic": True}}
        found.append({"name": family.name, "description": family.text, **data})
    return {"resourceMetrics": [{"resource": _resource(report), "scopeMetrics": [{"scope": _SCOPE, "metrics": found}]}]}
