"""Contiguous pipeline stages of nearly equal work."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from openwafer.base import PlanError


def split_stages(work: Sequence[int], stages: int) -> tuple[range, ...]:
    """Split layers 0..n-1 into `stages` contiguous, non-empty ranges whose largest sum of `work` is smallest.

    Raises PlanError if there are fewer layers than stages.
    """
    count = len(work)
    if stages > count:
        raise PlanError(
            f"{stages} pipeline stages were asked for, but the model has {count} layers; use at most {count} systems, or "
            "execution='weight_streaming', where every system runs all layers"
        )
    total = [0]
    for value in work:
        total.append(total[-1] + value)

    @cache
    def best(end: int, parts: int) -> tuple[int, int]:
        """(largest sum, start of the last part) for layers 0..end-1 in `parts` parts."""
        if parts == 1:
            return total[end], 0
        return min(
            (max(best(start, parts - 1)[0], total[end] - total[start]), start)
            for start in range(parts - 1, end)
        )

    ends, end = [], count
    for parts in range(stages, 0, -1):
        start = best(end, parts)[1]
        ends.append(range(start, end))
        end = start
    return tuple(reversed(ends))


def split_rows(total: int, parts: int) -> tuple[int, ...]:
    """How many of `total` samples each of `parts` gets: contiguous, the first `total % parts` one more.

    A BatchSource shards its batches in the same way.
    """
    share, extra = divmod(total, parts)
    return tuple(share + (index < extra) for index in range(parts))


def split_microbatches(rows: int, microbatch: int) -> tuple[int, ...]:
    """Sizes of the microbatches of `rows` samples; the last one may be smaller."""
    full, rest = divmod(rows, microbatch)
    return (microbatch,) * full + ((rest,) if rest else ())
