"""Bodies key by key, as they were recorded from the public service."""

from __future__ import annotations

import gzip
import json
from typing import Any

import httpx
import msgspec
import pytest
from scripted import HTTP, TOKENIZER, ScriptedEngine, Server, serving  # type: ignore[import-not-found]

CHAT = {"model": "llama3.1-8b", "messages": [{"role": "user", "content": "hi"}]}
TEXT = {"model": "llama3.1-8b", "prompt": "hi"}


def post(server: Server, body: Any, path: str = "/v1/chat/completions", **more: Any) -> httpx.Response:
    return HTTP.post(server.url + path, json=body, timeout=60, **more)


def events(response: httpx.Response) -> list[Any]:
    """The data of a stream's events; they are all that a stream may have beside comments."""
    blocks = [b for b in response.text.split("\n\n") if b and not b.startswith(":")]
    assert all(b.startswith("data: ") and "\n" not in b for b in blocks)
    assert blocks[-1] == "data: [DONE]"
    return [json.loads(b.removeprefix("data: ")) for b in blocks[:-1]]


def test_a_whole_chat_has_the_recorded_keys(plain: Server) -> None:
    """Nothing is null: strict clients take a null for a value."""
    response = post(plain, CHAT)

    body = response.json()
    assert response.status_code == 200
    assert response.headers["inference-id"] == body["id"]
    assert body.keys() == {
        "id", "choices", "created", "model", "system_fingerprint", "object", "usage", "time_info",
    }  # fmt: skip
    assert body["id"].startswith("chatcmpl-")
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {"finish_reason": "stop", "index": 0, "message": {"content": "Hello.", "role": "assistant"}}
    ]
    prompt = len(TOKENIZER.encode("<|begin|><|user|>hi<|end|><|assistant|>"))
    assert body["usage"] == {
        "prompt_tokens": prompt,
        "completion_tokens": 6,
        "total_tokens": prompt + 6,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
            "reasoning_tokens": 0,
        },
    }
    times = body["time_info"]
    assert times["total_time"] >= times["queue_time"] + times["prompt_time"] + times["completion_time"] > 0
    assert abs(times["created"] - body["created"]) < 30


def test_a_streamed_chat_has_the_recorded_chunks(plain: Server) -> None:
    """A role first, then content, then the reason with usage and times on the same, last, choice."""
    response = post(plain, CHAT | {"stream": True, "stream_options": {"include_usage": True}})

    chunks = events(response)
    assert response.headers["content-type"].startswith("text/event-stream")
    assert {c["id"] for c in chunks} == {response.headers["inference-id"]}
    assert all(len(c["choices"]) == 1 for c in chunks), "clients look at choices[0] of every chunk"
    assert [c["choices"][0] for c in chunks] == [
        {"delta": {"role": "assistant"}, "index": 0},
        *({"delta": {"content": c}, "index": 0} for c in "Hello."),
        {"delta": {}, "index": 0, "finish_reason": "stop"},
    ]
    for chunk in chunks:
        assert {"id", "created", "model", "object", "system_fingerprint"} <= chunk.keys()
        assert chunk["object"] == "chat.completion.chunk"
    assert [("usage" in c, "time_info" in c) for c in chunks] == [(False, False)] * 7 + [(True, True)]


def test_several_choices_share_a_stream(plain: Server) -> None:
    """Each has its role, text and reason; usage comes once, at the very end, and counts the prompt once."""
    chunks = events(post(plain, CHAT | {"stream": True, "n": 3}))

    for index in range(3):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant"}
        assert "".join(c["delta"].get("content", "") for c in mine) == "Hello."
        assert [c.get("finish_reason") for c in mine][-1] == "stop"
    assert ["usage" in c for c in chunks].index(True) == len(chunks) - 1
    usage = post(plain, CHAT | {"n": 3}).json()["usage"]
    assert usage == chunks[-1]["usage"]
    assert usage["completion_tokens"] == 18
    assert usage["prompt_tokens"] < 60


@pytest.mark.parametrize("stream", [False, True])
def test_stop_strings_end_the_text(stream: bool) -> None:
    """And are not part of it; a limit that ends it is told from them."""
    with serving() as server:
        bodies = [
            CHAT | {"stop": "lo"},
            CHAT | {"stop": ["zzz", "."]},
            CHAT | {"max_tokens": 2},
            CHAT | {"max_completion_tokens": 1, "max_tokens": 2},
            CHAT | {"max_tokens": -1},
        ]
        results = []
        for body in bodies:
            response = post(server, body | {"stream": stream})
            if stream:
                choices = [c["choices"][0] for c in events(response)]
                text = "".join(c["delta"].get("content", "") for c in choices)
                results.append((text, choices[-1]["finish_reason"]))
            else:
                choice = response.json()["choices"][0]
                results.append((choice["message"]["content"], choice["finish_reason"]))

    assert results == [
        ("Hel", "stop"),
        ("Hello", "stop"),
        ("He", "length"),
        ("H", "length"),
        ("Hello.", "stop"),
    ]


def test_every_field_reaches_the_engine(plain: Server) -> None:
    """What a client sets is what the engine is asked."""
    body = CHAT | {
        "temperature": 0,
        "top_p": 0.5,
        "frequency_penalty": 1,
        "presence_penalty": -1,
        "logit_bias": {"5": -100},
        "seed": -1,
        "stop": ["a", ""],
        "n": 2,
        "min_tokens": 3,
        "max_tokens": 10,
        "logprobs": True,
        "top_logprobs": 4,
        "prediction": {"type": "content", "content": [{"type": "text", "text": "ab"}]},
        "service_tier": "priority",
        "user": "me",
        "prompt_cache_key": "k",
    }
    reply = post(plain, body).json()

    request = plain.engine.requests[-1]
    s = request.sampling
    assert (s.temperature, s.top_p, s.frequency_penalty, s.presence_penalty) == (0, 0.5, 1, -1)
    assert s.logit_bias == {5: -100}
    assert s.seed == 2**63 - 1
    assert (request.stop, request.n, request.min_tokens, request.max_tokens) == (("a",), 2, 3, 10)
    assert request.logprobs == 4
    assert TOKENIZER.decode(request.prediction) == "ab"
    assert request.tier == "priority"
    assert reply["service_tier"] == "priority"
    assert "service_tier_used" not in reply
    assert post(plain, CHAT | {"service_tier": "auto"}).json()["service_tier_used"] == "default"


def test_probabilities_are_those_of_each_token(plain: Server) -> None:
    """Also in streams, where each comes once."""
    body = CHAT | {"logprobs": True, "top_logprobs": 2}
    whole = post(plain, body).json()["choices"][0]["logprobs"]["content"]
    streamed = [
        t
        for c in events(post(plain, body | {"stream": True}))
        for t in c["choices"][0].get("logprobs", {"content": []})["content"]
    ]

    assert whole == streamed
    assert [t["token"] for t in whole] == list("Hello.")
    assert whole[0]["bytes"] == [ord("H")]
    assert [t["logprob"] for t in whole[0]["top_logprobs"]] == [-0.5, -1.5]
    assert "logprobs" not in post(plain, CHAT).json()["choices"][0]


def test_messages_of_every_kind_reach_the_template(plain: Server) -> None:
    """Parts are joined, developers are the system, thoughts come back under either name."""
    messages = [
        {
            "role": "developer",
            "content": [{"type": "text", "text": "be"}, {"type": "text", "text": " brief"}],
        },
        {"role": "user", "content": "a", "name": "Ann"},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "hm",
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "2"},
    ]
    assert post(plain, CHAT | {"messages": messages}).status_code == 200

    text = "".join(TOKENIZER.token_bytes(t).decode() for t in plain.engine.requests[-1].prompt)
    assert text == (
        "<|begin|><|system|>be brief<|end|><|user|>a<|end|>"
        '<|assistant|>call f {"x": 1}thought hm<|end|><|tool|>2<|end|><|assistant|>'
    )


TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'


@pytest.mark.parametrize("stream", [False, True])
def test_a_call_is_one_complete_delta_and_no_content(stream: bool) -> None:
    """Fragments followed by the whole, as once sent, doubled arguments in every accumulator."""
    with serving(ScriptedEngine(say=lambda r, c: CALL + "\n" + CALL + " and")) as server:
        response = post(server, CHAT | {"tools": [TOOL], "stream": stream})
        single = post(server, CHAT | {"tools": [TOOL], "parallel_tool_calls": False}).json()

    if stream:
        chunks = [c["choices"][0] for c in events(response)]
        deltas = [c["delta"] for c in chunks]
        assert not any("content" in d for d in deltas)
        calls = [c for d in deltas for c in d.get("tool_calls", ())]
        assert [c.pop("index") for c in calls] == [0, 1]
        finish = chunks[-1]["finish_reason"]
    else:
        message = response.json()["choices"][0]["message"]
        assert message.keys() == {"role", "tool_calls"}
        calls, finish = message["tool_calls"], response.json()["choices"][0]["finish_reason"]
    assert finish == "tool_calls"
    assert len({c["id"] for c in calls}) == 2
    assert all(len(c["id"]) == 9 and int(c["id"], 16) >= 0 for c in calls)
    assert [c["function"] for c in calls] == [{"name": "weather", "arguments": '{"city": "Rome"}'}] * 2
    assert len(single["choices"][0]["message"]["tool_calls"]) == 1


def test_tool_choice_decides_what_the_model_may_do(plain: Server) -> None:
    """none hides the tools, required and a name force a call by grammar, auto leaves it to the model."""
    other = {"type": "function", "function": {"name": "time"}}
    both = CHAT | {"tools": [TOOL, other]}

    def asked(**more: Any) -> tuple[str, Any]:
        assert post(plain, both | more).status_code == 200
        request = plain.engine.requests[-1]
        text = "".join(TOKENIZER.token_bytes(t).decode() for t in request.prompt)
        return text, request.grammar

    text, grammar = asked()
    assert "tools" in text
    assert grammar is None
    text, grammar = asked(tool_choice="none")
    assert "tools" not in text
    text, grammar = asked(tool_choice="required")
    assert text.endswith("<|assistant|><tool_call>\n")
    assert grammar.kind == "lark"
    assert "weather" in grammar.text
    assert "time" in grammar.text
    text, grammar = asked(tool_choice={"type": "function", "function": {"name": "time"}})
    assert "weather" in text
    assert "weather" not in grammar.text


def test_a_forced_call_is_read_without_its_opening() -> None:
    """The prompt ended with it, so the answer begins behind it."""
    say = '{"name": "weather", "arguments": {}}'
    with serving(ScriptedEngine(say=lambda r, c: say)) as server:
        reply = post(server, CHAT | {"tools": [TOOL], "tool_choice": "required"}).json()

    assert reply["choices"][0]["message"]["tool_calls"][0]["function"]["name"] == "weather"


def test_response_formats_are_grammars(plain: Server) -> None:
    """And the model is told the schema, so that descriptions in it help."""
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"type": "json_schema", "json_schema": {"name": "N", "schema": schema, "strict": True}}

    assert post(plain, CHAT | {"response_format": {"type": "json_object"}}).status_code == 200
    free = plain.engine.requests[-1].grammar
    assert post(plain, CHAT | {"response_format": form}).status_code == 200
    bound = plain.engine.requests[-1]
    assert post(plain, CHAT | {"response_format": form, "tools": [TOOL]}).status_code == 200
    either = plain.engine.requests[-1].grammar

    assert free is not None
    assert (free.kind, json.loads(free.text)["type"]) == ("json_schema", "object")
    assert bound.grammar is not None
    assert json.loads(bound.grammar.text)["properties"] == {"a": {"type": "integer"}}
    assert "integer" in "".join(TOKENIZER.token_bytes(t).decode() for t in bound.prompt)
    assert either is not None
    assert either.kind == "lark"


def test_a_schema_that_cannot_be_enforced_is_refused_only_if_strict(plain: Server) -> None:
    """Not strict means a guide; strict is a promise."""
    schema = {"type": "string", "format": "telegram"}

    def status(strict: bool) -> httpx.Response:
        form = {"type": "json_schema", "json_schema": {"name": "N", "schema": schema, "strict": strict}}
        return post(plain, CHAT | {"response_format": form})

    assert status(False).status_code == 200
    refused = status(True)
    assert refused.status_code == 400
    assert "telegram" in refused.json()["message"]


THINKING = "{% for m in messages %}{{ m.content }}{% endfor %}{% if enable_thinking is defined %}no{% endif %}<think>"


@pytest.mark.parametrize(
    ("form", "reasoning", "content"),
    [(None, "why", "so"), ("parsed", "why", "so"), ("hidden", None, "so"), ("raw", None, "why</think>so")],
)
def test_thoughts_go_where_the_request_says(form: str | None, reasoning: str | None, content: str) -> None:
    """Templates of reasoning models begin the thought in the prompt."""
    with serving(ScriptedEngine(say=lambda r, c: "why</think>so"), template=THINKING) as server:
        body = CHAT | {"reasoning_format": form}
        reply = post(server, body).json()
        chunks = [c["choices"][0]["delta"] for c in events(post(server, body | {"stream": True}))]

    message = reply["choices"][0]["message"]
    assert message.get("reasoning") == reasoning
    assert message["content"] == content
    assert "".join(d.get("reasoning", "") for d in chunks) == (reasoning or "")
    assert "".join(d.get("content", "") for d in chunks) == content
    if form != "raw":
        assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] == len("why</think>")


def test_a_grammar_leaves_no_room_for_thoughts() -> None:
    """It begins with the first token, so the thought that the template begins ends at once."""
    with serving(ScriptedEngine(say=lambda r, c: "{}"), template=THINKING) as server:
        reply = post(server, CHAT | {"response_format": {"type": "json_object"}}).json()
        text = TOKENIZER.decode(server.engine.requests[-1].prompt)

    assert text == "hino<think>\n\n</think>\n\n"
    assert reply["choices"][0]["message"]["content"] == "{}"


def test_a_completion_has_the_recorded_keys(plain: Server) -> None:
    """Whole and in chunks: both are text_completion objects."""
    body = post(plain, TEXT, "/v1/completions").json()
    chunks = events(post(plain, TEXT | {"stream": True}, "/v1/completions"))

    assert body["object"] == "text_completion"
    assert body["choices"] == [{"index": 0, "text": "Hello.", "finish_reason": "stop"}]
    assert all(c["object"] == "text_completion" for c in chunks)
    assert "".join(c["choices"][0]["text"] for c in chunks) == "Hello."
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["usage"] == body["usage"]


def test_prompts_may_be_texts_or_tokens(plain: Server) -> None:
    """Several prompts give choices prompt by prompt, and one usage."""
    with serving(ScriptedEngine(say=lambda r, c: TOKENIZER.decode(r.prompt) + str(c))) as server:

        def texts(**body: Any) -> list[str]:
            reply = post(server, TEXT | body, "/v1/completions").json()
            assert [c["index"] for c in reply["choices"]] == list(range(len(reply["choices"])))
            return [c["text"] for c in reply["choices"]]

        assert texts(prompt=["a", "b"], n=2) == ["a0", "a1", "b0", "b1"]
        assert texts(prompt=TOKENIZER.encode("x")) == ["x0"]
        assert texts(prompt=[TOKENIZER.encode("x"), TOKENIZER.encode("y")]) == ["x0", "y0"]
        chunks = events(post(server, TEXT | {"prompt": ["a", "b"], "stream": True}, "/v1/completions"))

    for index, text in enumerate(["a0", "b0"]):
        mine = [c["choices"][0] for c in chunks if c["choices"][0]["index"] == index]
        assert "".join(c["text"] for c in mine) == text
    assert sum("usage" in c for c in chunks) == 1
    assert "usage" in chunks[-1]


def test_completions_echo_count_and_choose(plain: Server) -> None:
    """echo, logprobs of the old format, raw tokens, best_of."""
    echoed = post(plain, TEXT | {"echo": True}, "/v1/completions").json()["choices"][0]
    raw = post(plain, TEXT | {"return_raw_tokens": True}, "/v1/completions").json()["choices"][0]
    best = post(plain, TEXT | {"best_of": 3, "n": 2}, "/v1/completions").json()["choices"]
    old = post(plain, TEXT | {"logprobs": 2}, "/v1/completions").json()["choices"][0]["logprobs"]
    scored = post(plain, TEXT | {"logprobs": 0, "echo": True}, "/v1/completions").json()["choices"][0][
        "logprobs"
    ]

    assert echoed["text"] == "hiHello."
    assert raw == {"index": 0, "tokens": TOKENIZER.encode("Hello."), "finish_reason": "stop"}
    assert [c["index"] for c in best] == [0, 1]
    assert plain.engine.requests[-3].n == 3
    assert old["tokens"] == list("Hello.")
    assert old["token_logprobs"] == [-0.5] * 6
    assert old["text_offset"] == list(range(6))
    assert len(old["top_logprobs"][0]) == 2
    assert scored["tokens"] == list("hiHello.")
    assert scored["token_logprobs"] == [None, -1.0, *[-0.5] * 6]
    assert "top_logprobs" not in scored


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/v1/chat/completions", "/chat/completions"])
def test_every_spelling_of_the_base_url_works(plain: Server, path: str) -> None:
    """cerebras_cloud_sdk adds /v1 itself and openai does not; users guess."""
    assert post(plain, CHAT, path).status_code == 200


@pytest.mark.parametrize("kind", ["application/vnd.msgpack", "application/msgpack"])
@pytest.mark.parametrize("packed", [False, True])
def test_bodies_may_be_messagepack_and_gzip(plain: Server, kind: str, packed: bool) -> None:
    """livekit sends both by default."""
    data = msgspec.msgpack.encode(CHAT)
    headers = {"content-type": kind} | ({"content-encoding": "gzip"} if packed else {})
    content = gzip.compress(data[:9]) + gzip.compress(data[9:]) if packed else data

    response = HTTP.post(plain.url + "/v1/chat/completions", content=content, headers=headers)

    assert response.json()["choices"][0]["message"]["content"] == "Hello."


def test_models_come_in_every_format(plain: Server) -> None:
    """The SDK tells the formats apart by the fields that each must have."""
    get = lambda path: HTTP.get(plain.url + path)  # noqa: E731

    assert get("/v1/models").json() == {
        "object": "list",
        "data": [
            {"id": name, "object": "model", "created": 0, "owned_by": "openwafer"}
            for name in ("llama3.1-8b", "model")
        ],
    }
    router = get("/v1/models?format=openrouter").json()["data"][0]
    assert {"id", "name", "created", "context_length", "max_output_length", "pricing"} <= router.keys()
    hub = get("/v1/models/llama3.1-8b?format=huggingface").json()
    assert {"id", "created", "owned_by", "context_length", "pricing"} <= hub.keys()
    assert get("/public/v1/models/model").json()["limits"]["max_context_length"] == 8192
    assert get("/public/v1/models").json()["data"][0]["architecture"]["modality"] == "text"
    assert get("/v1/models/other").status_code == 404
    assert get("/v1/models?format=zork").status_code == 400


def test_small_routes(plain: Server) -> None:
    """What operators and clients ask beside answers."""
    post(plain, CHAT)
    assert HTTP.get(plain.url + "/v1/tcp_warming").status_code == 200
    assert HTTP.get(plain.url + "/health").json() == {"status": "ok", "model": "llama3.1-8b"}
    metrics = HTTP.get(plain.url + "/metrics").text
    assert 'wafer_requests_total{endpoint="chat",status="200"}' in metrics
    assert "wafer_engine_running 1.0" in metrics
    assert "wafer_first_token_seconds_bucket" in metrics
    document = HTTP.get(plain.url + "/openapi.json").json()
    assert document["openapi"] == "3.1.0"
    chat = document["components"]["schemas"]["ChatRequest"]
    assert chat["additionalProperties"] is False
    assert chat["properties"]["temperature"]["anyOf"][0]["maximum"] == 2
