"""Initial values, one record at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch

from openwafer.base import CheckpointError, InputError
from openwafer.cluster.store._base import Store
from openwafer.cluster.store._files import aligned_buffer
from openwafer.cluster.store._tensors import nearest, part_of, placed, tensor_at, type_of, zero_holes

Tensors = Mapping[str, torch.Tensor] | Callable[[str], torch.Tensor] | Iterable[tuple[str, torch.Tensor]]


def initialise(
    store: Store, index: int, tensors: Tensors, *, step: int = 0, scratch: memoryview | None = None
) -> None:
    """Fill one record, so that a model larger than memory is never there as a whole.

    tensors: a mapping, a function from a name to its tensor (KeyError for one that it does not have), or
    (name, tensor) pairs. Only the record's own names are asked for, each once; of a tensor that the record holds
    a part of, the whole is given. Floating-point values are cast to the stored dtype. State that is not given starts at zero.
    scratch: page-aligned memory of at least `nbytes`, to reuse over calls; only a store on disk needs it.

    Raises CheckpointError if a weight is missing, InputError if one has another shape or kind of dtype.
    """
    record = store.records[index]
    buffer = store.memory(index)
    if buffer is None:
        buffer = aligned_buffer(record.nbytes) if scratch is None else scratch[: record.nbytes]
    zero_holes(record, buffer)
    value_of: Callable[[str], torch.Tensor]
    known: Iterable[str] = ()
    if callable(tensors):
        value_of = tensors
    else:
        table = tensors if isinstance(tensors, Mapping) else dict(tensors)
        value_of, known = table.__getitem__, table
    for tensor, offset in placed(record):
        target = tensor_at(buffer, offset, tensor.type)
        try:
            value = part_of(tensor, value_of(tensor.whole))
        except KeyError:
            if tensor in record.state:
                target.zero_()
                continue
            raise CheckpointError(
                f"no value for weight {tensor.whole!r} ({tensor.whole_type}) of record {index} ({record.name!r})"
                f"{nearest(tensor.whole, known)}; give it, or a `rename` that maps a name to it"
            ) from None
        if value.shape != target.shape or (
            value.dtype != target.dtype
            and not (value.dtype.is_floating_point and target.dtype.is_floating_point)
        ):
            raise InputError(
                f"{tensor.name!r} must be {tensor.type} for record {index} ({record.name!r}), the given "
                f"tensor is {type_of(value)}; give the model's own weights"
            )
        target.copy_(value)
    store.write(index, step, buffer)
