"""Installed, broken, repaired, made an image, cloned twice: the copies are themselves, and nothing of the first."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from harness import Instance, boot, execute, wait_for


def _copy(source: Path, target: Path) -> None:
    """The whole file system of a machine that is off, owners and attributes too."""
    reader = subprocess.Popen(["tar", "-C", str(source), "--one-file-system", "-cf", "-", "."], stdout=subprocess.PIPE)
    try:
        subprocess.run(["tar", "-C", str(target), "-xpf", "-"], stdin=reader.stdout, check=True, timeout=300)
    finally:
        reader.wait()
    assert reader.returncode == 0


def _mends(made: Instance) -> None:
    """Locked out, and in again by the agent alone."""
    wait_for("the first look", lambda: made.agent("status").code == 0, 60)
    made.run("iptables -I INPUT -p tcp --dport 22 -j DROP; ip6tables -I INPUT -p tcp --dport 22 -j DROP")
    made.client.wait_ssh(60)
    assert made.client.ssh().ok


def test_two_clones_wake_up_as_themselves(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.mkdir()
    with boot(config="[watch]\ninterval = 1m\n") as first:
        _mends(first)
        first.write("/etc/ec2ssh-agent/credentials/token", "secret-of-the-first\n", 0o640)
        identity = first.read("/etc/machine-id").strip()
        done = first.agent("prepare-image", check=True)
        assert "cannot be undone" in done.out
        assert first.run("systemctl is-active ec2ssh-agent.service", check=False).out.strip() == "inactive"
        assert first.run("find /var/lib/ec2ssh-agent /run/ec2ssh-agent /var/lib/ec2ssh-agent-report -type f").out == ""
        assert first.client.ssh().ok, "preparing the image shut SSH"
        # What the builder of an image does itself (cloud-init clean --machine-id).
        first.run(": > /etc/machine-id; rm -rf /var/log/journal; sync")
        first.stop()
        _copy(first.root, image)
    found = execute(["grep", "-rlE", f"secret-of-the-first|{identity}", image], check=False).out
    assert found == ""

    identities = set()
    for _ in range(2):
        with boot(prepare=lambda root: _replace(root, image)) as clone:
            wait_for("the first look", lambda made=clone: made.agent("status").code == 0, 60)  # type: ignore[misc]
            identities.add(clone.read("/etc/machine-id"))
            assert "DROP" not in clone.agent("history").out
            assert clone.agent("undo", "--list").out == "nothing to undo\n"
            _mends(clone)
    assert len(identities) == 2


def _replace(root: Path, image: Path) -> None:
    """The image in the place of an instance's own file system, but for its key and its identity."""
    keys = (root / "root/.ssh/authorized_keys").read_bytes()
    identity = (root / "etc/machine-id").read_bytes()
    for path in root.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()
    _copy(image, root)
    (root / "root/.ssh/authorized_keys").write_bytes(keys)
    (root / "etc/machine-id").write_bytes(identity)
