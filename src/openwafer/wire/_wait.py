"""Waiting for whichever message comes first."""

from __future__ import annotations

from collections.abc import Sequence

from openwafer.base import InputError, StallError
from openwafer.wire._channel import Deadline
from openwafer.wire._link import Inbox
from openwafer.wire._ring_reader import RingReader


def wait_any(
    sources: Sequence[Inbox | RingReader], timeout_s: float | None = None
) -> list[Inbox | RingReader]:
    """Wait until at least one of one role's inboxes and ring readers has a message; return those.

    One whose sender has gone counts as ready: its `receive` says so. Raises Aborted, and
    StallError after `timeout_s` seconds (None: never).
    """
    if not sources:
        raise InputError("wait_any() was given nothing to wait for")
    deadline = Deadline(timeout_s)
    waiter = sources[0]._waiter
    waiter.check()
    while True:
        ready = [source for source in sources if source._receiver.ready()]
        if ready:
            return ready
        if deadline.expired():
            routes = [source._receiver.route for source in sources]
            waited_for = ", ".join(f"{route.source} on {route.label}" for route in routes)
            raise StallError(
                f"{routes[0].target} waited {deadline.waited_s:.1f} s, and nothing came from {waited_for}; "
                "see what these roles are doing, or allow more time"
            )
        waiter.wait([source._receiver for source in sources], (), deadline.remaining_s())
