"""The memory that a confined worker lays its batches into, safe to read whatever the worker does with it."""

from __future__ import annotations

import fcntl
import mmap
import os

from openwafer.base import PAGE_BYTES, InputError, StorageError, format_bytes, round_up
from openwafer.wire import available_memory_bytes


class Slots:
    """`count` slots of `slot_bytes` in one nameless file whose size is sealed: no worker can take a page from under a reader."""

    def __init__(self, count: int, slot_bytes: int) -> None:
        """Raises StorageError if that much memory is not there."""
        self.count, self.stride = count, round_up(max(slot_bytes, 1), PAGE_BYTES)
        self.nbytes = count * self.stride
        available = available_memory_bytes()
        if available is not None and self.nbytes > available:
            raise StorageError(
                f"{count} batches ahead need {format_bytes(self.nbytes)} of memory, but {format_bytes(available)} is available; "
                "lower the batch size or the number of batches ahead"
            )
        if not hasattr(os, "memfd_create"):
            raise InputError("input workers of client programs need Linux (memfd_create)")
        self.descriptor = os.memfd_create("openwafer-inputs", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.posix_fallocate(self.descriptor, 0, self.nbytes)
            fcntl.fcntl(
                self.descriptor,
                fcntl.F_ADD_SEALS,
                fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL,
            )
            self._view = memoryview(mmap.mmap(self.descriptor, self.nbytes))
        except OSError as error:
            os.close(self.descriptor)
            raise StorageError(
                f"{format_bytes(self.nbytes)} of shared memory could not be had: {error.strerror}"
            ) from error

    def slot(self, number: int) -> memoryview:
        return self._view[number * self.stride : (number + 1) * self.stride]

    def close(self) -> None:
        """Give the descriptor up; views stay valid, and the memory goes with the last of them."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1
