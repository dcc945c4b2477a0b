"""What people already run: Debian's Alertmanager, node_exporter and Prometheus, and OpenTelemetry's protocol."""

from __future__ import annotations

import base64
import contextlib
import json
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ec2ssh_agent.config import Config
from ec2ssh_agent.host import Host
from ec2ssh_agent.report import content, formats, metrics, spool
from ec2ssh_agent.report.reporter import Reporter
from monitoring import eventually, fetch, free_port, programs, protocol, running, victoria_metrics

OUTCOMES = ("connected", "timeout", "refused", "unreachable", "closed", "uncertain")
ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "packaging/prometheus/alerts.yml"
DASHBOARD = ROOT / "packaging/grafana/dashboard.json"


@pytest.fixture(scope="module")
def bin() -> Path:
    return programs()


def stamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def document(health: str) -> dict[str, Any]:
    """A status document of now: locked out, or well again after a repair."""
    well, now = health == "ok", time.time()
    sources: dict[str, list[str]] = {name: [] for name in OUTCOMES}
    everyone = {"connected" if well else "timeout": ["0.0.0.0/0"]}
    finding = {
        "id": "firewall-drop", "subject": "", "severity": "critical", "symptom": "timeout", "document": "1",
        "summary": "the firewall drops SSH from everyone outside", "evidence": ["INPUT rule 3"], "repair": "",
    }  # fmt: skip
    repair = {"id": "c1", "time": stamp(now), "finding": "firewall-drop", "outcome": "verified"}
    return {
        "schema": "ec2ssh-agent.status/1",
        "agent": {"version": "0.1.0", "pid": 1, "started": stamp(now - 60), "pass_ms": 41},
        "instance": {"id": "i-0123456789abcdef0"}, "health": health, "summary": "",
        "ssh": {"port": 22, "listeners": ["0.0.0.0:22"], "unit": "ssh.service", "pid": 1, "banner": None,
                "libwrap": False},
        "reach": {"unseen": [], "answers": [{"interface": "eth0", "family": "ipv4", "to": ["10.0.5.20"], "port": 22,
                  "sources": {**sources, **everyone}, "nd": {"blocked": False, "rules": []}, "rules": []}]},
        "firewall": {"owner": "ufw", "backends": []}, "findings": [] if well else [finding],
        "repairs": [repair] if well else [], "circuit": {},
        "report": {"url": "https://a/", "waiting": 0, "parked": 0, "dropped": 0, "delivered": stamp(now),
                   "last": "200 OK"},
        "updated": stamp(now), "valid_until": stamp(now + 3600),
    }  # fmt: skip


def host_in(directory: Path) -> Host:
    host = Host(str(directory))
    for path in (spool.REPORTER, "/run/ec2ssh-agent"):
        Path(host.path(path)).mkdir(parents=True)
    return host


def publish(host: Host, status: dict[str, Any]) -> None:
    Path(host.path("/run/ec2ssh-agent/status.json")).write_text(json.dumps(status))


@contextlib.contextmanager
def alertmanager(bin: Path, directory: Path) -> Iterator[str]:
    base = f"http://127.0.0.1:{free_port()}"
    (directory / "am.yml").write_text("route:\n  receiver: none\nreceivers:\n  - name: none\n")
    with running(
        directory / "am.log", bin / "prometheus-alertmanager", f"--config.file={directory}/am.yml",
        f"--storage.path={directory}/am", f"--web.listen-address={base[7:]}", "--cluster.listen-address=",
        ready=f"{base}/-/ready",
    ):  # fmt: skip
        yield base


@contextlib.contextmanager
def prometheus(bin: Path, directory: Path, config: str, *options: str) -> Iterator[str]:
    base = f"http://127.0.0.1:{free_port()}"
    (directory / "prometheus.yml").write_text(config)
    with running(
        directory / "prometheus.log", bin / "prometheus", f"--config.file={directory}/prometheus.yml",
        f"--storage.tsdb.path={directory}/tsdb", f"--web.listen-address={base[7:]}", *options, ready=f"{base}/-/ready",
    ):  # fmt: skip
        yield base


def active(base: str) -> set[str]:
    return {alert["labels"]["alertname"] for alert in fetch(f"{base}/api/v2/alerts?active=true") or []}


def query(base: str, expression: str) -> list[Any]:
    answer = fetch(f"{base}/api/v1/query?" + urllib.parse.urlencode({"query": expression}))
    return list(answer["data"]["result"]) if answer else []


def test_alertmanager_fires_and_resolves(bin: Path, tmp_path: Path) -> None:
    host = host_in(tmp_path)
    with alertmanager(bin, tmp_path) as base:
        config = Config(report_url=base, report_format="alertmanager", identity_imds="off")
        sick, well = document("unreachable"), document("ok")
        publish(host, sick)
        assert spool.tell(host, config, sick, None) == ("change",)
        assert Reporter(host, config).run().answer == "200 OK"
        eventually(lambda: active(base) == {"EC2SSHFirewallDrop"}, "the alert does not fire")
        (alert,) = fetch(f"{base}/api/v2/alerts")
        assert alert["labels"] == {
            "alertname": "EC2SSHFirewallDrop", "finding": "firewall-drop", "instance": "i-0123456789abcdef0",
            "severity": "critical",
        }  # fmt: skip
        assert alert["annotations"]["symptom"] == "timeout"
        time.sleep(1)
        publish(host, well)
        assert spool.tell(host, config, {**well, "updated": stamp(time.time())}, sick) == ("repair",)
        assert Reporter(host, config).run().answer == "200 OK"
        eventually(lambda: active(base) == set(), "the alert does not end")


def test_prometheus_fires_resolves_and_fills_the_dashboard(bin: Path, tmp_path: Path) -> None:
    subprocess.run([bin / "promtool", "check", "rules", RULES], check=True, capture_output=True, timeout=60)
    (tmp_path / "rules.yml").write_text(
        "".join(line for line in RULES.read_text().splitlines(keepends=True) if "for:" not in line)
    )
    textfiles = tmp_path / "textfiles"
    textfiles.mkdir()
    file = textfiles / "ec2ssh-agent.prom"
    file.write_text(metrics.render(document("unreachable")))
    with open(file) as source:
        subprocess.run(
            [bin / "promtool", "check", "metrics"], stdin=source, check=True, capture_output=True, timeout=60
        )
    exporter = f"127.0.0.1:{free_port()}"
    with contextlib.ExitStack() as stack:
        stack.enter_context(
            running(
                tmp_path / "exporter.log", bin / "prometheus-node-exporter", "--collector.disable-defaults",
                "--collector.textfile", f"--collector.textfile.directory={textfiles}",
                f"--web.listen-address={exporter}", ready=f"http://{exporter}/metrics",
            )
        )  # fmt: skip
        manager = stack.enter_context(alertmanager(bin, tmp_path))
        config = f"""
global: {{scrape_interval: 1s, evaluation_interval: 1s}}
rule_files: [{tmp_path}/rules.yml]
alerting: {{alertmanagers: [{{static_configs: [{{targets: ["{manager[7:]}"]}}]}}]}}
scrape_configs: [{{job_name: node, static_configs: [{{targets: ["{exporter}"]}}]}}]
"""
        base = stack.enter_context(prometheus(bin, tmp_path, config, "--rules.alert.resend-delay=1s"))
        expected = {"SSHUnreachable", "SSHCriticalFinding"}
        eventually(lambda: expected <= active(manager), "the alerts do not fire")
        panels = json.loads(DASHBOARD.read_text())["panels"]
        expressions = [t["expr"].replace("$instance", ".*") for panel in panels for t in panel["targets"]]
        assert expressions
        sick = {expression for expression in expressions if query(base, expression)}
        file.write_text(metrics.render(document("ok")))
        eventually(lambda: active(manager) == {"SSHRepaired"}, "the alerts do not end")
        empty = [expression for expression in expressions if expression not in sick and not query(base, expression)]
        assert not empty


#: For each alert a series by the minute, and the minutes after which it fires and after which it has ended.
ALERTS: dict[str, tuple[str, str, int, int]] = {
    "SSHUnreachable": ('ec2ssh_health{state="unreachable"}', "1x5 0x20", 2, 7),
    "SSHDegraded": ('ec2ssh_health{state="degraded"}', "1x20 0x20", 16, 22),
    "SSHHealthUnknown": ('ec2ssh_health{state="unknown"}', "1x20 0x20", 16, 22),
    "SSHCriticalFinding": (
        'ec2ssh_finding{id="firewall-drop",severity="critical",symptom="timeout"}',
        "1x9 _x9",
        6,
        18,
    ),
    "SSHRepairGivenUp": ("ec2ssh_circuit_open", "1x5 0x20", 1, 7),
    "SSHRepaired": ('ec2ssh_repair_timestamp_seconds{finding="firewall-drop",outcome="verified"}', "60x60", 2, 17),
    "SSHAgentStale": ("ec2ssh_valid_until_timestamp_seconds", "600x20 3600x20", 16, 22),
    "SSHAgentReportsRefused": ("ec2ssh_report_parked", "2x20 0x20", 16, 22),
    "SSHAgentReportsWait": ("ec2ssh_report_waiting", "1x70 0x20", 61, 72),
    "SSHAgentReportsDropped": ("ec2ssh_report_dropped_total", "0x5 3x100", 8, 80),
}


def test_each_alert_fires_alone_and_ends(bin: Path, tmp_path: Path) -> None:
    rules = {line.split(": ")[1] for line in RULES.read_text().splitlines() if "- alert:" in line}
    assert rules == set(ALERTS)
    firing = 'count by (alertname) (ALERTS{alertstate="firing"})'
    document = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": series, "values": values}],
                "promql_expr_test": [
                    {"expr": firing, "eval_time": f"{fires}m",
                     "exp_samples": [{"labels": f'{{alertname="{name}"}}', "value": 1}]},
                    {"expr": firing, "eval_time": f"{ended}m", "exp_samples": []},
                ],
            }
            for name, (series, values, fires, ended) in ALERTS.items()
        ],
    }  # fmt: skip
    (tmp_path / "test.yml").write_text(json.dumps(document))
    ran = subprocess.run([bin / "promtool", "test", "rules", tmp_path / "test.yml"], capture_output=True, timeout=60)
    assert ran.returncode == 0, (ran.stdout + ran.stderr).decode()


def test_otlp_to_a_receiver_that_is_not_ours(tmp_path: Path) -> None:
    """The reporter's heartbeat to VictoriaMetrics, which takes protobuf and no JSON; asked for again by PromQL."""
    host, status = host_in(tmp_path), document("unreachable")
    publish(host, status)
    base = f"http://127.0.0.1:{free_port()}"
    with running(
        tmp_path / "vm.log", victoria_metrics(), f"-httpListenAddr={base[7:]}", f"-storageDataPath={tmp_path}/vm",
        "-search.latencyOffset=0s", "-memory.allowedBytes=64MB", ready=f"{base}/health",
    ):  # fmt: skip
        config = Config(report_url=f"{base}/opentelemetry", report_format="otlp", identity_imds="off")
        done = Reporter(host, config).run()
        assert (done.sent, done.parked) == (1, 0), done
        fetch(f"{base}/internal/force_flush")
        eventually(lambda: query(base, "ec2ssh_agent_info"), "the metrics do not arrive")
        seen = {
            (series["metric"]["__name__"], *(series["metric"].get(key, "") for key in ("state", "id", "outcome"))):
            float(series["value"][1])
            for series in query(base, '{host.id="i-0123456789abcdef0",service.name="ec2ssh-agent"}')
        }  # fmt: skip
    said = {
        (family.name, *(dict(labels).get(key, "") for key in ("state", "id", "outcome"))): value
        for family in metrics.families(status)
        for labels, value in family.samples
    }
    assert seen == pytest.approx(said) and seen["ec2ssh_health", "unreachable", "", ""] == 1


PARSE = """
import base64, json, sys
from google.protobuf.json_format import Parse
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest as Logs
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest as Metrics
given = [json.loads(line) for line in sys.stdin]
metrics, logs = (Parse(text, kind()) for (text, _), kind in zip(given, (Metrics, Logs)))
for (_, binary), message in zip(given, (metrics, logs)):
    assert type(message).FromString(base64.b64decode(binary)) == message
(scope,) = metrics.resource_metrics[0].scope_metrics
(record,) = logs.resource_logs[0].scope_logs[0].log_records
print(json.dumps({
    "host": {a.key: a.value.string_value for a in metrics.resource_metrics[0].resource.attributes},
    "health": {p.attributes[0].value.string_value: p.as_double for m in scope.metrics if m.name == "ec2ssh_health"
               for p in m.gauge.data_points},
    "sums": [m.name for m in scope.metrics if m.WhichOneof("data") == "sum" and m.sum.is_monotonic],
    "severity": record.severity_text, "time": record.time_unix_nano, "body": record.body.string_value,
}))
"""


def test_opentelemetry_reads_what_we_send() -> None:
    """With OpenTelemetry's own definitions: no field is unknown, none of a wrong type, in JSON and in protobuf."""
    status = document("unreachable")
    beat = content.report(status, previous=status, kind="heartbeat", id="a", sequence=1)
    change = content.report(status, previous=None, kind="change", id="b", sequence=2)
    sent = [
        formats.request_of(beat, "otlp", interval=300, status=status),
        formats.request_of(change, "otlp", interval=300),
    ]
    assert [request.path for request in sent] == ["/v1/metrics", "/v1/logs"]
    lines = [json.dumps([request.body.decode(), base64.b64encode(request.binary().body).decode()]) for request in sent]
    ran = subprocess.run(
        [sys.executable, "-c", PARSE], input="\n".join(lines).encode(), capture_output=True,
        env={"PYTHONPATH": str(protocol())}, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr.decode()
    read = json.loads(ran.stdout)
    assert read["host"]["host.id"] == "i-0123456789abcdef0" and read["host"]["service.name"] == "ec2ssh-agent"
    assert read["health"] == {"ok": 0, "degraded": 0, "unreachable": 1, "unknown": 0}
    assert read["sums"] == ["ec2ssh_report_dropped_total"]
    assert read["severity"] == "ERROR" and read["time"] == int((metrics.seconds(status["updated"]) or 0) * 1e9)
    assert json.loads(read["body"]) == change
