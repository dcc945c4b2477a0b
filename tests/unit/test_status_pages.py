"""What a person and a program read of the status: complete, bounded, harmless, and honest about its age."""

from __future__ import annotations

import json

import pytest

from ec2ssh_agent import publish, status
from fake_host import FakeHost
from status_example import example

RULE = "203.0.113.0/24"


def published() -> FakeHost:
    host = FakeHost({"/etc/group": b"root:x:0:\nadm:x:4:\n", "/proc/321/stat": b"321 (python3) S " + b"0 " * 40})
    document = {**example(), "updated": publish.stamp(host.now()), "valid_until": publish.stamp(host.now() + 60)}
    document["agent"] = {**document["agent"], "ticks": "0"}
    document["findings"][0]["repair"] = f"would: iptables -s {RULE} -j ACCEPT"
    assert publish.publish(host, document) == ()
    return host


def test_everybody_reads_the_verdict_and_only_adm_the_rules() -> None:
    host = published()
    whole, stale = publish.latest(host)
    assert stale is None and RULE in json.dumps(whole)
    modes = {name: oct(host.nodes[f"{publish.RUN}/{name}"].mode & 0o777) for name in ("status.json", "detail.json")}
    assert modes == {"status.json": "0o644", "detail.json": "0o640"}
    assert host.nodes[f"{publish.RUN}/detail.json"].gid == 4
    host.denied.add(f"{publish.RUN}/detail.json")
    public, stale = publish.latest(host)
    assert stale is None and RULE not in json.dumps(public)
    assert "firewall-drop" in status.render(public) and status.exit_status(public) == 2


def test_martians_are_left_out_and_who_has_no_way_back_is_not() -> None:
    document = example()
    rule = document["reach"]["answers"][0]["rules"][0]
    kernel = {**rule, "table": None, "chain": None, "rule": None, "stage": "route"}
    connected = {**rule, "outcome": "connected", "sources": ["10.0.0.0/8"]}
    martian = {**kernel, "sources": ["127.0.0.0/8"], "text": "martian source: the host's own address, or loopback"}
    answer = document["reach"]["answers"][0]
    answer["sources"] = {**answer["sources"], "connected": ["10.0.0.0/8"], "timeout": ["127.0.0.0/8"]}
    answer["rules"] = [connected, martian]
    assert (
        "connected   everybody" in status.render(document) and "timeout" not in status.render(document).split("eth0")[1]
    )
    answer["rules"] = [connected, martian, {**kernel, "sources": ["11.0.0.0/8"], "text": "no route back"}]
    answer["sources"]["timeout"] = ["11.0.0.0/8", "127.0.0.0/8"]
    page = status.render(document)
    assert "connected   10.0.0.0/8" in page and "timeout     11.0.0.0/8, 127.0.0.0/8  <- no route back" in page


def test_node_exporter_gets_a_copy_where_it_has_a_directory() -> None:
    host = published()
    assert not any("prometheus" in path for path in host.nodes)
    host.directory(publish.TEXTFILES)
    assert publish.publish(host, example()) == ()
    copy = host.nodes[f"{publish.TEXTFILES}/ec2ssh-agent.prom"].content
    assert copy == host.nodes[f"{publish.RUN}/metrics.prom"].content and b"ec2ssh" in copy


def test_node_exporters_directory_is_no_link_and_may_be_on_a_disk_that_fails() -> None:
    host = published()
    host.directory("/etc/elsewhere")
    host.link(publish.TEXTFILES, "/etc/elsewhere")
    assert publish.publish(host, example()) == ()
    assert not any(path.endswith("ec2ssh-agent.prom") for path in host.nodes)
    host.denied.add("/var/lib/prometheus")
    (said,) = publish.publish(host, example())
    assert publish.TEXTFILES in said


def test_an_old_document_is_unknown_and_says_since_when() -> None:
    host = published()
    host.advance(120)
    document, stale = publish.latest(host)
    assert stale and "has not looked since" in stale
    assert status.exit_status(document, stale) == 3 and "UNKNOWN" in status.render(document, stale=stale)


def test_what_was_seen_before_passes_failed_is_unknown_now() -> None:
    host = published()
    host.put(f"{publish.RUN}/trouble", b"ValueError: \x1b[2J\n")
    document, stale = publish.latest(host)
    assert stale and "the last pass failed (ValueError: " in stale and "\x1b" not in stale
    assert status.exit_status(document, stale) == 3


def test_a_daemon_that_is_gone_or_stopped_or_another_process_is_told() -> None:
    host = published()
    host.put("/proc/321/stat", b"321 (python3) T " + b"0 " * 40)
    assert "stopped" in str(publish.latest(host)[1])
    host.put("/proc/321/stat", b"321 (vi) S " + b"7 " * 40)
    assert "not running any more" in str(publish.latest(host)[1])
    host.remove("/proc/321/stat")
    assert "not running any more" in str(publish.latest(host)[1])


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'{"schema": "other/1"}', b"\xff", b"[" * 100_000])
def test_garbage_is_no_status(content: bytes) -> None:
    host = published()
    host.put(f"{publish.RUN}/detail.json", content)
    with pytest.raises(publish.NoDaemon) as caught:
        publish.latest(host)
    assert caught.value.exit_status == 3


def test_nothing_that_the_host_says_drives_the_terminal() -> None:
    document = example()
    document["findings"][0]["evidence"] = ["-m comment --comment \x1b]0;owned\x07\x1b[2J\u202e\udcff"]
    document["ssh"]["banner"] = "SSH-2.0-\x1b[31m"
    page = status.render(document, width=80, colour=False)
    assert all(line.isprintable() for line in page.splitlines()) and "\\x1b[2J" in page
    assert max(len(line) for line in page.splitlines()) <= 80


def test_what_scrolls_off_a_console_is_said_again_at_its_end() -> None:
    document = example()
    document["repairs"] *= 10
    page = status.render(document, height=24)
    assert page.splitlines()[0] == page.splitlines()[-1] == "SSH is UNREACHABLE"
    assert page.count("ufw allow 22/tcp") - 1 == 3 and "ec2ssh-agent history" in page
    assert status.render(document).count("SSH is UNREACHABLE") == 1
    assert status.render(document, height=100).count("SSH is UNREACHABLE") == 1


def test_to_everybody_martians_are_no_outcome() -> None:
    document = example()
    rule = document["reach"]["answers"][0]["rules"][0]
    martian = {**rule, "table": None, "sources": ["127.0.0.0/8"], "text": "martian source: loopback"}
    document["reach"]["answers"][0]["rules"] = [{**rule, "outcome": "connected"}, martian]
    assert status.public(document)["reach"]["answers"][0]["outcomes"] == ["connected"]


def test_lists_are_cut_and_say_so() -> None:
    document = example()
    document["reach"]["answers"][0]["sources"]["timeout"] = ["10.0.0.1"] * 10_001
    cut = status.bounded(document)["reach"]["answers"][0]["sources"]
    assert len(cut["timeout"]) == 10_000 and cut["truncated"] is True


def test_history_is_newest_first_and_bounded() -> None:
    host = FakeHost()
    for number in range(3):
        publish.remember(host, {"time": publish.stamp(number), "kind": "health", "text": str(number)})
    host.append(publish.HISTORY, b'{"half a li')
    assert [event["text"] for event in publish.history(host)["events"]] == ["2", "1", "0"]
    for _ in range(15):
        publish.remember(host, {"time": "", "kind": "health", "text": "x" * 100_000})
    assert len(host.nodes[publish.HISTORY].content) < 1_300_000


def test_what_was_not_seen_is_not_said_to_be_nothing() -> None:
    document = example()
    document["ssh"]["listeners"], document["firewall"] = [], {"owner": None, "backends": []}
    assert "nobody listens" in status.render(document) and "(no rules)" in status.render(document)
    document["notes"] = ["not seen: listeners: not permitted", "not seen: ruleset: not permitted"]
    page = status.render(document)
    assert "listeners not seen" in page and "(rules not seen)" in page and "nobody listens" not in page


def test_a_history_that_is_damaged_is_shown_as_far_as_it_is_one() -> None:
    good = b'{"time": "2026-11-28T14:14:59Z", "kind": "pause", "text": "repairs\\u001b[2J paused"}\n'
    damaged = good + b"[]\nnull\n3\n{}\n" + b"[" * 3000 + b"\n\xff\n" + b'{"time": 1, "kind": null, "text": []}\n'
    document = publish.history(FakeHost({publish.HISTORY: damaged}))
    assert publish.render_history(document) == "2026-11-28T14:14:59Z  pause    repairs\\x1b[2J paused\n"
