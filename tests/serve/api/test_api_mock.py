"""Mock mode: for test suites of clients, which send every field and mean none."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from scripted import HTTP, Server, serving  # type: ignore[import-not-found]

CHAT: dict[str, Any] = {"model": "any", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture(scope="module")
def mock() -> Iterator[Server]:
    """A server that refuses no field."""
    with serving(mock=True) as server:
        yield server


def post(server: Server, body: Any, path: str = "/v1/chat/completions") -> Any:
    return HTTP.post(server.url + path, json=body)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"model": "any"},
        CHAT | {"n": 0, "max_tokens": 0, "logit_bias": {"foo": 0}, "temperature": 9},
        CHAT | {"messages": [{"role": "nobody"}]},
        CHAT | {"tools": [{"type": "type", "function": {"name": "name"}}], "tool_choice": "required"},
        CHAT | {"messages": [{"role": "user", "content": "long" * 9000}]},
    ],
)
def test_a_chat_without_meaning_is_answered(mock: Server, body: Any) -> None:
    """What is missing is filled in, what is wrong is left out, and the rest counts."""
    response = post(mock, body)

    assert response.status_code == 200
    assert response.json()["choices"][0]["message"]["role"] == "assistant"


def test_a_completion_without_meaning_is_answered(mock: Server) -> None:
    """The same for the other path, and for models of any name."""
    body = {"prompt": [], "suffix": "s", "best_of": 0, "n": 0, "logprobs": 99, "max_tokens": 2}

    response = post(mock, body, "/v1/completions")

    assert response.status_code == 200
    assert response.json()["choices"][0]["text"] == "He"
    assert HTTP.get(mock.url + "/v1/models/whatever").status_code == 200


def test_what_is_right_in_a_request_still_holds(mock: Server) -> None:
    """A mock that ignored everything would hide what a client sends wrongly."""
    response = post(mock, CHAT | {"n": 2, "max_tokens": 3, "temperature": 9})

    choices = response.json()["choices"]
    assert [choice["message"]["content"] for choice in choices] == ["Hel", "Hel"]
    assert mock.engine.requests[-1].sampling.temperature == 1.0


def test_a_body_that_is_none_is_refused_in_mock_mode_too(mock: Server) -> None:
    """There is no field to leave out."""
    assert post(mock, [1, 2]).status_code == 400
    assert HTTP.post(mock.url + "/v1/chat/completions", content=b"{").status_code == 400
