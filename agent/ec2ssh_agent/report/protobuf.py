"""What formats.py makes for OTLP, in protobuf's wire format: for receivers that do not take OTLP's JSON. Pure.

Sources: protobuf's "Encoding"; opentelemetry-proto 1.x (collector/*/v1, metrics/v1, logs/v1, resource/v1, common/v1),
of which only the fields that formats.py uses are here.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

#: message -> field by its JSON name -> (number, kind); a kind that is no scalar is a message.
_MESSAGES: dict[str, dict[str, tuple[int, str]]] = {
    "Request": {"resourceMetrics": (1, "ResourceMetrics"), "resourceLogs": (1, "ResourceLogs")},
    "ResourceMetrics": {"resource": (1, "Resource"), "scopeMetrics": (2, "ScopeMetrics")},
    "ResourceLogs": {"resource": (1, "Resource"), "scopeLogs": (2, "ScopeLogs")},
    "Resource": {"attributes": (1, "KeyValue")},
    "ScopeMetrics": {"scope": (1, "Scope"), "metrics": (2, "Metric")},
    "ScopeLogs": {"scope": (1, "Scope"), "logRecords": (2, "LogRecord")},
    "Scope": {"name": (1, "string")},
    "Metric": {"name": (1, "string"), "description": (2, "string"), "gauge": (5, "Points"), "sum": (7, "Points")},
    "Points": {"dataPoints": (1, "Point"), "aggregationTemporality": (2, "varint"), "isMonotonic": (3, "varint")},
    "Point": {"timeUnixNano": (3, "fixed64"), "asDouble": (4, "double"), "attributes": (7, "KeyValue")},
    "LogRecord": {
        "timeUnixNano": (1, "fixed64"),
        "severityNumber": (2, "varint"),
        "severityText": (3, "string"),
        "body": (5, "AnyValue"),
        "attributes": (6, "KeyValue"),
    },
    "KeyValue": {"key": (1, "string"), "value": (2, "AnyValue")},
    "AnyValue": {"stringValue": (1, "string")},
}


def encode(value: Mapping[str, Any], message: str = "Request") -> bytes:
    """An ExportMetricsServiceRequest or ExportLogsServiceRequest, given as OTLP's JSON has it."""
    parts = []
    for name, content in value.items():
        number, kind = _MESSAGES[message][name]
        for item in content if isinstance(content, list) else [content]:
            parts.append(_field(number, kind, item))
    return b"".join(parts)


def _field(number: int, kind: str, value: Any) -> bytes:
    """The tag, number and wire type (0 varint, 1 64 bits, 2 with its length), and the value."""
    if kind == "varint":
        return _varint(number << 3) + _varint(int(value))
    if kind in ("fixed64", "double"):
        packed = struct.pack("<d", value) if kind == "double" else struct.pack("<Q", int(value))
        return _varint(number << 3 | 1) + packed
    body = value.encode() if kind == "string" else encode(value, kind)
    return _varint(number << 3 | 2) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)
