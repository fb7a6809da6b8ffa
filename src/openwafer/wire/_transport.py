"""The interface of a transport, and the bookkeeping that all transports share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from openwafer.base import InputError
from openwafer.wire._channel import Receiver, Route, Sender, Waiter
from openwafer.wire._endpoints import Endpoints, ReaderParts, WriterParts
from openwafer.wire._ring import RingShape
from openwafer.wire._segment import Segment


def check_shape(shape: RingShape) -> None:
    """Raises InputError for a ring that makes no sense."""
    if shape.slots < 0 or shape.slot_bytes < (1 if shape.slots else 0):
        raise InputError(
            f"{shape.label} was asked for with {shape.slots} slots of {shape.slot_bytes} bytes; "
            "give each slot at least one byte, or 0 slots for references only"
        )
    if not shape.readers or len(set(shape.readers)) < len(shape.readers):
        raise InputError(
            f"{shape.label} needs at least one reader and each only once, not {list(shape.readers)}"
        )


class Transport(ABC):
    """Makes segments, links and rings by name before the roles start; owned by the coordinator.

    Declare everything, hand `endpoints(role)` to each role, start the roles, call `started()`.
    It is a context manager: leaving it calls `close()`, after `abort()` if by an exception.
    """

    def __init__(self) -> None:
        self._bundles: dict[str, Endpoints] = {}
        self._segments: list[Segment] = []
        self._declared: set[tuple[str, ...]] = set()
        self._closed = False

    def segment(self, name: str, nbytes: int, roles: Sequence[str]) -> None:
        """Make a zeroed, page-aligned buffer that all of `roles` may read and write.

        Raises InputError for a name in use, StorageError if that much memory is not there.
        """
        bundles = self._parties(roles)
        with self._claim("segment", name):
            segment = self._keep(self._new_segment(name, nbytes))
        for bundle in bundles:
            bundle._segments[name] = segment

    def link(self, name: str, source: str, target: str) -> None:
        """Make a one-way stream of messages. Links of one name may run between other roles.

        Raises InputError if this link exists, StorageError if no more files may be opened.
        """
        source_end, target_end = self._parties((source, target))
        with self._claim("link", name, source, target):
            sender, receiver = self._new_channel(Route(label=f"link {name!r}", source=source, target=target))
        source_end._senders[name, target] = sender
        target_end._receivers[name, source] = receiver

    def ring(self, name: str, *, slots: int, slot_bytes: int, writer: str, readers: Sequence[str]) -> None:
        """Make a ring of `slots` page-aligned slots from one writer to all readers.

        slots=0 makes a ring that carries references only. Rings of one name may have other
        writers. Raises InputError for a ring that exists or makes no sense, StorageError if the
        memory is not there.
        """
        shape = RingShape(
            name=name, slots=slots, slot_bytes=slot_bytes, writer=writer, readers=tuple(readers)
        )
        check_shape(shape)
        write_end, *read_ends = self._parties((writer, *readers))
        with self._claim("ring", name, writer):
            segment = (
                self._keep(self._new_segment(shape.label, slots * shape.stride_bytes)) if slots else None
            )
            forward = {
                reader: self._new_channel(Route(label=shape.label, source=writer, target=reader))
                for reader in readers
            }
            back = {
                reader: self._new_channel(
                    Route(label=f"{shape.label} (releases)", source=reader, target=writer)
                )
                for reader in readers
            }
        write_end._writer_parts[name, writer] = WriterParts(
            shape,
            segment,
            {reader: forward[reader][0] for reader in readers},
            {reader: back[reader][1] for reader in readers},
        )
        for reader, read_end in zip(readers, read_ends, strict=True):
            read_end._reader_parts[name, writer] = ReaderParts(
                shape, segment, forward[reader][1], back[reader][0]
            )

    def endpoints(self, role: str) -> Endpoints:
        """What `role` may use. Raises InputError if nothing was declared for it."""
        if role not in self._bundles:
            raise InputError(
                f"the transport knows no role {role!r}, only {', '.join(self._bundles) or 'none yet'}; "
                "declare its segments, links and rings first"
            )
        return self._bundles[role]

    @abstractmethod
    def started(self) -> None:
        """Say that all roles run; from now on a role's end is noticed by its peers."""

    def abort(self, reason: str) -> None:
        """Make every blocked and every later call of every role raise Aborted(reason).

        Any thread may call it; the first reason stays. Messages on the way are not delivered.
        """
        self._throw(reason or "no reason was given")

    def close(self) -> None:
        """Free everything; roles that still run get Aborted. A second call does nothing.

        Call it after the roles have ended: memory that one of them still maps goes when it does.
        """
        if not self._closed:
            self._closed = True
            self._throw("the transport was closed")
            self._free()

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            self.abort(f"the coordinator failed: {kind.__name__}: {error}")
        self.close()

    def _free(self) -> None:
        for bundle in self._bundles.values():
            bundle.close()
        for segment in self._segments:
            segment.close()

    def _parties(self, roles: Sequence[str]) -> list[Endpoints]:
        if self._closed:
            raise InputError("the transport was closed; make a new one")
        for role in roles:
            if role in self._bundles and self._bundles[role].travelled:
                raise InputError(
                    f"the endpoints of {role} went to its process; declare everything before it starts"
                )
        return [self._bundles.setdefault(role, Endpoints(role, self._waiter(role))) for role in roles]

    @contextmanager
    def _claim(self, what: str, *names: str) -> Iterator[None]:
        """Take a name if the block succeeds; after an error the caller may try again, say smaller."""
        if (what, *names) in self._declared:
            raise InputError(f"{what} {' of '.join(map(repr, names))} exists already; give it another name")
        yield
        self._declared.add((what, *names))

    def _keep(self, segment: Segment) -> Segment:
        self._segments.append(segment)
        return segment

    @abstractmethod
    def _throw(self, reason: str) -> None: ...

    @abstractmethod
    def _waiter(self, role: str) -> Waiter: ...

    @abstractmethod
    def _new_segment(self, name: str, nbytes: int) -> Segment: ...

    @abstractmethod
    def _new_channel(self, route: Route) -> tuple[Sender, Receiver]: ...
