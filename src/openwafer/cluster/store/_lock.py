"""One process at a time in a folder."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import final

from openwafer.base import InputError, RunFolderError


@final
class FolderLock:
    """Holds `folder/lock` from construction to `close`, or to the death of the process.

    The kernel drops the lock with the process, so that a killed run never blocks the next one. A process
    that is forked (not spawned) while the lock is held shares it.

    Raises RunFolderError, with the holder's pid, if another opener holds it; InputError if `folder` cannot
    be used.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InputError(
                f"cannot use {folder} as a folder: {error.strerror}; name a folder that you may write to"
            ) from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = os.pread(self._fd, 32, 0).decode(errors="replace").strip()
            os.close(self._fd)
            raise RunFolderError(
                f"{folder} is in use by process {pid or '(pid not yet written)'}; wait for it to end, "
                "stop it, or choose another folder"
            ) from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Let the next process in. Closing twice is harmless."""
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1
