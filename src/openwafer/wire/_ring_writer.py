"""The writing end of a ring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from openwafer.base import InputError, RoleLost, StallError, format_bytes
from openwafer.wire._channel import CAUSE_S, Deadline, Receiver, Route, Sender, Waiter, flush_all, lost
from openwafer.wire._errors import PeerGone
from openwafer.wire._link import encode
from openwafer.wire._ring import HEADER, NO_SLOT, TICKET, RingShape, RingStats
from openwafer.wire._segment import Segment


@dataclass(slots=True)
class _InFlight:
    slot: int
    holders: set[str]


class RingWriter:
    """The writing end of a ring, for one thread at a time.

    A slot goes from free to acquired (`acquire`), to in flight (`commit`), and is free again when
    every reader released it. Its bytes are never handed out while a reader holds them.
    """

    def __init__(
        self,
        shape: RingShape,
        segment: Segment | None,
        forward: Mapping[str, Sender],
        back: Mapping[str, Receiver],
        waiter: Waiter,
    ) -> None:
        self.shape = shape
        self._segment = segment
        # Readers of one other host share a sender.
        self._forward = tuple(dict.fromkeys(forward.values()))
        self._back = back
        self._waiter = waiter
        self._acquired: list[int] = []
        self._in_flight: dict[int, _InFlight] = {}
        self._left: set[str] = set()  # readers that closed their endpoints or died
        self._next_ticket = 0
        self._moved_bytes = 0
        self._wait_s = 0.0
        self._release_wait_s = 0.0

    @property
    def stats(self) -> RingStats:
        """Messages, bytes and waiting seconds so far."""
        return RingStats(
            messages=self._next_ticket,
            moved_bytes=self._moved_bytes,
            wait_s=self._wait_s,
            release_wait_s=self._release_wait_s,
        )

    def acquire(self, timeout_s: float | None = None) -> memoryview:
        """Wait for a free slot and return its `slot_bytes` writable bytes, page-aligned.

        The bytes are those of an earlier message, or zero. Several slots may be acquired before
        the first commit; commits take them in the order of their acquisition.

        Raises Aborted, RoleLost if a reader has gone, StallError after `timeout_s` seconds
        (None: never; 0: only look), InputError if all slots are acquired and none committed.
        """
        if len(self._acquired) >= self.shape.slots:
            raise InputError(
                f"{self.shape.writer} acquired all {self.shape.slots} slots of {self.shape.label} and "
                "committed none of them; commit one first, or give the ring more slots"
            )
        deadline = Deadline(timeout_s)
        try:
            slot = self._await_slot(deadline)
        finally:
            self._wait_s += deadline.waited_s
        view = self.shape.view(self._segment, slot, self.shape.slot_bytes)
        self._acquired += (slot,)  # no call from here to the return: Ctrl-C cannot lose a slot
        return view

    def commit(self, token: object, nbytes: int | None = None, timeout_s: float | None = None) -> int:
        """Make the oldest acquired slot visible to every reader, with a token; return its ticket.

        token: anything that msgpack carries. nbytes: how much of the slot is filled (None: all);
        readers see that much. Tickets count the messages of the ring from 0.

        Blocks only while a reader has 64 KiB of tokens unread. Raises InputError if no slot is
        acquired or `nbytes` exceeds it, Aborted, RoleLost if a reader has gone, StallError. After
        a StallError the message is in flight, and goes out with the next one.
        """
        if not self._acquired:
            raise InputError(
                f"{self.shape.writer} has no acquired slot of {self.shape.label} to commit; "
                "call acquire() first"
            )
        filled = self.shape.slot_bytes if nbytes is None else nbytes
        if not 0 <= filled <= self.shape.slot_bytes:
            raise InputError(
                f"{self.shape.writer} committed {filled} bytes of a slot of {self.shape.label}, "
                f"which holds {self.shape.slot_bytes}; make the slots larger or split the tensor"
            )
        return self._send(self._acquired[0], filled, token, timeout_s)

    def commit_reference(self, token: object, nbytes: int = 0, timeout_s: float | None = None) -> int:
        """Send a token without a slot, in the same order as the slots; return its ticket.

        The token says where the tensor lies, for example in which segment at what offset.
        Every reader releases it like a slot, so `wait_released(ticket)` tells when those bytes may
        change. `nbytes` only counts in the statistics. Raises as `commit`.
        """
        return self._send(NO_SLOT, nbytes, token, timeout_s)

    def wait_released(self, ticket: int, timeout_s: float | None = None) -> None:
        """Wait until every reader released the message.

        Raises InputError for a ticket that was not given out, Aborted, RoleLost if a reader went
        away holding it, StallError after `timeout_s` seconds (None: never; 0: only look).
        """
        if not 0 <= ticket < self._next_ticket:
            raise InputError(
                f"{self.shape.label} has given out tickets 0 to {self._next_ticket - 1}, not {ticket}; "
                "pass what commit() returned"
            )
        deadline = Deadline(timeout_s)
        try:
            self._await_release(ticket, deadline)
        finally:
            self._release_wait_s += deadline.waited_s

    def drain(self, timeout_s: float | None = None) -> None:
        """Wait until every reader released every message. Raises as `wait_released`."""
        deadline = Deadline(timeout_s)
        for ticket in list(self._in_flight):
            self.wait_released(ticket, deadline.remaining_s())

    def _send(self, slot: int, nbytes: int, token: object, timeout_s: float | None) -> int:
        deadline = Deadline(timeout_s)
        self._waiter.check()
        # References never wait for a slot: without this, releases that nobody reads would fill the readers' pipes.
        self._collect()
        for reader in sorted(self._left):
            raise self._lost(reader)
        ticket = self._next_ticket
        route = Route(label=self.shape.label, source=self.shape.writer, target=", ".join(self.shape.readers))
        frame = HEADER.pack(ticket, slot, nbytes) + encode(token, route)
        self._in_flight[ticket] = _InFlight(slot, set(self.shape.readers))
        self._next_ticket += 1
        self._moved_bytes += nbytes
        if slot != NO_SLOT:
            del self._acquired[0]
        for sender in self._forward:
            sender.push(frame)
        flush_all(self._forward, self._waiter, deadline)
        return ticket

    def _await_slot(self, deadline: Deadline) -> int:
        # An interrupted commit may have left frames that no reader has seen yet.
        flush_all(self._forward, self._waiter, deadline)
        while True:
            self._collect()
            for reader in sorted(self._left):
                raise self._lost(reader)
            slot = self._free_slot()
            if slot is not None:
                return slot
            sizes = f"{self.shape.slots} slots of {format_bytes(self.shape.slot_bytes)}"
            self._sleep(deadline, set(self.shape.readers), f"free one of its {sizes}")

    def _await_release(self, ticket: int, deadline: Deadline) -> None:
        flush_all(self._forward, self._waiter, deadline)
        while True:
            self._collect()
            message = self._in_flight.get(ticket)
            if message is None:
                return
            for reader in sorted(message.holders & self._left):
                raise self._lost(reader)
            self._sleep(deadline, message.holders, f"release message {ticket}")

    def _free_slot(self) -> int | None:
        taken = {message.slot for message in self._in_flight.values()}.union(self._acquired)
        return next((slot for slot in range(self.shape.slots) if slot not in taken), None)

    def _collect(self) -> None:
        """Note the releases that have arrived; may be repeated after an interruption."""
        for reader, receiver in self._back.items():
            try:
                while reader not in self._left and (frame := receiver.peek()) is not None:
                    ticket = TICKET.unpack(frame)[0]
                    message = self._in_flight.get(ticket)
                    if message is not None:
                        message.holders.discard(reader)
                        if not message.holders:
                            del self._in_flight[ticket]
                    receiver.drop()
            except PeerGone:
                self._left.add(reader)

    def _sleep(self, deadline: Deadline, readers: set[str], purpose: str) -> None:
        """Wait for a release. Raises Aborted, StallError."""
        if deadline.expired():
            held = [f"{name} ({self._held(name)} held)" for name in self.shape.readers if name in readers]
            raise StallError(
                f"{self.shape.writer} waited {deadline.waited_s:.1f} s for {self.shape.label} to {purpose}; "
                f"readers: {', '.join(held)}; see what they are doing, or allow more time"
            )
        present = [receiver for reader, receiver in self._back.items() if reader not in self._left]
        self._waiter.wait(present, (), deadline.remaining_s())

    def _held(self, reader: str) -> int:
        return sum(reader in message.holders for message in self._in_flight.values())

    def _lost(self, reader: str) -> RoleLost:
        self._waiter.check(CAUSE_S)
        route = Route(label=self.shape.label, source=self.shape.writer, target=reader)
        return lost(route, by=self.shape.writer)
