"""One call of `fit`: keeps a coordinator going from checkpoint to checkpoint until the steps are done."""

from __future__ import annotations

import math
import os
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from openwafer.artifact import Plan, describe_plan, plan_to_json
from openwafer.base import (
    CheckpointError,
    InputError,
    NumericsError,
    RoleLost,
    format_bytes,
    logger,
)
from openwafer.cluster import (
    BatchFunction,
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
from openwafer.cluster.store import (
    Checkpoint,
    CheckpointWriter,
    aligned_buffer,
    latest_checkpoint,
    list_checkpoints,
    open_weights,
    view_tensors,
)
from openwafer.graph import StepTime
from openwafer.train._config import LocalCluster
from openwafer.train._hosts import open_hosts
from openwafer.train._initial import InitialWeights
from openwafer.train._prediction import predict
from openwafer.train._step import named_inputs
from openwafer.train.data import BatchSource
from openwafer.train.report import EvalReport, Reporter, RunFolder, StepReport, Timeline

TIMELINE_STEPS = 3
WORTH_PREDICTING_FLOPS = 10**9
"""A smaller step is over in a moment, and what it costs to start operators outweighs what they compute."""
MAX_RECOVERIES = 3
SLOW_BYTES_PER_S, SLOW_FLOPS_PER_S = 20e6, 1e9
"""A disk and a system that are slower than these are taken for stalled, after `stall_s`."""
STARVED = 0.1
"""Share of a step that systems may wait for input before the user is told."""


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


class Run:
    """One call of fit: keeps a coordinator going from checkpoint to checkpoint until the steps are done."""

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
        self.log = logger("trainer")
        self.notes: list[str] = []
        self.kernels: dict[str, str] = {}
        self.losses: dict[int, float] = {}
        self.eval_losses: dict[int, float] = {}
        self.timeline = Timeline()
        self.peak_rss: dict[str, int] = {}
        self.peak_device: dict[str, int] = {}
        self.stopping = threading.Event()
        self.hosts: Hosts | None = None
        self.last_checkpoint = Path()
        self.samples = 0
        self.step_s: list[float] = []
        self.busy_s = 0.0
        self._eval_sum = 0.0
        self._eval_metrics: dict[str, float] = {}
        self._eval_seen = 0
        self._eval_s = 0.0
        self._waited_s = 0.0
        self._produced_s = 0.0
        self._stepped_s = 0.0

    def run(self, resume: bool) -> FitResult:
        start = self._start(resume)
        first = Checkpoint.open(start).step
        if first >= self.steps:
            raise InputError(
                f"{self.folder.path} has {first} steps already, and steps={self.steps} asks for no more; raise steps, or choose "
                "another run folder"
            )
        choices: dict[str, str] = {}
        cluster = self.setup.cluster
        if cluster.matmul == "auto" and cluster.device == "cpu":
            # What a run began with it goes on with: another kernel adds in another order.
            known = Checkpoint.open(start).extra.get("kernels", {})
            choices = choose_kernels(self.plan.body.values(), cluster.threads_per_system) | known
            self.kernels = choices
        begun = time.monotonic()
        with (
            _same_threads_after(),
            self._interruptible(),
            Reporter(
                self.folder,
                self.steps,
                cluster.device.upper(),
                self.setup.console,
                log_every=max(1, min(self.eval_every or self.steps, self.steps) // 10),
                start_step=first,
                loop_steps=self.eval_every or None,
            ) as reporter,
            open_hosts(cluster, reporter.note, self.stopping.is_set) as self.hosts,
        ):
            for note in (*self.plan.notes, *self.notes):
                reporter.note(note)
            predicted = self._predict(reporter, choices)
            recoveries = 0
            while True:
                try:
                    self._attempt(reporter, start, choices)
                    break
                except RoleLost as error:
                    latest = latest_checkpoint(self.folder.checkpoints)
                    if latest is None or recoveries >= MAX_RECOVERIES:
                        raise
                    recoveries += 0 if Checkpoint.open(latest).step > Checkpoint.open(start).step else 1
                    start = latest
                    self.fail = ""
                    reporter.note(f"{str(error).partition(';')[0]}; going on from {latest.name}")
            self._finish(reporter, begun, first, predicted)
        done = sorted(self.losses)
        return FitResult(
            steps=Checkpoint.open(self.last_checkpoint).step,
            losses=tuple(self.losses[step] for step in done),
            eval_losses=tuple(sorted(self.eval_losses.items())),
            folder=self.folder.path,
            checkpoint=self.last_checkpoint,
            samples_per_s=self.samples / self.busy_s if self.busy_s else 0.0,
            predicted_step_s=predicted.total_s if predicted else None,
            peak_rss=self.peak_rss,
            peak_device=self.peak_device,
            interrupted=self.stopping.is_set(),
        )

    def _predict(self, reporter: Reporter, choices: Mapping[str, str]) -> StepTime | None:
        """Say what a step should take; the plan may change in what its store keeps in RAM."""
        cluster = self.setup.cluster
        if cluster.device != "cpu" or self.plan.flops_per_step < WORTH_PREDICTING_FLOPS:
            return None
        found = predict(self.plan, cluster, choices, self._store_folder())
        if isinstance(found, str):
            reporter.note(found)
            return None
        if found.plan != self.plan:
            self.plan = found.plan
            self.folder.write(self.folder.plan, plan_to_json(self.plan))
            self.folder.write(self.folder.plan_text, describe_plan(self.plan))
        reporter.note(found.text)
        return found.step

    def _store_folder(self) -> Path:
        return self.setup.cluster.store_folder or self.folder.path / "memoryx"

    def _start(self, resume: bool) -> Path:
        """The checkpoint to begin with: the run's last, or a new one of the initial weights."""
        if resume:
            return self._last_whole()
        found = latest_checkpoint(self.folder.checkpoints)
        if found is not None and Checkpoint.open(found).step > 0:
            raise InputError(
                f"{self.folder.path} holds a run with {Checkpoint.open(found).step} steps; go on with it (--resume), start "
                "it anew (--overwrite) or choose another folder (--folder)"
            )
        weights = self.setup.weights
        imported = open_weights(weights) if weights is not None else None
        initial = InitialWeights(self.setup.module, self.setup.seed, imported)
        buffer = aligned_buffer(max(record.nbytes for record in self.plan.records))
        values = {entry.name: entry.initial for entry in self.plan.globals}
        with CheckpointWriter(self.folder.checkpoints, 0, self.plan.records, values, {}) as writer:
            for index, record in enumerate(self.plan.records):
                tensors = view_tensors(record, buffer)
                for entry in record.state:
                    tensors[entry.name].fill_(self.plan.initial_state.get(entry.name, 0.0))
                initial.fill(record, tensors)
                writer.add(index, buffer[: record.nbytes])
            return writer.commit()

    def _last_whole(self) -> Path:
        """The newest checkpoint whose every byte is as it was written; damaged ones are told of and passed over."""
        first: CheckpointError | None = None
        for path in reversed(list_checkpoints(self.folder.checkpoints)):
            try:
                checkpoint = Checkpoint.open(path, verify=True)
            except CheckpointError as error:
                first = first or error
                self.notes.append(f"{path.name} is passed over: {error}")
            else:
                checkpoint.check(self.plan.records)
                return path
        raise first or CheckpointError(f"{self.folder.checkpoints} lost its checkpoints; start the run anew")

    def _attempt(self, reporter: Reporter, start: Path, choices: dict[str, str]) -> None:
        cluster = self.setup.cluster
        job = Job(
            plan=self.plan,
            seed=self.setup.seed,
            start=str(start),
            store_folder=str(self._store_folder()) if cluster.store == "disk" else "",
            matmul=cluster.matmul,
            matmul_choices=choices,
            threads=cluster.threads_per_system,
            device=cluster.device,
            system_memory=cluster.system_memory_bytes,
            stall_s=cluster.stall_s + _step_seconds(self.plan),
            timeline_steps=TIMELINE_STEPS,
            keep_checkpoints=self.keep_checkpoints,
            fail=self.fail,
        )
        self.last_checkpoint = start
        self._eval_sum, self._eval_s, self._eval_seen, self._eval_metrics = 0.0, 0.0, 0, {}
        with Coordinator(
            job,
            self._batches,
            processes=cluster.uses_processes,
            input_processes=cluster.input_processes,
            hosts=self.hosts,
        ) as coordinator:
            reporter.start()
            for event in coordinator.run(self._commands(coordinator.start_step)):
                if isinstance(event, CheckpointDone):
                    self._saved(reporter, event)
                elif event.train:
                    self._stepped(reporter, event)
                else:
                    self._evaluated(reporter, event)
        self.peak_rss = {
            role: max(peak, self.peak_rss.get(role, 0)) for role, peak in coordinator.peak_rss.items()
        }
        self.peak_device = {
            role: max(peak, self.peak_device.get(role, 0)) for role, peak in coordinator.peak_device.items()
        }

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

    def _batches(self, replica: int) -> BatchFunction:
        shards = [
            source.shard(replica, self.plan.replicas) if self.plan.replicas > 1 else source
            for source in (self.train, self.eval)
            if source is not None
        ]

        return _ReplicaBatches(shards)

    # --- events ---------------------------------------------------------------------------------------

    def _saved(self, reporter: Reporter, done: CheckpointDone) -> None:
        if done.bad:
            raise NumericsError(
                f"{done.bad} holds NaN or infinity after step {done.step}, so that no checkpoint was written"
                + self._numerics_advice()
            )
        self.last_checkpoint = Path(done.folder)
        reporter.checkpoint(done.step, done.folder, done.seconds)

    def _numerics_advice(self) -> str:
        return (
            f"; the last good checkpoint is {self.last_checkpoint}: lower the learning rate, clip gradients or use "
            "precision bf16 or fp32, then go on from there"
        )

    def _stepped(self, reporter: Reporter, done: StepDone) -> None:
        for span in done.spans:
            self.timeline.add(span.lane, span.name, span.start_s, span.end_s)
        starts = [span.start_s for result in done.results for span in result.spans]
        if starts:
            self.timeline.mark_step(done.step + 1, min(starts))
        if not math.isfinite(done.loss):
            raise NumericsError(
                f"the loss is {done.loss} at step {done.step + 1}"
                + (f"; what first ceased to be finite is {done.bad_layer}" if done.bad_layer else "")
                + self._numerics_advice()
            )
        self.losses[done.step] = done.loss
        self.step_s.append(done.seconds)
        self.samples += done.samples
        self.busy_s += done.seconds
        self._waited_s += done.inputs_wait_s
        self._produced_s += done.produce_s
        self._stepped_s += done.seconds
        reporter.step(
            StepReport(
                step=done.step + 1,
                loss=done.loss,
                metrics=done.metrics,
                logs=done.logs,
                samples=done.samples,
                tokens=None,
                seconds=done.seconds,
            )
        )
        if self._stepped_s > 30.0:
            if self._waited_s > STARVED * self._stepped_s:
                needed = math.ceil(self._produced_s / max(self._stepped_s - self._waited_s, 1e-9))
                reporter.starved(self._waited_s / self._stepped_s, max(2, needed))
            self._waited_s = self._produced_s = self._stepped_s = 0.0
        for callback in self.callbacks:
            callback(done)

    def _evaluated(self, reporter: Reporter, done: StepDone) -> None:
        self._eval_sum += done.loss
        self._eval_s += done.seconds
        for label, value in done.metrics.items():
            self._eval_metrics[label] = self._eval_metrics.get(label, 0.0) + value
        self._eval_seen += 1
        if self._eval_seen < self.eval_batches:
            return
        loss = self._eval_sum / self.eval_batches
        self.eval_losses[done.step] = loss
        reporter.evaluation(
            EvalReport(
                step=done.step,
                loss=loss,
                metrics={label: value / self.eval_batches for label, value in self._eval_metrics.items()},
                samples=done.samples * self.eval_batches,
                seconds=self._eval_s,
            )
        )
        self._eval_sum, self._eval_s, self._eval_seen, self._eval_metrics = 0.0, 0.0, 0, {}

    def _finish(self, reporter: Reporter, begun: float, first: int, predicted: StepTime | None) -> None:
        if len(self.timeline):
            self.timeline.write_trace(self.folder.timeline)
            self.timeline.write_picture(self.folder.timeline_picture)
        if self.stopping.is_set():
            step = Checkpoint.open(self.last_checkpoint).step
            reporter.note(f"Stopped by Ctrl-C after step {step}, with a checkpoint; go on with --resume")
        losses = [self.losses[step] for step in sorted(self.losses)]
        reporter.finish(
            {
                "steps": f"{first} to {first + len(losses)}",
                "loss": f"{losses[0]:.4f} to {losses[-1]:.4f}" if losses else "none",
                "samples/s": self.samples / self.busy_s if self.busy_s else 0.0,
                "seconds": time.monotonic() - begun,
                "s/step": f"{_median(self.step_s):.3f} measured"
                + (f", {predicted.total_s:.3f} predicted" if predicted else ""),
                "memory": f"{format_bytes(self.plan.host_bytes)} predicted for all roles, beyond Python and PyTorch",
                "peak memory": f"{max(self.peak_rss.values(), default=0) / 2**20:.0f} MiB in the largest process",
                **self._device_summary(),
                "folder": str(self.folder.path),
            }
        )

    def _device_summary(self) -> dict[str, object]:
        if not self.peak_device:
            return {}
        need = max(system.memory.peak for system in self.plan.systems)
        return {
            "device memory": f"{format_bytes(max(self.peak_device.values()))} allocated at most by a system's process, "
            f"{format_bytes(need)} predicted for one system"
        }

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """The first Ctrl-C asks for a checkpoint and an end; the second ends at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_interrupt(signum: int, frame: Any) -> None:
            if self.stopping.is_set():
                raise KeyboardInterrupt
            self.stopping.set()
            # Not through the reporter: the signal may have come in the middle of one of its lines.
            os.write(
                2, b"\nCtrl-C: ending after the steps in hand, with a checkpoint; once more ends at once\n"
            )

        before = signal.signal(signal.SIGINT, on_interrupt)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)


@contextmanager
def _same_threads_after() -> Iterator[None]:
    """Roles that are threads set torch's number of threads, which later threads of the user's program would inherit."""
    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _step_seconds(plan: Plan) -> float:
    """What a slow machine takes for one step, or to load the run: nobody may call such a wait a stall."""
    nbytes = sum(record.nbytes for record in plan.records)
    return nbytes / SLOW_BYTES_PER_S + plan.flops_per_step / len(plan.systems) / SLOW_FLOPS_PER_S


@dataclass(frozen=True)
class _ReplicaBatches:
    """One replica's rows of the training data and of the evaluation data; pickles if they do."""

    shards: Sequence[BatchSource]

    def __call__(self, number: int, train: bool) -> Mapping[str, Tensor]:
        return named_inputs(self.shards[0 if train else 1].batch(number))


def _median(values: Sequence[float]) -> float:
    return statistics.median(values) if values else 0.0
