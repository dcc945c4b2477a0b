"""`report --test` and `--drain`: the reporter is run as its own user, and its endpoint's answer is what is shown."""

from __future__ import annotations

import json

import pytest

from ec2ssh_agent.config import Config
from ec2ssh_agent.host import Denied, HostError, Ran
from ec2ssh_agent.model import UsageError
from ec2ssh_agent.report import command, spool
from fake_host import Call, FakeHost
from status_example import example

CONFIG = Config(report_url="https://health.example/in")


def host_whose_reporter(outcome: str, answer: str) -> FakeHost:
    host = FakeHost({"/run/ec2ssh-agent/status.json": json.dumps(example()).encode(), "/etc/group": b""})
    host.directory(spool.REPORTER)

    def run(call: Call) -> Ran:
        waiting = [
            e for e in spool.entries(host) if f"--only={e.id}" in call.argv or "--now" in call.argv or e.id in call.argv
        ]
        for entry in waiting if outcome else ():
            host.put(f"{spool.REPORTER}/{entry.id}", json.dumps({"outcome": outcome, "answer": answer}).encode())
        sent = len(waiting) if outcome == "delivered" else 0
        return Ran(0, json.dumps({"sent": sent, "parked": 0, "answer": answer}).encode(), b"")

    host.command(["setpriv"], run)
    host.command(["setsid", "--fork", "setpriv"], run)
    return host


def test_a_test_that_arrives() -> None:
    host = host_whose_reporter("delivered", "202 Accepted")
    result = command.send(host, CONFIG, test=True)
    assert (result["text"], result["exit"]) == ("delivered to https://health.example/in: 202 Accepted\n", 0)
    assert result["schema"] == "ec2ssh-agent.report-command/1"
    assert spool.entries(host) == ()


def test_the_reporter_is_run_without_privileges() -> None:
    host = host_whose_reporter("delivered", "200 OK")
    command.send(host, CONFIG, test=True)
    (call,) = host.calls
    assert {"--reuid=ec2ssh-agent", "--regid=ec2ssh-agent", "--clear-groups", "--no-new-privs"} <= set(call.argv)
    assert {"--bounding-set=-all", "--inh-caps=-all", "--config=/etc/ec2ssh-agent/agent.conf"} <= set(call.argv)


def test_a_test_that_is_refused_or_does_not_arrive_leaves_nothing_behind() -> None:
    for outcome, answer, words in (("parked", "401 Unauthorized", "refused"), ("", "TLS: unknown CA", "did not take")):
        host = host_whose_reporter(outcome, answer)
        result = command.send(host, CONFIG, test=True)
        assert result["exit"] == 1 and words in result["text"] and answer in result["text"]
        assert spool.entries(host) == ()


def test_draining() -> None:
    host = host_whose_reporter("delivered", "200 OK")
    for _ in range(3):
        spool.enqueue(host, CONFIG, example(), None, "change")
    result = command.send(host, CONFIG, test=False)
    assert result["exit"] == 0 and result["text"].startswith("3 delivered, 0 refused, 0 wait\n")
    assert spool.entries(host) == ()


def test_draining_into_an_endpoint_that_is_down() -> None:
    host = host_whose_reporter("", "503 Down")
    spool.enqueue(host, CONFIG, example(), None, "change")
    result = command.send(host, CONFIG, test=False)
    assert result["exit"] == 1 and "0 delivered, 0 refused, 1 wait" in result["text"] and "503 Down" in result["text"]


def test_without_an_endpoint_or_without_rights() -> None:
    with pytest.raises(UsageError, match="no endpoint"):
        command.send(FakeHost(), Config(), test=True)
    host = host_whose_reporter("delivered", "200 OK")
    host.denied.add(spool.DIRECTORY)
    with pytest.raises(Denied, match="are you root"):
        command.send(host, CONFIG, test=True)


def test_a_reporter_that_does_not_run() -> None:
    host = host_whose_reporter("", "")
    host.command(["setpriv"], Ran(1, b"", b"setpriv: user ec2ssh-agent: not found\n"))
    with pytest.raises(HostError, match="user ec2ssh-agent"):
        command.send(host, CONFIG, test=True)
    assert spool.entries(host) == ()


def test_where_the_supervisor_starts_it_and_cannot_that_is_said() -> None:
    host = host_whose_reporter("", "")
    command.start(host, CONFIG)
    (call,) = host.calls
    assert call.argv[-1] == "--background" and "--reuid=ec2ssh-agent" in call.argv
    host.command(["setsid", "--fork", "setpriv"], Ran(0, b"", b"setpriv: user ec2ssh-agent: not found\n"))
    with pytest.raises(HostError, match="did not start: setpriv: user"):
        command.start(host, CONFIG)
    host.directory("/run/systemd/system")
    command.start(host, CONFIG)
    assert len(host.calls) == 2


def test_the_configuration_file_is_the_one_that_was_read() -> None:
    def path(where: str) -> str:
        host = host_whose_reporter("delivered", "200 OK")
        command.send(host, CONFIG._replace(origin=(("report_url", where),)), test=True)
        return next(word for word in host.calls[0].argv if word.startswith("--config="))[9:]

    assert path("/etc/ec2ssh-agent/agent.conf.d/report.conf:2") == "/etc/ec2ssh-agent/agent.conf"
    assert path("/root/other.conf:2") == "/root/other.conf"


def test_with_systemd_its_own_run_is_ended_first_and_its_proxies_are_used() -> None:
    host = host_whose_reporter("delivered", "200 OK")
    host.directory("/run/systemd/system")
    host.command(["systemctl", "stop", "ec2ssh-agent-report.service"], Ran(0, b"", b""))
    shown = b'LANG=C https_proxy=http://proxy:3128 "NO_PROXY=10.0.0.0/8, example.com" AWS_SECRET=x\n'
    host.command(["systemctl", "show"], Ran(0, shown, b""))
    assert command.send(host, CONFIG, test=True)["exit"] == 0
    assert [call.argv[:2] for call in host.calls][0] == ("systemctl", "stop")
    said = dict(host.calls[-1].environment)
    assert said["https_proxy"] == "http://proxy:3128" and said["NO_PROXY"] == "10.0.0.0/8, example.com"
    assert "AWS_SECRET" not in said and "LANG" not in said
    host.command(["systemctl", "show"], Ran(0, b'"unbalanced\n', b""))
    with pytest.raises(HostError, match="environment"):
        command.send(host, CONFIG, test=True)
