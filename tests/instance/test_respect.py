"""A healthy instance is left alone, and so is what an administrator decided on purpose."""

from __future__ import annotations

import json
import re
import time
from typing import NamedTuple

import pytest

from daemon import status, wait_baseline, wait_daemon
from harness import CLIENTS4, SERVER4, SERVER6, Instance, boot, wait_for

DAEMON = """\
[repair]
settle = 0s
baseline_after = 1s
"""


class Healthy(NamedTuple):
    """`makes`: how it becomes what it is; `unmakes`: back to plain; `code`: the exit status of `check`."""

    name: str
    makes: str
    unmakes: str = "true"
    code: int = 0
    port: int = 22
    in_by: str = CLIENTS4[0]  # a source that gets in; "" if nobody does


_NFT = (
    "nft 'table inet filter { chain input { type filter hook input priority filter; policy drop;"
    " ct state vmap { established : accept, related : accept, invalid : drop }; iifname lo accept;"
    " meta l4proto { icmp, ipv6-icmp } accept; tcp dport 22 accept; }; }'"
)
_BASTION = f"""
iptables -A INPUT -i lo -j ACCEPT
iptables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
iptables -A INPUT -s {CLIENTS4[0]} -p tcp --dport 22 -j ACCEPT
iptables -P INPUT DROP
ip6tables -A INPUT -p ipv6-icmp -j ACCEPT
ip6tables -A INPUT -s 2001:db8:5::1 -p tcp --dport 22 -j ACCEPT
ip6tables -A INPUT -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
ip6tables -P INPUT DROP
"""
_OPEN = "for t in iptables ip6tables; do $t -P INPUT ACCEPT; $t -F; $t -X; $t -t nat -F; $t -t nat -X; done"
_BAN = f"""
iptables -N f2b-sshd
iptables -A f2b-sshd -s {CLIENTS4[2]} -j REJECT --reject-with icmp-port-unreachable
iptables -A f2b-sshd -j RETURN
iptables -I INPUT -p tcp -m multiport --dports 22 -j f2b-sshd
"""
_DOCKER = """
iptables -t nat -N DOCKER
iptables -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
iptables -t nat -A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER
iptables -t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE
iptables -t nat -A DOCKER ! -i docker0 -p tcp -m tcp --dport 8080 -j DNAT --to-destination 172.17.0.2:80
iptables -N DOCKER
iptables -A FORWARD -o docker0 -j DOCKER
iptables -P FORWARD DROP
"""
_WRAPPERS = "echo 'sshd: 10.0.5. [2001:db8:5::]/64' > /etc/hosts.allow; echo 'ALL: ALL' > /etc/hosts.deny"
_UFW_OFF = "ufw --force disable"
_SSHD = "systemctl restart ssh.service"

HEALTHY = (
    Healthy("plain", "true"),
    Healthy("ufw-allowed", "ufw allow 22/tcp; ufw --force enable", f"{_UFW_OFF}; ufw --force delete allow 22/tcp"),
    Healthy("ufw-limited", "ufw limit 22/tcp; ufw --force enable", f"{_UFW_OFF}; ufw --force delete limit 22/tcp"),
    Healthy("nftables", _NFT, "nft delete table inet filter"),
    Healthy("bastion", _BASTION, _OPEN),
    Healthy("fail2ban", _BAN, _OPEN),
    Healthy("docker", _DOCKER, _OPEN + "; iptables -P FORWARD ACCEPT"),
    Healthy("wrappers", _WRAPPERS, "rm -f /etc/hosts.allow /etc/hosts.deny"),
    Healthy(
        "another-port",
        f"echo 'Port 2222' > /etc/ssh/sshd_config.d/port.conf; {_SSHD}",
        f"rm /etc/ssh/sshd_config.d/port.conf; {_SSHD}",
        port=2222,
    ),
    # --state is answered once its rules are there; systemd goes by its name on the bus, which comes first.
    Healthy("firewalld", "systemctl start firewalld.service; firewall-cmd --state", "systemctl stop firewalld.service"),
    Healthy(
        "masked",
        "systemctl mask --now ssh.service ssh.socket",
        "systemctl unmask ssh.service ssh.socket; systemctl start ssh.service",
        code=2,
        in_by="",
    ),
)  # fmt: skip


def test_ten_passes_over_a_healthy_instance_change_nothing() -> None:
    """On first boot's terms (no baseline) and from a baseline: by the command, and by the daemon beside it."""
    with boot(config=DAEMON) as made:
        wait_daemon(made)
        for healthy in HEALTHY:
            made.run("systemctl stop ec2ssh-agent.service")
            made.run(healthy.makes)
            made.agent("purge", check=True)
            if healthy.in_by:
                made.client.wait_ssh(30, source=healthy.in_by, port=healthy.port)
            before = made.snapshot()
            codes = {made.agent("repair").code for _ in range(3)} | {made.agent("check").code}
            assert codes == {healthy.code}, (healthy.name, made.agent("check").out)
            made.run("systemctl start ec2ssh-agent.service")
            wait_for("a status", lambda code=healthy.code: made.agent("status").code == code, 30)  # type: ignore[misc]
            for _ in range(10):
                made.run("systemctl kill -s USR1 --kill-whom=main ec2ssh-agent.service")
                made.agent("repair")
            assert Instance.diff(before, made.snapshot()) == [], healthy.name
            # pam_env's line is Debian's and comes with every login here: there is no /etc/default/locale.
            lines = made.journal("-u", "ssh.service", "-p", "err").splitlines()
            errors = "\n".join(line for line in lines if "pam_env" not in line)
            assert errors == "", (healthy.name, errors)
            if healthy.in_by:
                assert made.client.ssh(source=healthy.in_by, port=healthy.port).ok, healthy.name
            made.run(healthy.unmakes)


def test_intent_is_reported_and_not_overridden() -> None:
    """Panic mode, chattr +i, pause, sshd_not_to_be_run."""
    with boot(config=DAEMON) as made:
        wait_baseline(made)

        made.agent("pause", "1h", check=True)
        made.run("iptables -A INPUT -p tcp --dport 22 -j DROP")
        wait_for("the finding", lambda: "firewall-drop" in made.agent("status").out, 30)
        assert "paused" in made.agent("status").out
        assert made.client.symptom(timeout=1.5) == "timeout"
        made.run("systemctl restart ec2ssh-agent.service")
        wait_for("the pause after a restart", lambda: "paused" in made.agent("status").out, 30)
        assert made.client.symptom(timeout=1.5) == "timeout"
        made.agent("resume", check=True)
        made.client.wait_ssh(30)
        made.run("iptables -F INPUT")

        # The fault last: the agent is to meet it with the file as it is meant to be.
        made.run("touch /etc/hosts.allow; chattr +i /etc/hosts.allow || true; echo 'ALL: ALL' > /etc/hosts.deny")
        if "i" in made.run("lsattr /etc/hosts.allow", check=False).out.split(" ")[0]:
            wait_for("the finding", lambda: "immutable" in made.agent("status").out, 30)
            assert made.client.symptom() == "closed"
            made.run("chattr -i /etc/hosts.allow")
        made.run("rm -f /etc/hosts.deny /etc/hosts.allow")
        made.client.wait_ssh(30)

        made.run("touch /etc/ssh/sshd_not_to_be_run; systemctl stop ssh.service")
        wait_for("the finding", lambda: "sshd-forbidden" in made.agent("status").out, 30)
        assert made.client.symptom() == "refused"
        made.run("rm /etc/ssh/sshd_not_to_be_run")
        made.run("systemctl kill -s USR1 --kill-whom=main ec2ssh-agent.service")
        made.client.wait_ssh(30)

        made.run("systemctl start firewalld.service; firewall-cmd --panic-on")
        wait_for("the finding", lambda: "panic mode" in made.agent("status").out, 30)
        assert made.client.symptom(timeout=1.5) == "timeout"
        made.run("firewall-cmd --panic-off")
        made.client.wait_ssh(30)


def test_a_script_that_shuts_the_door_for_a_moment_is_let_finish() -> None:
    """Policy DROP, then 63 rules, SSH's last: the final ruleset is the script's."""
    rules = "\n".join(f"iptables -A INPUT -p tcp --dport {3000 + n} -j ACCEPT" for n in range(62))
    script = f"iptables -P INPUT DROP\n{rules}\niptables -A INPUT -p tcp --dport 22 -j ACCEPT\n"
    with boot(config="[repair]\nbaseline_after = 1s\n") as made:
        wait_baseline(made)
        made.run(script)
        wait_for("health", lambda: "SSH is UNREACHABLE" not in made.agent("status").out, 30)

        def only_the_scripts() -> bool:
            return "ec2ssh-agent" not in made.run("iptables-save").out

        wait_for("the withdrawal of whatever was opened", only_the_scripts, 30)
        saved = [line for line in made.run("iptables-save -t filter").out.splitlines() if line.startswith("-A INPUT")]
        assert len(saved) == 63 and saved[-1].endswith("--dport 22 -j ACCEPT")
        assert made.client.ssh().ok


def test_ufw_that_waits_for_an_answer_is_waited_for_but_not_for_ever() -> None:
    """Half a minute is left to the administrator at its prompt, with a look now and then; then SSH comes first."""
    with boot(config=DAEMON) as made:
        wait_baseline(made)
        made.run("systemd-run -q --unit asks sh -c 'sleep 600 | ufw reset'")
        wait_for("its question", lambda: made.run("pgrep -x ufw", check=False).code == 0, 10)
        began = time.monotonic()
        made.run("iptables -A INPUT -p tcp --dport 22 -j DROP")
        wait_for("the reason", lambda: bool(re.search(r"ufw \(\d+\) is at work", made.agent("status").out)), 10)
        passes = set()
        while time.monotonic() - began < 20:
            passes.add(made.run("stat -c %y /run/ec2ssh-agent/status.json").out)
            time.sleep(0.2)
        made.client.wait_ssh(60)
        assert 25 < time.monotonic() - began < 40 and len(passes) <= 9, sorted(passes)
        assert made.run("pgrep -x ufw", check=False).code == 0, "it was not ended"
        made.run("systemctl stop asks.service")


@pytest.mark.parametrize("owner", ["ufw", "firewalld"])
def test_an_owners_repair_survives_its_reload_and_a_reboot(owner: str) -> None:
    breaks = {
        "ufw": "ufw --force enable",
        "firewalld": "systemctl enable -q --now firewalld.service; firewall-cmd -q --permanent --remove-service=ssh;"
        " firewall-cmd -q --reload",
    }
    reload = {"ufw": "ufw reload", "firewalld": "firewall-cmd -q --reload"}
    with boot(config=DAEMON) as made:
        wait_baseline(made)
        made.run(breaks[owner])
        made.client.wait_ssh(60)
        made.client.wait_ssh(60, to=SERVER6)
        # The agent looks on: from here on nothing more is to be repaired. Before it was, the status was the same.
        wait_for("the repair", lambda: bool(status(made)["repairs"]), 60)
        wait_for("health", lambda: made.agent("status").code == 0, 60)
        made.run("systemctl stop ec2ssh-agent.service; systemctl disable -q ec2ssh-agent.service")
        made.run(reload[owner])
        for address in (SERVER4, SERVER6):
            assert made.client.ssh(to=address).ok, f"{address} after the reload"
        made.reboot()
        for address in (SERVER4, SERVER6):
            made.client.wait_ssh(60, to=address)


def test_a_dry_run_prints_what_repair_then_runs_and_changes_nothing() -> None:
    with boot(enabled=False, config="[expect]\nclients = 10.0.5.0/24 2001:db8:5::/64\n") as made:
        made.run("iptables -A INPUT -p tcp --dport 22 -j REJECT; ip6tables -A INPUT -p tcp --dport 22 -j REJECT")
        before = made.snapshot()
        printed = [line for line in made.agent("repair", "--dry-run").out.splitlines() if not line.startswith("#")]
        assert Instance.diff(before, made.snapshot()) == []
        document = json.loads(made.agent("repair", "--json").out)
        ran = [line for change in reversed(document["repairs"]) for line in change["commands"]]
        known = {change["id"] for change in document["repairs"]}
        assert len(known) == 2 and made.client.ssh().ok and made.client.ssh(to=SERVER6).ok
        # The id of a change is known only when it is made.
        ran = [re.sub(r"\b[0-9]{8}T[0-9]{6}-[0-9a-f]{4}\b|@CHANGE@", "ID", line) for line in ran]
        ran = [line for line in ran if not line.startswith("#")]
        assert ran == printed
