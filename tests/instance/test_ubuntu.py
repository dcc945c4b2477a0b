"""The package on Ubuntu 24.04, whose sshd is started by ssh.socket, with the addresses that a generator writes.

`tests/run.sh ubuntu` runs it: Ubuntu's archive is not one that every machine is known to reach.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import faults
from daemon import findings, set_mode, status, wait_daemon
from ec2ssh_agent import user_data
from ec2ssh_agent.config import Config
from faults import START_SOCKET, STOP_SOCKET, Fault
from harness import SERVER4, Instance, boot, wait_for
from story import CONFIG, mended, no_traceback
from test_releases import IMPORT_ALL

pytestmark = pytest.mark.ubuntu

_KEEP = "cp -a /etc/ssh /etc/ssh.kept; "
_BACK = f"{STOP_SOCKET}; rm -rf /etc/ssh; mv /etc/ssh.kept /etc/ssh; systemctl daemon-reload; {START_SOCKET}"
_INSIDE = f"{_KEEP} echo 'ListenAddress 127.0.0.1' >> /etc/ssh/sshd_config"
_RELOAD = "systemctl daemon-reload"
_LIMIT = "/run/systemd/system/ssh.socket.d/limit.conf"


def _inside(name: str, then: str, finding: str = "sshd-not-listening-outside") -> Fault:
    return Fault(f"listen-address-{name}", f"{_INSIDE}; {then}", "refused", finding, _BACK)


UBUNTU = (
    Fault("socket-stopped", "systemctl stop ssh.socket", "refused", "sshd-not-running", START_SOCKET),
    Fault(
        "socket-disabled",
        "systemctl -q disable --now ssh.socket; systemctl stop ssh.service",
        "refused",
        "sshd-not-running",
        f"systemctl stop ssh.service; systemctl -q enable ssh.socket; {START_SOCKET}",
    ),
    Fault(
        "trigger-limit",
        f"mkdir -p $(dirname {_LIMIT});"
        f" printf '[Socket]\\nTriggerLimitIntervalSec=1h\\nTriggerLimitBurst=1\\n' > {_LIMIT};"
        f" {_RELOAD}; {STOP_SOCKET}; systemctl start ssh.socket; for n in $(seq 100); do"
        " ! systemctl -q is-failed ssh.socket || break; bash -c ': < /dev/tcp/127.0.0.1/22' 2>/dev/null; sleep 0.1;"
        f" systemctl stop ssh.service; done; rm {_LIMIT}; {_RELOAD}",
        "refused",
        "sshd-not-running",
        START_SOCKET,
    ),
    _inside("by-the-socket", f"{_RELOAD}; systemctl restart ssh.socket"),
    _inside("by-the-service", f"{_RELOAD}; systemctl restart ssh.service"),
    # systemd closes its socket, and opens the other only when it is started again.
    _inside("while-idle", f"systemctl stop ssh.service; {_RELOAD}", "sshd-not-running"),
    Fault(
        "run-sshd-gone",
        "rm -r /run/sshd",
        "closed",
        "privsep-missing",
        "install -d /run/sshd; systemctl stop ssh.service",
    ),
)
#: Those of a service that are a socket's as well: an sshd that runs, and one that was started too often.
SERVICE = [fault for fault in faults.SSHD if fault.name in ("hung", "start-limit")]


def each(known: Sequence[Fault]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fault", known, ids=lambda fault: fault.name)


@contextlib.contextmanager
def _running() -> Iterator[Instance]:
    with boot("noble", config=CONFIG) as made:
        wait_daemon(made)
        yield made
        no_traceback(made)


@pytest.fixture(scope="module")
def plain() -> Iterator[Instance]:
    with _running() as made:
        yield made


@pytest.fixture(scope="module")
def with_firewalld() -> Iterator[Instance]:
    with _running() as made:
        made.run("systemctl start firewalld.service")
        made.client.wait_ssh(30)
        yield made


@pytest.fixture(scope="module")
def ipv4_only() -> Iterator[Instance]:
    with _running() as made:
        made.run("ip -6 address flush dev eth0")
        yield made


def test_every_module_is_this_pythons(plain: Instance) -> None:
    done = plain.run(["python3", "-I", "-W", "error::SyntaxWarning", "-c", IMPORT_ALL])
    assert done.out.strip() == "(3, 12)"


def _active(made: Instance, unit: str) -> str:
    return made.run(["systemctl", "show", "-P", "ActiveState", unit]).out.strip()


def test_a_fresh_instance_is_healthy_whether_or_not_a_client_has_come() -> None:
    with boot("noble", enabled=False) as made:
        assert (_active(made, "ssh.socket"), _active(made, "ssh.service")) == ("active", "inactive")
        for _ in range(2):
            done = made.agent("check")
            assert done.code == 0 and done.out.startswith("SSH is healthy\n"), done.out
            assert "not seen" not in done.out and "warning" not in done.out, done.out
            assert "port 22, 0.0.0.0:22, [::]:22\n" in done.out
            assert made.client.ssh().ok
        made.run("systemctl start ec2ssh-agent.service; systemctl stop ssh.service")
        wait_daemon(made)
        wait_for("health", lambda: status(made)["health"] == "ok", 30)
        assert not status(made)["findings"] and not status(made)["repairs"]


def test_another_port_is_the_administrators_and_the_one_that_sshd_kept_is_no_fault(plain: Instance) -> None:
    set_mode(plain, "repair")
    known = len(status(plain)["repairs"])
    plain.run(f"{_KEEP} echo 'Port 2222' >> /etc/ssh/sshd_config")
    try:
        assert plain.client.ssh().ok
        for step in (":", "systemctl restart ssh.service", _RELOAD):
            # Until ssh.socket is restarted sshd has the sockets of port 22.
            plain.run(f"{step}; systemctl reload ec2ssh-agent.service")
            assert plain.agent("check").code == 0 and plain.client.ssh().ok, step
            assert status(plain)["ssh"]["port"] == 22
        plain.run("systemctl restart ssh.socket")
        plain.client.wait_ssh(30, port=2222)
        wait_for("the new port", lambda: status(plain)["ssh"]["port"] == 2222, 30)
        assert plain.agent("check").code == 0
        assert len(status(plain)["repairs"]) == known
    finally:
        set_mode(plain, "off")
        plain.run(_BACK)
    plain.client.wait_ssh(30)


@pytest.mark.parametrize("units", ["ssh.socket", "ssh.service", "ssh.socket ssh.service"])
def test_who_masks_one_of_the_units_has_switched_ssh_off(plain: Instance, units: str) -> None:
    set_mode(plain, "repair")
    known = len(status(plain)["repairs"])
    plain.run(f"systemctl -q mask --now {units}")
    try:
        # By ssh.socket alone the first who comes is let go, be it the agent itself.
        assert plain.client.symptom() in ("closed", "refused")
        wait_for("the finding", lambda: "sshd-masked" in findings(plain), 30)
        assert plain.client.symptom() == "refused" and len(status(plain)["repairs"]) == known
    finally:
        set_mode(plain, "off")
        plain.run(f"systemctl -q unmask {units}; {START_SOCKET}")
    plain.client.wait_ssh(30)


def test_what_a_boot_generates_from_a_changed_configuration_is_taken_back() -> None:
    with _running() as made:
        wait_for("a baseline", lambda: len(status(made)["baseline"]) == 2, 60)
        set_mode(made, "repair")
        made.run("echo 'ListenAddress 127.0.0.1' >> /etc/ssh/sshd_config")
        assert made.client.ssh().ok, "not before systemd reads it"
        made.reboot()
        made.client.wait_ssh(60)
        wait_daemon(made)
        wait_for("health", lambda: made.agent("status").code == 0, 30)
        assert [repair["finding"] for repair in status(made)["repairs"]] == ["sshd-not-listening-outside"]
        assert "ListenAddress 127" not in made.read("/etc/ssh/sshd_config")


def test_a_broken_configuration_comes_back_on_its_own_port() -> None:
    """The generator makes nothing of it, and the socket would be opened on port 22."""

    def prepare(root: Path) -> None:
        (root / "etc/ssh/sshd_config.d/20-port.conf").write_text("Port 2222\n")

    with boot("noble", config=CONFIG, prepare=prepare) as made:
        made.client.port = 2222
        wait_daemon(made)
        assert made.client.ssh().ok and status(made)["ssh"]["port"] == 2222
        wait_for("a baseline", lambda: len(status(made)["baseline"]) == 2, 60)
        made.run(f"{STOP_SOCKET}; echo 'Bogus yes' >> /etc/ssh/sshd_config; {_RELOAD}; systemctl start ssh.socket")
        assert made.client.symptom() == "refused"
        set_mode(made, "repair")
        made.client.wait_ssh(60)
        wait_for("health", lambda: made.agent("status").code == 0, 30)
        assert status(made)["ssh"]["port"] == 2222


@pytest.mark.parametrize("breaks", [STOP_SOCKET, "systemctl -q disable --now ssh.socket", UBUNTU[2].breaks])
def test_the_user_datas_script_starts_it(breaks: str) -> None:
    with boot("noble", agent=False) as made:
        made.write("/root/user-data.sh", user_data.script(Config()), 0o755)
        made.run(f"{breaks}; systemctl stop ssh.service")
        assert made.client.symptom() == "refused"
        for _ in range(2):
            made.run("/root/user-data.sh")
            made.client.wait_ssh(30)


@each((*faults.BY_SOCKET, *UBUNTU, *SERVICE, *faults.WRAPPERS))
def test_sshd_and_wrappers(plain: Instance, fault: Fault) -> None:
    mended(plain, fault, first=False)


@each(faults.RULES)
def test_rules(plain: Instance, fault: Fault) -> None:
    mended(plain, fault, first=False)


@each(faults.FIREWALLD)
def test_firewalld(with_firewalld: Instance, fault: Fault) -> None:
    mended(with_firewalld, fault, first=False)


@each([fault for fault in faults.RULES if fault.to == SERVER4])
def test_rules_on_first_boot(ipv4_only: Instance, fault: Fault) -> None:
    mended(ipv4_only, fault, first=True)
