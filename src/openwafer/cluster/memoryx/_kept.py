"""Gradients that wait: for those of all other layers (clipping), or for the other uses of a tied weight."""

from __future__ import annotations

import mmap
import os
import tempfile
import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import torch

from openwafer.artifact import Record
from openwafer.base import PAGE_BYTES, round_up
from openwafer.cluster._memory import gradients as gradient_views
from openwafer.cluster.store import aligned_buffer
from openwafer.cluster.store._files import storage_errors

Gradients = dict[str, torch.Tensor]


class KeptGradients:
    """One buffer per record, made when its first gradient comes and kept for the job.

    expected: contributions per record and step. spill: a folder; the buffers are then mappings of a nameless file there
    instead of memory: the kernel writes them out where room is short, and they go when the process does.
    """

    def __init__(
        self, records: tuple[Record, ...], expected: Mapping[int, int], spill: Path | None = None
    ) -> None:
        self._records = records
        self._expected = expected
        self._spill = spill
        self._buffers: dict[int, memoryview] = {}
        self._seen: Counter[int] = Counter()
        self._lock = threading.Lock()

    def begin(self) -> None:
        """A new step: what is added first replaces what is there."""
        with self._lock:
            self._seen = Counter()

    def add(self, index: int, summed: Gradients) -> bool:
        """Add to a record's gradients; True if nothing more is expected.

        Raises StorageError if there is no room for a buffer.
        """
        with self._lock:
            if index not in self._buffers:
                self._buffers[index] = self._new(self._records[index].gradient_bytes)
            first = not self._seen[index]
            for name, own in self.views(index).items():
                if first:
                    own.copy_(summed[name])
                else:
                    own.add_(summed[name])
            self._seen[index] += 1
            return self._seen[index] == self._expected[index]

    def views(self, index: int) -> Gradients:
        """The gradients of a record, by weight, where they lie."""
        return gradient_views(self._records[index], self._buffers[index])

    def leave(self, index: int) -> None:
        """Nobody reads this record's gradients for a while: spilled ones need no memory until then."""
        buffer = self._buffers[index]
        if self._spill is not None and isinstance(buffer.obj, mmap.mmap):
            buffer.obj.madvise(
                mmap.MADV_DONTNEED
            )  # of a shared mapping of a file: the bytes stay in the file

    def _new(self, nbytes: int) -> memoryview:
        if self._spill is None:
            return aligned_buffer(nbytes)
        size = max(round_up(nbytes, PAGE_BYTES), PAGE_BYTES)
        with storage_errors(self._spill, size), tempfile.TemporaryFile(dir=self._spill) as file:
            os.posix_fallocate(
                file.fileno(), 0, size
            )  # a full disk must be an error here, not a signal later
            return memoryview(mmap.mmap(file.fileno(), size, flags=mmap.MAP_SHARED))[:nbytes]
