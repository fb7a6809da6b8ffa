"""The reading end of a ring."""

from __future__ import annotations

import threading
from contextlib import suppress
from typing import Any

from openwafer.base import InputError, RoleLost
from openwafer.wire._channel import Deadline, Receiver, Sender, Waiter, flush_all, take
from openwafer.wire._link import decode
from openwafer.wire._ring import HEADER, TICKET, RingMessage, RingShape, RingStats
from openwafer.wire._segment import Segment


class RingReader:
    """One reading end of a ring. One thread receives; any thread of the role may release."""

    def __init__(
        self, shape: RingShape, segment: Segment | None, forward: Receiver, back: Sender, waiter: Waiter
    ) -> None:
        self.shape = shape
        self._segment = segment
        self._receiver = forward
        self._back = back
        self._waiter = waiter
        self._held: dict[int, None] = {}  # in the order received
        self._lock = threading.Lock()
        self._messages = 0
        self._moved_bytes = 0
        self._wait_s = 0.0

    @property
    def stats(self) -> RingStats:
        """Messages, bytes and waiting seconds so far."""
        return RingStats(messages=self._messages, moved_bytes=self._moved_bytes, wait_s=self._wait_s)

    def receive(self, timeout_s: float | None = None, *, type: Any = Any) -> RingMessage:
        """Wait for the next message and return its token, its bytes and its ticket.

        The bytes are the slot itself, not a copy: they stay as they are until this reader
        releases the ticket, and must not be read or written after that. Other readers see
        what is written into them. `type` is what the token is decoded as.

        Raises Aborted, RoleLost when the writer has gone and all it sent was received, StallError
        after `timeout_s` seconds (None: never; 0: only look), RoleError if the token is no `type`.
        """
        deadline = Deadline(timeout_s)
        try:
            frame = take(self._receiver, self._waiter, deadline)
        finally:
            self._wait_s += deadline.waited_s
        ticket, slot, nbytes = HEADER.unpack_from(frame)
        token = decode(memoryview(frame)[HEADER.size :], type, self._receiver.route)
        message = RingMessage(token, self.shape.view(self._segment, slot, nbytes), ticket)
        with self._lock:
            self._held[ticket] = None
            self._messages += 1
            self._moved_bytes += nbytes
            self._receiver.drop()
        return message

    def poll(self) -> bool:
        """True if `receive` would return or raise RoleLost at once. Raises Aborted."""
        self._waiter.check()
        return self._receiver.ready()

    def release(self, ticket: int | None = None) -> None:
        """Give a message back: the one of `ticket`, or the oldest that is held. Any order will do.

        A writer that has gone is no error here, because it needs nothing back; the next `receive`
        says so. Raises InputError if the message is not held, Aborted.
        """
        with self._lock:
            if ticket is None:
                ticket = next(iter(self._held), None)
            if ticket is None or ticket not in self._held:
                raise InputError(
                    f"{self._back.route.source} released message {'' if ticket is None else ticket} of "
                    f"{self.shape.label}, which it does not hold; it holds {list(self._held) or 'none'}: "
                    "release each message once"
                )
            del self._held[ticket]
            self._back.push(TICKET.pack(ticket))
            with suppress(RoleLost):
                flush_all((self._back,), self._waiter, Deadline(None))
