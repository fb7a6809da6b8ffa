"""Large tensors in memory of their own: zeroed pages, large ones where the system has them, taken when first written."""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch

from openwafer.base import MIB, PlanError, format_bytes

_SMALL_BYTES = MIB


def new_tensor(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str = "cpu"
) -> torch.Tensor:
    """Zeros. On the CPU their memory is page-aligned, asks for large pages, and is only taken where it is written.

    torch.zeros would write every page at once, and its memory comes in pages of 4 KiB, through which a product by a matrix
    reads more slowly (measured on one thread of an EPYC Turin, a bfloat16 dot product for each row of 1 GiB: 29 GB/s, and
    33 in large pages).

    Raises PlanError if the system does not have that much.
    """
    nbytes = torch.Size(shape).numel() * dtype.itemsize
    if torch.device(device).type != "cpu" or nbytes < _SMALL_BYTES:
        return torch.zeros(shape, dtype=dtype, device=device)
    try:
        pages = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise PlanError(
            f"{format_bytes(nbytes)} of memory are not to be had ({error.strerror}); give the process more memory or load "
            "the model with fewer bytes (int8, a smaller cache)"
        ) from error
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without large pages is slower, not wrong
            pages.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(pages, dtype=dtype).view(shape)
