"""Which layers a stage of a pipeline gets, and how stages speak."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import msgspec
import torch

from openwafer.base import MIB, PlanError, RoleError, StallError
from openwafer.serve.executors._base import Batch
from openwafer.serve.model import ModelConfig, Precision, head_bytes, layer_bytes
from openwafer.wire import RingReader, RingWriter

COORDINATOR = "engine"
PULSE_BYTES = 64
"""A stage's place in the segment `pulse`: a cache line of its own, with these numbers of eight bytes, which only grow.

ALIVE counts signs of life, which a thread gives for nothing but being given time; WORKED steps of work: a batch that was
taken, a layer that was computed, a batch that was handed on; COMPUTED batches; BUSY_NS the nanoseconds that they took.
"""
ALIVE, WORKED, COMPUTED, BUSY_NS = range(4)
PATIENCE_S = 0.25
"""How long the coordinator waits before it looks whether all stages live."""

_SLOT_BYTES = 4 * MIB


class Header(msgspec.Struct, frozen=True, array_like=True):
    """A batch without its tokens, as it travels."""

    positions: bytes
    starts: tuple[int, ...]
    contexts: tuple[int, ...]
    tables: bytes
    outputs: tuple[int, ...]

    @classmethod
    def of(cls, batch: Batch) -> Header:
        """The header of a batch."""
        return cls(
            positions=batch.positions_T.numpy().tobytes(),
            starts=batch.starts,
            contexts=batch.contexts,
            tables=batch.tables_SB.contiguous().numpy().tobytes(),
            outputs=batch.outputs,
        )

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor]:
        """positions_T and tables_SB."""
        positions_T = torch.frombuffer(bytearray(self.positions), dtype=torch.int64)
        tables = torch.frombuffer(bytearray(self.tables), dtype=torch.int32)
        return positions_T, tables.view(len(self.contexts), -1)


class Parcel(msgspec.Struct, frozen=True, array_like=True):
    """Says what a slot holds: a part of `nbytes` bytes. The first part of a batch brings its header to the next stage."""

    nbytes: int
    header: Header | None


class Report(msgspec.Struct, frozen=True, array_like=True):
    """What a stage tells the coordinator: bytes loaded, that it is ready, or the error that ended it."""

    kind: Literal["loaded", "ready", "failed"]
    text: str = ""
    """What was loaded last; the error's text."""
    error: str = ""
    """The error's class."""
    done: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStart:
    """All that a stage's process is told."""

    index: int
    stages: int
    folder: str
    precision: Precision
    layers: range
    blocks: int
    device: str
    threads: int

    @property
    def name(self) -> str:
        """As errors name it, and transports."""
        return stage_name(self.index)


def stage_name(index: int) -> str:
    return f"stage {index}"


def split_layers(config: ModelConfig, precision: Precision, stages: int) -> list[range]:
    """Contiguous layers for each stage, so that the stage which reads most bytes for a token reads as few as can be.

    The head counts with the last stage. The embedding does not: of it only the tokens' rows are read. Where several splits
    are as good, the first stages get the layers.

    Raises PlanError if there are fewer layers than stages.
    """
    if not 1 <= stages <= config.layers:
        raise PlanError(
            f"{config.layers} layers cannot be shared out among {stages} stages; take 1 to {config.layers} systems"
        )
    layer, head = layer_bytes(config, precision), head_bytes(config, precision)

    def longest(last: int) -> int:
        return max(layer * -(-(config.layers - last) // (stages - 1)), last * layer + head)

    last = config.layers
    if stages > 1:
        last = min(range(1, config.layers - stages + 2), key=longest)
    counts = []
    left = config.layers - last
    for remaining in range(stages - 1, 0, -1):
        counts.append(-(-left // remaining))
        left -= counts[-1]
    counts.append(last)
    ranges, start = [], 0
    for count in counts:
        ranges.append(range(start, start + count))
        start += count
    return ranges


def slot_bytes(row_bytes: int, rows: int) -> int:
    """The size of a ring's slots, for tensors of so many rows; larger ones travel in parts."""
    return min(row_bytes * rows, max(_SLOT_BYTES, row_bytes))


def send(
    writer: RingWriter,
    header: Header | None,
    tensor: torch.Tensor,
    look: Callable[[], None] | None = None,
) -> None:
    """Put a tensor into a ring, in as many parts as it needs. look: called every PATIENCE_S while no slot is free."""
    data = tensor.contiguous().view(-1).view(torch.uint8).numpy().data
    size = writer.shape.slot_bytes
    for start in range(0, max(1, len(data)), size):
        part = data[start : start + size]
        slot = _acquire(writer, look)
        slot[: len(part)] = part
        writer.commit(Parcel(len(data), header if start == 0 else None), len(part))


def receive(reader: RingReader) -> tuple[Header | None, torch.Tensor]:
    """The next tensor, as bytes in memory of its own, and the header that came with it."""
    header, whole, filled = None, None, 0
    while whole is None or filled < len(whole):
        message = reader.receive(type=Parcel)
        if whole is None:
            header, whole = message.token.header, torch.empty(message.token.nbytes, dtype=torch.uint8)
        elif message.token.nbytes != len(whole):
            raise RoleError(
                f"a tensor of {len(whole)} bytes ended after {filled}; are all stages of the same version?"
            )
        part = message.data
        if len(part):
            whole[filled : filled + len(part)] = torch.frombuffer(part, dtype=torch.uint8)
        filled += len(part)
        reader.release(message.ticket)
    return header, whole


def view_bytes(data: torch.Tensor, dtype: torch.dtype, columns: int) -> torch.Tensor:
    """Bytes as rows of `columns` numbers."""
    return data.view(dtype).view(-1, columns)


def _acquire(writer: RingWriter, look: Callable[[], None] | None) -> memoryview:
    if look is None:
        return writer.acquire()
    while True:
        try:
            return writer.acquire(timeout_s=PATIENCE_S)
        except StallError:
            look()
