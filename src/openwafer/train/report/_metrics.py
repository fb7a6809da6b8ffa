"""metrics.jsonl: one JSON object a line, for every step and every evaluation.

A line is `{"kind": "train" | "eval", ...}` with the fields of StepReport or EvalReport. JSON has no NaN and
no infinity; they are written as the texts "nan", "inf" and "-inf", and read back as floats.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import msgspec

from openwafer.base import InputError
from openwafer.train.report._files import AppendFile, write_atomic
from openwafer.train.report._reports import EvalReport, StepReport


@dataclass(frozen=True, slots=True)
class Metrics:
    """The reports of a run, each tuple in the order of its steps, no step twice."""

    train: tuple[StepReport, ...]
    eval: tuple[EvalReport, ...]


def read_metrics(path: str | Path) -> Metrics:
    """Read metrics.jsonl, also while the run writes it.

    A torn last line (the process was killed while it wrote) is left out. Where two lines report the same
    step, the later one counts.

    Raises InputError if the file cannot be read, or if a line before the last is not a report.
    """
    path = Path(path)
    train: dict[int, StepReport] = {}
    evals: dict[int, EvalReport] = {}
    for report in _read(path):
        if isinstance(report, StepReport):
            train[report.step] = report
        else:
            evals[report.step] = report
    return Metrics(tuple(train[step] for step in sorted(train)), tuple(evals[step] for step in sorted(evals)))


def _read(path: Path) -> list[StepReport | EvalReport]:
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise InputError(
            f"cannot read {path}: {error.strerror}; name the metrics.jsonl of a run folder"
        ) from error
    if lines and not lines[-1]:
        lines.pop()
    reports = []
    for number, line in enumerate(lines, 1):
        try:
            reports.append(decode(line))
        except msgspec.MsgspecError as error:
            if number == len(lines):
                break
            raise InputError(
                f"{path}:{number}: not a report of a training run: {error}; "
                "remove the line, or resume the run, which keeps only whole lines"
            ) from error
    return reports


def decode(line: bytes) -> StepReport | EvalReport:
    """One line as a report. Raises msgspec.MsgspecError if it is not one."""
    fields = msgspec.json.decode(line, type=dict[str, Any])
    kind = fields.pop("kind", None)
    if kind == "train":
        return msgspec.convert(fields, StepReport, strict=False)  # not strict: "nan" is a float
    if kind == "eval":
        return msgspec.convert(fields, EvalReport, strict=False)
    raise msgspec.ValidationError(f"its kind is {kind!r}, not train or eval")


def encode(report: StepReport | EvalReport) -> bytes:
    """One report as a line. Values that are not numbers raise TypeError or ValueError."""
    fields: dict[str, Any] = {
        "kind": "train" if isinstance(report, StepReport) else "eval",
        "step": int(report.step),
        "loss": _number(report.loss),
        "metrics": {name: _number(value) for name, value in report.metrics.items()},
    }
    if isinstance(report, StepReport):
        fields["logs"] = {name: _number(value) for name, value in report.logs.items()}
        fields["tokens"] = None if report.tokens is None else int(report.tokens)
    fields["samples"] = int(report.samples)
    fields["seconds"] = _number(report.seconds)
    return msgspec.json.encode(fields) + b"\n"


def _number(value: float) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else str(number)


@final
class MetricsFile:
    """Appends reports to metrics.jsonl; each is with the system when `write` returns. Raises OSError.

    start_step: lines of later steps, torn lines, and with 0 every line, are removed first, so that a resumed
    run reports nothing twice.
    """

    def __init__(self, path: Path, start_step: int) -> None:
        self._path = path
        self._file: AppendFile | None = None
        self.rewind(start_step)

    def write(self, report: StepReport | EvalReport) -> None:
        """Append one line."""
        if self._file is None:
            self._file = AppendFile(self._path)
        self._file.write(encode(report))

    def rewind(self, step: int) -> None:
        """Forget every report of a step after `step`, and every evaluation before training if it is 0."""
        self.close()
        if self._path.is_file():
            data = self._path.read_bytes()
            kept = b"".join(line + b"\n" for line in data.split(b"\n") if step > 0 and _belongs(line, step))
            if kept != data:
                write_atomic(self._path, kept)
        self._file = AppendFile(self._path)

    def close(self) -> None:
        """Closing twice is harmless."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _belongs(line: bytes, step: int) -> bool:
    try:
        return decode(line).step <= step
    except msgspec.MsgspecError:
        return False
