"""The machine around sshd, and ufw's files, on a host in memory."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

import pytest

from ec2ssh_agent.host import Failed, Host
from ec2ssh_agent.model import Seen, Unseen
from ec2ssh_agent.observe import instance, ufw
from ec2ssh_agent.observe.systemd import Systemd
from ec2ssh_agent.reach.ruleset import Backend, Chain, Kind, Rule, Ruleset, Table, Verdict
from fake_host import FakeHost

UNITS = Systemd(Unseen("no"), Unseen("no"), Seen("rescue"), Seen(True))


def process(host: FakeHost, pid: int, name: str, arguments: bytes = b"", *, real: int = 0, uid: int = 0) -> None:
    host.put(f"/proc/{pid}/comm", name.encode() + b"\n")
    host.put(f"/proc/{pid}/cmdline", arguments)
    host.put(f"/proc/{pid}/status", f"Name:\t{name}\nUid:\t{real}\t{uid}\t{uid}\t{uid}\n".encode())


@pytest.mark.parametrize(
    ("name", "arguments", "works"),
    [
        ("ufw", b"", True),
        ("iptables-restor", b"", True),
        ("iptables", b"", True),
        ("ip6tables-nft-r", b"", True),
        ("nft", b"nft\0-f\0/etc/nftables.conf\0", True),
        ("nft", b"/usr/sbin/nft\0add\0rule\0", True),
        ("nft", b"nft\0-j\0monitor\0", False),
        ("xtables-monitor", b"xtables-monitor\0", False),
        ("xtables-nft-mul", b"", True),
        ("firewall-cmd", b"", True),
        ("apt-get", b"", True),
        ("dpkg", b"", True),
        ("cloud-init", b"", True),
        ("python3", b"/usr/bin/python3\0/root/.ansible/tmp/ansible-tmp-1/AnsiballZ_setup.py\0", True),
        ("python3", b"/usr/bin/python3\0/usr/sbin/ufw\0reload\0", True),
        ("puppet", b"puppet agent: applying configuration", True),
        ("salt-minion", b"/usr/bin/salt-minion KeepAlive\0ProcessPayload(jid=1)\0", True),
        ("unattended-upgr", b"/usr/bin/python3\0/usr/bin/unattended-upgrade\0", True),
        ("unattended-upgr", b"/usr/bin/python3\0/usr/share/unattended-upgrades/unattended-upgrade-shutdown\0", False),
        ("salt-minion", b"/usr/bin/salt-minion\0", False),
        ("puppet", b"/usr/bin/puppet\0agent\0--daemonize\0", False),
        ("python3", b"/usr/bin/python3\0/usr/bin/firewalld\0--nofork\0", False),
        ("firewalld", b"/usr/bin/python3\0/usr/sbin/firewalld\0", False),
        ("nftables-thing", b"", False),
        ("aptd", b"", False),
        ("sshd", b"", False),
    ],
)
def test_who_is_at_work(name: str, arguments: bytes, works: bool) -> None:
    host = FakeHost()
    process(host, 1, "systemd")
    process(host, 42, name, arguments)
    assert instance.busy(host) == Seen((f"{name} (42)",) if works else (), "/proc")


def test_what_others_call_their_programs_holds_up_nothing() -> None:
    host = FakeHost()
    process(host, 42, "apt", real=1000, uid=1000)
    process(host, 43, "python3", b"python3\0AnsiballZ_x\0", real=65534, uid=65534)
    process(host, 44, "apt", real=1000)  # a link to su, which waits for a password
    process(host, 45, "ufw")  # a link to sudo, which waits for what it was let run
    host.put("/usr/bin/sudo", mode=0o4755)
    host.link("/proc/45/exe", "/usr/bin/sudo")
    assert instance.busy(host) == Seen((), "/proc")


def test_a_proc_that_shows_nothing_is_unseen() -> None:
    host = FakeHost()
    host.directory("/proc")
    assert isinstance(instance.busy(host), Unseen)


def test_everything_of_an_ordinary_machine() -> None:
    host = FakeHost(
        {
            "/proc/1/comm": b"systemd\n",
            "/proc/sys/net/netfilter/nf_conntrack_count": b"12\n",
            "/proc/sys/net/netfilter/nf_conntrack_max": b"262144\n",
            "/proc/pressure/cpu": b"some avg10=1.25 avg60=0.00 avg300=0.00 total=1\nfull avg10=9.00\n",
            "/etc/machine-id": b"0123456789abcdef0123456789abcdef\n",
            "/run/systemd/sessions/3": b"UID=0\nUSER=root\nSTATE=active\nCLASS=user\nREALTIME=1700000000999999\n",
            "/run/systemd/sessions/4": b"USER=gdm\nSTATE=active\nCLASS=greeter\nREALTIME=1\n",
            "/run/nologin": b"",
        }
    )
    host.directory("/run/systemd/system")
    got = instance.collect(host, UNITS)
    assert got.nologin == Seen(True, "/run/nologin")
    assert (got.free_bytes, got.free_inodes) == (Seen(10 << 30, "/var"), Seen(1_000_000, "/var"))
    assert isinstance(got.conntrack, Seen) and got.conntrack.value == (12, 262144)
    assert isinstance(got.pressure, Seen) and got.pressure.value == 1.25
    assert got.users == Seen(("root 1700000000",), "/run/systemd/sessions")
    assert got.systemd == Seen(True, "/run/systemd/system")
    assert isinstance(got.cloud_init_done, Seen) and got.cloud_init_done.value
    assert (got.target, got.stopping) == (Seen("rescue"), Seen(True))
    assert isinstance(got.identity, Seen) and "0123456789" not in got.identity.value


class NoPsi(FakeHost):
    """Its kernel has PSI switched off."""

    def read(self, path: str, *, cap: int = 1 << 20, follow: bool = True) -> bytes:
        if path.startswith("/proc/pressure/"):
            raise Failed(f"{path}: Operation not supported")
        return super().read(path, cap=cap, follow=follow)


@pytest.mark.parametrize(("load", "percent"), [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0), (2.0, 50.0), (5.0, 80.0)])
@pytest.mark.parametrize("host", [FakeHost, NoPsi])
def test_without_psi_the_load_average_tells_who_waits_for_a_cpu(
    host: type[FakeHost], load: float, percent: float
) -> None:
    each = load * (os.cpu_count() or 1)
    got = instance.pressure(host({"/proc/loadavg": f"{each:.2f} 0.10 0.05 2/120 4711\n".encode()}))
    assert isinstance(got, Seen) and got.where == "/proc/loadavg" and got.value == pytest.approx(percent)


def test_an_empty_machine_is_unseen_or_none_and_no_crash() -> None:
    got = instance.collect(FakeHost(), UNITS)
    assert isinstance(got.identity, Unseen) and isinstance(got.pressure, Unseen)
    assert isinstance(got.conntrack, Seen) and got.conntrack.value == (0, 0)
    assert isinstance(got.nologin, Seen) and not got.nologin.value


def test_what_may_not_be_read_is_unseen() -> None:
    host = FakeHost({"/proc/1/comm": b"systemd\n", "/etc/machine-id": b"0" * 32})
    host.denied.update({"/etc", "/run", "/proc", "/var"})
    got = instance.collect(host, UNITS)
    assert all(
        isinstance(fact, Unseen) for fact in (got.nologin, got.free_bytes, got.conntrack, got.identity, got.users)
    )


@pytest.mark.parametrize(
    ("files", "identity"),
    [
        ({"/sys/class/dmi/id/board_asset_tag": b"i-0123456789abcdef0\n"}, "i-0123456789abcdef0"),
        ({"/sys/class/dmi/id/board_asset_tag": b"None\n", "/var/lib/cloud/data/instance-id": b"iid-x\n"}, "iid-x"),
        ({"/run/cloud-init/.instance-id": b"i-00000000\n"}, "i-00000000"),
    ],
)
def test_identity(files: dict[str, bytes], identity: str) -> None:
    got = instance.identity(FakeHost({**files, "/etc/machine-id": b"x"}))
    assert isinstance(got, Seen) and got.value == identity


def test_cloud_init_is_done_when_it_says_so() -> None:
    host = FakeHost()
    host.installed("cloud-init")
    waiting = instance.cloud_init_done(host)
    assert isinstance(waiting, Seen) and not waiting.value
    host.put("/run/cloud-init/result.json", b"{}")
    assert instance.cloud_init_done(host) == Seen(True, "/run/cloud-init/result.json")


def test_utmp() -> None:
    def entry(kind: int, name: bytes, seconds: int) -> bytes:
        line = (b"pts/0", b"ts/0", name, b"host", 0, 0, 0, seconds, 0, 0, 0, 0, 0)
        return struct.pack("=hxxi32s4s32s256shhiii4i20x", kind, 99, *line)

    content = entry(2, b"reboot", 1) + entry(7, b"admin", 1700000000) + entry(8, b"", 3) + b"cut"
    assert len(entry(7, b"", 0)) == 384
    assert list(instance.utmp(content)) == ["admin 1700000000"]


def test_immutable_flags_of_real_files(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "hosts.allow"
    path.parent.mkdir()
    path.write_text("")
    host = Host(str(tmp_path))
    assert instance.immutable(host) == Seen((), "FS_IOC_GETFLAGS")
    with open(path) as file:
        try:
            fcntl.ioctl(file, 0x40086602, struct.pack("=Q", 0x10))  # FS_IOC_SETFLAGS: chattr +i
        except OSError:
            assert instance.flags(host, "/etc/hosts.allow") == 0  # a file system without flags
            return
        try:
            assert instance.immutable(host) == Seen(("/etc/hosts.allow",), "FS_IOC_GETFLAGS")
        finally:
            fcntl.ioctl(file, 0x40086602, struct.pack("=Q", 0))
    os.unlink(path)
    assert instance.flags(host, "/etc/hosts.allow") == 0


# -- ufw


def jump(target: str) -> Rule:
    return Rule((Verdict(Kind.JUMP, target),), f"-j {target}", 1)


def ruleset(*entry: Rule, chains: tuple[str, ...] = ("ufw-before-input",)) -> Seen[Ruleset]:
    made = {name: Chain(name, ()) for name in chains}
    made["INPUT"] = Chain("INPUT", entry, hook="input", policy=Kind.DROP)
    return Seen(Ruleset((Table("ip", "filter", Backend.IPTABLES_NFT, made),)))


def a_ufw(enabled: bytes = b"yes") -> FakeHost:
    host = FakeHost(
        {
            "/etc/ufw/ufw.conf": b"# ENABLED=no\nENABLED=" + enabled + b"\nLOGLEVEL=low\n",
            "/etc/ufw/user.rules": b"*filter\n### tuple ### deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in\n-A x\nCOMMIT\n",
            "/etc/ufw/user6.rules": b"### tuple ### allow tcp 80 ::/0 any ::/0 in\n",
        }
    )
    host.installed("ufw")
    return host


def test_ufw() -> None:
    got = ufw.collect(a_ufw(), ruleset(jump("ufw-before-input")))
    assert isinstance(got, Seen) and got.value
    assert got.value.enabled and got.value.chains
    assert got.value.tuples == ("deny tcp 22 0.0.0.0/0 any 0.0.0.0/0 in", "allow tcp 80 ::/0 any ::/0 in")


def test_ufw_whose_chains_are_gone() -> None:
    for rules in (ruleset(), ruleset(jump("ufw-before-input"), chains=()), Seen(Ruleset(()))):
        got = ufw.collect(a_ufw(b"no"), rules)
        assert isinstance(got, Seen) and got.value and not got.value.chains and not got.value.enabled


def test_ufw_is_unseen_where_the_rules_are() -> None:
    assert isinstance(ufw.collect(a_ufw(), Unseen("nft is missing")), Unseen)
    host = a_ufw()
    host.denied.add("/etc/ufw/user.rules")
    assert isinstance(ufw.collect(host, ruleset()), Unseen)
    assert ufw.collect(FakeHost(), ruleset()) == Seen(None, "ufw is not installed")
