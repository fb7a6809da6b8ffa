"""What is known of the steps done: a run tells its events, which are reported, kept for the result and summed up."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, final

from openwafer.artifact import Plan
from openwafer.base import NumericsError, format_bytes
from openwafer.cluster import CheckpointDone, StepDone
from openwafer.cluster.store import Checkpoint
from openwafer.train.report import EvalReport, Reporter, StepReport, Timeline

STARVED = 0.1
"""Share of a step that systems may wait for input before the user is told."""
JUDGED_AFTER_S = 30.0
"""Steps of so many seconds in all are enough to tell that input is too slow, and not just slow to start."""


@final
class Progress:
    """Takes the events of a run in their order, reports each, and remembers what the result and the summary need.

    After `recovered` steps are repeated: the later losses count, and the time of both. `ended` is the last event.
    """

    def __init__(self, reporter: Reporter, start: Checkpoint, eval_batches: int) -> None:
        """start: what the run begins with. eval_batches: how many batches make an evaluation."""
        self.last_checkpoint = start.folder
        """The newest that this run knows to be complete and finite, of `saved_steps` steps."""
        self.saved_steps = start.step
        self.timeline = Timeline()
        self.peak_rss: dict[str, int] = {}
        """By role, in bytes; empty until `ended`. So is `peak_device`, of systems that have memory of their own."""
        self.peak_device: dict[str, int] = {}
        self._reporter = reporter
        self._first_step = start.step
        self._eval_batches = eval_batches
        self._losses: dict[int, float] = {}
        self._eval_losses: dict[int, float] = {}
        self._evaluation = _Evaluation()
        self._took: list[_Took] = []
        self._inputs = _Inputs()

    # --- events ---------------------------------------------------------------------------------------

    def recovered(self, start: Checkpoint) -> None:
        """A role was lost, and the run goes on from `start`. An evaluation that is half-done begins again."""
        self.last_checkpoint, self.saved_steps = start.folder, start.step
        self._evaluation = _Evaluation()

    def saved(self, done: CheckpointDone) -> None:
        """Raises NumericsError if the checkpoint was refused, since a tensor is not finite."""
        if done.bad:
            raise NumericsError(
                f"{done.bad} holds NaN or infinity after step {done.step}, so that no checkpoint was written"
                + self._numerics_advice()
            )
        self.last_checkpoint, self.saved_steps = Path(done.folder), done.step
        self._reporter.checkpoint(done.step, done.folder, done.seconds)

    def stepped(self, done: StepDone) -> None:
        """A training step is done. Raises NumericsError if its loss is not finite."""
        self.timeline.extend(done.spans)
        starts = [span.start_s for result in done.results for span in result.spans]
        if starts:
            self.timeline.mark_step(done.step + 1, min(starts))
        if not math.isfinite(done.loss):
            raise NumericsError(
                f"the loss is {done.loss} at step {done.step + 1}"
                + (f"; what first ceased to be finite is {done.bad_layer}" if done.bad_layer else "")
                + self._numerics_advice()
            )
        self._losses[done.step] = done.loss
        self._took.append(_Took(done.samples, done.seconds))
        self._reporter.step(
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
        self._inputs.add(done)
        if self._inputs.seconds > JUDGED_AFTER_S:
            if self._inputs.waited > STARVED:
                self._reporter.starved(self._inputs.waited, self._inputs.workers_needed)
            self._inputs = _Inputs()

    def evaluated(self, done: StepDone) -> None:
        """One batch of an evaluation is done; the last one completes it."""
        self._evaluation.add(done)
        if self._evaluation.batches < self._eval_batches:
            return
        report = self._evaluation.report(done.step)
        self._eval_losses[done.step] = report.loss
        self._reporter.evaluation(report)
        self._evaluation = _Evaluation()

    def ended(self, peak_rss: Mapping[str, int], peak_device: Mapping[str, int]) -> None:
        """The roles have ended. They tell the most memory, in bytes, that each process had and allocated on its device."""
        self.peak_rss, self.peak_device = dict(peak_rss), dict(peak_device)

    # --- what came of it ------------------------------------------------------------------------------

    @property
    def told_steps(self) -> int:
        """How many steps of the run, from its beginning, have been reported without a gap."""
        step = self._first_step
        while step in self._losses:
            step += 1
        return step

    @property
    def losses(self) -> tuple[float, ...]:
        """The loss of each training step, in the order of steps."""
        return tuple(self._losses[step] for step in sorted(self._losses))

    @property
    def eval_losses(self) -> tuple[tuple[int, float], ...]:
        """For each evaluation the steps done before it and its mean loss, in the order of steps."""
        return tuple(sorted(self._eval_losses.items()))

    @property
    def samples_per_s(self) -> float:
        """Over all training steps, those that were done twice too; 0 before the first."""
        busy_s = sum(took.seconds for took in self._took)
        return sum(took.samples for took in self._took) / busy_s if busy_s else 0.0

    def summary(
        self, plan: Plan, folder: Path, *, seconds: float, predicted_s: float | None
    ) -> dict[str, object]:
        """What the user reads last, by title. seconds: of the whole run; predicted_s: of a step."""
        losses = self.losses
        step_s = statistics.median(took.seconds for took in self._took) if self._took else 0.0
        return {
            "steps": f"{self._first_step} to {self._first_step + len(losses)}",
            "loss": f"{losses[0]:.4f} to {losses[-1]:.4f}" if losses else "none",
            "samples/s": self.samples_per_s,
            "seconds": seconds,
            "s/step": f"{step_s:.3f} measured"
            + (f", {predicted_s:.3f} predicted" if predicted_s is not None else ""),
            "memory": f"{format_bytes(plan.host_bytes)} predicted for all roles, beyond Python and PyTorch",
            "peak memory": f"{max(self.peak_rss.values(), default=0) / 2**20:.0f} MiB in the largest process",
            **self._device_summary(plan),
            "folder": str(folder),
        }

    def _device_summary(self, plan: Plan) -> dict[str, object]:
        if not self.peak_device:
            return {}
        need = max(system.memory.peak for system in plan.systems)
        return {
            "device memory": f"{format_bytes(max(self.peak_device.values()))} allocated at most by a system's process, "
            f"{format_bytes(need)} predicted for one system"
        }

    def _numerics_advice(self) -> str:
        return (
            f"; the last good checkpoint is {self.last_checkpoint}: lower the learning rate, clip gradients or use "
            "precision bf16 or fp32, then go on from there"
        )


class _Took(NamedTuple):
    """A training step that was done."""

    samples: int
    seconds: float


@dataclass(slots=True)
class _Inputs:
    """How training steps, since the last judgement, waited for their batches."""

    seconds: float = 0.0
    waited_s: float = 0.0
    produced_s: float = 0.0
    """What one input worker took for the batches of these steps."""

    def add(self, done: StepDone) -> None:
        self.seconds += done.seconds
        self.waited_s += done.inputs_wait_s
        self.produced_s += done.produce_s

    @property
    def waited(self) -> float:
        """Share of the time, 0 to 1."""
        return self.waited_s / self.seconds

    @property
    def workers_needed(self) -> int:
        """Workers that make the batches in the time for which nobody waited; one is known to be too few."""
        return max(2, math.ceil(self.produced_s / max(self.seconds - self.waited_s, 1e-9)))


@dataclass(slots=True)
class _Evaluation:
    """Sums over the batches of an evaluation that are done."""

    batches: int = 0
    samples: int = 0
    seconds: float = 0.0
    loss: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)

    def add(self, done: StepDone) -> None:
        self.batches += 1
        self.samples += done.samples
        self.seconds += done.seconds
        self.loss += done.loss
        for label, value in done.metrics.items():
            self.metrics[label] = self.metrics.get(label, 0.0) + value

    def report(self, step: int) -> EvalReport:
        """Means over the batches, which are of equal size."""
        return EvalReport(
            step=step,
            loss=self.loss / self.batches,
            metrics={label: value / self.batches for label, value in self.metrics.items()},
            samples=self.samples,
            seconds=self.seconds,
        )
