"""The role itself: opens the store, starts the threads, obeys the coordinator."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import torch

from openwafer.base import PlanError
from openwafer.cluster._failures import report_failure
from openwafer.cluster._job import Job, memoryx
from openwafer.cluster._memory import peak_rss
from openwafer.cluster._messages import Command, Ended, Ready, SaveCheckpoint, Stop
from openwafer.cluster._threads import use_threads
from openwafer.cluster.memoryx._checkpoints import Checkpoints
from openwafer.cluster.memoryx._down import WeightStream
from openwafer.cluster.memoryx._shared import Shared
from openwafer.cluster.memoryx._up import Updates
from openwafer.cluster.memoryx._updater import Updater
from openwafer.cluster.store import DiskStore, RamStore, Store, load_checkpoint
from openwafer.wire import Endpoints


class MemoryXRole:
    """The parameter service of a job. `run()` obeys the coordinator until told to stop."""

    def __init__(self, job: Job, endpoints: Endpoints) -> None:
        self.ends = endpoints
        store = _open_store(job, endpoints)
        try:
            checkpoint = load_checkpoint(job.start, store)
            if isinstance(store, DiskStore):
                store.flush(checkpoint.step, checkpoint.globals, hashes=False)
        except BaseException:
            store.close()
            raise
        updater = Updater(job.plan, checkpoint.globals)
        self.shared = Shared(job, endpoints, store, updater, checkpoint.step)
        self.streams = [WeightStream(self.shared, stage) for stage in range(job.plan.stages)]
        self.updates = Updates(self.shared)
        self.checkpoints = Checkpoints(self.shared)

    def run(self) -> None:
        """Obey the coordinator. Raises the first error of any thread."""
        shared = self.shared
        threads = [
            *(self._thread(f"stream {stage}", stream.run) for stage, stream in enumerate(self.streams)),
            *(self._thread(f"update {stage}", self.updates.run, stage) for stage in range(len(self.streams))),
            self._thread("checkpoint", self.checkpoints.run),
        ]
        inbox = self.ends.inbox("commands")
        shared.reports.send(Ready(memoryx(), shared.start_step))
        try:
            while not isinstance(command := inbox.receive(type=Command), Stop):
                if isinstance(command, SaveCheckpoint):
                    self.checkpoints.save(command)
                    continue
                for stream in self.streams:
                    stream.steps.put(command)
                if command.train:
                    for steps in self.updates.steps:
                        steps.put(command)
        except BaseException as error:
            # First the report: what the threads wait for may end only when the coordinator knows.
            report_failure(memoryx(), error, self.ends)
            shared.ledger.fail(error)
            raise
        else:
            self._end(threads)
            if shared.ledger.error is not None:
                raise shared.ledger.error
            shared.store.flush(shared.ledger.completed, shared.updater.global_values, hashes=False)
        finally:
            self._end(threads)
            shared.store.close()
        shared.reports.send(Ended(memoryx(), peak_rss()))

    def _thread(self, name: str, target: Callable[..., None], *arguments: int) -> threading.Thread:
        def work() -> None:
            # Systems on devices with memory of their own leave the host's cores to the updates.
            use_threads(self.shared.job.threads if self.shared.plan.own_memory else 1)
            with torch.inference_mode():
                target(*arguments)

        thread = threading.Thread(target=self.shared.guard, args=(work,), name=name, daemon=True)
        thread.start()
        return thread

    def _end(self, threads: list[threading.Thread]) -> None:
        """Let every thread finish its queue, or fail at its next wait. A second call does nothing."""
        for steps in (*(stream.steps for stream in self.streams), *self.updates.steps):
            steps.put(None)
        self.checkpoints.end()
        for thread in threads:
            thread.join()
        self.updates.close()


def _open_store(job: Job, endpoints: Endpoints) -> Store:
    plan = job.plan
    if plan.store == "disk":
        if not job.store_folder:
            raise PlanError(
                "the plan keeps MemoryX on disk, but no folder was given; write memoryx='disk:/path'"
            )
        return DiskStore(Path(job.store_folder), plan.records, set(plan.cached), fresh=True)
    segment = endpoints.segment("store").buffer
    buffers, at = [], 0
    for record in plan.records:
        buffers.append(segment[at : at + record.nbytes])
        at += record.nbytes
    return RamStore(plan.records, buffers)
