"""What a measurement found: rows by concurrency, as a table, as JSON."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from openwafer.base import StorageError
from openwafer.serve.bench._client import Sample
from openwafer.serve.bench._plan import LoadPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """So many clients at the same time. Times are seconds by a client's clock, of whole answers alone.

    A percentile is a time that was observed: with fewer than a hundred answers the 99th is the longest.
    """

    concurrency: int
    requests: int
    failed: int
    errors: dict[str, int]
    """Failed requests by kind."""
    seconds: float
    """From the first request to the last answer."""
    prompt_tokens: float | None
    """Of a prompt, on average; None if the server does not count."""
    answer_tokens: int
    """Of all whole answers."""
    tokens_per_s: float
    """Of answers, all clients together."""
    first_token_s: dict[str, float]
    """p50, p95 and p99 from a request to the first part of its answer; empty if no answer was whole."""
    each_token_s: dict[str, float]
    """p50 and p95 of the time between two tokens, its mean over an answer."""
    whole_s: dict[str, float]
    """p50 and p99 from a request to its end."""
    client_cpu: float
    """Cores that the clients themselves took; near 1, they are what is measured."""

    @staticmethod
    def of(concurrency: int, samples: Sequence[Sample], seconds: float, cpu_s: float) -> Level:
        """The row of these requests."""
        whole = [s for s in samples if not s.error]
        told = [s.prompt_tokens for s in whole if s.prompt_tokens is not None]
        tokens = sum(s.tokens for s in whole)
        return Level(
            concurrency=concurrency,
            requests=len(samples),
            failed=len(samples) - len(whole),
            errors=dict(Counter(s.error for s in samples if s.error).most_common()),
            seconds=seconds,
            prompt_tokens=sum(told) / len(told) if told else None,
            answer_tokens=tokens,
            tokens_per_s=tokens / seconds,
            first_token_s=_percentiles([s.first - s.began for s in whole if s.first is not None], 50, 95, 99),
            each_token_s=_percentiles([each for s in whole if (each := s.each_token_s) is not None], 50, 95),
            whole_s=_percentiles([s.ended - s.began for s in whole], 50, 99),
            client_cpu=cpu_s / seconds,
        )


@dataclass(slots=True, kw_only=True)
class LoadReport:
    """Of a server: what it was asked, and a row for each level that came to its end."""

    url: str
    model: str
    date: str
    plan: LoadPlan
    levels: list[Level] = field(default_factory=list)
    interrupted: bool = False
    """By Ctrl-C; levels that had not ended are missing."""
    failure: str = ""
    """Why there are no more levels: of the last one no request was answered."""

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON has it; of chats that were given only their number."""
        plan = asdict(self.plan) | {"chats": len(self.plan.chats)}
        return asdict(self) | {"plan": plan}

    def save(self, path: Path) -> None:
        """Write the JSON, whole or not at all. Raises StorageError if it cannot be written."""
        write_whole(path, json.dumps(self.to_json(), indent=2).encode() + b"\n")

    def table(self) -> Table:
        """Times in milliseconds by clients."""
        table = Table(title=f"{self.model}: {self._asked()}", title_justify="left", box=None, pad_edge=False)
        for name in ("clients", "requests", "failed", "tokens/s"):
            table.add_column(name, justify="right")
        for name, points in _COLUMNS:
            for point in points:
                table.add_column(f"{name}\n{point} ms", justify="right")
        for level in self.levels:
            times = (level.first_token_s, level.each_token_s, level.whole_s)
            table.add_row(
                str(level.concurrency),
                str(level.requests),
                str(level.failed or "-"),
                f"{level.tokens_per_s:.1f}",
                *(
                    _milliseconds(values.get(point))
                    for values, (_, points) in zip(times, _COLUMNS, strict=True)
                    for point in points
                ),
            )
        return table

    def remarks(self) -> list[str]:
        """What has to be known beside the table."""
        lines = [
            f"{level.concurrency} clients: {count} requests failed: {kind}"
            for level in self.levels
            for kind, count in level.errors.items()
        ]
        busy = [level.concurrency for level in self.levels if level.client_cpu > 0.8]
        if busy:
            lines.append(
                f"with {busy[0]} clients this program took most of a core, so a faster server would not show"
            )
        return lines

    def _asked(self) -> str:
        told = [level.prompt_tokens for level in self.levels if level.prompt_tokens is not None]
        prompts = f"prompts of {np.mean(told):.0f} tokens" if told else "prompts of unknown length"
        return f"{prompts}, answers of {self.plan.answer_tokens}"


_COLUMNS = (("first token", ("p50", "p95", "p99")), ("each token", ("p50", "p95")), ("whole", ("p50", "p99")))


def write_whole(path: Path, data: bytes) -> None:
    """Replace a file at once; what is no file but a pipe or a device is written to.

    Raises StorageError if it cannot be written.
    """
    path = path.resolve()
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        try:
            beside.write_bytes(data)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}; name another file") from None


def _percentiles(values: list[float], *points: int) -> dict[str, float]:
    if not values:
        return {}
    found = np.percentile(values, points, method="inverted_cdf")
    return {f"p{point}": float(value) for point, value in zip(points, found, strict=True)}


def _milliseconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{1000 * seconds:.1f}" if seconds < 0.1 else f"{1000 * seconds:.0f}"
