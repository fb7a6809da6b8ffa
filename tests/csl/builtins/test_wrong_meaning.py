"""What a user reads when builtins are used wrongly."""

from __future__ import annotations

import pytest
from meaning_cases import meaning, wrong_meanings

PROGRAMS = wrong_meanings()


@pytest.mark.parametrize(("name", "program", "expected"), [pytest.param(*one, id=one[0]) for one in PROGRAMS])
def test_a_wrong_program_gets_this_message(name, program, expected, tmp_path):
    """Place and caret, what is wrong, what would be right, how to mend it; and nothing that only follows from it."""
    assert meaning(name, program, tmp_path) == expected


def test_there_are_enough_wrong_programs():
    """The file must not be cut off unnoticed."""
    assert len(PROGRAMS) >= 90
    assert all(expected.startswith(("t.csl:", "<")) for _, _, expected in PROGRAMS)
