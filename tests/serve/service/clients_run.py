"""Public example programs of inference clients, as they are, against `wafer serve`.

A program runs in a copy of its folder. Only the environment says where the server is: CEREBRAS_BASE_URL for
cerebras_cloud_sdk and LlamaIndex, CEREBRAS_API_BASE for LangChain. The model is one that says what programs can use
(clients_script), and other services have stand-ins on this machine (clients_elsewhere), so that a program goes on to its
end without the internet. It passes if the server answered every request that it sent, one at least, and it then ended as
it should.

    python tests/serve/service/clients_run.py --inference-examples DIR [--inference-python PYTHON] [--only gist]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.request import urlopen

from clients_elsewhere import CLUSTER, elsewhere  # type: ignore[import-not-found]
from clients_hub import hub_cache  # type: ignore[import-not-found]
from clients_model import make_scripted  # type: ignore[import-not-found]
from clients_script import CALL, LINES  # type: ignore[import-not-found]
from service_processes import serving  # type: ignore[import-not-found]

TIME_LIMIT_S = 120.0
QUESTION = "What is 2 plus 3?"
CLIENTS = {
    "langchain_cerebras": "langchain-cerebras",
    "llama_index.llms.cerebras": "llama-index",
    "cerebras.cloud.sdk": "cerebras_cloud_sdk",
}
"""What a program imports, and whose client that is."""
ENTRIES = ("main.py", "app.py", "test.py")
ARGUMENTS = {"marketing-agent/src/main.py": ("-", "--hallucinate", "--output", "output")}
"""What a user has to type after a program's name."""
FIELDS = (f"Weaviate URL={CLUSTER}", "Arxiv link=https://arxiv.org/pdf/1706.03762")
"""What a page's fields get, where not every question will do."""
_ENDED = "EOFError: EOF when reading a line"
"""A program that asks until nobody answers."""
_ABSENT = re.compile(r"No module named|is not installed|Could not import|[Pp]lease install")
_TRACEBACK = "Traceback (most recent call last)"
_REQUESTS = re.compile(r'^wafer_requests_total\{endpoint="\w+",status="(\d+)"\} ([\d.]+)', re.MULTILINE)

Kind = Literal["script", "page", "notebook"]
Outcome = Literal["ok", "failed", "not run"]


@dataclass(frozen=True, slots=True)
class Program:
    """A file that somebody starts, relative to the folder of examples."""

    path: Path
    client: str
    kind: Kind

    def command(self, python: str, limit_s: float) -> list[str]:
        """What starts it in its folder; those that want a browser are used by a program of ours."""
        here = Path(__file__)
        if self.kind == "page":
            with_fields = (QUESTION, str(limit_s), *FIELDS)
            return [python, str(here.with_name("clients_streamlit.py")), self.path.name, *with_fields]
        if self.kind == "notebook":
            return [python, str(here.with_name("clients_notebook.py")), self.path.name, str(limit_s)]
        words = next((words for end, words in ARGUMENTS.items() if self.name.endswith(end)), ())
        return [python, self.path.name, *words]

    @property
    def name(self) -> str:
        return self.path.as_posix()


@dataclass(frozen=True, slots=True)
class Result:
    """How a program ended. `answered`: the requests that the server answered; `message`: why it is not "ok"."""

    program: Program
    outcome: Outcome
    answered: int
    seconds: float
    message: str = ""
    output: str = ""


def find_programs(examples: Path, only: str = "") -> list[Program]:
    """Every entry file and notebook below a folder whose code, or that of modules beside it, uses one of the clients.

    Raises ValueError if there are none: a wrong path must not look like a success.
    """
    entries = sorted(path for name in ENTRIES for path in examples.rglob(name))
    programs = []
    for path in entries:
        text = path.read_text(encoding="utf-8", errors="replace")
        around = "" if path.name == "test.py" else "".join(_modules_of(path, entries))
        client = _client(text) or _client(around)
        relative = path.relative_to(examples)
        if client and only in relative.as_posix():
            programs.append(Program(relative, client, "page" if _imports(text, "streamlit") else "script"))
    for path in sorted(examples.rglob("*.ipynb")):
        client = _client(_cells(path))
        relative = path.relative_to(examples)
        if client and only in relative.as_posix():
            programs.append(Program(relative, client, "notebook"))
    if not programs:
        raise ValueError(
            f"{examples} holds no program of a client in {', '.join(CLIENTS)}; name a folder that does"
        )
    return programs


def _modules_of(entry: Path, entries: list[Path]) -> Iterator[str]:
    """The other Python files of an entry's folder, but for folders with entries of their own."""
    others = {path.parent for path in entries} - {entry.parent}
    for path in sorted(entry.parent.rglob("*.py")):
        if path != entry and others.isdisjoint(path.parents):
            yield path.read_text(encoding="utf-8", errors="replace")


def _cells(notebook: Path) -> str:
    """The code of a notebook; "" if it is none, as where a checkout has only a pointer to a large file."""
    try:
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    except (ValueError, KeyError):
        return ""
    return "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")


def _client(code: str) -> str:
    return next((name for module, name in CLIENTS.items() if _imports(code, module)), "")


def _imports(code: str, module: str) -> bool:
    return re.search(rf"^\s*(from|import) {re.escape(module)}\b", code, re.MULTILINE) is not None


class Server:
    """`wafer serve`, and what it tells of the requests that it had."""

    def __init__(self, url: str, around: dict[str, str]) -> None:
        self.url = url
        self._around = around

    def environment(self) -> dict[str, str]:
        """What points the clients here. One of them needs the /v1, and the server knows it with one too many."""
        return {
            **self._around,
            "CEREBRAS_BASE_URL": f"{self.url}/v1",
            "CEREBRAS_API_BASE": f"{self.url}/v1",
            "CEREBRAS_API_KEY": "key",
            "WANDB_API_KEY": "0" * 40,
            # Some send traces to services of others, and wait for them.
            "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        }

    def requests(self) -> tuple[int, int]:
        """How many requests were answered, and how many were not."""
        with urlopen(f"{self.url}/metrics", timeout=30) as response:
            told = _REQUESTS.findall(response.read().decode())
        answered = sum(int(float(count)) for status, count in told if status == "200")
        return answered, sum(int(float(count)) for _, count in told) - answered


@contextmanager
def scripted_server(python: str) -> Iterator[Server]:
    """A server for whatever model a program names, and what programs of this Python want beside it."""
    with tempfile.TemporaryDirectory(prefix="clients-") as scratch, elsewhere() as others:
        model = make_scripted(Path(scratch, "model"), LINES, CALL)
        around = others.environment() | hub_cache(Path(scratch, "hugging-face"), python)
        with serving(model, "--any-model", "--memory", "2GiB") as running:
            yield Server(running.url, around)


def run_program(
    program: Program,
    examples: Path,
    server: Server,
    *,
    python: str = sys.executable,
    limit_s: float = TIME_LIMIT_S,
) -> Result:
    """Run a program in a copy of its folder, with one question on its standard input."""
    answered, refused = server.requests()
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="clients-") as scratch:
        home = Path(scratch) / "program"
        shutil.copytree(examples / program.path.parent, home)
        command = program.command(python, limit_s)
        status, output = _run(command, home, QUESTION, server.environment(), limit_s)
    seconds = time.perf_counter() - start
    now_answered, now_refused = server.requests()
    answered, refused = now_answered - answered, now_refused - refused
    outcome, message = _judge(status, output, answered, refused)
    return Result(program, outcome, answered, seconds, message, output)


def _run(
    command: list[str], folder: Path, question: str, environment: dict[str, str], limit_s: float
) -> tuple[int | None, str]:
    """Status (None: out of time) and output. The program's own children end with it."""
    with tempfile.TemporaryFile() as file:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
        status: int | None = None
        try:
            process.communicate(f"{question}\n".encode(), limit_s)
            status = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        file.seek(0)
        return status, file.read().decode("utf-8", "replace")


def _judge(status: int | None, output: str, answered: int, refused: int) -> tuple[Outcome, str]:
    """The outcome, and why."""
    reason = _reason(output)
    if refused:
        return "failed", f"{refused} requests were not answered; {reason}"
    if status is None:
        return "failed", "longer than its limit"
    if answered == 0:
        return ("not run", reason) if _ABSENT.search(reason) else ("failed", f"no request came; {reason}")
    # Some print what went wrong in a part of their work, and end as if nothing had.
    if _ENDED in output or (status == 0 and _TRACEBACK not in output):
        return "ok", ""
    return "failed", reason


def _reason(output: str) -> str:
    """The line of an output that says what went wrong: the last one that names an error."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"error: |[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (errors or lines or ["no output"])[-1][:160]


def table(results: list[Result]) -> str:
    """The results, a line each, and how many there are of each outcome."""
    width = max(len(result.program.name) for result in results)
    lines = [
        f"{r.program.name:<{width}}  {r.program.client:<18}  {r.outcome:<8}  {r.answered:>3} answered {r.seconds:6.1f} s  "
        f"{r.message}".rstrip()
        for r in results
    ]
    counts = {o: sum(r.outcome == o for r in results) for o in ("ok", "failed", "not run")}
    return "\n".join([*lines, ", ".join(f"{count} {outcome}" for outcome, count in counts.items())])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inference-examples", type=Path, required=True, metavar="DIR")
    parser.add_argument("--inference-python", default=sys.executable, help="with the programs' packages")
    parser.add_argument("--only", default="", help="programs whose path contains this")
    parser.add_argument("--limit", type=float, default=TIME_LIMIT_S, help="seconds for one program")
    parser.add_argument("--verbose", action="store_true", help="show what programs printed")
    given = parser.parse_args()
    examples = given.inference_examples.resolve()
    try:
        programs = find_programs(examples, given.only)
    except ValueError as error:
        parser.error(str(error))
    results = []
    with scripted_server(given.inference_python) as server:
        for program in programs:
            result = run_program(
                program, examples, server, python=given.inference_python, limit_s=given.limit
            )
            results.append(result)
            if given.verbose:
                print(result.output)
            print(table([result]).splitlines()[0], flush=True)
    print(f"\n{table(results)}")
    return 1 if any(result.outcome == "failed" for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
