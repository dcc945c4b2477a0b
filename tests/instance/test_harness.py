"""The harness shows what a client lives through, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

from harness import CLIENTS4, CLIENTS6, PREFIX, SERVER6, WORK, Instance, boot


def test_a_plain_instance_is_broken_and_mended_as_a_client_sees_it() -> None:
    with boot(agent=False) as made:
        assert made.client.ssh().ok
        assert made.client.ssh(to=SERVER6).ok
        for source in CLIENTS4:
            assert made.client.symptom(source=source) == "connected"
        for source in CLIENTS6:
            assert made.client.symptom(source=source, to=SERVER6) == "connected"
        before = made.snapshot()
        assert Instance.diff(before, made.snapshot()) == []

        made.run("iptables -A INPUT -p tcp --dport 22 -j DROP")
        assert made.client.symptom() == "timeout"
        assert made.client.symptom(to=SERVER6) == "connected"
        assert any("--dport 22 -j DROP" in line for line in Instance.diff(before, made.snapshot()))
        made.run("iptables -F INPUT; iptables -A INPUT -p tcp --dport 22 -j REJECT --reject-with icmp-host-prohibited")
        assert made.client.symptom() == "unreachable"
        made.run("iptables -F INPUT")

        made.run("systemctl stop ssh.service")
        assert made.client.symptom() == "refused"
        made.run("systemctl start ssh.service")
        assert made.client.wait_ssh(30) < 30

        made.write("/etc/hosts.deny", "sshd: ALL\n")
        assert made.client.symptom() == "closed"
        made.run("rm /etc/hosts.deny; kill -STOP $(systemctl show -P MainPID ssh.service)")
        assert made.client.symptom(banner=3) == "silent"
        made.run("kill -CONT $(systemctl show -P MainPID ssh.service)")

        made.write("/etc/kept", "yes\n")
        made.run("iptables -P INPUT DROP")
        made.reboot()
        assert made.read("/etc/kept") == "yes\n"
        assert made.client.ssh().ok, "the rules of the first boot outlived it"
        left = made.directory
    assert not left.exists()
    assert not list(Path("/run/netns").glob(f"{left.name}*"))
    assert left.name.startswith(PREFIX) and left.parent == WORK
