"""The real client libraries, as programs use them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from cerebras.cloud import sdk as cerebras
from pydantic import BaseModel
from scripted import ScriptedEngine, Server, serving  # type: ignore[import-not-found]

CHAT: dict[str, Any] = {"model": "llama3.1-8b", "messages": [{"role": "user", "content": "hi"}]}
TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>'


@pytest.fixture(scope="module")
def calling() -> Iterator[Server]:
    """A server whose model always calls."""
    with serving(ScriptedEngine(say=lambda r, c: CALL)) as server:
        yield server


def ours(server: Server, path: str = "") -> cerebras.Cerebras:
    return cerebras.Cerebras(base_url=server.url + path, api_key="x", max_retries=0)


def theirs(server: Server, path: str = "/v1") -> openai.OpenAI:
    return openai.OpenAI(base_url=server.url + path, api_key="x", max_retries=0)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
def test_both_clients_chat_with_every_base_url(plain: Server, path: str) -> None:
    """The commonest mistake is no mistake here."""
    assert ours(plain, path).chat.completions.create(**CHAT).choices[0].message.content == "Hello."
    assert theirs(plain, path).chat.completions.create(**CHAT).choices[0].message.content == "Hello."


def test_programs_need_only_the_environment(plain: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Examples make their clients without arguments; two variables point them here."""
    monkeypatch.setenv("CEREBRAS_BASE_URL", plain.url)
    monkeypatch.setenv("CEREBRAS_API_KEY", "anything")
    monkeypatch.setenv("OPENAI_BASE_URL", plain.url + "/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "anything")

    for client in (cerebras.Cerebras(), openai.OpenAI()):
        assert client.chat.completions.create(**CHAT).choices[0].message.content == "Hello."


def test_the_cerebras_client_gets_its_own_types(plain: Server) -> None:
    """It validates into a union and silently builds the wrong member if a required key is missing."""
    reply = ours(plain).chat.completions.create(**CHAT)

    assert type(reply).__name__ == "ChatCompletionResponse"
    assert reply.usage.total_tokens / reply.time_info.total_time > 0
    assert json.loads(reply.model_dump_json(indent=2))["choices"][0]["message"]["content"] == "Hello."
    seen = ""
    for chunk in ours(plain).chat.completions.create(**CHAT, stream=True):
        assert type(chunk).__name__ == "ChatChunkResponse"
        seen += chunk.choices[0].delta.content or ""
    assert seen == "Hello."
    assert chunk.choices[0].finish_reason == "stop"
    assert chunk.usage.completion_tokens == 6
    assert chunk.time_info.completion_time == 0.03


def test_raw_and_streamed_responses_work(plain: Server) -> None:
    """The README's other ways to call."""
    raw = ours(plain).chat.completions.with_raw_response.create(**CHAT)
    assert raw.headers["inference-id"] == raw.parse().id
    with ours(plain).chat.completions.with_streaming_response.create(**CHAT) as response:
        assert json.loads(b"".join(response.iter_bytes()))["object"] == "chat.completion"


def test_completions_work_in_both_clients(plain: Server) -> None:
    """Whole and streamed."""
    body: Any = {"model": "llama3.1-8b", "prompt": "once", "max_tokens": 4}
    assert ours(plain).completions.create(**body).choices[0].text == "Hell"
    assert theirs(plain).completions.create(**body).choices[0].text == "Hell"
    for client in (ours(plain), theirs(plain)):
        chunks = list(client.completions.create(**body, stream=True))
        assert "".join(c.choices[0].text for c in chunks) == "Hell"
        assert chunks[-1].choices[0].finish_reason == "length"


def test_models_have_the_clients_types(plain: Server) -> None:
    """One per format."""
    client = ours(plain)
    names = {f: type(client.models.list(format=f)).__name__ for f in ("default", "openrouter", "huggingface")}
    assert names == {
        "default": "ModelMetadataList",
        "openrouter": "OpenRouterModelsResponse",
        "huggingface": "HuggingFaceModelsResponse",
    }
    assert client.models.retrieve("model").id == "model"
    assert [m.id for m in theirs(plain).models.list()] == ["llama3.1-8b", "model"]
    with pytest.raises(cerebras.NotFoundError):
        client.models.retrieve("other")


def test_tools_work_in_both_clients(calling: Server) -> None:
    """With content that is false where there are calls: programs look at it first."""
    for client in (ours(calling), theirs(calling)):
        message = client.chat.completions.create(**CHAT, tools=[TOOL]).choices[0].message
        assert not message.content
        assert message.tool_calls[0].function.name == "weather"
        assert json.loads(message.tool_calls[0].function.arguments) == {"city": "Rome"}
        again = [
            *CHAT["messages"],
            message.model_dump(exclude_none=True),
            {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "sunny"},
        ]
        assert client.chat.completions.create(model="model", messages=again, tools=[TOOL]).choices


def test_openais_accumulator_reads_our_streams(calling: Server, plain: Server) -> None:
    """It joins deltas by index, and would double arguments that come twice."""
    with theirs(calling).chat.completions.stream(**CHAT, tools=[TOOL]) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].finish_reason == "tool_calls"
    assert final.choices[0].message.tool_calls[0].function.arguments == '{"city": "Rome"}'
    with theirs(plain).chat.completions.stream(**CHAT, stream_options={"include_usage": True}) as stream:
        final = stream.get_final_completion()
    assert final.choices[0].message.content == "Hello."
    assert final.usage.completion_tokens == 6


class City(BaseModel):
    name: str
    people: int


def test_openais_parse_gets_a_typed_answer() -> None:
    """It sends a strict schema made of the class."""
    with serving(ScriptedEngine(say=lambda r, c: '{"name": "Rome", "people": 3}')) as server:
        reply = theirs(server).chat.completions.parse(**CHAT, response_format=City)
        grammar = server.engine.requests[-1].grammar

    assert reply.choices[0].message.parsed == City(name="Rome", people=3)
    assert grammar is not None
    assert json.loads(grammar.text)["required"] == ["name", "people"]


def test_reasoning_is_a_field_of_its_own() -> None:
    """cerebras_cloud_sdk has it typed, openai keeps it as an extra."""
    with serving(
        ScriptedEngine(say=lambda r, c: "<think>why</think>so"), template="<think>{{ messages[0].content }}"
    ) as server:
        assert ours(server).chat.completions.create(**CHAT).choices[0].message.reasoning == "why"
        chunks = list(ours(server).chat.completions.create(**CHAT, stream=True))
        message = theirs(server).chat.completions.create(**CHAT).choices[0].message

    assert "".join(c.choices[0].delta.reasoning or "" for c in chunks) == "why"
    assert message.model_extra == {"reasoning": "why"}


def test_the_constructor_warms_without_delay(plain: Server) -> None:
    """It blocks on GET /v1/tcp_warming and retries what fails."""
    seen: list[str] = []
    transport = httpx.HTTPTransport()
    client = httpx.Client(
        transport=transport,
        event_hooks={"response": [lambda r: seen.append(f"{r.url.path} {r.status_code}")]},
    )
    cerebras.Cerebras(base_url=plain.url, api_key="x", http_client=client)

    assert seen == ["/v1/tcp_warming 200"]


def test_many_at_once_on_one_client() -> None:
    """Fan-out by gather, streamed and not, each with its own answer; async clients of both kinds."""
    engine = ScriptedEngine(
        say=lambda r, c: bytes(r.prompt[-18:-14]).hex() + "." * 20, token_s=0.001, first_s=0.01
    )

    async def run(server: Server) -> list[str]:
        mine = cerebras.AsyncCerebras(
            base_url=server.url, api_key="x", max_retries=0, warm_tcp_connection=False
        )
        other = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0)

        async def whole(i: int) -> str:
            client = mine if i % 2 else other
            body = CHAT | {"messages": [{"role": "user", "content": f"{i:04}"}]}
            if i % 4 < 2:
                return (await client.chat.completions.create(**body)).choices[0].message.content
            chunks = await client.chat.completions.create(**body, stream=True)
            return "".join([c.choices[0].delta.content or "" async for c in chunks])

        return await asyncio.gather(*(whole(i) for i in range(64)))

    with serving(engine) as server:
        answers = asyncio.run(run(server))

    assert len(set(answers)) == 64
    assert engine.cancelled == []


def test_closing_a_stream_early_frees_the_place() -> None:
    """The clients close the connection when a stream is left."""
    with serving(ScriptedEngine(say=lambda r, c: "x" * 100_000, token_s=0.005)) as server:
        with ours(server).chat.completions.create(**CHAT, stream=True) as stream:
            for chunk in stream:
                if chunk.choices[0].delta.content:
                    break
        until = time.monotonic() + 60
        while not server.engine.cancelled and time.monotonic() < until:
            time.sleep(0.01)
        assert server.engine.cancelled


def test_a_timeout_of_the_client_frees_the_place() -> None:
    """And its retries run alone."""
    with serving(ScriptedEngine(first_s=300.0)) as server:
        with pytest.raises(openai.APITimeoutError):
            openai.OpenAI(
                base_url=server.url + "/v1", api_key="x", max_retries=1, timeout=0.3
            ).chat.completions.create(**CHAT, extra_headers={"x-stainless-read-timeout": "600"})
        until = time.monotonic() + 60
        while len(server.engine.cancelled) < 2 and time.monotonic() < until:
            time.sleep(0.01)
        assert len(server.engine.cancelled) == 2
