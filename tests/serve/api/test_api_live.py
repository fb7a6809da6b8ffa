"""Answers that take long: signs of life, errors after them, and clients that go away."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import httpx
import openai
import pytest
from cerebras.cloud import sdk as cerebras
from scripted import HTTP, ScriptedEngine, Server, serving  # type: ignore[import-not-found]

CHAT: dict[str, Any] = {"model": "llama3.1-8b", "messages": [{"role": "user", "content": "hi"}]}


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it becomes true within a minute."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.01)
    return False


def post(server: Server, body: Any, **more: Any) -> httpx.Response:
    return HTTP.post(server.url + "/v1/chat/completions", json=body, timeout=60, **more)


def test_a_long_answer_shows_life_with_spaces() -> None:
    """The clients give up after a minute of silence and send the request twice more; JSON may begin with spaces."""
    with serving(ScriptedEngine(first_s=1.0), heartbeat_s=0.1) as server:
        response = post(server, CHAT)

    assert response.text.startswith("  ")
    assert response.headers["content-type"] == "application/json"
    assert response.json()["choices"][0]["message"]["content"] == "Hello."


def test_a_slow_stream_shows_life_with_comments() -> None:
    """Every decoder of events leaves comments out."""
    with serving(ScriptedEngine(first_s=1.0), heartbeat_s=0.1) as server:
        response = post(server, CHAT | {"stream": True})
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0)
        chunks = list(client.chat.completions.create(**CHAT, stream=True))

    assert response.text.startswith(": ping\n\n: ping\n\n")
    assert "event:" not in response.text
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "Hello."


def test_signs_of_life_come_within_the_clients_patience() -> None:
    """The clients say how long they wait for a byte."""
    with serving(ScriptedEngine(first_s=1.5), heartbeat_s=60) as server:
        response = post(server, CHAT, headers={"x-stainless-read-timeout": "0.6"})

    assert response.text.startswith(" ")


def test_an_error_after_signs_of_life_is_still_raised() -> None:
    """The status is sent; cerebras_cloud_sdk reads the one in the body."""
    with serving(ScriptedEngine(first_s=1.0, fail_after=0), heartbeat_s=0.1) as server:
        late = post(server, CHAT)
        client = cerebras.Cerebras(base_url=server.url, api_key="x", max_retries=0)
        parsed = client.chat.completions.create(**CHAT)

    assert late.status_code == 200
    assert late.json()["status_code"] == 503
    assert isinstance(parsed.model_dump()["error"]["message"], str)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("when", ["before", "while"])
def test_a_client_that_goes_away_frees_its_place(stream: bool, when: str) -> None:
    """Before its first token and in the middle; a retry would otherwise run beside what nobody reads."""
    engine = ScriptedEngine(
        say=lambda r, c: "x" * 10_000,
        first_s=300.0 if when == "before" else 0.0,
        token_s=0.01,
    )
    with serving(engine) as server:
        host, port = server.url.removeprefix("http://").split(":")
        body = json.dumps(CHAT | {"stream": stream}).encode()
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            assert eventually(lambda: len(engine.requests) == 1)
            if stream and when == "while":
                assert connection.recv(100)
        assert eventually(lambda: engine.cancelled == [engine.requests[0].id])
        metrics = HTTP.get(server.url + "/metrics").text

    assert 'status="499"' in metrics


def test_an_answer_that_is_complete_is_not_cancelled() -> None:
    """Cancelling is for what still runs."""
    with serving() as server:
        post(server, CHAT)
        post(server, CHAT | {"stream": True})
        post(server, CHAT | {"n": 3})

        assert server.engine.cancelled == []


def test_a_refused_prompt_takes_its_siblings_along() -> None:
    """Of several prompts one may find the queue full; the others' answers would have nobody to read them."""

    class Half(ScriptedEngine):
        def submit(self, request: Any, client: str = "") -> Any:
            if len(self.requests) == 1:
                raise openwafer_error
            return super().submit(request, client)

    from openwafer.base import QueueFullError

    openwafer_error = QueueFullError("full", 1)
    with serving(Half()) as server:
        response = HTTP.post(
            server.url + "/v1/completions", json={"model": "model", "prompt": ["a", "b"]}, timeout=60
        )

        assert response.status_code == 429
        assert server.engine.cancelled == [server.engine.requests[0].id]


def test_a_failing_choice_ends_the_others() -> None:
    """An error is the answer's, not one choice's."""
    with serving(ScriptedEngine(fail_after=3, token_s=0.001)) as server:
        response = HTTP.post(
            server.url + "/v1/completions", json={"model": "model", "prompt": ["a", "b"]}, timeout=60
        )

        assert response.status_code == 503
        assert eventually(lambda: len(server.engine.cancelled) == 2)
