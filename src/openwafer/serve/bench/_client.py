"""One request over HTTP, its answer as it streams, and the times at which its parts came."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import msgspec


class _Delta(msgspec.Struct):
    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Any] | None = None

    @property
    def is_token(self) -> bool:
        """Whether something of the answer is in it; the first chunk only has the role."""
        return bool(self.content or self.reasoning or self.tool_calls)


class _Choice(msgspec.Struct):
    delta: _Delta = msgspec.field(default_factory=_Delta)
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Chunk(msgspec.Struct):
    choices: list[_Choice] = []
    usage: _Usage | None = None
    error: Any = None


_CHUNK = msgspec.json.Decoder(_Chunk)


@dataclass(slots=True)
class Sample:
    """What became of one request. Times are `time.perf_counter`'s."""

    began: float
    first: float | None = None
    """When the first chunk with a part of the answer came."""
    last: float = 0.0
    """When the last such chunk came."""
    ended: float = 0.0
    chunks: int = 0
    """With a part of the answer."""
    prompt_tokens: int | None = None
    """As the server counts; None if it does not tell."""
    answer_tokens: int | None = None
    error: str = ""
    """The kind of failure; "" for a whole answer."""
    told: str = ""
    """What the server said of it."""

    @property
    def tokens(self) -> int:
        """Of the answer; of a server that does not count them, its chunks."""
        return self.answer_tokens if self.answer_tokens is not None else self.chunks

    @property
    def each_token_s(self) -> float | None:
        """Between two tokens, on average; None for answers that are too short."""
        if self.first is None or self.tokens < 2:
            return None
        return (self.last - self.first) / (self.tokens - 1)


async def ask(client: httpx.AsyncClient, url: str, body: dict[str, Any]) -> Sample:
    """Send a streaming request and read its answer to the end. What goes wrong stands in the sample."""
    sample = Sample(time.perf_counter())
    try:
        async with client.stream("POST", url, json=body) as response:
            if response.status_code != 200:
                sample.error, sample.told = _refusal(response.status_code, await response.aread())
            else:
                await _read(response, sample)
    except httpx.TimeoutException:
        sample.error = "silence"
    except httpx.HTTPError as error:
        sample.error = "broken connection" if sample.chunks else "no connection"
        sample.told = str(error)
    except msgspec.MsgspecError as error:
        sample.error, sample.told = "no answer in the API's form", str(error)
    sample.ended = time.perf_counter()
    return sample


async def _read(response: httpx.Response, sample: Sample) -> None:
    finished = False
    async for data in _events(response):
        now = time.perf_counter()
        chunk = _CHUNK.decode(data)
        if chunk.error is not None:
            sample.error = "error in the stream"
            sample.told = str(
                chunk.error.get("message", "") if isinstance(chunk.error, dict) else chunk.error
            )
            return
        if any(choice.delta.is_token for choice in chunk.choices):
            sample.first = sample.first if sample.first is not None else now
            sample.last = now
            sample.chunks += 1
        finished = finished or any(choice.finish_reason for choice in chunk.choices)
        if chunk.usage is not None:
            sample.prompt_tokens = chunk.usage.prompt_tokens
            sample.answer_tokens = chunk.usage.completion_tokens
    if not finished:
        sample.error = "half an answer"


async def _events(response: httpx.Response) -> AsyncIterator[bytes]:
    """The data of server-sent events. By bytes, because this is the client's own share of what is measured."""
    rest = b""
    async for part in response.aiter_bytes():
        *lines, rest = (rest + part).split(b"\n")
        for line in lines:
            if line.startswith(b"data:") and not line.startswith(b"data: [DONE]"):
                yield line[5:]


def _refusal(status: int, body: bytes) -> tuple[str, str]:
    text = body.decode(errors="replace")
    try:
        parsed = msgspec.json.decode(body)
        parsed = parsed.get("error", parsed)
        text, code = str(parsed["message"]), parsed.get("code")
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        code = None
    return f"{status} {code}" if code else str(status), text[:300]
