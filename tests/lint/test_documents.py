"""Manual page, completions and units name what there is."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ec2ssh_agent.cli import parser
from test_lint_tools import ROOT, run

MANUAL = ROOT / "packaging" / "man" / "ec2ssh-agent.8"
COMPLETIONS = [ROOT / "packaging" / "completion" / name for name in ("ec2ssh-agent.bash", "_ec2ssh-agent")]


def _commands() -> dict[str, argparse.ArgumentParser]:
    (found,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    return dict(found.choices)


def _words() -> Iterator[str]:
    """Every command, every option, every word that a command takes from a closed set."""
    for name, command in _commands().items():
        yield name
        for action in command._actions:
            yield from (option for option in action.option_strings if option != "-h")
            yield from action.choices or ()
    yield from ("--config", "--root", "--version")


def test_the_manual_page_names_every_command_and_option() -> None:
    text = MANUAL.read_text().replace("\\-", "-")
    assert [word for word in _words() if word not in text] == []


def test_the_completions_name_every_command_and_option() -> None:
    for file in COMPLETIONS:
        text = file.read_text()
        assert [word for word in _words() if word not in text] == []


def test_bash_completes_as_one_types() -> None:
    script = r"""
        set -eu
        source "$1"
        complete_line() { COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _ec2ssh_agent; echo "${COMPREPLY[*]}"; }
        complete_line ec2ssh-agent st
        complete_line ec2ssh-agent --config /etc/hosts rep
        complete_line ec2ssh-agent repair --dry
        complete_line ec2ssh-agent explain ''
    """
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(COMPLETIONS[0])], stdout=subprocess.PIPE, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines() == ["status", "repair report", "--dry-run", "timeout refused --json --help"]


def test_zsh_reads_its_completion() -> None:
    run("zsh", "-n", COMPLETIONS[1])


def test_the_manual_pages_are_good_roff(tmp_path: Path) -> None:
    run(ROOT / "packaging" / "stage", tmp_path, "lib/systemd/system", "usr/lib/python3/dist-packages")
    for page in sorted(tmp_path.glob("usr/share/man/man*/*.gz")):
        done = subprocess.run(
            ["man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z", str(page)],
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "MANROFFSEQ": "", "MANWIDTH": "80"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
        assert (done.returncode, done.stderr) == (0, "")


def test_the_package_is_reproducible_and_lintian_finds_nothing(tmp_path: Path) -> None:
    packages = []
    # Another file system, another file mode creation mask, another time zone.
    for umask, variables in ((0o022, {}), (0o027, {"TMPDIR": "/dev/shm", "TZ": "Asia/Tokyo"})):
        built = subprocess.run(
            [str(ROOT / "packaging" / "build-deb"), str(tmp_path / f"{umask:o}")],
            env={**os.environ, **variables},
            umask=umask,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            check=True,
            timeout=300,
        )
        packages.append(Path(built.stdout.rstrip("\n")))
    assert packages[0].read_bytes() == packages[1].read_bytes()
    run("lintian", "--allow-root", "--fail-on", "error,warning", packages[0])


def test_rpmlint_finds_nothing_that_is_not_argued(tmp_path: Path) -> None:
    # In a directory such as a person's may be.
    tree = tmp_path / "a tree"
    for name in ("agent", "packaging", "systemd"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in ("CHANGELOG.md", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tree / name)
    build = [str(tree / "packaging" / "build-rpm"), str(tmp_path / "an output")]
    built = subprocess.run(build, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=True, timeout=300)
    run("rpmlint", "--strict", "-r", ROOT / "packaging" / "rpmlintrc", built.stdout.rstrip("\n"))
