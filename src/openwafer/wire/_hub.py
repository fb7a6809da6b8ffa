"""The hub of a host: carries what roles here say to roles elsewhere, and the other way round.

Roles know nothing of it. They have pipes and segments, as between processes of one host; the other ends of those
pipes are here. One thread, the pump, moves frames between pipes and the control connections; two threads for each
other host move the bytes of slots. A slot of a ring has a mirror of the same number on every host that reads it: the
writer takes a slot only when all readers have released it, so that its mirrors are free whenever bytes arrive.
"""

from __future__ import annotations

import contextlib
import os
import queue
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from openwafer.base import InputError, RoleLost, logger
from openwafer.wire._errors import PeerGone
from openwafer.wire._mover import Mover
from openwafer.wire._pipe import PipeReceiver, PipeSender, open_descriptors
from openwafer.wire._ring import HEADER, NO_SLOT, RingShape
from openwafer.wire._segment import Segment

PING_S = 1.0
SILENCE_S = 10.0
"""A host of which nothing was heard for so long is lost: stopped, without power, or behind a cut cable."""
LAST_WORDS_S = 1.0
"""How long the end of a transport waits for another host to take the reason."""

# What precedes each message on a control connection: its length behind this header, its kind, its channel.
_HEAD = struct.Struct("<IBI")
_FRAME, _SOURCE_LEFT, _TARGET_LEFT, _ABORT, _PING, _BYE = range(6)
_READ_BYTES = 1 << 18
_FAILED = select.POLLERR | select.POLLHUP | select.POLLNVAL


@dataclass(slots=True, eq=False)
class Outgoing:
    """A channel whose source is a role of this host: `channel` and `host` are where it goes."""

    host: str
    channel: int
    receiver: PipeReceiver
    shape: RingShape | None = None
    """Of a ring's tokens: the bytes of their slots go along."""
    segment: Segment | None = None
    left: bool = False


@dataclass(slots=True, eq=False)
class Incoming:
    """A channel whose targets are roles of this host; a ring's tokens go to all its readers here."""

    host: str
    channel: int
    senders: Sequence[PipeSender]
    shape: RingShape | None = None
    segment: Segment | None = None
    gone: set[PipeSender] = field(default_factory=set)
    ended: bool = False


@dataclass(slots=True, eq=False)
class _Peer:
    """Another host."""

    host: str
    control: socket.socket
    mover: Mover
    unread: bytearray = field(default_factory=bytearray)
    unsent: bytearray = field(default_factory=bytearray)
    to_send: queue.SimpleQueue[memoryview | None] = field(default_factory=queue.SimpleQueue)
    to_receive: queue.SimpleQueue[Callable[[], None] | None] = field(default_factory=queue.SimpleQueue)
    threads: list[threading.Thread] = field(default_factory=list)
    heard: float = 0.0
    spoke: float = 0.0
    leaving: bool = False
    """It said that it is about to close."""
    lost: bool = False


class Hub:
    """See the module. Every public method may be called by any thread; the work is the pump's."""

    def __init__(self, aborted: Callable[[str], None], lost: Callable[[str, str], None]) -> None:
        """aborted: called with the reason when another host aborts. lost: called with (host, why) when one is lost."""
        self._aborted = aborted
        self._lost = lost
        self._log = logger("hub")
        self._calls: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._wake_read, self._wake_write = open_descriptors("the hub's bell")
        self._poller = select.poll()
        self._poller.register(self._wake_read.fileno(), select.POLLIN)
        self._ready: dict[int, Callable[[int], None]] = {}
        self._peers: dict[str, _Peer] = {}
        self._outgoing: dict[tuple[str, int], Outgoing] = {}
        self._incoming: dict[tuple[str, int], Incoming] = {}
        self._running = True
        self._closed = False
        self._silent = False
        self._thread = threading.Thread(target=self._pump, name="hub", daemon=True)
        self._thread.start()

    # --- what the transport asks for ------------------------------------------------------------------

    def add_peer(self, host: str, control: socket.socket, mover: Mover) -> None:
        """Take over the connections to another host."""
        self._call(lambda: self._add_peer(_Peer(host, control, mover)))

    def add_outgoing(self, channel: Outgoing) -> None:
        """Carry what this host's end of a channel reads."""
        self._call(lambda: self._add_outgoing(channel))

    def add_incoming(self, channel: Incoming) -> None:
        """Hand what comes on a channel to this host's roles."""
        self._call(lambda: self._add_incoming(channel))

    def abort(self, reason: str) -> None:
        """Tell all other hosts."""
        self._call(lambda: self._tell_abort(reason))

    def fall_silent(self) -> None:
        """Say no farewell from now on: other hosts are to see this one as lost."""
        self._silent = True

    def drop(self, host: str, why: str) -> None:
        """Treat a host as lost, because somebody else knows that it is."""
        self._call(lambda: self._lose(self._peers[host], why) if host in self._peers else None)

    def close(self) -> None:
        """Send what is still to be said, then end every connection and thread. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._call(self._stop)
        self._thread.join()
        for peer in self._peers.values():
            for thread in peer.threads:
                thread.join()
            peer.mover.close()
            peer.control.close()
        self._wake_read.close()
        self._wake_write.close()

    # --- the pump -------------------------------------------------------------------------------------

    def _call(self, work: Callable[[], None]) -> None:
        self._calls.put(work)
        # A full bell rings already; a closed one has nobody to wake.
        with contextlib.suppress(BlockingIOError, BrokenPipeError, InputError):
            os.write(self._wake_write.fileno(), b"!")

    def _pump(self) -> None:
        try:
            while self._running:
                polled = self._poller.poll(1000 * PING_S)
                # The bell first: who rings it from here on is heard in the next round.
                self._drain_bell()
                events = [(fd, event, self._ready[fd]) for fd, event in polled if fd in self._ready]
                self._do_calls()
                if not self._running:  # what the events are of is closed
                    return
                for fd, event, handle in events:
                    # Else it was closed meanwhile, and the number may be another's.
                    if self._ready.get(fd) is handle:
                        handle(event)
                self._keep_alive()
        except BaseException as error:
            self._log.error("the hub failed", exc_info=True)
            self._aborted(f"the hub of this host failed: {type(error).__name__}: {error}")
            for peer in self._peers.values():
                peer.lost = True
                self._cut(peer)

    def _do_calls(self) -> None:
        while True:
            try:
                work = self._calls.get_nowait()
            except queue.Empty:
                return
            work()

    def _drain_bell(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self._wake_read.fileno(), 65536)

    def _watch(self, fd: int, events: int, handle: Callable[[int], None]) -> None:
        self._ready[fd] = handle
        self._poller.register(fd, events)

    def _forget(self, fd: int) -> None:
        if self._ready.pop(fd, None) is not None:
            self._poller.unregister(fd)

    def _stop(self) -> None:
        end = time.monotonic() + LAST_WORDS_S
        for peer in self._peers.values():
            if not self._silent:
                self._say(peer.host, _BYE, 0)
            while peer.unsent and not peer.lost and time.monotonic() < end:
                time.sleep(0.01)
                self._flush(peer)
        for peer in self._peers.values():
            peer.lost = True
            self._cut(peer)
        for incoming in self._incoming.values():
            for sender in incoming.senders:
                sender.close()
        for outgoing in self._outgoing.values():
            outgoing.receiver.close()
        self._running = False

    # --- other hosts ----------------------------------------------------------------------------------

    def _add_peer(self, peer: _Peer) -> None:
        peer.control.setblocking(False)
        peer.heard = peer.spoke = time.monotonic()
        self._peers[peer.host] = peer
        self._watch(peer.control.fileno(), select.POLLIN, lambda event: self._talk(peer, event))
        for target, name in ((self._send_slots, "to"), (self._receive_slots, "from")):
            thread = threading.Thread(
                target=target, args=(peer,), name=f"slots {name} {peer.host}", daemon=True
            )
            peer.threads.append(thread)
            thread.start()
        for outgoing in self._outgoing.values():
            if outgoing.host == peer.host:
                self._watch_outgoing(outgoing)

    def _say(self, host: str, kind: int, channel: int, payload: bytes = b"") -> None:
        peer = self._peers.get(host)
        if peer is not None and not peer.lost:
            peer.unsent += _HEAD.pack(len(payload), kind, channel) + payload
            self._flush(peer)

    def _flush(self, peer: _Peer) -> None:
        try:
            while peer.unsent:
                del peer.unsent[: peer.control.send(peer.unsent)]
                peer.spoke = time.monotonic()
        except BlockingIOError:
            pass
        except OSError as error:
            self._lose(peer, f"the connection was cut ({error.strerror or error})")
            return
        wanted = select.POLLIN | (select.POLLOUT if peer.unsent else 0)
        self._poller.modify(peer.control.fileno(), wanted)

    def _talk(self, peer: _Peer, event: int) -> None:
        if event & select.POLLOUT:
            self._flush(peer)
        if peer.lost or not event & (select.POLLIN | _FAILED):
            return
        try:
            data = peer.control.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._lose(peer, f"the connection was cut ({error.strerror or error})")
            return
        if not data:
            self._lose(
                peer, "the connection was cut: the process at its other end ended, or the network failed"
            )
            return
        peer.heard = time.monotonic()
        peer.unread += data
        at = 0
        while len(peer.unread) - at >= _HEAD.size and not peer.lost:
            nbytes, kind, channel = _HEAD.unpack_from(peer.unread, at)
            if len(peer.unread) - at - _HEAD.size < nbytes:
                break
            at += _HEAD.size + nbytes
            self._hear(peer, kind, channel, bytes(memoryview(peer.unread)[at - nbytes : at]))
        del peer.unread[:at]

    def _hear(self, peer: _Peer, kind: int, channel: int, payload: bytes) -> None:
        if kind == _ABORT:
            self._aborted(payload.decode(errors="replace"))
        elif kind == _BYE:
            peer.leaving = True
        elif kind == _TARGET_LEFT:
            outgoing = self._outgoing.get((peer.host, channel))
            if outgoing is not None:
                self._end_outgoing(outgoing)
        elif kind in (_FRAME, _SOURCE_LEFT):
            incoming = self._incoming.get((peer.host, channel))
            if incoming is None:
                self._lose(peer, f"it spoke on channel {channel}, which nobody declared here")
            elif incoming.shape is not None:
                # In the order of the bytes: a token may not pass the slot that it speaks of, nor one before it.
                peer.to_receive.put(lambda: self._arrive(peer, incoming, kind, payload))
            else:
                self._deliver(incoming, kind, payload)

    def _lose(self, peer: _Peer, why: str) -> None:
        """End every channel from and to a host: roles here see its roles leave."""
        if peer.lost:
            return
        peer.lost = True
        if not peer.leaving:
            self._log.info("lost a host", host=peer.host, why=why)
            self._lost(peer.host, why)
        self._cut(peer)
        for incoming in self._incoming.values():
            if incoming.host == peer.host:
                self._end_incoming(incoming)
        for outgoing in list(self._outgoing.values()):
            if outgoing.host == peer.host:
                self._end_outgoing(outgoing)

    def _cut(self, peer: _Peer) -> None:
        self._forget(peer.control.fileno())
        with contextlib.suppress(OSError):
            peer.control.shutdown(socket.SHUT_RDWR)
        peer.mover.end()
        peer.to_send.put(None)
        peer.to_receive.put(None)

    def _keep_alive(self) -> None:
        now = time.monotonic()
        for peer in self._peers.values():
            if peer.lost:
                continue
            if now - peer.heard > SILENCE_S:
                self._lose(peer, f"nothing was heard of it for {SILENCE_S:.0f} s")
            elif now - peer.spoke >= PING_S and not peer.unsent:
                self._say(peer.host, _PING, 0)

    def _tell_abort(self, reason: str) -> None:
        for host in () if self._silent else self._peers:
            self._say(host, _ABORT, 0, reason.encode())

    # --- slots: two threads for each other host -------------------------------------------------------

    def _send_slots(self, peer: _Peer) -> None:
        try:
            while (data := peer.to_send.get()) is not None:
                peer.mover.send(data)
        except RoleLost as error:
            why = str(error)
            self._call(lambda: self._lose(peer, why))

    def _receive_slots(self, peer: _Peer) -> None:
        try:
            while (arrive := peer.to_receive.get()) is not None:
                arrive()
        except RoleLost as error:
            why = str(error)
            self._call(lambda: self._lose(peer, why))

    def _arrive(self, peer: _Peer, incoming: Incoming, kind: int, payload: bytes) -> None:
        assert incoming.shape is not None
        if kind == _FRAME:
            _, slot, nbytes = HEADER.unpack_from(payload)
            shape = incoming.shape
            if slot != NO_SLOT and not (0 <= slot < shape.slots and nbytes <= shape.slot_bytes):
                raise RoleLost(
                    f"it sent {nbytes} bytes for slot {slot} of {shape.label}, which has no such room"
                )
            view = shape.view(incoming.segment, slot, nbytes)
            if len(view):
                peer.mover.receive(view)
        self._call(lambda: self._deliver(incoming, kind, payload))

    # --- roles of this host ---------------------------------------------------------------------------

    def _add_outgoing(self, channel: Outgoing) -> None:
        self._outgoing[channel.host, channel.channel] = channel
        peer = self._peers.get(channel.host)
        if peer is not None and peer.lost:
            self._end_outgoing(channel)
        elif peer is not None:
            self._watch_outgoing(channel)

    def _watch_outgoing(self, channel: Outgoing) -> None:
        self._watch(channel.receiver.fileno(), select.POLLIN, lambda event: self._take(channel))

    def _take(self, channel: Outgoing) -> None:
        try:
            while (frame := channel.receiver.peek()) is not None:
                channel.receiver.drop()
                self._say(channel.host, _FRAME, channel.channel, frame)
                if channel.left:  # saying it found the host gone
                    return
                if channel.shape is not None:
                    _, slot, nbytes = HEADER.unpack_from(frame)
                    view = channel.shape.view(channel.segment, slot, nbytes)
                    if len(view):
                        self._peers[channel.host].to_send.put(view)
        except PeerGone:
            self._say(channel.host, _SOURCE_LEFT, channel.channel)
            self._end_outgoing(channel)

    def _end_outgoing(self, channel: Outgoing) -> None:
        """The role here sees its target leave, if it is not it that left."""
        if not channel.left:
            channel.left = True
            self._forget(channel.receiver.fileno())
            channel.receiver.close()

    def _add_incoming(self, channel: Incoming) -> None:
        self._incoming[channel.host, channel.channel] = channel
        for sender in channel.senders:
            # No event is asked for: an error is told anyway, when the role closes its end or dies.
            self._watch_sender(channel, sender, 0)

    def _watch_sender(self, channel: Incoming, sender: PipeSender, events: int) -> None:
        self._watch(sender.fileno(), events, lambda event: self._push(channel, sender, event))

    def _deliver(self, channel: Incoming, kind: int, payload: bytes) -> None:
        if kind == _SOURCE_LEFT:
            self._end_incoming(channel)
            return
        for sender in channel.senders:
            if sender not in channel.gone:
                sender.push(payload)
                self._push(channel, sender, 0)

    def _push(self, channel: Incoming, sender: PipeSender, event: int) -> None:
        try:
            done = sender.flush()
        except PeerGone:
            done, event = True, select.POLLERR
        if event & _FAILED:
            self._forget(sender.fileno())
            sender.close()
            channel.gone.add(sender)
            if len(channel.gone) == len(channel.senders):
                self._say(channel.host, _TARGET_LEFT, channel.channel)
        elif channel.ended and done:
            self._forget(sender.fileno())
            sender.close()
            channel.gone.add(sender)
        else:
            self._poller.modify(sender.fileno(), 0 if done else select.POLLOUT)

    def _end_incoming(self, channel: Incoming) -> None:
        """The roles here see the source leave, once they have read what it sent."""
        channel.ended = True
        for sender in channel.senders:
            if sender not in channel.gone:
                self._push(channel, sender, 0)
