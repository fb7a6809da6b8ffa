"""Drafts from a prediction: what may come next, if the answer goes on as predicted."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

_LONGEST_MATCH = 32
_SHORTEST_MATCH = 2


class Draft:
    """Follows an answer through its prediction. Where they part, the longest common run of tokens joins them again."""

    def __init__(self, prediction: Sequence[int]) -> None:
        self._prediction = prediction
        self._next: int | None = 0
        self._reached = 0
        self._after: dict[int, list[int]] = defaultdict(list)
        for index, token in enumerate(prediction):
            self._after[token].append(index + 1)

    def advance(self, token: int) -> None:
        """The answer goes on with a token."""
        if self._next is not None and self._prediction[self._next : self._next + 1] == (token,):
            self._next += 1
            self._reached = self._next
        else:
            self._next = None

    def propose(self, answer: Sequence[int], most: int) -> list[int]:
        """At most so many tokens that may follow; none where the answer is nowhere in the prediction."""
        if most <= 0:
            return []
        if self._next is None:
            self._next = self._join(answer)
        return [] if self._next is None else list(self._prediction[self._next : self._next + most])

    def _join(self, answer: Sequence[int]) -> int | None:
        """The place after the longest match of the answer's end; of equals the first beyond what was followed so far."""
        best: tuple[int, bool, int] | None = None
        found = None
        for place in self._after.get(answer[-1], ()):
            length = 1
            while (
                length < min(_LONGEST_MATCH, place, len(answer))
                and self._prediction[place - 1 - length] == answer[-1 - length]
            ):
                length += 1
            if length < min(_SHORTEST_MATCH, len(answer)):
                continue
            rank = (length, place > self._reached, -place)
            if best is None or rank > best:
                best, found = rank, place
        return found
