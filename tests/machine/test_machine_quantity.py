"""Quantity, Contested and derive: what a number must carry, and how it is written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openwafer.base import InputError
from openwafer.machine import Grade, Quantity, assumed, contested, derive, measured, published


def _pub(value: float, unit: str = "PEs", anchor: str = "entry") -> Quantity:
    return published(value, unit, anchor, "a test")


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (850e6, "Hz", "850 MHz"),
        (1.1e9, "Hz", "1.1 GHz"),
        (49_152, "B", "48 KiB"),
        (48_000, "B", "48,000 B"),
        (256, "B", "256 B"),
        (0, "B", "0 B"),
        (128e9, "B", "128 GB"),
        (1128 * 2**30, "B", "1,128 GiB"),
        (19.904860e15, "B/s", "19.9 PB/s"),
        (220e15, "b/s", "220 Pb/s"),
        (4e18, "FLOP/s", "4 EFLOP/s"),
        (0.030, "W", "30 mW"),
        (753_972, "PEs", "753,972 PEs"),
        (1, "cycles", "1 cycle"),
        (1, "wavelets/cycle", "1 wavelet/cycle"),
        (0.00305011, "per system", "0.00305 per system"),
    ],
)
def test_a_number_is_written_with_the_prefix_that_people_use(value: float, unit: str, text: str) -> None:
    """docs/facts.md and the tables share one spelling, so a number can be searched for."""
    assert _pub(value, unit).text == text


def test_int_refuses_to_cut_off_a_fraction() -> None:
    """A count of PEs that is not whole is a mistake in its formula, and rounding would hide it."""
    assert int(_pub(757)) == 757
    assert float(_pub(2.92)) == 2.92
    with pytest.raises(InputError, match=r"entry: 2.92 PEs is not a whole number; use float\(\)"):
        int(_pub(2.92))


@given(a=st.integers(1, 10**6), b=st.integers(1, 10**6), c=st.integers(1, 10**6))
def test_derive_computes_its_formula_exactly_on_integers(a: int, b: int, c: int) -> None:
    """PE counts times bytes pass 2**53 soon; integers must not lose digits."""
    parts = {"a": _pub(a), "b": _pub(b), "c": _pub(c)}

    derived = derive("a * b - (c + 1) * 2", "PEs", "entry", "a test", parts)

    assert derived.value == a * b - (c + 1) * 2
    assert derived.grade is Grade.DERIVED


def test_a_number_computed_from_an_assumed_part_is_assumed() -> None:
    """Arithmetic makes nothing more certain; a report must not call it derived."""
    parts = {"a": _pub(2), "b": assumed(3, "PEs", "other", "a guess")}

    assert derive("a * b", "PEs", "entry", "a test", parts).grade is Grade.ASSUMED


def test_a_contested_part_enters_with_its_recommended_value() -> None:
    """A derived number follows the default, so changing a default changes all that rests on it."""
    width = contested(_pub(757), _pub(750), reason="a test")

    assert derive("w * 2", "PEs", "product", "a test", {"w": width}).value == 1514


def test_the_origin_of_a_derived_number_shows_its_parts() -> None:
    """A reader can redo the arithmetic without opening the code."""
    parts = {"pes": _pub(753_972), "clock": _pub(1.1e9, "Hz")}

    derived = derive("pes * 24 * clock", "B/s", "entry", "arithmetic", parts)

    assert derived.origin == "753,972 PEs × 24 × 1.1 GHz; arithmetic"  # noqa: RUF001


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("a * b", "names 'b', which is not among its parts"),
        ("2 * 3", "does not use a; drop the part"),
        ("a / 0", "divides by zero"),
        ("a *", "cannot be read"),
        ("a ** 2", "only names, numbers"),
        ("abs(a)", "only names, numbers|names 'abs'"),
    ],
)
def test_a_formula_that_is_not_plain_arithmetic_is_refused(formula: str, message: str) -> None:
    """Formulas are data: they are read and printed, and never run as code."""
    with pytest.raises(InputError, match=message):
        derive(formula, "PEs", "entry", "a test", {"a": _pub(2)})


def test_a_number_without_a_source_is_refused() -> None:
    """A number that nobody stands behind is not a fact."""
    with pytest.raises(InputError, match="has no source; say where it comes from"):
        published(1, "PEs", "entry", " ")


def test_a_computed_number_cannot_be_called_measured() -> None:
    """The grades would lie: nobody measured it."""
    with pytest.raises(InputError, match="is computed, so it is not measured"):
        Quantity(value=2, unit="PEs", grade=Grade.MEASURED, source="x", anchor="entry", formula="a * 2")


def test_a_derived_number_needs_its_formula() -> None:
    """Without it nobody can compute it again."""
    with pytest.raises(InputError, match=r"make it with derive\(\)"):
        Quantity(value=2, unit="PEs", grade=Grade.DERIVED, source="x", anchor="entry")


def test_an_infinite_value_or_an_anchor_with_spaces_is_refused() -> None:
    """Both would surface far away: in a performance estimate, or as a dead link in the facts."""
    with pytest.raises(InputError, match="give a finite value"):
        _pub(float("inf"))
    with pytest.raises(InputError, match="lower-case words joined by hyphens"):
        _pub(1, anchor="PE sram")


def test_only_numbers_of_one_entry_and_unit_can_contest_each_other() -> None:
    """850 MHz does not contradict 48 KiB."""
    with pytest.raises(InputError, match="give both the same entry and unit"):
        contested(_pub(1), _pub(2, unit="rows"), reason="a test")
    with pytest.raises(InputError, match="twice is agreement"):
        contested(_pub(1), _pub(1), reason="a test")
    with pytest.raises(InputError, match="needs an alternative"):
        contested(_pub(1), reason="a test")


def test_a_contested_number_reads_like_its_recommended_value() -> None:
    """Callers that take the default need not know that there was a choice."""
    clock = contested(_pub(850e6, "Hz"), measured(875e6, "Hz", "entry", "a clock"), reason="a test")

    assert (clock.value, clock.unit, clock.text) == (850e6, "Hz", "850 MHz")
    assert (clock.grade, clock.source, clock.anchor) == (Grade.PUBLISHED, "a test", "entry")
    assert (int(clock), float(clock)) == (850_000_000, 850e6)
    assert [other.text for other in clock.alternatives] == ["875 MHz"]
