"""The templates for images, cloud-init and Systems Manager: their own tools take them, their commands exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ec2ssh_agent.cli import parser
from test_lint_tools import ROOT, run

PACKAGING = ROOT / "packaging"


def test_packer_validates_the_template() -> None:
    template = PACKAGING / "ami" / "packer.pkr.hcl"
    # No request for a newer version, no file but the template.
    environment = {**os.environ, "CHECKPOINT_DISABLE": "1", "PACKER_NO_COLOR": "1"}
    done = subprocess.run(
        ["packer", "validate", str(template)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout


def _scripts() -> Iterator[tuple[str, str]]:
    """(where, shell script) of everything that a template runs on an instance."""
    for file in sorted((PACKAGING / "ssm").glob("*.json")):
        for step in json.loads(file.read_text())["mainSteps"]:
            yield file.name, "\n".join(step["inputs"]["runCommand"])
    component = yaml.safe_load((PACKAGING / "ami" / "component.yaml").read_text())
    for phase in component["phases"]:
        for step in phase["steps"]:
            yield f"component.yaml: {step['name']}", "\n".join(step["inputs"]["commands"])


def test_every_script_passes_shellcheck(tmp_path: Path) -> None:
    for where, script in _scripts():
        # {{ Parameter }} becomes a word, as Systems Manager and Image Builder do it.
        text = re.sub(r"\{\{ *(\w+) *\}\}", r"parameter-\1", script)
        path = tmp_path / re.sub(r"\W", "-", where)
        path.write_text(f"#!/bin/sh\n{text}\n")
        # SC2050, SC2194: a constant where the parameter stood.
        run("shellcheck", "-e", "SC2050,SC2194", path)


def test_every_command_of_the_agent_is_one() -> None:
    texts = [script for _, script in _scripts()] + [(PACKAGING / "ami" / "packer.pkr.hcl").read_text()]
    pattern = r"ec2ssh-agent ((?:check|repair|explain|config|prep)[a-z -]*)"
    found = [words for text in texts for words in re.findall(pattern, text)]
    assert len(found) > 6
    for words in found:
        line = words.split()
        parser().parse_args([*line, "timeout"] if line == ["explain"] else line)


def test_parameters_are_those_that_are_declared() -> None:
    for file in sorted((PACKAGING / "ssm").glob("*.json")):
        document: dict[str, Any] = json.loads(file.read_text())
        used = set(re.findall(r"\{\{ *(\w+) *\}\}", json.dumps(document["mainSteps"])))
        assert document["schemaVersion"] == "2.2"
        assert used == set(document["parameters"]), file.name
