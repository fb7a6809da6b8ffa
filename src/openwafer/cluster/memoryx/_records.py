"""The records of one MemoryX shard, by their numbers in the plan, wherever its store keeps them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openwafer.artifact import Plan
from openwafer.base import PlanError
from openwafer.cluster._job import Job, store_segment
from openwafer.cluster.store import DiskStore, RamStore, Stats, Store
from openwafer.wire import Endpoints


class Records:
    """A store that holds some of a plan's records; the methods are those of Store."""

    def __init__(self, store: Store, indices: Sequence[int]) -> None:
        """indices: by record of the store, its number in the plan."""
        self.indices = tuple(indices)
        self._store = store
        self._at = {index: at for at, index in enumerate(self.indices)}

    @property
    def stats(self) -> Stats:
        return self._store.stats

    def memory(self, index: int) -> memoryview | None:
        return self._store.memory(self._at[index])

    def weights(self, index: int, into: memoryview | None = None) -> memoryview:
        return self._store.weights(self._at[index], into)

    def read(self, index: int, into: memoryview | None = None) -> memoryview:
        return self._store.read(self._at[index], into)

    def write(self, index: int, step: int, buffer: memoryview) -> None:
        self._store.write(self._at[index], step, buffer)

    def keep(self, index: int, step: int) -> None:
        self._store.keep(self._at[index], step)

    def flush(self, step: int, globals: dict[str, float]) -> None:
        self._store.flush(step, globals, hashes=False)

    def close(self) -> None:
        self._store.close()


def open_records(job: Job, shard: int, endpoints: Endpoints) -> Records:
    """Room for the records of a shard, whose values are still to come: on disk, or in memory that its systems share.

    Raises PlanError if the plan wants a disk and the job names no folder; otherwise as DiskStore.
    """
    plan = job.plan
    indices = plan.memoryx_records[shard]
    records = [plan.records[index] for index in indices]
    if plan.store == "ram":
        return Records(RamStore(records, _buffers(plan, indices, endpoints, shard)), indices)
    if not job.store_folders:
        raise PlanError("the plan keeps MemoryX on disk, but no folder was given; write memoryx='disk:/path'")
    cached = [at for at, index in enumerate(indices) if index in plan.cached]
    return Records(DiskStore(Path(job.store_folders[shard]), records, cached, fresh=True), indices)


def _buffers(plan: Plan, indices: Sequence[int], endpoints: Endpoints, shard: int) -> list[memoryview]:
    segment = endpoints.segment(store_segment(shard)).buffer
    buffers, at = [], 0
    for index in indices:
        nbytes = plan.records[index].nbytes
        buffers.append(segment[at : at + nbytes])
        at += nbytes
    return buffers
