"""What a layer does between its products, on whole tensors. T tokens, N heads, D numbers of a head, I intermediate."""

from __future__ import annotations

import torch
from torch.nn import functional

from openwafer.serve.kernels._load import TYPES, native, native_level


def rms_norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """x by the root of its mean square over the last dim, in float32, then by weight in x's dtype."""
    wide = x.float()
    return weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)).to(x.dtype)


def rotary(x_TND: torch.Tensor, cos_TD: torch.Tensor, sin_TD: torch.Tensor) -> torch.Tensor:
    """Turn numbers i and i + D / 2 of each head together, in float32; cosines and sines are float32 [T, D / 2]."""
    a, b = x_TND.float().chunk(2, -1)
    cos, sin = cos_TD[:, None], sin_TD[:, None]
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1).to(x_TND.dtype)


def swiglu(gate_up_TI: torch.Tensor) -> torch.Tensor:
    """silu of the first half of the last dim, times the second half; silu is rounded to the tensor's dtype.

    On the CPU natively: torch rounds a number by where it lies in what a thread was given, so by what else is in the batch.
    """
    tokens, width = len(gate_up_TI), gate_up_TI.shape[1] // 2
    level = native_level(None)
    if native is None or level is None or gate_up_TI.device.type != "cpu":
        gate, up = gate_up_TI.chunk(2, -1)
        return functional.silu(gate) * up
    gate_up_TI = gate_up_TI.contiguous()
    out_TI = torch.empty((tokens, width), dtype=gate_up_TI.dtype)
    native.swiglu(level, TYPES[out_TI.dtype], tokens, width, gate_up_TI.data_ptr(), out_TI.data_ptr())
    return out_TI
