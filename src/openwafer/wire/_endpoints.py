"""What one role may use of a transport."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from openwafer.base import InputError
from openwafer.wire._channel import Receiver, Sender, Waiter
from openwafer.wire._link import Inbox, Outbox
from openwafer.wire._ring import RingShape
from openwafer.wire._ring_reader import RingReader
from openwafer.wire._ring_writer import RingWriter
from openwafer.wire._segment import Segment

End = TypeVar("End")


@dataclass(frozen=True, slots=True)
class WriterParts:
    """Of what a RingWriter is made where its role runs."""

    shape: RingShape
    segment: Segment | None
    forward: dict[str, Sender] = field(default_factory=dict)
    back: dict[str, Receiver] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReaderParts:
    """Of what a RingReader is made where its role runs."""

    shape: RingShape
    segment: Segment | None
    forward: Receiver
    back: Sender


class Endpoints:
    """The ends of links, rings and segments that belong to `role`, by name.

    Pass it to the role's thread or, from a SharedTransport, to its spawned Process. Use it as a
    context manager there: leaving the block closes the ends, which peers see as RoleLost.
    The same object comes back for the same name. Two links of one name are told apart by
    their peer: `outbox("commands", target="system0")`.
    """

    def __init__(self, role: str, waiter: Waiter) -> None:
        """Made by a transport, which then adds the parts."""
        self.role = role
        self.travelled = False  # pickled for a child: this copy only waits to be closed
        self._waiter = waiter
        self._segments: dict[str, Segment] = {}
        # Each keyed by name and peer.
        self._senders: dict[tuple[str, str], Sender] = {}
        self._receivers: dict[tuple[str, str], Receiver] = {}
        self._writer_parts: dict[tuple[str, str], WriterParts] = {}
        self._reader_parts: dict[tuple[str, str], ReaderParts] = {}
        self._prepare()

    def _prepare(self) -> None:
        self._closed = False
        self._lock = threading.Lock()
        self._made: dict[tuple[str, tuple[str, str]], Any] = {}

    def segment(self, name: str) -> Segment:
        """The segment of this name. Raises InputError if the role was not given it."""
        self._check_usable()
        if name not in self._segments:
            raise self._missing("segment", repr(name), map(repr, self._segments))
        return self._segments[name]

    def has_segment(self, name: str) -> bool:
        """Whether the role was given a segment of this name; one on another host than the segment was not."""
        return name in self._segments

    def inbox(self, name: str, source: str | None = None) -> Inbox:
        """The receiving end of a link. Raises InputError if the role has no such link."""
        key = self._choose(self._receivers, "inbox", name, source)
        return self._make("inbox", key, lambda: Inbox(self._receivers[key], self._waiter))

    def outbox(self, name: str, target: str | None = None) -> Outbox:
        """The sending end of a link. Raises InputError if the role has no such link."""
        key = self._choose(self._senders, "outbox", name, target)
        return self._make("outbox", key, lambda: Outbox(self._senders[key], self._waiter))

    def writer(self, name: str) -> RingWriter:
        """The writing end of a ring. Raises InputError if the role does not write one of this name."""
        key = self._choose(self._writer_parts, "ring to write", name, None)
        parts = self._writer_parts[key]
        return self._make(
            "writer",
            key,
            lambda: RingWriter(parts.shape, parts.segment, parts.forward, parts.back, self._waiter),
        )

    def reader(self, name: str, writer: str | None = None) -> RingReader:
        """A reading end of a ring. Raises InputError if the role does not read one of this name."""
        key = self._choose(self._reader_parts, "ring to read", name, writer)
        parts = self._reader_parts[key]
        return self._make(
            "reader",
            key,
            lambda: RingReader(parts.shape, parts.segment, parts.forward, parts.back, self._waiter),
        )

    def check(self) -> None:
        """Raise Aborted if the transport was aborted; for long work between two waiting calls."""
        self._waiter.check()

    def close(self) -> None:
        """Close every end: peers read what was sent, then get RoleLost. A second call does nothing."""
        self._closed = True
        for sender in self._senders.values():
            sender.close()
        for receiver in self._receivers.values():
            receiver.close()
        for writer in self._writer_parts.values():
            for forward in writer.forward.values():
                forward.close()
            for back in writer.back.values():
                back.close()
        for reader in self._reader_parts.values():
            reader.forward.close()
            reader.back.close()

    def __enter__(self) -> Endpoints:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        if self._closed or self._made:
            raise InputError(
                f"the endpoints of {self.role} are already in use in this process or closed, "
                "and a role runs in one place; pass them on untouched"
            )
        self._waiter.check_travel()
        self.travelled = True
        state = self.__dict__.copy()
        for local in ("travelled", "_closed", "_lock", "_made"):
            del state[local]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.travelled = False
        self._prepare()

    def _make(self, kind: str, key: tuple[str, str], new: Callable[[], End]) -> End:
        self._check_usable()
        with self._lock:
            if (kind, key) not in self._made:
                self._made[kind, key] = new()
            made: End = self._made[kind, key]
            return made

    def _check_usable(self) -> None:
        if self.travelled or self._closed:
            where = "went to a child process" if self.travelled else "were closed"
            raise InputError(f"the endpoints of {self.role} {where}; they cannot be used here any more")

    def _choose(
        self, table: dict[tuple[str, str], Any], what: str, name: str, peer: str | None
    ) -> tuple[str, str]:
        fitting = [key for key in table if key[0] == name and peer in (None, key[1])]
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            peers = ", ".join(key[1] for key in fitting)
            raise InputError(
                f"{self.role} has several of {what} {name!r}, with {peers}; name the one you mean"
            )
        wanted = repr(name) if peer is None else f"{name!r} ({peer})"
        raise self._missing(what, wanted, (f"{key[0]!r} ({key[1]})" for key in table))

    def _missing(self, what: str, wanted: str, has: Iterable[str]) -> InputError:
        return InputError(
            f"{self.role} has no {what} {wanted}; it has {', '.join(has) or 'none'}: "
            "declare it before the roles start"
        )
