"""Adafactor: the second moment of a matrix kept as a row and a column."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from openwafer.train.optim._maths import add_scaled, lerp, scaled
from openwafer.train.optim._rule import PerWeightRule, check_range
from openwafer.train.optim._schedules import Schedule, first, lr_and_decay


@final
@dataclass(frozen=True)
class Adafactor(PerWeightRule):
    """torch.optim.Adafactor (foreach=False), without reading values on the host.

    The numbers equal torch's to a relative 1e-6 per step in float32: the scalars are computed in
    float64 tensors instead of Python floats and rounded at the same places.
    State of a weight of two or more dims: row_var [..., R, 1] and col_var [..., 1, C], R + C numbers
    per matrix; of a vector or a scalar: variance, like the weight.
    eps: (eps1, eps2); eps1 None means the machine epsilon of the weight's dtype.
    Source: Shazeer and Stern, Adafactor: Adaptive Learning Rates with Sublinear Memory Cost, 2018.
    """

    lr: float | Schedule = 1e-2
    beta2_decay: float = -0.8
    eps: tuple[float | None, float] = (None, 1e-3)
    d: float = 1.0
    weight_decay: float | Schedule = 0.0

    def __post_init__(self) -> None:
        check_range("Adafactor", "lr", first(self.lr), 0.0)
        check_range("Adafactor", "-beta2_decay", -self.beta2_decay, 0.0)
        check_range("Adafactor", "eps[0]", self.eps[0] or 0.0, 0.0)
        check_range("Adafactor", "eps[1]", self.eps[1], 0.0)
        check_range("Adafactor", "d", self.d, 1.0)
        check_range("Adafactor", "weight_decay", first(self.weight_decay), 0.0)

    def state(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        if weight.ndim < 2:
            return {"variance": torch.zeros_like(weight)}
        *batch, rows, cols = weight.shape
        return {
            "row_var": weight.new_zeros([*batch, rows, 1]),
            "col_var": weight.new_zeros([*batch, 1, cols]),
        }

    def scalars(self, step: Tensor) -> dict[str, Tensor]:
        return lr_and_decay(step, self.lr, self.weight_decay)

    def update_weight(
        self,
        name: str,
        weight: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        scalars: dict[str, Tensor],
        step: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        lr, count = scalars["lr"], step.to(torch.float64)
        eps1 = torch.finfo(weight.dtype).eps if self.eps[0] is None else self.eps[0]
        root_numel = weight.numel() ** 0.5

        # 1. The step size: relative to the weight's own scale, before it decays.
        rho = torch.minimum(lr, count**-0.5)
        alpha = (weight.norm(2).to(torch.float64) / root_numel).clamp(min=self.eps[1]) * rho
        if self.weight_decay != 0:
            weight = scaled(weight, 1 - lr * scalars["weight_decay"])

        # 2. The second moment, factored for matrices.
        mix = count**self.beta2_decay
        if grad.ndim > 1:
            row_mean = torch.norm(grad, dim=-1, keepdim=True).square() / grad.size(-1)
            col_mean = torch.norm(grad, dim=-2, keepdim=True).square() / grad.size(-2)
            row_var, col_var = lerp(state["row_var"], row_mean, mix), lerp(state["col_var"], col_mean, mix)
            state = {"row_var": row_var, "col_var": col_var}
            variance = (row_var @ col_var) / row_var.mean(dim=-2, keepdim=True).clamp(min=eps1)
        else:
            variance = lerp(state["variance"], grad * grad, mix)
            state = {"variance": variance}

        # 3. The update, clipped so that its root mean square is at most d.
        update = variance.clamp(min=eps1 * eps1).rsqrt() * grad
        denom = (update.norm(2).to(torch.float64) / (root_numel * self.d)).clamp(min=1.0)
        return add_scaled(weight, update, alpha / denom, -1), state
