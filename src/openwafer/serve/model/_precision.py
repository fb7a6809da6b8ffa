"""In which dtype a model computes, and how its matrices are kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from openwafer.base import InputError

_NAMES = {
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
    "float32": torch.float32,
    "fp32": torch.float32,
}


@dataclass(frozen=True, slots=True)
class Precision:
    """`compute` is the dtype of activations, norms, the embedding and the KV cache; matrices are too, unless quantised."""

    compute: torch.dtype
    quantise: Literal["none", "int8"] = "none"
    """int8: a layer's matrices and the head's keep whole numbers of 8 bits, with a scale and a sum for each row."""

    def matrix_bytes(self, rows: int, columns: int) -> int:
        """Bytes of one matrix of this precision."""
        if self.quantise == "int8":
            return rows * (columns + 8)
        return rows * columns * self.compute.itemsize

    def __str__(self) -> str:
        return "int8" if self.quantise == "int8" else str(self.compute).removeprefix("torch.")


def choose_precision(dtype: str, stored: torch.dtype) -> Precision:
    """Precision from an option: `auto` (as stored), `bfloat16`, `float16`, `float32` (or `bf16` ...) or `int8`.

    With int8 the arithmetic is in the stored dtype. Raises InputError for other words.
    """
    if dtype == "auto":
        return Precision(stored)
    if dtype == "int8":
        return Precision(stored, "int8")
    if dtype not in _NAMES:
        raise InputError(f"{dtype!r} is no dtype to serve in; choose auto, {', '.join(_NAMES)} or int8")
    return Precision(_NAMES[dtype])
