"""Rings: a stream of slots from one writer to every reader, without a copy and with backpressure."""

from __future__ import annotations

import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

from openwafer.base import PAGE_BYTES, InputError, RoleLost, StallError, format_bytes, round_up
from openwafer.wire._channel import CAUSE_S, Deadline, Receiver, Route, Sender, Waiter, flush_all, lost, take
from openwafer.wire._errors import PeerGone
from openwafer.wire._link import decode, encode
from openwafer.wire._segment import Segment

# What precedes the token in a frame: ticket, slot (-1: none), bytes.
_HEADER = struct.Struct("<QqQ")
_TICKET = struct.Struct("<Q")
_NO_SLOT = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class RingShape:
    """A ring of `slots` slots of `slot_bytes`, each slot starting on a page."""

    name: str
    slots: int
    slot_bytes: int
    writer: str
    readers: tuple[str, ...]

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
        if segment is None or slot == _NO_SLOT:
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
        self._forward = forward
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
        return self._send(_NO_SLOT, nbytes, token, timeout_s)

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
        for reader in sorted(self._left):
            raise self._lost(reader)
        ticket = self._next_ticket
        route = Route(label=self.shape.label, source=self.shape.writer, target=", ".join(self.shape.readers))
        frame = _HEADER.pack(ticket, slot, nbytes) + encode(token, route)
        self._in_flight[ticket] = _InFlight(slot, set(self.shape.readers))
        self._next_ticket += 1
        self._moved_bytes += nbytes
        if slot != _NO_SLOT:
            del self._acquired[0]
        for sender in self._forward.values():
            sender.push(frame)
        flush_all(self._forward.values(), self._waiter, deadline)
        return ticket

    def _await_slot(self, deadline: Deadline) -> int:
        # An interrupted commit may have left frames that no reader has seen yet.
        flush_all(self._forward.values(), self._waiter, deadline)
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
        flush_all(self._forward.values(), self._waiter, deadline)
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
                    ticket = _TICKET.unpack(frame)[0]
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
        return lost(self._forward[reader].route, by=self.shape.writer)


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
        ticket, slot, nbytes = _HEADER.unpack_from(frame)
        token = decode(memoryview(frame)[_HEADER.size :], type, self._receiver.route)
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
            self._back.push(_TICKET.pack(ticket))
            with suppress(RoleLost):
                flush_all((self._back,), self._waiter, Deadline(None))
