"""Parts of a model made from a checkpoint, one after another, with a report after each."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import final

import torch

from openwafer.serve.model._checkpoint import Checkpoint
from openwafer.serve.model._ends import Embedding, Head
from openwafer.serve.model._layer import Layer
from openwafer.serve.model._names import TensorPlan, embedding_plan, head_plan, layer_plan
from openwafer.serve.model._precision import Precision

Progress = Callable[[str, int, int], None]
"""Called with what was read last, the bytes of the files read so far, and those to read in all."""


@final
class Loader:
    """Makes the embedding, the head, and any layers, on one device and in one precision.

    layers, embedding, head: those that will be asked for, by default all; progress counts them.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        device: torch.device | str = "cpu",
        *,
        layers: Iterable[int] | None = None,
        embedding: bool = True,
        head: bool = True,
        progress: Progress | None = None,
    ) -> None:
        self._checkpoint, self._precision, self._device = checkpoint, precision, device
        self._config = checkpoint.config
        self._progress = progress
        plans = [*head_plan(self._config).values()] if head else []
        plans += [embedding_plan(self._config)] if embedding else []
        for layer in range(self._config.layers) if layers is None else layers:
            plans += layer_plan(self._config, layer).values()
        self._all = sum(checkpoint.tensors[name].nbytes for name in {n for p in plans for n, _ in p.sources})
        self._done = 0
        self._embedding: Embedding | None = None

    def embedding(self) -> Embedding:
        """The embedding; the same one at every call."""
        if self._embedding is None:
            self._embedding = Embedding(self._load("embedding", embedding_plan(self._config)))
        return self._embedding

    def layer(self, index: int) -> Layer:
        """A layer in memory of its own."""
        tensors = {
            name: self._load(f"layer {index}", plan) for name, plan in layer_plan(self._config, index).items()
        }
        return Layer(self._config, index, tensors, self._precision)

    def head(self) -> Head:
        """The head; a tied one multiplies by the embedding's own matrix."""
        plan = head_plan(self._config)
        norm_H = self._load("head", plan["norm"])
        weight_VH = self.embedding().weight_VH if self._config.tied else self._load("head", plan["head"])
        return Head(self._config, norm_H, weight_VH, self._precision)

    def _load(self, what: str, plan: TensorPlan) -> torch.Tensor:
        tensor = self._checkpoint.load(plan, self._precision.compute, self._device)
        self._done += sum(self._checkpoint.tensors[name].nbytes for name, _ in plan.sources)
        if self._progress is not None:
            self._progress(what, self._done, self._all)
        return tensor
