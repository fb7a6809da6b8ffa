"""A store on disk: one safetensors file per record, read and written past the page cache."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import final

import xxhash

from openwafer.artifact import Record
from openwafer.base import PAGE_BYTES, CheckpointError, InputError
from openwafer.cluster.store._base import NO_VALUES, Store
from openwafer.cluster.store._files import (
    PageIo,
    aligned_buffer,
    free_bytes,
    full_disk,
    replace_file,
    reserve,
    same_memory,
    storage_errors,
    sync_path,
)
from openwafer.cluster.store._format import read_stamp, record_header, stamp
from openwafer.cluster.store._lock import FolderLock
from openwafer.cluster.store._manifest import (
    FORMAT_VERSION,
    MANIFEST,
    RecordFile,
    StoreManifest,
    decode_globals,
    encode_globals,
    manifest_bytes,
    read_manifest,
)
from openwafer.cluster.store._tensors import check_buffer

RESERVED, UPDATING, COMPLETE = "reserved", "updating", "complete"
_STALE = "manifest.stale.json"
_RECORD_FILE = re.compile(r"\d{5,}-.*\.safetensors")


@final
class DiskStore(Store):
    """Records in `folder/records/<index>-<name>.safetensors`, which any safetensors reader reads.

    A new folder is filled with reserved files, whose disk space is taken before training starts. A folder
    that holds a store is opened if it is whole: flushed, and not written to since. `fresh` gives up the
    values of an existing store instead and reuses its files, for a run that loads a checkpoint.

    cached: records that are also kept in RAM; they go to disk at `flush` only.

    A killed writer leaves a torn store, never a wrong one: `flush` writes `manifest.json` last, the first
    write after it takes the manifest away first, and each file's header says what is being done to it.

    Raises RunFolderError if another process has the folder, CheckpointError if an existing store is torn,
    damaged or of other records, StorageError if the disk is too small.
    """

    def __init__(
        self,
        folder: Path | str,
        records: Sequence[Record],
        cached: Iterable[int] = (),
        *,
        fresh: bool = False,
    ) -> None:
        super().__init__(records)
        self.folder = Path(folder)
        self._manifest, self._stale = self.folder / MANIFEST, self.folder / _STALE
        self._paths = [
            self.folder / "records" / _file_name(i, record) for i, record in enumerate(self.records)
        ]
        headers = [record_header(record, RESERVED, 0) for record in self.records]
        self._data_at = [len(header) for header in headers]
        self._pages = [aligned_buffer(PAGE_BYTES) for _ in headers]  # each header's first page, to stamp
        for page, header in zip(self._pages, headers, strict=True):
            page[:] = header[:PAGE_BYTES]
        self._cache = {index: aligned_buffer(self.records[index].nbytes) for index in sorted(set(cached))}
        self._behind: set[int] = set()  # cached records whose newest values are only in RAM
        self._unsynced: set[int] = set()
        self._hashes: dict[int, str] = {}
        self._manifest_lock = threading.Lock()
        self._lock = FolderLock(self.folder)
        try:
            with storage_errors(self.folder):
                (self.folder / "records").mkdir(exist_ok=True)
            self._io = PageIo.probe(self.folder)
            found = self._files()
            if fresh or not (found or self._manifest.exists() or self._stale.exists()):
                self._create(headers, found)
            else:
                self._open(headers)
        except BaseException:
            self.close()
            raise

    # --- creation --------------------------------------------------------------------------------------

    def _create(self, headers: list[bytes], found: list[Path]) -> None:
        self._withdraw_manifest()
        self._stale.unlink(missing_ok=True)
        for path in found:
            if path not in self._paths:
                path.unlink()
        try:
            needed = {
                path: self._size(i) - _allocated(path) for i, path in enumerate(self._paths)
            }  # reused files have their space already
            need = sum(max(0, bytes_) for bytes_ in needed.values())
            if need > free_bytes(self.folder):
                raise full_disk(self.folder, need, "the records do not fit")
            for index, (path, header) in enumerate(zip(self._paths, headers, strict=True)):
                reserve(path, self._size(index))
                whole = aligned_buffer(len(header))
                whole[:] = header
                self._io.write(path, 0, whole)
                self._unsynced.add(index)
            sync_path(self.folder / "records")
            sync_path(self.folder)
        except BaseException:
            for path in self._paths:
                path.unlink(missing_ok=True)
            raise

    # --- opening ---------------------------------------------------------------------------------------

    def _open(self, headers: list[bytes]) -> None:
        """Check that the folder is a checkpoint; then its records are this store's."""
        manifest = read_manifest(self._manifest, StoreManifest) if self._manifest.exists() else None
        expected = [(record.name, path.name) for record, path in zip(self.records, self._paths, strict=True)]
        names = (
            [path.name for path in self._files()] if manifest is None else [r.file for r in manifest.records]
        )
        if names != [name for _, name in expected]:
            raise CheckpointError(
                f"the MemoryX store {self.folder} holds other records than this plan: {len(names)} there, "
                f"{len(expected)} here, first difference {_first_difference(names, expected)}; "
                "use the plan that it was made with, or give the run another folder"
            )
        stamps = [self._read_stamp(index, header) for index, header in enumerate(headers)]
        if manifest is None:
            last = read_manifest(self._stale, StoreManifest).step if self._stale.exists() else None
            raise self._torn(stamps, last)
        if any(found != (COMPLETE, manifest.step) for found in stamps):
            raise self._torn(stamps, manifest.step)
        for index, file in enumerate(manifest.records):
            self._steps[index] = manifest.step
            self._hashes[index] = file.xxh3
        for index, memory in self._cache.items():
            self._io.read(self._paths[index], self._data_at[index], memory, self._size(index))
        self.step, self.globals = manifest.step, decode_globals(manifest.globals)

    def _read_stamp(self, index: int, header: bytes) -> tuple[str, int]:
        """A file's status and step. Raises CheckpointError unless the rest of its header is the record's."""
        found = aligned_buffer(len(header))
        self._io.read(self._paths[index], 0, found, self._size(index))
        status, step = read_stamp(bytes(found))
        expected = aligned_buffer(len(header))
        expected[:] = header
        if status in (RESERVED, UPDATING, COMPLETE):
            stamp(expected, status, step)
            stamp(self._pages[index], status, step)
        if found != expected:
            raise CheckpointError(
                f"{self._paths[index]} holds other tensors than record {index} "
                f"({self.records[index].name!r}) of this plan, or its header is damaged; use the plan that "
                "it was made with, or resume from the last checkpoint"
            )
        return status, step

    def _torn(self, stamps: list[tuple[str, int]], last: int | None) -> CheckpointError:
        wrong = (i for i, found in enumerate(stamps) if last is None or found != (COMPLETE, last))
        index = next(wrong, None)
        if index is None:
            where = "its manifest was withdrawn for an update that did not begin"
        else:
            status, step = stamps[index]
            where = f"record {index} ({self.records[index].name!r}) is {status} at step {step}"
        flushed = "it was never flushed" if last is None else f"the last flush was at step {last}"
        return CheckpointError(
            f"the MemoryX store {self.folder} is torn: {where}, {flushed}; the run ended between two "
            "flushes. Resume from the last checkpoint"
        )

    def verify(self) -> None:
        """Read every record and compare it with the hash of the last flush; those without one pass.

        Raises CheckpointError with the first file that differs.
        """
        for index, known in self._hashes.items():
            if known and self._hash_file(index) != known:
                raise CheckpointError(
                    f"{self._paths[index]} is damaged: its bytes are not those written at step "
                    f"{self._steps[index]}; resume from the last checkpoint, and check the disk"
                )

    # --- running ---------------------------------------------------------------------------------------

    def memory(self, index: int) -> memoryview | None:
        return self._cache.get(index)

    def weights(self, index: int, into: memoryview | None = None) -> memoryview:
        return self._read(index, into, self.records[index].weight_bytes)

    def read(self, index: int, into: memoryview | None = None) -> memoryview:
        return self._read(index, into, self.records[index].nbytes)

    def _read(self, index: int, into: memoryview | None, nbytes: int) -> memoryview:
        record = self.records[index]
        if self._steps[index] == NO_VALUES:
            raise CheckpointError(
                f"record {index} ({record.name!r}) of {self.folder} has no values yet; initialise it "
                "or load a checkpoint first"
            )
        if index in self._cache:
            return self._cache[index][:nbytes]
        if into is None or len(into) < nbytes:
            raise InputError(
                f"record {index} ({record.name!r}) is on disk: reading it needs a page-aligned buffer of "
                f"{nbytes} bytes, not {0 if into is None else len(into)}"
            )
        view = into[:nbytes]
        with self.stats.reading(nbytes):
            self._io.read(self._paths[index], self._data_at[index], view, self._size(index))
        return view

    def write(self, index: int, step: int, buffer: memoryview) -> None:
        given = check_buffer(self.records[index], buffer)
        own = self._cache.get(index)
        if own is None:
            self._write(index, step, given)
        else:
            if not same_memory(own, given):
                own[:] = given
            self._behind.add(index)
            self._steps[index] = step
        self._hashes.pop(index, None)

    def _write(self, index: int, step: int, data: memoryview) -> None:
        self._steps[index] = NO_VALUES  # what a write that fails leaves behind
        with self.stats.writing(len(data)):
            # 1. from here on no reader takes the store for a checkpoint
            self._withdraw_manifest()
            self._stamp(index, UPDATING, step)
            # 2. the data, in place
            self._io.write(self._paths[index], self._data_at[index], data)
            # 3. the record is whole again
            self._stamp(index, COMPLETE, step)
        self._steps[index] = step

    def _stamp(self, index: int, status: str, step: int) -> None:
        stamp(self._pages[index], status, step)
        self._unsynced.add(index)
        self._io.write(self._paths[index], 0, self._pages[index])

    def _withdraw_manifest(self) -> None:
        """Durably, before the first byte changes: disks may reorder the writes of a power failure."""
        with self._manifest_lock, storage_errors(self.folder):
            if self._manifest.exists():
                self._manifest.replace(self._stale)
                sync_path(self.folder)

    def flush(self, step: int, globals: dict[str, float], *, hashes: bool = True) -> None:
        self.check_steps(step)
        for index in range(len(self.records)):
            if index in self._behind:
                self._write(index, step, self._cache[index])
                self._behind.discard(index)
            elif read_stamp(bytes(self._pages[index])) != (COMPLETE, step):
                self._withdraw_manifest()
                self._stamp(index, COMPLETE, step)
            self._steps[index] = step
        for index in sorted(self._unsynced):
            sync_path(self._paths[index])
        self._unsynced.clear()
        files = []
        for index, record in enumerate(self.records):
            if hashes and not self._hashes.get(index):
                self._hashes[index] = self._hash_record(index)
            files.append(
                RecordFile(
                    record.name, self._paths[index].name, self._size(index), self._hashes.get(index, "")
                )
            )
        manifest = StoreManifest(FORMAT_VERSION, step, encode_globals(globals), tuple(files))
        replace_file(self._manifest, manifest_bytes(manifest))
        self._stale.unlink(missing_ok=True)
        self.step, self.globals = step, dict(globals)

    def close(self) -> None:
        self._cache = {}
        self._lock.close()

    # --- helpers ---------------------------------------------------------------------------------------

    def _size(self, index: int) -> int:
        return self._data_at[index] + self.records[index].nbytes

    def _files(self) -> list[Path]:
        folder = self.folder / "records"
        return sorted(path for path in folder.iterdir() if _RECORD_FILE.fullmatch(path.name))

    def _hash_record(self, index: int) -> str:
        memory = self._cache.get(index)
        return self._hash_file(index) if memory is None else xxhash.xxh3_64_hexdigest(memory)

    def _hash_file(self, index: int) -> str:
        with self.stats.reading(self.records[index].nbytes):
            return self._io.hash(self._paths[index], self._data_at[index], self._size(index))


def _file_name(index: int, record: Record) -> str:
    return f"{index:05d}-{re.sub(r'[^A-Za-z0-9._-]', '_', record.name)[:100]}.safetensors"


def _allocated(path: Path) -> int:
    return path.stat().st_blocks * 512 if path.exists() else 0


def _first_difference(names: list[str], expected: list[tuple[str, str]]) -> str:
    for name, (record, file) in zip(names, expected, strict=False):
        if name != file:
            return f"{name} there, {record!r} here"
    return f"at record {min(len(names), len(expected))}"
