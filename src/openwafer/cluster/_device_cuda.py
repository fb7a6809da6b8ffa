"""A GPU: three streams (arithmetic, uploads, downloads), events between them, pinned slots, an enforced budget."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch

from openwafer.cluster._device_claims import Claim, PinnedRegions
from openwafer.cluster._device_engine import Copy, Engine

cuda: Any = torch.cuda  # most of it has no types


class _Mark(NamedTuple):
    event: Any
    base: Any
    base_s: float
    """When the arithmetic was at `base`."""


class CudaEngine(Engine):
    """One GPU as one system uses it.

    claim: what the system may allocate there; checked and enforced from `open` to `close`.
    """

    def __init__(self, index: int, claim: Claim) -> None:
        self.device = torch.device("cuda", index)
        self._claim = claim
        self._pinned = PinnedRegions()
        self._stack = ExitStack()
        self._unjoined: Any = None

    def open(self) -> None:
        cuda.init()
        self._claim.take()
        self._stack.callback(self._claim.release)
        self._stack.enter_context(cuda.device(self.device))
        self._compute, self._up, self._down = cuda.Stream(), cuda.Stream(), cuda.Stream()
        self._stack.enter_context(cuda.stream(self._compute))
        cuda.reset_peak_memory_stats(self.device)
        self._begin()

    def close(self) -> None:
        self._pinned.release()
        self._stack.close()

    def empty(self, nbytes: int) -> torch.Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def host(self, data: memoryview, region_bytes: int) -> torch.Tensor:
        bytes_ = torch.frombuffer(data, dtype=torch.uint8)
        self._pinned.add(bytes_.data_ptr(), region_bytes)
        return bytes_

    def host_scalar(self, dtype: torch.dtype) -> torch.Tensor:
        return torch.empty((), dtype=dtype, pin_memory=True)

    def upload(self, target: torch.Tensor, source: torch.Tensor, after: Any) -> Copy:
        if after is not None:
            self._up.wait_event(after)
        self._unjoined = copy = self._copy(self._up, target, source)
        return copy

    def join(self) -> None:
        if self._unjoined is not None:  # the last of them: copies of one stream end in order
            self._compute.wait_event(self._unjoined.event)
            self._unjoined = None

    def download(self, target: torch.Tensor, source: torch.Tensor) -> Copy:
        self._down.wait_stream(self._compute)
        return self._copy(self._down, target, source)

    def retire(self, buffer: torch.Tensor) -> Any:
        return self._compute.record_event()

    def mark(self) -> _Mark:
        event = cuda.Event(enable_timing=True)
        event.record(self._compute)
        return _Mark(event, self._base, self._base_s)

    def seconds(self, mark: _Mark) -> float:
        elapsed_ms: float = mark.base.elapsed_time(mark.event)
        return mark.base_s + elapsed_ms / 1e3

    def synchronize(self) -> None:
        for stream in (self._up, self._down, self._compute):
            stream.synchronize()
        self._begin()

    @property
    def peak_bytes(self) -> int:
        """Of this process on this GPU: systems that are threads of one process count together."""
        peak: int = cuda.max_memory_allocated(self.device)
        return peak

    def _begin(self) -> None:
        """A point from which marks count; the arithmetic is idle, so that it gets there now."""
        self._base = cuda.Event(enable_timing=True)
        self._base.record(self._compute)
        self._base_s = time.monotonic()

    @staticmethod
    def _copy(stream: Any, target: torch.Tensor, source: torch.Tensor) -> _CudaCopy:
        with cuda.stream(stream):
            target.copy_(source, non_blocking=True)
        return _CudaCopy(stream.record_event())


class _CudaCopy(Copy):
    def __init__(self, event: Any) -> None:
        self.event = event

    def done(self) -> bool:
        done: bool = self.event.query()
        return done
