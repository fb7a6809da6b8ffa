"""What a batch is, and how one is checked, compared and cut into shards."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openwafer.base import InputError

Batch = dict[str, Tensor] | tuple[Tensor, ...]
"""Tensors by name or by position; dim 0 of each counts the samples, and is the same in all of them."""

Structure = tuple[tuple[str, torch.dtype, tuple[int, ...]], ...]
"""Name, dtype and shape of one sample for every tensor of a batch; positions are named `[0]`, `[1]`."""


def to_batch(value: object, where: str) -> Batch:
    """Read what a loader or a collate function returned as a Batch.

    A mapping becomes a dict, a list or tuple a tuple, a lone tensor or array a tuple of one. NumPy
    arrays and lists of numbers become tensors of the same dtype; arrays that cannot be written to
    are copied. `where` begins the error text, for example `batch 3 of epoch 0`.

    Raises InputError for text, None, nested containers and other objects, for a tensor without a
    batch dim, for tensors of different numbers of samples, and for a batch of none.
    """
    batch: Batch
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise InputError(
                f"{where}: a batch's keys must be text, got {list(value)!r}; rename them in `collate`"
            )
        batch = {str(key): _to_tensor(item, f"{where}: {key!r}") for key, item in value.items()}
    elif isinstance(value, (list, tuple)) and not (
        value and all(isinstance(x, numbers.Number) for x in value)
    ):
        batch = tuple(_to_tensor(item, f"{where}: [{i}]") for i, item in enumerate(value))
    else:
        batch = (_to_tensor(value, where),)

    counts = {name: tensor.shape[0] for name, tensor in _named(batch)}
    if not counts:
        raise InputError(f"{where}: the batch holds no tensor; return a dict or a tuple of tensors")
    if len(set(counts.values())) > 1:
        raise InputError(
            f"{where}: the tensors disagree about the number of samples ({_listed(counts)}); "
            "dim 0 of every tensor of a batch must count its samples"
        )
    if not rows(batch):
        raise InputError(f"{where}: the batch has no samples; skip empty batches in the loader")
    return batch


def rows(batch: Batch) -> int:
    """The number of samples in a batch."""
    return next(int(tensor.shape[0]) for _, tensor in _named(batch))


def structure(batch: Batch) -> Structure:
    """What every batch of a run must have in common: names, dtypes and shapes of one sample."""
    return tuple((name, tensor.dtype, tuple(tensor.shape[1:])) for name, tensor in _named(batch))


def check_structure(expected: Structure, batch: Batch, where: str) -> None:
    """Raise InputError, naming the first difference, if `batch` is not made like the batches before it.

    The compiled step has fixed shapes, so a batch of another shape could not be run.
    """
    found = structure(batch)
    if found == expected:
        return
    for old, new in zip(expected, found, strict=False):
        if old != new:
            raise InputError(
                f"{where}: {_described(new)}, but earlier batches had {_described(old)}; the step is "
                "compiled for one shape, so pad or crop every sample to it in the dataset or in `collate`"
            )
    raise InputError(
        f"{where}: {len(found)} tensors ({', '.join(n for n, _, _ in found)}), but earlier batches had "
        f"{len(expected)} ({', '.join(n for n, _, _ in expected)}); return the same tensors in every batch"
    )


def slice_rows(batch: Batch, start: int, stop: int) -> Batch:
    """Samples [start, stop) of a batch, as views of its tensors."""
    if isinstance(batch, dict):
        return {name: tensor[start:stop] for name, tensor in batch.items()}
    return tuple(tensor[start:stop] for tensor in batch)


def split_rows(total: int, index: int, count: int) -> tuple[int, int]:
    """First and last+1 row of shard `index` of `count`: contiguous, the first `total % count` one row "
    "longer."""
    share, extra = divmod(total, count)
    start = index * share + min(index, extra)
    return start, start + share + (index < extra)


def _named(batch: Batch) -> list[tuple[str, Tensor]]:
    if isinstance(batch, dict):
        return list(batch.items())
    return [(f"[{i}]", tensor) for i, tensor in enumerate(batch)]


def _to_tensor(value: Any, where: str) -> Tensor:
    if isinstance(value, np.ndarray):
        value = _from_numpy(value, where)
    elif isinstance(value, (list, tuple)):
        value = _from_list(value, where)
    elif isinstance(value, (numbers.Number, np.generic)):
        value = torch.tensor(value)
    if not isinstance(value, Tensor):
        raise InputError(
            f"{where} is {_kind(value)}, not a tensor; leave it out of the batch or turn it into numbers "
            "in the dataset or in `collate`"
        )
    if value.dim() == 0:
        raise InputError(
            f"{where} is a single number, which has no batch dim; give one value per sample, shape "
            "[batch_size]"
        )
    return value.detach()


def _from_numpy(array: np.ndarray[Any, Any], where: str) -> Tensor:
    if array.dtype.kind not in "biufc":
        raise InputError(
            f"{where} is an array of {array.dtype}, not of numbers; leave it out of the batch or turn it "
            "into numbers in the dataset or in `collate`"
        )
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    if not native.flags.writeable or any(stride < 0 for stride in native.strides):
        native = native.copy()
    try:
        return torch.from_numpy(native)
    except TypeError as error:
        raise InputError(
            f"{where} is an array of {array.dtype}, which torch does not have; convert it"
        ) from error


def _from_list(values: list[Any] | tuple[Any, ...], where: str) -> Tensor:
    if values and all(isinstance(x, Tensor) for x in values):
        raise InputError(
            f"{where} is a list of {len(values)} tensors, not a tensor; stack them, or let the dataset "
            "return tensors instead of lists of numbers, which the default collate turns on their side"
        )
    if any(isinstance(x, (str, bytes)) for x in values):
        raise InputError(
            f"{where} is a list of text, not a tensor; leave it out of the batch or turn it into token ids "
            "in the dataset or in `collate`"
        )
    try:
        return torch.tensor(values)
    except (ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{where} is a list that does not make a tensor ({error}); return a tensor"
        ) from error


def _kind(value: object) -> str:
    if isinstance(value, (str, bytes)):
        return "text"
    return "None" if value is None else f"a {type(value).__name__}"


def _described(entry: tuple[str, torch.dtype, tuple[int, ...]]) -> str:
    name, dtype, shape = entry
    return f"{name} is {str(dtype).removeprefix('torch.')} of shape [batch{''.join(f', {n}' for n in shape)}]"


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} has {count}" for name, count in counts.items())
