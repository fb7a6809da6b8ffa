"""Tensors on the wire: the protocol's element types and how their bytes lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from openwafer.base import InputError
from openwafer.compat.appliance._wheel import wheel

# element type -> the torch dtype of the value, and of the bytes that travel: truth values travel as 16-bit integers
_DTYPES = {
    "T_I1": (torch.bool, torch.int16),
    "T_I16": (torch.int16, torch.int16),
    "T_I32": (torch.int32, torch.int32),
    "T_I64": (torch.int64, torch.int64),
    "T_U8": (torch.uint8, torch.uint8),
    "T_U16": (torch.uint16, torch.uint16),
    "T_U32": (torch.uint32, torch.uint32),
    "T_U64": (torch.uint64, torch.uint64),
    "T_F16": (torch.float16, torch.float16),
    "T_BF16": (torch.bfloat16, torch.bfloat16),
    "T_CB16": (torch.float16, torch.float16),
    "T_F32": (torch.float32, torch.float32),
    "T_F64": (torch.float64, torch.float64),
}
CHUNK_BYTES = 64 << 20
"""Of one message of a tensor that is sent in several."""


def dtypes_of(element: int) -> tuple[torch.dtype, torch.dtype]:
    """The dtype of a tensor of this element type, and that of its bytes. Raises InputError for an unknown type."""
    kinds = wheel().rtfx.RtFxProto.ElementType
    name = kinds.Name(element) if element in kinds.values() else str(element)
    if name not in _DTYPES:
        raise InputError(f"a tensor of element type {name} cannot be read; {', '.join(_DTYPES)} can")
    return _DTYPES[name]


def element_of(dtype: torch.dtype) -> int:
    """The element type that a tensor of this dtype is sent as."""
    for name, (kind, _) in _DTYPES.items():
        if kind is dtype:
            return int(wheel().rtfx.RtFxProto.ElementType.Value(name))
    raise InputError(f"a tensor of {dtype} cannot be sent to the client")


def from_bytes(element: int, shape: Sequence[int], data: bytes | bytearray) -> torch.Tensor:
    """The tensor. Raises InputError if the bytes are too few or too many."""
    dtype, stored = dtypes_of(element)
    need = math.prod(shape) * stored.itemsize
    if need != len(data):
        raise InputError(
            f"a tensor of shape {list(shape)} and {dtype} has {need} bytes, but {len(data)} came"
        )
    if not data:
        return torch.empty(tuple(shape), dtype=dtype)
    value = torch.frombuffer(bytearray(data), dtype=stored).reshape(tuple(shape))
    return value.ne(0) if dtype is torch.bool else value


def pieces(value: torch.Tensor, chunk_bytes: int = CHUNK_BYTES) -> Iterator[Any]:
    """The tensor as RtFxProto messages, each with the whole shape and the next of its bytes; at least one."""
    rtfx = wheel().rtfx
    element = element_of(value.dtype)
    _, stored = dtypes_of(element)
    flat = value.detach().to(stored).contiguous().reshape(-1).view(torch.uint8)
    data = flat.numpy().tobytes()
    for start in range(0, max(1, len(data)), chunk_bytes):
        yield rtfx.RtFxProto(
            dtype=element,
            tensor=rtfx.RtFxProto.RtFxTensor(shape=list(value.shape), data=data[start : start + chunk_bytes]),
        )
