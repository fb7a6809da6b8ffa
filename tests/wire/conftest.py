"""The same tests over threads and queues, and over pipes and shared memory."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from openwafer.wire import LocalTransport, SharedTransport, Transport


@pytest.fixture(params=[LocalTransport, SharedTransport])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    """An empty transport of each kind; its roles are threads of the test."""
    with request.param() as transport:
        yield transport
