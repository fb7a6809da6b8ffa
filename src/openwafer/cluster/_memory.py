"""Tensors over bytes that lie elsewhere: segments, slots, store records."""

from __future__ import annotations

import ctypes
import math
import os
import resource

import torch

from openwafer.artifact import Record, TensorType
from openwafer.cluster._device import Bytes


def view(buffer: Bytes, kind: TensorType, offset: int) -> torch.Tensor:
    """A tensor of this type over `buffer` at `offset`; no copy. A buffer on a device is a flat uint8 tensor."""
    dtype = getattr(torch, kind.dtype)
    count = math.prod(kind.shape)
    if isinstance(buffer, torch.Tensor):
        return buffer[offset : offset + kind.nbytes].view(dtype).view(kind.shape)
    if not count:
        return torch.empty(kind.shape, dtype=dtype)
    return torch.frombuffer(buffer, dtype=dtype, count=count, offset=offset).view(kind.shape)


def stored_weights(record: Record, buffer: memoryview) -> dict[str, torch.Tensor]:
    """The weights of a record as stored, over its weight region."""
    return {entry.name: view(buffer, entry.type, entry.offset) for entry in record.weights}


def stored_state(record: Record, buffer: memoryview) -> dict[str, torch.Tensor]:
    """The optimizer state of a record, over the whole record."""
    return {
        entry.name: view(buffer, entry.type, record.weight_bytes + entry.offset) for entry in record.state
    }


def streamed_weights(record: Record, slot: Bytes) -> dict[str, torch.Tensor]:
    """The weights of a record as systems receive them."""
    return {entry.name: view(slot, entry.stream_type, entry.stream_offset) for entry in record.weights}


def gradients(record: Record, slot: Bytes) -> dict[str, torch.Tensor]:
    """float32 gradients of a record's trained weights, over a gradient slot."""
    return {
        entry.name: view(slot, TensorType("float32", entry.shape), offset)
        for entry, offset in zip(record.trained, record.gradient_offsets, strict=True)
    }


def is_finite(value: torch.Tensor, *, infinity: bool = False) -> bool:
    """Whether a tensor holds no NaN, and unless `infinity` is allowed none of those. One pass, no copy."""
    if not value.is_floating_point() or not value.numel():
        return True
    low, high = (float(end) for end in value.aminmax())
    return not math.isnan(low) if infinity else math.isfinite(low) and math.isfinite(high)


def release_freed() -> None:
    """Have the C library give freed memory back to the kernel, where it is one that can (glibc).

    Threads allocate from heaps of their own, so that what one has freed is of no use to the others.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_rss() -> int:
    """High-water mark of this process's memory in bytes (VmHWM; ru_maxrss where there is no /proc)."""
    try:
        with open(f"/proc/{os.getpid()}/status") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
