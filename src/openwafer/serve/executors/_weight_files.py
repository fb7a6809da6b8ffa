"""Reads chunks of a checkpoint's files into slots, through the page cache or past it."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Iterable
from pathlib import Path
from typing import final

import numpy as np
import torch

from openwafer.base import PAGE_BYTES, CheckpointError, StorageError, round_up
from openwafer.cluster.store import aligned_buffer
from openwafer.serve.executors._weight_chunks import CHUNK_BYTES, Chunk
from openwafer.serve.model import new_tensor

_DIRECT: int = getattr(os, "O_DIRECT", 0)


@final
class WeightFiles:
    """Files that stay open, so that what is read again is what was read first, whatever happens to their names.

    direct: past the page cache, where the file system can. The disk then writes into large pages of this process: whole pages
    of a tensor to where they belong (`Chunk.split`), which takes no time of the CPU, and the rest, or what is cast, into a
    scratch, from where it is copied. Reads through the page cache copy everything, and take and give back a page for every
    4 KiB; they are faster where the files are in memory already.

    Raises StorageError if a file cannot be opened.
    """

    def __init__(self, paths: Iterable[Path], direct: bool) -> None:
        self._files: dict[Path, int] = {}
        self._direct: set[Path] = set()
        try:
            for path in set(paths):
                self._open(path, direct)
        except BaseException:
            self.close()
            raise

    def read(self, chunk: Chunk, slot: torch.Tensor, compute: torch.dtype, scratch: torch.Tensor) -> None:
        """Fill a chunk's places in a slot of bytes with its numbers, as `compute`.

        Several threads may read at once, each with a scratch of its own.

        Raises CheckpointError if the file became shorter, StorageError if it cannot be read.
        """
        path, direct = chunk.path, chunk.path in self._direct
        if not direct and slot.device.type == "cpu" and all(part.stored == compute for part in chunk.parts):
            for part in chunk.parts:
                into = slot.numpy().data[part.place : part.place + part.nbytes]
                _fill(self._files[path], path, [into], chunk.offset + part.start, part.nbytes)
            return
        unit = PAGE_BYTES if direct else 1
        begin = chunk.offset - chunk.offset % unit
        wanted = chunk.offset + chunk.nbytes - begin
        straight, left = chunk.split(compute) if direct and slot.device.type == "cpu" else ([], chunk.parts)
        room = scratch.numpy().data[: round_up(wanted, unit)]
        buffers: list[memoryview] = []
        at = 0
        for pages in straight:
            first = pages.offset - begin
            buffers += [room[at:first], slot.numpy().data[pages.place : pages.place + pages.nbytes]]
            at = first + pages.nbytes
        _fill(self._files[path], path, [*buffers, room[at:]], begin, wanted, unit)
        for part in left:
            start = chunk.offset - begin + part.start
            if part.stored == compute and slot.device.type == "cpu":
                # torch would share a copy out among threads, of which the layer that computes has use
                np.copyto(
                    slot.numpy()[part.place : part.place + part.nbytes],
                    scratch.numpy()[start : start + part.nbytes],
                )
                continue
            count = part.nbytes // part.stored.itemsize
            numbers = torch.frombuffer(scratch.numpy().data, dtype=part.stored, count=count, offset=start)
            slot[part.place : part.place + count * compute.itemsize].view(compute).copy_(numbers)

    def close(self) -> None:
        """Close the files; may be called twice."""
        for file in self._files.values():
            os.close(file)
        self._files.clear()

    def _open(self, path: Path, direct: bool) -> None:
        if direct and _DIRECT:
            try:
                file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | _DIRECT)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise _unopened(path, error) from error
            else:
                self._files[path] = file
                if _reads_pages(file):
                    self._direct.add(path)
                    return
                os.close(self._files.pop(path))
        try:
            self._files[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise _unopened(path, error) from error


def new_scratch() -> torch.Tensor:
    """Bytes for `WeightFiles.read`, of one thread."""
    return new_tensor((CHUNK_BYTES,), torch.uint8)


def _reads_pages(file: int) -> bool:
    """Whether a direct read of a page is possible: some file systems open a file so and then refuse."""
    try:
        os.preadv(file, [aligned_buffer(PAGE_BYTES)], 0)
    except OSError:
        return False
    return True


def _fill(file: int, path: Path, into: Iterable[memoryview], offset: int, wanted: int, unit: int = 1) -> None:
    """Fill the first `wanted` bytes at least; a read that is short goes on at a multiple of `unit`."""
    done, rest = 0, deque(view for view in into if view)
    while done < wanted:
        try:
            count = os.preadv(file, rest, offset + done)
        except OSError as error:
            raise StorageError(f"{path} cannot be read ({error.strerror}); check the disk") from error
        if done + count >= wanted:
            return
        count -= count % unit
        if count == 0:
            raise CheckpointError(f"{path} became shorter while it was read; copy it again")
        done += count
        while count >= len(rest[0]):
            count -= len(rest.popleft())
        rest[0] = rest[0][count:]


def _unopened(path: Path, error: OSError) -> StorageError:
    return StorageError(
        f"{path} cannot be opened any more ({error.strerror}); put it back and load the model again"
    )
