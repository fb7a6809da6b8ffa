"""Arithmetic between a tensor and a 0-dim tensor, with the rounding of a Python-number scalar.

torch takes a Python scalar in at least float32, but casts a 0-dim tensor to the dtype of its
partner: 1e-3 would lose most of its digits beside a bfloat16 weight. These helpers compute 16-bit
tensors in float32 and round once, as the kernels do for a Python scalar.
"""

from __future__ import annotations

import torch
from torch import Tensor


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """float32 for the 16-bit floats, else `dtype` itself."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def add_scaled(x: Tensor, y: Tensor, scale: Tensor, sign: int = 1) -> Tensor:
    """x + sign * scale * y in x's dtype; for float32 bitwise `x.add(y, alpha=sign * scale)`."""
    c = compute_dtype(x.dtype)
    return torch.addcmul(x.to(c), y.to(c), scale.to(c), value=sign).to(x.dtype)


def scaled(x: Tensor, scale: Tensor) -> Tensor:
    """scale * x in x's dtype."""
    c = compute_dtype(x.dtype)
    return (x.to(c) * scale.to(c)).to(x.dtype)


def lerp(x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
    """x + weight * (y - x) in x's dtype."""
    c = compute_dtype(x.dtype)
    return torch.lerp(x.to(c), y.to(c), weight.to(c)).to(x.dtype)
