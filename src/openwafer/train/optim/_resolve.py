"""From what a user has, a rule or a torch optimizer over their module, to one rule."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from openwafer.base import InputError
from openwafer.train.optim._adam import Adam, AdamW
from openwafer.train.optim._groups import per_group
from openwafer.train.optim._rule import Select, UpdateRule
from openwafer.train.optim._schedules import Schedule
from openwafer.train.optim._sgd import SGD
from openwafer.train.optim._torch import TorchRule


def resolve(
    optimizer: UpdateRule | Optimizer,
    named_parameters: Iterable[tuple[str, Tensor]] | None = None,
    *,
    lr: Schedule | None = None,
) -> UpdateRule:
    """The rule that does what `optimizer` does.

    optimizer: a rule, returned as it is, or a fresh torch optimizer over a module's parameters.
    named_parameters: that module's `named_parameters()`; its names are the rule's weight names.
    lr: a schedule that takes the place of every group's lr.

    Each group keeps its own hyper-parameters. torch's SGD, Adam and AdamW become this package's
    rules (Adam and AdamW with the numbers of fused=True) unless a group uses amsgrad, maximize or
    differentiable; every other optimizer goes through `from_torch`.

    Raises InputError if the optimizer has already stepped, has an lr_scheduler attached, misses a
    trainable parameter, holds one that the module lacks, or cannot be traced.
    """
    if isinstance(optimizer, UpdateRule):
        if lr is not None:
            raise InputError(f"{optimizer!r} is a rule already; give it the lr schedule where it is built")
        return optimizer
    if not isinstance(optimizer, Optimizer):
        raise InputError(
            f"an optimizer must be an UpdateRule or a torch.optim.Optimizer, not {optimizer!r}; "
            "wrap an optimizer class or a factory with from_torch(...)"
        )
    if named_parameters is None:
        raise InputError(
            f"resolve: {type(optimizer).__name__} needs the module's named_parameters() to name its weights"
        )
    kind = type(optimizer).__name__
    _refuse_used(optimizer, kind)
    named = list(named_parameters)
    name_of = {id(parameter): name for name, parameter in named}

    groups: list[tuple[Select, UpdateRule]] = []
    covered: set[str] = set()
    for i, group in enumerate(optimizer.param_groups):
        strangers = [tuple(p.shape) for p in group["params"] if id(p) not in name_of]
        if strangers:
            raise InputError(
                f"group {i} of {kind} holds {len(strangers)} parameters that the module lacks (shapes "
                f"{strangers[:3]}); build the optimizer from this module's parameters, after moving it"
            )
        names = frozenset(name_of[id(p)] for p in group["params"])
        covered |= names
        if names:
            groups.append((_member_of(names), _rule_of(optimizer, i, lr)))
    missing = [name for name, p in named if p.requires_grad and name not in covered]
    if missing:
        raise InputError(
            f"{kind} does not hold the trainable parameters {missing[:5]} ({len(missing)} in all); "
            "add them to one of its groups, or freeze them with requires_grad_(False)"
        )
    return groups[0][1] if len(groups) == 1 else per_group(groups)


def _member_of(names: frozenset[str]) -> Select:
    return lambda name, weight: name in names


def _rule_of(optimizer: Optimizer, index: int, lr: Schedule | None) -> UpdateRule:
    group = optimizer.param_groups[index]
    plain = not any(group.get(key) for key in ("amsgrad", "maximize", "differentiable"))
    rate: float | Schedule = lr if lr is not None else float(group.get("lr", 0.0))
    if plain and type(optimizer) is torch.optim.SGD:
        return SGD(
            lr=rate,
            momentum=float(group["momentum"]),
            dampening=float(group["dampening"]),
            nesterov=group["nesterov"],
            weight_decay=float(group["weight_decay"]),
        )
    if plain and type(optimizer) in (torch.optim.Adam, torch.optim.AdamW):
        rule = AdamW if group.get("decoupled_weight_decay") else Adam
        return rule(
            lr=rate,
            betas=(float(group["betas"][0]), float(group["betas"][1])),
            eps=float(group["eps"]),
            weight_decay=float(group["weight_decay"]),
        )
    return TorchRule(_copies_of(optimizer, index), lr)


def _copies_of(optimizer: Optimizer, index: int) -> Callable[[list[Tensor]], Optimizer]:
    """A factory of optimizers like this one, with one of its groups, over other parameters."""
    group = optimizer.param_groups[index]
    options = {key: value for key, value in group.items() if key not in ("params", "param_names")}
    # Adagrad and some others fill their state when they are built: uniform, or 0-dim.
    example = group["params"][0]
    filled = {k: _filler(k, v, example.shape) for k, v in optimizer.state.get(example, {}).items()}

    def build(params: list[Tensor]) -> Optimizer:
        copy = object.__new__(type(optimizer))
        copy.__dict__.update(optimizer.__dict__)
        copy.state = defaultdict(dict)
        copy.param_groups = [{**options, "params": params}]
        for param in params:
            if filled:
                copy.state[param] = {key: fill(param) for key, fill in filled.items()}
        return copy

    return build


def _filler(key: str, value: Any, shape: torch.Size) -> Callable[[Tensor], Any]:
    """How to make the state entry that `value` is for another parameter."""
    if not isinstance(value, Tensor):
        return lambda param: value
    if value.numel() and bool((value == value.flatten()[0]).all()):
        number, dtype = value.flatten()[0].item(), value.dtype
        if value.ndim == 0 and len(shape) > 0:
            return lambda param: torch.full((), number, dtype=dtype, device=param.device)
        if value.shape == shape:
            return lambda param: torch.full_like(param, number, dtype=dtype)
    raise InputError(
        f"the optimizer's initial state {key!r} differs from entry to entry; pass a factory to from_torch "
        "instead of the optimizer, so that the state can be built for each weight"
    )


def _refuse_used(optimizer: Optimizer, kind: str) -> None:
    if hasattr(optimizer.step, "_wrapped_by_lr_sched"):
        raise InputError(
            f"an lr_scheduler is attached to {kind}, but the step graph never calls it; drop it and give "
            "lr as a Schedule of openwafer.train.optim, which is part of the graph"
        )
    for state in optimizer.state.values():
        from_torch_optim = type(optimizer).__module__.startswith("torch.optim")
        if float(state.get("step", 0)) > 0 or (from_torch_optim and state and "step" not in state):
            raise InputError(
                f"{kind} has already made steps, and its state would be lost; build a fresh optimizer, and "
                "restore state from a checkpoint of the run"
            )
