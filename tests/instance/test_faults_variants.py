"""Every fault that makes sense on machines whose sshd is started by a socket, on another port, one of two, by IPv6.

What CI has time for is in test_sshd_variants.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import faults
from daemon import wait_daemon
from faults import Fault, at_2222, by_ipv6
from harness import SERVER4, Instance, boot, execute
from story import CONFIG, mended, no_traceback

pytestmark = pytest.mark.slow

ALL = (*faults.SSHD, *faults.WRAPPERS, *faults.RULES)


def each(known: Sequence[Fault]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fault", known, ids=lambda fault: fault.name)


@contextlib.contextmanager
def _running(prepare: str = ":") -> Iterator[Instance]:
    """`prepare`: commands in the root file system before the boot."""

    def change(root: Path) -> None:
        execute(["chroot", root, "sh", "-ec", prepare])

    with boot(config=CONFIG, prepare=change) as made:
        wait_daemon(made)
        yield made
        no_traceback(made)


@pytest.fixture(scope="module")
def by_socket() -> Iterator[Instance]:
    with _running("systemctl -q disable ssh.service; systemctl -q enable ssh.socket") as made:
        yield made


@pytest.fixture(scope="module")
def on_2222() -> Iterator[Instance]:
    with _running("echo Port 2222 > /etc/ssh/sshd_config.d/20-port.conf") as made:
        made.client.port = 2222
        yield made


SECOND = """
sed 's,^ExecStart=.*,ExecStart=/usr/sbin/sshd -D -f /etc/ssh/second_config,; /^Alias/d' \
    /lib/systemd/system/ssh.service > /etc/systemd/system/ssh-second.service
cp /etc/ssh/sshd_config /etc/ssh/second_config
printf 'Port 2222\\nPidFile /run/ssh-second.pid\\n' >> /etc/ssh/second_config
systemctl -q enable ssh-second.service
"""


@pytest.fixture(scope="module")
def one_of_two() -> Iterator[Instance]:
    with _running(SECOND) as made:
        yield made


@pytest.fixture(scope="module")
def ipv6_only() -> Iterator[Instance]:
    with _running() as made:
        made.run("ip address flush dev eth0 scope global; ip -6 address add 2001:db8:5::20/64 dev eth0 nodad")
        made.run("ip -6 route replace default via 2001:db8:5::1 dev eth0; systemctl restart ec2ssh-agent.service")
        wait_daemon(made)
        yield made


@each((*faults.BY_SOCKET, *faults.WRAPPERS, *faults.RULES))
def test_started_by_a_socket(by_socket: Instance, fault: Fault) -> None:
    mended(by_socket, fault, first=False)


@each([at_2222(fault) for fault in ALL])
def test_on_another_port(on_2222: Instance, fault: Fault) -> None:
    mended(on_2222, fault, first=False)


@each(ALL)
def test_beside_a_second_sshd(one_of_two: Instance, fault: Fault) -> None:
    second = one_of_two.run("systemctl show -P MainPID ssh-second.service").out
    mended(one_of_two, fault, first=False)
    assert one_of_two.run("systemctl show -P MainPID ssh-second.service").out == second


@each([by_ipv6(fault) for fault in ALL if fault.to == SERVER4])
def test_reached_by_ipv6_alone(ipv6_only: Instance, fault: Fault) -> None:
    mended(ipv6_only, fault, first=False)
