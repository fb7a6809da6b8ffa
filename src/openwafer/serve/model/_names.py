"""Which tensors of a checkpoint make which of ours, and their shapes.

A layer multiplies by four matrices: those of queries, keys and values lie in one, row by row, and so do gate and up; fewer
and larger products read memory faster.
"""

from __future__ import annotations

from dataclasses import dataclass

from openwafer.serve.model._config import ModelConfig

MATRICES = ("qkv", "output", "gate_up", "down")
"""A layer's tensors that are quantised by `int8`; all others keep the dtype of the arithmetic."""


@dataclass(frozen=True, slots=True)
class TensorPlan:
    """One of our tensors: its shape, and the checkpoint's tensors (without `model.`) whose rows it holds, in order."""

    shape: tuple[int, ...]
    sources: tuple[tuple[str, tuple[int, ...]], ...]

    @property
    def elements(self) -> int:
        product = 1
        for size in self.shape:
            product *= size
        return product


def layer_plan(config: ModelConfig, layer: int) -> dict[str, TensorPlan]:
    """The tensors of one layer by our names, in the order in which they are used."""
    queries, keys = config.heads * config.head_dim, config.heads_kv * config.head_dim
    attention, mlp = f"layers.{layer}.self_attn", f"layers.{layer}.mlp"
    plan = {"attention_norm": _plan((config.hidden,), f"layers.{layer}.input_layernorm.weight")}

    def matrix(name: str, bias: bool, columns: int, **rows: int) -> None:
        parts = list(rows.items())
        where = mlp if name in ("gate_up", "down") else attention
        total = sum(rows.values())
        plan[name] = TensorPlan(
            (total, columns), tuple((f"{where}.{part}_proj.weight", (n, columns)) for part, n in parts)
        )
        if bias:
            plan[f"{name}_bias"] = TensorPlan(
                (total,), tuple((f"{where}.{part}_proj.bias", (n,)) for part, n in parts)
            )

    matrix("qkv", config.qkv_bias, config.hidden, q=queries, k=keys, v=keys)
    if config.qk_norm:
        plan["query_norm"] = _plan((config.head_dim,), f"{attention}.q_norm.weight")
        plan["key_norm"] = _plan((config.head_dim,), f"{attention}.k_norm.weight")
    matrix("output", config.output_bias, queries, o=config.hidden)
    plan["mlp_norm"] = _plan((config.hidden,), f"layers.{layer}.post_attention_layernorm.weight")
    matrix("gate_up", config.mlp_bias, config.hidden, gate=config.intermediate, up=config.intermediate)
    matrix("down", config.mlp_bias, config.intermediate, down=config.hidden)
    return plan


def embedding_plan(config: ModelConfig) -> TensorPlan:
    """The embedding's matrix: one row for each token."""
    return _plan((config.vocabulary, config.hidden), "embed_tokens.weight")


def head_plan(config: ModelConfig) -> dict[str, TensorPlan]:
    """The last norm, and the head's matrix; a tied head's is the embedding's."""
    weight = "embed_tokens.weight" if config.tied else "lm_head.weight"
    return {
        "norm": _plan((config.hidden,), "norm.weight"),
        "head": _plan((config.vocabulary, config.hidden), weight),
    }


def _plan(shape: tuple[int, ...], name: str) -> TensorPlan:
    return TensorPlan(shape, ((name, shape),))
