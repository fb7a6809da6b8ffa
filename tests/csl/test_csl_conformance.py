"""The public programs, where somebody has them: `pytest -m conformance --csl-examples=DIR`."""

from __future__ import annotations

from pathlib import Path

import pytest

from openwafer.csl import Source
from openwafer.csl.syntax import parse, print_file


def programs_of(folder: str) -> list[Path]:
    """The CSL files of a folder; none is an error, as nothing would be tested."""
    found = sorted(Path(folder).rglob("*.csl"))
    if not found:
        raise pytest.UsageError(f"--csl-examples={folder} holds no .csl file; name a folder that does")
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "program" in metafunc.fixturenames:
        folder = metafunc.config.getoption("--csl-examples")
        if folder is None:
            skip = pytest.mark.skip(reason="--csl-examples=DIR names the folder of programs to read")
            metafunc.parametrize("program", [pytest.param(None, marks=skip)])
        else:
            programs = programs_of(folder)
            ids = [path.relative_to(folder).as_posix() for path in programs]
            metafunc.parametrize("program", programs, ids=ids)


@pytest.mark.conformance
def test_a_public_program_parses_and_comes_back(program):
    """Existing programs are read unmodified, and their trees lose nothing."""
    file = parse(Source.read(program), dialect="1.4")

    assert parse(Source("printed", print_file(file)), dialect="1.4") == file


def test_a_folder_without_programs_is_an_error(tmp_path):
    """A wrong path must not look like a success."""
    with pytest.raises(pytest.UsageError, match=r"holds no \.csl file"):
        programs_of(str(tmp_path))
