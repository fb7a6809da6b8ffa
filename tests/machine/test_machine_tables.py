"""`wafer machine` prints every number with its grade and source."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from openwafer.base import InputError
from openwafer.cli._machine import show_machines
from openwafer.machine import MACHINES, Machine, facts_of, find_machine, part_of


def _printed(name: str | None, width: int = 400) -> str:
    out = io.StringIO()
    show_machines(name, Console(file=out, width=width, color_system=None))
    return out.getvalue()


def test_the_overview_names_every_machine_with_graded_numbers() -> None:
    """Someone who knows no name yet starts here."""
    text = _printed(None)

    assert all(name in text for name in MACHINES)
    assert "753,972 PEs* derived" in text
    assert "850 MHz* published" in text
    assert "2 cycles* measured" in text


@pytest.mark.parametrize("name", MACHINES)
def test_a_machine_shows_all_numbers_of_itself_and_of_what_is_inside(name: str) -> None:
    """Values, grades, sources, entries and contradictions: nothing of the data is left out."""
    lines = _printed(name).splitlines()
    machine: Machine | None = find_machine(name)
    while machine is not None:
        for path, fact in facts_of(machine):
            (line,) = [line for line in lines if f"│ {path} " in line and f"#{fact.anchor} " in line]
            star = "* " if fact.alternatives else "  "
            assert f"│ {star}{fact.text} " in line
            assert f"│ {fact.grade.value} " in line
            assert f"│ {fact.recommended.origin} " in line
            for other in fact.alternatives:
                assert any(
                    other.text in row and other.grade.value in row and other.origin in row for row in lines
                )
        machine = part_of(machine)


def test_the_reason_of_a_default_is_printed_under_it() -> None:
    """A star alone would ask for trust."""
    lines = _printed("wse2").splitlines()
    (row,) = [number for number, line in enumerate(lines) if "clock.default_hz" in line]

    assert "convert with it" in lines[row + 1]
    assert "1.1 GHz" in lines[row + 2]


def test_a_narrow_terminal_wraps_without_losing_text() -> None:
    """Tables are read in split windows as well; rich folds cells instead of cutting them."""
    assert "…" not in _printed("CS-3", width=80)


def test_an_unknown_machine_is_an_input_error_and_prints_nothing() -> None:
    """The command line turns it into one line and an exit code."""
    out = io.StringIO()
    with pytest.raises(InputError, match="did you mean 'CS-3'"):
        show_machines("cs33", Console(file=out))
    assert out.getvalue() == ""
