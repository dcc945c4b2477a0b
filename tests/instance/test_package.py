"""The package on a booted system: installed from a clone, again, upgraded, removed, purged; SSH stays as it is."""

from __future__ import annotations

import shutil
from pathlib import Path

from daemon import status
from ec2ssh_agent import __version__
from harness import ROOT, Instance, boot, execute, wait_for


def clone(root: Path) -> None:
    """The tree as a clone has it, in the instance's /root/clone."""
    for name in ("agent", "packaging", "systemd"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, root / "root/clone" / name, ignore=ignore, symlinks=True)
    shutil.copy(ROOT / "CHANGELOG.md", root / "root/clone/CHANGELOG.md")


def files(made: Instance) -> set[str]:
    """Every file and directory but what the running system writes by itself."""
    skipped = {"proc", "sys", "dev", "run", "tmp"}
    volatile = (
        "/var/log/",
        "/var/cache/",
        "/var/lib/apt/",
        "/var/lib/dpkg/",
        "/var/lib/systemd/",
        "/root/",
        "/var/tmp/",
    )
    found = set()
    for top in made.root.iterdir():
        if top.name in skipped or top.is_symlink():
            continue
        for path in top.rglob("*"):
            name = f"/{path.relative_to(made.root)}"
            if not name.startswith(volatile) and "__pycache__" not in name and name != "/etc/.pwd.lock":
                found.add(name)
    return found


def daemon_looked(made: Instance) -> None:
    """Waits for the daemon's first pass on an instance that nothing is wrong with."""
    wait_for("a status that says ok", lambda: made.agent("status").code == 0, 60)


def test_installed_from_a_clone_twice_upgraded_removed_and_purged_without_a_trace() -> None:
    with boot(agent=False, prepare=clone) as made:
        before = files(made)
        passwd = made.read("/etc/passwd")
        for _ in range(2):
            done = made.run("/root/clone/packaging/install.sh", deadline=300)
            assert "the daemon runs" in done.err
            assert "sshd" in done.out, "no first check was shown"
            assert "Traceback" not in done.out + done.err
            daemon_looked(made)
        assert made.run("systemctl is-enabled ec2ssh-agent.service").out.strip() == "enabled"
        assert made.run("systemctl show -P NRestarts ec2ssh-agent.service").out.strip() == "0"
        assert made.client.ssh().ok
        _install(made, "99.0.0")
        made.run("systemctl start ec2ssh-agent-report.service")
        compiled = made.run("find /usr/lib/python3/dist-packages/ec2ssh_agent -name '*.pyc' | wc -l").out
        assert int(compiled) > 10

        configuration = made.read("/etc/ec2ssh-agent/agent.conf")
        made.run("DEBIAN_FRONTEND=noninteractive apt-get -qq -y remove ec2ssh-agent", deadline=300)
        assert made.read("/etc/ec2ssh-agent/agent.conf") == configuration
        assert made.run("systemctl is-active ec2ssh-agent.service", check=False).out.strip() == "inactive"
        assert made.client.ssh().ok
        made.run("DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge ec2ssh-agent", deadline=300)
        assert made.client.ssh().ok
        assert files(made) - before == set()
        assert made.read("/etc/passwd") == passwd
        assert not made.run(
            "find / -xdev -name '*ec2ssh*' -not -path '/proc/*' -not -path '/root/*' -not -path '/var/log/*'"
        ).out


def _install(made: Instance, version: str) -> None:
    """The tree of the clone, called `version`, over what is installed; waits for the daemon's first pass."""
    pid = made.run("systemctl show -P MainPID ec2ssh-agent.service").out
    made.run(f"""sed -i 's/^__version__ = .*/__version__ = "{version}"/' /root/clone/agent/ec2ssh_agent/__init__.py""")
    made.run("/root/clone/packaging/install.sh", deadline=300)
    assert made.agent("--version").out.strip() == f"ec2ssh-agent {version}"
    assert made.run("systemctl show -P MainPID ec2ssh-agent.service").out != pid, "the old code still runs"
    wait_for("the daemon's first pass", lambda: status(made)["agent"]["version"] == version, 60)


def _remembered(made: Instance) -> tuple[str, list[tuple[str, str, str]], list[str]]:
    """Open records, what was repaired, the circuit that holds a repair back (but for how long yet)."""
    document = status(made)
    repairs = [(repair["id"], repair["finding"], repair["outcome"]) for repair in document["repairs"]]
    return made.agent("undo", "--list").out, repairs, sorted(document["circuit"])


def test_upgrade_and_downgrade_keep_state_and_local_configuration() -> None:
    drop = "iptables -F INPUT; ip6tables -P INPUT DROP; iptables -A INPUT -p tcp --dport 22 -j DROP"
    with boot(prepare=clone, config="[repair]\nsettle = 0s\nmax_attempts = 1\n") as made:
        made.write("/etc/ec2ssh-agent/agent.conf", "# mine\n[watch]\ninterval = 20m\n")
        made.run("systemctl reload ec2ssh-agent.service")
        daemon_looked(made)
        made.run("echo 'ALL: ALL' > /etc/hosts.deny")
        wait_for("what can be undone", lambda: "wrappers-deny" in made.agent("undo", "--list").out, 60)
        made.run(drop)
        made.client.wait_ssh(60)
        made.run(drop)
        wait_for("the open circuit", lambda: bool(status(made)["circuit"]), 60)
        before = _remembered(made)
        assert "wrappers-deny" in before[0], before
        for version in ("99.0.0", __version__):
            _install(made, version)
            assert _remembered(made) == before, version
        assert made.client.symptom() == "timeout", "the circuit did not hold"
        assert made.read("/etc/ec2ssh-agent/agent.conf").startswith("# mine\n")
        shown = made.agent("config", "show", check=True).out
        assert "max_attempts = 1" in shown and "interval = 20m" in shown
        made.agent("pause", "8h", check=True)
        _install(made, "99.0.0")
        assert "pause" in made.agent("check").out.lower()


def test_purge_with_undo_puts_back_what_was_changed() -> None:
    with boot(config="[repair]\nbaseline_after = 1h\n") as made:
        daemon_looked(made)
        # By IPv4 alone somebody gets in again, which without a baseline is enough.
        made.run("iptables -P INPUT DROP; ip6tables -P INPUT DROP; echo 'ALL: ALL' > /etc/hosts.deny")
        broken = made.run("iptables -S; ip6tables -S").out
        made.client.wait_ssh(60)
        wait_for("both repairs", lambda: made.client.ssh().ok, 60)
        assert made.run("iptables -S; ip6tables -S").out != broken
        made.run("DEBIAN_FRONTEND=noninteractive ec2ssh-agent purge --undo")
        assert made.run("iptables -S; ip6tables -S").out == broken
        assert made.run("cat /etc/hosts.allow", check=False).out.count("ec2ssh") == 0
        made.run("DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge ec2ssh-agent", deadline=300)
        assert made.client.symptom() == "timeout", "SSH is as it was before the agent"


def test_without_systemd_it_says_so_and_checks_all_the_same(tmp_path: Path) -> None:
    with boot(agent=False, enabled=False, prepare=clone) as made:
        # A root file system of its own in namespaces of its own, in which a shell is pid 1.
        inside = (
            "mount -t proc proc /proc && export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root && "
            "mount -t tmpfs tmpfs /run && ip link set lo up && exec /root/clone/packaging/install.sh"
        )
        argv = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork", "chroot", made.root]
        made.kill()
        done = execute([*argv, "sh", "-c", inside], deadline=300)
        assert "systemd is not pid 1" in done.err
        assert "sshd" in done.out
        assert "Traceback" not in done.out + done.err
        link = made.root / "etc/systemd/system/multi-user.target.wants/ec2ssh-agent.service"
        assert link.is_symlink(), "it is not enabled for the day that systemd is"


def test_an_image_carries_it_enabled_and_not_started() -> None:
    with boot(agent=False, prepare=clone) as made:
        done = made.run("/root/clone/packaging/install.sh --image", deadline=300)
        assert "not started" in done.err
        assert made.run("systemctl is-active ec2ssh-agent.service", check=False).out.strip() == "inactive"
        made.reboot()
        assert made.run("systemctl is-active ec2ssh-agent.service", check=False).out.strip() == "active"
        daemon_looked(made)


def test_without_a_package_manager_it_goes_into_a_virtual_environment() -> None:
    def prepare(root: Path) -> None:
        clone(root)
        (root / "usr/bin/apt-get").rename(root / "usr/bin/hidden")

    with boot(agent=False, prepare=prepare) as made:
        for _ in range(2):
            done = made.run("/root/clone/packaging/install.sh", deadline=300)
            assert "/opt/ec2ssh-agent" in done.err and "the daemon runs" in done.err
            daemon_looked(made)
            made.write("/etc/ec2ssh-agent/agent.conf", "# mine\n")
        assert made.read("/etc/ec2ssh-agent/agent.conf") == "# mine\n"
        made.run("systemctl start ec2ssh-agent-report.service")
        made.reboot()
        daemon_looked(made)
        assert made.client.ssh().ok


def test_offline_the_dependencies_come_from_a_directory_and_a_killed_run_is_finished(tmp_path: Path) -> None:
    execute(["sh", "-c", f"cd {tmp_path} && apt-get -qq download python3-psutil"], deadline=300)

    def prepare(root: Path) -> None:
        clone(root)
        execute(["chroot", root, "dpkg", "-r", "--force-depends", "python3-psutil"])
        shutil.copytree(tmp_path, root / "root/packages")

    with boot(agent=False, prepare=prepare) as made:
        install = "/root/clone/packaging/install.sh --from "
        kill = "[ -e /run/killed ] || { touch /run/killed; kill -9 $PPID; }"
        made.run(["sed", "-i", f"2i {kill}", "/root/clone/packaging/debian/postinst"])
        done = made.run(f"{install} /root/packages", check=False, deadline=300)
        assert done.code == 69 and "could not install" in done.err, "dpkg was not killed"
        done = made.run(f"{install} /root/packages", deadline=300)
        assert "the daemon runs" in done.err
        assert made.run("dpkg --audit").out == ""
        daemon_looked(made)
        # What the system has need not be there, and this package itself may.
        made.run("mkdir /root/empty; /root/clone/packaging/build-repository /root/repository")
        for directory in ("/root/empty", "/root/repository"):
            assert "the daemon runs" in made.run(f"{install} {directory}", deadline=300).err
