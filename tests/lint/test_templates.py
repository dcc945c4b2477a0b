"""The templates for images, cloud-init and Systems Manager: their own tools take them, their commands exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from ec2ssh_agent.cli import parser
from test_lint_tools import ROOT, run

PACKAGING = ROOT / "packaging"

# The AWS Systems Manager User Guide, "SSM document schemas and features" (2.2) and "aws:runShellScript".
COMMAND_DOCUMENT = """
type: object
required: [schemaVersion, description, parameters, mainSteps]
additionalProperties: false
properties:
  schemaVersion: {const: "2.2"}
  description: {type: string, minLength: 1}
  parameters:
    type: object
    propertyNames: {pattern: "^[A-Za-z][A-Za-z0-9]*$"}
    additionalProperties:
      type: object
      required: [type, description]
      anyOf: [{required: [allowedValues]}, {required: [allowedPattern]}]  # or whoever calls it writes the script
      additionalProperties: false
      properties:
        type: {const: String}
        description: {type: string, minLength: 1}
        default: {type: string}
        allowedPattern: {type: string, format: regex}
        allowedValues: {type: array, items: {type: string}, minItems: 1, uniqueItems: true}
  mainSteps:
    type: array
    minItems: 1
    items:
      type: object
      required: [action, name, precondition, inputs]
      additionalProperties: false
      properties:
        action: {const: "aws:runShellScript"}
        name: {type: string, pattern: "^[A-Za-z0-9_]{1,128}$"}
        precondition: {const: {StringEquals: [platformType, Linux]}}
        inputs:
          type: object
          required: [timeoutSeconds, runCommand]
          additionalProperties: false
          properties:
            timeoutSeconds: {type: string, pattern: "^[1-9][0-9]*$"}
            runCommand: {type: array, items: {type: string}, minItems: 1}
"""

# The EC2 Image Builder User Guide, "Use the AWSTOE component document framework for custom components".
COMPONENT = """
type: object
required: [name, description, schemaVersion, phases]
additionalProperties: false
properties:
  name: {type: string, pattern: "^[A-Za-z0-9_-]{1,128}$"}
  description: {type: string}
  schemaVersion: {const: 1.0}
  parameters:
    type: array
    items:
      type: object
      minProperties: 1
      maxProperties: 1
      additionalProperties:
        type: object
        required: [type]
        additionalProperties: false
        properties: {type: {const: string}, default: {type: string}, description: {type: string}}
  phases:
    type: array
    minItems: 1
    items:
      type: object
      required: [name, steps]
      additionalProperties: false
      properties:
        name: {enum: [build, validate, test]}
        steps:
          type: array
          minItems: 1
          items:
            type: object
            required: [name, action, inputs]
            additionalProperties: false
            properties:
              name: {type: string}
              action: {const: ExecuteBash}
              inputs:
                type: object
                required: [commands]
                additionalProperties: false
                properties: {commands: {type: array, items: {type: string}, minItems: 1}}
"""


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


def _valid(document: dict[str, Any], schema: str) -> None:
    jsonschema.Draft7Validator(yaml.safe_load(schema), format_checker=jsonschema.FormatChecker()).validate(document)


def _used(document: object) -> set[str]:
    return set(re.findall(r"\{\{ *(\w+) *\}\}", json.dumps(document)))


def test_command_documents_are_what_systems_manager_takes() -> None:
    for file in sorted((PACKAGING / "ssm").glob("*.json")):
        document: dict[str, Any] = json.loads(file.read_text())
        _valid(document, COMMAND_DOCUMENT)
        assert _used(document["mainSteps"]) == set(document["parameters"]), file.name
        for name, parameter in document["parameters"].items():
            assert parameter.get("default") in (None, *parameter.get("allowedValues", ())), f"{file.name}: {name}"


def test_the_component_is_what_image_builder_takes() -> None:
    document: dict[str, Any] = yaml.safe_load((PACKAGING / "ami" / "component.yaml").read_text())
    _valid(document, COMPONENT)
    assert _used(document["phases"]) == {name for parameter in document["parameters"] for name in parameter}
