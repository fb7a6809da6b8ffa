"""What is wrong with a program, where, and how to mend it."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from openwafer.base import CslError
from openwafer.csl._source import Span

SHOWN = 20  # more errors than this in one run help nobody


@dataclass(frozen=True, slots=True)
class Note:
    """A second place that explains an error, such as the bracket that was never closed."""

    span: Span
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One error: its place, what is wrong, what would be right there, and how to mend it.

    `expected` and `found` describe the clash where there is one; `message` may then be empty.
    `hint` says what to write instead.
    """

    span: Span
    message: str = ""
    expected: str = ""
    found: str = ""
    hint: str = ""
    notes: tuple[Note, ...] = ()

    @property
    def headline(self) -> str:
        """The error in one line, without its place."""
        clash = f"expected {self.expected}, found {self.found}" if self.expected else ""
        return ": ".join(part for part in (self.message, clash) if part)


class DiagnosticError(CslError):
    """A program has errors; `diagnostics` holds all of them in the order of the text.

    The error's own text shows the first 20 of them with their lines.
    """

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(sorted(diagnostics, key=lambda one: (one.span.source.name, one.span[1:])))
        super().__init__(render_all(self.diagnostics))


def render_all(diagnostics: tuple[Diagnostic, ...]) -> str:
    """The first 20 errors as `render` shows them, and how many more there are."""
    parts = [render(one) for one in diagnostics[:SHOWN]]
    if len(diagnostics) > SHOWN:
        parts.append(f"... and {len(diagnostics) - SHOWN} more errors; mend these first")
    return "\n".join(parts)


def render(diagnostic: Diagnostic) -> str:
    """`file:line:column: error: ...`, the line with a caret below it, the hint, and the notes."""
    lines = [*_place(diagnostic.span, "error", diagnostic.headline)]
    if diagnostic.hint:
        lines.append(f"      = hint: {diagnostic.hint}")
    for note in diagnostic.notes:
        lines.extend(_place(note.span, "note", note.message))
    return "\n".join(lines)


def _place(span: Span, kind: str, message: str) -> list[str]:
    number, column = span.source.position(span.start)
    text = span.source.line(number)
    before, marked = text[: column - 1], text[column - 1 : column - 1 + span.end - span.start]
    caret = "^" + "~" * (sum(map(_columns, marked)) - 1)
    indent = "".join("\t" if char == "\t" else " " * _columns(char) for char in before)
    return [
        f"{span.source.name}:{number}:{column}: {kind}: {message}",
        f"{number:>5} | {''.join(map(_shown, text))}".rstrip(),
        f"      | {indent}{caret}",
    ]


def _shown(char: str) -> str:
    """A control character could move the cursor, so a replacement is shown."""
    return char if char == "\t" or unicodedata.category(char) not in ("Cc", "Cf", "Cs") else "\ufffd"


def _columns(char: str) -> int:
    """How many columns of a terminal a character takes."""
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1
