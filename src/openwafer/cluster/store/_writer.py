"""Writing a checkpoint beside the run: record by record, complete or not there at all."""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, final

import msgspec
import xxhash

from openwafer.artifact import DTYPE_BYTES, Record, Tensor
from openwafer.base import CheckpointError, InputError
from openwafer.cluster.store._base import Store
from openwafer.cluster.store._files import (
    CHUNK_BYTES,
    aligned_buffer,
    drop_cached,
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
from openwafer.cluster.store._format import Entry, encode_header
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
_ALIGN_BYTES = 64


@final
class CheckpointWriter:
    """Builds `folder/checkpoint-<step>` from one `add` per record, in any order and from any thread.

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
        self._files: dict[int, list[ShardFile]] = {}
        self._weight_map: dict[str, str] = {}
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
            if index in self._files:
                raise InputError(f"record {index} of the checkpoint of step {self.step} was added twice")
            record = self._records[index]
            data = check_buffer(record, buffer)
            try:
                self._files[index] = [
                    *self._write_shard(index, "weights", record.weights, data),
                    *self._write_shard(index, "state", record.state, data[record.weight_bytes :]),
                ]
            except BaseException:
                self._remove()
                raise

    def commit(self) -> Path:
        """Give the checkpoint its final name, durably, and return that.

        Raises CheckpointError if records were not added, StorageError if the disk is full.
        """
        with self._lock:
            self._check_open()
            missing = [record.name for i, record in enumerate(self._records) if i not in self._files]
            if missing:
                raise CheckpointError(
                    f"the checkpoint of step {self.step} lacks {len(missing)} of {len(self._records)} "
                    f"records (first: {missing[0]!r}); add every record before commit"
                )
            try:
                index = self._write_index()
                files = (*(f for i in sorted(self._files) for f in self._files[i]), index)
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

    def _write_shard(
        self, index: int, kind: Literal["weights", "state"], tensors: Sequence[Tensor], region: memoryview
    ) -> list[ShardFile]:
        if not tensors:
            return []
        name = f"{kind}-{index + 1:05d}-of-{len(self._records):05d}.safetensors"
        # Wide elements first: without holes, every tensor then starts at a multiple of its element size.
        ordered = sorted(tensors, key=lambda tensor: -DTYPE_BYTES[tensor.dtype])
        entries, end = [], 0
        for tensor in ordered:
            entries.append(Entry(tensor.name, tensor.type, end, end + tensor.nbytes))
            end += tensor.nbytes
        header = encode_header(entries, {"format": "pt"}, _ALIGN_BYTES)
        parts = [memoryview(header)]
        for tensor in ordered:
            data = region[tensor.offset : tensor.offset + tensor.nbytes]
            parts += [data[i : i + CHUNK_BYTES] for i in range(0, len(data), CHUNK_BYTES)]
        path, digest, at = self._temporary / name, xxhash.xxh3_64(), 0
        size = len(header) + end
        with storage_errors(path, size), opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as fd:
            for part in parts:
                write_fully(fd, part, at)
                digest.update(part)
                at += len(part)
            os.fsync(fd)
            drop_cached(fd)
        if kind == "weights":
            self._weight_map.update({tensor.name: name for tensor in tensors})
        return [ShardFile(name, kind, size, digest.hexdigest())]

    def _write_index(self) -> ShardFile:
        """The index by which transformers and others find each weight's shard."""
        total = sum(weight.nbytes for record in self._records for weight in record.weights)
        table = {"metadata": {"total_size": total}, "weight_map": dict(sorted(self._weight_map.items()))}
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
