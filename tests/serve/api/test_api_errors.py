"""Errors: status, body and headers by class, and the exceptions that both client libraries make of them."""

from __future__ import annotations

import gzip
import json
import socket
import time
from pathlib import Path
from typing import Any

import httpx
import msgspec
import openai
import pytest
from cerebras.cloud import sdk as cerebras
from scripted import HTTP, ScriptedEngine, Server, serving  # type: ignore[import-not-found]

from openwafer.base import ContextLengthError, EngineError, InputError, QueueFullError
from openwafer.serve.api import load_keys

CHAT: dict[str, Any] = {"model": "llama3.1-8b", "messages": [{"role": "user", "content": "hi"}]}
TEXT: dict[str, Any] = {"model": "llama3.1-8b", "prompt": "hi"}


def post(server: Server, body: Any, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    return HTTP.post(server.url + path, json=body, timeout=60, **more)


@pytest.mark.parametrize(
    ("change", "message", "param"),
    [
        ({"n": 0}, "n: Expected `int` >= 1", "n"),
        ({"temperature": 3}, "temperature: Expected `float` <= 2", "temperature"),
        ({"messages": []}, "messages: Expected `array` of length >= 1", "messages"),
        ({"messages": None}, "messages: Expected `array`, got `null`", "messages"),
        ({"messages": [{"role": "critic"}]}, "messages.0.role: Invalid value 'critic'", "messages.0.role"),
        ({"messages": [{"role": "tool", "content": ""}]}, "`tool_call_id`", "messages.0.tool_call_id"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "images", "messages.0.content"),
        ({"stop": list("abcde")}, "stop: Expected `array` of length <= 4", "stop"),
        ({"top_logprobs": 2}, "needs logprobs", "top_logprobs"),
        ({"logit_bias": {"foo": 1}}, "keys are token ids", "logit_bias"),
        ({"logit_bias": {"999999": 1}}, "keys are token ids", "logit_bias"),
        ({"tool_choice": "required"}, "there are no tools", "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "tools.0.function.name"),
        ({"response_format": {"type": "xml"}}, "Invalid value 'xml'", "response_format.type"),
        ({"model": 1}, "model: Expected `str`, got `int`", "model"),
        ({"seed": "x"}, "seed: Expected `int | null`, got `str`", "seed"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named(plain: Server, change: Any, message: str, param: str) -> None:
    """The flat body of a 400, as both clients read it."""
    response = post(plain, CHAT | change)

    assert response.status_code == 400
    body = response.json()
    assert body.keys() == {"message", "type", "param", "code"}
    assert body["type"] == "invalid_request_error"
    assert message in body["message"]
    assert body["param"] == param


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"suffix": "x"}, "suffix is not supported"),
        ({"prompt": []}, "at least one token"),
        ({"prompt": ""}, "at least one token"),
        ({"prompt": ["a", 1]}, "cannot be mixed"),
        ({"prompt": [1, -1]}, "-1 is no token"),
        ({"prompt": [[1], [99999]]}, "99999 is no token"),
        ({"prompt": {"a": 1}}, "prompt: Expected"),
        ({"best_of": 2, "stream": True}, "best_of cannot be streamed"),
        ({"best_of": 2, "n": 3}, "must not be less than n"),
        ({"prompt": ["a"] * 1000}, "the limit is 512"),
        ({"prompt": ["a"] * 100, "n": 100}, "more than 512 answers"),
    ],
)
def test_a_wrong_completion_is_told_why(plain: Server, change: Any, message: str) -> None:
    """Prompts have four shapes, which no schema tells apart."""
    response = post(plain, TEXT | change, "/v1/completions")

    assert response.status_code == 400
    assert message in response.json()["message"]


def test_unknown_fields_are_left_out_or_refused_by_name() -> None:
    """Lenient is the default: clients send what other servers know. Strict says what the public service says."""
    body = CHAT | {
        "store": True,
        "messages": [
            {"role": "user", "content": "a"},
            {"role": "assistant", "content": "b", "reasoning_content": "c"},
            {"role": "user", "content": [{"type": "text", "text": "d", "cache_control": {}}]},
        ],
    }
    with serving() as lenient:
        assert post(lenient, body).status_code == 200
    with serving(strict=True) as strict:
        refused = post(strict, body)
        assert post(strict, CHAT).status_code == 200

    assert refused.status_code == 400
    assert refused.json()["message"].split("\n") == [
        "messages.1.assistant.reasoning_content: "
        "property 'messages.1.assistant.reasoning_content' is unsupported",
        "messages.2.user.content.0.text.cache_control: "
        "property 'messages.2.user.content.0.text.cache_control' is unsupported",
        "store: property 'store' is unsupported",
    ]


def schema_format(**more: Any) -> Any:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], **more}
    return {"type": "json_schema", "json_schema": {"name": "N", "schema": schema, "strict": True}}


def test_strict_mode_refuses_what_the_public_service_does() -> None:
    """Mixed strict tools, parameters of no model, and answers that may not fit."""
    tools = [
        {"type": "function", "function": {"name": n, "strict": s}} for n, s in (("a", True), ("b", False))
    ]
    with serving(strict=True) as server:
        assert "mixed values for 'strict'" in post(server, CHAT | {"tools": tools}).json()["message"]
        assert post(server, CHAT | {"model_parameters": {"a": 1}}).status_code == 400
        assert post(server, CHAT | {"reasoning_effort": "high"}).status_code == 400
        assert post(server, CHAT | {"reasoning_effort": "none"}).status_code == 200
        open_schema = post(server, CHAT | {"response_format": schema_format()}).json()["message"]
        assert (
            post(server, CHAT | {"response_format": schema_format(additionalProperties=False)}).status_code
            == 200
        )
        long = post(server, CHAT | {"max_tokens": 9000}).json()["message"]
    with serving() as server:
        assert post(server, CHAT | {"response_format": schema_format()}).status_code == 200
        assert post(server, CHAT | {"reasoning_effort": "high"}).status_code == 200
        assert post(server, CHAT | {"tools": tools, "model_parameters": {"a": 1}}).status_code == 200
        assert post(server, CHAT | {"max_tokens": 9000}).status_code == 200

    assert open_schema == "'additionalProperties' is required to be supplied and set to false."
    assert long.startswith("Please reduce the length of the messages or completion. Current length is 90")
    assert long.endswith("while limit is 8192")


BODIES: list[tuple[bytes, dict[str, str], int]] = [
    (b"{", {}, 400),
    (b"[]", {}, 400),
    (b"", {}, 400),
    (b"\xff", {}, 400),
    (b'{"a": NaN}', {}, 400),
    (b"[" * 200_000, {}, 400),
    (b'{"a":' * 200 + b"1" + b"}" * 200, {}, 400),
    (b'{"model": "\\ud800"}', {}, 400),
    (msgspec.msgpack.encode({1: 2}), {"content-type": "application/msgpack"}, 400),
    (msgspec.msgpack.encode({"a": b"x"}), {"content-type": "application/msgpack"}, 400),
    (
        msgspec.msgpack.encode(CHAT | {"temperature": float("nan")}),
        {"content-type": "application/msgpack"},
        400,
    ),
    (b"\x81", {"content-type": "application/msgpack"}, 400),
    (b"\x91" * 100_000, {"content-type": "application/msgpack"}, 400),
    (b"no gzip", {"content-encoding": "gzip"}, 400),
    (gzip.compress(json.dumps(CHAT).encode())[:-9], {"content-encoding": "gzip"}, 400),
    (b"x", {"content-encoding": "br"}, 415),
]


@pytest.mark.parametrize(("content", "headers", "status"), BODIES, ids=range(len(BODIES)))
def test_a_body_that_is_none_is_refused(
    plain: Server, content: bytes, headers: dict[str, str], status: int
) -> None:
    """Never a 500, whatever the bytes."""
    response = HTTP.post(plain.url + "/v1/chat/completions", content=content, headers=headers)

    assert response.status_code == status
    assert response.json()["message"]


def test_bodies_are_bounded_before_and_after_unpacking() -> None:
    """A kilobyte of gzip can hold a megabyte of spaces; what comes out is counted while it comes."""
    with serving(max_body_bytes=100_000) as server:
        plain = HTTP.post(server.url + "/v1/chat/completions", content=b" " * 200_000)
        bomb = HTTP.post(
            server.url + "/v1/chat/completions",
            content=gzip.compress(b" " * 50_000_000),
            headers={"content-encoding": "gzip"},
        )
        fits = post(server, CHAT | {"user": "x" * 90_000})

    assert (plain.status_code, bomb.status_code, fits.status_code) == (413, 413, 200)
    assert "larger than" in bomb.json()["message"]


def test_a_body_that_never_comes_ends() -> None:
    """Connections that send nothing would otherwise be kept for ever."""
    with serving(body_timeout_s=0.2) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50\r\n\r\n{"
            )
            assert b" 408 " in connection.recv(1000).split(b"\r\n")[0] + b" "


def test_other_models_do_not_exist(plain: Server) -> None:
    """Unless the server answers to every name."""
    refused = post(plain, CHAT | {"model": "gpt-4"})

    assert refused.status_code == 404
    assert refused.json()["message"].startswith(
        "Model does not exist or you do not have access to it. This server has: llama3.1-8b, model."
    )
    assert {k: v for k, v in refused.json().items() if k != "message"} == {
        "type": "not_found_error",
        "param": "model",
        "code": "model_not_found",
    }
    with serving(any_model=True) as server:
        assert post(server, CHAT | {"model": "gpt-4"}).json()["model"] == "gpt-4"


def test_wrong_paths_and_methods_say_what_is_right(plain: Server) -> None:
    """Most come from a wrong base URL."""
    lost = HTTP.get(plain.url + "/api/v1/chat")
    wrong = HTTP.get(plain.url + "/v1/chat/completions")

    assert lost.status_code == 404
    assert f"openai {plain.url}/v1" in lost.json()["message"]
    assert wrong.status_code == 405
    assert "POST" in wrong.json()["message"]


ENGINE_ERRORS = [
    (QueueFullError("64 requests wait", 3.2), 429, openai.RateLimitError, cerebras.RateLimitError),
    (ContextLengthError("too long"), 400, openai.BadRequestError, cerebras.BadRequestError),
    (EngineError("a stage died"), 503, openai.InternalServerError, cerebras.InternalServerError),
    (RuntimeError("secret"), 500, openai.InternalServerError, cerebras.InternalServerError),
]


@pytest.mark.parametrize(("error", "status", "in_openai", "in_cerebras"), ENGINE_ERRORS)
@pytest.mark.parametrize("stream", [False, True])
def test_the_engines_errors_are_the_clients_exceptions(
    error: Exception, status: int, in_openai: Any, in_cerebras: Any, stream: bool
) -> None:
    """Before the first byte an error has its status, streamed or not; and what is ours alone stays here."""
    with serving(ScriptedEngine(refuse=error)) as server:
        response = post(server, CHAT | {"stream": stream})
        with pytest.raises(in_openai):
            openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0).chat.completions.create(
                **CHAT, stream=stream
            )
        with pytest.raises(in_cerebras):
            cerebras.Cerebras(base_url=server.url, api_key="x", max_retries=0).chat.completions.create(
                **CHAT, stream=stream
            )

    assert response.status_code == status
    assert "secret" not in response.text
    body = response.json()
    assert (body.keys() == {"status_code", "error"}) == (status >= 500)
    assert ("retry-after" in response.headers) == (status in (429, 503))


def test_an_error_in_a_stream_is_raised_by_the_clients() -> None:
    """The status is sent already; the libraries look for `error` in the data."""
    with serving(ScriptedEngine(fail_after=2)) as server:
        client = cerebras.Cerebras(base_url=server.url, api_key="x", max_retries=0)
        seen: list[str | None] = []
        chunks = client.chat.completions.create(**CHAT, stream=True)
        with pytest.raises(cerebras.InternalServerError, match="executor failed"):
            seen.extend(chunk.choices[0].delta.content for chunk in chunks)
        other = openai.OpenAI(base_url=server.url + "/v1", api_key="x", max_retries=0)
        with pytest.raises(openai.APIError, match="executor failed"):
            list(other.chat.completions.create(**CHAT, stream=True))
        whole = post(server, CHAT)

    assert seen == [None, "H", "e"]
    assert whole.status_code == 503
    assert whole.json()["error"]["message"] == "The executor failed."


def test_keys_are_needed_where_there_are_keys() -> None:
    """For what costs and for what tells; not for what warms, and for health."""
    with serving(keys=("sk-1", "sk-2")) as server:
        assert post(server, CHAT).status_code == 401
        wrong = post(server, CHAT, headers={"authorization": "Bearer sk-3"})
        right = [post(server, CHAT, headers={"authorization": f"bearer {k}"}) for k in ("sk-1", "sk-2")]
        closed = [HTTP.get(server.url + p).status_code for p in ("/v1/models", "/metrics", "/statistics")]
        opened = [HTTP.get(server.url + p).status_code for p in ("/v1/tcp_warming", "/health")]
        opened.append(HTTP.get(server.url + "/public/v1/models").status_code)
        with pytest.raises(cerebras.AuthenticationError, match="Wrong API Key"):
            cerebras.Cerebras(base_url=server.url, api_key="no").models.list()
        clients = server.engine.clients

    assert (wrong.status_code, wrong.json()["code"]) == (401, "wrong_api_key")
    assert [r.status_code for r in right] == [200, 200]
    assert (closed, opened) == ([401] * 3, [200] * 3)
    assert len(set(clients)) == 2
    assert not any("sk-" in c for c in clients), "the queue and the log know a name, not the key"


def test_pages_of_other_sites_may_not_call() -> None:
    """A page that the user visits can reach localhost; without keys it would use the model, or read its answers."""
    with serving() as server:
        host = server.url.removeprefix("http://")
        foreign = post(server, CHAT, headers={"origin": "https://evil.example"})
        own = post(server, CHAT, headers={"origin": f"http://{host}"})
        rebound = post(server, CHAT, headers={"host": "evil.example"})
    with serving(cors_origins=("https://good.example",), hosts=("box",)) as server:
        allowed = post(server, CHAT, headers={"origin": "https://good.example"})
        named = post(server, CHAT, headers={"host": "box:80"})

    assert (foreign.status_code, rebound.status_code) == (403, 403)
    assert "access-control-allow-origin" not in own.headers
    assert (own.status_code, named.status_code) == (200, 200)
    assert allowed.headers["access-control-allow-origin"] == "https://good.example"


def test_limits_are_told_always_and_enforced_where_set() -> None:
    """What was used counts, and not what a request might have used: the top complaint about the public service."""
    with serving() as server:
        free = post(server, CHAT)
    with serving(requests_per_day=2, tokens_per_minute=1000) as server:
        first = post(server, CHAT | {"max_tokens": 8000})
        second = post(server, CHAT)
        third = post(server, CHAT)
    with serving(tokens_per_minute=20) as server:
        post(server, CHAT)
        tokens = post(server, CHAT)

    assert free.headers["x-ratelimit-limit-requests-day"] == "1000000000"
    assert free.headers["x-ratelimit-remaining-tokens-minute"] == "1000000000"
    assert float(free.headers["x-ratelimit-reset-tokens-minute"]) == 0
    assert (first.status_code, second.status_code, third.status_code) == (200, 200, 429)
    assert first.headers["x-ratelimit-remaining-requests-day"] == "1"
    assert int(second.headers["x-ratelimit-remaining-tokens-minute"]) > 900
    assert third.json()["code"] == "request_quota_exceeded"
    assert int(third.headers["retry-after"]) > 1000
    assert (tokens.status_code, tokens.json()["code"]) == (429, "token_quota_exceeded")


def test_a_flexible_request_may_refuse_to_wait() -> None:
    """queue_threshold, in milliseconds, with tier flex or auto."""
    with serving(ScriptedEngine(numbers={"queue_wait_s": 2.0})) as server:

        def status(tier: str, threshold: str) -> int:
            headers = {"queue_threshold": threshold}
            return post(server, CHAT | {"service_tier": tier}, headers=headers).status_code

        assert status("flex", "1000") == 429
        assert status("flex", "3000") == 200
        assert status("default", "1000") == 200
        assert status("flex", "soon") == 400


def test_a_draining_server_says_so() -> None:
    """Load balancers look at health; clients come again later."""
    with serving() as server:
        server.app.state.accepting = False
        refused = post(server, CHAT)
        health = HTTP.get(server.url + "/health")

    assert (refused.status_code, health.status_code) == (503, 503)
    assert refused.headers["retry-after"] == "5"


def test_a_model_without_a_template_completes_and_does_not_chat() -> None:
    """Base models were never shown messages; a made-up format would answer badly without saying why."""
    with serving(template=None) as server:
        chat = post(server, CHAT)
        text = post(server, TEXT, "/v1/completions")

    assert chat.status_code == 400
    assert "use /v1/completions" in chat.json()["message"]
    assert text.status_code == 200


def test_a_templates_refusal_is_the_answer() -> None:
    """Its author knew what the model cannot take."""
    with serving(template="{{ raise_exception('roles must alternate') }}") as server:
        refused = post(server, CHAT)

    assert refused.status_code == 400
    assert "roles must alternate" in refused.json()["message"]


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    """A file that everybody can read is refused, like one that holds nothing."""
    path = tmp_path / "keys"
    path.write_text("# ours\nsk-1 # Ann\n\nsk-2\n")
    path.chmod(0o600)

    assert load_keys(path) == ("sk-1", "sk-2")
    assert load_keys(None, {"WAFER_API_KEYS": "a, b,"}) == ("a", "b")
    assert load_keys(None, {}) == ()
    path.chmod(0o644)
    with pytest.raises(InputError, match="chmod 600"):
        load_keys(path)
    path.write_text("#\n")
    path.chmod(0o600)
    with pytest.raises(InputError, match="holds no key"):
        load_keys(path)
    with pytest.raises(InputError, match="cannot be read"):
        load_keys(tmp_path / "none")


def test_a_refusal_costs_little() -> None:
    """A megabyte of wrong messages is refused while others are answered."""
    with serving() as server:
        before = time.monotonic()
        post(server, CHAT | {"messages": [{"role": "user", "content": "x"}] * 20_000 + [{"role": "critic"}]})
        assert time.monotonic() - before < 30
