"""What a user or a terminal can do to the commands: one line at most, never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Optional

import jsonschema
import pytest

from ec2ssh_agent import passes

ROOT = Path(__file__).resolve().parents[2]
RULES = '*filter\n:INPUT DROP [0:0]\n-A INPUT -p tcp -m comment --comment "café →" -j DROP\nCOMMIT\n'


def ran(tmp_path: Path, shell: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`$A` is the command, on an attached volume that is empty."""
    command = f"{sys.executable} -m ec2ssh_agent --root {tmp_path}"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "agent"), "A": command, **variables}
    argv = ["sh", "-c", shell]
    return subprocess.run(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)


@pytest.mark.parametrize(
    ("shell", "code", "complaint"),
    [
        ("$A config show > /dev/full", 74, "ec2ssh-agent: standard output: No space left on device\n"),
        ("$A history > /dev/full", 74, "ec2ssh-agent: standard output: No space left on device\n"),
        ("$A --help > /dev/full", 74, "ec2ssh-agent: standard output: No space left on device\n"),
        ("$A status --help > /dev/full", 74, "ec2ssh-agent: standard output: No space left on device\n"),
        ("$A --root /nonexistent check", 64, "ec2ssh-agent: --root /nonexistent: no such directory\n"),
        ("$A --root /nonexistent purge", 64, "ec2ssh-agent: --root /nonexistent: no such directory\n"),
        ("$A history >&-", 0, ""),
        ("$A check >&-", 2, ""),
        ("$A history --nonsense 2>&-", 64, ""),
        ("$A undo", 64, "ec2ssh-agent: nothing to undo\n"),
        ("$A status", 3, None),
    ],
)
def test_an_output_that_fails_is_said_in_one_line(
    tmp_path: Path, shell: str, code: int, complaint: Optional[str]
) -> None:
    done = ran(tmp_path, shell)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") <= 1
    assert complaint is None or done.stderr == complaint


def test_a_reader_that_has_seen_enough_is_no_error(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    argv = [sys.executable, "-m", "ec2ssh_agent", "--root", str(tmp_path), "history"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "agent")}
    done = subprocess.run(argv, env=environment, stdout=write, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(write)
    assert (done.returncode, done.stderr) == (1, "")


def test_what_the_terminal_cannot_show_is_an_escape(tmp_path: Path) -> None:
    (tmp_path / "rules").write_text(RULES)
    done = ran(tmp_path, f"$A reach --iptables-save {tmp_path}/rules", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and r'"caf\xe9 \u2192"' in done.stdout, done.stderr


def test_who_may_not_look_is_told_so_and_not_that_nothing_is_wrong() -> None:
    nobody = f"setpriv --reuid 65534 --regid 65534 --clear-groups {sys.executable} -m ec2ssh_agent"
    script = f"mount -t tmpfs -o mode=0755 tmpfs /run; {nobody} reach --from 203.0.113.7; echo $?; {nobody} resume"
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "agent"), "PYTHONDONTWRITEBYTECODE": "1"}
    # A network and a /run of its own.
    argv = ["unshare", "--net", "--mount", "sh", "-c", script]
    done = subprocess.run(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, timeout=60)
    assert (done.stdout, done.returncode) == ("1\n", 3), done.stderr
    assert "the rules could not be read: nf_tables: only root may ask" in done.stderr
    assert "Permission denied (run it as root)" in done.stderr
    unknown = passes.would_do({"would": [], "health": "unknown", "summary": "could not look at the ruleset"})
    assert unknown == "# what there is to repair is not known: could not look at the ruleset\n"


COMMANDS = (
    "explain timeout", "explain refused", "history", "config show", "config check", "undo --list", "pause 5m", "resume",
    "purge", "user-data",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_answers_in_json_by_its_schema(tmp_path: Path, command: str) -> None:
    (tmp_path / "etc/ssh").mkdir(parents=True)
    (tmp_path / "var").mkdir()
    if command == "history":
        assert ran(tmp_path, "$A pause 5m").returncode == 0
    done = ran(tmp_path, f"$A {command} --json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    jsonschema.validate(document, json.loads((ROOT / "agent/ec2ssh_agent/schemas/commands.json").read_text()))
    assert document["schema"] == f"ec2ssh-agent.{command.split()[0]}/1"


def test_an_attached_volume_is_looked_at_as_far_as_it_goes(tmp_path: Path) -> None:
    for directory in ("etc/ssh", "var", "usr/sbin"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "usr/sbin/sshd").write_bytes(b"\x7fELF")
    (tmp_path / "usr/sbin/sshd").chmod(0o755)
    (tmp_path / "etc/systemd/system").mkdir(parents=True)
    (tmp_path / "etc/systemd/system/ssh.service").symlink_to("/dev/null")
    done = ran(tmp_path, "$A check")
    assert done.returncode == 3 and "an attached volume has no sockets" in done.stdout, done.stderr
    assert "sshd-masked" in done.stdout and "host-keys-missing" in done.stdout
