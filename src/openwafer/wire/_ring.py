"""Rings: a stream of slots from one writer to every reader, without a copy and with backpressure.

Tokens go forward on one channel to each reader, releases come back on another. Here is what
both ends agree on.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any, NamedTuple

from openwafer.base import PAGE_BYTES, round_up
from openwafer.wire._segment import Segment

# What precedes the token in a frame: ticket, slot (-1: none), bytes.
HEADER = struct.Struct("<QqQ")
TICKET = struct.Struct("<Q")
NO_SLOT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class RingShape:
    """A ring of `slots` slots of `slot_bytes`, each slot starting on a page."""

    name: str
    slots: int
    slot_bytes: int
    writer: str
    readers: tuple[str, ...]
    far: tuple[str, ...] = ()
    """Readers on other hosts than the writer: to them bytes travel in slots only, since a reference says nothing there."""

    @property
    def stride_bytes(self) -> int:
        """From the start of one slot to the start of the next."""
        return round_up(self.slot_bytes, PAGE_BYTES)

    @property
    def label(self) -> str:
        """The ring as errors name it."""
        return f"ring {self.name!r}"

    def view(self, segment: Segment | None, slot: int, nbytes: int) -> memoryview:
        """The first `nbytes` of a slot."""
        if segment is None or slot == NO_SLOT:
            return memoryview(b"")
        start = slot * self.stride_bytes
        return segment.buffer[start : start + nbytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class RingStats:
    """What one end of a ring did so far.

    `moved_bytes` counts each message once, also references whose bytes were told, and does not
    multiply by readers. `wait_s` is the time spent in `acquire` (writer) or `receive` (reader),
    `release_wait_s` that in the writer's `wait_released` and `drain`.
    """

    messages: int
    moved_bytes: int
    wait_s: float
    release_wait_s: float = 0.0


class RingMessage(NamedTuple):
    """What a reader received. `data` is empty for a reference; `ticket` goes back to `release`."""

    token: Any
    data: memoryview
    ticket: int
