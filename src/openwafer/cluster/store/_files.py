"""Files in whole pages: direct reads and writes, atomic small files, and what to say when a disk is full."""

from __future__ import annotations

import errno
import mmap
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

import numpy as np
import xxhash

from openwafer.base import (
    MIB,
    PAGE_BYTES,
    CheckpointError,
    InputError,
    StorageError,
    format_bytes,
    round_up,
)

CHUNK_BYTES = 8 * MIB
"""One system call moves at most this much, so that a signal or a stop waits only milliseconds."""

_O_DIRECT: int = getattr(os, "O_DIRECT", 0)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_DIRECT = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP)


def aligned_buffer(nbytes: int) -> memoryview:
    """Zeroed, page-aligned memory of this process, as direct I/O needs it; freed with the last view of it.

    Raises StorageError if there is not that much.
    """
    size = max(round_up(nbytes, PAGE_BYTES), PAGE_BYTES)
    try:
        pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise StorageError(
            f"a buffer of {format_bytes(size)} of memory is not to be had ({error.strerror}); split the model into "
            "smaller layers, or give the process more memory"
        ) from error
    return memoryview(pages)[:nbytes]


def flat(buffer: memoryview) -> memoryview:
    """The same memory as a one-dimensional view of bytes."""
    return buffer if buffer.format == "B" and buffer.ndim == 1 else buffer.cast("B")


def address(view: memoryview) -> int:
    """Where the memory of a view starts; 0 for an empty one."""
    return int(np.frombuffer(view, np.uint8).ctypes.data) if len(view) else 0


def same_memory(a: memoryview, b: memoryview) -> bool:
    """Whether both views start at the same byte."""
    return address(a) == address(b)


# --- errors --------------------------------------------------------------------------------------------


def free_bytes(folder: Path) -> int:
    """What an ordinary user may still write to the file system of `folder`."""
    stat = os.statvfs(folder)
    return stat.f_bavail * stat.f_frsize


def full_disk(path: Path, need_bytes: int, reason: str = "no space left") -> StorageError:
    """The error for a write that does not fit: what is needed, what is free, what to do."""
    folder = path
    while not folder.is_dir():
        folder = folder.parent
    return StorageError(
        f"{path}: {reason}: {format_bytes(need_bytes)} ({need_bytes} bytes) needed, "
        f"{format_bytes(free_bytes(folder))} free in {folder}; make room or choose a folder on a larger disk"
    )


@contextmanager
def storage_errors(path: Path, need_bytes: int = 0) -> Iterator[None]:
    """Turn what the operating system says about `path` into an error that a caller can act on."""
    try:
        yield
    except FileNotFoundError as error:
        raise CheckpointError(
            f"{path} is missing; it was removed or never written. Resume from the last checkpoint"
        ) from error
    except OSError as error:
        if error.errno in _FULL:
            raise full_disk(path, need_bytes, os.strerror(error.errno or 0)) from error
        raise StorageError(
            f"{path}: the operating system refused: {error.strerror}; check the disk and the permissions, "
            "then resume from the last checkpoint"
        ) from error


def wrong_size(path: Path, expected: int, found: int) -> CheckpointError:
    """The error for a file that ends early, or that something was added to."""
    return CheckpointError(
        f"{path} is damaged: {found} bytes found, {expected} expected; "
        "copy the file again from where it is whole; a training run can resume from an older checkpoint"
    )


# --- reads and writes ----------------------------------------------------------------------------------


def read_fully(fd: int, into: memoryview, offset: int, unit: int = 1) -> int:
    """Fill `into` from `offset`, over short reads; returns the bytes read, fewer only at the end of the file.

    unit: direct I/O goes on at multiples of this, so a read that stops inside a unit is repeated from there.
    """
    done = 0
    while done < len(into):
        count = os.preadv(fd, [into[done : done + CHUNK_BYTES]], offset + done)
        count -= count % unit
        if count == 0:
            break
        done += count
    return done


def write_fully(fd: int, data: memoryview, offset: int, unit: int = 1) -> None:
    """Write all of `data` at `offset`, over short writes; see `read_fully` for `unit`."""
    done = 0
    while done < len(data):
        try:
            count = os.pwritev(fd, [data[done : done + CHUNK_BYTES]], offset + done)
        except OSError as error:
            # A limit on the size of files that lies inside a unit: some file systems refuse the odd length instead.
            if error.errno == errno.EINVAL and resource.getrlimit(resource.RLIMIT_FSIZE)[0] < offset + len(
                data
            ):
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG)) from error
            raise
        count -= count % unit
        if count == 0:
            # A write that makes no progress and no error is a disk that filled up under this very call.
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        done += count


def drop_cached(fd: int, offset: int = 0, nbytes: int = 0) -> None:
    """Ask the page cache to forget bytes of a file (0: to its end) that are not needed again soon."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(fd, offset, nbytes, os.POSIX_FADV_DONTNEED)


@contextmanager
def opened(path: Path, flags: int) -> Iterator[int]:
    """A file descriptor that is closed at the end."""
    fd = os.open(path, flags | os.O_CLOEXEC, 0o644)
    try:
        yield fd
    finally:
        os.close(fd)


def file_hash(path: Path) -> str:
    """xxh3-64 of a whole file, as 16 hex digits. Raises CheckpointError if it is missing."""
    start, digest, chunk = 0, xxhash.xxh3_64(), memoryview(bytearray(CHUNK_BYTES))
    with storage_errors(path), opened(path, os.O_RDONLY) as fd:
        while count := read_fully(fd, chunk, start):
            digest.update(chunk[:count])
            start += count
        drop_cached(fd)
    return digest.hexdigest()


@final
class PageIo:
    """Reads and writes of whole pages at page offsets, past the page cache.

    direct: O_DIRECT. Where the file system refuses that, writes are synced and the cache is told to forget
    them, so that a store larger than RAM does not push everything else out of it.
    """

    def __init__(self, direct: bool) -> None:
        self.direct = direct and bool(_O_DIRECT)
        self._flag = _O_DIRECT if self.direct else 0
        self._unit = PAGE_BYTES if self.direct else 1

    @classmethod
    def probe(cls, folder: Path) -> PageIo:
        """Find out by one page whether the file system of `folder` does direct I/O."""
        path, page = folder / f".direct-{os.getpid()}", aligned_buffer(PAGE_BYTES)
        try:
            with storage_errors(path, PAGE_BYTES):
                try:
                    with opened(path, os.O_RDWR | os.O_CREAT | _O_DIRECT) as fd:
                        write_fully(fd, page, 0, PAGE_BYTES)
                        return cls(direct=read_fully(fd, page, 0, PAGE_BYTES) == PAGE_BYTES)
                except OSError as error:
                    if error.errno in _NO_DIRECT:
                        return cls(direct=False)
                    raise
        finally:
            path.unlink(missing_ok=True)

    def read(self, path: Path, offset: int, into: memoryview, size: int) -> None:
        """Fill `into` from a file that must have exactly `size` bytes.

        Raises CheckpointError if the file is missing or has another size, StorageError if the disk fails.
        """
        _check_aligned(into)
        with storage_errors(path), opened(path, os.O_RDONLY | self._flag) as fd:
            found = os.fstat(fd).st_size
            if found != size:
                raise wrong_size(path, size, found)
            done = read_fully(fd, into, offset, self._unit)
            if done != len(into):
                raise wrong_size(path, size, offset + done)
            if not self.direct:
                drop_cached(fd)

    def write(self, path: Path, offset: int, data: memoryview) -> None:
        """Write `data` into an existing file. Raises StorageError if the disk is full or fails."""
        _check_aligned(data)
        with storage_errors(path, len(data)), opened(path, os.O_WRONLY | self._flag) as fd:
            write_fully(fd, data, offset, self._unit)
            if not self.direct:
                os.fdatasync(fd)  # pages that are still dirty cannot be dropped
                drop_cached(fd)

    def hash(self, path: Path, offset: int, size: int) -> str:
        """xxh3-64 of a file of `size` bytes from `offset` to its end."""
        digest, chunk = xxhash.xxh3_64(), aligned_buffer(CHUNK_BYTES)
        for start in range(offset, size, CHUNK_BYTES):
            part = chunk[: min(CHUNK_BYTES, size - start)]
            self.read(path, start, part, size)
            digest.update(part)
        return digest.hexdigest()


def _check_aligned(view: memoryview) -> None:
    if address(view) % PAGE_BYTES or len(view) % PAGE_BYTES:
        raise InputError(
            f"a buffer of {len(view)} bytes at {address(view):#x} is not made of whole pages of {PAGE_BYTES} "
            "bytes; allocate it with aligned_buffer"
        )


# --- durable names -------------------------------------------------------------------------------------


def sync_path(path: Path) -> None:
    """Wait until a file's bytes, or a folder's names, are on the disk."""
    with storage_errors(path), opened(path, os.O_RDONLY) as fd:
        os.fsync(fd)


def write_synced(path: Path, data: bytes) -> None:
    """Write a small file and wait until it is on the disk."""
    with storage_errors(path, len(data)), opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC) as fd:
        write_fully(fd, memoryview(data), 0)
        os.fsync(fd)


def replace_file(path: Path, data: bytes) -> None:
    """Give `path` new contents in one step: after any crash it holds the old bytes or the new ones."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        write_synced(temporary, data)
        with storage_errors(path, len(data)):
            temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_path(path.parent)


def reserve(path: Path, size: int) -> None:
    """Make `path` a file of `size` bytes whose disk space is allocated, keeping bytes that it already has.

    Raises StorageError if the space is not there.
    """
    with storage_errors(path, size), opened(path, os.O_RDWR | os.O_CREAT) as fd:
        os.ftruncate(fd, size)
        if hasattr(os, "posix_fallocate"):
            try:
                os.posix_fallocate(fd, 0, size)
            except OSError as error:
                if error.errno not in _NO_DIRECT:
                    raise  # a file system that cannot reserve still stores: it fails later, at the write
