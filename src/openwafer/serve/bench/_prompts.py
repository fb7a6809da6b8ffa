"""Prompts of random words that have as many tokens as is wanted, whatever the server's tokenizer is."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import final

_SYLLABLES = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]


@dataclass(frozen=True, slots=True)
class Fit:
    """How many characters of random words make a prompt of so many tokens: a straight line through two answers."""

    characters: float = 4.0
    """A token has so many; until a server says otherwise."""
    overhead: float = 0.0
    """Tokens of the chat template."""

    @staticmethod
    def through(first: tuple[int, int], second: tuple[int, int]) -> Fit:
        """The line through two pairs of characters and tokens, of which the second has more of both."""
        characters = (second[0] - first[0]) / (second[1] - first[1])
        return Fit(characters, first[1] - first[0] / characters)

    def length(self, tokens: int) -> int:
        """The characters of a prompt that has so many tokens; at least one."""
        return max(1, round((tokens - self.overhead) * self.characters))


@final
class RandomText:
    """Words that begin differently in every prompt, so that no server finds them in its cache."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def text(self, characters: int) -> str:
        """So many characters; the same texts in the same order for the same seed."""
        words: list[str] = []
        length = 0
        while length <= characters:
            words.append("".join(self._random.choices(_SYLLABLES, k=self._random.randint(1, 4))))
            length += len(words[-1]) + 1
        return " ".join(words)[:characters]
