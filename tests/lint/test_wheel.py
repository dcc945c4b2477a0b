"""`pip install` of the tree: a wheel with the modules, the schemas and the command."""

from __future__ import annotations

import shutil
import sys
import zipfile
from pathlib import Path

from test_lint_tools import ROOT, run


def test_a_wheel_holds_what_the_tree_has(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    shutil.copytree(ROOT / "agent", tree / "agent", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree / name)
    wheel = [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", "--no-index"]
    run(*wheel, "-w", tmp_path, tree)
    (built,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        names = set(archive.namelist())
        entry = next(name for name in names if name.endswith("entry_points.txt"))
        assert "ec2ssh-agent = ec2ssh_agent.cli:main" in archive.read(entry).decode()
    source = [
        path for path in (tree / "agent").rglob("*") if path.suffix in (".py", ".json") and "build" not in path.parts
    ]
    assert {str(path.relative_to(tree / "agent")) for path in source} <= names
