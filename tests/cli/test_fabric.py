"""`wafer fabric` and what `wafer csl` tells of programs and runs, on a small program of two PEs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from openwafer.cli import main
from openwafer.fabric import load_trace

SCRIPT = """
from cerebras.sdk.runtime.sdkruntimepybind import SdkRuntime
runner = SdkRuntime("out")
runner.load(); runner.run(); runner.launch("compute", nonblock=False); runner.stop()
"""
PROGRAM = """
param memcpy_params;
const memcpy = @import_module("<memcpy/memcpy>", memcpy_params);
var numbers = @zeros([100]f32);
const all = @get_dsd(mem1d_dsd, .{ .base_address = &numbers, .extent = 100 });
fn compute() void {
  @fadds(all, all, 1.0);
  memcpy.unblock_cmd_stream();
}
comptime {
  @export_symbol(compute);
}
"""
PLACED = """
const memcpy = @import_module("<memcpy/get_params>", .{ .width = 2, .height = 1 });
layout {
  @set_rectangle(2, 1);
  for (@range(i16, 2)) |x| { @set_tile_code(x, 0, "pe.csl", .{ .memcpy_params = memcpy.get_params(x) }); }
  @export_name("compute", fn()void);
}
"""


@pytest.fixture
def compiled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a program that has been compiled to `out`, with a script that runs it."""
    monkeypatch.chdir(tmp_path)
    for name in ("WAFER_TRACE", "WAFER_TIME"):
        monkeypatch.setenv(name, "")
    for name, text in (("pe.csl", PROGRAM), ("layout.csl", PLACED), ("run.py", SCRIPT)):
        (tmp_path / name).write_text(text)
    assert wafer(monkeypatch, "csl", "compile", "layout.csl", *FLAGS, "-o", "out") == 0
    return tmp_path


FLAGS = ("--arch=wse3", "--fabric-dims=9,3", "--fabric-offsets=4,1", "--memcpy", "--channels=1")


def wafer(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["wafer", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_report_counts_what_programs_take(
    compiled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """PEs that run one program are one; a layout is compiled for it; JSON has the same numbers."""
    assert wafer(monkeypatch, "csl", "report", "out") == 0
    tables = capsys.readouterr().out
    assert wafer(monkeypatch, "csl", "report", "--json", "layout.csl", *FLAGS) == 0
    made = json.loads(capsys.readouterr().out)

    assert "pe.csl on 2 tiles" in tables
    assert re.search(r"numbers +\[100\]f32 +0x[0-9a-f]{4} +400", tables)
    (program,) = made["programs"]
    assert program["memory_bytes"] == 48 * 1024
    assert sum(program["bank_bytes"]) == program["symbol_bytes"] >= 400
    assert program["functions"] == ["compute"]


def test_a_run_is_traced_and_exported(
    compiled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options before the script are wafer's; the trace file then gives the table, the page, JSON and text."""
    assert wafer(monkeypatch, "csl", "run", "--time", "--trace", "a.trace", "run.py") == 0
    told = capsys.readouterr().err
    assert wafer(monkeypatch, "fabric", "trace", "a.trace") == 0
    again = capsys.readouterr().out
    exports = ("--html", "a.html", "--chrome", "a.json", "--text", "a.txt")
    assert wafer(monkeypatch, "fabric", "export", "a.trace", *exports) == 0

    assert re.search(r"launch compute +at cycle .* cycles on 2 PEs", told)
    assert told.splitlines()[-3:] == again.splitlines()[-3:]
    assert load_trace(Path("a.trace")).records.size > 0
    assert "compute" in (compiled / "a.html").read_text()
    assert any(
        event["name"] == "@fadds" for event in json.loads((compiled / "a.json").read_text())["traceEvents"]
    )
    assert "FADDS" in (compiled / "a.txt").read_text()


def test_exports_do_not_overwrite_each_other_or_folders(
    compiled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder in place of a file is a sentence for each form; a text file is replaced and not added to."""
    assert wafer(monkeypatch, "csl", "run", "--trace", "a.trace", "run.py") == 0
    (compiled / "folder").mkdir()

    for option in ("--html", "--chrome", "--text"):
        assert wafer(monkeypatch, "fabric", "export", "a.trace", option, "folder") == 1
        assert "cannot be written: Is a directory" in " ".join(capsys.readouterr().err.split())
    sizes = []
    for _ in range(2):
        assert wafer(monkeypatch, "fabric", "export", "a.trace", "--text", "a.txt") == 0
        sizes.append((compiled / "a.txt").stat().st_size)
    assert sizes[0] == sizes[1] > 0


def test_mistakes_are_sentences(
    compiled: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is missing, and what to write."""
    (compiled / "b.trace").write_text("nothing")

    for arguments, text in (
        (("fabric", "export", "b.trace"), "give --chrome, --text or --html"),
        (("fabric", "export", "b.trace", "--html", "x"), "is no trace of a fabric"),
        (("fabric", "trace", "none"), "cannot be read"),
        (("fabric", "export", "b.trace", "--html", "./b.trace"), "would replace the trace"),
        (
            ("fabric", "export", "b.trace", "--html", "c", "--text", "c"),
            "--html c would replace what --text writes",
        ),
        (("csl", "report", "nowhere"), "compile it first"),
        (("csl", "report", "out", "--arch=wse2"), "flags are for layouts"),
    ):
        assert wafer(monkeypatch, *arguments) == 1
        assert text in " ".join(capsys.readouterr().err.split())
