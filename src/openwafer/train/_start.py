"""The checkpoint that a run begins with: the last whole one of an earlier run, or one of the initial weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torch import Tensor, nn

from openwafer.artifact import Plan
from openwafer.base import CheckpointError, InputError
from openwafer.cluster.store import (
    Checkpoint,
    CheckpointWriter,
    aligned_buffer,
    latest_checkpoint,
    list_checkpoints,
    open_weights,
    view_tensors,
)
from openwafer.train._initial import InitialWeights
from openwafer.train.report import RunFolder


def last_whole(
    folder: RunFolder, plan: Plan, tell: Callable[[str], None], told_steps: int | None = None
) -> Checkpoint:
    """The newest checkpoint whose every byte is as it was written; `tell` gets a line for each damaged one passed over.

    told_steps: steps whose reports have come. A role may be lost after a checkpoint and before the report of the step that
    it holds; an older one, if there is, repeats that step, so that no loss is missing.

    Raises CheckpointError if none is whole, or if the newest that is holds other tensors than `plan` trains.
    """
    first: CheckpointError | None = None
    newer: Checkpoint | None = None
    for path in reversed(list_checkpoints(folder.checkpoints)):
        try:
            checkpoint = Checkpoint.open(path, verify=True)
        except CheckpointError as error:
            first = first or error
            tell(f"{path.name} is passed over: {error}")
        else:
            checkpoint.check(plan.records)
            if told_steps is None or checkpoint.step <= told_steps:
                return checkpoint
            newer = newer or checkpoint
    if newer is not None:
        return newer
    raise first or CheckpointError(f"{folder.checkpoints} lost its checkpoints; start the run anew")


def write_initial(
    folder: RunFolder,
    plan: Plan,
    module: nn.Module,
    weights: str | Path | Mapping[str, Tensor] | None,
    seed: int,
) -> Checkpoint:
    """Write checkpoint-0, record by record: a run that begins starts as one that goes on does.

    module, seed: what the weights are made from, except those that come from `weights`. An earlier checkpoint-0 is replaced.
    Raises InputError if the folder holds a run with steps; CheckpointError, StorageError.
    """
    found = latest_checkpoint(folder.checkpoints)
    if found is not None and (steps := Checkpoint.open(found).step) > 0:
        raise InputError(
            f"{folder.path} holds a run with {steps} steps; go on with it (--resume), start "
            "it anew (--overwrite) or choose another folder (--folder)"
        )
    imported = open_weights(weights) if weights is not None else None
    initial = InitialWeights(module, seed, imported)
    buffer = aligned_buffer(max(record.nbytes for record in plan.records))
    values = {entry.name: entry.initial for entry in plan.globals}
    with CheckpointWriter(folder.checkpoints, 0, plan.records, values, {}) as writer:
        for index, record in enumerate(plan.records):
            tensors = view_tensors(record, buffer)
            for entry in record.state:
                tensors[entry.name].fill_(plan.initial_state.get(entry.name, 0.0))
            initial.fill(record, tensors)
            writer.add(index, buffer[: record.nbytes])
        return Checkpoint.open(writer.commit())
