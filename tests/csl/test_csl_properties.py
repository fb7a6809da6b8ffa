"""What holds for every text and every tree."""

from __future__ import annotations

from csl_cases import message
from csl_strategies import files
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openwafer.csl import Source
from openwafer.csl.syntax import parse, print_file, tokenize
from openwafer.csl.syntax._tokens import KEYWORDS, OPERATORS

few = settings(max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
words = st.sampled_from(
    [
        *sorted(KEYWORDS),
        *OPERATORS,
        *["a", "x", "1", "2.5", "0x", "'c'", "@as", "@", '"s"', '"', "#", "\n", "\t", "//", "é"],
    ]
)
programs = st.lists(words, max_size=60).map(" ".join) | st.lists(words, max_size=60).map("".join)


@few
@given(files())
def test_printing_and_parsing_give_the_tree_back(file):
    """So the printer writes every parenthesis, `;` and comma that the parser needs, and the parser loses nothing."""
    text = print_file(file)

    assert parse(Source("printed", text), dialect="2.10") == file
    assert print_file(parse(Source("printed", text), dialect="2.10")) == text


@few
@given(programs | st.text(max_size=80))
def test_tokens_and_the_gaps_between_them_are_the_text(text):
    """Nothing is read twice or passed over, and what is passed over is blank or a comment."""
    tokens, _ = tokenize(Source("t", text))
    at = 0

    for token in tokens:
        gap = text[at : token.start]
        assert token.text == text[token.start : token.end]
        assert all(not line.strip(" \t\r") or "//" in line for line in gap.split("\n"))
        at = token.end

    assert at == len(text)


@settings(few, max_examples=1000)
@given(programs | st.text(max_size=80))
def test_no_text_raises_anything_but_its_diagnostics(text):
    """A compiler that fails with a traceback has told its user nothing. `message` passes all other errors on."""
    found = message(text)

    if found:
        assert found.startswith("t.csl:")
