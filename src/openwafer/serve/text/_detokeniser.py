"""Tokens to text as they come, never cutting a character and never showing what may become a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from openwafer.serve.text._tokenizer import Tokenizer


class Detokeniser:
    """The text of one answer. What `push` and `finish` return, joined, is the text up to the first stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str] = ()) -> None:
        """stop: strings that end the text and are not part of it; an empty one is none."""
        self.stopped = False
        """A stop string has come; nothing more will."""
        self._tokenizer = tokenizer
        self._stop = tuple(s for s in stop if s)
        self._longest = max(map(len, self._stop), default=0)
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""

    def push(self, token: int) -> str:
        """The text that is certain after one more token; "" if none is, or if a stop string has come."""
        if self.stopped or self._tokenizer.hides(token):
            return ""
        return self._certain(self._utf8.decode(self._tokenizer.token_bytes(token)))

    def finish(self) -> str:
        """What was held back, now that no more tokens come."""
        if self.stopped:
            return ""
        text = self._certain(self._utf8.decode(b"", final=True)) + self._held
        self._held = ""
        return text

    def _certain(self, more: str) -> str:
        if not self._stop:
            return more
        text = self._held + more
        found = [at for s in self._stop if (at := text.find(s)) >= 0]
        if found:
            self.stopped = True
            self._held = ""
            return text[: min(found)]
        # The longest end of the text with which a stop string begins may still become one.
        for at in range(max(0, len(text) - self._longest + 1), len(text)):
            if any(s.startswith(text[at:]) for s in self._stop):
                self._held = text[at:]
                return text[:at]
        self._held = ""
        return text
