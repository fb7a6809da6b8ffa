"""Different rules for different weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from openwafer.base import InputError
from openwafer.train.optim._rule import Select, Updated, UpdateRule, check_names, seeing_wholes


@final
@dataclass(frozen=True)
class _PerGroup(UpdateRule):
    groups: tuple[tuple[Select, UpdateRule], ...]

    def __post_init__(self) -> None:
        if not self.groups:
            raise InputError("per_group: there is no group; pass at least one (select, rule) pair")
        for i, (_, rule) in enumerate(self.groups):
            if rule.loss_scale(rule.globals()) is not None:
                raise InputError(
                    f"per_group: the rule of group {i} scales the loss, but all groups share one loss; "
                    "put the loss scale outside: DynamicLossScale(per_group(...))"
                )

    def _group_of(self, name: str, weight: Tensor) -> int:
        for i, (select, _) in enumerate(self.groups):
            if select(name, weight):
                return i
        raise InputError(
            f"weight {name!r} of shape {tuple(weight.shape)} is in none of the {len(self.groups)} optimizer "
            "groups; add it to one, add a last group that takes every weight, or freeze it"
        )

    def globals(self) -> dict[str, Tensor]:
        found = {"step": torch.zeros((), dtype=torch.float32, device="cpu")}
        for i, (_, rule) in enumerate(self.groups):
            found.update({_own(i, key): value for key, value in rule.globals().items()})
        return found

    def state(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        return self.groups[self._group_of(name, weight)][1].state(name, weight)

    def is_elementwise(self, name: str, weight: Tensor) -> bool:
        rules = (rule for select, rule in self.groups if select(name, weight))
        found = next(rules, None)  # a weight that gets no gradient need not be in a group
        return found is not None and found.is_elementwise(name, weight)

    def for_shards(self, wholes: Mapping[str, tuple[str, Tensor]]) -> UpdateRule:
        return _PerGroup(
            tuple((seeing_wholes(select, wholes), rule.for_shards(wholes)) for select, rule in self.groups)
        )

    @torch.no_grad()
    def update(
        self,
        weights: dict[str, Tensor],
        grads: dict[str, Tensor],
        state: dict[str, dict[str, Tensor]],
        globals: dict[str, Tensor],
    ) -> Updated:
        check_names(weights, grads)
        # A weight without a gradient stays as it is, so it need not be in a group.
        group_of = {name: self._group_of(name, w) for name, w in weights.items() if name in grads}
        new_weights, new_state = dict(weights), {name: dict(state.get(name, {})) for name in weights}
        new_globals = {**globals, "step": globals["step"] + 1}
        logs: dict[str, Tensor] = {}
        for i, (_, rule) in enumerate(self.groups):
            names = [name for name in weights if group_of.get(name) == i]
            updated = rule.update(
                {name: weights[name] for name in names},
                {name: grads[name] for name in names},
                {name: new_state[name] for name in names},
                {key: globals[_own(i, key)] for key in rule.globals()},
            )
            new_weights.update(updated.weights)
            new_state.update(updated.state)
            new_globals.update({_own(i, k): v for k, v in updated.globals.items() if k != "step"})
            logs.update({key if i == 0 else f"{key}/{i}": value for key, value in updated.logs.items()})
        order = {name: new_weights[name] for name in weights}
        return Updated(weights=order, state=new_state, globals=new_globals, logs=logs)


def _own(group: int, key: str) -> str:
    """Groups step together, so they share `step`; any other global is a group's own."""
    return key if key == "step" else f"{key}/{group}"


def per_group(groups: Sequence[tuple[Select, UpdateRule]]) -> UpdateRule:
    """Update each weight by the rule of the first group whose select(name, weight) is true.

    All groups share the global `step`. The logs of group 0 keep their names, those of group i > 0
    end in "/i". A clip inside a group sees that group's gradients only.
    Raises InputError if there is no group, if a rule scales the loss, and, when a weight is updated,
    if no group takes it.
    """
    return _PerGroup(tuple(groups))
