"""The few things that a device with memory of its own can do: what a new one has to provide, and one for tests."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch

POISON = 255
"""Bytes that are NaN in every floating-point dtype: what may not be read yet, or no longer, on the device for tests."""
COPY_S = 0.0005
PATIENCE = 8
"""Times that a copy under way is found not to be done, which is a few actions of a program."""


class Copy(ABC):
    """A copy under way."""

    @abstractmethod
    def done(self) -> bool:
        """Whether the last byte has arrived. Never waits."""


class Engine(ABC):
    """A device's memory, its arithmetic and its two copy engines. Calls issue work and return; none waits for it."""

    device: torch.device

    @abstractmethod
    def open(self) -> None:
        """Take the device for the calling thread: what it issues from now on is this engine's arithmetic."""

    @abstractmethod
    def close(self) -> None:
        """Give the device back, when all work is complete."""

    @abstractmethod
    def empty(self, nbytes: int) -> torch.Tensor:
        """Memory of the device, flat uint8, with anything in it."""

    @abstractmethod
    def host(self, data: memoryview, region_bytes: int) -> torch.Tensor:
        """Bytes of the host as a flat uint8 tensor from and to which copies run beside the arithmetic.

        region_bytes: from the first byte on, page-aligned, what else will come there, so that it is prepared once.
        """

    @abstractmethod
    def host_scalar(self, dtype: torch.dtype) -> torch.Tensor:
        """A tensor of no dims in the host's memory, for `download`."""

    @abstractmethod
    def upload(self, target: torch.Tensor, source: torch.Tensor, after: Any) -> Copy:
        """Copy host bytes to the device, not before the point `after` of the arithmetic (from `retire`)."""

    @abstractmethod
    def join(self) -> None:
        """The arithmetic issued from now on comes after every upload issued before."""

    @abstractmethod
    def download(self, target: torch.Tensor, source: torch.Tensor) -> Copy:
        """Copy device bytes to the host after all arithmetic issued so far. The caller keeps both until it is done."""

    @abstractmethod
    def retire(self, buffer: torch.Tensor) -> Any:
        """The point after the last arithmetic that uses the buffer: no later one does, until an upload refills it."""

    @abstractmethod
    def mark(self) -> Any:
        """This point of the arithmetic, for `seconds`."""

    @abstractmethod
    def seconds(self, mark: Any) -> float:
        """When the arithmetic came there, on the host's monotonic clock, in seconds; it has come there."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait for everything that was issued."""

    @property
    @abstractmethod
    def peak_bytes(self) -> int:
        """Most bytes allocated on the device at once since `open`."""


class CopyingEngine(Engine):
    """The CPU as a device with memory of its own, for tests: copies are real, and as late as they may be.

    An upload runs at the next `join`, and any copy when somebody has asked often enough whether it is done: it takes a
    moment then. Until then the target holds NaN, and so does a buffer that was retired. Whoever computes, releases, commits
    or fills again too early finds wrong numbers.
    """

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self._uploads: list[_Late] = []
        self._allocated = 0

    def open(self) -> None:
        return None

    def close(self) -> None:
        return None

    def empty(self, nbytes: int) -> torch.Tensor:
        self._allocated += nbytes
        return torch.full((nbytes,), POISON, dtype=torch.uint8)

    def host(self, data: memoryview, region_bytes: int) -> torch.Tensor:
        return torch.frombuffer(data, dtype=torch.uint8)

    def host_scalar(self, dtype: torch.dtype) -> torch.Tensor:
        return torch.zeros((), dtype=dtype)

    def upload(self, target: torch.Tensor, source: torch.Tensor, after: Any) -> Copy:
        target.fill_(POISON)
        self._uploads.append(_Late(lambda: target.copy_(source)))
        return self._uploads[-1]

    def join(self) -> None:
        for copy in self._uploads:
            copy.run()
        self._uploads.clear()

    def download(self, target: torch.Tensor, source: torch.Tensor) -> Copy:
        target.view(-1).view(torch.uint8).fill_(POISON)
        return _Late(lambda: target.copy_(source))

    def retire(self, buffer: torch.Tensor) -> Any:
        buffer.fill_(POISON)
        return None

    def mark(self) -> float:
        return time.monotonic()

    def seconds(self, mark: float) -> float:
        return mark

    def synchronize(self) -> None:
        self.join()

    @property
    def peak_bytes(self) -> int:
        return self._allocated


class _Late(Copy):
    """A copy that runs when it must."""

    def __init__(self, copy: Callable[[], Any]) -> None:
        self._copy: Callable[[], Any] | None = copy
        self._asked = 0

    def run(self) -> None:
        if self._copy is not None:
            time.sleep(COPY_S)
            self._copy()
            self._copy = None

    def done(self) -> bool:
        self._asked += 1
        if self._asked > PATIENCE:
            self.run()
        return self._copy is None
