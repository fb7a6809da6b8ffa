"""The same tests over threads and queues, over pipes and shared memory, and between two hosts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from wire_hosts import TwoHosts

from openwafer.wire import LocalTransport, SharedTransport, Transport


@pytest.fixture(params=[LocalTransport, SharedTransport, TwoHosts])
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    """An empty transport of each kind; its roles are threads of the test."""
    with request.param() as transport:
        yield transport
