"""Whoever can write the configuration of a root daemon is root: it is believed only where root alone can."""

from __future__ import annotations

import pytest

from ec2ssh_agent import daemon
from ec2ssh_agent.config import FILE, load
from ec2ssh_agent.model import ConfigError
from fake_host import FakeHost

MORE = f"{FILE}.d/50-more.conf"
KEPT = "/var/lib/ec2ssh-agent/config.json"


def machine(mode: str = "repair") -> FakeHost:
    return FakeHost({FILE: f"[repair]\nmode = {mode}\n".encode(), MORE: b"[watch]\ninterval = 1h\n"})


@pytest.mark.parametrize("path", [FILE, MORE, f"{FILE}.d", FILE.rpartition("/")[0]])
@pytest.mark.parametrize(("bits", "uid"), [(0o002, 0), (0o020, 0), (0, 1000)])
def test_what_others_can_write_repairs_nothing(path: str, bits: int, uid: int) -> None:
    host = machine()
    assert load(host).repair_mode == "repair"
    host.nodes[path].mode |= bits
    host.nodes[path].uid = uid
    with pytest.raises(ConfigError, match="others than root can write it"):
        load(host)
    config, finding = daemon.configuration(host, FILE)
    assert config.repair_mode == "off" and finding and finding.id == "config-invalid"


def test_it_may_report() -> None:
    host = machine("off")
    host.nodes[FILE].mode |= 0o002
    assert load(host).repair_mode == "off"


def test_a_last_good_one_that_others_can_write_is_none() -> None:
    host = machine()
    assert daemon.configuration(host, FILE)[1] is None
    host.put(FILE, b"Bogus")
    assert daemon.configuration(host, FILE)[0].repair_mode == "repair"
    host.nodes[KEPT].mode |= 0o002
    assert daemon.configuration(host, FILE)[0].repair_mode == "off"


def test_a_root_that_is_sticky_is_no_danger() -> None:
    """/tmp/agent.conf of root's: nobody else can put another file in its place."""
    host = FakeHost({"/tmp/agent.conf": b"[repair]\nmode = repair\n"})
    host.nodes["/tmp"].mode |= 0o1777
    assert load(host, "/tmp/agent.conf").repair_mode == "repair"
