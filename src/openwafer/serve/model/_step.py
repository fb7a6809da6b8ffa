"""What all layers share about the tokens at hand: their angles, and where their keys and values lie.

T tokens, P those of a part, S sequences, B blocks of the longest sequence, D numbers of a head.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from contextlib import AbstractContextManager
from itertools import accumulate, pairwise
from typing import final

import torch

from openwafer.serve.kernels import (
    BLOCK_TOKENS,
    NATIVE_SEQUENCE_TOKENS,
    NATIVE_TOKENS,
    Paged,
    native_level,
    torch_alone,
)
from openwafer.serve.model._config import ModelConfig


@final
class Rotation:
    """Cosines and sines by position, in float32; of one model on one device."""

    def __init__(self, config: ModelConfig, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._frequencies = config.rope.frequencies(config.head_dim).to(device)
        self._scale = config.rope.scale

    def __call__(self, positions_T: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[T, D / 2] each: numbers i and i + D / 2 of a head turn together."""
        angles = positions_T[:, None].float() * self._frequencies
        return angles.cos() * self._scale, angles.sin() * self._scale


@final
class Part:
    """Tokens of some sequences of a step, in the step's order: those that go through a layer together."""

    def __init__(
        self,
        rotation: Rotation,
        positions_T: torch.Tensor,
        starts: Sequence[int],
        contexts: Sequence[int],
        tables_SB: torch.Tensor,
        tokens_P: torch.Tensor | None,
    ) -> None:
        """Everything but `tokens_P`, where they stand in the step (None: they are all of it), is the part's own."""
        device = rotation.device
        self.tokens_P = None if tokens_P is None else tokens_P.to(device)
        self.paged = Paged(starts, contexts, tables_SB)
        sequences_P = torch.repeat_interleave(torch.tensor(starts).diff())
        self.blocks_P = tables_SB[sequences_P, positions_T // BLOCK_TOKENS].to(device, torch.int64)
        """The block of the cache, and below its row, where each token's keys and values belong."""
        self.rows_P = (positions_T % BLOCK_TOKENS).to(device)
        self.cos_PD, self.sin_PD = rotation(positions_T.to(device))


@final
class Step:
    """Tokens of several sequences on their way through the layers; made once for all of them.

    Sequence s has tokens `starts[s]` to `starts[s + 1]`, is `contexts[s]` tokens long after them, and has its keys and
    values in the blocks `tables_SB[s]` of the cache.

    How a token is computed is decided by its own sequence, so that an answer does not depend on what else is in the batch:
    on the CPU sequences with few new tokens go through native kernels, a few at a time. Longer ones are cut at whole blocks
    from their beginning, and the runs go through torch together, but for a last one of few tokens: a prompt is computed
    alike whether it comes at once, in chunks of whole blocks, or behind a prefix that the cache holds. (Either kind gives
    a token the same bits whatever is beside its run; the two round differently.)
    """

    def __init__(
        self,
        rotation: Rotation,
        positions_T: torch.Tensor,
        starts: Sequence[int],
        contexts: Sequence[int],
        tables_SB: torch.Tensor,
    ) -> None:
        """The tensors, int64 and int32, lie on the CPU; the parts' own where the rotation's do."""
        self._native = rotation.device.type == "cpu" and native_level(None) is not None
        starts, contexts, sequences = _runs(starts, contexts)
        self._starts = starts
        if len(sequences) > len(tables_SB):
            tables_SB = tables_SB[sequences]
        self.parts: list[Part] = []
        # Torch's threads would spin on after a few cosines, on the cores that native kernels need next.
        with torch_alone(self._native):
            for group in self._groups():
                self.parts.append(self._part(rotation, positions_T, contexts, tables_SB, group))

    def run(self) -> AbstractContextManager[None]:
        """What layers and head run in: torch uses its threads only if there are sequences that it computes."""
        return torch_alone(self._native and not any(part.paged.long for part in self.parts))

    def _part(
        self,
        rotation: Rotation,
        positions_T: torch.Tensor,
        contexts: Sequence[int],
        tables_SB: torch.Tensor,
        group: list[int],
    ) -> Part:
        starts = self._starts
        if len(group) == len(starts) - 1:
            return Part(rotation, positions_T, starts, contexts, tables_SB, None)
        tokens_P = torch.cat([torch.arange(starts[s], starts[s + 1]) for s in group])
        ends = accumulate((starts[s + 1] - starts[s] for s in group), initial=0)
        return Part(
            rotation,
            positions_T[tokens_P],
            tuple(ends),
            tuple(contexts[s] for s in group),
            tables_SB[group],
            tokens_P,
        )

    def _groups(self) -> list[list[int]]:
        """The runs of each part; what a sequence's last run sees is computed before it, or with it."""
        sizes = [stop - start for start, stop in pairwise(self._starts)]
        if not self._native:
            return [list(range(len(sizes)))]
        short = [s for s, size in enumerate(sizes) if size <= NATIVE_SEQUENCE_TOKENS]
        long = [s for s, size in enumerate(sizes) if size > NATIVE_SEQUENCE_TOKENS]
        groups, room = ([long] if long else []), 0
        for s in short:
            if sizes[s] > room:
                groups.append([])
                room = NATIVE_TOKENS
            groups[-1].append(s)
            room -= sizes[s]
        return groups

    def output_groups(self, outputs: Sequence[int]) -> list[list[int]]:
        """Places in `outputs`, tokens in ascending order, whose logits are computed together; by the same rule."""
        if not self._native:
            return [list(range(len(outputs)))]
        own: dict[int, list[int]] = {}
        for place, token in enumerate(outputs):
            own.setdefault(bisect_right(self._starts, token), []).append(place)
        many = [place for places in own.values() if len(places) > NATIVE_TOKENS for place in places]
        few = [place for places in own.values() if len(places) <= NATIVE_TOKENS for place in places]
        groups = [few[start : start + NATIVE_TOKENS] for start in range(0, len(few), NATIVE_TOKENS)]
        return [*groups, many] if many else groups


def _runs(starts: Sequence[int], contexts: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Long sequences cut at whole blocks: where runs start, how long the sequence is after each, and whose they are."""
    run_starts, run_contexts, sequences = [0], [], []
    for s, ((start, stop), context) in enumerate(zip(pairwise(starts), contexts, strict=True)):
        # A first run of few tokens would go before what it is seen by, so it stays with the next one.
        first = context - (stop - start) + NATIVE_SEQUENCE_TOKENS
        ends = range((first // BLOCK_TOKENS + 1) * BLOCK_TOKENS, context, BLOCK_TOKENS)
        for end in (*ends, context) if stop - start > NATIVE_SEQUENCE_TOKENS else (context,):
            run_starts.append(stop - (context - end))
            run_contexts.append(end)
            sequences.append(s)
    return run_starts, run_contexts, sequences
