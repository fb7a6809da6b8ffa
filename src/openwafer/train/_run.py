"""One call of `fit`: keeps a coordinator going from checkpoint to checkpoint until the steps are done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from torch import Tensor, nn

from openwafer.artifact import Plan, describe_plan, plan_to_json
from openwafer.base import CheckpointError, InputError, RoleLost
from openwafer.cluster import (
    CheckpointDone,
    Coordinator,
    Hosts,
    Job,
    SaveCheckpoint,
    Step,
    StepDone,
    choose_kernels,
    encode_extra,
)
from openwafer.cluster.store import Checkpoint
from openwafer.graph import StepTime
from openwafer.train._batches import replica_batches
from openwafer.train._config import LocalCluster
from openwafer.train._hosts import open_hosts
from openwafer.train._prediction import predict
from openwafer.train._process import interruptible, same_threads_after
from openwafer.train._progress import Progress
from openwafer.train._saved import SavedPlans
from openwafer.train._start import last_whole, write_initial
from openwafer.train.data import BatchSource
from openwafer.train.report import Reporter, RunFolder

TIMELINE_STEPS = 3
WORTH_PREDICTING_FLOPS = 10**9
"""A smaller step is over in a moment, and what it costs to start operators outweighs what they compute."""
MAX_RECOVERIES = 3
SLOW_BYTES_PER_S, SLOW_FLOPS_PER_S = 20e6, 1e9
"""A disk and a system that are slower than these are taken for stalled, after `stall_s`."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """What `fit` did. Losses are means over the batch, one per step of this call."""

    steps: int
    losses: tuple[float, ...]
    eval_losses: tuple[tuple[int, float], ...]
    folder: Path
    checkpoint: Path
    samples_per_s: float
    predicted_step_s: float | None
    """What a training step was predicted to take, from a measurement before the first; None for steps of a moment."""
    peak_rss: dict[str, int]
    """By role: high-water mark of its process in bytes. Roles that are threads share one process."""
    peak_device: dict[str, int]
    """By system, where it has memory of its own: most bytes that its process allocated there. Empty on the CPU."""
    interrupted: bool


Callback = Callable[[StepDone], None]
"""Called in the coordinator after every training step; it may raise to stop the run."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a run takes from its Trainer."""

    module: nn.Module
    weights: str | Path | Mapping[str, Tensor] | None
    cluster: LocalCluster
    seed: int
    console: Console | None
    saved: SavedPlans | None = None


class Run:
    """Does the steps of one call of `fit`, each attempt with a coordinator of its own, from the latest checkpoint on.

    What is done goes to a Progress, event by event; a Run itself knows only what is to be done.
    """

    def __init__(
        self,
        setup: Setup,
        folder: RunFolder,
        plan: Plan,
        train: BatchSource,
        eval: BatchSource | None,
        *,
        steps: int,
        eval_every: int,
        eval_batches: int,
        checkpoint_every: int,
        keep_checkpoints: int,
        callbacks: Sequence[Callback],
        fail: str,
    ) -> None:
        self.setup = setup
        self.folder = folder
        self.plan = plan
        self.train = train
        self.eval = eval
        self.steps = steps
        self.eval_every = eval_every
        self.eval_batches = eval_batches
        self.checkpoint_every = checkpoint_every
        self.keep_checkpoints = keep_checkpoints
        self.callbacks = callbacks
        self.fail = fail
        self.stopping = threading.Event()
        """Set by Ctrl-C: no more steps are asked for, and a checkpoint ends the run."""
        self.hosts: Hosts | None = None
        self.kernels: dict[str, str] = {}
        """Matrix products of the plan and what computes each, where that was chosen by measuring; every checkpoint says it."""

    def run(self, resume: bool) -> FitResult:
        """Do the steps that are missing. Raises InputError if none are; the other errors are those of `Trainer.fit`."""
        setup, cluster = self.setup, self.setup.cluster
        notes = list(self.plan.notes)
        if setup.saved is not None and setup.saved.note:
            notes.insert(0, setup.saved.note)
        start = (
            last_whole(self.folder, self.plan, notes.append)
            if resume
            else write_initial(self.folder, self.plan, setup.module, setup.weights, setup.seed)
        )
        if start.step >= self.steps:
            raise InputError(
                f"{self.folder.path} has {start.step} steps already, and steps={self.steps} asks for no more; raise "
                "steps, or choose another run folder"
            )
        if cluster.matmul == "auto" and cluster.device == "cpu":
            # What a run began with it goes on with: another kernel adds in another order.
            known = start.extra.get("kernels", {})
            self.kernels = choose_kernels(self.plan.body.values(), cluster.threads_per_system) | known
        begun = time.monotonic()
        with (
            same_threads_after(),
            interruptible(self.stopping),
            Reporter(
                self.folder,
                self.steps,
                cluster.device.upper(),
                setup.console,
                log_every=max(1, min(self.eval_every or self.steps, self.steps) // 10),
                start_step=start.step,
                loop_steps=self.eval_every or None,
            ) as reporter,
            open_hosts(cluster, reporter.note, self.stopping.is_set) as self.hosts,
        ):
            for note in notes:
                reporter.note(note)
            predicted = self._predict(reporter)
            progress = Progress(reporter, start, self.eval_batches)
            self._attempts(reporter, progress, start)
            self._finish(reporter, progress, begun, predicted)
        return FitResult(
            steps=progress.saved_steps,
            losses=progress.losses,
            eval_losses=progress.eval_losses,
            folder=self.folder.path,
            checkpoint=progress.last_checkpoint,
            samples_per_s=progress.samples_per_s,
            predicted_step_s=predicted.total_s if predicted else None,
            peak_rss=progress.peak_rss,
            peak_device=progress.peak_device,
            interrupted=self.stopping.is_set(),
        )

    def _predict(self, reporter: Reporter) -> StepTime | None:
        """Say what a step should take; the plan may change in what its store keeps in RAM."""
        cluster = self.setup.cluster
        if cluster.device != "cpu" or self.plan.flops_per_step < WORTH_PREDICTING_FLOPS:
            return None
        found = predict(
            self.plan, cluster, self.kernels, cluster.store_folders(self.folder.path), self.setup.saved
        )
        if isinstance(found, str):
            reporter.note(found)
            return None
        if found.plan != self.plan:
            self.plan = found.plan
            self.folder.write(self.folder.plan, plan_to_json(self.plan))
            self.folder.write(self.folder.plan_text, describe_plan(self.plan))
        reporter.note(found.text)
        return found.step

    # --- from checkpoint to checkpoint ----------------------------------------------------------------

    def _attempts(self, reporter: Reporter, progress: Progress, start: Checkpoint) -> None:
        """Go on from the last whole checkpoint when a role is lost; MAX_RECOVERIES times without a new checkpoint."""
        recoveries = 0
        while True:
            try:
                self._attempt(reporter, progress, start)
                return
            except RoleLost as error:
                if recoveries >= MAX_RECOVERIES:
                    raise
                before = start.step
                try:
                    # `start` may be gone by now: only the last few checkpoints are kept.
                    start = last_whole(self.folder, self.plan, reporter.note, progress.told_steps)
                except CheckpointError:
                    raise error from None
                recoveries += 0 if start.step > before else 1
                self.fail = ""
                progress.recovered(start)
                reporter.note(f"{str(error).partition(';')[0]}; going on from {start.folder.name}")

    def _attempt(self, reporter: Reporter, progress: Progress, start: Checkpoint) -> None:
        """Give the steps that are missing after `start` to a new coordinator."""
        cluster = self.setup.cluster
        with Coordinator(
            self._job(start),
            partial(replica_batches, self.train, self.eval, self.plan.replicas),
            processes=cluster.uses_processes,
            input_processes=cluster.input_processes,
            hosts=self.hosts,
        ) as coordinator:
            reporter.start()
            for event in coordinator.run(self._commands(coordinator.start_step)):
                if isinstance(event, CheckpointDone):
                    progress.saved(event)
                elif event.train:
                    progress.stepped(event)
                    if event.step - start.step == TIMELINE_STEPS:
                        # Complete by now: who watches the run need not wait for its end.
                        progress.timeline.write_trace(self.folder.timeline)
                    for callback in self.callbacks:
                        callback(event)
                else:
                    progress.evaluated(event)
        progress.ended(coordinator.peak_rss, coordinator.peak_device)

    def _job(self, start: Checkpoint) -> Job:
        cluster = self.setup.cluster
        return Job(
            plan=self.plan,
            seed=self.setup.seed,
            start=str(start.folder),
            store_folders=tuple(map(str, cluster.store_folders(self.folder.path))),
            matmul=cluster.matmul,
            matmul_choices=self.kernels,
            threads=cluster.threads_per_system,
            device=cluster.device,
            system_memory=cluster.system_memory_bytes,
            stall_s=cluster.stall_s + _step_seconds(self.plan),
            timeline_steps=TIMELINE_STEPS,
            keep_checkpoints=self.keep_checkpoints,
            fail=self.fail,
        )

    def _commands(self, first: int) -> Iterator[Step | SaveCheckpoint]:
        saved = first
        step = first
        while step < self.steps and not self.stopping.is_set():
            yield Step(number=step, batch=step, train=True)
            step += 1
            if (
                self.eval is not None
                and self.eval_every
                and (step % self.eval_every == 0 or step == self.steps)
            ):
                for index in range(self.eval_batches):
                    yield Step(number=step, batch=index, train=False)
            if self.checkpoint_every and step % self.checkpoint_every == 0:
                yield self._save(step)
                saved = step
        if saved < step:
            yield self._save(step)

    def _save(self, step: int) -> SaveCheckpoint:
        extra: dict[str, object] = {
            "data": self.train.state(step),
            "seed": self.setup.seed,
            "kernels": self.kernels,
        }
        return SaveCheckpoint(step=step, folder=str(self.folder.checkpoints), extra=encode_extra(extra))

    def _finish(
        self, reporter: Reporter, progress: Progress, begun: float, predicted: StepTime | None
    ) -> None:
        if len(progress.timeline):
            progress.timeline.write_trace(self.folder.timeline)
            progress.timeline.write_picture(self.folder.timeline_picture)
        if self.stopping.is_set():
            reporter.note(
                f"Stopped by Ctrl-C after step {progress.saved_steps}, with a checkpoint; go on with --resume"
            )
        reporter.finish(
            progress.summary(
                self.plan,
                self.folder.path,
                seconds=time.monotonic() - begun,
                predicted_s=predicted.total_s if predicted else None,
            )
        )


def _step_seconds(plan: Plan) -> float:
    """What a slow machine takes for one step, or to load the run: nobody may call such a wait a stall."""
    nbytes = sum(record.nbytes for record in plan.records)
    return nbytes / SLOW_BYTES_PER_S + plan.flops_per_step / len(plan.systems) / SLOW_FLOPS_PER_S
