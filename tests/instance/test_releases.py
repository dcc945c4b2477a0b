"""The package on the other Debian releases: Python 3.9 and 3.13, their systemd, OpenSSH, nftables, ufw, firewalld.

Every fault that test_faults.py and test_faults_first_boot.py know, on each of them. CI runs a few of each kind, chosen
by EC2SSH_SEED; `tests/run.sh full` runs all. A test that failed is run again by its name: it holds release and fault.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator, Sequence

import pytest

import faults
from daemon import wait_daemon
from faults import Fault
from harness import SERVER4, Instance, boot
from story import CONFIG, mended, no_traceback

PYTHON = {"bullseye": "(3, 9)", "trixie": "(3, 13)"}

IMPORT_ALL = """
import importlib, pkgutil, sys
import ec2ssh_agent
for module in pkgutil.walk_packages(ec2ssh_agent.__path__, "ec2ssh_agent."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
print(sys.version_info[:2])
"""

# The same for all of xdist's workers, which must collect the same tests.
_RANDOM = random.Random(os.environ.get("EC2SSH_SEED") or os.environ.get("PYTEST_XDIST_TESTRUNUID"))


on_each_release = pytest.mark.parametrize("suite", PYTHON, scope="module")


def of(known: Sequence[Fault], *, few: int) -> pytest.MarkDecorator:
    """All of them, all but a `few` as slow tests."""
    chosen = _RANDOM.sample(known, few)
    slow = pytest.mark.slow
    return pytest.mark.parametrize(
        "fault", [pytest.param(fault, id=fault.name, marks=() if fault in chosen else slow) for fault in known]
    )


@contextlib.contextmanager
def _running(suite: str) -> Iterator[Instance]:
    with boot(suite, config=CONFIG) as made:
        wait_daemon(made)
        yield made
        no_traceback(made)


@pytest.fixture(scope="module")
def plain(suite: str) -> Iterator[Instance]:
    with _running(suite) as made:
        yield made


@pytest.fixture(scope="module")
def with_firewalld(suite: str) -> Iterator[Instance]:
    with _running(suite) as made:
        made.run("systemctl start firewalld.service")
        made.client.wait_ssh(30)
        yield made


@pytest.fixture(scope="module")
def ipv4_only(suite: str) -> Iterator[Instance]:
    with _running(suite) as made:
        made.run("ip -6 address flush dev eth0")
        yield made


@on_each_release
def test_every_module_is_this_pythons(plain: Instance, suite: str) -> None:
    done = plain.run(["python3", "-I", "-W", "error::SyntaxWarning", "-c", IMPORT_ALL])
    assert done.out.strip() == PYTHON[suite]


@on_each_release
@of((*faults.SSHD, *faults.WRAPPERS), few=3)
def test_sshd_and_wrappers(plain: Instance, fault: Fault) -> None:
    mended(plain, fault, first=False)


@on_each_release
@of(faults.RULES, few=3)
def test_rules(plain: Instance, fault: Fault) -> None:
    mended(plain, fault, first=False)


@on_each_release
@of(faults.FIREWALLD, few=1)
def test_firewalld(with_firewalld: Instance, fault: Fault) -> None:
    mended(with_firewalld, fault, first=False)


@on_each_release
@of([fault for fault in faults.RULES if fault.to == SERVER4], few=2)
def test_rules_on_first_boot(ipv4_only: Instance, fault: Fault) -> None:
    mended(ipv4_only, fault, first=True)
