"""The interface over the real engine, on a small model with random weights: what scripts cannot pretend."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from cerebras.cloud import sdk as cerebras
from scripted import HTTP, running  # type: ignore[import-not-found]

from openwafer.serve.api import Settings, make_app
from openwafer.serve.engine import Engine, Limits
from openwafer.serve.executors import open_executor
from openwafer.serve.model import make_demo
from openwafer.serve.text import ChatTemplate, Tokenizer

CHAT: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Say something."}],
    "temperature": 0,
    "max_tokens": 24,
}
TEXT: dict[str, Any] = {"model": "demo", "prompt": "Once upon", "temperature": 0, "max_tokens": 24}


@dataclass
class Demo:
    """A server over the demo model."""

    url: str
    engine: Engine
    tokenizer: Tokenizer

    def chat(self, **change: Any) -> Any:
        response = HTTP.post(self.url + "/v1/chat/completions", json=CHAT | change, timeout=120)
        assert response.status_code == 200, response.text
        return response.json()

    def text(self, **change: Any) -> Any:
        response = HTTP.post(self.url + "/v1/completions", json=TEXT | change, timeout=120)
        assert response.status_code == 200, response.text
        return response.json()


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Two layers, in float32, so that greedy answers do not hang on a rounding."""
    folder: Path = make_demo(tmp_path_factory.mktemp("demo"), seed=1, layers=2, hidden=64)
    tokenizer = Tokenizer.load(folder)
    executor = open_executor(folder, dtype="fp32", device="cpu", blocks=64)
    engine = Engine(executor, tokenizer, limits=Limits(waiting=8, running=4))
    settings = Settings(model="demo", context_tokens=engine.context_tokens)
    try:
        app = make_app(engine, tokenizer, ChatTemplate.load(folder, tokenizer), settings)
        with running(app) as url:
            yield Demo(url, engine, tokenizer)
    finally:
        engine.stop()


def test_whole_and_streamed_answers_are_one(demo: Demo) -> None:
    """Both clients, chats and completions: greedy answers are the same however they come."""
    whole = demo.chat()["choices"][0]["message"]["content"]
    ours = cerebras.Cerebras(base_url=demo.url, api_key="x").chat.completions.create(**CHAT, stream=True)
    theirs = openai.OpenAI(base_url=demo.url + "/v1", api_key="x").chat.completions.create(
        **CHAT, stream=True
    )

    assert len(whole) > 3
    assert "".join(c.choices[0].delta.content or "" for c in ours) == whole
    assert "".join(c.choices[0].delta.content or "" for c in theirs) == whole


def test_usage_and_times_are_the_engines(demo: Demo) -> None:
    """A prompt that came before is cached by whole blocks."""
    long = [{"role": "user", "content": "x" * 300}]
    first, second = demo.chat(messages=long), demo.chat(messages=long)

    usage = second["usage"]
    assert usage["completion_tokens"] == 24
    assert usage["total_tokens"] == usage["prompt_tokens"] + 24
    assert usage["prompt_tokens_details"]["cached_tokens"] == usage["prompt_tokens"] // 128 * 128 > 0
    assert first["choices"] == second["choices"]
    assert second["time_info"]["completion_time"] > 0


def test_a_forced_call_is_valid(demo: Demo) -> None:
    """Even from a model without sense: the grammar sees to it, whole and streamed."""
    parameters = {
        "type": "object",
        "properties": {"unit": {"enum": ["C", "F"]}, "city": {"$ref": "#/$defs/City"}},
        "required": ["unit", "city"],
        "additionalProperties": False,
        "$defs": {"City": {"enum": ["Rome", "Bern"]}},
    }
    tool: Any = {"type": "function", "function": {"name": "weather", "parameters": parameters}}
    more: Any = {"tools": [tool], "tool_choice": "required", "parallel_tool_calls": False, "max_tokens": 200}

    message = demo.chat(**more)["choices"][0]["message"]
    client = openai.OpenAI(base_url=demo.url + "/v1", api_key="x")
    with client.chat.completions.stream(**(CHAT | more)) as stream:
        final = stream.get_final_completion().choices[0]

    assert "content" not in message
    call = message["tool_calls"][0]["function"]
    arguments = json.loads(call["arguments"])
    assert call["name"] == "weather"
    assert (arguments["unit"] in "CF", arguments["city"] in ("Rome", "Bern")) == (True, True)
    assert final.finish_reason == "tool_calls"
    assert final.message.tool_calls[0].function.arguments == call["arguments"]


def test_a_schema_is_kept(demo: Demo) -> None:
    """Strict schemas hold token by token."""
    schema = {
        "type": "object",
        "properties": {"a": {"enum": [1, 2]}, "b": {"type": "array", "items": {"type": "boolean"}, "minItems": 2, "maxItems": 3}},
        "required": ["a", "b"],
        "additionalProperties": False,
    }  # fmt: skip
    form = {"type": "json_schema", "json_schema": {"name": "N", "schema": schema, "strict": True}}

    for temperature in (0, 2):
        reply = demo.chat(response_format=form, temperature=temperature, seed=3, max_tokens=200)
        value = json.loads(reply["choices"][0]["message"]["content"])
        assert value["a"] in (1, 2)
        assert 2 <= len(value["b"]) <= 3
        assert reply["choices"][0]["finish_reason"] == "stop"


def test_a_grammar_that_outgrows_its_bounds_is_the_requests_fault(demo: Demo) -> None:
    """A client that got a 5xx would send it again, and again in vain."""
    form = {
        "type": "json_schema",
        "json_schema": {
            "name": "N",
            "schema": {"type": "string", "pattern": "^(a{1000}){1000}$"},
            "strict": True,
        },
    }
    response = HTTP.post(
        demo.url + "/v1/chat/completions", json=CHAT | {"response_format": form}, timeout=120
    )

    assert response.status_code == 400
    assert "grammar" in response.json()["message"]
    assert "\n" not in response.json()["message"]


def test_prompts_are_scored(demo: Demo) -> None:
    """echo with no new token: the probabilities of the prompt, as evaluation harnesses ask for them."""
    reply = demo.text(echo=True, logprobs=2, max_tokens=0)
    choice = reply["choices"][0]
    longer = demo.text(echo=True, logprobs=2, max_tokens=3)["choices"][0]

    assert choice["text"].endswith("Once upon")
    logprobs = choice["logprobs"]
    assert logprobs["token_logprobs"][0] is None
    assert all(p < 0 for p in logprobs["token_logprobs"][1:])
    assert "".join(logprobs["tokens"]).endswith("Once upon")
    assert longer["logprobs"]["token_logprobs"][: len(logprobs["tokens"])] == pytest.approx(
        logprobs["token_logprobs"], abs=1e-4
    )
    assert len(longer["logprobs"]["tokens"]) == len(logprobs["tokens"]) + 3
    assert choice["finish_reason"] == "length"


def test_probabilities_of_a_greedy_answer_lead_their_alternatives(demo: Demo) -> None:
    """The most likely token was chosen, so it is the first of the alternatives."""
    content = demo.chat(logprobs=True, top_logprobs=3)["choices"][0]["logprobs"]["content"]

    assert len(content) == 24
    for token in content:
        assert token["top_logprobs"][0]["logprob"] == pytest.approx(token["logprob"], abs=1e-5)
        assert len(token["top_logprobs"]) == 3


def test_a_prediction_changes_nothing_but_the_count(demo: Demo) -> None:
    """A right one is accepted; a wrong one costs a little."""
    plain = demo.chat()
    text = plain["choices"][0]["message"]["content"]
    right = demo.chat(prediction={"type": "content", "content": text})
    wrong = demo.chat(prediction={"type": "content", "content": "entirely different"})

    for reply in (right, wrong):
        assert reply["choices"][0]["message"]["content"] == text
    assert right["usage"]["completion_tokens_details"]["accepted_prediction_tokens"] > 0


def test_seeds_repeat_and_choices_differ(demo: Demo) -> None:
    """The same seed, the same choices; two choices of one request are two draws."""
    hot = {"temperature": 1.5, "seed": 5, "n": 2}
    first, second = demo.chat(**hot), demo.chat(**hot)

    texts = [c["message"]["content"] for c in first["choices"]]
    assert texts == [c["message"]["content"] for c in second["choices"]]
    assert texts[0] != texts[1]


def test_a_full_queue_is_a_429_and_nobody_is_lost(demo: Demo) -> None:
    """Eight may wait and four run: of forty at once some are told to come again, and all others are answered."""

    def ask(i: int) -> tuple[int, str]:
        body = CHAT | {"messages": [{"role": "user", "content": f"{i}" * 50}], "max_tokens": 100}
        response = HTTP.post(demo.url + "/v1/chat/completions", json=body, timeout=120)
        return response.status_code, response.headers.get("retry-after", "")

    with ThreadPoolExecutor(40) as threads:
        replies = list(threads.map(ask, range(40)))

    assert {status for status, _ in replies} <= {200, 429}
    assert [status for status, _ in replies].count(200) >= 8
    assert all(int(wait) >= 1 for status, wait in replies if status == 429)
    until = time.monotonic() + 60
    while (now := demo.engine.statistics()).running or now.waiting:
        assert time.monotonic() < until, "an answer that is complete still has its place"
        time.sleep(0.01)


def test_what_does_not_fit_is_told_and_what_may_be_shorter_is(demo: Demo) -> None:
    """A prompt that leaves no room is refused with both lengths; a limit beyond the room ends where the room ends."""
    limit = demo.engine.context_tokens
    refused = HTTP.post(
        demo.url + "/v1/completions", json=TEXT | {"prompt": [1] * limit, "max_tokens": 5}, timeout=120
    )
    fits = demo.text(prompt=[40] * (limit - 3), max_tokens=1000)

    assert refused.status_code == 400
    assert f"Current length is {limit + 1} while limit is {limit}" in refused.json()["message"]
    assert fits["usage"]["completion_tokens"] <= 3


def test_metrics_have_the_engines_numbers(demo: Demo) -> None:
    """For the load page and for Prometheus."""
    demo.chat()
    text = HTTP.get(demo.url + "/metrics").text
    numbers = HTTP.get(demo.url + "/statistics").json()

    assert "wafer_engine_blocks " in text
    assert "wafer_engine_tokens_per_s " in text
    assert numbers["blocks"] == 64
    assert numbers["requests"] == []
    assert len(numbers["stages_busy_s"]) == 1
    assert 0 < numbers["stages_busy_s"][0] <= numbers["executor_s_total"]
