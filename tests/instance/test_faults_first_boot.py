"""The same on the first boot of an image: nobody was seen to get in before, so there is no baseline."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import faults
from daemon import wait_daemon
from faults import Fault
from harness import SERVER4, Instance, boot
from story import CONFIG, mended


@pytest.fixture(scope="module")
def ipv4_only() -> Iterator[Instance]:
    """Without a baseline SSH is shut when nobody gets in by any family: here there is one."""
    with boot(config=CONFIG) as made:
        made.run("ip -6 address flush dev eth0")
        wait_daemon(made)
        yield made


@pytest.mark.parametrize("fault", [f for f in faults.RULES if f.to == SERVER4], ids=lambda fault: fault.name)
def test_rules_on_first_boot(ipv4_only: Instance, fault: Fault) -> None:
    mended(ipv4_only, fault, first=True)
