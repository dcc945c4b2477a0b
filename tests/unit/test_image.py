"""prepare-image leaves nothing of this instance, and says what it could not remove."""

from __future__ import annotations

from ec2ssh_agent import image
from ec2ssh_agent.host import Ran
from fake_host import FakeHost

STATE = {
    "/var/lib/ec2ssh-agent/history.jsonl": b"{}\n",
    "/var/lib/ec2ssh-agent/changes/20261128T000000-abcd/record.json": b"{}",
    "/var/lib/ec2ssh-agent/spool/0001.json": b"{}",
    "/var/lib/ec2ssh-agent-report/acknowledged": b"x",
    "/run/ec2ssh-agent/status.json": b"{}",
    "/etc/ec2ssh-agent/credentials/token": b"secret",
}
KEPT = {"/etc/ec2ssh-agent/agent.conf": b"# mine\n", "/etc/hosts.allow": b"sshd2 sshd : ALL: allow\n"}


def _host(*, root: str = "/") -> FakeHost:
    host = FakeHost({**STATE, **KEPT}, root=root)
    for program in ("systemctl", "journalctl"):
        host.command([program], Ran(0, b"", b""))
    return host


def test_state_and_keys_go_and_configuration_stays() -> None:
    host = _host()
    document = image.prepare(host)
    assert (document["exit"], document["removed"], document["left"]) == (0, len(STATE), [])
    assert not any(host.exists(path) for path in STATE)
    assert all(host.read(path) == content for path, content in KEPT.items())
    assert host.stat("/var/lib/ec2ssh-agent/spool") is not None, "the package's directories stay"
    assert "1 changes that repairs made" in document["text"]
    assert host.calls[0].argv[:2] == ("systemctl", "stop"), "a daemon that runs would write its state again"


def test_a_second_time_it_finds_nothing() -> None:
    host = _host()
    image.prepare(host)
    assert image.prepare(host)["removed"] == 0


def test_what_cannot_be_stopped_is_said() -> None:
    host = _host()
    host.command(["systemctl", "stop"], Ran(1, b"", b"Failed to stop\n"))
    assert "Failed to stop" in image.prepare(host)["text"]


def test_the_journal_is_emptied_with_journald_and_without() -> None:
    for there, words in ((True, ["--rotate", "--vacuum-time=1s"]), (False, ["--vacuum-time=1s"])):
        host = _host()
        if there:
            host.put("/run/systemd/journal/socket", b"")
        assert "the journal is emptied" in image.prepare(host)["text"]
        assert [call.argv[-1] for call in host.calls if call.argv[0] == "journalctl"] == words


def test_an_attached_volume_runs_no_command() -> None:
    host = _host(root="/mnt")
    document = image.prepare(host)
    assert document["exit"] == 0 and document["removed"] == len(STATE)
    assert host.calls == []


def test_its_lines_go_from_what_rsyslog_wrote() -> None:
    host = _host()
    host.put("/var/log/syslog", b"Nov 28 sshd[4]: mine\nNov 28 ec2ssh-agent[7]: ok -> unreachable: 10.0.5.20\nlast\n")
    host.put("/var/log/messages", b"none\n")
    host.put("/var/log/user.log.1", b"ec2ssh-agent " * (6 << 20))
    document = image.prepare(host)
    assert host.read("/var/log/syslog") == b"Nov 28 sshd[4]: mine\nlast\n"
    assert (document["left"], document["exit"]) == (["/var/log/user.log.1"], 3)
    assert host.calls[-1].argv == ("systemctl", "kill", "--signal=HUP", "rsyslog.service")
