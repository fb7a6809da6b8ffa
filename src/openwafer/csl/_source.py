"""The text of a CSL file, and places in it."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from openwafer.base import CslError, InputError


@dataclass(frozen=True, eq=False)
class Source:
    """One file's text and the name that messages give it; two sources are equal only if they are one.

    Offsets count characters from 0; lines and columns count from 1, a tab is one column.
    """

    name: str
    text: str

    @classmethod
    def read(cls, path: Path) -> Source:
        """The file at `path`, named as it was given.

        Raises InputError if it cannot be read, CslError if it is not UTF-8.
        """
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}; name a .csl file") from error
        try:
            return cls(str(path), data.decode("utf-8"))
        except UnicodeDecodeError as error:
            line = data.count(b"\n", 0, error.start) + 1
            raise CslError(
                f"{path}:{line}: byte {error.start} is not UTF-8 ({error.reason}); save the file as UTF-8"
            ) from error

    @cached_property
    def _starts(self) -> list[int]:
        starts, at = [0], self.text.find("\n")
        while at >= 0:
            starts.append(at + 1)
            at = self.text.find("\n", at + 1)
        return starts

    def position(self, offset: int) -> tuple[int, int]:
        """Line and column of an offset, both from 1."""
        line = bisect_right(self._starts, offset)
        return line, offset - self._starts[line - 1] + 1

    def line(self, number: int) -> str:
        """The text of a line (from 1), without its end."""
        start = self._starts[number - 1]
        end = self.text.find("\n", start)
        return self.text[start : end if end >= 0 else len(self.text)].removesuffix("\r")


class Span(NamedTuple):
    """The characters `start` up to, not including, `end` of a source."""

    source: Source
    start: int
    end: int

    @property
    def text(self) -> str:
        """What stands there."""
        return self.source.text[self.start : self.end]
