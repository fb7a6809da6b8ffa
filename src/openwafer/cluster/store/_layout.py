"""Which file of a checkpoint holds which tensors: one file per record, and parts of a tensor together in one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from openwafer.artifact import DTYPE_BYTES, Record, Tensor, TensorType
from openwafer.base import InputError
from openwafer.cluster.store._files import CHUNK_BYTES
from openwafer.cluster.store._format import Entry, encode_header
from openwafer.cluster.store._tensors import placed

_ALIGN_BYTES = 64
Kind = Literal["weights", "state"]


@dataclass(frozen=True)
class ShardLayout:
    """One file: its header, where each tensor lies, and the records that fill it."""

    file: str
    kind: Kind
    entries: dict[str, Entry]
    header: bytes
    records: frozenset[int]

    @property
    def nbytes(self) -> int:
        return len(self.header) + sum(entry.type.nbytes for entry in self.entries.values())

    def pieces(self, record: Record, data: memoryview) -> Iterator[tuple[int, memoryview]]:
        """What a record (its bytes are `data`) holds of the file, in chunks with their offsets, in order."""
        own = [
            (len(self.header) + self.entries[tensor.whole].start + tensor.whole_offset, offset, tensor.nbytes)
            for tensor, offset in placed(record)
            if tensor.whole in self.entries
        ]
        for at, offset, nbytes in sorted(own):
            for done in range(0, nbytes, CHUNK_BYTES):
                yield at + done, data[offset + done : offset + min(done + CHUNK_BYTES, nbytes)]


def shard_layouts(records: Sequence[Record]) -> tuple[ShardLayout, ...]:
    """The files of a checkpoint, in the order of records, weights before state.

    A tensor that records hold in parts lies whole in the file of the first of them. Raises InputError if the parts do
    not make up the whole.
    """
    members: dict[str, list[tuple[int, Tensor]]] = {}
    for index, record in enumerate(records):
        for tensor, _ in placed(record):
            members.setdefault(tensor.whole, []).append((index, tensor))
    for name, found in members.items():
        _check_parts(name, [tensor for _, tensor in found])
    out = []
    kinds: tuple[Kind, ...] = ("weights", "state")
    for index, record in enumerate(records):
        for kind in kinds:
            names = [t.whole for t in (record.weights if kind == "weights" else record.state)]
            own = {name: members[name] for name in names if members[name][0][0] == index}
            if own:
                out.append(_layout(f"{kind}-{index + 1:05d}-of-{len(records):05d}.safetensors", kind, own))
    return tuple(out)


def _layout(file: str, kind: Kind, own: dict[str, list[tuple[int, Tensor]]]) -> ShardLayout:
    types = {name: found[0][1].whole_type for name, found in own.items()}
    entries, end = {}, 0
    # Wide elements first: without holes, every tensor then starts at a multiple of its element size.
    for name, type_ in sorted(types.items(), key=lambda item: -DTYPE_BYTES[item[1].dtype]):
        entries[name] = Entry(name, type_, end, end + type_.nbytes)
        end += type_.nbytes
    return ShardLayout(
        file=file,
        kind=kind,
        entries=entries,
        header=encode_header(entries.values(), {"format": "pt"}, _ALIGN_BYTES),
        records=frozenset(index for found in own.values() for index, _ in found),
    )


def _check_parts(name: str, found: list[Tensor]) -> None:
    kinds: set[TensorType] = {tensor.whole_type for tensor in found}
    if len(kinds) > 1 or (len(found) > 1 and any(tensor.part is None for tensor in found)):
        raise InputError(
            f"records hold {name!r} as {' and as '.join(sorted(map(str, kinds)))}; a name stands for one tensor, so "
            "rename one"
        )
    spans = sorted((tensor.whole_offset, tensor.whole_offset + tensor.nbytes) for tensor in found)
    if found[0].shape and (
        [0, *(stop for _, stop in spans)] != [*(start for start, _ in spans), found[0].whole_type.nbytes]
    ):
        raise InputError(
            f"the records' parts of {name!r} ({found[0].whole_type}) cover bytes {spans}, not all of it once; cut it "
            "into rows that follow each other"
        )
