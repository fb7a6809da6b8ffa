"""Tokens of MLIR text, and errors that show the line.

One regular expression takes whole types, locations and constants at once where they nest nothing, because a
program of a large model has millions of characters.
"""

from __future__ import annotations

import re
from typing import NoReturn

from openwafer.base import CirhError

_TOKEN = re.compile(
    r"""
    (?P<space>(?:\s+|//[^\n]*)+)
  | (?P<value>%[\w$.-]+(?:[#:]\d+)?)
  | (?P<tensor>tensor<[^<>"]*>)
  | (?P<dense>dense<(?:[^<>"]*|"0x[0-9A-Fa-f]*")>)
  | (?P<place>loc\(\#\w+\)|loc\(unknown\))
  | (?P<arrow>->)
  | (?P<number>-?(?:0x[0-9A-Fa-f]+|\d+(?:\.\d*)?(?:[eE][-+]?\d+)?))
  | (?P<word>[A-Za-z_][\w.$]*)
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<alias>\#[\w.]+)
  | (?P<symbol>@(?:[\w$.-]+|"(?:[^"\\\n]|\\.)*"))
  | (?P<bang>![\w.]+)
  | (?P<punct>[(){}\[\]<>,:=*?+-])
    """,
    re.VERBOSE,
)
_PAREN = re.compile(r'"(?:[^"\\]|\\.)*"|[()]')
_NAMES = {
    "value": "a value (%name)",
    "word": "a name",
    "string": "a string",
    "number": "a number",
    "tensor": "a tensor type",
    "symbol": "a symbol (@name)",
    "end": "the end of the text",
}


class Scanner:
    """The tokens of a text, one ahead: `kind` and `text` are those of the token at hand, `start` is its place."""

    def __init__(self, text: str, name: str) -> None:
        self.source = text
        self.name = name
        self.start = 0
        self.end = 0
        self.kind = ""
        self.text = ""
        self._match = _TOKEN.match
        self.advance()

    def advance(self) -> str:
        """Go on to the next token; returns the text of the one at hand."""
        before = self.text
        while True:
            found = self._match(self.source, self.end)
            if found is None:
                self._end_or_stray()
                return before
            self.end = found.end()
            if found.lastgroup != "space":
                break
        self.start = found.start()
        self.kind = found.lastgroup or ""
        self.text = found.group()
        return before

    def _end_or_stray(self) -> None:
        self.start = self.end
        if self.end == len(self.source):
            self.kind, self.text = "end", ""
            return
        self.kind, self.text = "stray", self.source[self.end]
        self.fail(f"{self.text!r} begins nothing that MLIR has")

    def accept(self, text: str) -> bool:
        """Go past `text` if it is at hand."""
        if self.text == text and self.kind != "string":
            self.advance()
            return True
        return False

    def expect(self, text: str, after: str = "") -> None:
        """Go past `text`. Raises CirhError if something else is at hand."""
        if not self.accept(text):
            self.fail(f"expected {text!r}{f' {after}' if after else ''}, found {self.shown}")

    def take(self, kind: str, what: str = "") -> str:
        """The text of a token of this kind, and past it."""
        if self.kind != kind:
            self.fail(f"expected {what or _NAMES.get(kind, kind)}, found {self.shown}")
        return self.advance()

    def skip_parentheses(self) -> str:
        """The text up to the parenthesis that closes the one at hand, both included."""
        first = self.start
        depth = 0
        for found in _PAREN.finditer(self.source, first):
            if found.group() == "(":
                depth += 1
            elif found.group() == ")":
                depth -= 1
                if depth == 0:
                    self.end = found.end()
                    self.advance()
                    return self.source[first : found.end()]
        self.fail("this parenthesis is never closed")

    @property
    def shown(self) -> str:
        """The token at hand, for a message."""
        if self.kind == "end":
            return "the end of the text"
        return repr(self.text if len(self.text) < 40 else self.text[:37] + "...")

    @property
    def line(self) -> int:
        return self.source.count("\n", 0, self.start) + 1

    def fail(self, why: str, at: int | None = None) -> NoReturn:
        """Raise CirhError for the token at hand, or for the place `at`: file, line, column, the line itself."""
        place = self.start if at is None else at
        line = self.source.count("\n", 0, place) + 1
        begin = self.source.rfind("\n", 0, place) + 1
        end = self.source.find("\n", place)
        whole = self.source[begin : end if end >= 0 else len(self.source)]
        column = place - begin
        shown, mark = (whole, column) if len(whole) <= 120 else _around(whole, column)
        raise CirhError(
            f"{self.name}:{line}:{column + 1}: error: {why}\n{line:5d} | {shown}\n      | {' ' * mark}^"
        )


def _around(line: str, column: int) -> tuple[str, int]:
    """The part of a long line about a column, and the column in it."""
    first = max(0, column - 60)
    return line[first : first + 120], column - first
