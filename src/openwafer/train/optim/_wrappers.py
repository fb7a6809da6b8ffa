"""Rules around a rule: gradient clipping and loss scaling."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from openwafer.base import InputError
from openwafer.train.optim._maths import scaled
from openwafer.train.optim._rule import Updated, UpdateRule, check_names


class _Wrapper(UpdateRule):
    """Adds something before or after `rule`; state, globals and loss scale are the rule's own."""

    rule: UpdateRule

    def globals(self) -> dict[str, Tensor]:
        return self.rule.globals()

    def state(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        return self.rule.state(name, weight)

    def loss_scale(self, globals: dict[str, Tensor]) -> Tensor | None:
        return self.rule.loss_scale(globals)

    def is_elementwise(self, name: str, weight: Tensor) -> bool:
        return self.rule.is_elementwise(name, weight)

    def for_shards(self, wholes: Mapping[str, tuple[str, Tensor]]) -> UpdateRule:
        return replace(self, rule=self.rule.for_shards(wholes))  # type: ignore[type-var]  # each is a dataclass

    def _refuse_scaled(self) -> None:
        """The loss scale is outermost: what it wraps must see the gradients unscaled."""
        if self.rule.loss_scale(self.rule.globals()) is not None:
            raise InputError(
                f"{type(self).__name__} stands around a loss scale and would see scaled gradients; "
                "put the loss scale outside: DynamicLossScale(clip_by_global_norm(rule, 1.0))"
            )


class _Clip(_Wrapper):
    """Clips gradients before the rule sees them and logs grad_norm, the norm before clipping."""

    @abstractmethod
    def _clip(self, grads: dict[str, Tensor], norm: Tensor) -> dict[str, Tensor]: ...

    @torch.no_grad()
    def update(
        self,
        weights: dict[str, Tensor],
        grads: dict[str, Tensor],
        state: dict[str, dict[str, Tensor]],
        globals: dict[str, Tensor],
    ) -> Updated:
        check_names(weights, grads)
        if not grads:
            return self.rule.update(weights, grads, state, globals)
        norm = global_norm({name: grads[name] for name in weights if name in grads})
        updated = self.rule.update(weights, self._clip(grads, norm), state, globals)
        return Updated(
            weights=updated.weights,
            state=updated.state,
            globals=updated.globals,
            logs={**updated.logs, "grad_norm": norm},
        )


@final
@dataclass(frozen=True)
class _ClipByGlobalNorm(_Clip):
    rule: UpdateRule
    max_norm: float

    def __post_init__(self) -> None:
        _check_positive("clip_by_global_norm", "max_norm", self.max_norm)
        self._refuse_scaled()

    def _clip(self, grads: dict[str, Tensor], norm: Tensor) -> dict[str, Tensor]:
        coefficient = torch.clamp(self.max_norm / (norm + 1e-6), max=1.0)
        return {name: grad * coefficient.to(grad.dtype) for name, grad in grads.items()}


@final
@dataclass(frozen=True)
class _ClipByValue(_Clip):
    rule: UpdateRule
    max_value: float

    def __post_init__(self) -> None:
        _check_positive("clip_by_value", "max_value", self.max_value)
        self._refuse_scaled()

    def _clip(self, grads: dict[str, Tensor], norm: Tensor) -> dict[str, Tensor]:
        return {name: grad.clamp(-self.max_value, self.max_value) for name, grad in grads.items()}


def global_norm(grads: dict[str, Tensor]) -> Tensor:
    """The 2-norm of all gradients, 0-dim: a norm per gradient, then the norm of those, in order."""
    norms = [torch.linalg.vector_norm(grad) for grad in grads.values()]
    total: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return total


def clip_by_global_norm(rule: UpdateRule, max_norm: float) -> UpdateRule:
    """Scale all gradients by one factor so that their global 2-norm is at most `max_norm`.

    Equals torch.nn.utils.clip_grad_norm_(foreach=False) bit for bit in float32, given the weights in
    the same order. Logs grad_norm, the norm before clipping.
    Raises InputError if max_norm is not above 0, or if `rule` already scales the loss.
    """
    return _ClipByGlobalNorm(rule, max_norm)


def clip_by_value(rule: UpdateRule, max_value: float) -> UpdateRule:
    """Clamp every entry of every gradient to -max_value .. max_value, as clip_grad_value_ does.

    Logs grad_norm, the global 2-norm before clipping.
    Raises InputError if max_value is not above 0, or if `rule` already scales the loss.
    """
    return _ClipByValue(rule, max_value)


class _LossScale(_Wrapper):
    """Owns the global `loss_scale`; divides the gradients by it before the rule sees them."""

    def loss_scale(self, globals: dict[str, Tensor]) -> Tensor | None:
        return globals["loss_scale"]

    def _unscale(self, grads: dict[str, Tensor], scale: Tensor) -> dict[str, Tensor]:
        inverse = scale.to(torch.float64).reciprocal().to(torch.float32)
        return {name: scaled(grad, inverse) for name, grad in grads.items()}


@final
@dataclass(frozen=True)
class StaticLossScale(_LossScale):
    """Multiply the loss by a constant and divide the gradients by it again.

    For float16 or FP8 backward passes whose small gradients would vanish. Globals: the rule's and
    `loss_scale`. Logs loss_scale.
    """

    rule: UpdateRule
    scale: float = 2.0**16

    def __post_init__(self) -> None:
        _check_positive("StaticLossScale", "scale", self.scale)
        self._refuse_scaled()

    def globals(self) -> dict[str, Tensor]:
        return {**self.rule.globals(), "loss_scale": _scalar(self.scale, torch.float32)}

    @torch.no_grad()
    def update(
        self,
        weights: dict[str, Tensor],
        grads: dict[str, Tensor],
        state: dict[str, dict[str, Tensor]],
        globals: dict[str, Tensor],
    ) -> Updated:
        scale = globals["loss_scale"]
        inner = {name: value for name, value in globals.items() if name != "loss_scale"}
        updated = self.rule.update(weights, self._unscale(grads, scale), state, inner)
        return Updated(
            weights=updated.weights,
            state=updated.state,
            globals={**updated.globals, "loss_scale": scale},
            logs={**updated.logs, "loss_scale": scale},
        )


@final
@dataclass(frozen=True)
class DynamicLossScale(_LossScale):
    """torch.amp.GradScaler as a rule: the same scale, growth and skipped steps, bit for bit.

    A step with an infinite or NaN gradient anywhere changes no weight, no state and no step count,
    and multiplies the scale by backoff_factor; growth_interval good steps in a row multiply it by
    growth_factor, unless that overflows. Globals: the rule's, loss_scale and growth_tracker (int32).
    Logs loss_scale (this step's) and found_inf (1 if the step was skipped, else 0).
    """

    rule: UpdateRule
    initial: float = 2.0**16
    growth_factor: float = 2.0
    backoff_factor: float = 0.5
    growth_interval: int = 2000

    def __post_init__(self) -> None:
        _check_positive("DynamicLossScale", "initial", self.initial)
        _check_positive("DynamicLossScale", "growth_interval", self.growth_interval)
        if self.growth_factor <= 1 or not 0 < self.backoff_factor < 1:
            raise InputError(
                f"DynamicLossScale: growth_factor is {self.growth_factor} and backoff_factor "
                f"{self.backoff_factor}, but they must be above 1 and between 0 and 1"
            )
        self._refuse_scaled()

    def globals(self) -> dict[str, Tensor]:
        return {
            **self.rule.globals(),
            "loss_scale": _scalar(self.initial, torch.float32),
            "growth_tracker": _scalar(0, torch.int32),
        }

    @torch.no_grad()
    def update(
        self,
        weights: dict[str, Tensor],
        grads: dict[str, Tensor],
        state: dict[str, dict[str, Tensor]],
        globals: dict[str, Tensor],
    ) -> Updated:
        scale, tracker = globals["loss_scale"], globals["growth_tracker"]
        inner = {name: globals[name] for name in globals if name not in ("loss_scale", "growth_tracker")}

        # 1. One flag per gradient, then one for the step.
        flags = [torch.isfinite(grad).all() for grad in grads.values()]
        finite = torch.stack(flags).all() if flags else torch.ones_like(scale, dtype=torch.bool)

        # 2. The rule runs either way; its result counts only if every gradient is finite.
        updated = self.rule.update(weights, self._unscale(grads, scale), state, inner)
        new_weights, new_state = dict(weights), {name: dict(state.get(name, {})) for name in weights}
        for name in grads:
            new_weights[name] = torch.where(finite, updated.weights[name], weights[name])
            for key, old in new_state[name].items():
                new_state[name][key] = torch.where(finite, updated.state[name][key], old)
        new_globals = {k: torch.where(finite, updated.globals[k], old) for k, old in inner.items()}

        # 3. The next scale.
        grows = tracker + 1 == self.growth_interval
        grown, shrunk = (_times(scale, f) for f in (self.growth_factor, self.backoff_factor))
        kept = torch.where(grows & torch.isfinite(grown), grown, scale)
        new_globals["loss_scale"] = torch.where(finite, kept, shrunk)
        new_globals["growth_tracker"] = torch.where(finite & ~grows, tracker + 1, torch.zeros_like(tracker))
        logs = {**updated.logs, "loss_scale": scale, "found_inf": (~finite).to(torch.float32)}
        return Updated(weights=new_weights, state=new_state, globals=new_globals, logs=logs)


def _scalar(value: float, dtype: torch.dtype) -> Tensor:
    return torch.full((), value, dtype=dtype, device="cpu")


def _times(scale: Tensor, factor: float) -> Tensor:
    """scale * factor with one rounding, as GradScaler's kernel multiplies in double."""
    return (scale.to(torch.float64) * factor).to(scale.dtype)


def _check_positive(where: str, name: str, value: float) -> None:
    if not (value > 0 and math.isfinite(value)):
        raise InputError(f"{where}: {name} is {value!r}, but it must be a finite number above 0")
