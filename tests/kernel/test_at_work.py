"""Who is taken to be at work, of this machine's real processes: what only bears a tool's name holds up nothing."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ec2ssh_agent.host import Host
from ec2ssh_agent.model import Seen
from ec2ssh_agent.observe import instance


@contextlib.contextmanager
def running(*argv: object) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has come to bear its program's name."""
    process = subprocess.Popen([*map(str, argv), "60"])
    try:
        comm = Path(f"/proc/{process.pid}/comm")
        end = time.monotonic() + 10
        while comm.read_text() != "ufw\n":
            assert time.monotonic() < end
            time.sleep(0.01)
        yield process
    finally:
        process.kill()
        process.wait()


def at_work(process: subprocess.Popen[bytes]) -> bool:
    found = instance.busy(Host())
    assert isinstance(found, Seen)
    return f"ufw ({process.pid})" in found.value


@pytest.fixture
def ufw(tmp_path: Path) -> Path:
    path = tmp_path / "ufw"
    shutil.copyfile("/bin/sleep", path)
    path.chmod(0o755)
    return path


def test_a_tool_of_roots_is_at_work_until_it_has_ended(ufw: Path) -> None:
    with running(ufw) as process:
        assert at_work(process) and instance.works_here(Host(), process.pid)
        process.kill()
        time.sleep(0.1)  # nobody has waited for it
        assert Path(f"/proc/{process.pid}/comm").read_text() == "ufw\n"
        assert not at_work(process) and not instance.works_here(Host(), process.pid)


def test_in_another_network_namespace_it_changes_other_rules(ufw: Path) -> None:
    with running("unshare", "--net", ufw) as process:
        assert not at_work(process)


def test_a_set_user_id_program_of_that_name_is_another(ufw: Path) -> None:
    ufw.chmod(0o4755)
    with running(ufw) as process:
        assert not at_work(process)


def test_an_ordinary_users_is_none(ufw: Path) -> None:
    with running("setpriv", "--reuid", "65534", "--clear-groups", ufw) as process:
        assert not at_work(process)
