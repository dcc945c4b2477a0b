"""Every command block of the README runs, in order, on a fresh instance with a clone, and prints what is written."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from harness import ROOT, boot
from test_package import clone

README = (ROOT / "README.md").read_text()

# This very test is part of what it runs.
ELSEWHERE = ("sudo tests/run.sh unit",)

# What differs from run to run.
VOLATILE = (
    (r"ec2ssh-\s*agent:\S+", "COMMENT"),
    (r"\d{8}T\d{6}-[0-9a-f]{4}", "ID"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME"),
    (r"\bpid \d+", "pid N"),
    (r"\bin \d+(\.\d+)? (ms|s)\b", "in SOME TIME"),
    (r"\s+", " "),  # where a line is wrapped depends on the above
)


def _commands() -> Iterator[tuple[str, str]]:
    """(command, its output) of every block; the output is empty where the README leaves it out."""
    for block in re.findall(r"^```console\n(.*?)^```", README, re.M | re.S):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def _plain(text: str) -> str:
    for pattern, word in VOLATILE:
        text = re.sub(pattern, word, text)
    return text.strip()


def test_every_command_runs_and_prints_what_is_written() -> None:
    commands = list(_commands())
    assert len(commands) > 15

    def prepare(root: Path) -> None:
        clone(root)
        shutil.copy(ROOT / "README.md", root / "root/clone/README.md")
        # Whoever follows the README has no baseline yet; a slow test must not come to have one midway.
        drop_ins = root / "etc/ec2ssh-agent/agent.conf.d"
        drop_ins.mkdir(parents=True)
        (drop_ins / "50-test.conf").write_text("[repair]\nbaseline_after = 1h\n")

    with boot(agent=False, prepare=prepare) as made:
        for command, output in commands:
            if command in ELSEWHERE:
                continue
            end = time.monotonic() + 60
            while True:
                done = made.run(f"cd /root/clone && {command}", check=False, deadline=300)
                print(f"$ {command}\n{done.out}{done.err}[{done.code}]")
                assert done.code in (0, 1, 2, 3) and "Traceback" not in done.err, command
                if not output or _plain(done.out) == _plain(output):
                    break
                # What the daemon does meanwhile takes a moment: only a look may be repeated.
                assert time.monotonic() < end, f"{command} prints:\n{done.out}"
                assert "status" in command or "--list" in command, f"{command} prints:\n{done.out}"
                time.sleep(0.5)
        assert made.client.ssh().ok


def test_every_link_leads_somewhere() -> None:
    headings = {
        re.sub(r"[^a-z-]", "", line.lower().replace(" ", "-")) for line in re.findall(r"^## (.*)$", README, re.M)
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings, target
        else:
            assert (ROOT / target).exists(), target
