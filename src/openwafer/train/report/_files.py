"""Writing the files of a run: small ones whole or not at all, growing ones line by line."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import final

from openwafer.base import StorageError, format_bytes

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: OSError) -> bool:
    """Whether the disk, the quota or the largest file size is what stopped a write."""
    return error.errno in _FULL


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn an OSError about `path` into a StorageError that says what to do next."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if is_full(error):
            raise StorageError(
                f"cannot write {path}: {reason}, {_free(path)}; "
                "make room and resume, or choose a run folder on a larger disk"
            ) from error
        raise StorageError(
            f"cannot write {path}: {reason}; check the permissions of the run folder and the state of its "
            "disk, or choose another folder"
        ) from error


def _free(path: Path) -> str:
    with suppress(OSError):
        return f"{format_bytes(shutil.disk_usage(path.parent).free)} free in {path.parent}"
    return "free space unknown"


def write_atomic(path: Path, data: bytes) -> None:
    """Replace the content of `path`; after a crash or a full disk it holds all of the old or all of the new.

    Raises StorageError if the disk is full or refuses the write; the old content is then still there.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    with storage_errors(path):
        try:
            with open(partial, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except BaseException:
            with suppress(OSError):
                partial.unlink()
            raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)  # the new name must survive a power cut, not only the bytes
        finally:
            os.close(folder)


@final
class AppendFile:
    """A file that only grows, each write handed to the system before `write` returns.

    Errors are raised by the write that met them, as OSError; nothing is buffered, so a killed process loses
    at most the record that it was writing.
    """

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, data: bytes) -> None:
        """Append all of `data`."""
        rest = memoryview(data)
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def flush(self) -> None:
        """Nothing is held back; writers of records call this."""

    def close(self) -> None:
        """Closing twice is harmless."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
