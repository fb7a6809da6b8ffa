"""Reading checkpoints: by tensor, by record (of any split), or whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, final

import msgspec
import torch

from openwafer.artifact import Record, TensorType
from openwafer.base import CheckpointError, logger
from openwafer.cluster.store._files import aligned_buffer, file_hash, storage_errors, wrong_size
from openwafer.cluster.store._folders import list_checkpoints
from openwafer.cluster.store._format import Entry, Header, read_entry, read_header
from openwafer.cluster.store._manifest import MANIFEST, CheckpointManifest, decode_globals, read_manifest
from openwafer.cluster.store._tensors import check_buffer, nearest, placed, tensor_bytes, zero_holes

_SHOWN = 3
"""Names that a message lists before it only counts."""


@final
class Checkpoint:
    """A complete checkpoint: its files exist and have the sizes that the writer noted.

    Opening reads headers only. Tensors are read when they are asked for; no file stays open or mapped.
    """

    folder: Path
    step: int
    globals: dict[str, float]
    extra: dict[str, Any]

    def __init__(self, folder: Path, manifest: CheckpointManifest) -> None:
        self.folder, self.step = folder, manifest.step
        self.globals = decode_globals(manifest.globals)
        self.extra = msgspec.msgpack.decode(manifest.extra, strict=False, type=dict)
        self._files = manifest.files
        self._where: dict[str, tuple[Path, Header, Entry]] = {}
        weights: list[str] = []
        for file in manifest.files:
            path = folder / file.file
            with storage_errors(path):
                found = os.stat(path).st_size
            if found != file.nbytes:
                raise wrong_size(path, file.nbytes, found)
            if file.kind != "index":
                header = read_header(path)
                self._where.update({name: (path, header, entry) for name, entry in header.entries.items()})
                if file.kind == "weights":
                    weights += header.entries
        self.weights = tuple(weights)
        """Names of the weights; the other names are optimizer state."""

    @classmethod
    def open(cls, folder: Path | str, *, verify: bool = False) -> Checkpoint:
        """Open `folder` (a `checkpoint-<step>`); `verify` also compares every file with its hash.

        Raises CheckpointError if the folder is no complete checkpoint, or a file is missing or damaged.
        """
        folder = Path(folder)
        checkpoint = cls(folder, read_manifest(folder / MANIFEST, CheckpointManifest))
        if verify:
            checkpoint.verify()
        return checkpoint

    def verify(self) -> None:
        """Read every byte. Raises CheckpointError naming the files that differ from what was written."""
        bad = [file.file for file in self._files if file_hash(self.folder / file.file) != file.xxh3]
        if bad:
            raise CheckpointError(
                f"{self.folder} is damaged: the hash of {', '.join(bad[:_SHOWN])}"
                f"{f' and {len(bad) - _SHOWN} more' if len(bad) > _SHOWN else ''} does not match; resume "
                "from an older checkpoint, and check the disk"
            )

    @property
    def types(self) -> dict[str, TensorType]:
        """Dtype and shape of every tensor, weights and state, by name."""
        return {name: entry.type for name, (_, _, entry) in self._where.items()}

    def tensor(self, name: str) -> torch.Tensor:
        """Read one tensor into new memory. Raises CheckpointError if there is none of that name."""
        path, header, entry = self._find(name)
        tensor = torch.empty(entry.type.shape, dtype=getattr(torch, entry.type.dtype))
        read_entry(path, header, entry, tensor_bytes(tensor))
        return tensor

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All weights in memory, by the user's names: what `module.load_state_dict` takes."""
        return {name: self.tensor(name) for name in self.weights}

    def load_record(self, record: Record, into: memoryview) -> memoryview:
        """Fill a record's buffer (writable, weights then state) by names, however the writer cut its records.

        Of a tensor that the record holds a part of, only that part is read.

        Returns the record's part of `into`. Raises CheckpointError if a tensor is missing or of another type.
        """
        buffer = check_buffer(record, into)
        self._check([record], extra=False)
        zero_holes(record, buffer)
        for tensor, offset in placed(record):
            path, header, entry = self._where[tensor.whole]
            into = buffer[offset : offset + tensor.nbytes]
            read_entry(path, header, entry, into, tensor.whole_offset)
        return buffer

    def check(self, records: Sequence[Record]) -> None:
        """Raises CheckpointError unless the records hold exactly the checkpoint's tensors."""
        self._check(records, extra=True)

    def _check(self, records: Sequence[Record], *, extra: bool) -> None:
        wanted = {tensor.whole: tensor.whole_type for record in records for tensor, _ in placed(record)}
        types = self.types
        missing = [name for name in wanted if name not in types]
        surplus = [name for name in types if name not in wanted] if extra else []
        other = [name for name in wanted if name in types and types[name] != wanted[name]]
        parts = []
        if missing:
            parts.append("it lacks " + _some(missing, lambda name: f"{name!r}{nearest(name, types)}"))
        if surplus:
            parts.append("the model lacks " + _some(surplus, repr))
        if other:
            parts.append(
                "of another type: "
                + _some(other, lambda name: f"{name!r} is {types[name]} there, {wanted[name]} here")
            )
        if parts:
            raise CheckpointError(
                f"the checkpoint {self.folder} is of another model or optimizer: {'; '.join(parts)}. Use the "
                "configuration that wrote it, or take its weights alone with open_weights"
            )

    def _find(self, name: str) -> tuple[Path, Header, Entry]:
        if name not in self._where:
            raise CheckpointError(
                f"the checkpoint {self.folder} has no tensor {name!r}{nearest(name, self._where)}; "
                "`types` lists what it has"
            )
        return self._where[name]


def _some(names: list[str], show: Any) -> str:
    text = ", ".join(show(name) for name in names[:_SHOWN])
    return text if len(names) <= _SHOWN else f"{text} and {len(names) - _SHOWN} more"


class Fillable(Protocol):
    """Records to be filled: a Store, or what hands them on to several."""

    @property
    def records(self) -> Sequence[Record]: ...
    def memory(self, index: int) -> memoryview | None: ...
    def write(self, index: int, step: int, buffer: memoryview) -> None: ...


def load_checkpoint(folder: Path | str, store: Fillable, *, verify: bool = False) -> Checkpoint:
    """Fill every record of the store from a checkpoint, however its writer had cut the records.

    The store is then at the checkpoint's step, not yet flushed. Returns the checkpoint: globals, extra.

    Raises CheckpointError, before any record changes, if it is incomplete, damaged or of another model.
    """
    checkpoint = Checkpoint.open(folder, verify=verify)
    checkpoint.check(store.records)
    scratch: memoryview | None = None
    for index, record in enumerate(store.records):
        buffer = store.memory(index)
        if buffer is None:
            if scratch is None:
                scratch = aligned_buffer(max(record.nbytes for record in store.records))
            buffer = scratch
        store.write(index, checkpoint.step, checkpoint.load_record(record, buffer))
    return checkpoint


def latest_checkpoint(folder: Path | str) -> Path | None:
    """The checkpoint of the highest step that opens; None if the folder has none.

    One that is damaged is passed over with a warning in the log. Raises CheckpointError if all are damaged.
    """
    first: CheckpointError | None = None
    for path in reversed(list_checkpoints(folder)):
        try:
            Checkpoint.open(path)
        except CheckpointError as error:
            first = first or error
            logger("store").warning("checkpoint passed over", path=str(path), reason=str(error))
        else:
            return path
    if first is not None:
        raise first
    return None


def verify_checkpoint(folder: Path | str) -> Checkpoint:
    """Open a checkpoint and compare every byte with what was written; CheckpointError if one differs."""
    return Checkpoint.open(folder, verify=True)
