"""SwarmX: sums gradients from systems in a fixed order, in place."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def reduce_in_place(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Sum equal-shaped float32 tensors as the SwarmX tree does, into the first of them.

    The tree adds neighbours first: ((0 + 1) + (2 + 3)) + ...; an odd one moves up unchanged. The same number of
    parts gives the same bits every time. The sum may differ from `torch.stack(parts).sum(0)` in the last bits.
    Source: docs/facts.md#swarmx-reduce.
    """
    level = list(parts)
    while len(level) > 1:
        for left, right in zip(level[::2], level[1::2], strict=False):
            left.add_(right)
        level = level[::2]
    return level[0]
