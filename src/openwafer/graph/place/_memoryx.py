"""Which MemoryX shard keeps which record."""

from __future__ import annotations

from collections.abc import Sequence

from openwafer.artifact import Record
from openwafer.base import PlanError


def deal_records(records: Sequence[Record], shards: int) -> tuple[int, ...]:
    """The shard of every record: each goes, in the model's order, to a shard that has the fewest bytes so far.

    Layers that follow each other thus lie in different shards, which read them at the same time. Raises PlanError for
    more shards than records.
    """
    if shards > len(records):
        raise PlanError(
            f"{shards} MemoryX shards were asked for, but the model has {len(records)} layers with weights to share "
            f"among them; use at most {len(records)}"
        )
    held = [0] * shards
    homes = []
    for record in records:
        home = held.index(min(held))
        held[home] += record.nbytes
        homes.append(home)
    return tuple(homes)
