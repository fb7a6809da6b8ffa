"""What a client's job leaves in its run folder for the dashboard and for who reads it later, as native jobs do.

plan.json, plan.txt    of the program that was loaded last
metrics.jsonl          a line for each step: steps of all runs of the job count on
timeline.json          who did what in the first steps of the last run
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from openwafer.base import StorageError
from openwafer.cluster import StepDone

if TYPE_CHECKING:
    from openwafer.train.report import Timeline

TIMELINE_STEPS = 3
"""Of each run."""


@final
class RunFiles:
    """The files of one run of a job. For one thread."""

    def __init__(self, folder: Path, compiled: Path, *, steps_before: int, trains: bool) -> None:
        """folder: the job's run folder. compiled: the program's. steps_before: of earlier runs of the job. trains: whether the
        losses are those of training. Raises StorageError."""
        self._folder, self._before, self._trains = folder, steps_before, trains
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for name in ("plan.json", "plan.txt"):
                shutil.copyfile(compiled / name, folder / name)
        except OSError as error:
            raise _no_room(folder, error) from error
        self.timeline: Timeline | None = None
        """Of the first steps; None before the first."""
        self._written = False

    def stepped(self, step: int, event: StepDone, loss: float) -> None:
        """A step of this run, counted from 0, is complete. loss: what its client calls so. Raises StorageError."""
        # Only now: the first step is what a user waits for, and this takes a while to import.
        from openwafer.train.report import EvalReport, MetricsFile, StepReport, Timeline

        number = self._before + step + 1
        if self.timeline is None:
            self.timeline = Timeline()
            self._metrics = MetricsFile(self._folder / "metrics.jsonl", self._before)
        took: dict[str, Any] = {"samples": event.samples, "seconds": event.seconds}
        report: StepReport | EvalReport = (
            StepReport(step=number, loss=loss, metrics=event.metrics, logs=event.logs, **took)
            if self._trains
            else EvalReport(step=number, loss=loss, metrics={**event.logs, **event.metrics}, **took)
        )
        try:
            self._metrics.write(report)
        except OSError as error:
            raise _no_room(self._folder, error) from error
        self.timeline.extend(event.spans)
        starts = [span.start_s for result in event.results for span in result.spans]
        if starts:
            self.timeline.mark_step(number, min(starts))
        elif not self._written:
            self.write_timeline()

    def write_timeline(self) -> None:
        """The spans of this run, as far as they were recorded."""
        if self.timeline is not None and len(self.timeline):
            self._written = True
            self.timeline.write_trace(self._folder / "timeline.json")

    def close(self) -> None:
        """Nothing more comes. Closing twice is harmless."""
        if not self._written:
            with suppress(StorageError):  # the run is over: what is missing is a picture
                self.write_timeline()
        if self.timeline is not None:
            self._metrics.close()


def _no_room(folder: Path, error: OSError) -> StorageError:
    return StorageError(
        f"cannot write {folder}: {error.strerror}; make room on the disk of the appliance's state folder"
    )
