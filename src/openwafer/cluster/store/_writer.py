"""Writing a checkpoint beside the run: record by record, complete or not there at all."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, final

import msgspec
import xxhash

from openwafer.artifact import Record
from openwafer.base import CheckpointError, InputError
from openwafer.cluster.store._base import Store
from openwafer.cluster.store._files import (
    aligned_buffer,
    drop_cached,
    file_hash,
    free_bytes,
    full_disk,
    opened,
    storage_errors,
    sync_path,
    write_fully,
    write_synced,
)
from openwafer.cluster.store._folders import (
    checkpoint_path,
    clear_remains,
    in_use,
    keep_last,
    replaced_path,
    temporary_path,
)
from openwafer.cluster.store._layout import ShardLayout, shard_layouts
from openwafer.cluster.store._manifest import (
    FORMAT_VERSION,
    MANIFEST,
    CheckpointManifest,
    ShardFile,
    encode_globals,
    manifest_bytes,
)
from openwafer.cluster.store._tensors import check_buffer, check_names

INDEX = "model.safetensors.index.json"


@final
class CheckpointWriter:
    """Builds `folder/checkpoint-<step>` from one `add` per record, in any order and from any thread.

    A tensor that the records hold in parts is put together in one file, under its whole name.
    Memory stays constant: bytes go from the given buffers to the files. Nothing is visible under the final
    name before `commit`, which makes it durable first. An older checkpoint of the same step is replaced.
    As a context manager it aborts on an exception and otherwise leaves `commit` to the caller.

    globals: the job's scalars. extra: anything that msgpack holds (data position, configuration, seeds);
    tuples come back as lists. keep: after the commit, remove all checkpoints but the last ones written.

    Raises InputError for values that cannot be stored, StorageError if the disk is too small.
    """

    def __init__(
        self,
        folder: Path | str,
        step: int,
        records: Sequence[Record],
        globals: Mapping[str, float],
        extra: Mapping[str, Any] | None = None,
        *,
        keep: int | None = None,
    ) -> None:
        check_names(records)
        if keep is not None and keep < 1:
            raise InputError(f"keep={keep} would remove the checkpoint just written; give 1 or more, or None")
        try:
            self._extra = msgspec.msgpack.encode(dict(extra or {}))
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(
                f"`extra` of a checkpoint must hold numbers, strings, bytes, lists and dicts only: {error}"
            ) from None
        self.step, self.path = step, checkpoint_path(Path(folder), step)
        self._records, self._globals, self._keep = tuple(records), dict(globals), keep
        self._layouts = shard_layouts(self._records)
        self._waiting = {layout.file: set(layout.records) for layout in self._layouts}
        self._added: set[int] = set()
        self._files: dict[str, ShardFile] = {}
        self._lock = threading.Lock()
        self._open = True
        self._temporary = temporary_path(self.path)
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            clear_remains(self.path.parent)
            need = sum(t.nbytes for record in self._records for t in (*record.weights, *record.state))
            if need > free_bytes(self.path.parent):
                raise full_disk(self.path, need, "the checkpoint does not fit")
            try:
                self._temporary.mkdir()
            except FileExistsError:
                raise InputError(
                    f"this process is already writing a checkpoint of step {step} in {self.path.parent}; "
                    "commit or abort that one first"
                ) from None
        in_use.add(self._temporary)

    def add(self, index: int, buffer: memoryview) -> None:
        """Write record `index` from `buffer` (weights then state); returns when its files are on the disk.

        Raises StorageError if the disk is full: the checkpoint is then aborted and its files are gone.
        """
        with self._lock:
            self._check_open()
            if index in self._added:
                raise InputError(f"record {index} of the checkpoint of step {self.step} was added twice")
            data = check_buffer(self._records[index], buffer)
            self._added.add(index)
            try:
                for layout in self._layouts:
                    if index in layout.records:
                        self._write_shard(layout, index, data)
            except BaseException:
                self._remove()
                raise

    def commit(self) -> Path:
        """Give the checkpoint its final name, durably, and return that.

        Raises CheckpointError if records were not added, StorageError if the disk is full.
        """
        with self._lock:
            self._check_open()
            missing = [record.name for i, record in enumerate(self._records) if i not in self._added]
            if missing:
                raise CheckpointError(
                    f"the checkpoint of step {self.step} lacks {len(missing)} of {len(self._records)} "
                    f"records (first: {missing[0]!r}); add every record before commit"
                )
            try:
                index = self._write_index()
                files = (*(self._files[layout.file] for layout in self._layouts), index)
                manifest = CheckpointManifest(
                    FORMAT_VERSION, self.step, encode_globals(self._globals), files, self._extra
                )
                write_synced(self._temporary / MANIFEST, manifest_bytes(manifest))
                sync_path(self._temporary)
                self._rename()
            except BaseException:
                self._remove()
                raise
            self._open = False
            in_use.discard(self._temporary)
            if self._keep is not None:
                keep_last(self.path.parent, self._keep, self.path)
            return self.path

    def abort(self) -> None:
        """Remove everything written; harmless after `commit`. Waits for an `add` under way."""
        with self._lock:
            self._remove()

    def __enter__(self) -> CheckpointWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.abort()

    def _check_open(self) -> None:
        if not self._open:
            raise CheckpointError(
                f"the checkpoint of step {self.step} was already committed or aborted; start another writer"
            )

    def _remove(self) -> None:
        if self._open:
            self._open = False
            shutil.rmtree(self._temporary, ignore_errors=True)
            in_use.discard(self._temporary)

    def _write_shard(self, layout: ShardLayout, index: int, data: memoryview) -> None:
        """Write what record `index` holds of a file; the last record of the file completes it."""
        path, waiting, digest = self._temporary / layout.file, self._waiting[layout.file], xxhash.xxh3_64()
        begins, alone = len(waiting) == len(layout.records), len(layout.records) == 1
        flags = os.O_WRONLY | (os.O_CREAT | os.O_EXCL if begins else 0)
        with storage_errors(path, layout.nbytes), opened(path, flags) as fd:
            if begins:
                write_fully(fd, memoryview(layout.header), 0)
                digest.update(layout.header)
            for at, part in layout.pieces(self._records[index], data):
                write_fully(fd, part, at)
                digest.update(part)
            os.fsync(fd)
            drop_cached(fd)
        waiting.discard(index)
        if not waiting:  # parts come in any order, and a hash does not: it takes another look at the file
            found = digest.hexdigest() if alone else file_hash(path)
            self._files[layout.file] = ShardFile(layout.file, layout.kind, layout.nbytes, found)

    def _write_index(self) -> ShardFile:
        """The index by which transformers and others find each weight's shard."""
        found = {
            name: (entry.type.nbytes, layout.file)
            for layout in self._layouts
            if layout.kind == "weights"
            for name, entry in layout.entries.items()
        }
        total = sum(nbytes for nbytes, _ in found.values())
        places = {name: file for name, (_, file) in sorted(found.items())}
        table = {"metadata": {"total_size": total}, "weight_map": places}
        data = json.dumps(table, indent=1).encode()
        write_synced(self._temporary / INDEX, data)
        return ShardFile(INDEX, "index", len(data), xxhash.xxh3_64_hexdigest(data))

    def _rename(self) -> None:
        older = replaced_path(self.path)
        with storage_errors(self.path):
            if self.path.exists():
                shutil.rmtree(older, ignore_errors=True)
                self.path.rename(older)
            self._temporary.rename(self.path)
        sync_path(self.path.parent)
        shutil.rmtree(older, ignore_errors=True)


def save_checkpoint(
    folder: Path | str,
    store: Store,
    step: int,
    globals: Mapping[str, float],
    extra: Mapping[str, Any] | None = None,
    *,
    keep: int | None = None,
) -> Path:
    """Write the store as it is, while nobody updates it, and return `folder/checkpoint-<step>`.

    Raises CheckpointError if a record is not at `step`; otherwise as `CheckpointWriter`.
    """
    store.check_steps(step)
    scratch = aligned_buffer(max((record.nbytes for record in store.records), default=0))
    with CheckpointWriter(folder, step, store.records, globals, extra, keep=keep) as writer:
        for index in range(len(store.records)):
            writer.add(index, store.read(index, scratch))
        return writer.commit()
