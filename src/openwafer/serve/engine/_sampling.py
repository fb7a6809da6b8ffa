"""Rows of logits to tokens. What comes out of a row depends on that row alone, whatever else is in the batch.

R rows, V tokens of the vocabulary, K candidates of a row.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from openwafer.serve.engine._request import TokenProbability

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]

_CHUNK = 128
_COLDEST = 1e-6
"""Below this temperature nothing but the most likely token has a chance that float32 can hold."""


def uniform(seed: int, choice: int, index: int) -> float:
    """A number in [0, 1) for token `index` of a choice: the same whenever and beside whatever the token is drawn."""
    key = hashlib.blake2b(f"{seed},{choice},{index}".encode(), digest_size=8).digest()
    return (int.from_bytes(key, "little") >> 11) * 2.0**-53


def choose(
    logits_RV: torch.Tensor, temperatures: Sequence[float], top_ps: Sequence[float], draws: Sequence[float]
) -> list[int]:
    """A token for each row: the most likely at temperature 0 or top_p 0, else where the draw falls.

    logits_RV: float32, may hold -inf where a token must not come; overwritten, because memory for as many numbers again
    costs more than the arithmetic. draws: numbers in [0, 1). A row without one finite largest number gives -1.
    """
    largest_R, likely_R = logits_RV.max(-1)
    tokens: list[int] = torch.where(largest_R.isfinite(), likely_R, -1).tolist()
    drawn = [r for r, t in enumerate(temperatures) if t > 0 and top_ps[r] > 0 and tokens[r] >= 0]
    if not drawn:
        return tokens
    everything = len(drawn) == len(tokens)
    weights_RV = logits_RV if everything else logits_RV[drawn]
    weights_RV -= (largest_R if everything else largest_R[drawn])[:, None]
    if any(temperatures[r] != 1 for r in drawn):
        weights_RV *= torch.tensor([1 / max(temperatures[r], _COLDEST) for r in drawn])[:, None]
    weights_RV.exp_()
    running_RC = _chunk_sums(weights_RV).double().cumsum(-1)
    for weights_V, running_C, r in zip(weights_RV.numpy(), running_RC.numpy(), drawn, strict=True):
        if top_ps[r] < 1:
            tokens[r] = _draw_nucleus(weights_V, float(running_C[-1]), top_ps[r], draws[r])
        else:
            tokens[r] = _draw(weights_V, running_C, draws[r])
    return tokens


def _chunk_sums(weights_RV: torch.Tensor) -> torch.Tensor:
    R, V = weights_RV.shape
    cut = V - V % _CHUNK
    sums_RC = weights_RV[:, :cut].view(R, -1, _CHUNK).sum(-1)
    if cut < V:
        sums_RC = torch.cat([sums_RC, weights_RV[:, cut:].sum(-1, keepdim=True)], dim=1)
    return sums_RC


def _draw(weights_V: Floats, running_C: Doubles, draw: float) -> int:
    """The first token at which the sum of weights exceeds the draw's part of the whole.

    By sums over chunks, then within one: a running sum over a whole vocabulary takes longer and is less exact.
    """
    target = draw * float(running_C[-1])
    chunk = min(int(running_C.searchsorted(target, side="right")), len(running_C) - 1)
    within_K = weights_V[chunk * _CHUNK : (chunk + 1) * _CHUNK]
    return chunk * _CHUNK + _place(within_K, target - (float(running_C[chunk - 1]) if chunk else 0.0))


def _draw_nucleus(weights_V: Floats, total: float, top_p: float, draw: float) -> int:
    """Among the fewest most likely tokens whose chances sum up to top_p."""
    # All tokens of less than this are together less than what the nucleus leaves out, so it has none of them.
    least = (1 - top_p) * total / len(weights_V)
    candidates_K = np.flatnonzero(weights_V > least)
    weights_K = weights_V[candidates_K]
    sorted_K = np.sort(weights_K)[::-1]
    running_K = sorted_K.cumsum(dtype=np.float64)
    count = min(int(running_K.searchsorted(top_p * total)) + 1, len(running_K))
    place = _place(sorted_K[:count], draw * float(running_K[count - 1]))
    # Sorting values alone is much faster than sorting places; equal values stand in the order of their tokens.
    equal = np.flatnonzero(weights_K == sorted_K[place])
    before = place - int((sorted_K[:place] > sorted_K[place]).sum())
    return int(candidates_K[equal[before]])


def _place(weights_K: Floats, target: float) -> int:
    """Where the running sum exceeds the target; the last that has a chance if rounding left none."""
    place = int(weights_K.cumsum(dtype=np.float64).searchsorted(target, side="right"))
    return place if place < len(weights_K) else int(np.flatnonzero(weights_K)[-1])


def probabilities(
    logits_RV: torch.Tensor, tokens: Sequence[int], tops: Sequence[int]
) -> list[TokenProbability]:
    """Each row's token with its probability as the model has it, before anything that a request changes."""
    rows = logits_RV.log_softmax(-1)
    own = rows.gather(1, torch.tensor(tokens)[:, None])[:, 0].tolist()
    most = max(tops)
    if most == 0:
        return [TokenProbability(t, p) for t, p in zip(tokens, own, strict=True)]
    values, places = rows.topk(most, dim=-1)
    return [
        TokenProbability(t, p, tuple(zip(i[:top], v[:top], strict=True)))
        for t, p, top, i, v in zip(tokens, own, tops, places.tolist(), values.tolist(), strict=True)
    ]
