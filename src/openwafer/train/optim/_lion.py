"""Lion: the sign of an interpolated momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from openwafer.train.optim._maths import add_scaled, scaled
from openwafer.train.optim._rule import PerWeightRule, check_range
from openwafer.train.optim._schedules import Schedule, first, lr_and_decay


@final
@dataclass(frozen=True)
class Lion(PerWeightRule):
    """Lion with decoupled weight decay: every entry moves by lr, up or down.

    c = b1 * m + (1 - b1) * g;  w -= lr * (sign(c) + weight_decay * w);  m = b2 * m + (1 - b2) * g.
    State: exp_avg (m), like the weight; half of Adam's. lr wants to be 3 to 10 times smaller than
    AdamW's, weight_decay as much larger.
    Source: Chen et al., Symbolic Discovery of Optimization Algorithms, 2023, algorithm 2.
    """

    lr: float | Schedule = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float | Schedule = 0.0

    def __post_init__(self) -> None:
        check_range("Lion", "lr", first(self.lr), 0.0)
        check_range("Lion", "betas[0]", self.betas[0], 0.0, 1.0)
        check_range("Lion", "betas[1]", self.betas[1], 0.0, 1.0)
        check_range("Lion", "weight_decay", first(self.weight_decay), 0.0)

    def state(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        return {"exp_avg": torch.zeros_like(weight)}

    def is_elementwise(self, name: str, weight: Tensor) -> bool:
        return True

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
        lr, (beta1, beta2) = scalars["lr"], self.betas
        momentum = state["exp_avg"]
        direction = torch.sign(torch.lerp(momentum, grad, 1 - beta1))
        if self.weight_decay != 0:
            weight = scaled(weight, 1 - lr * scalars["weight_decay"])
        return add_scaled(weight, direction, lr, -1), {"exp_avg": torch.lerp(momentum, grad, 1 - beta2)}
