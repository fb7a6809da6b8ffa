"""Rows of logits to tokens: what each request changes in its row, and what is chosen then.

R rows, V tokens of the vocabulary, K tokens that are changed.
"""

from __future__ import annotations

from collections.abc import Sequence as Many
from typing import NamedTuple, final

import numpy as np

from openwafer.serve.engine._request import TokenProbability
from openwafer.serve.engine._sampling import scale, uniform
from openwafer.serve.engine._sequence import Sequence
from openwafer.serve.kernels import (
    DRAW_AGAIN,
    NO_TOKEN,
    NOTHING_LEFT,
    Asked,
    Chosen,
    Floats,
    address,
    choose,
    draw_again,
)


class Row(NamedTuple):
    """A sequence, the row with the logits after its last token, and what its grammar allows, a bit for each token."""

    sequence: Sequence
    place: int
    mask: bytes | None


@final
class Chooser:
    """Chooses tokens, in memory that it keeps."""

    def __init__(self, vocabulary: int) -> None:
        self._vocabulary = vocabulary
        self._spare: list[tuple[Floats, int]] = []
        """Rows beside the logits, and their addresses."""

    def choose(self, logits_RV: Floats, rows: Many[Row]) -> list[tuple[int, TokenProbability | None]]:
        """For each row, of another sequence each: the answer's next token, -1 if there is none, and what the model thought
        of it, if the request wants to know.

        Probabilities are the model's, from before the request changes anything. Overwrites the logits of these rows.
        """
        if not rows:
            return []
        at, width = address(logits_RV), logits_RV.strides[0]
        asked, early = [], {}
        for i, row in enumerate(rows):
            one, ends_K = self._ask(logits_RV[row.place], at + row.place * width, row, i)
            asked.append(one)
            if ends_K is not None:
                early[i] = ends_K
        chosen = choose(self._vocabulary, asked)
        for i, ends_K in early.items():
            if chosen[i][0] == NOTHING_LEFT and rows[i].mask is not None:
                # Where the grammar allows nothing but the end, the text is at its end.
                changed_V = self._memory(logits_RV, asked[i][0], rows[i], i)
                changed_V[[*rows[i].sequence.end_tokens]] = ends_K
                (chosen[i],) = choose(self._vocabulary, [asked[i]])
        return [
            self._take(logits_RV, row, one, found, i)
            for i, (row, one, found) in enumerate(zip(rows, asked, chosen, strict=True))
        ]

    def told(self, logits_RV: Floats, rows: range, tokens: Many[int], top: int) -> list[TokenProbability]:
        """What the model thought of a token in each of these rows, and of `top` of the most likely ones in its place."""
        at, width = address(logits_RV), logits_RV.strides[0]
        places = [at + place * width for place in rows]
        found = choose(self._vocabulary, [(p, None, 0.0, 1.0, 0.0, 0, p, top) for p in places])
        return [
            _probability(token, float(logits_RV[place, token]), of)
            for place, token, of in zip(rows, tokens, found, strict=True)
        ]

    def _ask(self, logits_V: Floats, at: int, row: Row, number: int) -> tuple[Asked, Floats | None]:
        """What is asked of a row, and the logits of the tokens that would end the text before its time, if it is early."""
        sequence = row.sequence
        request, ends_K = sequence.group.request, None
        sampling, told = request.sampling, request.logprobs
        changed_at = at
        if _changes(sequence):
            if told is not None:
                spare_V, changed_at = self._room(number)
                np.copyto(spare_V, logits_V)
                logits_V = spare_V
            ends_K = _change(sequence, logits_V)
        by, draw, room = scale(sampling.temperature, sampling.top_p), 0.0, 0
        if by:
            draw = uniform(sequence.group.seed, sequence.choice, sequence.answer_tokens)
            # In place where the row is not needed any more: two of them would leave the processor's own cache.
            room = changed_at if told is None or changed_at != at else self._room(number)[1]
        tops = -1 if told is None else told
        return (changed_at, row.mask, by, sampling.top_p, draw, room, at, tops), ends_K

    def _take(
        self, logits_RV: Floats, row: Row, asked: Asked, found: Chosen, number: int
    ) -> tuple[int, TokenProbability | None]:
        token, limit, sequence = found[0], found[1], row.sequence
        trial = 0
        while token == DRAW_AGAIN:
            trial += 1
            draw = uniform(sequence.group.seed, sequence.choice, sequence.answer_tokens, trial)
            token = draw_again(self._memory(logits_RV, asked[5], row, number), limit, draw)
        if token < 0:
            return NO_TOKEN, None
        if asked[7] < 0:
            return token, None
        return token, _probability(token, float(logits_RV[row.place, token]), found)

    def _memory(self, logits_RV: Floats, at: int, row: Row, number: int) -> Floats:
        """The row, or what is beside it, by its address."""
        spare = self._spare[number] if number < len(self._spare) else None
        return spare[0] if spare is not None and spare[1] == at else logits_RV[row.place]

    def _room(self, number: int) -> tuple[Floats, int]:
        """Memory beside row `number` of a call."""
        while len(self._spare) <= number:
            spare_V = np.empty(self._vocabulary, dtype=np.float32)
            self._spare.append((spare_V, address(spare_V)))
        return self._spare[number]


def _probability(token: int, logit: float, found: Chosen) -> TokenProbability:
    return TokenProbability(token, logit - found[2], tuple(found[3]))


def _changes(sequence: Sequence) -> bool:
    sampling = sequence.group.request.sampling
    penalties = sequence.counts and (sampling.frequency_penalty or sampling.presence_penalty)
    return bool(sampling.logit_bias or penalties or _too_early(sequence))


def _too_early(sequence: Sequence) -> bool:
    return bool(sequence.end_tokens) and sequence.answer_tokens < sequence.group.request.min_tokens


def _change(sequence: Sequence, logits_V: Floats) -> Floats | None:
    """In place: biases, penalties, and the end before its time, whose logits are returned then."""
    sampling, counts = sequence.group.request.sampling, sequence.counts
    if sampling.logit_bias:
        tokens_K, values_K = sequence.group.bias
        logits_V[tokens_K] += values_K
    if counts and (sampling.frequency_penalty or sampling.presence_penalty):
        tokens_K = np.fromiter(counts, dtype=np.int64, count=len(counts))
        counts_K = np.fromiter(counts.values(), dtype=np.float32, count=len(counts))
        logits_V[tokens_K] -= sampling.frequency_penalty * counts_K + sampling.presence_penalty
    if not _too_early(sequence):
        return None
    ends = [*sequence.end_tokens]
    ends_K = logits_V[ends]
    logits_V[ends] = -np.inf
    return ends_K
