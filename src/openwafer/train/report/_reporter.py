"""What a run says while it goes: console, log.txt, metrics.jsonl and TensorBoard, from one set of reports."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self, final

from rich.console import Console

from openwafer.base import StorageError, logger
from openwafer.train.report._files import AppendFile, is_full, storage_errors
from openwafer.train.report._folder import RunFolder
from openwafer.train.report._loss_picture import loss_picture
from openwafer.train.report._metrics import MetricsFile
from openwafer.train.report._rate import RateTracker, format_duration
from openwafer.train.report._reports import EvalReport, StepReport
from openwafer.train.report._screen import Screen
from openwafer.train.report._tensorboard import ScalarWriter


@final
class Reporter:
    """Reports one run, from `start_step` to `total_steps`, into its folder and onto a console.

    device_label: what the log lines call the machine. log_every: steps between log lines; the last step has
    one too. loop_steps: steps between evaluations, for LoopTimeRemaining; by default the loop is the run.
    start_step: steps completed by the run that this one resumes; its reports of later steps are forgotten.
    clock: seconds, for the rates; time counts from construction, or from `start`.

    A full disk raises StorageError (what the console is attached to excepted). Any other failure to report
    is told once and training goes on. To be called from one thread. Close it, or use it in a `with` block:
    the terminal's cursor and the last bytes depend on it.
    """

    def __init__(
        self,
        folder: RunFolder,
        total_steps: int,
        device_label: str = "CPU",
        console: Console | None = None,
        log_every: int = 1,
        *,
        start_step: int = 0,
        loop_steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._total_steps = total_steps
        self._device = device_label
        self._log_every = max(1, log_every)
        self._loop_steps = loop_steps or total_steps
        self._step = start_step
        self._steps = 0
        self._samples = 0
        self._rates = RateTracker(clock)
        self._eval_samples = 0
        self._eval_seconds = 0.0
        self._told: set[str] = set()
        self._logger = logger("report")
        self._log: AppendFile | None = None
        self._metrics: MetricsFile | None = None
        self._scalars: ScalarWriter | None = None
        self._screen = Screen(console or Console(), total_steps, start_step)
        try:
            with self._guard("log.txt", folder.log):
                self._log = AppendFile(folder.log)
            with self._guard("metrics.jsonl", folder.metrics):
                self._metrics = MetricsFile(folder.metrics, start_step)
            with self._guard("TensorBoard", folder.tensorboard):
                # Also for a run from step 0: an earlier run of the same config may have left events.
                self._scalars = ScalarWriter(folder.tensorboard, start_step + 1 if start_step else 0)
        except BaseException:
            self._shut()
            raise

    def start(self) -> None:
        """Count time from now on, so that compiling and placing stay out of the rates."""
        self._rates.start()

    # --- what the trainer reports ----------------------------------------------------------------------

    def step(self, report: StepReport) -> None:
        """One step was completed. A step that was reported before (after a recovery) replaces that report."""
        if report.step <= self._step:
            self._rewind(report.step - 1)
        self._step = report.step
        self._steps += 1
        self._samples += report.samples
        self._rates.add(report.samples)
        with self._guard("metrics.jsonl", self.folder.metrics):
            if self._metrics is not None:
                self._metrics.write(report)
        values = {_tag("train", name): value for name, value in (report.logs | report.metrics).items()}
        values["train/loss"] = report.loss
        if report.step % self._log_every == 0 or report.step == self._total_steps:
            values["train/rate"] = self._rates.lap()
            values["train/global_rate"] = self._rates.global_rate
            with self._guard("the log line", self.folder.log):
                self._line(self._train_line(report))
        with self._guard("TensorBoard", self.folder.tensorboard):
            if self._scalars is not None:
                self._scalars.scalars(report.step, values)
        with self._guard("the progress bar"):
            if self._screen.shows_progress:
                left = format_duration(self._seconds_for(self._total_steps - report.step))
                rate = self._rates.rate
                self._screen.progress(
                    report.step, f"loss {float(report.loss):.5f}  {rate:.2f} samples/s  {left} left"
                )

    def evaluation(self, report: EvalReport) -> None:
        """One evaluation was completed. Its seconds stay out of the training rate, not out of GlobalRate."""
        self._rates.skip(report.seconds)
        self._eval_samples += report.samples
        self._eval_seconds += report.seconds
        with self._guard("metrics.jsonl", self.folder.metrics):
            if self._metrics is not None:
                self._metrics.write(report)
        with self._guard("the log line", self.folder.log):
            self._line(self._eval_line(report))
        with self._guard("TensorBoard", self.folder.tensorboard):
            if self._scalars is not None:
                values = {_tag("eval", name): value for name, value in report.metrics.items()}
                values |= {"eval/loss": report.loss, "eval/rate": _rate(report.samples, report.seconds)}
                self._scalars.scalars(report.step, values)

    def checkpoint(self, step: int, path: str | Path, seconds: float) -> None:
        """A checkpoint of `step` is complete at `path`; writing it took `seconds`."""
        shown = Path(path)
        if shown.is_relative_to(self.folder.path):
            shown = shown.relative_to(self.folder.path)
        self.note(f"Checkpoint Step={step}, Path={shown}, Seconds={seconds:.2f}")

    def note(self, text: str) -> None:
        """Say something to the user: one line on the console and in log.txt."""
        with self._guard("the log line", self.folder.log):
            for line in text.splitlines() or [""]:
                self._line(f"| {line}")

    def starved(self, fraction: float, workers_needed: int) -> None:
        """The systems waited for input for this share (0 to 1) of their time; so many workers would do."""
        workers = "worker" if workers_needed == 1 else "workers"
        self.note(
            f"Input is too slow: the systems waited for batches for {100 * fraction:.0f} % of the time; "
            f"{workers_needed} input {workers} would keep up"
        )

    def finish(self, summary: Mapping[str, object]) -> None:
        """The run is over: write the summary and loss.png, then close."""
        try:
            with self._guard("the console"):
                self._screen.close()
            if summary:
                width = max(len(name) for name in summary)
                self.note("\n".join(f"{name:<{width}}  {_shown(value)}" for name, value in summary.items()))
            with self._guard("loss.png", self.folder.loss_picture):
                loss_picture(self.folder.metrics, self.folder.loss_picture, title=self.folder.path.name)
        except BaseException:
            self._shut()
            raise
        self.close()

    def close(self) -> None:
        """Stop reporting. Everything reported before is on disk. Closing twice is harmless."""
        error = self._shut()
        if error is not None:
            raise error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._shut()  # what ended the run matters more than a file that does not close

    # --- lines -----------------------------------------------------------------------------------------

    def _train_line(self, report: StepReport) -> str:
        loop_end = min(math.ceil(report.step / self._loop_steps) * self._loop_steps, self._total_steps)
        return (
            f"| Train Device={self._device}, Step={report.step}, Loss={float(report.loss):.5f}, "
            f"Rate={self._rates.rate:.2f} samples/sec, GlobalRate={self._rates.global_rate:.2f} samples/sec, "
            f"LoopTimeRemaining={format_duration(self._seconds_for(loop_end - report.step))}, "
            f"TimeRemaining={format_duration(self._seconds_for(self._total_steps - report.step))}"
            f"{_pairs(report.metrics)}"
        )

    def _eval_line(self, report: EvalReport) -> str:
        return (
            f"| Eval Device={self._device}, Step={report.step}, Loss={float(report.loss):.5f}, "
            f"Rate={_rate(report.samples, report.seconds):.2f} samples/sec, "
            f"GlobalRate={_rate(self._eval_samples, self._eval_seconds):.2f} samples/sec, "
            f"LoopTimeRemaining={format_duration(0)}, "
            f"TimeRemaining={format_duration(self._seconds_for(self._total_steps - report.step))}"
            f"{_pairs(report.metrics)}"
        )

    def _seconds_for(self, steps: int) -> float:
        if steps <= 0:
            return 0.0
        return self._rates.seconds_for(steps * self._samples / self._steps) if self._steps else math.inf

    def _line(self, text: str) -> None:
        with self._guard("log.txt", self.folder.log):
            if self._log is not None:
                self._log.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n".encode())
        with self._guard("the console"):
            self._screen.line(text)

    # --- what must not end the run ---------------------------------------------------------------------

    def _rewind(self, step: int) -> None:
        self._step = step
        with self._guard("metrics.jsonl", self.folder.metrics):
            if self._metrics is not None:
                self._metrics.rewind(step)
        with self._guard("TensorBoard", self.folder.tensorboard):
            if self._scalars is not None:
                self._scalars.purge(step + 1)

    @contextmanager
    def _guard(self, what: str, path: Path | None = None) -> Iterator[None]:
        """Raise StorageError for a full disk under `path`; tell of any other failure once per `what`."""
        try:
            yield
        except Exception as error:
            if path is not None and isinstance(error, OSError) and is_full(error):
                with storage_errors(path):
                    raise
            if isinstance(error, StorageError) and _from_full_disk(error):
                raise
            self._tell(what, error)

    def _tell(self, what: str, error: Exception) -> None:
        if what in self._told:
            return
        self._told.add(what)
        text = f"{what} could not be written ({type(error).__name__}: {error}); training goes on without it"
        self._logger.warning(text)
        if what != "the console":
            self._line(f"| {text}")

    def _shut(self) -> StorageError | None:
        """Close everything, whatever fails; returns the first error that matters."""
        first: StorageError | None = None
        for what, part in (
            ("the console", self._screen),
            ("metrics.jsonl", self._metrics),
            ("TensorBoard", self._scalars),
            ("log.txt", self._log),
        ):
            try:
                with self._guard(what, self.folder.path):
                    if part is not None:
                        part.close()
            except StorageError as error:
                first = first or error
        self._log = self._metrics = self._scalars = None
        return first


def _from_full_disk(error: StorageError) -> bool:
    return isinstance(error.__cause__, OSError) and is_full(error.__cause__)


def _tag(group: str, name: str) -> str:
    return name if "/" in name else f"{group}/{name}"


def _rate(samples: int, seconds: float) -> float:
    return samples / seconds if seconds > 0 else 0.0


def _pairs(metrics: Mapping[str, float]) -> str:
    return "".join(f", {name}={float(value):.5f}" for name, value in metrics.items())


def _shown(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
