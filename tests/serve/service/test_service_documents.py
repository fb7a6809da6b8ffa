"""The documents on serving name every option and every field, and their code runs."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from service_processes import environment  # type: ignore[import-not-found]
from typer.testing import CliRunner

from openwafer.cli._app import app
from openwafer.serve.api import AnswerLike
from openwafer.serve.api._metrics import Metrics
from openwafer.serve.api._requests import ChatRequest, CompletionRequest
from openwafer.serve.engine import Request, Statistics
from openwafer.serve.model import make_demo
from openwafer.serve.service import Service, ServiceConfig

DOCS = Path(__file__).parents[3] / "docs"
SERVING, COMPATIBILITY = ((DOCS / name).read_text() for name in ("serving.md", "api-compatibility.md"))


def test_every_option_of_wafer_serve_is_explained() -> None:
    """What --help lists stands in the table, and the table lists nothing else."""
    shown = CliRunner().invoke(app, ["serve", "--help"], env={"COLUMNS": "200"}).output
    options = set(re.findall(r"--[a-z][a-z-]+", shown)) - {"--help"}
    table = SERVING.split("## Options\n")[1].split("\n## ")[0]

    assert "--key-file" in options
    assert set(re.findall(r"`(--[a-z][a-z-]+)`", table)) == options


@pytest.mark.parametrize(
    ("heading", "request_type"), [("Chat", ChatRequest), ("Completions", CompletionRequest)]
)
def test_every_field_of_a_request_is_explained(heading: str, request_type: type[msgspec.Struct]) -> None:
    """Once, in the table of its request; and nothing that is no field."""
    section = COMPATIBILITY.split(f"## {heading}\n")[1].split("\n## ")[0]
    listed = [
        name
        for row in re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    ]

    assert sorted(listed) == sorted(field.name for field in msgspec.structs.fields(request_type))


def test_the_client_of_the_document_gets_an_answer(tmp_path: Path) -> None:
    """As it stands, but for the port."""
    code = re.findall(r"^```py\n(.*?)^```", SERVING, re.MULTILINE | re.DOTALL)
    config = ServiceConfig(
        folder=make_demo(tmp_path / "demo", layers=2, hidden=64), port=0, memory_bytes=2 << 30
    )

    with Service(config, Console(file=StringIO())).in_background() as url:
        script = code[0].replace("http://127.0.0.1:8000", url)
        ran = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, env=environment()
        )

    assert url in script
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout


def test_every_metric_is_explained() -> None:
    """Once, in its table; the engine's numbers by an example of their names, which exist."""

    class Idle:
        def submit(self, request: Request, client: str = "") -> AnswerLike:
            raise NotImplementedError

        def statistics(self) -> dict[str, object]:
            return {"stages_busy_s": (0.0,)}

    section = SERVING.split("| of `/metrics` | tells |\n")[1].split("\n\n")[0]
    listed = [name for row in section.splitlines() for name in re.findall(r"`(wafer_[a-z_]+)`", row)]
    engine_row = next(row for row in section.splitlines() if "`wafer_engine_...`" in row)
    told = set(re.findall(r"`([a-z_]+)`", engine_row)) - {"statistics"}
    exposed = re.findall(r"^# TYPE (\w+?)(?:_total)? ", Metrics(Idle()).text().decode(), re.MULTILINE)

    assert sorted(listed) == sorted(name for name in exposed if not name.endswith("_created"))
    assert told
    assert told <= {field.name for field in dataclasses.fields(Statistics)}
