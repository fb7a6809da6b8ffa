"""What the server does now, and what it did in the last minutes: for /statistics, and the page that draws it."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections import deque
from collections.abc import Iterator
from typing import final

import msgspec

from openwafer.serve.api._engine import EngineLike
from openwafer.serve.api._job import Job
from openwafer.serve.api._metrics import numbers, stages_busy_s

POINT_S = 1.0
_POINTS = 600


class OpenRequest(msgspec.Struct):
    """A request that is being answered, without what it asks and who asks."""

    id: str
    endpoint: str
    tier: str
    state: str
    """`waiting` for its first token, or `answering`."""
    seconds: float
    """Since it came."""
    prompt_tokens: int
    completion_tokens: int
    max_tokens: int
    """Of all its choices together."""


class Point(msgspec.Struct):
    """About a second of the server's life. Shares are of 1; None where nothing was to be measured."""

    at: float
    """Unix time of its end."""
    waiting: int
    running: int
    tokens_per_s: float
    prompt_tokens_per_s: float
    """As clients sent them: those that were found in the cache too."""
    first_token_s: float | None
    """Median over the answers that began in it."""
    cache_used: float
    """Of the KV cache's blocks."""
    cache_hits: float | None
    """Of the prompts' tokens."""
    stages_busy: list[float]
    """Of the time, for each stage: it computed, and did not wait for batches or weights."""
    engine_busy: float
    """Of the time, the engine's own work between batches."""


@final
class Watch:
    """Knows the requests that are open, and keeps a point for each of the last six hundred seconds while it runs."""

    def __init__(self, engine: EngineLike) -> None:
        self._engine = engine
        self._open: dict[str, tuple[str, Job]] = {}
        self._unbegun: list[Job] = []
        self._points: deque[Point] = deque(maxlen=_POINTS)
        self._last: tuple[float, dict[str, float], tuple[float, ...]] | None = None

    def began(self, id: str, endpoint: str, job: Job) -> None:
        """The engine took a request."""
        self._open[id] = (endpoint, job)
        self._unbegun.append(job)

    def ended(self, id: str) -> None:
        """Its answer ended, was given up or failed."""
        del self._open[id]

    def requests(self) -> list[OpenRequest]:
        """Those that are open, the oldest first."""
        now = time.monotonic()
        return [
            OpenRequest(
                id=id,
                endpoint=endpoint,
                tier=job.tier,
                state="waiting" if job.first_token_s is None else "answering",
                seconds=round(now - job.arrived, 3),
                prompt_tokens=job.prompt_tokens,
                completion_tokens=job.completion_tokens,
                max_tokens=job.max_tokens,
            )
            for id, (endpoint, job) in self._open.items()
        ]

    def history(self, since: float) -> list[Point]:
        """The points after a Unix time."""
        return [point for point in self._points if point.at > since]

    async def run(self) -> None:
        """Make a point every second; never ends by itself."""
        while True:
            self.sample()
            await asyncio.sleep(POINT_S)

    def sample(self) -> None:
        """Make a point of what happened since the last sample; the first one only remembers where totals stand."""
        now = time.monotonic()
        told = self._engine.statistics()
        values, busy_s = numbers(told), stages_busy_s(told)
        first = list(self._begun())
        if self._last is not None and now > self._last[0]:
            then, before, busy_before = self._last
            grown = {name: max(0.0, value - before.get(name, 0.0)) for name, value in values.items()}
            seconds = now - then
            prompts = grown.get("prompt_tokens_total", 0.0)
            # An executor that was opened again counts from zero.
            busy = [max(0.0, b - a) for a, b in zip(busy_before, busy_s, strict=False)]
            self._points.append(
                Point(
                    at=time.time(),
                    waiting=int(values.get("waiting", 0)),
                    running=int(values.get("running", 0)),
                    tokens_per_s=grown.get("completion_tokens_total", 0.0) / seconds,
                    prompt_tokens_per_s=prompts / seconds,
                    first_token_s=statistics.median(first) if first else None,
                    cache_used=values.get("blocks_used", 0.0) / max(1.0, values.get("blocks", 0.0)),
                    cache_hits=grown.get("cached_tokens_total", 0.0) / prompts if prompts else None,
                    stages_busy=[min(1.0, one / seconds) for one in busy],
                    engine_busy=min(1.0, grown.get("engine_s_total", 0.0) / seconds),
                )
            )
        self._last = (now, values, busy_s)

    def _begun(self) -> Iterator[float]:
        """Times to the first token of answers that have begun since this was asked last."""
        unbegun, self._unbegun = self._unbegun, []
        still_open = {id(job) for _, job in self._open.values()}
        for job in unbegun:
            if job.first_token_s is not None:
                yield job.first_token_s
            elif id(job) in still_open:
                self._unbegun.append(job)
