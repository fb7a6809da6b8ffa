"""The CSL tutorial is true: its code is that of the programs in examples/csl, and its output is what comes out.

A block headed with a file is a part of that file. A console block is carried out as it stands, and its output compared;
figures of cycles may differ by a quarter, as the timing tables are fitted again from time to time.
"""

from __future__ import annotations

import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from openwafer.compat import cs_python, cslc

ROOT = Path(__file__).parents[2]
PROGRAMS = ROOT / "examples" / "csl"
TEXT = (ROOT / "docs" / "csl-tutorial.md").read_text()
README = (ROOT / "README.md").read_text()
STEPS = sorted(folder.name for folder in PROGRAMS.iterdir() if folder.is_dir())
SHOWN = re.findall(r"^```(?:csl|python) (\S+)\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
WSE3_ONLY = {"12_microthreads"}
CYCLES = re.compile(r"\d+(?= cycles)")

Session = list[tuple[str, str]]
"""Commands with their outputs."""


def sessions(text: str) -> dict[str, Session]:
    """Of each step all its commands, in order."""
    found: dict[str, Session] = {}
    step = ""
    for block in re.findall(r"^```console\n\$ (.*?)^```", text, re.MULTILINE | re.DOTALL):
        for part in block.split("\n$ "):
            command, _, output = part.partition("\n")
            if command.startswith("cd "):
                step = Path(command.split()[1]).name
                found[step] = []
            else:
                found[step].append((command, output.strip("\n")))
    return found


SESSIONS = sessions(TEXT)


@pytest.fixture
def carry_out(tmp_path, monkeypatch, capsys):
    """A function that carries a command out in a copy of a step's folder, and gives its status and output."""

    def command(step: str, line: str) -> tuple[int, str]:
        folder = tmp_path / step
        if not folder.exists():
            shutil.copytree(PROGRAMS / step, folder)
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "path", list(sys.path))
        monkeypatch.setattr(sys, "argv", list(sys.argv))
        words = shlex.split(line)
        capsys.readouterr()
        status = 0
        if words[:3] == ["wafer", "csl", "compile"]:
            status = cslc(words[3:])
        elif words[:3] == ["wafer", "csl", "run"]:
            status = cs_python(words[3:])
        elif words[0] == "python":
            monkeypatch.setenv("MPLBACKEND", "Agg")
            sys.argv = words[1:]
            runpy.run_path(words[1], run_name="__main__")
        else:
            status = subprocess.run(line, shell=True, check=True).returncode
        shown = capsys.readouterr()
        return status, (shown.out + shown.err).strip("\n")

    return command


@pytest.mark.parametrize(("name", "code"), SHOWN, ids=[f"{i}-{name}" for i, (name, _) in enumerate(SHOWN)])
def test_code_that_is_shown_is_the_programs(name, code):
    """Else the reader would study something that nobody has run."""
    assert code in (PROGRAMS / name).read_text(), name


def test_every_program_is_run_and_shown():
    """A step without a console block, or a block without a file, would go unnoticed."""
    assert list(SESSIONS) == STEPS
    assert {name.partition("/")[0] for name, _ in SHOWN} == set(STEPS)
    assert all(any("csl run" in line for line, _ in session) for session in SESSIONS.values())


@pytest.mark.parametrize("step", STEPS)
def test_the_consoles_show_what_comes_out(step, carry_out):
    """Command by command, and errors with their whole text."""
    for line, output in SESSIONS[step]:
        status, found = carry_out(step, line)

        assert CYCLES.sub("N", found) == CYCLES.sub("N", output), line
        shown = [float(cycles) for cycles in CYCLES.findall(output)]
        assert [float(cycles) for cycles in CYCLES.findall(found)] == pytest.approx(shown, rel=0.25), line
        assert (status != 0) == ("error: " in output), line


def test_the_readme_shows_what_comes_out(carry_out):
    """The first program that a visitor runs."""
    ((step, session),) = sessions(README).items()
    for line, output in session:
        assert carry_out(step, line) == (0, output)


@pytest.mark.parametrize("step", [step for step in STEPS if step not in WSE3_ONLY])
def test_the_programs_run_on_the_wse3_as_well(step, carry_out):
    """Each host program checks its answer; what stalls on the one architecture stalls on the other."""
    for line, output in SESSIONS[step]:
        status, found = carry_out(step, line.replace("csl compile", "csl compile --arch=wse3"))

        assert (status != 0) == ("error: " in output), found
