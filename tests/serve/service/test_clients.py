"""Programs of inference clients, where somebody has them, and the rules of what runs them.

`pytest -m conformance --inference-examples=DIR [--inference-python=PYTHON]`
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from clients_run import (  # type: ignore[import-not-found]
    Program,
    Result,
    Server,
    find_programs,
    run_program,
    scripted_server,
    table,
)
from clients_script import CALL, LINES, Line  # type: ignore[import-not-found]

CLIENT = "from cerebras.cloud.sdk import Cerebras\n"
ASK = """
client = Cerebras()
reply = client.chat.completions.create(model="llama3.1-8b", max_tokens=5, messages=[{"role": "user", "content": input()}])
print(reply.usage.total_tokens / reply.time_info.total_time)
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "program" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--inference-examples")
        if folder is None:
            skip = pytest.mark.skip(reason="--inference-examples=DIR names the folder of programs to run")
            metafunc.parametrize("program", [pytest.param(None, marks=skip)])
            return
        try:
            programs = find_programs(Path(folder).resolve())
        except ValueError as error:
            raise pytest.UsageError(f"--inference-examples: {error}") from error
        metafunc.parametrize("program", programs, ids=[program.name for program in programs])


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One for all programs, and the services beside it."""
    with scripted_server(request.config.getoption("--inference-python")) as running:
        yield running


@pytest.mark.conformance
def test_a_program_of_a_client_is_answered(
    program: Program, server: Server, request: pytest.FixtureRequest, record_property: pytest.RecordProperty
) -> None:
    """Existing programs need another URL in the environment, and no line of theirs is changed."""
    examples = Path(request.config.getoption("--inference-examples")).resolve()
    result = run_program(program, examples, server, python=request.config.getoption("--inference-python"))

    record_property("client program", table([result]).splitlines()[0])
    if result.outcome == "not run":
        pytest.skip(result.message)
    assert result.outcome == "ok", f"{result.message}\n{result.output[-4000:]}"


def written(examples: Path, **programs: str) -> Path:
    """A folder of examples, each a main.py."""
    for name, code in programs.items():
        (examples / name).mkdir(parents=True)
        (examples / name / "main.py").write_text(code)
    return examples


def test_a_program_is_an_entry_file_that_uses_a_client_itself_or_by_its_modules(tmp_path: Path) -> None:
    """Larger programs wrap their client; folders with an entry of their own are other programs."""
    examples = written(
        tmp_path,
        direct=CLIENT,
        page="import streamlit as st\nfrom langchain_cerebras import ChatCerebras\n",
        other="import requests\n",
        wrapping="import engine\n",
    )
    (examples / "wrapping" / "engine.py").write_text(f"def make():\n    {CLIENT}")
    cells = [{"cell_type": "markdown", "source": ["A"]}, {"cell_type": "code", "source": ["\n", CLIENT]}]
    (examples / "page" / "book.ipynb").write_text(json.dumps({"cells": cells}))
    (examples / "other" / "within").mkdir()
    (examples / "other" / "within" / "app.py").write_text(CLIENT)

    programs = [(p.name, p.client, p.kind) for p in find_programs(examples)]

    assert sorted(programs) == [
        ("direct/main.py", "cerebras_cloud_sdk", "script"),
        ("other/within/app.py", "cerebras_cloud_sdk", "script"),
        ("page/book.ipynb", "cerebras_cloud_sdk", "notebook"),
        ("page/main.py", "langchain-cerebras", "page"),
        ("wrapping/main.py", "cerebras_cloud_sdk", "script"),
    ]
    with pytest.raises(ValueError, match="holds no program of a client"):
        find_programs(examples, "nothing is called so")


def test_a_program_is_judged_by_what_the_server_saw_and_how_it_ended(tmp_path: Path, server: Server) -> None:
    """A program that never asked is no success, nor is one that tells of a failure and ends as if there was none."""
    examples = written(
        tmp_path,
        loop=f"{CLIENT}while True:{ASK.replace(chr(10), chr(10) + '    ')}",
        silent=CLIENT,
        refused=CLIENT + ASK.replace("max_tokens=5", "temperature=9"),
        lacking=f"{CLIENT}import no_such_package\n",
        broken=f"{CLIENT}{ASK}raise KeyError('content')\n",
        quiet=f"{CLIENT}{ASK}import traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.print_exc()\n",
    )

    results = {p.path.parent.name: run_program(p, examples, server) for p in find_programs(examples)}

    assert {name: (r.outcome, r.answered) for name, r in results.items()} == {
        "loop": ("ok", 1),
        "silent": ("failed", 0),
        "refused": ("failed", 0),
        "lacking": ("not run", 0),
        "broken": ("failed", 1),
        "quiet": ("failed", 1),
    }
    assert results["lacking"].message == "ModuleNotFoundError: No module named 'no_such_package'"
    assert results["refused"].message.startswith("1 requests were not answered; ")
    assert results["broken"].message == "KeyError: 'content'"
    assert results["quiet"].message == "ZeroDivisionError: division by zero"


@pytest.mark.parametrize("line", LINES, ids=lambda line: line.text[:20].strip())
def test_the_scripted_model_says_the_first_line_whose_words_were_said(line: Line, server: Server) -> None:
    """Each letter of it, at a temperature as programs leave it, and also where the answer has to be JSON."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    said = "\n".join(("Hello.", *line.words))
    form: Any = {"response_format": {"type": "json_object"}} if line.text.startswith("{") else {}

    answer = client.chat.completions.create(model="any", messages=[{"role": "user", "content": said}], **form)

    assert answer.choices[0].finish_reason == "stop"
    assert (answer.choices[0].message.content or "").strip() == line.text.strip()


def test_the_scripted_model_calls_a_tool_and_then_answers(server: Server) -> None:
    """A program that has tools gets a call of one, and no text that it would take for the answer."""
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    expected = json.loads(CALL)
    tool: Any = {
        "type": "function",
        "function": {
            "name": expected["name"],
            "parameters": {
                "type": "object",
                "properties": {"x": {"type": "number"}, "y": {"type": "number"}},
            },
        },
    }
    messages: list[Any] = [{"role": "user", "content": "Add."}]

    first = client.chat.completions.create(model="any", messages=messages, tools=[tool]).choices[0].message
    assert not first.content
    assert first.tool_calls is not None
    call: Any = first.tool_calls[0]
    messages += [
        first.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "5"},
    ]
    last = client.chat.completions.create(model="any", messages=messages, tools=[tool]).choices[0].message

    assert (call.function.name, json.loads(call.function.arguments)) == (
        expected["name"],
        expected["parameters"],
    )
    assert last.content == LINES[-1].text


def test_the_table_has_a_line_for_each_program_and_a_sum() -> None:
    """What a reader of the log wants to know."""
    program = Program(Path("gist/app.py"), "cerebras_cloud_sdk", "page")

    text = table([Result(program, "ok", 3, 1.25), Result(program, "not run", 0, 2.0, "no package")])

    assert text.splitlines()[0].split() == [
        "gist/app.py",
        "cerebras_cloud_sdk",
        "ok",
        "3",
        "answered",
        "1.2",
        "s",
    ]
    assert text.splitlines()[-1] == "1 ok, 0 failed, 1 not run"
