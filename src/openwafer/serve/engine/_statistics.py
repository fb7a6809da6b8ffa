"""What the engine says of itself."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass, fields
from typing import final

from openwafer.serve.engine._scheduler import Scheduler
from openwafer.serve.executors import Executor

_WINDOW_S = 10.0
_QUEUE_WINDOW_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Numbers at one moment. Those that end in `_total` only grow, since the engine began."""

    waiting: int
    """Requests that have not begun."""
    running: int
    """Choices that are answered now."""
    preempted: int
    """Choices that have begun and wait for blocks."""
    queue_wait_s: float
    """How long a request that comes now would wait: an estimate from how fast requests were taken up lately."""
    tokens_per_s: float
    """Tokens of answers, over the last ten seconds."""
    blocks: int
    """Of the KV cache; each holds 128 tokens of one sequence."""
    blocks_used: int
    blocks_cached: int
    """That nobody uses, and that hold prefixes for requests to come."""
    requests_total: int
    refused_total: int
    """Requests for which there was no place in the queue."""
    stopped_total: int
    """Choices that ended by themselves, or at a stop string."""
    cut_total: int
    """Choices that ended at their limit of tokens."""
    cancelled_total: int
    failed_total: int
    prompt_tokens_total: int
    cached_tokens_total: int
    """Tokens of prompts that the cache had."""
    completion_tokens_total: int
    accepted_tokens_total: int
    """Predicted tokens that the model would have chosen too."""
    rejected_tokens_total: int
    preemptions_total: int
    batches_total: int
    batch_tokens_total: int
    executor_s_total: float
    """Seconds in which the engine waited for its executor."""
    engine_s_total: float
    """Seconds of the engine's own work: planning, choosing, telling."""
    stages_busy_s: tuple[float, ...]
    """Seconds that each stage of the executor has computed, since that was opened."""
    restarts_total: int
    """Times that the executor failed and was opened again."""


_COUNTED = [
    f.name for f in fields(Statistics) if f.name.endswith("_total") and not f.name.endswith("_s_total")
]


@final
class Meter:
    """Counts by name, and rates over the last seconds. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, float] = {}
        self._tokens: deque[tuple[float, int]] = deque()
        self._taken_up: deque[float] = deque(maxlen=64)

    def add(self, name: str, amount: float = 1) -> None:
        """So much more of a total."""
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + amount

    def tokens(self, count: int) -> None:
        """So many tokens of answers came now."""
        now = time.monotonic()
        with self._lock:
            self._tokens.append((now, count))
            while self._tokens and self._tokens[0][0] < now - _WINDOW_S:
                self._tokens.popleft()

    def tokens_per_s(self) -> float:
        """Over the last ten seconds, or since the first token if that is less."""
        now = time.monotonic()
        with self._lock:
            recent = [(at, count) for at, count in self._tokens if at >= now - _WINDOW_S]
        return sum(count for _, count in recent) / max(now - recent[0][0], 0.1) if recent else 0.0

    def statistics(self, waiting: int, scheduler: Scheduler, executor: Executor) -> Statistics:
        """Numbers of this moment, with so many requests that have not begun."""
        with self._lock:
            totals = {f"{name}_total": count for name, count in self._counts.items()}
        counted = {name: int(totals.get(name, 0)) for name in _COUNTED}
        blocks = scheduler.blocks
        return Statistics(
            waiting=waiting,
            running=len(scheduler.running),
            preempted=scheduler.queue.returned,
            queue_wait_s=self.wait_s(waiting),
            tokens_per_s=self.tokens_per_s(),
            blocks=blocks.total,
            blocks_used=blocks.total - blocks.available,
            blocks_cached=blocks.idle,
            executor_s_total=totals.get("executor_s_total", 0.0),
            engine_s_total=totals.get("engine_s_total", 0.0),
            stages_busy_s=executor.busy_s,
            **counted,
        )

    def took_up(self) -> None:
        """A request left the queue now."""
        with self._lock:
            self._taken_up.append(time.monotonic())

    def wait_s(self, waiting: int) -> float:
        """How long the last of so many waiting requests waits, if they are taken up as fast as the latest ones were."""
        if waiting == 0:
            return 0.0
        now = time.monotonic()
        with self._lock:
            times = [at for at in self._taken_up if at >= now - _QUEUE_WINDOW_S]
        if not times:
            return float(waiting)
        # Until now, and not only until the last one: a queue that stands still waits longer every second.
        return waiting * (now - times[0]) / len(times)
