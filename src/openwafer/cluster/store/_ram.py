"""A store in memory: its own, or segments that other processes map too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from openwafer.artifact import Record
from openwafer.cluster.store._base import Store
from openwafer.cluster.store._files import aligned_buffer, same_memory
from openwafer.cluster.store._tensors import check_buffer


@final
class RamStore(Store):
    """One page-aligned buffer per record; reads hand out that memory, updates happen in it.

    buffers: one writable buffer of at least `nbytes` per record (shared-memory segments); the caller keeps
    and frees them. None allocates anonymous memory, which the operating system fills page by page on use.

    Raises InputError if a buffer is too short.
    """

    def __init__(self, records: Sequence[Record], buffers: Sequence[memoryview] | None = None) -> None:
        super().__init__(records)
        if buffers is None:
            buffers = [aligned_buffer(record.nbytes) for record in records]
        self._buffers = [
            check_buffer(record, buffer) for record, buffer in zip(self.records, buffers, strict=True)
        ]

    def memory(self, index: int) -> memoryview:
        return self._buffers[index]

    def weights(self, index: int, into: memoryview | None = None) -> memoryview:
        return self._buffers[index][: self.records[index].weight_bytes]

    def read(self, index: int, into: memoryview | None = None) -> memoryview:
        return self._buffers[index]

    def write(self, index: int, step: int, buffer: memoryview) -> None:
        own, given = self._buffers[index], check_buffer(self.records[index], buffer)
        if not same_memory(own, given):
            own[:] = given
        self._steps[index] = step

    def flush(self, step: int, globals: dict[str, float], *, hashes: bool = True) -> None:
        """Check and note the step; memory needs nothing else."""
        self.check_steps(step)
        self._steps = [step] * len(self.records)
        self.step, self.globals = step, dict(globals)

    def close(self) -> None:
        self._buffers = []
