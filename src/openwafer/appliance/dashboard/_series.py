"""A run's numbers over its steps, cut down to what a picture can show, while the run writes them."""

from __future__ import annotations

import math
from typing import Any, final

import msgspec

_BUCKETS = 512
"""At most twice so many buckets are kept; then neighbours become one."""
_SHOWN_VALUES = 24


class Bucket(msgspec.Struct, array_like=True):
    """Neighbouring steps together: the first and the last, their least, mean and largest loss, samples and seconds."""

    first: int
    last: int
    least: float
    mean: float
    most: float
    samples: float
    seconds: float
    steps: int

    def joined(self, other: Bucket) -> Bucket:
        """Both together; `other` comes later."""
        steps = self.steps + other.steps
        return Bucket(
            self.first,
            other.last,
            min(self.least, other.least),
            (self.mean * self.steps + other.mean * other.steps) / steps,
            max(self.most, other.most),
            self.samples + other.samples,
            self.seconds + other.seconds,
            steps,
        )


@final
class Series:
    """Reads lines of metrics.jsonl, or progress events of a job that has no such file; lines that are neither count nothing.

    A step that comes again, after a recovery, replaces itself and what came after it, as far as buckets tell them apart.
    """

    def __init__(self) -> None:
        self.step = 0
        """The last step; 0 before the first."""
        self.steps = 0
        """Of the whole run, if the lines tell."""
        self.loss: float | None = None
        self.values: dict[str, float] = {}
        """Metrics and logs of the last step, by name."""
        self.evaluations: list[tuple[int, float]] = []
        self._buckets: list[Bucket] = []
        self._width = 1
        self._rate: float | None = None

    @property
    def samples_per_s(self) -> float | None:
        """Over the last steps; None before the first."""
        seconds = samples = 0.0
        for bucket in self._buckets[-8:]:
            seconds, samples = seconds + bucket.seconds, samples + bucket.samples
        return samples / seconds if seconds > 0 else self._rate

    @property
    def step_s(self) -> float | None:
        """Seconds of a step, over the last steps; None where that is not told."""
        recent = self._buckets[-8:]
        seconds, steps = sum(b.seconds for b in recent), sum(b.steps for b in recent)
        return seconds / steps if seconds > 0 else None

    def add(self, line: bytes) -> None:
        """Take one line."""
        try:
            record = msgspec.json.decode(line)
        except msgspec.MsgspecError:
            return
        if not isinstance(record, dict):
            return
        step, loss = record.get("step"), _number(record.get("loss"))
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            return
        match record.get("kind"):
            case "train":
                values = {**_numbers(record.get("metrics")), **_numbers(record.get("logs"))}
                self._take(step, loss, _number(record.get("samples")), _number(record.get("seconds")), values)
            case "eval" if loss is not None:
                self.evaluations = [(at, value) for at, value in self.evaluations if at < step]
                self.evaluations = [*self.evaluations[-_BUCKETS:], (step, loss)]
            case "progress":
                steps = record.get("steps")
                self.steps = steps if isinstance(steps, int) else self.steps
                self._rate = _number(record.get("samples_per_s")) or self._rate
                self._take(step, loss, None, None, {})

    def points(self, most: int) -> list[Bucket]:
        """At most so many buckets, and at least half of that if there are."""
        buckets = self._buckets
        while len(buckets) > max(1, most):
            buckets = _halved(buckets)
        return buckets

    def _take(
        self,
        step: int,
        loss: float | None,
        samples: float | None,
        seconds: float | None,
        values: dict[str, float],
    ) -> None:
        while self._buckets and self._buckets[-1].last >= step:
            self._buckets.pop()
        self.step, self.loss = step, loss
        self.values = dict(list(values.items())[:_SHOWN_VALUES])
        if loss is None:
            return
        bucket = Bucket(step, step, loss, loss, loss, samples or 0.0, seconds or 0.0, 1)
        if self._buckets and self._buckets[-1].steps < self._width:
            self._buckets[-1] = self._buckets[-1].joined(bucket)
        else:
            self._buckets.append(bucket)
        if len(self._buckets) > 2 * _BUCKETS:
            self._buckets = _halved(self._buckets)
            self._width *= 2


def _halved(buckets: list[Bucket]) -> list[Bucket]:
    pairs = [a.joined(b) for a, b in zip(buckets[::2], buckets[1::2], strict=False)]
    return pairs + buckets[2 * len(pairs) :]


def _number(value: Any) -> float | None:
    """A finite number, or None: a page can draw no other."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, dict):
        return {}
    found = {name: _number(value) for name, value in values.items()}
    return {name: value for name, value in found.items() if value is not None}
