"""BatchSource: batches addressed by step, so that a run can stop, resume and be sharded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from openwafer.base import InputError
from openwafer.train.data._batch import Batch, rows, slice_rows, split_rows


class BatchSource(ABC):
    """An endless run of batches, addressed by step; step 0 is the first batch of epoch 0.

    `batch(step)` gives the same batch however often and in whatever order it is asked. One thread at
    a time may call a source, unless its class says more.
    """

    @property
    @abstractmethod
    def batch_size(self) -> int:
        """Samples in a full batch of this view; for a shard, its share of the global batch."""

    @property
    @abstractmethod
    def samples(self) -> int | None:
        """Samples that this view gives per epoch, or None while that is unknown."""

    @property
    @abstractmethod
    def steps_per_epoch(self) -> int | None:
        """Batches per epoch, or None while that is unknown; the same for a source and its shards."""

    @abstractmethod
    def batch(self, step: int) -> Batch:
        """The batch of `step`: tensors whose dim 0 is `batch_size`, made alike for every step.

        Only the last batch of an epoch may be shorter, and only where the source was told to keep it.
        Raises InputError, naming the step or the sample, if it cannot be made.
        """

    def shard(self, index: int, count: int) -> BatchSource:
        """The view of system `index` of `count`: contiguous samples of every batch.

        The shards of all systems, concatenated in order, are exactly the whole batch. System i gets
        samples [i*B/n, (i+1)*B/n); where n does not divide B, the first B % n systems get one more.

        Raises InputError unless 0 <= index < count <= batch_size.
        """
        check_shard(self.batch_size, index, count)
        return Shard(self, index, count)

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint keeps so that `restore` makes `batch(step)` cheap in a later process.

        A dict of plain values; a loader with a state of its own adds that under `loader`.
        """
        return {"step": step}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state that `state` returned. `batch` is right without it, only slower to arrive.

        Raises InputError if the state is not one of this kind of source.
        """
        check_state(state)


class Shard(BatchSource):
    """Contiguous samples of another source's batches; it makes the whole batch and keeps its part."""

    def __init__(self, source: BatchSource, index: int, count: int) -> None:
        """`source.shard(index, count)` checks the arguments and is the way to make one."""
        self._source, self._index, self._count = source, index, count

    @property
    def batch_size(self) -> int:
        return share(self._source.batch_size, self._index, self._count)

    @property
    def samples(self) -> int | None:
        total, steps, size = self._source.samples, self._source.steps_per_epoch, self._source.batch_size
        if total is None or steps is None:
            return None
        full, short = divmod(total, size)
        return full * self.batch_size + share(short, self._index, self._count)

    @property
    def steps_per_epoch(self) -> int | None:
        return self._source.steps_per_epoch

    def batch(self, step: int) -> Batch:
        whole = self._source.batch(step)
        return slice_rows(whole, *split_rows(rows(whole), self._index, self._count))

    def state(self, step: int) -> dict[str, Any]:
        return self._source.state(step)

    def restore(self, state: dict[str, Any]) -> None:
        self._source.restore(state)


def share(total: int, index: int, count: int) -> int:
    """How many of `total` samples shard `index` of `count` gets."""
    start, stop = split_rows(total, index, count)
    return stop - start


def check_shard(batch_size: int, index: int, count: int) -> None:
    """Raise InputError unless every one of `count` shards gets a sample and `index` is one of them."""
    if not 0 <= index < count:
        raise InputError(f"shard {index} of {count} does not exist; shards are numbered 0..count-1")
    if count > batch_size:
        raise InputError(
            f"a batch of {batch_size} samples cannot feed {count} systems; raise batch_size to at least "
            f"{count} or use at most {batch_size} systems"
        )


def check_step(step: int) -> None:
    """Raise InputError if `step` is negative."""
    if step < 0:
        raise InputError(f"there is no batch of step {step}; steps count from 0")


def check_state(state: dict[str, Any]) -> None:
    """Raise InputError if `state` has no valid step."""
    step = state.get("step")
    if not isinstance(step, int) or step < 0:
        raise InputError(
            f"the input state has no step ({state!r:.200}); it was not made by BatchSource.state"
        )
