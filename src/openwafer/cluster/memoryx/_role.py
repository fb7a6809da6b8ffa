"""The role itself: opens the store, starts the threads, obeys the coordinator."""

from __future__ import annotations

import threading
from collections.abc import Callable

import torch

from openwafer.cluster._failures import report_failure
from openwafer.cluster._job import Job
from openwafer.cluster._memory import peak_rss
from openwafer.cluster._messages import Command, Ended, Ready, SaveCheckpoint, Stop
from openwafer.cluster._threads import use_threads
from openwafer.cluster.memoryx._checkpoints import Checkpoints
from openwafer.cluster.memoryx._down import WeightStream
from openwafer.cluster.memoryx._records import open_records
from openwafer.cluster.memoryx._restore import restore
from openwafer.cluster.memoryx._shared import Shared
from openwafer.cluster.memoryx._up import Updates
from openwafer.cluster.memoryx._updater import Updater
from openwafer.wire import Endpoints


class MemoryXRole:
    """The parameter service of a job, or a shard of it. `run()` obeys the coordinator until told to stop."""

    def __init__(self, job: Job, shard: int, endpoints: Endpoints) -> None:
        self.ends = endpoints
        store = open_records(job, shard, endpoints)
        try:
            step, globals = restore(job, shard, store, endpoints)
            if job.plan.store == "disk":
                store.flush(step, globals)
        except BaseException:
            store.close()
            raise
        updater = Updater(job.plan, globals, job.seed)
        self.shared = Shared(job, shard, endpoints, store, updater, step)
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
        shared.reports.send(Ready(shared.role, shared.start_step))
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
            report_failure(shared.role, error, self.ends)
            shared.ledger.fail(error)
            raise
        else:
            self._end(threads)
            if shared.ledger.error is not None:
                raise shared.ledger.error
            shared.store.flush(shared.ledger.completed, shared.updater.global_values)
        finally:
            self._end(threads)
            shared.store.close()
        shared.reports.send(Ended(shared.role, peak_rss()))

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
