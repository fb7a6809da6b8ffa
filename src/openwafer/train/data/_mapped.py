"""Batches from a dataset that can be indexed: any step is reached at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.utils.data import default_collate

from openwafer.base import InputError, WaferError
from openwafer.train.data._batch import (
    Batch,
    Structure,
    check_structure,
    slice_rows,
    split_rows,
    structure,
    to_batch,
)
from openwafer.train.data._seeds import seeded
from openwafer.train.data._source import BatchSource, check_shard, check_step, share

Collate = Callable[[list[Any]], Any]


class MapDataset(Protocol):
    """Samples by index: a map-style `torch.utils.data.Dataset`, a list, or anything alike."""

    def __len__(self) -> int: ...
    def __getitem__(self, index: int, /) -> Any: ...


def from_dataset(
    dataset: MapDataset,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    drop_last: bool = True,
    collate: Collate | None = None,
) -> BatchSource:
    """Every sample once per epoch, in an order that depends on `seed` and the epoch only.

    `batch(step)` is a pure function of the step as long as `dataset[i]` is one of i, so a resumed
    run continues exactly and at once. A shard reads its own samples only. `collate` takes a list of
    samples (default: `torch.utils.data.default_collate`) and must treat each sample by itself,
    because a shard's list is shorter than the whole batch. With `drop_last` the samples of an epoch
    that do not fill a batch are left out (others in the next epoch, when shuffled); without it, the
    last batch of an epoch is shorter. `dataset.__getitems__`, where there is one, reads a batch at once.

    Raises InputError if the dataset has no length, is empty or smaller than one batch; `batch` raises
    it with the sample's index if the dataset fails, and if the samples are not made alike.
    """
    try:
        total = len(dataset)
    except (TypeError, NotImplementedError) as error:
        raise InputError(
            f"{type(dataset).__name__} has no length, so its samples cannot be addressed; wrap it in a "
            "torch.utils.data.DataLoader and use from_loader"
        ) from error
    if batch_size < 1:
        raise InputError(f"batch_size is {batch_size}; it must be at least 1")
    if total < 1:
        raise InputError(f"{type(dataset).__name__} is empty; check the path or the filter that made it")
    if drop_last and total < batch_size:
        raise InputError(
            f"{type(dataset).__name__} has {total} samples, less than one batch of {batch_size}; "
            f"lower batch_size to at most {total}"
        )
    return DatasetSource(dataset, batch_size, seed, shuffle, drop_last, collate, shards=())


class DatasetSource(BatchSource):
    """A map-style dataset as batches; see `from_dataset`, which makes it."""

    def __init__(
        self,
        dataset: MapDataset,
        batch_size: int,
        seed: int,
        shuffle: bool,
        drop_last: bool,
        collate: Collate | None,
        shards: tuple[tuple[int, int], ...],
    ) -> None:
        self._dataset, self._global_size = dataset, batch_size
        self._seed, self._shuffle, self._drop_last = seed, shuffle, drop_last
        self._collate: Collate = collate or default_collate
        self._shards = shards
        self._total = len(dataset)
        self._order: tuple[int, torch.Tensor] | None = None
        self._structure: Structure | None = None

    @property
    def batch_size(self) -> int:
        return self._share(self._global_size)

    @property
    def samples(self) -> int:
        full, short = divmod(self._total, self._global_size)
        return full * self.batch_size + (0 if self._drop_last else self._share(short))

    @property
    def steps_per_epoch(self) -> int:
        full, short = divmod(self._total, self._global_size)
        return full + (short > 0 and not self._drop_last)

    def batch(self, step: int) -> Batch:
        check_step(step)
        indices = self._indices(step)
        empty = not indices
        if empty:  # a short last batch with fewer samples than systems: this one gets its shape only
            indices = [0]
        shown = ", ".join(map(str, indices[:4])) + (", ..." if len(indices) > 4 else "")
        where = f"step {step} (samples {shown})"
        batch = to_batch(self._collated(self._read(indices), where), where)
        if self._structure is None:
            self._structure = structure(batch)
        check_structure(self._structure, batch, where)
        return slice_rows(batch, 0, 0) if empty else batch

    def shard(self, index: int, count: int) -> BatchSource:
        check_shard(self.batch_size, index, count)
        shards = (*self._shards, (index, count))
        return DatasetSource(
            self._dataset,
            self._global_size,
            self._seed,
            self._shuffle,
            self._drop_last,
            self._collate,
            shards,
        )

    def _share(self, total: int) -> int:
        for index, count in self._shards:
            total = share(total, index, count)
        return total

    def _indices(self, step: int) -> list[int]:
        epoch, place = divmod(step, self.steps_per_epoch)
        start = place * self._global_size
        stop = min(start + self._global_size, self._total)
        for index, count in self._shards:
            low, high = split_rows(stop - start, index, count)
            start, stop = start + low, start + high
        if not self._shuffle:
            return list(range(start, stop))
        order = self._order
        if order is None or order[0] != epoch:
            order = self._order = epoch, torch.randperm(self._total, generator=seeded(self._seed, epoch))
        return [int(i) for i in order[1][start:stop].tolist()]

    def _read(self, indices: list[int]) -> list[Any]:
        many = getattr(self._dataset, "__getitems__", None)
        if many is not None:
            try:
                samples = list(many(indices))
            except WaferError:
                raise
            except Exception as error:
                raise _failed(self._dataset, f"samples {indices}", error) from error
            if len(samples) != len(indices):
                raise InputError(
                    f"{type(self._dataset).__name__}.__getitems__ returned {len(samples)} samples for "
                    f"{len(indices)} indices; it must return one for each"
                )
            return samples
        samples = []
        for index in indices:
            try:
                samples.append(self._dataset[index])
            except WaferError:
                raise
            except Exception as error:
                raise _failed(self._dataset, f"sample {index}", error) from error
        return samples

    def _collated(self, samples: list[Any], where: str) -> object:
        try:
            return self._collate(samples)
        except WaferError:
            raise
        except Exception as error:
            raise InputError(
                f"{where}: the samples could not be made into a batch: {type(error).__name__}: {error}; "
                "let the dataset return tensors of one shape, or pass a `collate` that makes them so"
            ) from error


def _failed(dataset: object, which: str, error: Exception) -> InputError:
    return InputError(
        f"{which} of {type(dataset).__name__} could not be read: {type(error).__name__}: {error}; "
        "mend the data or leave the sample out"
    )
