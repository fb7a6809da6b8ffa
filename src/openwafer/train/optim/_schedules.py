"""Hyper-parameters as functions of the step: frozen data, pure tensors, no branches.

A schedule takes the number of updates made so far (0-dim, 0 at the first update) and returns a 0-dim
float64 tensor on the same device. It computes in float64 so that a scheduled constant gives the same
bits as the Python float that it stands for.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from openwafer.base import InputError


class Schedule(ABC):
    """A value that depends on the step. `schedule(step)` is a 0-dim float64 tensor."""

    @abstractmethod
    def __call__(self, step: Tensor) -> Tensor:
        """The value for the update after `step` updates; `step` is 0-dim, of any dtype."""


def at(value: float | Schedule, step: Tensor) -> Tensor:
    """The value at a step, as a 0-dim float64 tensor, whether it is a number or a schedule."""
    return value(step) if isinstance(value, Schedule) else Constant(value)(step)


def lr_and_decay(step: Tensor, lr: float | Schedule, weight_decay: float | Schedule) -> dict[str, Tensor]:
    """The scalars of most rules: `lr`, and `weight_decay` unless that is the number 0."""
    scalars = {"lr": at(lr, step)}
    if weight_decay != 0:
        scalars["weight_decay"] = at(weight_decay, step)
    return scalars


def first(value: float | Schedule) -> float:
    """The value before the first update, as a Python number."""
    return float(at(value, torch.zeros((), device="cpu")))


def _progress(step: Tensor, steps: int) -> Tensor:
    """How much of `steps` is over: 0 .. 1."""
    return (step.to(torch.float64) / steps).clamp(0.0, 1.0)


def _check_steps(schedule: Schedule, name: str, steps: int) -> None:
    if steps < 1:
        raise InputError(f"{type(schedule).__name__}: {name} is {steps}, but it must be at least 1")


@dataclass(frozen=True, slots=True)
class Constant(Schedule):
    """The same value at every step."""

    value: float

    def __call__(self, step: Tensor) -> Tensor:
        return torch.full_like(step, self.value, dtype=torch.float64)


@dataclass(frozen=True, slots=True)
class Linear(Schedule):
    """A straight line from `start` to `end` over `steps` updates, then `end`. torch: LinearLR."""

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check_steps(self, "steps", self.steps)

    def __call__(self, step: Tensor) -> Tensor:
        progress = _progress(step, self.steps)
        return self.start * (1 - progress) + self.end * progress


@dataclass(frozen=True, slots=True)
class Cosine(Schedule):
    """Half a cosine from `peak` to `end` over `steps` updates, then `end`.

    Equals torch's CosineAnnealingLR up to `steps`; that one rises again afterwards.
    """

    peak: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        _check_steps(self, "steps", self.steps)

    def __call__(self, step: Tensor) -> Tensor:
        cosine = torch.cos(math.pi * _progress(step, self.steps))
        return self.end + (self.peak - self.end) * (1 + cosine) / 2


@dataclass(frozen=True, slots=True)
class Exponential(Schedule):
    """start * gamma ** step. torch: ExponentialLR."""

    start: float
    gamma: float

    def __post_init__(self) -> None:
        if self.gamma <= 0:
            raise InputError(f"Exponential: gamma is {self.gamma}, but it must be above 0")

    def __call__(self, step: Tensor) -> Tensor:
        return self.start * torch.pow(self.gamma, step.to(torch.float64))


@dataclass(frozen=True, slots=True)
class Polynomial(Schedule):
    """end + (start - end) * (1 - step / steps) ** power, then `end`. torch: PolynomialLR (end 0)."""

    start: float
    end: float
    steps: int
    power: float = 1.0

    def __post_init__(self) -> None:
        _check_steps(self, "steps", self.steps)

    def __call__(self, step: Tensor) -> Tensor:
        return self.end + (self.start - self.end) * (1 - _progress(step, self.steps)) ** self.power


@dataclass(frozen=True, slots=True)
class PiecewiseConstant(Schedule):
    """values[i] from boundaries[i - 1] up to, not including, boundaries[i]. torch: MultiStepLR."""

    boundaries: tuple[int, ...]
    values: tuple[float, ...]

    def __post_init__(self) -> None:
        _check_pieces("PiecewiseConstant", "boundaries", self.boundaries, "values", len(self.values))

    def __call__(self, step: Tensor) -> Tensor:
        value = Constant(self.values[0])(step)
        for boundary, later in zip(self.boundaries, self.values[1:], strict=True):
            value = torch.where(step >= boundary, Constant(later)(step), value)
        return value


@dataclass(frozen=True, slots=True)
class InverseSqrt(Schedule):
    """Linear warmup from 0 to `peak` at `warmup_steps`, then peak * sqrt(warmup_steps / step)."""

    peak: float
    warmup_steps: int

    def __post_init__(self) -> None:
        _check_steps(self, "warmup_steps", self.warmup_steps)

    def __call__(self, step: Tensor) -> Tensor:
        ratio = step.to(torch.float64) / self.warmup_steps
        # The clamp keeps the unused side of the minimum finite at step 0.
        return self.peak * torch.minimum(ratio, ratio.clamp(min=1.0).rsqrt())


@dataclass(frozen=True, slots=True)
class Sequential(Schedule):
    """schedules[i] from milestones[i - 1] on, counting its own steps from 0. torch: SequentialLR."""

    schedules: tuple[Schedule, ...]
    milestones: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_pieces("Sequential", "milestones", self.milestones, "schedules", len(self.schedules))

    def __call__(self, step: Tensor) -> Tensor:
        value = self.schedules[0](step)
        for milestone, later in zip(self.milestones, self.schedules[1:], strict=True):
            # The clamp keeps a schedule that has not begun at its first step, where it is defined.
            value = torch.where(step >= milestone, later((step - milestone).clamp(min=0)), value)
        return value


@dataclass(frozen=True, slots=True)
class WarmupCosine(Schedule):
    """Linear from `start` to `peak` over `warmup_steps`, then Cosine to `end` at step `steps`."""

    peak: float
    warmup_steps: int
    steps: int
    end: float = 0.0
    start: float = 0.0

    def __post_init__(self) -> None:
        _check_steps(self, "warmup_steps", self.warmup_steps)
        if self.steps <= self.warmup_steps:
            raise InputError(
                f"WarmupCosine: steps is {self.steps}, but the warmup alone takes {self.warmup_steps}; "
                "steps counts the whole schedule, warmup included"
            )

    def __call__(self, step: Tensor) -> Tensor:
        warmup = Linear(self.start, self.peak, self.warmup_steps)
        decay = Cosine(self.peak, self.end, self.steps - self.warmup_steps)
        return Sequential((warmup, decay), (self.warmup_steps,))(step)


def _check_pieces(kind: str, bounds_name: str, bounds: tuple[int, ...], name: str, pieces: int) -> None:
    if pieces != len(bounds) + 1:
        raise InputError(
            f"{kind}: {pieces} {name} with {len(bounds)} {bounds_name}; "
            f"there must be one more of {name} than of {bounds_name}"
        )
    if any(a >= b for a, b in zip((0, *bounds), bounds, strict=False)):
        raise InputError(f"{kind}: {bounds_name} are {bounds}, but they must be positive and increase")
