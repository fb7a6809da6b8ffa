"""Stochastic gradient descent with momentum."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from openwafer.base import InputError
from openwafer.train.optim._maths import add_scaled
from openwafer.train.optim._rule import PerWeightRule, check_range
from openwafer.train.optim._schedules import Schedule, first, lr_and_decay


@final
@dataclass(frozen=True)
class SGD(PerWeightRule):
    """torch.optim.SGD; float32 and float64 weights equal `foreach=False` bit for bit.

    One exception: the first momentum of a gradient of -0.0 is 0.0 here, as 0 + -0.0 is.
    With a scheduled lr the numbers are those of torch given that step's lr as a float.
    State: momentum_buffer, like the weight, unless momentum is 0.
    """

    lr: float | Schedule = 1e-3
    momentum: float = 0.0
    dampening: float = 0.0
    nesterov: bool = False
    weight_decay: float | Schedule = 0.0

    def __post_init__(self) -> None:
        check_range("SGD", "lr", first(self.lr), 0.0)
        check_range("SGD", "momentum", self.momentum, 0.0)
        check_range("SGD", "weight_decay", first(self.weight_decay), 0.0)
        if self.nesterov and (self.momentum <= 0 or self.dampening != 0):
            raise InputError(
                f"SGD: nesterov needs momentum above 0 and no dampening, but momentum is "
                f"{self.momentum} and dampening {self.dampening}"
            )

    def state(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        return {"momentum_buffer": torch.zeros_like(weight)} if self.momentum else {}

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
        if self.weight_decay != 0:
            grad = add_scaled(grad, weight, scalars["weight_decay"])
        if self.momentum:
            momentum = torch.add(state["momentum_buffer"] * self.momentum, grad, alpha=1 - self.dampening)
            if self.dampening:  # torch starts the buffer with the whole gradient
                momentum = torch.where(step == 1, grad, momentum)
            state = {"momentum_buffer": momentum}
            grad = torch.add(grad, momentum, alpha=self.momentum) if self.nesterov else momentum
        return add_scaled(weight, grad, scalars["lr"], -1), state
