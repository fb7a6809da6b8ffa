"""Channels over pipes: they cross processes, and the kernel reports the death of either end."""

from __future__ import annotations

import math
import os
import select
import struct
from collections.abc import Callable, Sequence
from multiprocessing import context
from typing import Any

from openwafer.base import InputError, StorageError
from openwafer.wire._channel import Receiver, Route, Sender, Waiter
from openwafer.wire._descriptor import TRAVEL_RULE, Descriptor
from openwafer.wire._errors import Aborted, PeerGone
from openwafer.wire._segment import Segment

_LENGTH = struct.Struct("<I")
_READ_BYTES = 65536  # what a Linux pipe holds
_LONGEST_WAIT_S = 86400.0  # poll() takes an int of milliseconds; callers loop


class PipeSender(Sender):
    """Writes frames, each behind its length, to a non-blocking pipe."""

    def __init__(self, route: Route, descriptor: Descriptor) -> None:
        self.route = route
        self._descriptor = descriptor
        self._outgoing = bytearray()

    def push(self, frame: bytes) -> None:
        if len(frame) >= 1 << 32:
            raise InputError(
                f"a message of {len(frame)} bytes is too long for {self.route.label}; "
                "tensors belong into a segment, with a token on the link"
            )
        self._outgoing += _LENGTH.pack(len(frame)) + frame

    def flush(self) -> bool:
        fd = self._descriptor.fileno()
        while self._outgoing:
            # `map` calls write and `extend` stores its result inside one C call: a Ctrl-C cannot
            # fall between the two, which would write some bytes twice and tear the stream.
            written: list[int] = []
            try:
                written.extend(map(os.write, (fd,), (self._outgoing,)))
            except BlockingIOError:
                return False
            except BrokenPipeError:
                raise PeerGone from None
            finally:
                if written:
                    del self._outgoing[: written[0]]
        return True

    def close(self) -> None:
        self._descriptor.close()

    def fileno(self) -> int:
        return self._descriptor.fileno()

    def __reduce__(self) -> tuple[Callable[..., PipeSender], tuple[Any, ...]]:
        return PipeSender, (self.route, self._descriptor)


class PipeReceiver(Receiver):
    """Reads frames from a non-blocking pipe. A frame that its sender did not finish is dropped."""

    def __init__(self, route: Route, descriptor: Descriptor) -> None:
        self.route = route
        self._descriptor = descriptor
        self._incoming = bytearray()
        self._ended = False

    def peek(self) -> bytes | None:
        while True:
            if len(self._incoming) >= _LENGTH.size:
                end = _LENGTH.size + _LENGTH.unpack_from(self._incoming)[0]
                if len(self._incoming) >= end:
                    return bytes(self._incoming[_LENGTH.size : end])
            if self._ended:
                raise PeerGone
            if not self._fill():
                return None

    def drop(self) -> None:
        end = _LENGTH.size + _LENGTH.unpack_from(self._incoming)[0]
        del self._incoming[:end]

    def close(self) -> None:
        self._descriptor.close()

    def fileno(self) -> int:
        return self._descriptor.fileno()

    def _fill(self) -> bool:
        """Read what the pipe holds now; False if that is nothing."""
        chunks: list[bytes] = []
        try:  # one C call, as in PipeSender.flush
            chunks.extend(map(os.read, (self._descriptor.fileno(),), (_READ_BYTES,)))
        except BlockingIOError:
            return False
        finally:
            if chunks:
                self._incoming += chunks[0]
                self._ended = not chunks[0]
        return True

    def __reduce__(self) -> tuple[Callable[..., PipeReceiver], tuple[Any, ...]]:
        return PipeReceiver, (self.route, self._descriptor)


def open_pipe(route: Route) -> tuple[PipeSender, PipeReceiver]:
    """Open a channel. Raises StorageError when the process may not open more files."""
    read, write = open_descriptors(route.label)
    return PipeSender(route, write), PipeReceiver(route, read)


def open_descriptors(label: str) -> tuple[Descriptor, Descriptor]:
    """The read and the write end of a non-blocking pipe."""
    try:
        read, write = os.pipe()
    except OSError as error:
        raise StorageError(
            f"{label} needs two more open files ({error.strerror}); raise the limit (ulimit -n) "
            "or run fewer systems on this host"
        ) from error
    os.set_blocking(read, False)
    os.set_blocking(write, False)
    return Descriptor(read), Descriptor(write)


class PipeWaiter(Waiter):
    """Sleeps in poll() on the channels and on the abort pipe, whose end of file is the abort.

    Nobody writes to the abort pipe. Its write end exists once, in the process that owns the
    transport, so that this process's death is an abort, too. The reason lies in `control`.
    """

    def __init__(self, control: Segment, abort: Descriptor) -> None:
        self._control = control
        self._reason = control.buffer  # readable even after the segment's close()
        self._abort = abort

    def check(self, within_s: float = 0.0) -> None:
        if not self._abort.closed:
            poller = select.poll()
            poller.register(self._abort.fileno(), select.POLLIN)
            if not poller.poll(math.ceil(1000 * within_s)):
                return
        raise Aborted(read_reason(self._reason))

    def check_travel(self) -> None:
        if context.get_spawning_popen() is None:
            raise InputError(TRAVEL_RULE)

    def wait(self, receivers: Sequence[Receiver], senders: Sequence[Sender], timeout_s: float | None) -> None:
        self.check()
        poller = select.poll()
        poller.register(self._abort.fileno(), select.POLLIN)
        for receiver in receivers:
            assert isinstance(receiver, PipeReceiver)
            poller.register(receiver.fileno(), select.POLLIN)
        for sender in senders:
            assert isinstance(sender, PipeSender)
            poller.register(sender.fileno(), select.POLLOUT)
        poller.poll(
            math.ceil(1000 * min(_LONGEST_WAIT_S, _LONGEST_WAIT_S if timeout_s is None else timeout_s))
        )
        self.check()

    def __reduce__(self) -> tuple[Callable[..., PipeWaiter], tuple[Any, ...]]:
        return PipeWaiter, (self._control, self._abort)


def write_reason(buffer: memoryview, reason: str) -> None:
    """Leave the reason of an abort for all processes; one that is too long for the buffer is cut."""
    text = reason.encode()[: len(buffer) - _LENGTH.size]
    buffer[_LENGTH.size : _LENGTH.size + len(text)] = text
    buffer[: _LENGTH.size] = _LENGTH.pack(len(text))


def read_reason(buffer: memoryview) -> str:
    """The reason that was left, or that there was nobody left to give one."""
    nbytes = _LENGTH.unpack_from(buffer)[0]
    if nbytes == 0:
        return "the process that owns the transport ended without saying why"
    return bytes(buffer[_LENGTH.size : _LENGTH.size + nbytes]).decode(errors="ignore")
