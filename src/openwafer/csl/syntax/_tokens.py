"""The words of CSL."""

from __future__ import annotations

from typing import Final, NamedTuple


def words(text: str) -> list[str]:
    """The words of a text, so that a long table of them stays readable."""
    return text.split()


KEYWORDS: Final = frozenset(
    words(
        "align and anytype asm break comptime const continue else enum export extern false fn for if inline "
        "layout linkname linksection or param return struct switch task true union var while"
    )
)
"""Words that no declaration may take as its name.

`noinline`, `packed` and `volatile` have a meaning only where they stand and remain free as names. Members and
fields may have any name: nothing but a name can follow their dot.
"""

OPERATORS: Final = words(
    "<<= >>= ... += -= *= /= %= &= |= ^= == != <= >= << >> => -> .* && || ++ "
    "( ) { } [ ] , ; : . = + - * / % & | ^ ~ ! < >"
)
"""Longest first. `&&`, `||` and `++` are no operators: they are words so that errors can name them."""

PRECEDENCE: Final = {
    "or": 1,
    "and": 2,
    **dict.fromkeys(words("== != < > <= >="), 3),
    **dict.fromkeys(words("& ^ |"), 4),
    **dict.fromkeys(words("<< >>"), 5),
    **dict.fromkeys(words("+ -"), 6),
    **dict.fromkeys(words("* / %"), 7),
}
"""Binary operators, from loosest to tightest. Bits bind tighter than comparisons, as in Zig and not in C."""

COMPARISON: Final = 3
ASSIGNMENTS: Final = frozenset(words("= += -= *= /= %= <<= >>= &= |= ^="))
PREFIXES: Final = frozenset(words("- ~ ! &"))


class Token(NamedTuple):
    """A word and its place.

    `kind` is the text itself for keywords and operators, else name, builtin, integer, float, string,
    character, end, or bad: something that the lexer has reported already.
    """

    kind: str
    text: str
    start: int
    end: int
