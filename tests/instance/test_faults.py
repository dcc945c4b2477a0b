"""SSH is lost in every way that the document knows; a client gets in again without anybody touching the machine."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

import faults
from daemon import findings, set_mode, status, wait_baseline, wait_daemon
from faults import Fault
from harness import SERVER4, Instance, boot, wait_for

CONFIG = """\
[watch]
interval = 1m
[repair]
mode = off
baseline_after = 1s
max_attempts = 20
"""


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


def mended(made: Instance, fault: Fault, *, first: bool) -> None:
    """The whole story of one fault."""
    if first:
        set_mode(made, "off", more="baseline_after = 1h\n")
        made.agent("purge", check=True)
    else:
        set_mode(made, "off")
        assert made.client.ssh(to=fault.to).ok, "before the fault"
        wait_baseline(made)
    made.run(fault.breaks)
    try:
        assert made.client.symptom(to=fault.to) == fault.symptom
        wait_for(f"the finding {fault.finding}", lambda: fault.finding in findings(made), 30)
        found = findings(made)[fault.finding]
        assert found["symptom"] == fault.symptom
        broken, known = made.snapshot(), {repair["id"] for repair in status(made)["repairs"]}

        set_mode(made, "repair", more="baseline_after = 1h\n")
        made.client.wait_ssh(40, to=fault.to)
        wait_for("health", lambda: not any(f["severity"] == "critical" for f in findings(made).values()), 30)
        login = made.client.ssh(to=fault.to)
        assert login.ok, login.stderr
        document = status(made)
        made_since = [r for r in document["repairs"] if r["id"] not in known]
        verified = [r["finding"] for r in made_since if r["outcome"] == "verified"]
        assert fault.finding in verified, made_since
        page = made.agent("status").out
        assert fault.finding in page and re.search(r"verified in \d", page), page
        undone(made, broken)
    finally:
        set_mode(made, "off")
        made.run(fault.heal, check=False)
        made.agent("resume")
    made.client.wait_ssh(40, to=fault.to)


def undone(made: Instance, broken: Any) -> None:
    """`undo`, of every change of this repair, brings rules and files back to what they were just before."""
    set_mode(made, "off")
    while True:
        done = made.agent("undo")
        if done.code:
            assert "nothing to undo" in done.err, done.err
            break
    after = made.snapshot()
    lines = [line for line in Instance.diff(broken, after) if "60-mode.conf" not in line and not _unit(line)]
    assert not lines, "\n".join(lines)


def _unit(line: str) -> bool:
    """That sshd runs again is no file and no rule; `undo` does not stop it."""
    return bool(re.match(r"\d{4}: ", line))


@pytest.mark.parametrize("fault", faults.SSHD, ids=lambda fault: fault.name)
def test_sshd(plain: Instance, fault: Fault) -> None:
    mended(plain, fault, first=False)


@pytest.mark.parametrize("fault", faults.WRAPPERS, ids=lambda fault: fault.name)
def test_wrappers(plain: Instance, fault: Fault) -> None:
    mended(plain, fault, first=False)


_RULES = (*faults.xtables(""), *faults.xtables("-legacy"), *faults.OTHER_RULES, *faults.UFW)


@pytest.mark.parametrize("fault", _RULES, ids=lambda fault: fault.name)
def test_rules(plain: Instance, fault: Fault) -> None:
    mended(plain, fault, first=False)


@pytest.mark.parametrize("fault", [f for f in _RULES if f.to == SERVER4], ids=lambda fault: fault.name)
def test_rules_on_first_boot(plain: Instance, fault: Fault) -> None:
    mended(plain, fault, first=True)


@pytest.mark.parametrize("fault", faults.FIREWALLD, ids=lambda fault: fault.name)
def test_firewalld(with_firewalld: Instance, fault: Fault) -> None:
    mended(with_firewalld, fault, first=False)
