"""Adam and AdamW, each weight one fused ATen op."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor

from openwafer.base import InputError
from openwafer.train.optim._maths import add_scaled, scaled
from openwafer.train.optim._rule import PerWeightRule, Select, UpdateRule, check_range, seeing_wholes
from openwafer.train.optim._schedules import Schedule, first, lr_and_decay

Decay = Literal["all", "matrices"] | Select


@dataclass(frozen=True)
class _Fused(PerWeightRule):
    """What Adam and AdamW share: two moments like the weight, one fused op, one shared step."""

    lr: float | Schedule = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float | Schedule = 0.0

    @property
    @abstractmethod
    def _op(self) -> Any:
        """The functional fused overload that takes lr as a tensor."""

    def __post_init__(self) -> None:
        kind = type(self).__name__
        check_range(kind, "lr", first(self.lr), 0.0)
        check_range(kind, "betas[0]", self.betas[0], 0.0, 1.0)
        check_range(kind, "betas[1]", self.betas[1], 0.0, 1.0)
        check_range(kind, "eps", self.eps, 0.0)
        check_range(kind, "weight_decay", first(self.weight_decay), 0.0)

    def state(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        if not weight.is_floating_point():
            raise InputError(
                f"{type(self).__name__} updates floating-point weights, but {name!r} is {weight.dtype}; "
                "freeze it or store it as a float"
            )
        return {"exp_avg": torch.zeros_like(weight), "exp_avg_sq": torch.zeros_like(weight)}

    def is_elementwise(self, name: str, weight: Tensor) -> bool:
        return True

    def scalars(self, step: Tensor) -> dict[str, Tensor]:
        return lr_and_decay(step, self.lr, self.weight_decay)

    def _fused(
        self,
        weight: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        lr: Tensor,
        step: Tensor,
        weight_decay: float,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        # The CPU kernel reads lr in double; the CUDA kernel reads a CUDA lr as float32.
        weights, _, avgs, sqs, _ = self._op(
            [weight],
            [grad],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [step.to(weight.device)],
            lr=lr if lr.device.type == "cpu" else lr.float(),
            beta1=self.betas[0],
            beta2=self.betas[1],
            weight_decay=weight_decay,
            eps=self.eps,
            amsgrad=False,
            maximize=False,
        )
        return weights[0], {"exp_avg": avgs[0], "exp_avg_sq": sqs[0]}


@final
@dataclass(frozen=True)
class Adam(_Fused):
    """torch.optim.Adam; equals `fused=True` bit for bit while weight_decay is a number.

    weight_decay is the L2 kind: it is added to the gradient. A scheduled one is added before the
    fused op, which may differ from a constant in the last bits.
    State: exp_avg and exp_avg_sq, like the weight.
    """

    @property
    def _op(self) -> Any:
        return torch.ops.aten._fused_adam.tensor_lr

    def update_weight(
        self,
        name: str,
        weight: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        scalars: dict[str, Tensor],
        step: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        decay = self.weight_decay
        if isinstance(decay, Schedule):
            grad, decay = add_scaled(grad, weight, scalars["weight_decay"]), 0.0
        return self._fused(weight, grad, state, scalars["lr"], step, decay)


@final
@dataclass(frozen=True)
class AdamW(_Fused):
    """torch.optim.AdamW; equals `fused=True` bit for bit while weight_decay is a number.

    decay says which weights decay: "all" as in torch, "matrices" leaves out weights of fewer than
    two dims (norms, biases), or a function of name and weight (asked at capture, on a FakeTensor).
    A scheduled weight_decay shrinks the weight before the fused op, which may differ from a
    constant in the last bits. State: exp_avg and exp_avg_sq, like the weight.
    """

    weight_decay: float | Schedule = 1e-2
    decay: Decay = "all"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.decay not in ("all", "matrices") and not callable(self.decay):
            raise InputError(
                f'AdamW: decay is {self.decay!r}, but it must be "all", "matrices" '
                "or a function of name and weight that returns a bool"
            )

    @property
    def _op(self) -> Any:
        return torch.ops.aten._fused_adamw.tensor_lr

    def for_shards(self, wholes: Mapping[str, tuple[str, Tensor]]) -> UpdateRule:
        return replace(self, decay=seeing_wholes(self.decay, wholes)) if callable(self.decay) else self

    def _decays(self, name: str, weight: Tensor) -> bool:
        if callable(self.decay):
            return bool(self.decay(name, weight))
        return self.decay == "all" or weight.ndim >= 2

    def update_weight(
        self,
        name: str,
        weight: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        scalars: dict[str, Tensor],
        step: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        decay = self.weight_decay if self._decays(name, weight) else 0.0
        if isinstance(decay, Schedule):
            weight, decay = scaled(weight, 1 - scalars["lr"] * scalars["weight_decay"]), 0.0
        return self._fused(weight, grad, state, scalars["lr"], step, decay)
