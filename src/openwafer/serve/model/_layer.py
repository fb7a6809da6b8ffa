"""One decoder layer: attention over the paged cache, then the gated product, each added to what came in.

T tokens, P those of a part of them, H hidden, I intermediate, N heads, D numbers of a head.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch

from openwafer.serve.kernels import DecoderLayer, Linear, attention, rms_norm, rotary, swiglu
from openwafer.serve.model._config import ModelConfig
from openwafer.serve.model._names import MATRICES
from openwafer.serve.model._precision import Precision
from openwafer.serve.model._step import Part, Step


@final
class Layer:
    """A layer over the tensors that `layer_plan` names; it keeps them, and copies only what it quantises."""

    def __init__(
        self, config: ModelConfig, index: int, tensors: Mapping[str, torch.Tensor], precision: Precision
    ) -> None:
        self._config = config
        self._window = config.windows[index]
        self._norms = {name: tensor for name, tensor in tensors.items() if name.endswith("_norm")}
        self._matrices = {
            name: Linear(tensors[name], tensors.get(f"{name}_bias"), precision.quantise) for name in MATRICES
        }
        self._native = DecoderLayer(
            qkv=self._matrices["qkv"],
            output=self._matrices["output"],
            gate_up=self._matrices["gate_up"],
            down=self._matrices["down"],
            attention_norm=tensors["attention_norm"],
            mlp_norm=tensors["mlp_norm"],
            query_norm=tensors.get("query_norm"),
            key_norm=tensors.get("key_norm"),
            epsilon=config.norm_epsilon,
            heads=config.heads,
            heads_kv=config.heads_kv,
            head_dim=config.head_dim,
            window=self._window,
        )

    @property
    def nbytes(self) -> int:
        """Bytes of the weights."""
        matrices = sum(matrix.nbytes for matrix in self._matrices.values())
        return matrices + sum(norm.nbytes for norm in self._norms.values())

    def __call__(
        self, x_TH: torch.Tensor, step: Step, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """The hidden states after this layer, whose cache gets the keys and values of the step's tokens.

        keys, values: [blocks, heads_kv, BLOCK_TOKENS, head_dim].
        """
        if len(step.parts) == 1:
            return self._run(x_TH, step.parts[0], keys, values)
        after_TH = torch.empty_like(x_TH)
        for part in step.parts:
            after_TH[part.tokens_P] = self._run(x_TH[part.tokens_P], part, keys, values)
        return after_TH

    def _run(self, x_PH: torch.Tensor, part: Part, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        if self._native.takes(x_PH, part.paged):
            return self._native(x_PH, part.paged, part.cos_PD, part.sin_PD, keys, values)
        matrices, norms, epsilon = self._matrices, self._norms, self._config.norm_epsilon
        mixed_PND = self._attention(rms_norm(x_PH, norms["attention_norm"], epsilon), part, keys, values)
        x_PH = x_PH + matrices["output"](mixed_PND.flatten(1))
        gate_up_PI = matrices["gate_up"](rms_norm(x_PH, norms["mlp_norm"], epsilon))
        return x_PH + matrices["down"](swiglu(gate_up_PI))

    def _attention(
        self, x_PH: torch.Tensor, part: Part, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        config, norms, epsilon = self._config, self._norms, self._config.norm_epsilon
        heads = [config.heads, config.heads_kv, config.heads_kv]
        qkv_PND = self._matrices["qkv"](x_PH).view(len(x_PH), sum(heads), config.head_dim)
        query_PND, key_PND, value_PND = torch.split(qkv_PND, heads, 1)
        if config.qk_norm:
            query_PND = rms_norm(query_PND, norms["query_norm"], epsilon)
            key_PND = rms_norm(key_PND, norms["key_norm"], epsilon)
        keys[part.blocks_P, :, part.rows_P] = rotary(key_PND, part.cos_PD, part.sin_PD)
        values[part.blocks_P, :, part.rows_P] = value_PND
        query_PND = rotary(query_PND, part.cos_PD, part.sin_PD)
        return attention(query_PND, keys, values, part.paged, self._window)
