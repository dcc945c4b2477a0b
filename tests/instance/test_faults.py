"""SSH is lost in every way that the document knows; a client gets in again without anybody touching the machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import faults
from daemon import wait_daemon
from faults import Fault
from harness import Instance, boot
from story import CONFIG, mended


@pytest.fixture(scope="module")
def plain() -> Iterator[Instance]:
    with boot(config=CONFIG) as made:
        wait_daemon(made)
        yield made


@pytest.fixture(scope="module")
def with_firewalld() -> Iterator[Instance]:
    with boot(config=CONFIG) as made:
        made.run("systemctl start firewalld.service")
        made.client.wait_ssh(30)
        yield made


@pytest.mark.parametrize("fault", faults.SSHD, ids=lambda fault: fault.name)
def test_sshd(plain: Instance, fault: Fault) -> None:
    mended(plain, fault, first=False)


@pytest.mark.parametrize("fault", faults.WRAPPERS, ids=lambda fault: fault.name)
def test_wrappers(plain: Instance, fault: Fault) -> None:
    mended(plain, fault, first=False)


@pytest.mark.parametrize("fault", faults.RULES, ids=lambda fault: fault.name)
def test_rules(plain: Instance, fault: Fault) -> None:
    mended(plain, fault, first=False)


@pytest.mark.parametrize("fault", faults.FIREWALLD, ids=lambda fault: fault.name)
def test_firewalld(with_firewalld: Instance, fault: Fault) -> None:
    mended(with_firewalld, fault, first=False)
