"""What a request changes in a row of logits before its next token is chosen.

V tokens of the vocabulary, K tokens that are changed.
"""

from __future__ import annotations

import numpy as np

from openwafer.serve.engine._grammar import Mask
from openwafer.serve.engine._probabilities import probability
from openwafer.serve.engine._request import TokenProbability
from openwafer.serve.engine._sampling import choose, uniform
from openwafer.serve.engine._sequence import Sequence
from openwafer.serve.kernels import Floats

_BITS = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little")
_CEILINGS = np.where(_BITS == 1, np.float32(np.inf), np.float32(-np.inf))


def choose_token(
    sequence: Sequence, logits_V: Floats, mask: Mask | None, scratch_V: Floats
) -> tuple[int, TokenProbability | None]:
    """The answer's next token, -1 if there is none, and what the model thought of it, if the request wants to know.

    Probabilities are the model's, from before the request changes anything. Overwrites the logits, and the scratch, which
    is as long, rounded up to a multiple of 8.
    """
    request = sequence.group.request
    sampling = request.sampling
    changed_V = logits_V
    if request.logprobs is not None and _changes(sequence, mask):
        changed_V = logits_V.copy()
    _change(sequence, changed_V, mask, scratch_V)

    def draw(trial: int) -> float:
        return uniform(sequence.group.seed, sequence.choice, sequence.answer_tokens, trial)

    # In place where the row is not needed any more: two of them would leave the processor's own cache.
    weights_V = changed_V if request.logprobs is None else scratch_V
    token = choose(changed_V, sampling.temperature, sampling.top_p, draw, weights_V)
    if request.logprobs is None or token < 0:
        return token, None
    return token, probability(logits_V, token, request.logprobs, scratch_V)


def _changes(sequence: Sequence, mask: Mask | None) -> bool:
    sampling = sequence.group.request.sampling
    penalties = sampling.frequency_penalty or sampling.presence_penalty
    return bool(mask is not None or sampling.logit_bias or penalties or _too_early(sequence))


def _too_early(sequence: Sequence) -> bool:
    return sequence.answer_tokens < sequence.group.request.min_tokens


def _change(sequence: Sequence, logits_V: Floats, mask: Mask | None, scratch_V: Floats) -> None:
    """In place: biases, penalties, the grammar, the end before its time."""
    sampling, counts = sequence.group.request.sampling, sequence.counts
    if sampling.logit_bias:
        tokens_K, values_K = sequence.group.bias
        logits_V[tokens_K] += values_K
    if counts and (sampling.frequency_penalty or sampling.presence_penalty):
        tokens_K = np.fromiter(counts, dtype=np.int64, count=len(counts))
        counts_K = np.fromiter(counts.values(), dtype=np.float32, count=len(counts))
        logits_V[tokens_K] -= sampling.frequency_penalty * counts_K + sampling.presence_penalty
    if mask is not None:
        # By a table of the 256 bytes: numpy's own ways to set where a mask is set take ten times as long.
        np.take(_CEILINGS, mask, axis=0, out=scratch_V.reshape(-1, 8), mode="clip")
        np.minimum(logits_V, scratch_V[: len(logits_V)], out=logits_V)
    if sequence.end_tokens and _too_early(sequence):
        ends = [*sequence.end_tokens]
        values_K = logits_V[ends]
        logits_V[ends] = -np.inf
        # Where the grammar allows nothing but the end, the text is at its end.
        if mask is not None and logits_V.max() == -np.inf:
            logits_V[ends] = values_K
