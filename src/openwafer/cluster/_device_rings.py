"""Rings as a device with memory of its own reads and writes them: through buffers of its own, beside the arithmetic.

    slot --upload--> buffer      the slot goes back to the ring when the copy is complete, whatever the arithmetic does;
                                 the buffer may be filled again when the arithmetic has passed its release
    buffer --download--> slot    after the arithmetic that filled the buffer; committed when the copy is complete, and then
                                 the buffer may be filled again

The program runs ahead of the device, so that the next layer's weights are copied while this layer computes. Nothing here
waits for the device except for room, and whoever waits for a peer first lets complete copies go (`OwnMemory.until`): the
peer may be waiting for those.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch

from openwafer.base import StallError
from openwafer.cluster._device import Device, Locate
from openwafer.cluster._device_engine import Copy, Engine
from openwafer.wire import RingReader, RingWriter

POLL_S = 50e-6
"""Between two looks at copies and peers while the program waits."""


class OwnMemory(Device):
    """A device that computes in memory of its own."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.operators = engine.device
        self._uploads: deque[_UnderWay] = deque()
        self._downloads: deque[_UnderWay] = deque()

    def __enter__(self) -> OwnMemory:
        self.engine.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.synchronize()
        self.engine.close()

    def reader(self, ring: RingReader, buffers: Sequence[int], locate: Locate | None = None) -> DeviceReader:
        return DeviceReader(self, ring, buffers, locate)

    def writer(self, ring: RingWriter, buffers: int) -> DeviceWriter:
        return DeviceWriter(self, ring, buffers)

    def scalar(self, value: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.full((), value, dtype=dtype, device=self.operators)  # needs no copy from the host

    def read(self, value: torch.Tensor, then: Callable[[float], None]) -> None:
        target = self.engine.host_scalar(value.dtype)
        self.sent(self.engine.download(target, value), (value, target), lambda: then(float(target)))

    def join(self) -> None:
        self.engine.join()

    def advance(self) -> bool:
        moved = False
        for copies in (self._uploads, self._downloads):  # each engine completes in order
            while copies and copies[0].copy.done():
                copies.popleft().then()
                moved = True
        return moved

    def settle(self) -> None:
        self.until(lambda: False)
        self.engine.synchronize()

    def mark(self) -> Any:
        return self.engine.mark()

    def seconds(self, mark: Any) -> float:
        return self.engine.seconds(mark)

    @property
    def peak_bytes(self) -> int:
        return self.engine.peak_bytes

    # --- for the rings --------------------------------------------------------------------------------

    def received(self, copy: Copy, kept: object, then: Callable[[], None]) -> None:
        """Call `then` when an upload is complete, and keep what it reads and writes until then."""
        self._uploads.append(_UnderWay(copy, kept, then))

    def sent(self, copy: Copy, kept: object, then: Callable[[], None]) -> None:
        """The same for a download."""
        self._downloads.append(_UnderWay(copy, kept, then))

    def until(self, ready: Callable[[], bool]) -> None:
        """Let copies complete until `ready()`, or until none is under way."""
        while (self._uploads or self._downloads) and not ready():
            if not self.advance():
                time.sleep(POLL_S)


class _UnderWay(NamedTuple):
    copy: Copy
    kept: object
    then: Callable[[], None]


class _Buffer(NamedTuple):
    """Device memory, and the point of the arithmetic from which copies may write it."""

    data: torch.Tensor
    free_from: Any


class _Pool:
    """Buffers of fixed sizes. Whoever asks for the sizes it was made with, in any order, always finds one that fits."""

    def __init__(self, engine: Engine, sizes: Sequence[int]) -> None:
        made = [engine.empty(size) for size in sizes]
        # Memory that is new here may have been used before by arithmetic that still runs.
        self._free = [_Buffer(data, engine.retire(data)) for data in made]

    def has_room(self) -> bool:
        return bool(self._free)

    def take(self, nbytes: int) -> _Buffer:
        """The smallest free buffer that fits; of equals the one that has been free the longest."""
        fitting = [buffer for buffer in self._free if buffer.data.numel() >= nbytes]
        assert fitting, f"no buffer for {nbytes} bytes among {[b.data.numel() for b in self._free]}"
        found = min(fitting, key=lambda buffer: buffer.data.numel())
        self._free = [buffer for buffer in self._free if buffer is not found]
        return found

    def give(self, buffer: _Buffer) -> None:
        self._free.append(buffer)


class DeviceReader:
    """The reading end of a ring; what it received lies on the device until its ticket is released."""

    def __init__(
        self, device: OwnMemory, ring: RingReader, buffers: Sequence[int], locate: Locate | None
    ) -> None:
        self._device = device
        self._ring = ring
        self._locate = locate
        self._pool = _Pool(device.engine, buffers)
        self._held: dict[int, torch.Tensor] = {}

    def receive(self, timeout_s: float | None = None) -> _Received:
        """Wait for the next message and begin to copy it. Raises as the ring does."""
        self._device.until(self._ring.poll)
        message = self._ring.receive(timeout_s)
        data = message.data if self._locate is None else self._locate(message)
        buffer = self._pool.take(len(data))
        target = buffer.data[: len(data)]
        engine, slot_bytes = self._device.engine, self._ring.shape.slot_bytes
        source = engine.host(data, max(len(data), slot_bytes) if message.data else len(data))
        copy = engine.upload(target, source, buffer.free_from)
        self._device.received(copy, (source, target), partial(self._ring.release, message.ticket))
        self._held[message.ticket] = buffer.data
        return _Received(message.token, target, message.ticket)

    def release(self, ticket: int) -> None:
        """Let a later message have the memory, once the arithmetic issued so far is over."""
        data = self._held.pop(ticket)
        self._pool.give(_Buffer(data, self._device.engine.retire(data)))


class _Received(NamedTuple):
    token: Any
    data: torch.Tensor
    ticket: int


class DeviceWriter:
    """The writing end of a ring; what it acquires lies on the device."""

    def __init__(self, device: OwnMemory, ring: RingWriter, buffers: int) -> None:
        self._device = device
        self._ring = ring
        self._pool = _Pool(device.engine, [ring.shape.slot_bytes] * buffers)
        self._acquired: deque[tuple[_Buffer, float | None]] = deque()

    def acquire(self, timeout_s: float | None = None) -> torch.Tensor:
        """Memory for one message, with anything in it. The slot comes later, so this waits for no peer."""
        self._device.until(self._pool.has_room)
        buffer = self._pool.take(self._ring.shape.slot_bytes)
        self._acquired.append((buffer, timeout_s))
        return buffer.data

    def commit(self, token: object, nbytes: int) -> None:
        """Send the oldest acquired, once the arithmetic so far is over and a slot is free. Raises as the ring does."""
        buffer, timeout_s = self._acquired.popleft()
        source = buffer.data[:nbytes]
        engine = self._device.engine
        slot = engine.host(self._slot(timeout_s), self._ring.shape.slot_bytes)[:nbytes]
        self._device.sent(
            engine.download(slot, source), (slot, source), partial(self._complete, buffer, token, nbytes)
        )

    def _slot(self, timeout_s: float | None) -> memoryview:
        found: list[memoryview] = []

        def look() -> bool:
            try:
                found.append(self._ring.acquire(0))
            except StallError:
                return False
            return True

        self._device.until(look)
        return found[0] if found else self._ring.acquire(timeout_s)

    def _complete(self, buffer: _Buffer, token: object, nbytes: int) -> None:
        self._ring.commit(token, nbytes)
        self._pool.give(_Buffer(buffer.data, None))
