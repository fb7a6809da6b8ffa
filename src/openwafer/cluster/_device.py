"""What a system computes on: the one place that knows whether its memory is the host's.

The rings of a job lie in the host's memory. A system on the CPU computes right in their slots: `HostDevice` hands them out
as they are. A system with memory of its own has copies beside the arithmetic: `OwnMemory` (see _device_rings) reads and
writes the same rings, but what it hands out lies on the device. A system's program runs on either alike:

    receive            what arrives for the arithmetic after `join()`
    release, commit    at once for the program; the ring learns of it when the last copy from or to the slot is complete
    read               a number of the arithmetic, whenever it has come; `settle()` waits for all of them
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from openwafer.wire import RingMessage, RingReader, RingWriter

Bytes = memoryview | torch.Tensor
"""Of the host, or a flat uint8 tensor on a device: `view` takes both."""

Locate = Callable[[RingMessage], memoryview]
"""Where the bytes of a message lie, when it may be a reference to bytes outside its ring."""


class Message(Protocol):
    """What a reader received; see wire.RingMessage."""

    @property
    def token(self) -> Any: ...
    @property
    def data(self) -> Bytes: ...
    @property
    def ticket(self) -> int: ...


class Reader(Protocol):
    """The reading end of a ring, as wire.RingReader, on a device."""

    def receive(self, timeout_s: float | None = None) -> Message: ...
    def release(self, ticket: int) -> None: ...


class Writer(Protocol):
    """The writing end of a ring, as wire.RingWriter, on a device."""

    def acquire(self, timeout_s: float | None = None) -> Bytes: ...
    def commit(self, token: object, nbytes: int) -> object: ...


class Device(ABC):
    """What a system computes on. For one thread; enter it there before any arithmetic, leave it when all is done."""

    operators: torch.device
    """Where operators run and make their results."""

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    @abstractmethod
    def reader(self, ring: RingReader, buffers: Sequence[int], locate: Locate | None = None) -> Reader:
        """The ring as the device reads it. buffers: bytes of each message that it may hold at once, if it copies."""

    @abstractmethod
    def writer(self, ring: RingWriter, buffers: int) -> Writer:
        """The ring as the device writes it. buffers: slots that it may have in hand at once, if it copies."""

    @abstractmethod
    def scalar(self, value: float, dtype: torch.dtype) -> torch.Tensor:
        """A tensor of no dims for the arithmetic."""

    @abstractmethod
    def read(self, value: torch.Tensor, then: Callable[[float], None]) -> None:
        """Call `then` with a scalar of the arithmetic once it has come, in the order of the reads."""

    @abstractmethod
    def join(self) -> None:
        """Let the arithmetic from here on find all that was received."""

    @abstractmethod
    def advance(self) -> bool:
        """Give back and commit what complete copies no longer need; True if there was any. Never waits."""

    @abstractmethod
    def settle(self) -> None:
        """Wait until all copies and all arithmetic are complete."""

    @abstractmethod
    def mark(self) -> Any:
        """This point of the arithmetic, for `seconds`."""

    @abstractmethod
    def seconds(self, mark: Any) -> float:
        """When the arithmetic got there, in seconds on the host's monotonic clock; only after `settle`."""

    @property
    @abstractmethod
    def peak_bytes(self) -> int:
        """Most bytes that were allocated at once in memory of the device's own; 0 where that is the host's."""


class HostDevice(Device):
    """The CPU: slots are computed in where they lie, and everything is complete when its call returns."""

    operators = torch.device("cpu")

    def reader(self, ring: RingReader, buffers: Sequence[int], locate: Locate | None = None) -> Reader:
        return ring if locate is None else _Located(ring, locate)

    def writer(self, ring: RingWriter, buffers: int) -> Writer:
        return ring

    def scalar(self, value: float, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(value, dtype=dtype)

    def read(self, value: torch.Tensor, then: Callable[[float], None]) -> None:
        then(float(value))

    def join(self) -> None:
        return None

    def advance(self) -> bool:
        return False

    def settle(self) -> None:
        return None

    def mark(self) -> float:
        return time.monotonic()

    def seconds(self, mark: float) -> float:
        return mark

    @property
    def peak_bytes(self) -> int:
        return 0


class _Located:
    """A ring some of whose messages are references: their bytes lie elsewhere, and are read there."""

    def __init__(self, ring: RingReader, locate: Locate) -> None:
        self._ring = ring
        self._locate = locate

    def receive(self, timeout_s: float | None = None) -> RingMessage:
        message = self._ring.receive(timeout_s)
        return message._replace(data=self._locate(message))

    def release(self, ticket: int) -> None:
        self._ring.release(ticket)
