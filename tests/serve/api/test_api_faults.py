"""Many requests while a stage is killed or the cache is starved: each ends with its answer or with a documented error."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from scripted import running  # type: ignore[import-not-found]

from openwafer.serve.api import Settings, make_app
from openwafer.serve.engine import Engine, Limits
from openwafer.serve.executors import Executor, PipelinedExecutor, open_executor
from openwafer.serve.model import make_demo
from openwafer.serve.text import ChatTemplate, Tokenizer

LENGTHS = (5, 120, 122, 250, 300, 118, 90, 115)
"""Of prompts: many answers need another block soon after they began."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's shape, as small as it goes."""
    return make_demo(tmp_path_factory.mktemp("demo"), seed=1, layers=2, hidden=64)


class Served:
    """A server over the demo model, and what it answered."""

    def __init__(self, url: str, engine: Engine) -> None:
        self.engine = engine
        self._client = httpx.Client(base_url=url, timeout=120)

    def ask(self, number: int, stream: bool = False) -> tuple[int, str]:
        """The status and the text of one request's answer; a stream's error counts with its own status."""
        body = {
            "model": "demo",
            "prompt": "".join(chr(97 + (number * 7 + i * i) % 26) for i in range(LENGTHS[number % 8])),
            "max_tokens": 20 + 11 * number % 60,
            "min_tokens": 20 + 11 * number % 60,
            "temperature": 0,
            "stream": stream,
        }
        response = self._client.post("/v1/completions", json=body)
        if not stream or response.status_code != 200:
            found = response.json()
            if response.status_code == 200:
                return 200, found["choices"][0]["text"]
            return response.status_code, found["error"]["message"]
        events = [line[6:] for line in response.text.splitlines() if line.startswith("data: ")]
        found = [json.loads(event) for event in events if event != "[DONE]"]
        late = [event for event in found if "status_code" in event]
        if late:
            return late[-1]["status_code"], late[-1]["error"]["message"]
        assert events[-1] == "[DONE]", "the stream ended without saying how"
        return 200, "".join(event["choices"][0]["text"] for event in found if event["choices"])

    def ask_all(self, count: int, while_they_run: Callable[[], None] = lambda: None) -> list[tuple[int, str]]:
        """So many requests at once, every other one as a stream; each ends within the client's patience."""
        with ThreadPoolExecutor(count) as threads:
            asked = [threads.submit(self.ask, i, i % 2 == 1) for i in range(count)]
            while_they_run()
            return [one.result() for one in asked]


@contextmanager
def served(folder: Path, open_: Callable[[], Executor], **limits: int) -> Iterator[Served]:
    tokenizer = Tokenizer.load(folder)
    engine = Engine(open_(), tokenizer, reopen=open_, limits=Limits(**limits))
    settings = Settings(model="demo", context_tokens=engine.context_tokens)
    try:
        with running(make_app(engine, tokenizer, ChatTemplate.load(folder, tokenizer), settings)) as url:
            yield Served(url, engine)
    finally:
        engine.stop()


@pytest.fixture(scope="module")
def unloaded(folder: Path) -> list[tuple[int, str]]:
    """What each request is answered when there is no other."""
    with served(folder, lambda: open_executor(folder, dtype="fp32", device="cpu", blocks=64)) as server:
        return [server.ask(i) for i in range(32)]


def test_a_starved_cache_delays_answers_and_changes_none(folder: Path, unloaded: list[Any]) -> None:
    """32 requests of mixed length share room for two of the longest: they are preempted and come out as if alone."""
    with served(folder, lambda: open_executor(folder, dtype="fp32", device="cpu", blocks=6)) as server:
        found = server.ask_all(32)
        then = server.ask(32 - 1)
        told = server.engine.statistics()

    assert {status for status, _ in unloaded} == {200}
    assert found == unloaded
    assert then == unloaded[-1]
    assert told.preemptions_total > 0
    assert (told.failed_total, told.blocks_used, told.waiting, told.running) == (0, 0, 0, 0)


def test_killing_a_stage_ends_what_ran_with_an_error_and_loses_no_request(
    folder: Path, unloaded: list[Any]
) -> None:
    """16 requests run and wait on two stages when one is killed: who had begun is told so, the others are answered."""
    opened: list[PipelinedExecutor] = []

    def open_() -> Executor:
        executor = open_executor(
            folder, execution="pipelined", systems=2, dtype="fp32", device="cpu", blocks=64
        )
        assert isinstance(executor, PipelinedExecutor)
        opened.append(executor)
        return executor

    with served(folder, open_, running=6) as server:

        def kill() -> None:
            until = time.monotonic() + 60
            while (told := server.engine.statistics()).completion_tokens_total < 20 or not told.waiting:
                assert time.monotonic() < until, "requests never ran and waited at once"
                time.sleep(0.001)
            os.kill(opened[0].pids[1], signal.SIGKILL)

        found = server.ask_all(16, kill)
        then = server.ask(0)
        told = server.engine.statistics()

    failed = [text for status, text in found if status != 200]
    assert {status for status, _ in found} == {200, 503}
    assert all("stage 1" in text and "killed" in text for text in failed)
    assert all(one in (alone, (503, one[1])) for one, alone in zip(found, unloaded, strict=False))
    assert then == unloaded[0]
    assert (told.failed_total, told.restarts_total) == (len(failed), 1)
    assert len(opened) == 2
