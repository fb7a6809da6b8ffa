"""Input worker: makes the batches of one replica and puts them where its systems read them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import torch

from openwafer.artifact import batch_layout, batch_slot_bytes
from openwafer.base import InputError
from openwafer.cluster._job import Job, input_role
from openwafer.cluster._memory import peak_rss, view
from openwafer.cluster._messages import Command, Ended, Fed, Ready, Step, Stop
from openwafer.cluster._system import die
from openwafer.wire import Endpoints

BatchFunction = Callable[[int, bool], Mapping[str, torch.Tensor]]
"""(number, train) -> the replica's rows of that batch, by input name."""


class InputWorkerRole:
    """One input worker of a job: obeys steps in order, as far ahead as its ring has room."""

    def __init__(self, job: Job, replica: int, endpoints: Endpoints, batches: BatchFunction) -> None:
        self.job = job
        self.replica = replica
        self.ends = endpoints
        self.batches = batches
        self.role = input_role(replica)
        reader = next(index for index, system in enumerate(job.plan.systems) if system.replica == replica)
        self.rows = sum(job.plan.systems[reader].rows)
        self.slot_bytes = batch_slot_bytes(job.plan, reader)

    def run(self) -> None:
        """Make batches until told to stop. Raises InputError for a batch that is not what the plan was made for."""
        inbox = self.ends.inbox("commands")
        reports = self.ends.outbox("reports")
        writer = self.ends.writer("batches")
        reports.send(Ready(self.role))
        while True:
            command = inbox.receive(type=Command)
            if isinstance(command, Stop):
                break
            if not isinstance(command, Step):
                continue
            if command.train and self.job.fail == f"{self.role}:{command.number}":
                die()
            started = time.monotonic()
            batch = self.batches(command.batch, command.train)
            produced = time.monotonic() - started
            slot = writer.acquire(self.job.stall_s)
            writer.commit({"tensors": self._fill(slot, batch, command)}, self.slot_bytes)
            reports.send(Fed(self.replica, command.number, command.train, produced))
        writer.drain(self.job.stall_s)
        reports.send(Ended(self.role, peak_rss()))

    def _fill(self, slot: memoryview, batch: Mapping[str, torch.Tensor], command: Step) -> list[list[object]]:
        tensors: list[list[object]] = []
        for name, kind, offset in batch_layout(self.job.plan, self.rows):
            if name not in batch:
                raise InputError(f"batch {command.batch} has no {name!r}; it has {', '.join(batch)}")
            value = batch[name]
            if tuple(value.shape) != kind.shape or str(value.dtype) != f"torch.{kind.dtype}":
                raise InputError(
                    f"batch {command.batch}: {name!r} is {value.dtype} of shape {tuple(value.shape)}, but the step was planned "
                    f"for torch.{kind.dtype} of shape {kind.shape}; every batch must be like the first"
                )
            view(slot, kind, offset).copy_(value)
            tensors.append([name, kind.dtype, list(kind.shape), offset])
        return tensors
