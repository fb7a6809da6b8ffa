"""A place in the tokens of a file: looking ahead, reporting, and going on after an error."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final, NoReturn, TypeVar

from openwafer.csl._diagnostics import Diagnostic, Note
from openwafer.csl._source import Source, Span
from openwafer.csl.syntax._ast import Dialect
from openwafer.csl.syntax._lexer import tokenize
from openwafer.csl.syntax._tokens import KEYWORDS, Token, words

DEEPEST: Final = 100
"""Nesting beyond this is an error: nobody reads it, and it must not exhaust Python's stack."""

_OUTER: Final = frozenset(("fn", "task", "param", "layout", "export", "extern"))
_STARTERS: Final = frozenset(words("const var return while for switch break continue if comptime inline"))
_CONTINUES: Final = frozenset(words("else ) , ; ] . => }"))

T = TypeVar("T")


class Panic(Exception):  # noqa: N818 - internal, and what it is called in parsers
    """An error was reported; the statement or declaration is given up."""


class Unclosed(Exception):  # noqa: N818
    """A block has no end; everything up to the next declaration is given up."""


class Cursor:
    """The current token, and what every part of the parser does with it.

    An error never stops the parse: `fail` reports it and raises Panic, and whoever parses a list of
    statements or declarations catches that and calls `skip_statement` or `skip_declaration`.
    """

    def __init__(self, source: Source, dialect: Dialect) -> None:
        self.source, self.dialect = source, dialect
        self.tokens, self.errors = tokenize(source)
        self.index, self.nesting = 0, 0
        self.token = self.tokens[0]
        self.kind = self.token.kind

    # --- moving -------------------------------------------------------------------------------------------

    def advance(self) -> Token:
        """Pass the current token and return it; the end of the file is never passed."""
        token = self.token
        if token.kind != "end":
            self.index += 1
            self.token = self.tokens[self.index]
            self.kind = self.token.kind
        return token

    def ahead(self, count: int = 1) -> Token:
        """The token `count` after the current one, or the end."""
        return self.tokens[min(self.index + count, len(self.tokens) - 1)]

    def accept(self, kind: str) -> bool:
        """Pass the current token if it is of this kind."""
        if self.kind != kind:
            return False
        self.advance()
        return True

    def expect(self, kind: str, hint: str = "", opened: Token | None = None) -> Token:
        """Pass a token of this kind, or fail; `opened` is the bracket that it would close."""
        if self.kind != kind:
            self.fail(f"`{kind}`", hint, opened)
        return self.advance()

    def name(self, of: str) -> str:
        """Pass the name of a new thing (`of` says what), or fail."""
        if self.kind in KEYWORDS:
            self.fail(f"the name of {of}", f"`{self.kind}` is a word of CSL; choose another name")
        if self.kind != "name":
            self.fail(f"the name of {of}")
        return self.advance().text

    def items(self, close: str, opened: Token, parse: Callable[[], T]) -> tuple[T, ...]:
        """Things between commas up to and with `close`; a comma may stand behind the last one."""
        found: list[T] = []
        while self.kind != close:
            found.append(parse())
            if not self.accept(",") and self.kind != close:
                self.fail(f"`,` or `{close}`", self._why_no_comma(), opened)
        self.advance()
        return tuple(found)

    def _why_no_comma(self) -> str:
        if self.kind != "=":
            return ""
        if self.tokens[self.index - 2].kind == ".":
            return f"is a comma missing before `.{self.tokens[self.index - 1].text}`?"
        return "`=` assigns, and only in a statement; compare with `==`"

    def span(self, start: int) -> Span:
        """From an offset to the end of the last token that was passed."""
        return Span(self.source, start, max(start, self.tokens[self.index - 1].end if self.index else start))

    def enter(self) -> None:
        """Go one level deeper; whoever calls this takes 1 from `nesting` when it is done."""
        self.nesting += 1
        if self.nesting > DEEPEST:
            self.error(
                self.here,
                f"nested more than {DEEPEST} levels deep",
                hint="split it over several functions or constants",
            )
            raise Panic

    # --- reporting ----------------------------------------------------------------------------------------

    @property
    def here(self) -> Span:
        """The current token's place."""
        return Span(self.source, self.token.start, self.token.end)

    def error(
        self,
        span: Span,
        message: str = "",
        *,
        expected: str = "",
        hint: str = "",
        notes: tuple[Note, ...] = (),
    ) -> None:
        """Report one error. A second one at the same place would only be its consequence."""
        if self.errors and any(error.span.start == span.start for error in self.errors[-3:]):
            return
        found = described(self.token) if expected else ""
        self.errors.append(
            Diagnostic(span=span, message=message, expected=expected, found=found, hint=hint, notes=notes)
        )

    def fail(self, expected: str, hint: str = "", opened: Token | None = None) -> NoReturn:
        """Report what should stand here instead of the current token, and give up."""
        if self.kind != "bad":
            notes = () if opened is None else (Note(self._place(opened), f"this `{opened.text}` is open"),)
            self.error(self.here, expected=expected, hint=hint, notes=notes)
        raise Panic

    def semicolon(self, after: str) -> None:
        """Pass the `;` that ends `after`. One that is missing at the end of a line is only reported."""
        if self.accept(";"):
            return
        ends = self.first_on_line() or self.kind in ("}", "end")
        if not ends or self.kind == "bad":
            self.fail(f"`;` after {after}")
        end = self.tokens[self.index - 1].end
        self.error(Span(self.source, end, end), expected=f"`;` after {after}")

    def needs_dialect(self, span: Span, what: str) -> None:
        """Report that `what` came with 2.10, if the dialect is an earlier one."""
        if self.dialect == "1.4":
            self.error(
                span,
                f"{what} came with dialect 2.10; this file is read as 1.4",
                hint="choose it with `--dialect 2.10`, or write a `struct`",
            )

    def unclosed(self, opened: Token) -> NoReturn:
        """Report a block that the file, or the next declaration, ends."""
        self.error(
            self.here,
            expected="`}`",
            hint="close the block before this",
            notes=(Note(self._place(opened), "this `{` is open"),),
        )
        raise Unclosed

    def _place(self, token: Token) -> Span:
        return Span(self.source, token.start, token.end)

    # --- going on -----------------------------------------------------------------------------------------

    def first_on_line(self) -> bool:
        """Whether the current token begins a line."""
        before = self.tokens[self.index - 1].end if self.index else 0
        return self.index == 0 or "\n" in self.source.text[before : self.token.start]

    def begins_declaration(self) -> bool:
        """Whether the current token can only be a declaration between functions: it is at a line's very start."""
        start = self.token.start
        return self.kind in _OUTER and (start == 0 or self.source.text[start - 1] == "\n")

    @cached_property
    def _braces(self) -> list[int]:
        """For every token, how many `{` are open before it. Only braces: a missing `)` must not count."""
        open_, found = 0, []
        for token in self.tokens:
            found.append(open_)
            open_ += (token.kind == "{") - (token.kind == "}")
        return found

    def skip_statement(self, first: int) -> None:
        """Go behind the statement that began at token `first`, or to the `}` of its block."""
        level = self._braces[first]
        while self.kind != "end" and not self.begins_declaration():
            kind, depth = self.kind, self._braces[self.index]
            if depth <= level and (
                kind == "}" or (self.index > first and kind in _STARTERS and self.first_on_line())
            ):
                return
            self.advance()
            if depth <= level and kind == ";":
                return
            if kind == "}" and depth == level + 1 and self.kind not in _CONTINUES and self.first_on_line():
                return

    def skip_declaration(self, first: int) -> None:
        """Go to the next declaration behind the one that began at token `first`."""
        level = self._braces[first]
        if self.index == first:
            self.advance()
        while self.kind != "end" and not self.begins_declaration():
            kind, depth = self.kind, self._braces[self.index]
            if depth <= level and kind in ("const", "var", "comptime") and self.first_on_line():
                return
            self.advance()
            if depth <= level and kind == ";":
                return
            if kind == "}" and depth <= level + 1 and self.kind not in _CONTINUES and self.first_on_line():
                return


def described(token: Token) -> str:
    """A token as a message names it."""
    if token.kind == "end":
        return "the end of the file"
    if len(token.text) > 24:
        return f"`{token.text[:20]}...`"
    return f"`{token.text}`"
