"""A whole decoder layer of a decode step in one native call.

T tokens, H hidden, N heads, D numbers of a head.
"""

from __future__ import annotations

from typing import final

import torch

from openwafer.serve.kernels._attention import Paged
from openwafer.serve.kernels._linear import NATIVE_TOKENS, Linear
from openwafer.serve.kernels._load import TYPES, Level, native, native_level


@final
class DecoderLayer:
    """RMS norm, attention with rotary positions, RMS norm and the gated product, each added to what came in.

    The same arithmetic as `rms_norm`, `Linear`, `rotary`, `attention` and `swiglu` one after another, with values rounded
    to the tensors' dtype at the same places. It keeps the tensors and the matrices; qkv has the rows of queries, keys and
    values one after another, gate_up those of gate and up.
    """

    def __init__(
        self,
        *,
        attention_norm: torch.Tensor,
        qkv: Linear,
        output: Linear,
        mlp_norm: torch.Tensor,
        gate_up: Linear,
        down: Linear,
        query_norm: torch.Tensor | None,
        key_norm: torch.Tensor | None,
        epsilon: float,
        heads: int,
        heads_kv: int,
        head_dim: int,
        window: int | None,
        level: Level | None = None,
    ) -> None:
        """window: how many tokens a token sees; None: all before it. query_norm, key_norm: per head, or None."""
        norms = [attention_norm, mlp_norm, query_norm, key_norm]
        self._norms = [norm.contiguous() if norm is not None else None for norm in norms]
        self._linears = (qkv, output, gate_up, down)
        self._dtype = qkv.dtype
        self._native = None
        number = native_level(level)
        matrices = [linear.native for linear in self._linears if linear.native is not None]
        if native is None or number is None or len(matrices) < len(self._linears) or head_dim % 16:
            return
        self._native = native.Layer(
            number,
            TYPES[self._dtype],
            matrices,
            [0 if norm is None else norm.data_ptr() for norm in self._norms],
            epsilon,
            heads,
            heads_kv,
            head_dim,
            window or 0,
        )

    def takes(self, x_TH: torch.Tensor, paged: Paged) -> bool:
        """Whether a call may be made with these: few tokens, and no sequence with many."""
        return self._native is not None and len(x_TH) <= NATIVE_TOKENS and not paged.long

    def __call__(
        self,
        x_TH: torch.Tensor,
        paged: Paged,
        cos_TD: torch.Tensor,
        sin_TD: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """The hidden states after the layer, whose cache gets the keys and values of the tokens.

        cos_TD, sin_TD: float32 [T, D / 2]. keys, values: [blocks, heads_kv, BLOCK_TOKENS, D], contiguous, in x's dtype.
        """
        assert self._native is not None
        assert x_TH.dtype == keys.dtype == values.dtype == self._dtype
        assert all(tensor.is_contiguous() for tensor in (x_TH, cos_TD, sin_TD, keys, values))
        assert cos_TD.dtype == sin_TD.dtype == torch.float32
        out_TH = torch.empty_like(x_TH)
        self._native.run(
            x_TH.data_ptr(),
            len(x_TH),
            paged.few_F3.data_ptr(),
            paged.tables_SB.data_ptr(),
            paged.tables_SB.shape[1],
            cos_TD.data_ptr(),
            sin_TD.data_ptr(),
            keys.data_ptr(),
            values.data_ptr(),
            out_TH.data_ptr(),
        )
        return out_TH
