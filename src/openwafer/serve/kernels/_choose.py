"""Rows of logits to tokens, natively or by NumPy. V tokens of the vocabulary, C chunks of a row, K candidates."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from openwafer.serve.kernels._load import Level, native, native_level

Floats = npt.NDArray[np.float32]

Asked = tuple[int, bytes | None, float, float, float, int, int, int]
"""What is asked of a row: of its logits, of which those count that the mask (a bit for each token, the lowest first; None:
all) leaves, the likeliest, or one that is drawn.

The address of the logits; the mask; scale: tokens are drawn by exp(logit * scale), 0 takes the likeliest; top_p: from the
fewest most likely ones that make up so much of the whole; draw: a number in [0, 1); the address of room for a number of
each token, if one is drawn, which may be the logits; the address of the logits whose probabilities are told; of so many
of the most likely tokens, -1 for none. All numbers at addresses are float32, one after another."""

Chosen = tuple[int, float, float, list[tuple[int, float]]]
"""The token, or NO_TOKEN, DRAW_AGAIN, NOTHING_LEFT; with DRAW_AGAIN the limit that `draw_again` wants; the logarithm of the
sum of exp(told); the most likely tokens, equal ones in their order, with the logarithms of their probabilities."""

NO_TOKEN = -1
"""The logits that count have no finite largest one, or a logit is NaN."""
DRAW_AGAIN = -2
"""The token that was drawn lies outside of top_p. Where there was room are the weights of those inside of it, or some more."""
NOTHING_LEFT = -3
"""The mask leaves nothing but -inf."""

_CHUNK = 512


def address(array_V: Floats) -> int:
    """Of its first number."""
    return int(array_V.__array_interface__["data"][0])  # a third of the time of `ctypes.data`


def choose(vocabulary: int, rows: list[Asked], level: Level | None = None) -> list[Chosen]:
    """A token of each row; what comes of one does not depend on the others."""
    number = native_level(level)
    if native is None or number is None:
        return [_choose(vocabulary, row) for row in rows]
    return native.choose(number, vocabulary, rows)


def draw_again(weights_V: Floats, limit: float, draw: float, level: Level | None = None) -> int:
    """After DRAW_AGAIN, with its room and limit: the token, or DRAW_AGAIN once more."""
    number = native_level(level)
    if native is None or number is None:
        return _within(weights_V, _place_in_row(weights_V, draw), limit)
    return native.draw_again(number, address(weights_V), len(weights_V), limit, draw)


def _choose(vocabulary: int, row: Asked) -> Chosen:
    """As `native.choose` does, which draws the same tokens but where a weight's last bit decides."""
    at, mask, scale, top_p, draw, room, told, tops = row
    whole, likely = 0.0, list[tuple[int, float]]()
    if tops >= 0:
        told_V = _row(told, vocabulary)
        largest = float(told_V.max())  # NaN if one is
        if not math.isfinite(largest):
            return NO_TOKEN, 0.0, 0.0, likely
        whole = largest + math.log(float(np.exp(told_V - np.float32(largest)).sum(dtype=np.float64)))
        likely = [(token, float(told_V[token]) - whole) for token in _most_likely(told_V, tops)]
    logits_V = _row(at, vocabulary)
    if np.isnan(logits_V).any():
        return NO_TOKEN, 0.0, whole, likely
    if mask is not None:
        bits_V = np.unpackbits(np.frombuffer(mask, dtype=np.uint8), count=vocabulary, bitorder="little")
        logits_V = np.where(bits_V, logits_V, np.float32(-np.inf))
    token = int(logits_V.argmax())
    largest = float(logits_V[token])
    if not math.isfinite(largest):
        return NOTHING_LEFT if largest < 0 else NO_TOKEN, 0.0, whole, likely
    if scale == 0:
        return token, 0.0, whole, likely
    weights_V = _row(room, vocabulary)
    np.subtract(logits_V, np.float32(largest), out=weights_V)
    weights_V *= np.float32(scale)
    np.exp(weights_V, out=weights_V)
    limit = top_p * float(weights_V.sum(dtype=np.float64))
    token = _place_in_row(weights_V, draw)
    return token if top_p >= 1 else _within(weights_V, token, limit), limit, whole, likely


def _place_in_row(weights_V: Floats, draw: float) -> int:
    """The first token at which the sum of weights exceeds the draw's part of the whole.

    By sums over chunks, then within one: a running sum over a whole vocabulary is less exact.
    """
    running_C = np.array([chunk_K.sum() for chunk_K in _chunks(weights_V)]).cumsum(dtype=np.float64)
    target = draw * float(running_C[-1])
    chunk = _place(running_C, target)
    within_K = weights_V[chunk * _CHUNK : (chunk + 1) * _CHUNK].cumsum(dtype=np.float64)
    return chunk * _CHUNK + _place(within_K, target - (float(running_C[chunk - 1]) if chunk else 0.0))


def _place(running_K: npt.NDArray[np.float64], target: float) -> int:
    """Where the running sum exceeds the target; where it reaches its end if rounding left nothing beyond."""
    place = int(running_K.searchsorted(target, side="right"))
    return place if place < len(running_K) else int(running_K.searchsorted(running_K[-1]))


def _within(weights_V: Floats, token: int, limit: float) -> int:
    """The token if it is in the nucleus, else DRAW_AGAIN, and only what is more likely keeps its weight.

    Sorting a vocabulary takes longer than everything else. A token drawn from all of them is in the nucleus more often than
    not, and to know it takes one sum over those that are more likely. If it is not, only those are drawn from again.
    """
    weight = weights_V[token]
    inside_V = weights_V > weight
    above = float(weights_V[inside_V].sum(dtype=np.float64))
    if above < limit:
        # Of equally likely tokens the first ones belong to it.
        inside_V[np.flatnonzero(weights_V == weight)[: math.ceil((limit - above) / float(weight))]] = True
        if inside_V[token]:
            return token
    weights_V *= inside_V
    return DRAW_AGAIN


def _most_likely(logits_V: Floats, wanted: int) -> list[int]:
    """The places of the largest logits, equal ones in their order."""
    if wanted == 0:
        return []
    last = max(0, len(logits_V) - wanted)
    tokens_K = np.flatnonzero(
        logits_V >= np.partition(logits_V, last)[last]
    )  # sorting all takes ten times as long
    order_K = np.argsort(-logits_V[tokens_K], kind="stable")[:wanted]
    return [int(token) for token in tokens_K[order_K]]


def _chunks(row_V: Floats) -> Sequence[Floats]:
    return [row_V[begin : begin + _CHUNK] for begin in range(0, len(row_V), _CHUNK)]


def _row(at: int, vocabulary: int) -> Floats:
    """The numbers at an address."""
    return np.ctypeslib.as_array((ctypes.c_float * vocabulary).from_address(at))
