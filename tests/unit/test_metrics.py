"""The metrics file: the text format of Prometheus, from a status document."""

from __future__ import annotations

import re

from ec2ssh_agent.report import metrics
from ec2ssh_agent.status import public
from status_example import example

SAMPLE = re.compile(r'([a-z_0-9]+)(\{(?:[a-z_]+="(?:[^"\\\n]|\\[\\n"])*"(?:,(?=[a-z]))?)+\})? (-?[0-9.e+-]+)')


def samples(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = SAMPLE.fullmatch(line)
        assert match, line
        name = match.group(1) + (match.group(2) or "")
        assert name not in found, f"twice: {name}"
        found[name] = float(match.group(3))
    return found


def test_a_lockout_is_shown() -> None:
    found = samples(metrics.render(example()))
    assert found['ec2ssh_health{state="unreachable"}'] == 1
    assert found['ec2ssh_health{state="ok"}'] == 0
    assert found['ec2ssh_finding{id="firewall-drop",severity="critical",symptom="timeout"}'] == 1
    assert found['ec2ssh_reach_open{interface="eth0",family="ipv4",port="22"}'] == 0
    assert found["ec2ssh_report_waiting"] == 3
    assert found["ec2ssh_updated_timestamp_seconds"] == 1795875300
    assert found["ec2ssh_pass_seconds"] == 0.041


def test_the_public_document_gives_the_same() -> None:
    assert metrics.render(public(example())) == metrics.render(example())


def test_no_address_and_no_rule_is_shown() -> None:
    text = metrics.render(example())
    assert "10.0.5.20" not in text and "203.0.113" not in text and "DROP" not in text


def test_two_findings_of_one_id_are_one_sample() -> None:
    document = example()
    document["findings"] = document["findings"] * 2
    samples(metrics.render(document))


def test_label_values_are_escaped() -> None:
    document = example()
    document["findings"][0]["id"] = 'a"b\\c\nd'
    assert 'id="a\\"b\\\\c\\nd"' in metrics.render(document)
    samples(metrics.render(document))


def test_an_open_address_beside_a_shut_one_counts_as_open() -> None:
    document = example()
    other = dict(document["reach"]["answers"][0], sources={"connected": ["0.0.0.0/0"], "timeout": []})
    document["reach"]["answers"].insert(0, other)
    assert samples(metrics.render(document))['ec2ssh_reach_open{interface="eth0",family="ipv4",port="22"}'] == 1
