"""Segments: the page-aligned buffers in which tensors lie while tokens travel."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
from collections.abc import Callable
from typing import Any

from openwafer.base import MIB, PAGE_BYTES, InputError, StorageError, format_bytes, round_up
from openwafer.wire._descriptor import Descriptor
from openwafer.wire._memory import available_memory_bytes

# The kernel undoes an interrupted allocation, so a piece must be far shorter than the time
# between two signals of a profiler; 64 MiB take about 20 ms.
_PIECE_BYTES = 64 * MIB


class Segment:
    """A zero-initialised buffer of `nbytes` whose first byte lies on a 4096-byte boundary.

    O_DIRECT reads and writes may go straight into it. `Segment.local` serves the threads of one
    process; `Segment.shared` also serves the spawned children that it is pickled to, without a
    name anywhere in the file system, so that no crash of any process leaves a file behind.
    """

    def __init__(self, name: str, nbytes: int, descriptor: Descriptor | None = None) -> None:
        """Map `nbytes` of the descriptor's file, or of fresh memory. Prefer `local` and `shared`."""
        self.name = name
        self.nbytes = nbytes
        self._descriptor = descriptor
        self._view: memoryview | None = None
        if descriptor is None:
            self._map()

    @classmethod
    def local(cls, name: str, nbytes: int) -> Segment:
        """Make a segment for the threads of this process. Its pages are taken when first touched.

        Raises InputError if `nbytes` is not positive, StorageError if that much memory is not there.
        """
        _check_room(name, nbytes)
        return cls(name, nbytes)

    @classmethod
    def shared(cls, name: str, nbytes: int) -> Segment:
        """Make a segment that spawned children can map. All its pages are taken now.

        So a lack of memory is a StorageError here and never a SIGBUS at a later store. The size
        of /dev/shm does not matter where the kernel offers memfd_create (Linux).
        Raises InputError if `nbytes` is not positive, StorageError if that much memory is not there.
        """
        _check_room(name, nbytes)
        try:
            descriptor = Descriptor(_nameless_file(name))
        except OSError as error:
            raise _no_room(name, nbytes, error) from error
        try:
            _allocate(descriptor.fileno(), round_up(nbytes, PAGE_BYTES))
        except OSError as error:
            descriptor.close()
            raise _no_room(name, nbytes, error) from error
        return cls(name, nbytes, descriptor)

    @property
    def buffer(self) -> memoryview:
        """The writable bytes [nbytes] of the segment. Raises InputError after `close()`.

        Views stay valid after `close()`: the memory goes when the last of them does.
        """
        if self._view is None:
            if self._descriptor is None:
                raise InputError(f"segment {self.name!r} was closed; take its buffer before close()")
            self._map()
        assert self._view is not None
        return self._view

    def close(self) -> None:
        """Give the segment up here; other processes keep it. A second call does nothing."""
        # Only the references go. Unmapping now would pull the memory from under a tensor that was
        # made from the buffer: torch keeps the memoryview alive but does not count as its user.
        self._view = None
        if self._descriptor is not None:
            self._descriptor.close()
            self._descriptor = None

    def __reduce__(self) -> tuple[Callable[..., Segment], tuple[Any, ...]]:
        if self._descriptor is None:
            raise InputError(
                f"segment {self.name!r} lives in one process (LocalTransport) or was closed; "
                "use SharedTransport for roles that are processes"
            )
        return Segment, (self.name, self.nbytes, self._descriptor)

    def _map(self) -> None:
        size = round_up(self.nbytes, PAGE_BYTES)
        try:
            if self._descriptor is not None:
                pages = mmap.mmap(self._descriptor.fileno(), size)
            else:
                # Private, so that it counts as this process's data (RLIMIT_DATA); forked workers of a
                # data loader get none of it, else every page that changes would be copied for them.
                pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
                if hasattr(mmap, "MADV_DONTFORK"):
                    pages.madvise(mmap.MADV_DONTFORK)
        except OSError as error:
            raise _no_room(self.name, self.nbytes, error) from error
        self._view = memoryview(pages)[: self.nbytes]


def _nameless_file(name: str) -> int:
    if hasattr(os, "memfd_create"):
        try:
            return os.memfd_create(f"openwafer-{name}"[:200])
        except OSError as error:
            if error.errno not in (errno.ENOSYS, errno.EPERM):  # refused by an old kernel or a sandbox
                raise
    directory = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryFile(dir=directory, prefix="openwafer-") as file:
        return os.dup(file.fileno())


def _allocate(fd: int, nbytes: int) -> None:
    os.ftruncate(fd, nbytes)
    if hasattr(os, "posix_fallocate"):
        for offset in range(0, nbytes, _PIECE_BYTES):
            os.posix_fallocate(fd, offset, min(_PIECE_BYTES, nbytes - offset))


def _check_room(name: str, nbytes: int) -> None:
    if nbytes <= 0:
        raise InputError(f"segment {name!r} was asked for with {nbytes} bytes; it needs at least 1")
    available = available_memory_bytes()
    if available is not None and nbytes > available:
        raise _no_room(name, nbytes, None)


def _no_room(name: str, nbytes: int, error: OSError | None) -> StorageError:
    available = available_memory_bytes()
    have = "an unknown amount" if available is None else format_bytes(available)
    reason = f" ({error.strerror or error})" if error is not None else ""
    if error is not None and error.errno in (errno.EMFILE, errno.ENFILE):
        return StorageError(
            f"segment {name!r} could not be opened{reason}; raise the limit on open files (ulimit -n)"
        )
    return StorageError(
        f"segment {name!r} needs {format_bytes(nbytes)} of memory, but {have} is available{reason}; "
        "lower the memory budgets or the number of systems on this host, let MemoryX keep state on disk, "
        "or give the container more memory (and, where memfd_create is refused, a larger /dev/shm)"
    )
