"""Records and files as torch tensors, without copies where the memory allows it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import torch

from openwafer.artifact import Record, Tensor, TensorType
from openwafer.base import InputError
from openwafer.cluster.store._files import flat


def placed(record: Record) -> list[tuple[Tensor, int]]:
    """Every tensor of the record, weights then state, with its offset from the start of the record."""
    return [(tensor, tensor.offset) for tensor in record.weights] + [
        (tensor, record.weight_bytes + tensor.offset) for tensor in record.state
    ]


def view_tensors(record: Record, buffer: memoryview) -> dict[str, torch.Tensor]:
    """The record's tensors, by name, in the memory of `buffer` (a writable record, weights then state).

    Writing to a tensor writes to the buffer, which lives as long as any of them.
    """
    return {tensor.name: tensor_at(buffer, offset, tensor.type) for tensor, offset in placed(record)}


def tensor_at(buffer: memoryview, offset: int, kind: TensorType) -> torch.Tensor:
    """A tensor in the memory of `buffer`, `offset` bytes from its start."""
    dtype: torch.dtype = getattr(torch, kind.dtype)
    count = torch.Size(kind.shape).numel()
    if count == 0:
        return torch.empty(kind.shape, dtype=dtype)
    return torch.frombuffer(flat(buffer), dtype=dtype, count=count, offset=offset).view(kind.shape)


def part_of(tensor: Tensor, whole: torch.Tensor) -> torch.Tensor:
    """What a tensor of a record is of a whole one, as a view; a whole of another shape is returned as it is."""
    if tensor.part is None or not tensor.shape or tuple(whole.shape) != tensor.part.shape:
        return whole
    return whole[tensor.part.start : tensor.part.start + tensor.shape[0]]


def tensor_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous CPU tensor."""
    if not tensor.numel():
        return memoryview(b"")
    return tensor.detach().reshape(-1).view(torch.uint8).numpy().data


def type_of(tensor: torch.Tensor) -> TensorType:
    """Dtype and shape as records write them."""
    return TensorType(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def zero_holes(record: Record, buffer: memoryview) -> None:
    """Zero what no tensor covers, so that equal values make equal bytes, and equal hashes."""
    end = 0
    for tensor, offset in sorted(placed(record), key=lambda item: (item[1], item[0].nbytes)):
        buffer[end:offset] = bytes(offset - end)
        end = offset + tensor.nbytes
    buffer[end : record.nbytes] = bytes(record.nbytes - end)


def check_buffer(record: Record, buffer: memoryview) -> memoryview:
    """The record's part of a buffer. Raises InputError if the buffer is too short."""
    if buffer.nbytes < record.nbytes:
        raise InputError(
            f"record {record.name!r} needs {record.nbytes} bytes, the buffer has {buffer.nbytes}; "
            "allocate it with aligned_buffer(record.nbytes)"
        )
    return flat(buffer)[: record.nbytes]


def check_names(records: Iterable[Record]) -> None:
    """Raises InputError if two tensors of the records have one name: files and checkpoints go by names."""
    seen: dict[str, str] = {}
    for record in records:
        for tensor, _ in placed(record):
            if tensor.name in seen:
                raise InputError(
                    f"tensor {tensor.name!r} is in record {seen[tensor.name]!r} and in {record.name!r}; "
                    "a name stands for one tensor, so rename one"
                )
            seen[tensor.name] = record.name


def nearest(name: str, known: Iterable[str]) -> str:
    """` (nearest: 'x')` for a message, or nothing."""
    match = difflib.get_close_matches(name, list(known), 1, cutoff=0.5)
    return f" (nearest: {match[0]!r})" if match else ""
