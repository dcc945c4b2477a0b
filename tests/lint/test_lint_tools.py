"""The linters are tests: ruff, shellcheck."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def tracked() -> list[Path]:
    """The files of the repository that are on disk: what git tracks."""
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], check=True, stdout=subprocess.PIPE)
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def _shell_scripts() -> list[Path]:
    return [
        path
        for path in tracked()
        if not path.is_symlink()
        and path.open("rb").readline(80).rstrip().endswith((b"/sh", b"/bash", b"env bash", b"env sh"))
    ]


def run(*argv: object, cwd: Path = ROOT) -> None:
    done = subprocess.run(
        [str(word) for word in argv], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, text=True
    )
    if done.returncode:
        pytest.fail(f"{argv[0]} exited {done.returncode}\n{done.stdout[-8000:]}", pytrace=False)


def _python() -> list[Path]:
    return [path for path in tracked() if path.suffix == ".py"]


def test_ruff_finds_nothing() -> None:
    run(sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", *_python())


def test_everything_is_as_ruff_formats_it() -> None:
    run(sys.executable, "-m", "ruff", "format", "--no-cache", "--check", *_python())


def _mypy(cache: Path, *arguments: object) -> None:
    mypy = [sys.executable, "-m", "mypy", f"--cache-dir={cache}", f"--config-file={ROOT}/pyproject.toml"]
    # From there: in the tree's own directory the folder systemd would be taken for the module.
    run(*mypy, *arguments, cwd=ROOT / "agent")


def test_mypy_finds_nothing_in_the_agent(tmp_path: Path) -> None:
    _mypy(tmp_path, "ec2ssh_agent")


def test_mypy_finds_nothing_in_the_tests(tmp_path: Path) -> None:
    # pytest's own types need a newer Python than the agent supports.
    tests = [path for path in _python() if ROOT / "tests" in path.parents]
    _mypy(tmp_path, "--python-version=3.11", "--implicit-reexport", *tests)


def test_shellcheck_finds_nothing() -> None:
    run("shellcheck", *_shell_scripts())
