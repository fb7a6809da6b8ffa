"""The asynchronous client libraries, and what clients do by themselves: retries, cancellation, typed streams."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import openai
import pytest
from cerebras.cloud import sdk as cerebras
from pydantic import BaseModel
from scripted import TOKENIZER, ScriptedAnswer, ScriptedEngine, Server, serving  # type: ignore[import-not-found]

from openwafer.base import EngineError, QueueFullError
from openwafer.serve.engine import Request

CHAT: dict[str, Any] = {"model": "llama3.1-8b", "messages": [{"role": "user", "content": "hi"}]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
ROME = '{"name": "Rome", "people": 3}'


class City(BaseModel):
    name: str
    people: int


def answer(request: Request, choice: int) -> str:
    """JSON where there is a grammar, a call where there are tools, else a greeting."""
    if "weather" in TOKENIZER.decode(request.prompt):
        return f'<tool_call>{{"name": "weather", "arguments": {ROME}}}</tool_call>'
    return ROME if request.grammar is not None else "Hello."


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server that answers what was asked for."""
    with serving(ScriptedEngine(say=answer)) as running:
        yield running


def theirs(server: Server, **options: Any) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", **{"max_retries": 0, **options})


def ours(server: Server, **options: Any) -> cerebras.AsyncCerebras:
    return cerebras.AsyncCerebras(
        base_url=server.url, api_key="x", warm_tcp_connection=False, **{"max_retries": 0, **options}
    )


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def all() -> None:
        await work()

    asyncio.run(all())


def test_both_asynchronous_clients_do_what_the_others_do(server: Server) -> None:
    """Chats, streams, calls, completions and models, in one event loop that the server does not share."""

    async def work() -> None:
        for client in (theirs(server), ours(server)):
            whole = await client.chat.completions.create(**CHAT)
            stream = await client.chat.completions.create(**CHAT, stream=True)
            streamed = [chunk.choices[0].delta.content or "" async for chunk in stream]
            call = await client.chat.completions.create(**CHAT, tools=[TOOL])
            text = await client.completions.create(model="model", prompt="once", max_tokens=3)
            pieces = await client.completions.create(model="model", prompt="once", max_tokens=3, stream=True)
            models = await client.models.list()

            assert whole.choices[0].message.content == "".join(streamed) == "Hello."
            assert call.choices[0].finish_reason == "tool_calls"
            assert json.loads(call.choices[0].message.tool_calls[0].function.arguments)["name"] == "Rome"
            assert text.choices[0].text == "".join([c.choices[0].text async for c in pieces]) == "Hel"
            assert [model.id for model in models.data] == ["llama3.1-8b", "model"]

    run(work)


def test_raw_and_streamed_responses_have_headers_and_bytes(server: Server) -> None:
    """For who looks at headers, or passes bytes on."""

    async def work() -> None:
        for client in (theirs(server), ours(server)):
            raw = await client.chat.completions.with_raw_response.create(**CHAT)
            parsed = raw.parse()
            assert raw.headers["inference-id"] == (await parsed if asyncio.iscoroutine(parsed) else parsed).id
            async with client.chat.completions.with_streaming_response.create(
                **CHAT, stream=True
            ) as response:
                lines = [line async for line in response.iter_lines() if line]
            assert all(line.startswith("data: ") for line in lines)
            assert lines[-1] == "data: [DONE]"

    run(work)


def test_a_schema_parses_to_its_class_whole_and_streamed(server: Server) -> None:
    """openai builds the strict schema, joins the chunks and validates them."""

    async def work() -> None:
        client = theirs(server)
        whole = await client.chat.completions.parse(**CHAT, response_format=City)
        async with client.chat.completions.stream(**CHAT, response_format=City) as stream:
            kinds = [event.type async for event in stream]
            streamed = await stream.get_final_completion()
        tool = openai.pydantic_function_tool(City, name="weather")
        call = await client.chat.completions.parse(**CHAT, tools=[tool])

        assert whole.choices[0].message.parsed == City(name="Rome", people=3)
        assert streamed.choices[0].message.parsed == City(name="Rome", people=3)
        assert "content.done" in kinds
        called = call.choices[0].message.tool_calls
        assert [c.function.parsed_arguments for c in called or ()] == [City(name="Rome", people=3)]

    run(work)


class Moody(ScriptedEngine):
    """Refuses the first request with each of its errors, and then answers."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    def submit(self, request: Request, client: str = "") -> ScriptedAnswer:
        if self.errors:
            raise self.errors.pop()
        return super().submit(request, client)


@pytest.mark.parametrize("error", [QueueFullError("the queue is full"), EngineError("a stage died")])
def test_clients_come_again_by_themselves(error: Exception) -> None:
    """429 and 503 are passing; both clients wait as long as Retry-After says and succeed."""
    with serving(Moody(error, error)) as server:

        async def work() -> None:
            again = {"max_retries": 1}
            answers = await asyncio.gather(
                theirs(server, **again).chat.completions.create(**CHAT),
                ours(server, **again).chat.completions.create(**CHAT),
            )
            assert [a.choices[0].message.content for a in answers] == ["Hello.", "Hello."]

        run(work)
        assert len(server.engine.requests) == 2


def test_a_wrong_request_is_not_sent_again(server: Server) -> None:
    """It would be wrong again; each client raises its class at once, with the message."""

    async def work() -> None:
        before = len(server.engine.requests)
        with pytest.raises(openai.BadRequestError, match="temperature") as theirs_error:
            await theirs(server, max_retries=2).chat.completions.create(**CHAT, temperature=3)
        with pytest.raises(cerebras.BadRequestError, match="temperature"):
            await ours(server, max_retries=2).chat.completions.create(**CHAT, temperature=3)
        with pytest.raises(openai.NotFoundError, match="Model does not exist"):
            await theirs(server).chat.completions.create(**CHAT | {"model": "other"})
        with pytest.raises(cerebras.NotFoundError, match="Model does not exist"):
            await ours(server).models.retrieve("other")
        assert theirs_error.value.param == "temperature"
        assert theirs_error.value.code == "wrong_api_format"
        assert len(server.engine.requests) == before

    run(work)


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancelled_task_frees_its_place(stream: bool) -> None:
    """Programs race requests and drop the losers; the connection is closed under way."""
    with serving(ScriptedEngine(say=lambda r, c: "x" * 100_000, token_s=0.005)) as server:

        async def work() -> None:
            async def ask(client: Any) -> None:
                reply = await client.chat.completions.create(**CHAT, stream=stream)
                if stream:
                    async for _ in reply:
                        pass

            tasks = [asyncio.create_task(ask(client)) for client in (theirs(server), ours(server))]
            until = time.monotonic() + 60
            while len(server.engine.requests) < 2 and time.monotonic() < until:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert all(isinstance(e, asyncio.CancelledError) for e in ended)

        run(work)
        until = time.monotonic() + 60
        while len(server.engine.cancelled) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(server.engine.cancelled) == 2
