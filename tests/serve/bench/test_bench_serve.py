"""`wafer bench serve`: what is counted, what is told of failures, and what is left after Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from openwafer.base import EngineError, InputError, StorageError, WaferError
from openwafer.cli._app import app
from openwafer.serve.bench import LoadPlan, LoadReport, measure_load, read_chats
from openwafer.serve.bench._client import Sample
from openwafer.serve.bench._prompts import Fit, RandomText
from openwafer.serve.bench._report import Level, write_whole
from openwafer.serve.model import make_demo
from openwafer.serve.service import Service, ServiceConfig

Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]
SMALL = LoadPlan(concurrency=(1, 2), requests=4, answer_tokens=3)


@contextmanager
def scripted(answer: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that answers the warming up as it should and every request after it by `answer`; what it was asked."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            reply(self, 200, {"data": [{"id": "scripted"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            asked.append(body)
            (whole if len(asked) <= 3 else answer)(self, body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def reply(handler: BaseHTTPRequestHandler, status: int, value: Any) -> None:
    data = json.dumps(value).encode()
    handler.send_response(status)
    handler.send_header("content-length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def stream(handler: BaseHTTPRequestHandler, *events: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    for event in events:
        handler.wfile.write(b"data: " + json.dumps(event).encode() + b"\n\n")


def part(text: str, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"delta": {"content": text}, "finish_reason": finish}]}


def whole(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
    """An answer of as many tokens as were asked for, one in each chunk; a token of the prompt is two characters."""
    tokens = body["max_completion_tokens"]
    prompt = 7 + len(body["messages"][0]["content"]) // 2
    last = part("", "stop") | {"usage": {"prompt_tokens": prompt, "completion_tokens": tokens}}
    stream(handler, *[part("x")] * tokens, last)


def test_levels_are_asked_one_after_another_and_counted() -> None:
    """So many requests, so many tokens; and prompts of the length that was wanted, in the server's own tokens."""
    seen = []

    with scripted(whole) as (url, asked):
        report = measure_load(url, SMALL, ended=lambda report: seen.append(len(report.levels)))

    assert seen == [1, 2]
    assert [level.concurrency for level in report.levels] == [1, 2]
    for level in report.levels:
        assert (level.requests, level.failed, level.answer_tokens) == (4, 0, 12)
        assert level.prompt_tokens == pytest.approx(128, abs=1)
        assert level.tokens_per_s == pytest.approx(12 / level.seconds)
    texts = [body["messages"][0]["content"] for body in asked]
    assert len(set(texts)) == len(texts), "a prompt that came twice would be found in the server's cache"
    assert all(body["min_completion_tokens"] == 3 for body in asked[2:])


def test_times_are_those_that_a_client_sees() -> None:
    """A server that thinks before its first token and before each other one shows both, and no more can be told apart."""

    def slow(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        time.sleep(0.2)
        stream(handler, part("x"))
        for text in ("y", "z"):
            handler.wfile.flush()
            time.sleep(0.2)
            handler.wfile.write(b"data: " + json.dumps(part(text, "stop")).encode() + b"\n\n")

    with scripted(slow) as (url, _):
        level = measure_load(url, LoadPlan(concurrency=(1,), requests=2, answer_tokens=3)).levels[0]

    assert level.answer_tokens == 6, "without usage the chunks are counted"
    assert level.prompt_tokens is None
    assert level.first_token_s["p50"] >= 0.2
    assert level.each_token_s["p50"] >= 0.1, "half of what the server waits: the first part may be seen late"
    assert level.whole_s["p50"] >= level.first_token_s["p50"] + 2 * level.each_token_s["p50"] - 1e-6


def test_failures_are_told_by_kind_and_the_rest_is_measured() -> None:
    """Under load some requests fail. How many and why is a result too."""
    kinds = iter("rbehrbehwwww")

    def answer(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        match next(kinds):
            case "r":
                reply(handler, 429, {"message": "The queue is full.", "code": "queue_exceeded"})
            case "b":
                handler.send_response(200)
                handler.send_header("content-length", "5000")
                handler.end_headers()
                handler.wfile.write(b"data: " + json.dumps(part("x")).encode() + b"\n\n")
            case "e":
                stream(handler, part("x"), {"error": {"message": "the executor failed"}})
            case "h":
                stream(handler, part("x"))
            case "w":
                whole(handler, body)

    with scripted(answer) as (url, _):
        report = measure_load(url, LoadPlan(concurrency=(2,), requests=12, answer_tokens=3))

    (level,) = report.levels
    assert level.errors == {
        "429 queue_exceeded": 2, "broken connection": 2, "error in the stream": 2, "half an answer": 2
    }  # fmt: skip
    assert (level.failed, level.answer_tokens) == (8, 12)
    assert "2 clients: 2 requests failed: 429 queue_exceeded" in report.remarks()
    assert not report.failure


def test_a_level_without_any_answer_is_the_last() -> None:
    """More clients would be told the same."""

    def busy(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        reply(handler, 503, {"error": {"message": "shutting down"}})

    with scripted(busy) as (url, _):
        report = measure_load(url, SMALL)
        result = CliRunner().invoke(app, ["bench", "serve", url, "--concurrency", "1,2"])

    assert len(report.levels) == 1
    assert "none of 4 requests" in report.failure
    assert "shutting down" in report.failure
    assert isinstance(result.exception, WaferError)


@pytest.mark.parametrize(
    ("answer", "error", "told"),
    [
        (
            lambda h, b: reply(h, 400, {"message": "too long", "code": "too_long"}),
            InputError,
            "400 too_long.: too long",
        ),
        (lambda h, b: stream(h, {"error": {"message": "no"}}), EngineError, "error in the stream: no"),
        (lambda h, b: stream(h, ["no chunk"]), EngineError, "no answer in the API's form"),
    ],
)
def test_what_a_server_does_not_take_is_said_before_anything_is_measured(
    answer: Answer, error: type[WaferError], told: str
) -> None:
    """A prompt too long, another kind of server: no level is worth waiting for."""
    with scripted(answer) as (url, asked):
        asked += [{}] * 3  # as if the warming up were over
        with pytest.raises(error, match=told):
            measure_load(url, SMALL)


def test_ctrl_c_keeps_the_levels_so_far() -> None:
    """Who sees after ten minutes that the rest is not needed does not want to begin again."""
    with scripted(whole) as (url, _):
        report = measure_load(url, SMALL, ended=lambda report: signal.raise_signal(signal.SIGINT))

    assert report.interrupted
    assert [level.concurrency for level in report.levels] == [1]


def test_percentiles_are_times_that_were_seen() -> None:
    """Nothing between two observations is made up; failed requests have no part in them."""
    samples = [
        Sample(0.0, first=i / 100, last=1.0, ended=1 + i / 100, answer_tokens=2) for i in range(1, 101)
    ]
    samples += [Sample(0.0, ended=99.0, error="silence")]

    level = Level.of(4, samples, 2.0, 0.5)

    assert level.first_token_s == {"p50": 0.5, "p95": 0.95, "p99": 0.99}
    assert level.whole_s == {"p50": 1.5, "p99": 1.99}
    assert level.each_token_s["p50"] == pytest.approx(0.49)
    assert (level.tokens_per_s, level.client_cpu, level.errors) == (100.0, 0.25, {"silence": 1})


def test_random_words_have_the_length_that_two_answers_tell() -> None:
    """Tokens are a straight line over characters: so much for the template, so much for each."""
    fit = Fit.through((100, 25 + 10), (600, 150 + 10))

    assert (fit.characters, fit.overhead) == (4.0, 10.0)
    assert fit.length(128) == 4 * 118
    assert fit.length(3) == 1
    assert len(RandomText(0).text(333)) == 333
    assert RandomText(0).text(50) == RandomText(0).text(50) != RandomText(1).text(50)


def test_chats_come_from_a_file_of_json_lines(tmp_path: Path) -> None:
    """The shapes that people have: texts, objects with a prompt, whole chats; a wrong line is named."""
    path = tmp_path / "prompts.jsonl"
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    lines = ["Hi", {"prompt": "Hi"}, {"messages": chat}, chat]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")

    chats = read_chats(path)

    assert chats[0] == chats[1] == ({"role": "user", "content": "Hi"},)
    assert chats[2] == chats[3] == tuple(chat)
    with scripted(whole) as (url, asked):
        measure_load(url, LoadPlan(concurrency=(1,), requests=4, chats=chats))
        assert [body["messages"] for body in asked[-4:]] == [list(c) for c in (*chats[1:], chats[0])]
    for text, told in (
        ("Hi", ":1: this is no JSON"),
        ('"Hi"\n{"text": "Hi"}', ":2: this is no prompt"),
        ("", "no prompts"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=told):
            read_chats(path)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "--demo"),
        (["http://127.0.0.1:9"], "wafer serve"),
        (["not a folder"], "no folder"),
        (["--demo", "--concurrency", "1,many"], "1,2,4,8"),
        (["--demo", "--concurrency", "0"], "from 1 up"),
        (["--demo", "--requests", "0"], "at least 1"),
        (["--demo", "--prompts", "gone.jsonl"], "cannot be read"),
        (["--demo", "--out", "gone/rows.json"], "no folder to write to"),
    ],
)
def test_a_wrong_word_is_told_before_anything_is_loaded(words: list[str], told: str) -> None:
    """With what would be right."""
    result = CliRunner().invoke(app, ["bench", "serve", *words])

    assert isinstance(result.exception, WaferError), result.output
    assert told in str(result.exception)


def test_only_files_are_replaced(tmp_path: Path) -> None:
    """Numbers may go to a pipe, /dev/stdout or a full disk: none of them may turn into a file, or be left half written."""
    pipe, old, link = tmp_path / "pipe", tmp_path / "old.json", tmp_path / "link.json"
    os.mkfifo(pipe)
    old.write_bytes(b"old")
    link.symlink_to(old)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    write_whole(pipe, b"new")
    write_whole(link, b"new")

    assert os.read(reader, 10) == old.read_bytes() == b"new"
    assert pipe.is_fifo()
    assert link.is_symlink()
    os.close(reader)
    with pytest.raises(StorageError, match="name another file"):
        write_whole(tmp_path, b"new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link.json", "old.json", "pipe"]


def test_a_real_server_gives_prompts_and_answers_of_the_length_that_is_asked(tmp_path: Path) -> None:
    """The whole way with our own server: its template, its tokenizer, its counts."""
    config = ServiceConfig(
        folder=make_demo(tmp_path / "demo", layers=2, hidden=64), port=0, memory_bytes=2 << 30
    )
    plan = LoadPlan(concurrency=(1, 4), requests=6, prompt_tokens=50, answer_tokens=9)

    with Service(config, Console(file=StringIO())).in_background() as url:
        report: LoadReport = measure_load(url, plan)

    for level in report.levels:
        assert (level.failed, level.answer_tokens) == (0, 54)
        assert level.prompt_tokens == pytest.approx(50, abs=1)
        assert 0 < level.first_token_s["p50"] <= level.whole_s["p50"]
