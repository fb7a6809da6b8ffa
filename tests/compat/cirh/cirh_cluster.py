"""Run a program's plan on the cluster, with roles as threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor

from openwafer.artifact import Plan
from openwafer.cluster import CheckpointDone, Coordinator, Job, SaveCheckpoint, Step, StepDone, encode_extra
from openwafer.cluster.store import Checkpoint, CheckpointWriter, aligned_buffer, view_tensors
from openwafer.compat.cirh import Program

Batches = Callable[[int], Mapping[str, Tensor]]


def write_start(
    folder: Path, plan: Plan, program: Program, state: Mapping[str, Tensor], step: int = 0
) -> Path:
    """A checkpoint that holds the state, by the client's names."""
    named = {entry.tensor: state[entry.name] for entry in program.states}
    values = {entry.name: float(named[entry.name]) for entry in plan.globals}
    buffer = aligned_buffer(max(record.nbytes for record in plan.records))
    with CheckpointWriter(folder, step, plan.records, values, {}) as writer:
        for index, record in enumerate(plan.records):
            for name, target in view_tensors(record, buffer).items():
                target.copy_(
                    named.get(name, torch.zeros(()))
                )  # sums over the batch begin each step at nothing
            writer.add(index, buffer[: record.nbytes])
        return Path(writer.commit())


def read_state(folder: str | Path, plan: Plan, program: Program) -> dict[str, Tensor]:
    """The state in a checkpoint, by the client's names."""
    checkpoint = Checkpoint.open(folder)
    tensors: dict[str, Tensor] = {}
    for record in plan.records:
        buffer = aligned_buffer(record.nbytes)
        data = checkpoint.load_record(record, buffer)
        tensors.update({name: value.clone() for name, value in view_tensors(record, data).items()})
    found = {}
    for entry in program.states:
        dtype = getattr(torch, entry.dtype)
        found[entry.name] = (
            torch.tensor(checkpoint.globals[entry.tensor], dtype=dtype)
            if entry.role == "global"
            else tensors[entry.tensor]
        )
    return found


def train(
    folder: Path,
    program: Program,
    plan: Plan,
    start: Path,
    batches: Batches,
    steps: int,
    *,
    first: int = 0,
    seed: int = 7,
    save: bool = True,
    device: str = "cpu",
) -> tuple[list[StepDone], dict[str, Tensor]]:
    """Do steps `first` to `steps`; returns what each reported, and the state after the last."""
    shares = [sum(system.rows) for system in plan.systems if system.stage == 0]
    starts = [sum(shares[:replica]) for replica in range(len(shares))]

    def rows(replica: int) -> Callable[[int, bool], Mapping[str, Tensor]]:
        def batch(number: int, train: bool) -> Mapping[str, Tensor]:
            begin = starts[replica]
            return {name: value[begin : begin + shares[replica]] for name, value in batches(number).items()}

        return batch

    def commands() -> Iterator[Step | SaveCheckpoint]:
        for number in range(first, steps):
            yield Step(number, number, True)
        if save:
            yield SaveCheckpoint(steps, str(folder / "checkpoints"), encode_extra({}))

    job = Job(
        plan=plan,
        seed=seed,
        start=str(start),
        store_folders=tuple(str(folder / f"store{shard}") for shard, _ in enumerate(plan.memoryx_records)),
        threads=1,
        stall_s=60.0,
        device=device,
    )
    done, state = [], {}
    with Coordinator(job, rows, processes=False) as coordinator:
        for event in coordinator.run(commands()):
            if isinstance(event, StepDone):
                done.append(event)
            elif isinstance(event, CheckpointDone):
                assert not event.bad, event
                state = read_state(event.folder, plan, program)
    return done, state
