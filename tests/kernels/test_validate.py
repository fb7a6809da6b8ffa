"""The comparison with published cycles: its rows, its programs, and what it promises."""

import dataclasses
import json

import pytest
from typer.testing import CliRunner

from openwafer.cli._app import app
from openwafer.fabric import TimingValue, load_timing
from openwafer.kernels.validate import BOUNDS, ROWS, Bench, Result, results_json, summarise, validate


def rows(*names):
    found = [row for row in ROWS if any(name in row.name for name in names)]
    assert found
    return found


def test_facts_of_the_network_are_exact():
    """Hop latency, link throughput, contention, the way from send to task: nothing there is fitted, all of it must hold."""
    results = validate([row for row in ROWS if row.bound == "exact"])
    assert len(results) >= 9
    assert [one.row.name for one in results if not one.holds] == []


def test_banks_decide_what_a_long_multiply_add_takes():
    """Series S measured one code twice, 5,130 and 10,254 cycles: the only difference is where the sources begin."""
    apart, conflict = validate(rows("multiply-add of 5124"))
    assert apart.holds
    assert conflict.holds
    assert conflict.simulated > 1.9 * apart.simulated


def test_programs_follow_the_timing_table():
    """The comparison would be worth nothing if it gave the same numbers whatever the table says."""
    table = load_timing("wse3")
    slower = dataclasses.replace(
        table,
        entries={**table.entries, "network.hop_cycles": TimingValue((5,), "assumed", "a test")},
    )
    (row,) = [row for row in rows("hop latency") if row.architecture == "wse3"]
    (result,) = validate([row], {"wse3": slower})
    assert result.simulated == 5
    assert result.holds is False


def test_every_program_gives_the_same_number_twice():
    """Cycles are a property of program and table, not of the run."""
    some = rows("3 x 3 cells a PE, radius 2", "SUMMA", "printing")
    assert validate(some, bench=Bench()) == validate(some, bench=Bench())


def test_rows_are_split_by_their_number():
    """Three of five rows take part in fitting: nobody chose them, and enough are held out."""
    free = [row for row in ROWS if row.bound in ("vector", "scalar") and not row.remark]
    fitted = [row for row in free if row.fitted]
    assert 0.5 < len(fitted) / len(free) < 0.7
    assert not any(row.fitted for row in ROWS if row.bound not in ("vector", "scalar") or row.remark)
    assert [row.number for row in ROWS] == list(range(len(ROWS)))


def test_error_is_from_the_nearest_end_of_a_range():
    """Some cycles were published as a range: inside of it there is no error."""
    row = next(row for row in ROWS if row.low != row.high and row.low > 100)
    assert row.error(row.low) == row.error(row.high) == 0
    assert row.error(row.high * 1.1) == pytest.approx(0.1)
    assert row.error(row.low * 0.9) == pytest.approx(-0.1)


def test_rows_without_a_promise_neither_hold_nor_fail():
    """Where start and end of a published time are unknown, a verdict would be a guess."""
    row = next(row for row in ROWS if BOUNDS[row.bound] is None)
    assert Result(row, 10 * row.high).holds is None
    assert "exact" not in {one.name for one in summarise([Result(row, row.high)])}


def test_json_says_for_each_row_what_it_was_measured_against():
    """Who plots the comparison needs bound, source and split as well as the numbers."""
    document = results_json(validate(rows("hop latency")))
    assert {row["architecture"] for row in document["rows"]} == {"wse2", "wse3"}
    assert all(row["holds"] and row["source"] and row["kind"] == "exact" for row in document["rows"])
    assert document["summary"][0]["held"] == 2


def test_the_command_refuses_an_architecture_that_it_does_not_know():
    """A wrong name must not run nothing and succeed."""
    result = CliRunner().invoke(app, ["fabric", "validate", "--architecture", "wse9"])
    assert result.exit_code == 1
    assert "wse2 or wse3" in str(result.exception)


def file_of_rows(folder, **changes):
    row = {
        "name": "mine",
        "architecture": "wse3",
        "measure": "hop_cycles",
        "published": [2, 2],
        "kind": "exact",
        **changes,
    }
    path = folder / "rows.json"
    path.write_text(json.dumps({"rows": [row]}))
    return path


def run_command(*arguments):
    return CliRunner().invoke(app, ["fabric", "validate", *map(str, arguments)])


def test_the_command_fails_if_a_row_is_beyond_its_bound(tmp_path):
    """Its status is what a script looks at: no row is let off."""
    assert run_command("--rows", file_of_rows(tmp_path)).exit_code == 0
    beyond = run_command("--rows", file_of_rows(tmp_path, published=[3, 3]))
    assert beyond.exit_code == 1
    assert "NO" in beyond.output


def test_own_rows_run_the_same_programs(tmp_path):
    """Who measured another tile can set it beside the simulator without touching this package."""
    path = file_of_rows(
        tmp_path,
        measure="tile_cycles",
        params={"columns": 5, "rows": 5, "radius": 2},
        published=[635, 635],
        kind="vector",
    )
    document, picture = tmp_path / "out.json", tmp_path / "out.png"
    assert run_command("--rows", path, "--json", document, "--picture", picture).exit_code == 0
    (row,) = json.loads(document.read_text())["rows"]
    assert not row["fitted"]
    assert row["simulated"] > 500
    assert picture.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"measure": "tile"}, "measure 'tile' is not known; choose of hop_cycles"),
        (
            {"measure": "tile_cycles", "params": {"rows": 5}},
            "tile_cycles lacks columns, radius; its params are",
        ),
        ({"params": {"rows": 5}}, "hop_cycles does not take rows; its params are: none"),
        ({"published": [3, 2]}, "published is [3.0, 2.0]"),
        ({"kind": "rough"}, "is not a file of rows"),
    ],
)
def test_wrong_rows_are_told_by_number_and_name(tmp_path, changes, text):
    """A file of a hundred rows has one typing error: the message has to say where."""
    result = run_command("--rows", file_of_rows(tmp_path, **changes))
    assert result.exit_code == 1
    assert text in str(result.exception)


def test_a_missing_file_of_rows_is_told(tmp_path):
    """Not a traceback."""
    result = run_command("--rows", tmp_path / "no.json")
    assert "cannot be read" in str(result.exception)
