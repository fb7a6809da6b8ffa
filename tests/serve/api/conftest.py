"""One server for tests that change nothing of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scripted import Server, serving  # type: ignore[import-not-found]


@pytest.fixture(scope="module")
def plain() -> Iterator[Server]:
    """A server whose engine says "Hello."."""
    with serving() as server:
        yield server
