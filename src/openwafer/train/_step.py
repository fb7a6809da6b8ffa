"""From the user's model, loss and batch to the step function that is captured."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from openwafer.artifact import TensorType
from openwafer.base import InputError
from openwafer.graph import StepFunction
from openwafer.train.data import Batch


def input_name(position: int) -> str:
    """The name of a tuple batch's entry."""
    return f"input{position}"


def named_inputs(batch: Batch) -> dict[str, Tensor]:
    """A batch as named tensors, whichever form it has."""
    if isinstance(batch, dict):
        return dict(batch)
    return {input_name(position): tensor for position, tensor in enumerate(batch)}


def input_types(batch: Batch) -> dict[str, TensorType]:
    """Name -> type of one sample (without the batch dim)."""
    return {
        name: TensorType(str(value.dtype).removeprefix("torch."), tuple(value.shape[1:]))
        for name, value in named_inputs(batch).items()
    }


def make_step(
    model: nn.Module,
    batch: Batch,
    loss: Callable[..., Tensor] | None,
    metrics: Mapping[str, Callable[..., Tensor]],
) -> StepFunction:
    """The step of these parts, by the conventions of RunConfig.

    Raises InputError if a dict batch has nothing that the model's forward takes.
    """
    if isinstance(batch, dict):
        taken = _accepted(model, list(batch))
        if not taken:
            raise InputError(
                f"the batch has {', '.join(batch)}, but {type(model).__name__}.forward takes none of these; rename the batch's "
                "entries to the arguments of forward"
            )
        every = list(batch) if loss is None else taken

        def arguments(inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor], Any]:
            return (), {name: inputs[name] for name in every}, dict(inputs)

    else:
        count = len(batch) if loss is None else len(batch) - 1

        def arguments(inputs: Mapping[str, Tensor]) -> tuple[tuple[Tensor, ...], dict[str, Tensor], Any]:
            ordered = [inputs[input_name(position)] for position in range(len(batch))]
            return tuple(ordered[:count]), {}, ordered[-1]

    def step(_: nn.Module, call: Callable[..., Any], inputs: Mapping[str, Tensor]) -> Any:
        args, kwargs, target = arguments(inputs)
        output = call(*args, **kwargs)
        value = _own_loss(output) if loss is None else loss(output, target)
        if not metrics:
            return value
        return value, {name: metric(output, target) for name, metric in metrics.items()}

    return step


def _accepted(model: nn.Module, names: list[str]) -> list[str]:
    parameters = inspect.signature(model.forward).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return names
    return [name for name in names if name in parameters]


def _own_loss(output: Any) -> Tensor:
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "loss", None)
    if found is None and isinstance(output, (tuple, list)) and output:
        found = output[0]
    if not isinstance(found, torch.Tensor):
        raise InputError(
            f"no loss function was given, and the model returned {type(output).__name__} without a loss; pass loss=, or include "
            "labels in the batch"
        )
    return found
