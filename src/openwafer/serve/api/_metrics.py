"""What /metrics tells: counts and times of requests, and the engine's own numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from openwafer.serve.api._engine import EngineLike
from openwafer.serve.api._job import Job

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One server's metrics, in a registry of their own."""

    def __init__(self, engine: EngineLike) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "wafer_requests", "HTTP requests for answers", ["endpoint", "status"], registry=self.registry
        )
        self._prompt = Counter("wafer_prompt_tokens", "Tokens of prompts", registry=self.registry)
        self._cached = Counter(
            "wafer_cached_tokens", "Tokens of prompts found cached", registry=self.registry
        )
        self._completion = Counter("wafer_completion_tokens", "Tokens of answers", registry=self.registry)
        self._first = Histogram(
            "wafer_first_token_seconds",
            "From a request to its first token",
            registry=self.registry,
            buckets=_SECONDS,
        )
        self._each = Histogram(
            "wafer_token_seconds",
            "Between tokens of an answer, its mean",
            registry=self.registry,
            buckets=(0.001, 0.0025, 0.005, *_SECONDS),
        )
        self._queue = Histogram(
            "wafer_queue_seconds", "Waiting for a place", registry=self.registry, buckets=_SECONDS
        )
        self._total = Histogram(
            "wafer_request_seconds", "Whole requests", ["endpoint"], registry=self.registry, buckets=_SECONDS
        )
        self.registry.register(_EngineNumbers(engine))

    def refused(self, endpoint: str, status: int) -> None:
        """A request that did not get as far as the engine."""
        self._requests.labels(endpoint, str(status)).inc()

    def ended(self, endpoint: str, status: int, job: Job) -> None:
        """A request whose answer ended, was given up or failed."""
        self._requests.labels(endpoint, str(status)).inc()
        self._completion.inc(job.completion_tokens)
        times = job.time_info()
        self._total.labels(endpoint).observe(times.total_time)
        if job.first_token_s is not None:
            self._first.observe(job.first_token_s)
        if job.complete:
            usage = job.usage(0)
            self._prompt.inc(usage.prompt_tokens)
            self._cached.inc(usage.prompt_tokens_details.cached_tokens)
            self._queue.observe(times.queue_time)
            if usage.completion_tokens > 1:
                self._each.observe(times.completion_time / (usage.completion_tokens - 1))

    def text(self) -> bytes:
        """The exposition that Prometheus reads."""
        return generate_latest(self.registry)


class _EngineNumbers(Collector):
    """The engine's statistics, read when they are asked for: totals as counters, all else as gauges."""

    def __init__(self, engine: EngineLike) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        told = self._engine.statistics()
        for name, value in numbers(told).items():
            kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
            metric = kind(f"wafer_engine_{name}", f"The engine's {name.replace('_', ' ')}")
            metric.add_metric([], value)
            yield metric
        busy = CounterMetricFamily(
            "wafer_stage_busy_seconds", "In which a stage of the model computed", labels=["stage"]
        )
        for stage, seconds in enumerate(stages_busy_s(told)):
            busy.add_metric([str(stage)], seconds)
        yield busy


def numbers(statistics: Any) -> dict[str, float]:
    """The numbers of the engine's statistics by name, whether they are a mapping or a dataclass."""
    return {k: float(v) for k, v in _values(statistics).items() if isinstance(v, int | float)}


def stages_busy_s(statistics: Any) -> tuple[float, ...]:
    """The seconds that each stage has computed; empty if the engine does not tell."""
    return tuple(_values(statistics).get("stages_busy_s", ()))


def _values(statistics: Any) -> Mapping[str, Any]:
    if isinstance(statistics, Mapping):
        return statistics
    return {f.name: getattr(statistics, f.name) for f in dataclasses.fields(statistics)}
