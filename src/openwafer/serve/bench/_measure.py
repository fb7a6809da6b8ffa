"""Clients that ask a server at the same time, level after level."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from openwafer.base import EngineError, InputError
from openwafer.serve.bench._client import Sample, ask
from openwafer.serve.bench._plan import LoadPlan, Messages
from openwafer.serve.bench._prompts import Fit, RandomText
from openwafer.serve.bench._report import Level, LoadReport
from openwafer.serve.client import base_url, find_model

_SHORT, _LONG = 100, 600
"""Characters of the two prompts by which the length of all others is set."""


def measure_load(
    url: str,
    plan: LoadPlan,
    *,
    key: str | None = None,
    console: Console | None = None,
    ended: Callable[[LoadReport], None] = lambda report: None,
) -> LoadReport:
    """Ask the server at `url` as planned, and tell how it answered.

    Two or three requests come before, which warm the server up and tell how long random words are in its tokens. A level
    begins when the one before it has ended. Requests that fail are counted and not asked again; after a level of which none
    was answered there is no other. Ctrl-C ends the measurement with the levels so far. ended: called after each level.

    Raises InputError if nobody is there or the server refuses, EngineError if it does not answer the requests before.
    """
    report = LoadReport(
        url=url,
        model=find_model(url, key),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        plan=plan,
    )
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("requests, {task.fields[rate]}"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=console is None or not console.is_terminal,
    )
    with suppress(KeyboardInterrupt), bar:
        report.interrupted = True
        asyncio.run(_measure(report, key, bar, ended))
        report.interrupted = False
    return report


async def _measure(
    report: LoadReport, key: str | None, bar: Progress, ended: Callable[[LoadReport], None]
) -> None:
    plan = report.plan
    client = httpx.AsyncClient(
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(plan.silence_s),
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
        trust_env=False,
    )
    task = bar.add_task("warming up", total=plan.requests_total, rate="")
    async with client:
        asker = _Asker(client, report)
        await asker.warm_up()
        for concurrency in plan.concurrency:
            bar.update(task, description=f"{concurrency} client{'s' * (concurrency > 1)}")
            tokens, began = 0, time.perf_counter()

            def count(sample: Sample) -> None:
                nonlocal tokens
                tokens += sample.tokens
                bar.update(task, advance=1, rate=f"{tokens / (time.perf_counter() - began):.0f} tokens/s")  # noqa: B023

            level, told = await asker.level(concurrency, count)
            report.levels.append(level)
            if level.failed == level.requests:
                report.failure = f"{report.url} answered none of {level.requests} requests: {told}"
            ended(report)
            if report.failure:
                return


class _Asker:
    """Makes requests, and sends as many at a time as there are clients."""

    def __init__(self, client: httpx.AsyncClient, report: LoadReport) -> None:
        self._client = client
        self._url = base_url(report.url) + "/chat/completions"
        self._model = report.model
        self._plan = report.plan
        self._words = RandomText(report.plan.seed)
        self._given = itertools.cycle(report.plan.chats)
        self._fit = Fit()

    async def warm_up(self) -> None:
        """Ask two or three times. Raises InputError for a request that the server refuses, EngineError if it cannot."""
        texts = [self._words.text(_SHORT), self._words.text(_LONG)]
        pairs = []
        for text in texts:
            sample = await self._first_ask((_user(text),), 2)
            pairs.append((len(text), sample.prompt_tokens or 0))
        if pairs[1][1] > pairs[0][1]:
            self._fit = Fit.through(pairs[0], pairs[1])
        # One as all the others are: what the server does not take is said at once.
        await self._first_ask(self._next_chat(), self._plan.answer_tokens)

    async def _first_ask(self, chat: Messages, tokens: int) -> Sample:
        sample = await ask(self._client, self._url, self._body(chat, tokens))
        if sample.error.startswith("4"):
            raise InputError(f"{self._url} refuses what it is asked ({sample.error}): {sample.told}")
        if sample.error:
            raise EngineError(
                f"{self._url} does not answer ({sample.error}{': ' * bool(sample.told)}{sample.told}); see the server's log"
            )
        return sample

    async def level(self, concurrency: int, count: Callable[[Sample], None]) -> tuple[Level, str]:
        """Ask from so many clients; count is called after each request. The row, and what a failed request was told."""
        bodies = iter([self._body(self._next_chat(), self._plan.answer_tokens)
                       for _ in range(self._plan.requests_at(concurrency))])  # fmt: skip
        samples: list[Sample] = []

        async def be_client(bodies: Iterator[dict[str, Any]]) -> None:
            for body in bodies:
                samples.append(await ask(self._client, self._url, body))
                count(samples[-1])

        began, cpu = time.perf_counter(), time.process_time()
        async with asyncio.TaskGroup() as clients:
            for _ in range(concurrency):
                clients.create_task(be_client(bodies))
        level = Level.of(concurrency, samples, time.perf_counter() - began, time.process_time() - cpu)
        return level, next((f"{s.error}: {s.told}" for s in samples if s.error), "")

    def _next_chat(self) -> Messages:
        if self._plan.chats:
            return next(self._given)
        return (_user(self._words.text(self._fit.length(self._plan.prompt_tokens))),)

    def _body(self, chat: Messages, tokens: int) -> dict[str, Any]:
        return {
            "model": self._model,
            "messages": chat,
            "stream": True,
            "stream_options": {"include_usage": True},
            "temperature": self._plan.temperature,
            "max_completion_tokens": tokens,
            "min_completion_tokens": tokens,
        }


def _user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}
