"""Text to tokens, by one regular expression."""

from __future__ import annotations

import re
from typing import Final

from openwafer.csl._diagnostics import Diagnostic
from openwafer.csl._source import Source, Span
from openwafer.csl.syntax._literals import literal_error, number_kind
from openwafer.csl.syntax._tokens import KEYWORDS, OPERATORS, Token

_TOKEN: Final = re.compile(
    r"(?:[ \t\r\n]+|//[^\n]*)*+"
    r"(?:([A-Za-z_][A-Za-z0-9_]*)"
    r"|(0x(?:[pP][+-](?=[0-9])|[A-Za-z0-9_]|\.(?=[A-Za-z0-9_]))*"
    r"|[0-9](?:[eE][+-](?=[0-9])|[A-Za-z0-9_]|\.(?=[A-Za-z0-9_]))*)"
    rf"|({'|'.join(re.escape(operator) for operator in OPERATORS)})"
    r"|(@[A-Za-z_][A-Za-z0-9_]*)"
    r'|("(?:[^"\\\n]|\\[^\n])*")'
    r"|('(?:[^'\\\n]|\\[^\n])*')"
    r'|("(?:[^"\\\n]|\\[^\n])*\\?' + r"|'[^\n]?)"
    r"|(.)"
    r"|\Z)",
    re.DOTALL,
)
_NAME, _NUMBER, _OPERATOR, _BUILTIN, _STRING, _CHARACTER, _UNTERMINATED = range(1, 8)


def tokenize(source: Source) -> tuple[list[Token], list[Diagnostic]]:
    """The words of a file, an `end` token last, and what the lexer found wrong.

    Every character of the text is in a token, or is a blank or part of a comment between two. Never raises.
    """
    tokens: list[Token] = []
    errors: list[Diagnostic] = []
    add, new, keywords = tokens.append, Token, KEYWORDS
    text, reported = source.text, 0
    for match in _TOKEN.finditer(text):
        group = match.lastindex
        if group is None:
            break
        start, end = match.span(group)
        if start < reported:
            continue  # the rest of a line that was reported as a whole
        word = match[group]
        if group == _NAME:
            add(new(word if word in keywords else "name", word, start, end))
        elif group == _OPERATOR:
            add(new(word, word, start, end))
        elif group == _BUILTIN:
            add(new("builtin", word, start, end))
        elif group <= _CHARACTER:
            kind = {_NUMBER: number_kind(word), _STRING: "string", _CHARACTER: "character"}[group]
            error = literal_error(source, kind, word, start)
            if error is not None:
                errors.append(error)
            add(new(kind, word, start, end))
        else:
            error = _unterminated(source, start, end) if group == _UNTERMINATED else _stray(source, start)
            errors.append(error)
            reported = error.span.end
            add(new("bad", text[start:reported], start, reported))
    add(new("end", "", len(text), len(text)))
    return tokens, errors


def _unterminated(source: Source, start: int, end: int) -> Diagnostic:
    if source.text[start] == '"':
        return Diagnostic(
            span=Span(source, start, end),
            message="this string has no end on its line",
            hint='close it with `"`; a line break inside is written `\\n`',
        )
    return Diagnostic(
        span=Span(source, start, end),
        message="this character literal has no end",
        hint="a character stands alone between two `'`, as in `'a'` or `'\\n'`; strings stand in `\"`",
    )


def _stray(source: Source, start: int) -> Diagnostic:
    """A character that begins no word: `#include`, `?:`, `@` alone, or any other."""
    char = source.text[start]
    if char == "#":
        line = source.text[start:].partition("\n")[0].partition("//")[0].rstrip()
        return Diagnostic(
            span=Span(source, start, start + len(line)),
            message="CSL has no preprocessor",
            hint='import a module with `const m = @import_module("file.csl");`',
        )
    hint = {
        "?": "CSL has no `?:`; write `if (condition) a else b`",
        "@": "a builtin's name follows the `@` at once, as in `@as(i16, x)`",
        "\\": "a backslash has a meaning only in a string",
        "`": "strings stand in double quotes",
    }.get(char, "names have ASCII letters, digits and `_`; other text belongs into strings and comments")
    shown = f"`{char}`" if char.isprintable() else f"U+{ord(char):04X}"
    end = start + 1
    while char.isalpha() and source.text[end : end + 1].isalnum():
        end += 1  # the rest of a name is part of the same mistake
    return Diagnostic(
        span=Span(source, start, end), message=f"the character {shown} begins no word of CSL", hint=hint
    )
