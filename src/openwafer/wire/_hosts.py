"""The transport between hosts: on each host pipes and shared memory, and a hub that knows the other hosts."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence

from openwafer.base import InputError
from openwafer.wire._channel import Receiver, Route, Sender
from openwafer.wire._endpoints import Endpoints, ReaderParts, WriterParts
from openwafer.wire._hub import Hub, Incoming, Outgoing
from openwafer.wire._mover import Mover
from openwafer.wire._pipe import PipeReceiver, PipeSender, open_pipe
from openwafer.wire._ring import RingShape
from openwafer.wire._segment import Segment
from openwafer.wire._shared import SharedTransport
from openwafer.wire._transport import check_shape


class HostsTransport(SharedTransport):
    """Connects the roles of this host, processes or threads, with each other and with those of other hosts.

    Every host makes one, declares the same links and rings in the same order, and connects it with each host that it
    shares one with; `endpoints` are those of its own roles. Roles of one host share memory as ever, and a slot that
    several of them read travels to them once. A host whose connection ends, or of which nothing is heard for 10 s,
    is RoleLost for everyone who waits for one of its roles. An abort anywhere is one everywhere.

    What a link holds unread is not limited. A reference tells a reader on another host nothing, so that a writer
    with readers there (`RingShape.far`) puts bytes into slots.
    """

    def __init__(self, here: str, placement: Mapping[str, str]) -> None:
        """here: the name of this host. placement: the host of every role."""
        super().__init__()
        self.here = here
        self.lost: dict[str, str] = {}
        """Hosts that were lost, and why."""
        self.partners: set[str] = set()
        """Hosts that share a link or a ring with this one, and so need to be connected."""
        self._placement = dict(placement)
        self._channels = 0
        self._hub = Hub(aborted=self._aborted_elsewhere, lost=self._note_loss)

    def connect(self, host: str, control: socket.socket, mover: Mover) -> None:
        """Take over the connections to another host; declare what both share first, on both."""
        self._hub.add_peer(host, control, mover)

    def drop(self, host: str, why: str) -> None:
        """Treat a host as lost; for whoever learns of it in another way."""
        self._hub.drop(host, why)

    def leave(self, reason: str) -> None:
        """Abort for the roles of this host alone: to the others this host is lost."""
        self._hub.fall_silent()
        self.abort(reason)

    def check(self) -> None:
        """Raise Aborted if the transport was aborted, here or elsewhere."""
        self._shared_waiter.check()

    def segment(self, name: str, nbytes: int, roles: Sequence[str]) -> None:
        """As Transport.segment; all roles must be on one host, and on the others nothing is made."""
        hosts = {self._host_of(role) for role in roles}
        if len(hosts) > 1:
            raise InputError(
                f"segment {name!r} cannot be shared by roles on {', '.join(sorted(hosts))}; memory belongs to one host, so "
                "give roles elsewhere a ring"
            )
        if hosts == {self.here}:
            super().segment(name, nbytes, roles)

    def link(self, name: str, source: str, target: str) -> None:
        channel = self._next_channel()
        here = [self._host_of(source) == self.here, self._host_of(target) == self.here]
        if all(here):
            super().link(name, source, target)
            return
        with self._claim("link", name, source, target):
            route = Route(label=f"link {name!r}", source=source, target=target)
            if here[0]:
                (bundle,) = self._parties((source,))
                bundle._senders[name, target] = self._outgoing(route, self._host_of(target), channel)
            elif here[1]:
                (bundle,) = self._parties((target,))
                bundle._receivers[name, source] = self._incoming(route, self._host_of(source), channel)

    def ring(self, name: str, *, slots: int, slot_bytes: int, writer: str, readers: Sequence[str]) -> None:
        home = self._host_of(writer)
        far = tuple(reader for reader in readers if self._host_of(reader) != home)
        forward_channel, *back_channels = (self._next_channel() for _ in range(1 + len(readers)))
        if not far:
            if home == self.here:
                super().ring(name, slots=slots, slot_bytes=slot_bytes, writer=writer, readers=readers)
            return
        shape = RingShape(
            name=name, slots=slots, slot_bytes=slot_bytes, writer=writer, readers=tuple(readers), far=far
        )
        check_shape(shape)
        near = [reader for reader in readers if self._host_of(reader) == self.here]
        if home != self.here and not near:
            return
        with self._claim("ring", name, writer):
            back = dict(zip(readers, back_channels, strict=True))
            segment = (
                self._keep(self._new_segment(shape.label, slots * shape.stride_bytes)) if slots else None
            )
            if home == self.here:
                self._write_ring(shape, segment, forward_channel, back)
            else:
                self._read_ring(shape, segment, forward_channel, {reader: back[reader] for reader in near})

    def _write_ring(
        self, shape: RingShape, segment: Segment | None, channel: int, back_channels: Mapping[str, int]
    ) -> None:
        write_end, *_ = self._parties((shape.writer,))
        forward: dict[str, Sender] = {}
        back: dict[str, Receiver] = {}
        shared: dict[str, Sender] = {}
        for reader in shape.readers:
            host = self._host_of(reader)
            route = _forward(shape, reader)
            if host == self.here:
                (read_end,) = self._parties((reader,))
                forward[reader], receiver = self._new_channel(route)
                sender, back[reader] = self._new_channel(_back(shape, reader))
                read_end._reader_parts[shape.name, shape.writer] = ReaderParts(
                    shape, segment, receiver, sender
                )
                continue
            if host not in shared:
                there = ", ".join(other for other in shape.readers if self._host_of(other) == host)
                shared[host] = self._outgoing(_forward(shape, there), host, channel, shape, segment)
            forward[reader] = shared[host]
            back[reader] = self._incoming(_back(shape, reader), host, back_channels[reader])
        write_end._writer_parts[shape.name, shape.writer] = WriterParts(shape, segment, forward, back)

    def _read_ring(
        self, shape: RingShape, segment: Segment | None, channel: int, back_channels: Mapping[str, int]
    ) -> None:
        home = self._host_of(shape.writer)
        senders: list[PipeSender] = []
        for reader, back_channel in back_channels.items():
            (read_end,) = self._parties((reader,))
            sender, receiver = open_pipe(_forward(shape, reader))
            senders.append(sender)
            back = self._outgoing(_back(shape, reader), home, back_channel)
            read_end._reader_parts[shape.name, shape.writer] = ReaderParts(shape, segment, receiver, back)
        self._hub.add_incoming(Incoming(home, channel, senders, shape, segment))

    def endpoints(self, role: str) -> Endpoints:
        """What a role of this host may use. Raises InputError for a role of another, or if nothing was declared."""
        host = self._host_of(role)
        if host != self.here:
            raise InputError(f"{role} runs on {host}, and this is {self.here}; its endpoints are there")
        return super().endpoints(role)

    def _outgoing(
        self,
        route: Route,
        host: str,
        channel: int,
        shape: RingShape | None = None,
        segment: Segment | None = None,
    ) -> PipeSender:
        self.partners.add(host)
        sender, receiver = open_pipe(route)
        self._hub.add_outgoing(Outgoing(host, channel, receiver, shape, segment))
        return sender

    def _incoming(self, route: Route, host: str, channel: int) -> PipeReceiver:
        self.partners.add(host)
        sender, receiver = open_pipe(route)
        self._hub.add_incoming(Incoming(host, channel, [sender]))
        return receiver

    def _next_channel(self) -> int:
        """Every host counts alike, also what is not its own, so that both ends mean the same by a number."""
        self._channels += 1
        return self._channels

    def _host_of(self, role: str) -> str:
        if role not in self._placement:
            raise InputError(
                f"the transport knows no role {role!r}, only {', '.join(self._placement) or 'none yet'}; say on which host "
                "it runs when you make the transport"
            )
        return self._placement[role]

    def _throw(self, reason: str) -> None:
        super()._throw(reason)
        self._hub.abort(reason)

    def _note_loss(self, host: str, why: str) -> None:
        self.lost[host] = why

    def _aborted_elsewhere(self, reason: str) -> None:
        super()._throw(reason)

    def _free(self) -> None:
        self._hub.close()
        super()._free()


def _forward(shape: RingShape, readers: str) -> Route:
    return Route(label=shape.label, source=shape.writer, target=readers)


def _back(shape: RingShape, reader: str) -> Route:
    return Route(label=f"{shape.label} (releases)", source=reader, target=shape.writer)
