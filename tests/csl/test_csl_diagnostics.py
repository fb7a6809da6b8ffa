"""What a user reads when a program is wrong."""

from __future__ import annotations

import pytest
from csl_cases import message, wrong_programs

from openwafer.csl import Diagnostic, Source, Span, render

PROGRAMS = wrong_programs()


@pytest.mark.parametrize(("program", "expected"), [pytest.param(*one[1:], id=one[0]) for one in PROGRAMS])
def test_a_wrong_program_gets_this_message(program, expected):
    """The place, the caret, what was expected and found, how to mend it; and nothing that only follows from it."""
    assert message(program) == expected


def test_there_are_enough_wrong_programs():
    """The file must not be cut off unnoticed."""
    assert len(PROGRAMS) >= 70
    assert all(expected.startswith("t.csl:") for _, _, expected in PROGRAMS)


def test_many_errors_are_counted_and_not_all_shown():
    """Twenty are more than anyone mends before the next run."""
    text = message("const = 1;\n" * 50)

    assert text.count(": error: ") == 20
    assert text.endswith("... and 30 more errors; mend these first")


def test_an_error_inside_a_function_leaves_the_others_to_be_checked():
    """One run reports what is wrong in each of them."""
    text = message(
        "fn f() void { a = ; }\nfn g() void { b = 1; c = ); }\nconst d = 1;\nfn h() void { return }\n"
    )

    assert [line.split(":")[1:3] for line in text.splitlines() if ": error: " in line] == [
        ["1", "19"],
        ["2", "26"],
        ["4", "21"],
    ]


def test_a_caret_stands_below_its_text_whatever_stands_before():
    """Tabs stay tabs, wide characters take two columns, accents that combine take none."""
    source = Source("t.csl", '\tx = "日e\u0301" + bad;')
    start = source.text.index("bad")

    lines = render(Diagnostic(span=Span(source, start, start + 3), message="no")).splitlines()

    assert lines[0] == "t.csl:1:14: error: no"
    assert lines[2] == "      | \t" + " " * 12 + "^~~"


def test_a_span_over_lines_is_underlined_to_the_end_of_its_first():
    """The caret line belongs to one line of the text."""
    source = Source("t.csl", "ab cd\nef")

    assert render(Diagnostic(span=Span(source, 3, 8), message="no")).splitlines()[2] == "      |    ^~"
