"""A job's folder as one archive, made while it is sent: nothing of it is kept in memory or on the disk."""

from __future__ import annotations

import asyncio
import io
import queue
import tarfile
import threading
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, final

import msgspec

from openwafer.appliance._folder import JobFolder
from openwafer.appliance._job import Job
from openwafer.base import StorageError


async def archive(folder: JobFolder, job: Job, *, with_checkpoints: bool) -> AsyncIterator[bytes]:
    """Pieces of `<id>.tar.gz`: record.json, and every file of the job but what only runners need, and checkpoints if asked.

    Files that grow meanwhile are cut at the size that they had when their turn came.
    """
    pipe = _Pipe()
    threading.Thread(target=_write, args=(pipe, folder, job, with_checkpoints), daemon=True).start()
    try:
        while piece := await asyncio.to_thread(pipe.take):
            yield piece
    finally:
        pipe.left.set()


def write_archive(path: Path, folder: JobFolder, job: Job, *, with_checkpoints: bool) -> None:
    """The same archive as a file. Raises OSError."""
    with open(path, "wb") as file:
        _fill(file, folder, job, with_checkpoints)


@final
class _Pipe(io.RawIOBase):
    """What one thread writes another takes, a few pieces ahead; `left` is set when nobody takes any more."""

    def __init__(self) -> None:
        self.left = threading.Event()
        self.failure: Exception | None = None
        self._pieces: queue.Queue[bytes] = queue.Queue(8)

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        piece = bytes(data)  # type: ignore[call-overload]
        self._put(piece)
        return len(piece)

    def end(self) -> None:
        """No piece follows."""
        self._put(b"")

    def take(self) -> bytes:
        """The next piece; empty at the end, or when `left` is set."""
        while not self.left.is_set():
            with suppress(queue.Empty):
                return self._pieces.get(timeout=0.5)
        if self.failure is not None:
            raise StorageError(f"the archive cannot be made: {self.failure}") from self.failure
        return b""

    def _put(self, piece: bytes) -> None:
        while not self.left.is_set():
            with suppress(queue.Full):
                self._pieces.put(piece, timeout=0.5)
                return
        raise BrokenPipeError


def _write(pipe: _Pipe, folder: JobFolder, job: Job, with_checkpoints: bool) -> None:
    try:
        _fill(pipe, folder, job, with_checkpoints)
        pipe.end()
    except BrokenPipeError:
        return
    except Exception as error:
        # The caller's connection breaks off: it must not take what it has for the whole.
        pipe.failure = error
        pipe.left.set()


def _fill(pipe: _Pipe | BinaryIO, folder: JobFolder, job: Job, with_checkpoints: bool) -> None:
    with tarfile.open(fileobj=pipe, mode="w|gz", bufsize=1 << 16) as tar:
        record = msgspec.json.format(msgspec.json.encode(job), indent=2)
        entry = tarfile.TarInfo(f"{job.id}/record.json")
        entry.size, entry.mtime = len(record), int(job.ended or job.created)
        tar.addfile(entry, io.BytesIO(record))
        skipped = {folder.start, folder.alive, folder.exit, folder.path / "exit.partial"}
        if not with_checkpoints:
            skipped.add(folder.run / "checkpoints")
        _add(tar, folder.path, job.id, skipped)


def _add(tar: tarfile.TarFile, path: Path, name: str, skipped: set[Path]) -> None:
    for entry in sorted(path.iterdir()):
        if entry in skipped or entry.is_symlink():
            continue
        if entry.is_dir():
            _add(tar, entry, f"{name}/{entry.name}", skipped)
        elif entry.is_file():
            with suppress(FileNotFoundError), open(entry, "rb") as file:
                tar.addfile(tar.gettarinfo(arcname=f"{name}/{entry.name}", fileobj=file), file)
