"""One node at a time has a state folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import final

from openwafer.base import InputError, StorageError


@final
class NodeLock:
    """Held until `release` or the death of the process."""

    def __init__(self, folder: Path) -> None:
        """Make the folder and take it. Raises InputError if another node has it, StorageError if it cannot be written."""
        path = folder / "node.lock"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(
                f"the state folder {folder} cannot be written: {error.strerror}; name another, or check its permissions"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pid = os.pread(fd, 32, 0).decode(errors="replace").strip()
            os.close(fd)
            raise InputError(
                f"another management node (process {pid or 'unknown'}) has the state folder {folder}; use that one, end it "
                "with `wafer cluster down`, or name another folder"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Let the next node in. Releasing twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
