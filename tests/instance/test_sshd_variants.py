"""sshd as other machines have it: started by a socket, on another port, twice, reached by IPv6 alone."""

from __future__ import annotations

from pathlib import Path

from daemon import findings, status, wait_daemon
from harness import SERVER4, SERVER6, Instance, boot, execute, wait_for

CONFIG = "[watch]\ninterval = 1m\n"
DROP = "for t in iptables ip6tables; do $t -I INPUT -p tcp --dport {port} -j DROP; done"
HEAL = "for t in iptables ip6tables; do $t -F INPUT; done"


def _mended(made: Instance, command: str, finding: str, *, to: str = SERVER4, port: int = 22) -> None:
    before = {repair["id"] for repair in status(made)["repairs"]}
    made.run(command)

    def recorded() -> bool:
        return any(r["finding"] == finding for r in status(made)["repairs"] if r["id"] not in before)

    wait_for(f"a repair of {finding}", recorded, 60)
    made.client.wait_ssh(60, to=to, port=port)
    assert made.client.ssh(to=to, port=port).ok, command
    wait_for("health", lambda: not any(f["severity"] == "critical" for f in findings(made).values()), 30)


def test_started_by_a_socket() -> None:
    def prepare(root: Path) -> None:
        execute(["systemctl", f"--root={root}", "-q", "disable", "ssh.service"])
        execute(["systemctl", f"--root={root}", "-q", "enable", "ssh.socket"])

    with boot(config=CONFIG, prepare=prepare) as made:
        wait_daemon(made)
        # No sshd runs before a client comes, and that is healthy.
        wait_for("health", lambda: made.agent("status").code == 0, 30)
        assert made.client.ssh().ok
        _mended(made, DROP.format(port=22), "firewall-drop")
        made.run(HEAL)
        _mended(made, "systemctl stop ssh.socket ssh.service", "sshd-not-running")
        assert made.run("systemctl is-active ssh.socket").out.strip() == "active"
        assert made.run("systemctl is-enabled ssh.service", check=False).out.strip() == "disabled"


def test_on_another_port() -> None:
    def prepare(root: Path) -> None:
        (root / "etc/ssh/sshd_config.d/20-port.conf").write_text("Port 2222\n")

    with boot(config=CONFIG, prepare=prepare) as made:
        wait_daemon(made)
        assert status(made)["ssh"]["port"] == 2222
        assert made.client.ssh(port=2222).ok
        made.run(DROP.format(port=22))
        made.run("systemctl reload ec2ssh-agent.service")
        assert made.agent("check").code == 0, "another port's rules are nobody's business"
        made.run(HEAL)
        _mended(made, DROP.format(port=2222), "firewall-drop", port=2222)
        made.run(HEAL)
        _mended(made, "systemctl stop ssh.service", "sshd-not-running", port=2222)


def test_a_second_sshd_is_no_fault_and_is_left_alone() -> None:
    with boot(config=CONFIG) as made:
        wait_daemon(made)
        made.run("systemd-run -q --unit=second /usr/sbin/sshd -D -p 2222")
        made.client.wait_ssh(30, port=2222)
        assert made.agent("check").code == 0
        second = made.run("systemctl show -P MainPID second.service").out
        _mended(made, "systemctl stop ssh.service", "sshd-not-running")
        _mended(made, DROP.format(port=22), "firewall-drop")
        assert made.run("systemctl show -P MainPID second.service").out == second
        assert made.client.ssh(port=2222).ok


def test_reached_by_ipv6_alone() -> None:
    with boot(config=CONFIG) as made:
        made.run("ip address flush dev eth0 scope global; ip -6 address add 2001:db8:5::20/64 dev eth0 nodad")
        made.run("ip -6 route replace default via 2001:db8:5::1 dev eth0; systemctl restart ec2ssh-agent.service")
        wait_for("health", lambda: made.agent("status").code == 0, 60)
        assert made.client.ssh(to=SERVER6).ok
        _mended(made, "ip6tables -I INPUT -p tcp --dport 22 -j DROP", "firewall-drop", to=SERVER6)
        made.run("ip6tables -F INPUT")
        _mended(made, "systemctl stop ssh.service", "sshd-not-running", to=SERVER6)
