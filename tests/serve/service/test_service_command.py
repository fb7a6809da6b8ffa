"""`wafer serve` as a process: from its start to its end, with the clients that people use."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from service_processes import (  # type: ignore[import-not-found]
    Running,
    key_file,
    long_chat,
    serving,
    started,
    wafer,
)

from openwafer.base import EngineError
from openwafer.serve.client import Told, ask, find_model
from openwafer.serve.model import make_demo

SHORT: dict[str, Any] = {
    "model": "demo",
    "messages": [{"role": "user", "content": "Say something."}],
    "temperature": 0,
    "max_tokens": 24,
}


@pytest.fixture(scope="module")
def demo() -> Iterator[Running]:
    """A server that nobody ends; in float32, so that greedy answers do not hang on a rounding."""
    with serving("--demo", "--memory", "2GiB", "--dtype", "fp32") as running:
        yield running


def test_the_openai_client_talks_with_the_command(demo: Running) -> None:
    """The whole path as a user has it: a process, a socket, and the client library unchanged."""
    client = openai.OpenAI(base_url=demo.url + "/v1", api_key="none", max_retries=0)

    whole = client.chat.completions.create(**SHORT).choices[0].message.content
    chunks = list(client.chat.completions.create(**SHORT, stream=True))
    text = client.completions.create(model="demo", prompt="Once", max_tokens=5)

    assert [model.id for model in client.models.list()] == ["demo"]
    assert whole
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole
    assert text.usage is not None
    assert 0 < text.usage.completion_tokens <= 5


def test_many_clients_are_answered_at_once_and_alike(demo: Running) -> None:
    """Greedy answers do not depend on who else is served."""
    client = openai.OpenAI(base_url=demo.url + "/v1", api_key="none", max_retries=0)

    def answer(_: int) -> str | None:
        return client.chat.completions.create(**SHORT).choices[0].message.content

    with ThreadPoolExecutor(8) as threads:
        answers = set(threads.map(answer, range(16)))

    assert answers == {answer(0)}


def test_what_is_served_is_said_at_the_start(demo: Running) -> None:
    """One line with what decides speed and room: how it runs, the dtype, the cache."""
    line = next(line for line in demo.lines if line.startswith("demo: "))

    assert "resident on cpu as float32" in line
    assert "8192 for one answer" in line


def test_the_small_client_tells_parts_and_then_the_speed(demo: Running) -> None:
    """What `wafer chat` is made of."""
    *parts, last = ask(
        demo.url, "demo", [{"role": "user", "content": "Hi"}], **{"max_tokens": 30, "temperature": 0}
    )

    assert isinstance(last, Told)
    assert len(parts) > 1
    assert all(isinstance(part, str) for part in parts)
    assert last.tokens_per_s > 0
    assert last.first_token_s > 0
    assert find_model(demo.url + "/v1") == "demo"


def test_a_taken_port_is_told_before_the_model_is_loaded(demo: Running) -> None:
    """It would be a pity after minutes; the message says what to do."""
    port = demo.url.rpartition(":")[2]

    second = wafer("serve", "--demo", "--port", port)

    assert second.returncode == 1
    assert f"port {port} of 127.0.0.1 is in use" in second.stderr
    assert "--port" in second.stderr
    assert "loaded" not in second.stdout
    assert "Traceback" not in second.stderr


def test_sigterm_lets_answers_end_and_takes_no_new_ones() -> None:
    """What a service manager sends before it starts the next version: nobody loses an answer that has begun."""
    with serving("--demo", "--memory", "2GiB") as running, httpx.Client(timeout=120) as client:
        url = running.url + "/v1/chat/completions"
        with client.stream("POST", url, json=long_chat() | {"stream": True}) as response:
            lines = response.iter_lines()
            first = next(lines)
            running.send(signal.SIGTERM)
            running.wait_for("ending:")
            refused = httpx.post(url, json=SHORT, timeout=60)
            health = httpx.get(running.url + "/health")
            events = [first, *(line for line in lines if line)]
        status = running.ended()

        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert health.json()["status"] == "draining"
        assert events[-1] == "data: [DONE]"
        last = json.loads(events[-2].removeprefix("data: "))
        assert last["choices"][0]["finish_reason"] == "length"
        assert last["usage"]["completion_tokens"] == 6000
        assert status == 0
        assert running.errors() == ""
    assert running.lines[-1] == "ended\n"


@pytest.mark.parametrize("how", ["no time to drain", "a second signal"])
def test_answers_that_get_no_time_end_with_an_error(how: str) -> None:
    """A stream that just stopped would look complete to a careless client; and the command ends, however long they are."""
    drain = 0 if how == "no time to drain" else 600
    with (
        serving("--demo", "--memory", "2GiB", "--drain-seconds", drain) as running,
        httpx.Client(timeout=120) as client,
    ):
        body = long_chat(7000) | {"stream": True, "n": 8}
        with client.stream("POST", running.url + "/v1/chat/completions", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            running.send(signal.SIGINT)
            if drain:
                running.wait_for("ending:")
                running.send(signal.SIGINT)
            events = [line for line in lines if line]

        assert running.ended() == 130
        assert "Traceback" not in running.errors()
        error = json.loads(events[-2].removeprefix("data: "))
        assert error["status_code"] == 503
        assert "stopping" in error["error"]["message"]


def answers_under_way(url: str) -> int:
    running: int = httpx.get(url + "/statistics").json()["running"]
    return running


def test_a_client_is_told_when_the_server_is_killed_and_goes_on_with_the_next(tmp_path: Path) -> None:
    """Half an answer is never taken for a whole one; and the next server gets the port, whatever the last one left."""
    question = tmp_path / "question"
    question.write_text("Go on.\n")
    with serving("--demo", "--memory", "2GiB") as running:
        port = running.url.rpartition(":")[2]
        with (
            question.open() as given,
            started("chat", running.url, "--max-tokens", 8000, "--temperature", 0, given=given) as chat,
        ):
            running.until(lambda: answers_under_way(running.url) == 1, "the answer in the terminal")
            fields = {k: v for k, v in long_chat().items() if k not in ("model", "messages")}
            parts = ask(running.url, "demo", [{"role": "user", "content": "Go on."}], **fields)
            next(parts)
            assert answers_under_way(running.url) == 2
            running.send(signal.SIGKILL)

            with pytest.raises(EngineError, match="ask again"):
                list(parts)
            assert chat.ended() == 1
            assert "ask again" in chat.errors()
            assert "Traceback" not in chat.errors()
    with started("serve", "--demo", "--memory", "2GiB", "--port", port) as again:
        again.wait_for("serving at")
        assert find_model(again.url) == "demo"


SLOW = """
import sys, time
from openwafer.serve.service import _service
def load(*args, progress, **more):
    progress("a layer", 1, 10)
    print("loading", flush=True)
    time.sleep(300)
_service.open_executor = load
from openwafer.cli import main
sys.argv[0] = "wafer"
main()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_while_loading_ends_it_and_leaves_nothing(
    number: signal.Signals, status: int, tmp_path: Path
) -> None:
    """Large models load for minutes; whoever named the wrong one should not have to wait, nor to clean up."""
    with started("serve", "--demo", "--port", 0, program=SLOW, more={"TMPDIR": str(tmp_path)}) as running:
        running.wait_for("loading")
        assert list(tmp_path.iterdir())
        running.send(number)

        assert running.ended() == status
        told = running.errors()
        assert "Traceback" not in told
        assert ("interrupted" in told) == (number == signal.SIGINT)
    assert not list(tmp_path.iterdir())


def test_keys_are_asked_for_and_the_terminal_client_sends_one(tmp_path: Path) -> None:
    """A folder by its name, with a key: what a server for others looks like."""
    make_demo(tmp_path / "tiny", layers=2, hidden=64)
    words = (
        tmp_path / "tiny",
        "--key-file",
        key_file(tmp_path, "first # mine", "second"),
        "--alias",
        "gpt-x",
    )
    with serving(*words, "--memory", "2GiB", "--host", "0.0.0.0") as running:
        without = httpx.get(running.url + "/v1/models")
        client = openai.OpenAI(base_url=running.url + "/v1", api_key="second", max_retries=0)
        reply = client.chat.completions.create(**SHORT | {"model": "gpt-x"})
        words = ("chat", running.url, "--max-tokens", 8, "--temperature", 0)
        said = wafer(*words, given="Hi\n\n", more={"WAFER_API_KEY": "first"})
        refused = wafer(*words, given="Hi\n", more={"WAFER_API_KEY": "third"})

    assert without.status_code == 401
    assert reply.usage is not None
    assert (said.returncode, refused.returncode) == (0, 1)
    assert said.stdout.strip()
    assert "tokens/s" in said.stderr
    assert "Wrong API Key" in refused.stderr
    assert "--key-file" in refused.stderr


def test_a_full_disk_behind_the_log_stops_nobody() -> None:
    """Every line of the log fails; every request succeeds."""
    with (
        open("/dev/full", "w") as full,
        serving("--demo", "--memory", "2GiB", errors=full, more={"WAFER_LOG": "2"}) as running,
    ):
        replies = [httpx.post(running.url + "/v1/chat/completions", json=SHORT, timeout=60) for _ in range(2)]
        running.send(signal.SIGTERM)

        assert [reply.status_code for reply in replies] == [200, 200]
        assert running.ended() == 0


def test_the_log_has_one_line_for_each_request_with_its_id() -> None:
    """The id is the one that the client got, so that a complaint finds its line."""
    with serving("--demo", "--memory", "2GiB", more={"WAFER_LOG": "2"}) as running:
        reply = httpx.post(running.url + "/v1/chat/completions", json=SHORT, timeout=60)
        running.send(signal.SIGTERM)
        running.ended()
        lines = [line for line in running.errors().splitlines() if reply.headers["inference-id"] in line]

    assert len(lines) == 1
    assert "answered" in lines[0]
    assert "completion_tokens=" in lines[0]
    assert "Say something" not in lines[0]


def test_chat_loads_a_model_by_itself_and_remembers_what_was_said() -> None:
    """No server needed; answers go to standard output, everything else to standard error."""
    said = wafer(
        "chat", "--demo", "--memory", "2GiB", "--max-tokens", 6, "--temperature", 0, given="Hi\nAnd?\n"
    )

    assert said.returncode == 0
    assert len(said.stdout.splitlines()) >= 2
    assert said.stderr.count("tokens/s]") + said.stderr.count("cut at the limit]") == 2
    assert "Traceback" not in said.stderr


def test_chat_without_a_server_says_how_to_start_one() -> None:
    """The first thing that goes wrong for everybody."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        said = wafer("chat", f"http://127.0.0.1:{free.getsockname()[1]}", given="Hi\n")

    assert said.returncode == 1
    assert "wafer serve" in said.stderr
    assert "Traceback" not in said.stderr
