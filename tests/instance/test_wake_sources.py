"""Each wake-up source of the daemon in a whole instance: what it watches is broken, and a pass follows, with the timer,
the probe (but where it is the probe that tells) and the pulse (but where it is the pulse that looks) set to hours.
"""

from __future__ import annotations

import calendar
import contextlib
import time
from collections.abc import Iterator

import pytest

import misfortune
from daemon import findings, main_pid, status, wait_baseline
from harness import Instance, boot, wait_for

SOON = 15.0  # seconds: far below every timer, far above what a loaded machine needs
CONFIG = """\
[watch]
interval = 1d
pulse = 1h
probe_interval = 1h
[repair]
mode = off
baseline_after = 1s
"""
PID = "$(systemctl show -P MainPID ssh.service)"
RESTART = "systemctl reset-failed ssh.service; systemctl restart ssh.service"


@pytest.fixture(scope="module")
def asleep() -> Iterator[Instance]:
    """The daemon wakes for events alone."""
    with boot(config=CONFIG) as made:
        wait_baseline(made)
        yield made


@contextlib.contextmanager
def watching(asleep: Instance, setting: str) -> Iterator[Instance]:
    path = "/etc/ec2ssh-agent/agent.conf.d/80-watch.conf"
    asleep.write(path, f"[watch]\n{setting}\n")
    asleep.run("systemctl reload ec2ssh-agent.service")
    yield asleep
    asleep.run(f"rm {path}; systemctl reload ec2ssh-agent.service")


@pytest.fixture
def pulsing(asleep: Instance) -> Iterator[Instance]:
    """It looks itself, once a second."""
    with watching(asleep, "pulse = 1s") as made:
        yield made


@pytest.fixture
def probing(asleep: Instance) -> Iterator[Instance]:
    """It reads the banner, every ten seconds."""
    with watching(asleep, "probe_interval = 10s") as made:
        yield made


@pytest.fixture
def lied_to(asleep: Instance) -> Iterator[Instance]:
    """It looks once a second; the wall clock is what misfortune.CLOCK says."""
    misfortune.preload(asleep.root)
    with watching(asleep, "pulse = 1s") as made:
        restart(made)
        yield made
        made.run(f"rm {misfortune.DROP_IN}")
        restart(made)


def restart(made: Instance) -> None:
    made.run("systemctl daemon-reload; systemctl restart ec2ssh-agent.service")
    wait_for("its first pass", lambda: str(status(made)["agent"]["pid"]) == main_pid(made), SOON)


def published(made: Instance) -> str:
    """Another text after each pass: the status file is replaced by it."""
    return made.run("stat -c '%i %y' /run/ec2ssh-agent/status.json").out


def quiet(made: Instance) -> str:
    """When no pass was made for two seconds."""
    last, since = published(made), time.monotonic()
    end = since + 60.0
    while time.monotonic() - since < 2.0:
        assert time.monotonic() < end, "passes go on and on"
        time.sleep(0.2)
        if (now := published(made)) != last:
            last, since = now, time.monotonic()
    return last


def wakes(made: Instance, change: str, *, finding: str = "") -> None:
    """After the change a pass is made; and sees what is wrong, or that nothing is."""
    before = quiet(made)
    made.run(change)
    wait_for(f"a pass after {change!r}", lambda: published(made) != before, SOON)
    if finding:
        wait_for(finding, lambda: finding in findings(made), SOON)
    else:
        wait_for("health", lambda: status(made)["health"] == "ok", SOON)


@pytest.mark.parametrize(
    ("breaks", "finding", "heals"),
    [
        pytest.param("nft add table inet x; "
                     "nft add chain inet x y '{ type filter hook input priority 0; policy drop; }'", "firewall-drop",
                     "nft delete table inet x", id="nftables"),
        pytest.param("iptables-nft -I INPUT -p tcp --dport 22 -j REJECT; "
                     "ip6tables-nft -I INPUT -p tcp --dport 22 -j REJECT", "firewall-reject",
                     "iptables-nft -F; ip6tables-nft -F", id="iptables-nft"),
        pytest.param("iptables-legacy -w -I INPUT -p tcp --dport 22 -j DROP", "firewall-drop",
                     "iptables-legacy -w -F", id="iptables-legacy"),
        pytest.param("ip6tables-legacy -w -I INPUT -p tcp --dport 22 -j DROP", "firewall-drop",
                     "ip6tables-legacy -w -F", id="ip6tables-legacy"),
        pytest.param("echo 'ALL: ALL' >> /etc/hosts.deny", "wrappers-deny",
                     "sed -i /ALL/d /etc/hosts.deny", id="hosts.deny"),
        pytest.param("echo 'ALL: ALL: deny' >> /etc/hosts.allow", "wrappers-deny",
                     "sed -i /ALL/d /etc/hosts.allow", id="hosts.allow"),
        pytest.param("echo Bogus >> /etc/ssh/sshd_config", "sshd-config-invalid",
                     "sed -i /Bogus/d /etc/ssh/sshd_config", id="sshd_config"),
        pytest.param("echo Bogus > /etc/ssh/sshd_config.d/x.conf", "sshd-config-invalid",
                     "rm /etc/ssh/sshd_config.d/x.conf", id="include"),
        pytest.param("systemctl stop ssh.service", "sshd-not-running", RESTART, id="stopped"),
        pytest.param("ip addr add 10.0.5.99/24 dev eth0", "", "ip addr del 10.0.5.99/24 dev eth0", id="address"),
        pytest.param("ip route add 10.55.0.0/16 via 10.0.5.1", "", "ip route del 10.55.0.0/16", id="route"),
        pytest.param("ip addr add 2001:db8:5::99/64 dev eth0 nodad", "", "ip addr del 2001:db8:5::99/64 dev eth0",
                     id="address6"),
        pytest.param("ip route add 2001:db8:55::/48 via 2001:db8:5::1", "", "ip route del 2001:db8:55::/48",
                     id="route6"),
        pytest.param("ip rule add to 10.55.0.0/16 table main", "", "ip rule del to 10.55.0.0/16 table main",
                     id="rule"),
        pytest.param("ip link set eth0 allmulticast on", "", "ip link set eth0 allmulticast off", id="link"),
        pytest.param("touch /etc/nologin", "nologin", "rm /etc/nologin", id="nologin-in-etc"),
        pytest.param("mv /run/sshd /run/away", "", "mv /run/away /run/sshd", id="privilege-separation"),
        pytest.param("touch /run/nologin", "nologin", "rm /run/nologin", id="nologin"),
        pytest.param("echo '[repair]' > /etc/ec2ssh-agent/agent.conf.d/70-more.conf", "",
                     "rm /etc/ec2ssh-agent/agent.conf.d/70-more.conf", id="configuration"),
        pytest.param("echo '# more' >> /etc/ec2ssh-agent/agent.conf", "",
                     "sed -i '$d' /etc/ec2ssh-agent/agent.conf", id="agent.conf"),
        pytest.param("touch /etc/ufw/user.rules", "", "touch /etc/ufw/user6.rules", id="ufw"),
        pytest.param("touch /etc/firewalld/firewalld.conf", "", "touch /etc/firewalld/zones/x.xml",
                     id="firewalld"),
        pytest.param("chmod 0644 /etc/ssh/ssh_host_ed25519_key", "",
                     "chmod 0600 /etc/ssh/ssh_host_ed25519_key", id="host-key"),
    ],
)  # fmt: skip
def test_an_event_wakes_it(asleep: Instance, breaks: str, finding: str, heals: str) -> None:
    if finding:
        wakes(asleep, breaks, finding=finding)
        asleep.run(heals)
        wait_for("health", lambda: status(asleep)["health"] == "ok", SOON)
        return
    before = quiet(asleep)
    asleep.run(breaks)
    wait_for(f"a pass after {breaks!r}", lambda: published(asleep) != before, SOON)
    wakes(asleep, heals)


def test_an_include_that_lies_elsewhere(asleep: Instance) -> None:
    asleep.write("/opt/ssh/a.conf", "# nothing\n")
    wakes(asleep, "echo 'Include /opt/ssh/*.conf' > /etc/ssh/sshd_config.d/y.conf")
    wakes(asleep, "echo Bogus > /opt/ssh/a.conf", finding="sshd-config-invalid")
    wakes(asleep, "rm /opt/ssh/a.conf /etc/ssh/sshd_config.d/y.conf")


def test_an_include_that_cannot_be_read(asleep: Instance) -> None:
    """What mends it is seen, also by a daemon that has never read the whole configuration."""
    asleep.write("/opt/ssh/a.conf", "# nothing\n")
    wakes(asleep, "echo 'Include /opt/ssh/*.conf' > /etc/ssh/sshd_config.d/y.conf")
    wakes(asleep, "ln -sf nowhere /opt/ssh/a.conf", finding="sshd-config-invalid")
    wakes(asleep, "rm /opt/ssh/a.conf")
    wakes(asleep, "mv /opt/ssh /opt/moved")
    wakes(asleep, "mkdir /opt/ssh; ln -s nowhere /opt/ssh/a.conf", finding="sshd-config-invalid")
    asleep.run("systemctl restart ec2ssh-agent.service")
    wait_for("its first pass", lambda: str(status(asleep)["agent"]["pid"]) == main_pid(asleep), SOON)
    wakes(asleep, "rm /opt/ssh/a.conf")
    wakes(asleep, "rm -r /opt/ssh /opt/moved /etc/ssh/sshd_config.d/y.conf")


def test_an_include_of_a_directory_that_comes_later(asleep: Instance) -> None:
    wakes(asleep, "echo 'Include /opt/later/*.conf' > /etc/ssh/sshd_config.d/y.conf")
    wakes(asleep, "mkdir /opt/later")
    wakes(asleep, "echo Bogus > /opt/later/a.conf", finding="sshd-config-invalid")
    wakes(asleep, "rm -r /opt/later /etc/ssh/sshd_config.d/y.conf")


def test_a_file_that_is_a_symbolic_link(asleep: Instance) -> None:
    asleep.run("mkdir /opt/files; cp /etc/ssh/sshd_config /opt/files/good; (cat /opt/files/good; echo Bogus) >"
               " /opt/files/bad; ln -s good /opt/files/now; touch /opt/files/deny")  # fmt: skip
    wakes(asleep, "mv /etc/ssh/sshd_config /opt/files/mine; ln -s /opt/files/now /etc/ssh/sshd_config")
    wakes(asleep, "ln -sfn bad /opt/files/now", finding="sshd-config-invalid")
    wakes(asleep, "cp /opt/files/good /opt/files/bad")
    wakes(asleep, "mv /opt/files/mine /etc/ssh/sshd_config")
    wakes(asleep, "mv /etc/hosts.deny /opt/files/mine; ln -s /opt/files/deny /etc/hosts.deny")
    wakes(asleep, "echo 'ALL: ALL' > /opt/files/deny", finding="wrappers-deny")
    wakes(asleep, "mv /opt/files/mine /etc/hosts.deny; rm -r /opt/files")


def test_a_configuration_directory_that_is_a_symbolic_link(asleep: Instance) -> None:
    asleep.run("cp -a /etc/ssh /opt/ssh1; cp -a /etc/ssh /opt/ssh2; echo Bogus >> /opt/ssh2/sshd_config")
    wakes(asleep, "mv /etc/ssh /etc/ssh.mine; ln -s /opt/ssh1 /etc/ssh")
    wakes(asleep, "ln -sfn /opt/ssh2 /etc/ssh", finding="sshd-config-invalid")
    wakes(asleep, "sed -i /Bogus/d /opt/ssh2/sshd_config")
    wakes(asleep, "rm /etc/ssh; mv /etc/ssh.mine /etc/ssh; rm -r /opt/ssh1 /opt/ssh2")


def test_a_host_key_that_lies_elsewhere(asleep: Instance) -> None:
    asleep.run("mkdir /opt/keys; ssh-keygen -q -t ed25519 -N '' -f /opt/keys/key")
    wakes(asleep, "echo 'HostKey /opt/keys/key' > /etc/ssh/sshd_config.d/z.conf")
    wakes(asleep, "chmod 0644 /opt/keys/key", finding="host-key-modes")
    wakes(asleep, "rm -r /opt/keys /etc/ssh/sshd_config.d/z.conf")


def test_an_sshd_of_no_unit_that_is_killed(asleep: Instance) -> None:
    """Only its process tells: systemd has nothing to do with it."""
    asleep.run("systemctl stop ssh.service; mkdir -p /run/sshd; /usr/sbin/sshd")
    wait_for("its pid file", lambda: asleep.run("cat /run/sshd.pid", check=False).out != "", SOON)
    asleep.run("systemctl kill -s USR1 --kill-whom=main ec2ssh-agent.service")
    pid = asleep.read("/run/sshd.pid").strip()
    wait_for("sshd", lambda: str(status(asleep)["ssh"]["pid"]) == pid, SOON)
    wakes(asleep, f"kill -9 {pid}", finding="sshd-not-running")
    wakes(asleep, RESTART)


def test_a_killed_sshd_is_known_again(asleep: Instance) -> None:
    before = asleep.run(f"echo {PID}").out.strip()
    wakes(asleep, f"kill -9 {PID}")
    wait_for("the new sshd", lambda: str(status(asleep)["ssh"]["pid"]) not in (before, "None", "0"), SOON)


def test_a_socket_unit_that_starts_and_stops(asleep: Instance) -> None:
    wakes(asleep, "systemctl stop ssh.service; systemctl start ssh.socket")
    wakes(asleep, "systemctl stop ssh.socket", finding="sshd-not-running")
    wakes(asleep, RESTART)


def test_a_reload_and_a_request(asleep: Instance) -> None:
    wakes(asleep, "systemctl reload ec2ssh-agent.service")
    wakes(asleep, "kill -USR1 $(systemctl show -P MainPID ec2ssh-agent.service)")
    wakes(asleep, "ec2ssh-agent resume")


def test_the_timer(asleep: Instance) -> None:
    with watching(asleep, "interval = 6s") as made:
        before = quiet(made)
        wait_for("a pass", lambda: published(made) != before, SOON)


@pytest.mark.parametrize("jump", [3, 86400, -86400])
def test_a_clock_that_is_set(lied_to: Instance, jump: int) -> None:
    """What was said is out of date at the new time, so it is said again, and `status` there believes it."""
    wakes(lied_to, f"echo {jump} > {misfortune.CLOCK}")
    assert abs(updated(lied_to) - time.time() - jump) < 60
    assert lied_to.run(f"LD_PRELOAD={misfortune.LIBRARY} ec2ssh-agent status", check=False).code == 0
    wakes(lied_to, f"rm {misfortune.CLOCK}")
    assert abs(updated(lied_to) - time.time()) < 60


def updated(made: Instance) -> int:
    return calendar.timegm(time.strptime(status(made)["updated"], "%Y-%m-%dT%H:%M:%SZ"))


def test_a_hung_sshd_is_noticed_by_its_accept_queue(pulsing: Instance) -> None:
    pulsing.run(f"kill -STOP {PID}")
    try:
        before = quiet(pulsing)
        began = time.monotonic()
        pulsing.run("bash -c 'exec 3<>/dev/tcp/127.0.0.1/22; (sleep 8 <&3) >/dev/null 2>&1 &'")
        wait_for("a pass", lambda: published(pulsing) != before, SOON)
        wait_for("sshd-hung", lambda: "sshd-hung" in findings(pulsing), SOON)
        assert time.monotonic() - began < SOON
    finally:
        pulsing.run(f"kill -CONT {PID}")
    wait_for("health", lambda: status(pulsing)["health"] == "ok", 40)


def test_a_hung_sshd_is_noticed_by_its_banner(probing: Instance) -> None:
    quiet(probing)
    probing.run(f"kill -STOP {PID}")
    try:
        wait_for("sshd-hung", lambda: "sshd-hung" in findings(probing), 2 * SOON)
    finally:
        probing.run(f"kill -CONT {PID}")
    wait_for("health", lambda: status(probing)["health"] == "ok", 40)


def test_a_listener_that_is_gone_while_sshd_runs(pulsing: Instance) -> None:
    wakes(pulsing, "ss -K -ltn 'sport = :22'", finding="sshd-not-running")
    wakes(pulsing, RESTART)


def test_legacy_tables_that_a_library_changes(pulsing: Instance) -> None:
    library = """python3 -c '
import iptc
table = iptc.Table(iptc.Table.FILTER)
rule = iptc.Rule(); rule.protocol = "tcp"; rule.target = iptc.Target(rule, "DROP")
iptc.Chain(table, "INPUT").{0}'"""
    pulsing.run("iptables-legacy -w -S")
    wakes(pulsing, library.format("insert_rule(rule)"), finding="firewall-drop")
    wakes(pulsing, library.format("flush()"))


def test_a_killed_supervisor_takes_up_where_it_was(asleep: Instance) -> None:
    quiet(asleep)
    known, before = status(asleep)["baseline"], main_pid(asleep)
    asleep.run(f"kill -9 {before}")
    wait_for("another supervisor", lambda: main_pid(asleep) not in (before, "0"), 30)
    wait_for("its first pass", lambda: str(status(asleep)["agent"]["pid"]) == main_pid(asleep), SOON)
    assert status(asleep)["baseline"] == known != []
    wakes(asleep, "iptables -A INPUT -p tcp --dport 22 -j DROP", finding="firewall-drop")
    wakes(asleep, "iptables -F")


def test_a_second_daemon_does_not_start(asleep: Instance) -> None:
    done = asleep.run("timeout 20 ec2ssh-agent run", check=False)
    assert done.code == 3 and done.out == "", done
    assert "the daemon runs already" in done.err and len(done.err.splitlines()) == 1
    asleep.run(f"kill -9 {main_pid(asleep)}")
    wait_for("its first pass", lambda: str(status(asleep)["agent"]["pid"]) == main_pid(asleep), 30)
