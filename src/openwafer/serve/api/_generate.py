"""Both POSTs, from a request's bytes to its answer: who asks, for what, and how it goes back."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from msgspec import UNSET
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from openwafer.base import WaferError, logger
from openwafer.serve.api._access import admit
from openwafer.serve.api._bodies import read_value
from openwafer.serve.api._chat import prepare_chat
from openwafer.serve.api._compatibility import convert
from openwafer.serve.api._completions import CompletionChoiceWriter, prepare_completion
from openwafer.serve.api._engine import EngineLike
from openwafer.serve.api._errors import ApiError, as_api_error
from openwafer.serve.api._job import Job
from openwafer.serve.api._limits import Limits
from openwafer.serve.api._live import LiveResponse
from openwafer.serve.api._metrics import Metrics, numbers
from openwafer.serve.api._mock import mend
from openwafer.serve.api._models import no_such_model
from openwafer.serve.api._replies import ChatChunk, ChatCompletion, Completion
from openwafer.serve.api._requests import ChatRequest, CompletionRequest
from openwafer.serve.api._settings import Settings
from openwafer.serve.api._watch import Watch
from openwafer.serve.engine import Piece, Request
from openwafer.serve.text import ChatTemplate, Tokenizer

_LOG = logger("api")
BodyT = TypeVar("BodyT", ChatRequest, CompletionRequest)


class Writer(Protocol):
    """Reads the pieces of one choice."""

    def add(self, piece: Piece) -> Sequence[Any]: ...

    def whole(self) -> Any: ...


class Plan:
    """One HTTP request, ready for the engine: what is submitted, and how its answer is written."""

    def __init__(
        self,
        requests: list[Request],
        writer: Callable[[int], Writer],
        *,
        whole: type[msgspec.Struct],
        chunk: type[msgspec.Struct],
        choose: Callable[[list[Writer]], list[Any]] | None = None,
    ) -> None:
        """choose: which choices of all are answered with; None: every one."""
        self.requests = requests
        self.writers = [writer(i) for i in range(sum(r.n for r in requests))]
        self.whole = whole
        self.chunk = chunk
        self.choose = choose

    @property
    def prompt_tokens(self) -> int:
        return sum(len(r.prompt) for r in self.requests)

    def choices(self) -> list[Any]:
        """All choices at their end."""
        return self.choose(self.writers) if self.choose else [w.whole() for w in self.writers]

    def reasoning_tokens(self) -> int:
        return sum(getattr(w, "reasoning_tokens", 0) for w in self.writers)


class Generator:
    """Answers requests for text with one engine."""

    def __init__(
        self,
        engine: EngineLike,
        tokenizer: Tokenizer,
        template: ChatTemplate | None,
        settings: Settings,
        metrics: Metrics,
        watch: Watch,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._template = template
        self._settings = settings
        self._metrics = metrics
        self._watch = watch
        self._limits = Limits(settings)

    async def chat(self, request: HttpRequest) -> Response:
        """POST /v1/chat/completions."""
        return await self._answer(request, "chat", "chatcmpl", ChatRequest, self._plan_chat)

    async def completions(self, request: HttpRequest) -> Response:
        """POST /v1/completions."""
        return await self._answer(request, "completions", "cmpl", CompletionRequest, self._plan_completion)

    def _plan_chat(self, body: ChatRequest, id: str) -> Plan:
        chat = prepare_chat(body, id, self._settings, self._tokenizer, self._template)
        return Plan([chat.request], chat.writer, whole=ChatCompletion, chunk=ChatChunk)

    def _plan_completion(self, body: CompletionRequest, id: str) -> Plan:
        requests = prepare_completion(body, id, self._settings, self._tokenizer)
        each, n = requests[0].n, body.n or 1

        def writer(index: int) -> CompletionChoiceWriter:
            return CompletionChoiceWriter(index, body, requests[index // each].prompt, self._tokenizer)

        def choose(writers: list[Writer]) -> list[Any]:
            chosen = []
            for first in range(0, len(writers), each):
                group = [w for w in writers[first : first + each] if isinstance(w, CompletionChoiceWriter)]
                chosen += sorted(group, key=lambda w: -w.mean_logprob)[:n]
            choices = [w.whole() for w in chosen]
            for i, choice in enumerate(choices):
                choice.index = i
            return choices

        return Plan(requests, writer, whole=Completion, chunk=Completion, choose=choose if each > n else None)

    async def _answer(
        self,
        request: HttpRequest,
        endpoint: str,
        prefix: str,
        kind: type[BodyT],
        make: Callable[[BodyT, str], Plan],
    ) -> Response:
        arrived = time.monotonic()
        id = f"{prefix}-{uuid.uuid4()}"
        headers = {"inference-id": id}
        try:
            client = admit(request, self._settings)
            headers |= self._limits.headers(client)
            self._limits.admit(client)
            headers |= self._limits.headers(client)
            body, plan = await self._understand(request, id, kind, make)
            job = Job(self._engine, plan.requests, client, arrived)
        except Exception as e:
            error = as_api_error(e)
            self._metrics.refused(endpoint, error.status)
            _LOG.info("refused", id=id, endpoint=endpoint, status=error.status, why=str(error))
            return error.response(headers)
        self._limits.spend(client, plan.prompt_tokens)
        headers |= self._limits.headers(client)
        self._watch.began(id, endpoint, job)

        def closed(status: int) -> None:
            job.cancel()
            self._watch.ended(id)
            self._limits.spend(client, job.completion_tokens)
            self._metrics.ended(endpoint, status, job)
            _LOG.info(
                "answered",
                id=id,
                endpoint=endpoint,
                status=status,
                client=client,
                user=body.user,
                prompt_tokens=plan.prompt_tokens,
                completion_tokens=job.completion_tokens,
                seconds=round(time.monotonic() - arrived, 3),
            )

        common = {
            "id": id,
            "created": int(time.time()),
            "model": body.model,
            "system_fingerprint": self._settings.fingerprint,
            "service_tier": body.service_tier or UNSET,
            "service_tier_used": "default" if body.service_tier == "auto" else UNSET,
        }
        return LiveResponse(
            _stream(plan, job, common) if body.stream else _whole(plan, job, common),
            headers=headers,
            stream=bool(body.stream),
            heartbeat_s=_heartbeat_s(request, self._settings),
            closed=closed,
        )

    async def _understand(
        self, request: HttpRequest, id: str, kind: type[BodyT], make: Callable[[BodyT, str], Plan]
    ) -> tuple[BodyT, Plan]:
        """The request's body, and what is submitted for it. Raises ApiError or what else `as_api_error` knows."""
        value = await read_value(request, self._settings)
        while True:
            try:
                body, dropped = convert(value, kind, strict=self._settings.strict)
                if dropped:
                    _LOG.info("unknown fields left out", id=id, fields=dropped)
                if not self._settings.serves(body.model):
                    raise no_such_model(self._settings)
                self._check_queue(request, body)
                # Templates, tokenizers and grammars may take a while, and others' answers should go on meanwhile.
                plan = await asyncio.to_thread(make, body, id)
                param = "messages" if isinstance(body, ChatRequest) else "prompt"
                plan.requests = [self._fit(r, param) for r in plan.requests]
                return body, plan
            except WaferError as error:
                if not (self._settings.mock and mend(value, as_api_error(error))):
                    raise

    def _fit(self, request: Request, param: str) -> Request:
        """The request with an answer no longer than there is room for; in strict mode a longer one is refused."""
        limit = self._settings.context_tokens
        prompt = len(request.prompt)
        least = 1 if request.max_tokens is None else min(1, request.max_tokens)
        asked = prompt + (request.max_tokens or 0 if self._settings.strict else least)
        if max(prompt + least, asked) > limit:
            raise ApiError(
                400,
                "Please reduce the length of the messages or completion. "
                f"Current length is {max(prompt + least, asked)} while limit is {limit}",
                param=param,
                code="context_length_exceeded",
            )
        room = limit - prompt
        most = room if request.max_tokens is None else min(room, request.max_tokens)
        return dataclasses.replace(request, max_tokens=most, min_tokens=min(request.min_tokens, most))

    def _check_queue(self, request: HttpRequest, body: ChatRequest | CompletionRequest) -> None:
        """`queue_threshold`: milliseconds that a flexible client would wait, rather than be told to come again."""
        asked = request.headers.get("queue_threshold")
        if asked is None or body.service_tier not in ("flex", "auto"):
            return
        if not asked.isascii() or not asked.isdigit() or not 50 <= int(asked[:9]) <= 20_000:
            raise ApiError(400, "queue_threshold must be 50 to 20000 milliseconds.", param="queue_threshold")
        wait_s = numbers(self._engine.statistics()).get("queue_wait_s", 0.0)
        if wait_s * 1000 > int(asked):
            raise ApiError(
                429,
                f"Requests wait about {wait_s:.1f} s now, more than queue_threshold allows.",
                kind="too_many_requests_error",
                param="queue",
                code="queue_exceeded",
                retry_after_s=wait_s,
            )


async def _whole(plan: Plan, job: Job, common: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    try:
        async for index, piece in job.pieces():
            plan.writers[index].add(piece)
        reply = functools.partial(plan.whole, **common)
        yield msgspec.json.encode(
            reply(
                choices=plan.choices(),
                usage=job.usage(plan.reasoning_tokens()),
                time_info=job.time_info(),
            )
        )
    finally:
        job.cancel()


async def _stream(plan: Plan, job: Job, common: dict[str, Any]) -> AsyncGenerator[bytes, None]:
    """Chunks; usage and times are on the last that has a choice, since clients look at `choices[0]` of every one."""
    encoder = msgspec.json.Encoder()
    reply = functools.partial(plan.chunk, **common)
    try:
        async for index, piece in job.pieces():
            choices = plan.writers[index].add(piece)
            for i, choice in enumerate(choices):
                last = job.complete and i == len(choices) - 1
                chunk = reply(
                    choices=[choice],
                    usage=job.usage(plan.reasoning_tokens()) if last else UNSET,
                    time_info=job.time_info() if last else UNSET,
                )
                yield b"data: " + encoder.encode(chunk) + b"\n\n"
        yield b"data: [DONE]\n\n"
    finally:
        job.cancel()


def _heartbeat_s(request: HttpRequest, settings: Settings) -> float:
    """Three beats in the time after which the client would give up."""
    told = request.headers.get("x-stainless-read-timeout", "")
    try:
        timeout_s = float(told)
    except ValueError:
        return settings.heartbeat_s
    return min(settings.heartbeat_s, timeout_s / 3) if timeout_s > 0.1 else settings.heartbeat_s
