"""The public matrix: every command script of a folder of example programs, cell by cell.

A cell is one `cs_python` run with the `cslc` calls before it. It runs in a copy of the folder, with the commands of this
package first on PATH, and passes if every command of it ends with status 0.

    python tests/csl/conformance_run.py --csl-examples DIR [--only gemv-01] [--arch wse2]
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

TIME_LIMIT_S = 120.0
_COMMANDS = ("cslc", "cs_python")
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Interrupt)\b")


@dataclass(frozen=True, slots=True)
class Cell:
    """One run: a folder of the examples, an architecture, and the commands up to the run."""

    folder: Path
    architecture: str
    number: int
    """Of the runs of one script, from 1."""
    commands: tuple[tuple[str, ...], ...]

    @property
    def name(self) -> str:
        return f"{self.folder.as_posix()} {self.architecture} {self.number}"


@dataclass(frozen=True, slots=True)
class Result:
    """How a cell ended. `message`: the last line of the error."""

    cell: Cell
    passed: bool
    seconds: float
    message: str = ""
    output: str = ""


def find_cells(examples: Path, only: str = "", architecture: str = "") -> list[Cell]:
    """The cells of every commands_wse2.sh and commands_wse3.sh below a folder whose name contains `only`.

    Raises ValueError if there are none: a wrong path must not look like a success.
    """
    cells = []
    for script in sorted(examples.rglob("commands_wse*.sh")):
        arch = script.stem.removeprefix("commands_")
        folder = script.parent.relative_to(examples)
        if only in folder.as_posix() and architecture in ("", arch):
            cells += _cells_of(script, folder, arch)
    if not cells:
        raise ValueError(
            f"{examples} holds no command script with a run that matches; name a folder that does"
        )
    return cells


def _cells_of(script: Path, folder: Path, architecture: str) -> Iterator[Cell]:
    compiled: list[tuple[str, ...]] = []
    number = 0
    for command in _script_commands(script):
        if command[0] == "cs_python":
            number += 1
            yield Cell(folder, architecture, number, (*compiled, command))
        else:
            compiled.append(command)


def _script_commands(script: Path) -> Iterator[tuple[str, ...]]:
    """The commands of a script, which may go on over lines; comments, `set` and the first line are none."""
    text = script.read_text(encoding="utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] != "set":
            yield tuple(words)


def run_cell(cell: Cell, examples: Path, scratch: Path, *, limit_s: float = TIME_LIMIT_S) -> Result:
    """Run a cell in a copy of its part of the examples."""
    home = scratch / cell.architecture / cell.folder.parts[0]
    if not home.exists():
        # Some programs import from folders beside their own.
        shutil.copytree(examples / cell.folder.parts[0], home)
    folder = scratch / cell.architecture / cell.folder
    environment = {**os.environ, "PATH": f"{commands_folder(scratch)}{os.pathsep}{os.environ['PATH']}"}
    environment["MPLBACKEND"] = "Agg"
    start = time.perf_counter()
    output = ""
    for command in cell.commands:
        left = limit_s - (time.perf_counter() - start)
        status, text = _run(command, folder, environment, left)
        output += f"$ {shlex.join(command)}\n{text}"
        if status != 0:
            seconds = time.perf_counter() - start
            message = f"longer than {limit_s:.0f} s" if status is None else _last_line(text)
            return Result(cell, False, seconds, f"{command[0]}: {message}", output)
    return Result(cell, True, time.perf_counter() - start, output=output)


def _run(
    command: tuple[str, ...], folder: Path, environment: dict[str, str], limit_s: float
) -> tuple[int | None, str]:
    """Status (None: out of time) and output. The command's own children end with it."""
    with tempfile.TemporaryFile() as file:
        process = subprocess.Popen(
            command, cwd=folder, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        try:
            status: int | None = process.wait(max(limit_s, 0.1))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            status = None
        file.seek(0)
        return status, file.read().decode("utf-8", "replace")


def commands_folder(scratch: Path) -> Path:
    """A folder with `cslc` and `cs_python` of this package, run by this Python."""
    folder = scratch / "bin"
    if not folder.exists():
        folder.mkdir(parents=True)
        for name in _COMMANDS:
            path = folder / name
            code = f"import sys; from openwafer.compat import {name}; sys.exit({name}())"
            path.write_text(
                f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -P -c "{code}" "$@"\n', encoding="utf-8"
            )
            path.chmod(0o755)
    return folder


def _last_line(text: str) -> str:
    """The line that says what went wrong: a compiler's first error, an exception with its explanation, or the last line."""
    lines = [line for line in text.splitlines() if line.strip()]
    for place, line in enumerate(lines):
        if "error: " in line:
            return line.strip()
        if _EXCEPTION.match(line):
            return " ".join(part.strip() for part in lines[place : place + 3])
    return lines[-1].strip() if lines else "no output"


def table(results: list[Result]) -> str:
    """The results, a line each, and how many passed."""
    width = max(len(result.cell.name) for result in results)
    lines = [
        f"{result.cell.name:<{width}}  {'ok    ' if result.passed else 'failed'} {result.seconds:6.1f} s  {result.message[:160]}"
        for result in results
    ]
    passed = sum(result.passed for result in results)
    seconds = sum(result.seconds for result in results)
    return "\n".join([*lines, f"{passed} of {len(results)} cells passed in {seconds:.0f} s"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csl-examples", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", default="", help="folders whose path contains this")
    parser.add_argument("--arch", default="", choices=("", "wse2", "wse3"))
    parser.add_argument("--limit", type=float, default=TIME_LIMIT_S, help="seconds for one cell")
    parser.add_argument("--verbose", action="store_true", help="show what failed cells printed")
    given = parser.parse_args()
    try:
        cells = find_cells(given.csl_examples.resolve(), given.only, given.arch)
    except ValueError as error:
        parser.error(str(error))
    results = []
    with tempfile.TemporaryDirectory(prefix="conformance-") as scratch:
        for cell in cells:
            results.append(run_cell(cell, given.csl_examples.resolve(), Path(scratch), limit_s=given.limit))
            print(table(results[-1:]).splitlines()[0], flush=True)
            if given.verbose and not results[-1].passed:
                print(results[-1].output)
    print(table(results).splitlines()[-1])
    return 0 if all(result.passed for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
