"""Rotary position embedding: how fast each pair of a head's numbers turns, and its stretching for longer contexts.

Sources: Su et al. 2021 (the rotation), Chen et al. 2023 (linear), Peng et al. 2023 (YaRN), and Llama 3.1's published
configuration (`llama3`): slow turns are stretched by `factor`, fast ones are left, those between are mixed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch

from openwafer.base import CheckpointError, UnsupportedModelError
from openwafer.serve.model._fields import Fields

RopeKind = Literal["default", "linear", "llama3", "yarn"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rope:
    """Angles by position. `scale` multiplies cosine and sine (YaRN's temperature)."""

    kind: RopeKind = "default"
    theta: float
    factor: float = 1.0
    original_tokens: int = 0
    """The length that the model was trained with before it was stretched."""
    low_frequency: float = 1.0
    high_frequency: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    scale: float = 1.0

    def frequencies(self, head_dim: int) -> torch.Tensor:
        """Radians per position: float32 [head_dim / 2], on the CPU."""
        powers = self.theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
        plain = 1.0 / powers
        if self.kind == "linear":
            return plain / self.factor
        if self.kind == "llama3":
            return self._llama3(plain)
        if self.kind == "yarn":
            return self._yarn(powers, head_dim)
        return plain

    def _llama3(self, plain: torch.Tensor) -> torch.Tensor:
        turns = self.original_tokens * plain / (2 * math.pi)
        mix = ((turns - self.low_frequency) / (self.high_frequency - self.low_frequency)).clamp(0, 1)
        return (1 - mix) * plain / self.factor + mix * plain

    def _yarn(self, powers: torch.Tensor, head_dim: int) -> torch.Tensor:
        def place(turns: float) -> float:
            # the pair that makes so many turns over the original length
            return (
                head_dim * math.log(self.original_tokens / (turns * 2 * math.pi)) / (2 * math.log(self.theta))
            )

        low, high = place(self.beta_fast), place(self.beta_slow)
        if self.truncate:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, head_dim - 1)
        width = (high - low) or 0.001
        ramp = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / width).clamp(0, 1)
        return ramp / (self.factor * powers) + (1 - ramp) / powers


def read_rope(fields: Fields, context_tokens: int) -> Rope:
    """Rope from a config: `rope_parameters`, or `rope_theta` and `rope_scaling` as written before transformers 5.

    Raises UnsupportedModelError for kinds that are not built here, CheckpointError for wrong values.
    """
    values: Any = fields.values.get("rope_parameters") or fields.values.get("rope_scaling") or {}
    if not isinstance(values, dict):
        raise CheckpointError(
            f"{fields.path}: the RoPE parameters are {values!r}, not an object; copy the file again"
        )
    own = Fields(fields.path, values)
    theta = own.number("rope_theta", fields.number("rope_theta", 10000.0))
    kind = values.get("rope_type") or values.get("type") or "default"
    partial = fields.values.get("partial_rotary_factor") or values.get("partial_rotary_factor") or 1.0
    if partial != 1.0:
        raise UnsupportedModelError(
            f"{fields.path}: only {partial} of each head is rotated, and only whole heads can be; take another checkpoint"
        )
    original = own.count(
        "original_max_position_embeddings",
        fields.count("original_max_position_embeddings", context_tokens),
    )
    if kind == "default":
        return Rope(theta=theta)
    if kind == "linear":
        return Rope(kind="linear", theta=theta, factor=own.number("factor"))
    if kind == "llama3":
        return Rope(
            kind="llama3",
            theta=theta,
            factor=own.number("factor"),
            original_tokens=original,
            low_frequency=own.number("low_freq_factor"),
            high_frequency=own.number("high_freq_factor"),
        )
    if kind == "yarn":
        factor = own.number("factor", context_tokens / original)
        return Rope(
            kind="yarn",
            theta=theta,
            factor=factor,
            original_tokens=original,
            beta_fast=own.number("beta_fast", 32.0),
            beta_slow=own.number("beta_slow", 1.0),
            truncate=own.flag("truncate", True),
            scale=_yarn_scale(own, factor),
        )
    raise UnsupportedModelError(
        f"{fields.path}: RoPE of type {kind!r} is not built; default, linear, llama3 and yarn are"
    )


def _yarn_scale(fields: Fields, factor: float) -> float:
    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    given = fields.values.get("attention_factor")
    if given is not None:
        return fields.number("attention_factor")
    if fields.values.get("mscale") and fields.values.get("mscale_all_dim"):
        return scale(fields.number("mscale")) / scale(fields.number("mscale_all_dim"))
    return scale(1.0)
