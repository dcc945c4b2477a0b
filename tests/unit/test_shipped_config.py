"""The agent.conf that the packages ship documents every key, with its default."""

from __future__ import annotations

import re
from pathlib import Path

from ec2ssh_agent.config import KEYS, Config, parse

SHIPPED = Path(__file__).resolve().parents[2] / "packaging" / "agent.conf"


def test_as_it_is_it_changes_nothing() -> None:
    assert list(parse(SHIPPED.read_text(), "agent.conf")) == []


def test_with_every_key_uncommented_it_says_the_defaults() -> None:
    text = re.sub(r"^#(\w+ =)", r"\1", SHIPPED.read_text(), flags=re.M)
    values = {name: value for name, value, _ in parse(text, "agent.conf")}
    assert set(values) == set(KEYS)
    defaults = Config()
    assert values == {name: getattr(defaults, name) for name in KEYS}


def test_every_key_has_a_comment_above_it() -> None:
    lines = SHIPPED.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"#\w+ =", line):
            assert lines[number - 1].startswith("#"), line
