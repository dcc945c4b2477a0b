"""The user data's script mends what the document's does, on instances without the agent, broken in each of its ways."""

from __future__ import annotations

import pytest

from ec2ssh_agent import user_data
from ec2ssh_agent.config import Config, parse
from harness import SERVER4, SERVER6, Instance, boot

# What breaks it, the client's symptom, by which address, what puts it back.
BREAKS = (
    ("iptables -A INPUT -p tcp --dport 22 -j DROP", "timeout", SERVER4, "iptables -F"),
    (
        "iptables -P INPUT DROP; iptables -A INPUT -j REJECT",
        "refused",
        SERVER4,
        "iptables -P INPUT ACCEPT; iptables -F",
    ),
    ("ip6tables -A INPUT -p tcp --dport 22 -j DROP", "timeout", SERVER6, "ip6tables -F"),
    ("iptables-legacy -A INPUT -p tcp --dport 22 -j DROP", "timeout", SERVER4, "iptables-legacy -F"),
    (
        "nft 'add table inet own; add chain inet own in { type filter hook input priority 0; policy drop; }'",
        "timeout",
        SERVER4,
        "nft delete table inet own",
    ),
    ("systemctl stop ssh.service", "refused", SERVER4, "true"),
    ("systemctl disable --now ssh.service", "refused", SERVER4, "systemctl enable ssh.service"),
    ("printf 'ALL: ALL\\n' > /etc/hosts.deny", "closed", SERVER4, ": > /etc/hosts.deny; : > /etc/hosts.allow"),
)


def _script(made: Instance, text: str = "") -> None:
    config = Config(**{name: value for name, value, _ in parse(text, "agent.conf")})
    made.write("/root/user-data.sh", user_data.script(config), 0o755)


def test_the_first_form_lets_the_client_in_after_each_break() -> None:
    with boot(agent=False) as made:
        _script(made)
        healthy = made.snapshot()
        made.run("/root/user-data.sh")
        assert [
            line for line in Instance.diff(healthy, made.snapshot()) if "ssh.service" not in line and "PID" not in line
        ] == []
        for command, symptom, address, back in BREAKS:
            made.run(command)
            assert made.client.symptom(to=address) == symptom, command
            for _ in range(2):
                done = made.run("/root/user-data.sh")
                made.client.wait_ssh(30, to=address)
            assert made.client.ssh(to=address).ok, f"{command}: {done.out}{done.err}"
            once = made.snapshot()
            made.run("/root/user-data.sh")
            assert once.rules == made.snapshot().rules and once.files == made.snapshot().files, (
                "a second time adds to it"
            )
            made.run(back)
            made.client.wait_ssh(30, to=address)


@pytest.mark.parametrize("clients", ["", "[expect]\nclients = 203.0.113.0/24 10.0.5.0/24 2001:db8::/32\n"])
def test_the_first_form_opens_firewalld(clients: str) -> None:
    with boot(agent=False) as made:
        _script(made, clients)
        made.run("systemctl start firewalld.service; firewall-cmd -q --zone=drop --change-interface=eth0")
        assert made.client.symptom() == "timeout"
        made.run("/root/user-data.sh")
        assert made.client.ssh().ok


@pytest.mark.parametrize("command", [BREAKS[0][0], BREAKS[1][0], BREAKS[3][0]])
def test_the_second_form_flushes(command: str) -> None:
    with boot(agent=False) as made:
        _script(made, "[repair]\nfirewall = disable\n")
        made.run("ufw --force enable", check=False)
        made.run(command)
        assert made.client.symptom() in ("timeout", "refused")
        made.run("/root/user-data.sh")
        assert made.client.ssh().ok
        assert "ENABLED=no" in made.read("/etc/ufw/ufw.conf")
        assert made.run("iptables -S INPUT").out == "-P INPUT ACCEPT\n"
