"""`wafer csl`: what it prints where, and how it ends."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from openwafer.base import CslError, InputError
from openwafer.cli._app import app
from openwafer.csl import Source


def wafer(*words: object):
    return CliRunner().invoke(app, ["csl", *map(str, words)])


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "good.csl"
    path.write_text("param n:i16;// size\nfn f()void{return;}")
    return path


def test_check_counts_the_declarations_of_a_right_file(good):
    """One line a file, and success."""
    result = wafer("check", good)

    assert (result.exit_code, result.stdout) == (0, f"{good}: ok: 2 declarations\n")


def test_check_tells_the_errors_of_every_file_on_stderr(good, tmp_path):
    """A script sees the status, a person the places; one bad file hides no other."""
    bad = tmp_path / "bad.csl"
    bad.write_text("const a = ;\n")

    result = wafer("check", bad, good)

    assert result.exit_code == 1
    assert result.stdout == f"{good}: ok: 2 declarations\n"
    assert result.stderr.startswith(f"{bad}:1:11: error: expected an expression, found `;`\n")


def test_check_takes_the_dialect(tmp_path):
    """2.10 has constructs that 1.4 has not."""
    path = tmp_path / "new.csl"
    path.write_text("const p = packed struct { x: u3 };\n")

    assert wafer("check", path).exit_code == 1
    assert wafer("check", "--dialect", "2.10", path).exit_code == 0
    assert isinstance(wafer("check", "--dialect", "3", path).exception, InputError)


def test_print_gives_the_canonical_text(good):
    """Two files that say the same print the same."""
    assert wafer("print", good).stdout == "param n: i16;\n\nfn f() void {\n  return;\n}\n"


def test_a_file_that_cannot_be_read_is_a_sentence(tmp_path):
    """Missing, or not text."""
    path = tmp_path / "bytes.csl"
    path.write_bytes(b"const a\n= \xff;")

    with pytest.raises(InputError, match=r"missing\.csl cannot be read: No such file"):
        Source.read(tmp_path / "missing.csl")
    with pytest.raises(CslError, match=r"bytes\.csl:2: byte 10 is not UTF-8"):
        Source.read(path)
    assert wafer("check", path).exit_code == 1
