"""Initial weights and state as they come from the client, until all are there and are written as a checkpoint."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import final

import torch

from openwafer.artifact import Plan, Record
from openwafer.base import CheckpointError, InputError, StallError
from openwafer.cluster.store import Checkpoint, CheckpointWriter, aligned_buffer, view_tensors
from openwafer.compat.appliance._compiled import ProgramInfo, TensorInfo
from openwafer.compat.cirh import SUM


@final
class Staging:
    """Tensors by the client's name, checked against what the program declares. Thread-safe."""

    def __init__(self, program: ProgramInfo) -> None:
        self._infos = {info.name: info for info in program.states}
        self._tensors: dict[str, torch.Tensor] = {}
        self._changed = threading.Condition()
        self._why_stopped = ""

    def info(self, name: str) -> TensorInfo:
        """What the program declares of a tensor. Raises InputError if it has none of this name."""
        if name not in self._infos:
            raise InputError(
                f"the program has no state {name!r}; it has {', '.join(sorted(self._infos)[:5])}, ..."
            )
        return self._infos[name]

    def put(self, name: str, value: torch.Tensor) -> None:
        """Take a tensor. Raises InputError unless it has the shape and the element type that the program declares."""
        info = self.info(name)
        if tuple(value.shape) != info.shape:
            raise InputError(
                f"{name} came with shape {list(value.shape)}; the program declares {list(info.shape)}"
            )
        wanted = getattr(torch, info.dtype)
        # The vendor's half format is held wider here, and scalars may come wider than declared.
        if value.dtype != wanted:
            if value.is_floating_point() != wanted.is_floating_point:
                raise InputError(f"{name} came as {value.dtype}; the program declares {info.dtype}")
            value = value.to(wanted)
        with self._changed:
            self._tensors[name] = value
            self._changed.notify_all()

    def wait(self, names: Iterable[str], timeout_s: float) -> None:
        """Until all of `names` have come. Raises StallError after `timeout_s`, or when nothing more will come."""
        names = list(names)
        end = time.monotonic() + timeout_s
        with self._changed:
            while missing := [name for name in names if name not in self._tensors]:
                left = end - time.monotonic()
                if self._why_stopped or left <= 0:
                    raise StallError(self._why_stopped or f"{missing[0]} did not come within {timeout_s:g} s")
                self._changed.wait(left)

    def stop(self, why: str) -> None:
        """Let who waits go."""
        with self._changed:
            self._why_stopped = why
            self._changed.notify_all()

    def number(self, name: str) -> int:
        """A state tensor of one number that has come."""
        with self._changed:
            return int(self._tensors[name])

    @property
    def missing(self) -> list[str]:
        with self._changed:
            return [name for name in self._infos if name not in self._tensors]

    def write(self, plan: Plan, folder: Path, step: int) -> Checkpoint:
        """Write the checkpoint that the run starts from. Raises InputError if something is missing, StorageError."""
        if missing := self.missing:
            raise InputError(
                f"{len(missing)} tensors of the program have not come, {', '.join(missing[:5])} among them; "
                "send every weight and state before streaming starts"
            )
        by_tensor = {info.tensor: self._tensors[name] for name, info in self._infos.items()}
        nothing = torch.zeros(())  # sums over the batch are gradients of weights that no client knows
        values = {entry.name: float(by_tensor[entry.name]) for entry in plan.globals}
        return write_checkpoint(
            plan, folder, step, lambda name: nothing if name.startswith(SUM) else by_tensor[name], values
        )


def write_checkpoint(
    plan: Plan,
    folder: Path,
    step: int,
    find: Callable[[str], torch.Tensor],
    values: Mapping[str, float],
) -> Checkpoint:
    """A checkpoint of the plan's records, each tensor as `find` gives it by the plan's name."""
    buffer = aligned_buffer(max((record.nbytes for record in plan.records), default=0))
    with CheckpointWriter(folder, step, plan.records, values, {}) as writer:
        for index, record in enumerate(plan.records):
            _fill(record, buffer, find)
            writer.add(index, buffer[: record.nbytes])
        return Checkpoint.open(writer.commit())


def _fill(record: Record, buffer: memoryview, find: Callable[[str], torch.Tensor]) -> None:
    tensors = view_tensors(record, buffer)
    for entry in (*record.weights, *record.state):
        tensors[entry.name].copy_(find(entry.whole))


def read_state(checkpoint: Checkpoint, info: TensorInfo) -> torch.Tensor:
    """A state tensor after the checkpoint's step, as the client expects it. Raises CheckpointError if it is not there."""
    if info.role == "global":
        if info.tensor not in checkpoint.globals:
            raise CheckpointError(f"{checkpoint.folder} does not hold {info.name}")
        value = torch.tensor(checkpoint.globals[info.tensor], dtype=getattr(torch, info.dtype))
        value = value.reshape(info.shape)
    else:
        value = checkpoint.tensor(info.tensor)
    return value.to(torch.float16) if info.element == "f16" else value
