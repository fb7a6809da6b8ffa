"""A matrix that tokens are multiplied by. T tokens, N rows, K columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, final

import torch
from torch.nn import functional

from openwafer.base import InputError
from openwafer.serve.kernels._load import TYPES, Level, native, native_level

if TYPE_CHECKING:
    from openwafer.serve.kernels import _native

NATIVE_TOKENS = 8
"""Up to so many tokens are multiplied natively; more are faster by torch, which blocks for the caches.

As many as registers hold sums for: a native product reads its matrix once for all of them, and eight take hardly longer than
one where two threads share the memory (benchmarks/serve_kernels.py, `tokens`). One number for all dtypes and shapes keeps a
batch's tokens on one side.
"""

_CHUNK_ROWS = 1024

_TORCH_TOKENS = 16
"""From so many float32 tokens on torch adds up alike, however many there are; for 9 to 11 it divides sums among threads."""


@final
class Linear:
    """x @ weight.T + bias, over a weight [N, K] that it keeps, or with `int8` over a copy of a byte for each number.

    int8: row n becomes round(weight / scale_n) with scale_n = max |weight_n| / 127; activations stay as they are. On the
    CPU up to NATIVE_TOKENS tokens are multiplied natively: sums are float32 (int8: exact up to x's rounding to 24 bits
    below the token's largest), rounded once to x's dtype, and no token's result depends on the others. A token with an
    infinity or a NaN gives NaN everywhere with int8.

    level: which native kernel, by default the best that there is.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        quantise: Literal["none", "int8"] = "none",
        level: Level | None = None,
    ) -> None:
        """weight and bias have one dtype, that of the tokens: float32, float16 or bfloat16.

        Raises InputError for other dtypes and shapes, and for levels that the machine does not have.
        """
        if weight.dim() != 2 or not weight.is_floating_point() or weight.dtype not in TYPES:
            raise InputError(
                f"a matrix of {weight.dtype} {list(weight.shape)} cannot be multiplied by; give float32, float16 or bfloat16 "
                "of two dims"
            )
        self.rows, self.columns = weight.shape
        if bias is not None and (bias.shape != (self.rows,) or bias.dtype != weight.dtype):
            raise InputError(
                f"a bias of {bias.dtype} {list(bias.shape)} does not fit {weight.dtype} {list(weight.shape)}; give one number "
                "for each row, in the matrix's dtype"
            )
        self.dtype = weight.dtype
        self._level = native_level(level)
        self._scale_N: torch.Tensor | None = None
        self._sum_N: torch.Tensor | None = None
        self._weight, self._bias = weight, bias
        if quantise == "int8":
            self._weight, self._scale_N, self._sum_N = _quantised(weight)
        self._native = None
        if native is not None and self._level is not None and weight.device.type == "cpu":
            self._weight = self._weight.contiguous()
            self._bias = bias.contiguous() if bias is not None else None
            self._native = native.Matrix(
                self._level,
                TYPES[self._weight.dtype],
                TYPES[self.dtype],
                self.rows,
                self.columns,
                self._weight.data_ptr(),
                0 if self._bias is None else self._bias.data_ptr(),
                0 if self._scale_N is None else self._scale_N.data_ptr(),
                0 if self._sum_N is None else self._sum_N.data_ptr(),
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the matrix as it is kept, with its scales and bias."""
        kept = (self._weight, self._bias, self._scale_N, self._sum_N)
        return sum(tensor.nbytes for tensor in kept if tensor is not None)

    @property
    def native(self) -> _native.Matrix | None:
        """The matrix as native kernels take it; None where torch multiplies."""
        return self._native

    def __call__(self, x_TK: torch.Tensor, wide: bool = False) -> torch.Tensor:
        """[T, N] in x's dtype, which is the matrix's; wide: the same values as float32."""
        if self._native is not None and len(x_TK) <= NATIVE_TOKENS:
            x_TK = x_TK.contiguous()
            if x_TK.dtype != self.dtype or x_TK.dim() != 2 or x_TK.shape[1] != self.columns:
                raise InputError(
                    f"{x_TK.dtype} {list(x_TK.shape)} does not fit a matrix of {self.columns} columns for {self.dtype}; give "
                    "[tokens, columns] in that dtype"
                )
            y_TN = torch.empty((len(x_TK), self.rows), dtype=torch.float32 if wide else self.dtype)
            self._native.multiply(x_TK.data_ptr(), len(x_TK), y_TN.data_ptr(), wide)
            return y_TN
        y_TN = self._by_torch(x_TK)
        return y_TN.float() if wide else y_TN

    def _by_torch(self, x_TK: torch.Tensor) -> torch.Tensor:
        if self._scale_N is None:
            if self.dtype == torch.float32 and len(x_TK) < _TORCH_TOKENS:
                padded_TK = functional.pad(x_TK, (0, 0, 0, _TORCH_TOKENS - len(x_TK)))
                return functional.linear(padded_TK, self._weight, self._bias)[: len(x_TK)]
            return functional.linear(x_TK, self._weight, self._bias)
        weight = self._weight.to(self.dtype)
        unit = 1.0
        if self.dtype == torch.float16:  # whose range sums of numbers up to 127 would leave
            unit = 2.0**-7
            weight.mul_(unit)
        y_TN = functional.linear(x_TK, weight).float() * (self._scale_N / unit)
        return (y_TN if self._bias is None else y_TN + self._bias).to(self.dtype)


def _quantised(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Whole numbers, their scales, and their sums, by row; chunks of rows keep what is needed in between small."""
    whole = torch.empty_like(weight, dtype=torch.int8, memory_format=torch.contiguous_format)
    scale_N = torch.empty(len(weight), dtype=torch.float32, device=weight.device)
    sum_N = torch.empty(len(weight), dtype=torch.int32, device=weight.device)
    if native is not None and weight.device.type == "cpu":
        native.want_large_pages(whole.data_ptr(), whole.nbytes)
    for start in range(0, len(weight), _CHUNK_ROWS):
        rows = slice(start, start + _CHUNK_ROWS)
        wide = weight[rows].float()
        # the smallest normal number: a row of zeros has a scale, too
        scale_N[rows] = (wide.abs().amax(1) / 127).clamp(min=torch.finfo(torch.float32).tiny)
        whole[rows] = (wide / scale_N[rows, None]).round().to(torch.int8)
        sum_N[rows] = whole[rows].sum(1, dtype=torch.int32)
    return whole, scale_N, sum_N
