"""PE-IR as text."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from ir_strategies import units

from openwafer.base import CslError
from openwafer.csl import ir


@settings(max_examples=60, deadline=None)
@given(unit=units())
def test_a_printed_unit_reads_back_as_the_same_unit(unit: ir.Unit) -> None:
    """Code keeps its IR as text, and the interpreter reads it: nothing may get lost."""
    assert ir.parse_unit(ir.print_unit(unit)) == unit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('unit "a" wse4 f16', "line 1, column 10: expected an architecture, found 'wse4'"),
        ('unit "a" wse2 f16\nwhat', "line 2, column 1: expected a declaration"),
        (
            'unit "a" wse2 f16\nfn f() void {\n^1:\n  return\n}',
            "line 3, column 1: blocks are numbered in order",
        ),
        (
            'unit "a" wse2 f16\nfn f() void {\n^0:\n  %0 = set %a, 1',
            "expected an instruction that gives a value",
        ),
        ('unit "a" wse2 f16\nfn f() void {\n^0:\n  copy @a, 3', "expected a number, found ','"),
        ('unit "a" wse2 f16\nsymbol @x: 4 align 2 "i32" = hex "0g"', "no bytes in hexadecimal"),
        ('unit "a" wse2 f16\nfn f() void {\n^0:\n  jump 1.5', "line 4, column 8: expected '^'"),
        ('unit "a" wse2 f16 ~', "line 1, column 19: expected a word, found '~'"),
        ('unit "a" wse2 f16\nfn f() void {\n^0:\n', "found 'the end of the text'"),
    ],
)
def test_a_wrong_text_is_refused_at_its_line_and_column(text: str, message: str) -> None:
    """The text is written by hand in tests, and read from files."""
    with pytest.raises(CslError) as caught:
        ir.parse_unit(text)
    assert message in str(caught.value)
