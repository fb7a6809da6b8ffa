"""How fast a run goes, and how long it still takes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import final


@final
class RateTracker:
    """Samples per second: lately (smoothed), and since the start.

    clock: seconds, never going back; counting begins at construction, or at `start`.
    smoothing: the weight that a lap's rate loses to the rate before it:
    `rate = (1 - smoothing) * samples / seconds + smoothing * earlier rate`. The first lap stands unsmoothed.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, smoothing: float = 0.4) -> None:
        self._clock = clock
        self._smoothing = smoothing
        self.start()

    def start(self) -> None:
        """Begin anew: nothing counted, no time gone."""
        self._started = self._lap_started = self._clock()
        self._total = self._lap = 0
        self._rate: float | None = None

    def add(self, samples: int) -> None:
        """Count the samples of one step."""
        self._lap += samples
        self._total += samples

    def skip(self, seconds: float) -> None:
        """Leave time spent on something else (an evaluation) out of this lap; the global rate keeps it."""
        self._lap_started = min(self._lap_started + seconds, self._clock())

    def lap(self) -> float:
        """End the interval since the last lap, and return the smoothed rate with that interval in it.

        An interval of no time is not ended: its samples count in the next one.
        """
        now = self._clock()
        elapsed = now - self._lap_started
        if elapsed > 0:
            recent = self._lap / elapsed
            earlier = self._rate
            self._rate = (
                recent if earlier is None else (1 - self._smoothing) * recent + self._smoothing * earlier
            )
            self._lap_started, self._lap = now, 0
        return self.rate

    @property
    def rate(self) -> float:
        """Smoothed samples per second of the laps so far; before the first lap, the global rate."""
        return self.global_rate if self._rate is None else self._rate

    @property
    def global_rate(self) -> float:
        """Samples since the start, over the time since the start; 0 before any time has gone."""
        elapsed = self._clock() - self._started
        return self._total / elapsed if elapsed > 0 else 0.0

    def seconds_for(self, samples: float) -> float:
        """How long that many samples take at `rate`; infinite while the rate is not known."""
        if samples <= 0:
            return 0.0
        rate = self.rate
        return samples / rate if rate > 0 else math.inf


def format_duration(seconds: float) -> str:
    """Hours, minutes and seconds, `0:00:40`; hours run past 24. `unknown` if infinite."""
    if not math.isfinite(seconds):
        return "unknown"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
