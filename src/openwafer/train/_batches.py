"""Which rows an input worker makes of each batch: those of its replica, of training and of evaluation data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from openwafer.cluster import BatchFunction
from openwafer.train._step import named_inputs
from openwafer.train.data import BatchSource


def replica_batches(
    train: BatchSource, eval: BatchSource | None, replicas: int, replica: int
) -> BatchFunction:
    """What the input worker of one of `replicas` calls with a batch's number; pickles if the sources do."""
    sources = [source for source in (train, eval) if source is not None]
    return _ReplicaBatches(
        [source.shard(replica, replicas) for source in sources] if replicas > 1 else sources
    )


@dataclass(frozen=True)
class _ReplicaBatches:
    shards: Sequence[BatchSource]
    """Of the training data and, if there is any, of the evaluation data."""

    def __call__(self, number: int, train: bool) -> Mapping[str, Tensor]:
        return named_inputs(self.shards[0 if train else 1].batch(number))
