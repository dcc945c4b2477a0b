"""What observe sees of a real systemd, sshd, firewalld and ufw in the states that sshd can be in."""

from __future__ import annotations

import base64
import pickle
import time
from collections.abc import Callable
from typing import cast

from ec2ssh_agent.facts import ConfigTest, Facts, Firewalld, Sshd, Ufw, UnitState
from ec2ssh_agent.model import Fact, T
from harness import Instance

LOOK = """
import base64, pickle
from ec2ssh_agent.config import Config
from ec2ssh_agent.host import Host
from ec2ssh_agent.observe import observe
from ec2ssh_agent.model import Seen, Unseen
from ec2ssh_agent.reach.ruleset import Ruleset

def plain(value):  # a Seen is frozen, and so not to be pickled
    if isinstance(value, Seen):
        return ("Seen", plain(value.value), value.where)
    if isinstance(value, Unseen):
        return ("Unseen", value.reason)
    if isinstance(value, Ruleset):
        return Ruleset(())
    if hasattr(value, "_fields"):
        return type(value)(*map(plain, value))
    return tuple(map(plain, value)) if isinstance(value, tuple) else value

print(base64.b64encode(pickle.dumps(plain(observe(Host(), Config())))).decode())
"""


def seen(fact: Fact[T]) -> T:
    """Of a fact that came over from the instance: ("Seen", value, where)."""
    kind, value, *_ = cast("tuple[str, T]", fact)
    assert kind == "Seen", fact
    return value


def look(instance: Instance) -> Facts:
    out = instance.run(["/usr/bin/python3", "-"], stdin=LOOK).out
    facts = pickle.loads(base64.b64decode(out))
    assert isinstance(facts, Facts)
    return facts


def until(instance: Instance, holds: Callable[[Sshd], bool], seconds: float = 20.0) -> Sshd:
    end = time.monotonic() + seconds
    while True:
        sshd = look(instance).sshd
        if holds(sshd) or time.monotonic() > end:
            return sshd


def unit(sshd: Sshd) -> UnitState:
    return seen(sshd.unit)


def test(sshd: Sshd) -> ConfigTest:
    return seen(sshd.test)


test.__test__ = False  # type: ignore[attr-defined] # a fact, not a test of pytest's


def test_sshd_in_its_states(instance: Instance) -> None:
    healthy = look(instance).sshd
    state = unit(healthy)
    assert (state.name, state.load, state.active, state.file_state) == ("ssh.service", "loaded", "active", "enabled")
    process = seen(healthy.process)
    assert process and process.pid == state.main_pid and not process.stopped
    assert seen(healthy.banner).text.startswith("SSH-2.0-") and test(healthy).good
    assert {item.unit for item in seen(healthy.listeners)} <= {"ssh.service", ""} and seen(healthy.port) == (22,)

    instance.run("kill -STOP $(systemctl show -P MainPID ssh.service)")
    hung = look(instance).sshd
    stopped = seen(hung.process)
    assert stopped and stopped.stopped and cast("tuple[str, ...]", hung.banner)[0] == "Unseen"
    instance.run("kill -CONT $(systemctl show -P MainPID ssh.service)")

    instance.run("mv /run/sshd /run/elsewhere")
    bare = look(instance).sshd
    assert "privilege separation" in test(bare).complaint and not test(bare).good and seen(bare.banner).ended
    instance.run("mv /run/elsewhere /run/sshd")

    instance.run("systemctl stop ssh.service")
    down = look(instance).sshd
    assert unit(down).active == "inactive" and seen(down.listeners) == () and seen(down.process) is None
    assert test(down).good, "systemd makes /run/sshd: it is missing by right"
    assert seen(down.port) == (22,)

    instance.run("systemctl mask ssh.service")
    assert unit(look(instance).sshd).load == "masked"
    instance.run("systemctl unmask ssh.service")

    instance.run("systemctl start ssh.socket")
    on_demand = look(instance).sshd
    assert seen(on_demand.socket_unit).active == "active" and test(on_demand).good
    assert seen(on_demand.banner).text.startswith("SSH-2.0-")
    instance.run("systemctl stop ssh.socket")


def test_sshd_that_cannot_start(instance: Instance) -> None:
    instance.run("echo 'Port 2222\\nBogus yes' > /etc/ssh/sshd_config.d/bad.conf; systemctl restart ssh.service || :")
    # The journal takes a moment to have what systemd said.
    broken = until(instance, lambda sshd: unit(sshd).active == "failed" and "ssh.service" in str(sshd.reasons))
    assert unit(broken).result in ("exit-code", "start-limit-hit")
    assert (test(broken).good, test(broken).file, test(broken).line) == (False, "/etc/ssh/sshd_config.d/bad.conf", 2)
    assert [path for path, _ in seen(broken.files)] == ["/etc/ssh/sshd_config", "/etc/ssh/sshd_config.d/bad.conf"]
    assert seen(broken.port) == (2222,), "what sshd would not print is read from its files"
    assert any("ssh.service" in line for line in seen(broken.reasons))

    instance.run(
        "rm /etc/ssh/sshd_config.d/bad.conf; systemctl reset-failed ssh.service; mkdir /k; mv /etc/ssh/*_key /k"
    )
    keyless = look(instance).sshd
    assert "no hostkeys available" in test(keyless).complaint
    assert [key.present for key in seen(keyless.host_keys)] == [False, False, False]
    instance.run("mv /k/* /etc/ssh; chmod 0666 /etc/ssh/*_key")
    loose = look(instance).sshd
    assert "UNPROTECTED PRIVATE KEY" in test(loose).complaint
    assert {key.mode for key in seen(loose.host_keys)} == {0o666}
    instance.run("chmod 0600 /etc/ssh/*_key")


def test_the_owners_of_a_firewall(instance: Instance) -> None:
    facts = look(instance)
    ufw, firewalld = seen(facts.ufw), seen(facts.firewalld)
    assert isinstance(ufw, Ufw) and not ufw.enabled and isinstance(firewalld, Firewalld) and not firewalld.running

    instance.run("ufw deny 22/tcp; ufw --force enable")
    ufw = seen(look(instance).ufw)
    assert ufw and ufw.enabled and ufw.chains and any(line.startswith("deny tcp 22") for line in ufw.tuples)
    instance.run("iptables -F")
    ufw = seen(look(instance).ufw)
    assert ufw and ufw.enabled and not ufw.chains
    instance.run("ufw disable")

    instance.run("systemctl start firewalld.service")
    instance.run("firewall-cmd -q --zone=drop --change-interface=eth0; firewall-cmd -q --permanent --add-port=2222/tcp")
    firewalld = seen(look(instance).firewalld)
    assert firewalld and firewalld.running and not firewalld.panic
    zones, permanent = ({zone.name: zone for zone in found} for found in (firewalld.zones, firewalld.permanent))
    assert zones["drop"].interfaces == ("eth0",) and zones["drop"].target == "DROP"
    assert ("2222", "tcp") in permanent[firewalld.default_zone].ports
    assert zones[firewalld.default_zone].ports == ()

    instance.run("kill -STOP $(systemctl show -P MainPID dbus.service firewalld.service)")
    started = time.monotonic()
    hanging = look(instance)
    assert cast("tuple[str, str]", hanging.firewalld)[0] == "Unseen" and time.monotonic() - started < 15
    assert unit(hanging.sshd).active == "active", "systemd answers root without the bus"
    instance.run("kill -CONT $(systemctl show -P MainPID dbus.service firewalld.service)")
