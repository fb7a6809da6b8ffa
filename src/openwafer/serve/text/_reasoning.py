"""An answer's thoughts (`<think>` to `</think>`) apart from what it says."""

from __future__ import annotations

from typing import Literal, NamedTuple

_BEGIN, _END = "<think>", "</think>"


class Part(NamedTuple):
    """Some of an answer's text."""

    kind: Literal["reasoning", "content"]
    text: str


class ReasoningSplitter:
    """Splits an answer as its text comes. Only what stands at the answer's beginning is thought."""

    def __init__(self, inside: bool = False) -> None:
        """inside: the prompt ended with `<think>` already."""
        self.inside = inside
        """Whether thought goes on."""
        self._settled = False
        self._held = ""
        self._first = True

    def push(self, text: str) -> list[Part]:
        """The parts that are certain after more text."""
        if self._settled:
            return self._content(text)
        self._held += text
        if not self.inside:
            start = self._held.lstrip()
            if start.startswith(_BEGIN):
                self.inside, self._held = True, start[len(_BEGIN) :]
            elif _BEGIN.startswith(start):
                return []
            else:
                self._settled, self._first = True, False
                return self._take("content", len(self._held))
        at = self._held.find(_END)
        if at < 0:
            keep = overlap(self._held, _END)
            return self._take("reasoning", len(self._held) - keep)
        parts = self._take("reasoning", at)
        rest = self._held[len(_END) :]
        self.inside, self._settled, self._held, self._first = False, True, "", True
        return parts + self._content(rest)

    def finish(self) -> list[Part]:
        """What was held back, now that no more text comes."""
        if self._settled:
            return []
        return self._take("reasoning" if self.inside else "content", len(self._held))

    def _take(self, kind: Literal["reasoning", "content"], length: int) -> list[Part]:
        text, self._held = self._held[:length], self._held[length:]
        if kind == "reasoning" and self._first:  # models begin a thought on a new line
            text = text.lstrip("\n")
            self._first = not text
        return [Part(kind, text)] if text else []

    def _content(self, text: str) -> list[Part]:
        if self._first:  # and leave empty lines behind it
            text = text.lstrip("\n")
            self._first = not text
        return [Part("content", text)] if text else []


def overlap(text: str, mark: str) -> int:
    """How many characters at the end of `text` may be the beginning of `mark`."""
    for length in range(min(len(text), len(mark) - 1), 0, -1):
        if mark.startswith(text[-length:]):
            return length
    return 0
