"""The rpm, installed by rpm into a booted system's root. No RPM distribution ran it here: the system is a Debian."""

from __future__ import annotations

from pathlib import Path

from harness import ROOT, boot, execute, wait_for


def _built(directory: Path) -> Path:
    return Path(execute([ROOT / "packaging" / "build-rpm", directory], deadline=300).out.rstrip("\n"))


def test_it_is_reproducible(tmp_path: Path) -> None:
    first, second = _built(tmp_path / "first"), _built(tmp_path / "second")
    assert first.read_bytes() == second.read_bytes()


def test_it_installs_enables_runs_and_goes(tmp_path: Path) -> None:
    package = _built(tmp_path)

    def install(root: Path) -> None:
        # --nodeps: the names of the dependencies are those of RPM distributions, and this root has dpkg's.
        rpm = ["rpm", "--root", root, "--nodeps", "--nosignature"]
        execute([*rpm, "-i", package], deadline=300)
        assert execute([*rpm, "-V", "ec2ssh-agent"], check=False).out == ""

    with boot(agent=False, prepare=install) as made:
        wait_for("the first look", lambda: made.agent("status").code == 0, 60)
        assert made.run("systemctl is-enabled ec2ssh-agent.service").out.strip() == "enabled"
        assert int(made.run("find /usr/lib/ec2ssh-agent -name '*.pyc' | wc -l").out) > 10
        made.run("iptables -I INPUT -p tcp --dport 22 -j DROP; ip6tables -I INPUT -p tcp --dport 22 -j DROP")
        made.client.wait_ssh(60)
        assert made.client.ssh().ok
        made.run("systemctl start ec2ssh-agent-report.service")
        made.run("systemctl stop ec2ssh-agent.service")
        execute(["rpm", "--root", made.root, "--nodeps", "-e", "ec2ssh-agent"], deadline=300)
        assert not (made.root / "usr/lib/ec2ssh-agent").exists()
        assert not (made.root / "usr/bin/ec2ssh-agent").exists()
        assert made.client.ssh().ok
