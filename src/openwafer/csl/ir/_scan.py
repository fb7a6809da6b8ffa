"""The words of PE-IR's text, and where they stand."""

from __future__ import annotations

import json
import re
from typing import NamedTuple, NoReturn

from openwafer.base import CslError

_WORD = re.compile(
    r"""
    (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<number>[-+]?(?:\d[\d_]*(?:\.\d+)?(?:[eE][-+]?\d+)?(?![A-Za-z_])|inf\b))
  | (?P<name>[A-Za-z_][A-Za-z0-9_.$]*)
  | (?P<mark>[%@^!:=(){}\[\],+*-])
  | (?P<space>[ \t\r\n]+|\#[^\n]*)
    """,
    re.VERBOSE,
)


class Word(NamedTuple):
    """One word: its kind (string, number, name, mark, end), its text, and where it begins."""

    kind: str
    text: str
    at: int


class Scanner:
    """Reads words one after another.

    Every method raises CslError with line and column, both from 1, where the text is not as it must be.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._words: list[Word] = []
        at = 0
        while at < len(text):
            match = _WORD.match(text, at)
            if match is None:
                self._words.append(Word("end", "", at))
                self.fail(f"expected a word, found {text[at]!r}", self._words[-1])
            if match.lastgroup != "space":
                self._words.append(Word(match.lastgroup or "", match.group(), at))
            at = match.end()
        self._words.append(Word("end", "the end of the text", len(text)))
        self._at = 0

    @property
    def word(self) -> Word:
        """The next word."""
        return self._words[self._at]

    def take(self) -> Word:
        """The next word, which is then behind."""
        word = self.word
        self._at = min(self._at + 1, len(self._words) - 1)
        return word

    def accept(self, text: str) -> bool:
        """Whether the next word is `text`; then it is taken."""
        if self.word.text != text or self.word.kind == "string":
            return False
        self.take()
        return True

    def expect(self, text: str) -> None:
        """Takes `text`."""
        if not self.accept(text):
            self.fail(f"expected {text!r}, found {self.word.text!r}")

    def number(self) -> int | float:
        """Takes a number; it is an int if it is written as one."""
        word = self._of("number", "a number")
        try:
            return int(word.text)
        except ValueError:
            return float(word.text)

    def whole(self) -> int:
        """Takes an integer."""
        word = self.word
        value = self.number()
        if not isinstance(value, int):
            self.fail(f"expected an integer, found {word.text!r}", word)
        return value

    def string(self) -> str:
        """Takes a string in quotation marks."""
        word = self._of("string", "a string in quotation marks")
        try:
            return str(json.loads(word.text))
        except ValueError:
            self.fail(f"this is no string: {word.text}", word)

    def name(self) -> str:
        """Takes a name, plain or in quotation marks."""
        return self.string() if self.word.kind == "string" else self._of("name", "a name").text

    def one_of(self, what: str, allowed: object) -> str:
        """Takes a name that `allowed` contains."""
        word = self._of("name", what)
        if word.text not in allowed:  # type: ignore[operator]
            self.fail(f"expected {what}, found {word.text!r}", word)
        return word.text

    def fail(self, message: str, word: Word | None = None) -> NoReturn:
        """Raises the error at `word`, or at the next one."""
        at = (word or self.word).at
        line = self._text.count("\n", 0, at) + 1
        column = at - self._text.rfind("\n", 0, at)
        raise CslError(f"PE-IR, line {line}, column {column}: {message}")

    def _of(self, kind: str, what: str) -> Word:
        if self.word.kind != kind:
            self.fail(f"expected {what}, found {self.word.text!r}")
        return self.take()
