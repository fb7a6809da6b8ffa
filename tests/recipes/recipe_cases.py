"""What the recipe tests share: the recipes, and one step of plain PyTorch in the convention of RunConfig."""

from __future__ import annotations

import inspect
from pathlib import Path

import torch
from torch import nn

from openwafer.train._config import RunConfig, load_recipe

FOLDER = Path(__file__).parents[2] / "recipes"
RECIPES = ("gpt", "llama", "bert", "vit", "mnist")


def load(name: str, **overrides) -> RunConfig:
    return load_recipe(FOLDER / f"{name}.py", **overrides)


def build(name: str, **overrides) -> nn.Module:
    """The model of a recipe, the same at every call."""
    torch.manual_seed(0)
    return load(name, **overrides).model()


def split(model: nn.Module, batch):
    """(args, kwargs) of the model's call, and what loss and metrics get beside its output."""
    if isinstance(batch, dict):
        names = inspect.signature(type(model).forward).parameters
        return (), {name: value for name, value in batch.items() if name in names}, batch
    return batch[:-1], {}, batch[-1]


def losses(config: RunConfig, model: nn.Module, batch, steps: int) -> list[float]:
    """The loss before each of `steps` updates of plain PyTorch on one batch."""
    weights = dict(model.named_parameters())
    state = {name: config.optimizer.state(name, weight.detach()) for name, weight in weights.items()}
    shared = config.optimizer.globals()
    args, kwargs, target = split(model, batch)
    found = []
    for _ in range(steps):
        loss = config.loss(model(*args, **kwargs), target)
        found.append(loss.item())
        grads = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        updated = config.optimizer.update({n: w.detach() for n, w in weights.items()}, grads, state, shared)
        state, shared = updated.state, updated.globals
        with torch.no_grad():
            for name, weight in weights.items():
                weight.copy_(updated.weights[name])
    return found
