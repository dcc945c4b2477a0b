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


def run(*argv: object) -> None:
    done = subprocess.run(
        [str(word) for word in argv], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600, text=True
    )
    if done.returncode:
        pytest.fail(f"{argv[0]} exited {done.returncode}\n{done.stdout[-8000:]}", pytrace=False)


def test_ruff_finds_nothing() -> None:
    files = [path for path in tracked() if path.suffix == ".py"]
    run(
        sys.executable, "-m", "ruff", "check", "--no-cache", "--output-format=concise", "--select=E9,F63,F7,F82", *files
    )


def test_shellcheck_finds_nothing() -> None:
    run("shellcheck", *_shell_scripts())
