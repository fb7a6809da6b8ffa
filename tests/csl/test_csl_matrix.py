"""The public matrix under pytest: `pytest -m conformance --csl-examples=DIR`, and the runner's own rules."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conformance_run import Cell, Result, find_cells, run_cell, table

SCRIPT = """#!/usr/bin/env bash

set -e

cslc --arch=wse2 ./layout.csl \\
--fabric-dims=8,3 -o out-1D # one
cs_python run.py --name out-1D
cs_python run.py --inverse --name out-1D
cslc --arch=wse2 ./layout.csl -o out-2D
cs_python run.py --name out-2D
"""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cell" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--csl-examples")
        if folder is None:
            skip = pytest.mark.skip(reason="--csl-examples=DIR names the folder of programs to run")
            metafunc.parametrize("cell", [pytest.param(None, marks=skip)])
            return
        try:
            cells = find_cells(Path(folder).resolve())
        except ValueError as error:
            raise pytest.UsageError(f"--csl-examples: {error}") from error
        metafunc.parametrize("cell", cells, ids=[cell.name.replace(" ", "-") for cell in cells])


@pytest.fixture(scope="session")
def scratch(tmp_path_factory):
    """One copy of the examples for all cells, with the commands."""
    return tmp_path_factory.mktemp("matrix")


@pytest.mark.conformance
def test_a_cell_of_the_public_matrix_passes(cell, scratch, request):
    """Existing programs compile, run, and find their own answer right; none of their files is changed."""
    result = run_cell(cell, Path(request.config.getoption("--csl-examples")).resolve(), scratch)

    assert result.passed, f"{result.message}\n{result.output[-4000:]}"


def written(folder: Path, run: str) -> Path:
    """A folder of examples with one program whose script calls `run`."""
    home = folder / "examples" / "tutorials" / "one"
    home.mkdir(parents=True)
    (home / "commands_wse3.sh").write_text(run)
    return folder / "examples"


def test_each_run_of_a_script_is_a_cell_with_the_compilations_before_it(tmp_path):
    """So that a failed run does not hide the next, as `set -e` would."""
    cells = find_cells(written(tmp_path, SCRIPT))

    assert [cell.name for cell in cells] == [f"tutorials/one wse3 {number}" for number in (1, 2, 3)]
    assert [[command[0] for command in cell.commands] for cell in cells] == [
        ["cslc", "cs_python"],
        ["cslc", "cs_python"],
        ["cslc", "cslc", "cs_python"],
    ]
    assert cells[0].commands[0] == (
        "cslc",
        "--arch=wse2",
        "./layout.csl",
        "--fabric-dims=8,3",
        "-o",
        "out-1D",
    )


def test_a_folder_without_command_scripts_is_an_error(tmp_path):
    """A wrong path must not look like a success."""
    with pytest.raises(ValueError, match="holds no command script"):
        find_cells(tmp_path)


def test_a_cell_runs_in_a_copy_and_tells_how_it_ended(tmp_path):
    """The examples stay as they are; the message is the line that says what went wrong."""
    examples = written(tmp_path, "cs_python run.py good\ncs_python run.py bad\ncs_python slow.py\n")
    home = examples / "tutorials" / "one"
    (home / "run.py").write_text(
        "import sys\nopen('mark', 'w')\nassert sys.argv[1] == 'good', 'wrong answer'\n"
    )
    (home / "slow.py").write_text("import time\ntime.sleep(60)\n")
    before = sorted(home.iterdir())

    cells = find_cells(examples)
    good, bad, slow = (
        run_cell(cell, examples, tmp_path / "s", limit_s=limit_s)
        for cell, limit_s in zip(cells, (20, 20, 2), strict=True)
    )

    assert (good.passed, bad.passed, slow.passed) == (True, False, False)
    assert bad.message == "cs_python: AssertionError: wrong answer"
    assert slow.message == "cs_python: longer than 2 s"
    assert sorted(home.iterdir()) == before
    assert shutil.which("cslc", path=str(tmp_path / "s" / "bin"))


def test_the_table_has_a_line_for_each_cell_and_a_sum():
    """What a reader of the log wants to know."""
    cell = Cell(Path("tutorials/one"), "wse2", 1, ())

    text = table([Result(cell, True, 1.25), Result(cell, False, 2.0, "cslc: no")])

    assert text.splitlines()[0].split() == ["tutorials/one", "wse2", "1", "ok", "1.2", "s"]
    assert text.splitlines()[-1] == "1 of 2 cells passed in 3 s"
