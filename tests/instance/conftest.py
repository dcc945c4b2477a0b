"""Fixtures of the instance tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from harness import Instance, boot


@pytest.fixture
def instance() -> Iterator[Instance]:
    """Debian 12 with the package of this tree, whose daemon is not started at boot."""
    with boot(enabled=False) as made:
        yield made
