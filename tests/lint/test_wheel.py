"""`pip install` of the tree: an sdist, and from it a wheel with the modules, the schemas and the command."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from ec2ssh_agent import __version__
from test_lint_tools import ROOT, run

SDIST = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


def test_a_wheel_from_the_sdist_holds_what_the_tree_has_and_runs(tmp_path: Path) -> None:
    tree, installed = tmp_path / "tree", tmp_path / "installed"
    shutil.copytree(ROOT / "agent", tree / "agent", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    run(sys.executable, "-c", SDIST, tmp_path, cwd=tree)
    (sdist,) = tmp_path.glob("*.tar.gz")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", tmp_path, sdist)
    (wheel,) = tmp_path.glob("*.whl")
    source = {
        str(path.relative_to(ROOT / "agent"))
        for path in (ROOT / "agent" / "ec2ssh_agent").rglob("*")
        if path.suffix in (".py", ".json")
    }
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if name.endswith((".py", ".json"))} == source
    run(*pip, "install", "--no-deps", "--no-index", "--target", installed, wheel)
    done = subprocess.run(
        [str(installed / "bin" / "ec2ssh-agent"), "--version"],
        env={"PYTHONPATH": str(installed)},
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert done.stdout == f"ec2ssh-agent {__version__}\n"
