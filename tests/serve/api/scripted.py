"""A server in a thread with an engine that says what a test wants."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import httpx
import uvicorn
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from openwafer.serve.api import Settings, make_app
from openwafer.serve.engine import Piece, Request, Times, TokenProbability, Usage
from openwafer.serve.text import ChatTemplate, Detokeniser, Tokenizer

HTTP = httpx.Client(timeout=120)
"""One for all: making one takes longer than most requests do."""
TEMPLATE = """{{- bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}
{%- for c in m.tool_calls or [] %}call {{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}
{%- if m.reasoning_content %}thought {{ m.reasoning_content }}{% endif %}<|end|>{% endfor %}
{%- if tools %}tools {{ tools | tojson }} as <tool_call>{% endif %}<|assistant|>"""


def make_tokenizer() -> Tokenizer:
    """A token for each byte."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Backend(models.BPE({w: i for i, w in enumerate(letters)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(t, special=True) for t in ("<|begin|>", "<|end|>")])
    end = backend.token_to_id("<|end|>")
    return Tokenizer(backend, end_tokens=[end], names={"bos_token": "<|begin|>", "eos_token": "<|end|>"})


TOKENIZER = make_tokenizer()


@dataclass
class ScriptedEngine:
    """Says `say(request, choice)`, a token a piece; keeps what it was asked and what was cancelled."""

    say: Callable[[Request, int], str] = lambda request, choice: "Hello."
    token_s: float = 0.0
    first_s: float = 0.0
    refuse: Exception | None = None
    fail_after: int | None = None
    numbers: dict[str, float] = field(default_factory=lambda: {"queued": 0, "running": 1})
    requests: list[Request] = field(default_factory=list)
    clients: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)

    def submit(self, request: Request, client: str = "") -> ScriptedAnswer:
        if self.refuse is not None:
            raise self.refuse
        self.requests.append(request)
        self.clients.append(client)
        return ScriptedAnswer(self, request)

    def statistics(self) -> dict[str, float]:
        return self.numbers


class ScriptedAnswer:
    def __init__(self, engine: ScriptedEngine, request: Request) -> None:
        self._engine, self._request, self._open = engine, request, True

    def cancel(self) -> None:
        if self._open:
            self._open = False
            self._engine.cancelled.append(self._request.id)

    async def __aiter__(self) -> AsyncIterator[Piece]:
        engine, request = self._engine, self._request
        if engine.first_s:
            await asyncio.sleep(engine.first_s)
        for choice in range(request.n):
            tokens = TOKENIZER.encode(engine.say(request, choice))
            length = request.max_tokens is not None and request.max_tokens < len(tokens)
            tokens = tokens[: request.max_tokens] if length else tokens
            text = Detokeniser(TOKENIZER, request.stop)
            used = 0
            echoed = tuple(TokenProbability(t, -1.0) for t in request.prompt[1:]) if request.echo else ()
            for used, token in enumerate(tokens, 1):
                if engine.fail_after is not None and used > engine.fail_after:
                    yield Piece(choice, finish="error", error="The executor failed.")
                    return
                if engine.token_s:
                    await asyncio.sleep(engine.token_s)
                logprobs, echoed = echoed, ()
                if request.logprobs is not None:
                    top = tuple((t, -0.5 - t) for t in range(request.logprobs))
                    logprobs = (*logprobs, TokenProbability(token, -0.5, top))
                yield Piece(choice, text.push(token), (token,), logprobs)
                if text.stopped:
                    length = False
                    break
            if choice == request.n - 1:
                self._open = False
            cached = len(request.prompt) // 128 * 128
            yield Piece(
                choice,
                text.finish(),
                finish="length" if length else "stop",
                usage=Usage(len(request.prompt), used, cached),
                times=Times(0.01, 0.02, 0.03),
            )


SETTINGS = Settings(model="llama3.1-8b", aliases=("model",), context_tokens=8192, version="1")


@dataclass
class Server:
    """A server that runs; `url` has no /v1."""

    url: str
    engine: ScriptedEngine
    app: Any


@contextmanager
def serving(
    engine: ScriptedEngine | None = None, template: str | None = TEMPLATE, **settings: Any
) -> Iterator[Server]:
    """uvicorn in a thread on a free port, as `wafer serve` runs it."""
    engine = engine or ScriptedEngine()
    chat = None if template is None else ChatTemplate(template, names=TOKENIZER.names)
    app = make_app(engine, TOKENIZER, chat, replace(SETTINGS, **settings))
    with running(app) as url:
        yield Server(url, engine, app)


@contextmanager
def running(app: Any) -> Iterator[str]:
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        assert time.monotonic() < until, "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(30)
