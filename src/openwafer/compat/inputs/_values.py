"""Tensors that a client describes instead of sending: computed by its own packages, in the sandbox of its input workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec
import torch

from openwafer.base import InputError
from openwafer.compat.inputs._pipeline import STORAGE, Layout, TensorSpec
from openwafer.compat.inputs._worker import Work, Worker
from openwafer.sandbox import TIERS, Confinement

_DEPTH = 64


class InitialValue(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor: of the three descriptions, the first that is there says how it is made."""

    name: str = ""
    dtype: str
    """As torch prints it, without `torch.`."""
    shape: tuple[int, ...]
    graph: str | None = None
    """A graph in the text form of the client's compiler, for its own `args`."""
    args: tuple[InitialValue, ...] = ()
    data: bytes | None = None
    """Its bytes."""
    fill: float | int = 0
    hooks: bytes = b""
    """A pickled list of functions, each of which may return another tensor of this shape; empty: none."""


def initial_values(
    values: Sequence[InitialValue],
    *,
    python: str,
    confinement: Confinement,
    log: Callable[[str], None],
    timeout_s: float = 600.0,
    tiers: Sequence[str] = TIERS,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Compute each in one confined process, and yield it by name; in order, each a tensor of its own.

    Raises InputError if one cannot be computed, is not what it is said to be, or its code breaks a rule; StallError if one
    takes longer than `timeout_s`; RoleLost if the process is killed from outside.
    """
    if not values:
        return
    worker = Worker("weight worker", python, _ValueWork(values), confinement, ahead=1, log=log, tiers=tiers)
    try:
        for index, value in enumerate(values):
            made = worker.take(index, timeout_s, lambda waited_s: None, timeout_s)
            yield value.name, made[value.name].clone()
    finally:
        worker.close()


class _ValueWork(Work):
    what = "initial value"
    result = "tensor"
    first = 0

    def __init__(self, values: Sequence[InitialValue]) -> None:
        self._values, self._blobs = values, list[bytes]()
        self._described = [self._describe(value, value.name, 0) for value in values]
        self.slot_bytes = max(math.prod(value.shape) * int(STORAGE[value.dtype][1:]) for value in values)

    def order(self) -> dict[str, object]:
        return {"task": "values", "values": self._described}

    def blobs(self) -> list[bytes]:
        return self._blobs

    def view(self, index: int, slot: memoryview) -> Mapping[str, torch.Tensor]:
        value = self._values[index]
        whole = TensorSpec(name=value.name, dtype=value.dtype, shape=value.shape)
        return {value.name: Layout((whole,), 1).view(slot)[value.name][0]}

    def _describe(self, value: InitialValue, name: str, depth: int) -> dict[str, object]:
        if value.dtype not in STORAGE:
            raise InputError(
                f"the initial value of {name!r} is {value.dtype}; it can be {', '.join(STORAGE)}"
            )
        if depth > _DEPTH:
            raise InputError(f"the graph of {name!r} has more than {_DEPTH} graphs inside of one another")
        if value.data is not None and len(value.data) != math.prod(value.shape) * int(
            STORAGE[value.dtype][1:]
        ):
            raise InputError(
                f"the initial value of {name!r} has {len(value.data)} bytes, which are no {value.dtype} {value.shape}"
            )
        return {
            "name": name,
            "dtype": value.dtype,
            "shape": value.shape,
            "storage": STORAGE[value.dtype],
            "graph": value.graph,
            "args": [self._describe(argument, name, depth + 1) for argument in value.args],
            "data": self._blob(value.data) if value.data is not None else None,
            "fill": value.fill,
            "hooks": self._blob(value.hooks) if value.hooks else None,
        }

    def _blob(self, blob: bytes) -> int:
        self._blobs.append(blob)
        return len(self._blobs) - 1
