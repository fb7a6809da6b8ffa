"""Numbers, strings and characters: which forms there are, and the values that they have."""

from __future__ import annotations

import math
import re
from typing import Final

from openwafer.csl._diagnostics import Diagnostic
from openwafer.csl._source import Source, Span

_INTEGER: Final = re.compile(
    r"0x[0-9a-fA-F]+(_[0-9a-fA-F]+)*|0o[0-7]+(_[0-7]+)*|0b[01]+(_[01]+)*|[0-9]+(_[0-9]+)*"
)
_FLOAT: Final = re.compile(
    r"[0-9]+(_[0-9]+)*(\.[0-9]+(_[0-9]+)*)?([eE][+-]?[0-9]+)?|0x[0-9a-fA-F]+(\.[0-9a-fA-F]+)?[pP][+-]?[0-9]+"
)
_ESCAPE: Final = re.compile(r"\\(?:([nrt\\'\"])|x([0-9a-fA-F]{2})|u\{([0-9a-fA-F]{1,6})\}|(.))", re.DOTALL)
_PLAIN: Final = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'", '"': '"'}
_LARGEST_DIGITS: Final = 1000  # enough for any width of integer, and within what Python converts


def number_kind(word: str) -> str:
    """`integer` or `float`; what is neither counts as an integer that `literal_error` reports."""
    if _INTEGER.fullmatch(word):
        return "integer"
    return "float" if _FLOAT.fullmatch(word) else "integer"


def integer_value(word: str) -> int:
    """The value of an integer literal; 0 for one that `literal_error` reports."""
    if not _INTEGER.fullmatch(word) or len(word) > _LARGEST_DIGITS:
        return 0
    digits = word.replace("_", "")
    return int(digits, {"0x": 16, "0o": 8, "0b": 2}.get(digits[:2], 10))


def float_value(word: str) -> float:
    """The nearest double; infinity for one that `literal_error` reports as too large."""
    digits = word.replace("_", "")
    try:
        return float.fromhex(digits) if digits.startswith("0x") else float(digits)
    except OverflowError:
        return math.inf


def string_value(word: str) -> bytes:
    """The bytes of a string literal: UTF-8, with each `\\xNN` as that one byte."""

    def unescape(match: re.Match[str]) -> str:
        plain, byte, point, _ = match.groups()
        if byte is not None:
            return chr(0xDC00 + int(byte, 16)) if int(byte, 16) >= 0x80 else chr(int(byte, 16))
        if point is not None:
            return chr(min(int(point, 16), 0x10FFFF))
        return _PLAIN.get(plain, "")

    return _ESCAPE.sub(unescape, word[1:-1]).encode("utf-8", "surrogateescape")


def character_value(word: str) -> int:
    """The code point of a character literal, or the byte of `'\\xNN'`; 0 for one that is reported."""
    inner = word[1:-1]
    match = _ESCAPE.fullmatch(inner)
    if match is None:
        return ord(inner) if len(inner) == 1 else 0
    plain, byte, point, _ = match.groups()
    return int(byte or point, 16) if byte or point else ord(_PLAIN.get(plain, "\0"))


def literal_error(source: Source, kind: str, word: str, start: int) -> Diagnostic | None:
    """What is wrong with the form of a literal that the lexer has found, None if nothing is."""
    span = Span(source, start, start + len(word))
    if kind in ("string", "character"):
        return _escape_error(source, word, start) or (_character_error(span) if kind == "character" else None)
    if len(word) > _LARGEST_DIGITS:
        return Diagnostic(
            span=span,
            message=f"this number has {len(word)} characters",
            hint=f"write it in {_LARGEST_DIGITS} or fewer",
        )
    if kind == "float" and math.isinf(float_value(word)):
        return Diagnostic(
            span=span, message="this number is larger than a comptime_float", hint="the largest is 1.8e308"
        )
    if _INTEGER.fullmatch(word) or _FLOAT.fullmatch(word):
        return None
    return Diagnostic(span=span, message=f"`{word}` is no number", hint=_number_hint(word))


def _number_hint(word: str) -> str:
    prefix = word[:2].lower()
    if prefix in ("0x", "0o", "0b") and word[:2] != prefix:
        return f"the prefix is written small: `{prefix}{word[2:]}`"
    if "." not in word and prefix in ("0x", "0o", "0b"):
        digits = {"0x": "0-9 and a-f", "0o": "0-7", "0b": "0 and 1"}[prefix]
        return f"after `{prefix}` come the digits {digits}, with single `_` between them"
    if "__" in word or word.endswith("_"):
        return "`_` stands alone and between two digits"
    if re.fullmatch(r"[0-9.]+[fF](16|32)?", word):
        return "CSL has no suffix `f`; the type comes from the context or from `@as(f32, 1.0)`"
    if re.fullmatch(r"[0-9]+[uUlL]+|[0-9]+[iu][0-9]+", word):
        return "CSL has no suffixes of numbers; write `@as(u16, 1)`"
    if re.fullmatch(r"[0-9]+[A-Za-z_]\w*", word):
        return "names begin with a letter or `_`"
    return "numbers are written 10, 0x1f, 0o17, 0b101, 1_000, 1.5, 1.5e-3 or 0x1.8p3"


def _escape_error(source: Source, word: str, start: int) -> Diagnostic | None:
    for match in _ESCAPE.finditer(word, 1, len(word) - 1):
        point = match[3]
        if match[4] is None and (
            point is None or (int(point, 16) <= 0x10FFFF and not 0xD800 <= int(point, 16) < 0xE000)
        ):
            continue
        return Diagnostic(
            span=Span(source, start + match.start(), start + match.end()),
            message=f"`{match[0]}` is no escape",
            hint="there are `\\n`, `\\r`, `\\t`, `\\\\`, `\\'`, `\\\"`, `\\x1f` and `\\u{1f44d}`",
        )
    return None


def _character_error(span: Span) -> Diagnostic | None:
    inner = span.text[1:-1]
    if len(inner) == 1 or _ESCAPE.fullmatch(inner):
        return None
    return Diagnostic(
        span=span,
        message="a character literal holds one character",
        hint='strings stand in double quotes: `"..."`',
    )
