"""The contract of a weight update: a pure function of tensors that becomes part of the step graph.

The graph is split after capture: what touches one weight runs where that weight lives (MemoryX),
what touches only scalars runs once per step. So a rule keeps per-weight arithmetic per weight,
passes between weights only 0-dim tensors, and never reads a tensor's value on the host.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from openwafer.base import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """Everything one update returns; all of it new tensors, none written in place.

    weights, state: the same names, shapes and dtypes as the arguments of `UpdateRule.update`.
    globals: the same names as `UpdateRule.globals`.
    logs: 0-dim tensors worth showing, such as lr, grad_norm, loss_scale.
    """

    weights: dict[str, Tensor]
    state: dict[str, dict[str, Tensor]]
    globals: dict[str, Tensor]
    logs: dict[str, Tensor]


Select = Callable[[str, Tensor], bool]
"""A choice among weights, by name and value."""


def seeing_wholes(select: Select, wholes: Mapping[str, tuple[str, Tensor]]) -> Select:
    """`select`, asked about a row shard, is asked about the weight that it is a part of."""
    return lambda name, weight: select(*wholes.get(name, (name, weight)))


class UpdateRule(ABC):
    """How weights change, given their gradients: the optimizer of the step graph.

    Every method is free of side effects on tensors. `update` may be traced by
    `torch.fx.experimental.proxy_tensor.make_fx` on FakeTensors, and the traced graph gives the same
    bits as the direct call.
    """

    @abstractmethod
    def globals(self) -> dict[str, Tensor]:
        """The state shared by all weights, with its initial values: real 0-dim CPU tensors."""

    @abstractmethod
    def state(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        """The initial state of one weight; fake when `weight` is a FakeTensor, else on its device.

        Raises InputError if the rule cannot update a weight of this name, shape or dtype.
        """

    @abstractmethod
    def update(
        self,
        weights: dict[str, Tensor],
        grads: dict[str, Tensor],
        state: dict[str, dict[str, Tensor]],
        globals: dict[str, Tensor],
    ) -> Updated:
        """One step. A weight without an entry in `grads` stays as it is, and so does its state.

        Raises InputError if `grads` names a weight that is not in `weights`.
        """

    def loss_scale(self, globals: dict[str, Tensor]) -> Tensor | None:
        """What to multiply the loss with before the backward pass; None for nothing."""
        return None

    def is_elementwise(self, name: str, weight: Tensor) -> bool:
        """Whether each element of this weight moves by its own gradient, its own state and scalars alone.

        Then a weight may be cut by rows and its parts updated as weights of their own, to the same numbers; each entry
        of its state is like the weight, or 0-dim and equal for all parts. A rule that does not say is taken not to be.
        """
        return False

    def for_shards(self, wholes: Mapping[str, tuple[str, Tensor]]) -> UpdateRule:
        """The rule for weights of which some are row shards, whose choices by name or shape see the whole weight.

        wholes: name of a shard -> name and value of the weight that it is a part of.
        """
        return self


class PerWeightRule(UpdateRule):
    """A rule in which a weight depends on its own gradient, its own state and a few scalars.

    A subclass says which scalars a step has and how one weight moves; this class counts the steps
    (one shared `step`, float32 as in torch.optim) and goes over the weights in the order of `weights`.
    """

    @abstractmethod
    def scalars(self, step: Tensor) -> dict[str, Tensor]:
        """The step's scalars, all of them logged; `step` counts the updates made so far, from 0."""

    @abstractmethod
    def update_weight(
        self,
        name: str,
        weight: Tensor,
        grad: Tensor,
        state: dict[str, Tensor],
        scalars: dict[str, Tensor],
        step: Tensor,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The new weight and its new state; `step` counts this update too, so it is at least 1."""

    def globals(self) -> dict[str, Tensor]:
        return {"step": torch.zeros((), dtype=torch.float32, device="cpu")}

    @torch.no_grad()
    def update(
        self,
        weights: dict[str, Tensor],
        grads: dict[str, Tensor],
        state: dict[str, dict[str, Tensor]],
        globals: dict[str, Tensor],
    ) -> Updated:
        check_names(weights, grads)
        scalars = self.scalars(globals["step"])
        step = globals["step"] + 1
        new_weights, new_state = dict(weights), {name: dict(state.get(name, {})) for name in weights}
        for name, weight in weights.items():
            if name in grads:
                new_weights[name], new_state[name] = self.update_weight(
                    name, weight, grads[name], new_state[name], scalars, step
                )
        return Updated(weights=new_weights, state=new_state, globals={"step": step}, logs=scalars)


def check_names(weights: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> None:
    """Raise InputError if a gradient belongs to no weight."""
    strangers = [name for name in grads if name not in weights]
    if strangers:
        raise InputError(
            f"gradients {strangers} belong to no weight of this update (it has {len(weights)}: "
            f"{list(weights)[:5]} ...); pass the weight of every gradient under the same name"
        )


def check_range(rule: str, name: str, value: float, low: float, high: float = float("inf")) -> None:
    """Raise InputError unless low <= value < high."""
    if not low <= value < high:
        below = "" if high == float("inf") else f" and below {high:g}"
        raise InputError(f"{rule}: {name} is {value!r}, but it must be at least {low:g}{below}")
