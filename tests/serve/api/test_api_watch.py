"""What an operator sees: requests as they run, a point for each second, totals for Prometheus."""

from __future__ import annotations

from typing import Any

import pytest

from openwafer.serve.api._metrics import Metrics
from openwafer.serve.api._watch import Watch


class Counting:
    """An engine whose numbers are set by hand."""

    def __init__(self) -> None:
        self.numbers: dict[str, Any] = {
            "waiting": 0, "running": 0, "blocks": 100, "blocks_used": 0, "prompt_tokens_total": 0,
            "cached_tokens_total": 0, "completion_tokens_total": 0, "engine_s_total": 0.0, "stages_busy_s": (0.0, 0.0),
        }  # fmt: skip

    def submit(self, request: Any, client: str = "") -> Any:
        raise NotImplementedError

    def statistics(self) -> dict[str, Any]:
        return dict(self.numbers)


class Running:
    """A job as far as it is watched."""

    arrived, prompt_tokens, completion_tokens, max_tokens, tier = 90.0, 7, 3, 20, "flex"

    def __init__(self, first_token_s: float | None = None) -> None:
        self.first_token_s = first_token_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, to be set."""
    now = [100.0]
    monkeypatch.setattr("openwafer.serve.api._watch.time.monotonic", lambda: now[0])
    monkeypatch.setattr("openwafer.serve.api._watch.time.time", lambda: now[0])
    return now


def test_a_point_tells_what_happened_since_the_one_before(clock: list[float]) -> None:
    """Rates and shares of the time between two samples, whatever that was."""
    engine = Counting()
    watch = Watch(engine)
    watch.sample()
    assert watch.history(0.0) == []
    engine.numbers |= {
        "running": 3, "blocks_used": 25, "prompt_tokens_total": 400, "cached_tokens_total": 100,
        "completion_tokens_total": 60, "engine_s_total": 0.2, "stages_busy_s": (0.5, 1.0),
    }  # fmt: skip
    watch.began("a", "chat", Running(0.25))  # type: ignore[arg-type]
    watch.began("b", "chat", Running())  # type: ignore[arg-type]
    clock[0] = 102.0

    watch.sample()

    (point,) = watch.history(0.0)
    assert (point.at, point.running, point.waiting) == (102.0, 3, 0)
    assert (point.tokens_per_s, point.prompt_tokens_per_s) == (30.0, 200.0)
    assert (point.cache_used, point.cache_hits) == (0.25, 0.25)
    assert (point.stages_busy, point.engine_busy) == ([0.25, 0.5], 0.1)
    assert point.first_token_s == 0.25
    assert watch.history(102.0) == []


def test_a_first_token_counts_once_and_in_the_second_in_which_it_came(clock: list[float]) -> None:
    """Also if its answer has ended by then; one that never began does not count."""
    watch = Watch(Counting())
    watch.sample()
    late, quick, lost = Running(), Running(), Running()
    for id, job in (("late", late), ("quick", quick), ("lost", lost)):
        watch.began(id, "chat", job)  # type: ignore[arg-type]
    quick.first_token_s = 0.1
    watch.ended("quick")
    watch.ended("lost")
    clock[0] += 1
    watch.sample()
    late.first_token_s = 1.5
    lost.first_token_s = 9.0
    clock[0] += 1
    watch.sample()
    clock[0] += 1
    watch.sample()

    assert [point.first_token_s for point in watch.history(0.0)] == [0.1, 1.5, None]


def test_an_executor_that_was_opened_again_counts_from_zero(clock: list[float]) -> None:
    """Its seconds are fewer then, and nobody was busy for less than no time."""
    engine = Counting()
    engine.numbers["stages_busy_s"] = (50.0,)
    watch = Watch(engine)
    watch.sample()
    engine.numbers["stages_busy_s"] = (0.5,)
    clock[0] += 1
    watch.sample()

    assert watch.history(0.0)[0].stages_busy == [0.0]


def test_requests_are_shown_without_what_they_say_and_who_asks(clock: list[float]) -> None:
    """Several clients may look at the page."""
    watch = Watch(Counting())
    watch.began("chatcmpl-1", "chat", Running())  # type: ignore[arg-type]
    watch.began("cmpl-2", "completions", Running(0.1))  # type: ignore[arg-type]

    first, second = watch.requests()
    watch.ended("chatcmpl-1")

    assert (first.id, first.state, first.seconds, first.tier) == ("chatcmpl-1", "waiting", 10.0, "flex")
    assert (second.state, second.prompt_tokens, second.completion_tokens, second.max_tokens) == (
        "answering", 7, 3, 20
    )  # fmt: skip
    assert [request.id for request in watch.requests()] == ["cmpl-2"]


def test_prometheus_gets_totals_as_counters_and_the_seconds_of_each_stage() -> None:
    """`rate()` wants counters; a stage that others wait for is seen by its label."""
    engine = Counting()
    engine.numbers |= {"stages_busy_s": (1.5, 2.5), "completion_tokens_total": 60}

    text = Metrics(engine).text().decode()

    assert 'wafer_stage_busy_seconds_total{stage="1"} 2.5' in text
    assert "# TYPE wafer_engine_completion_tokens_total counter" in text
    assert "wafer_engine_completion_tokens_total 60.0" in text
    assert "# TYPE wafer_engine_blocks gauge" in text
