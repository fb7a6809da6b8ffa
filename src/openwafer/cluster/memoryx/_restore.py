"""How a job begins: the first MemoryX shard reads the checkpoint, and hands the others their records."""

from __future__ import annotations

from openwafer.artifact import Plan, memoryx_of
from openwafer.cluster._job import Job, memoryx
from openwafer.cluster.memoryx._exchange import receive_record, send_record
from openwafer.cluster.memoryx._records import Records
from openwafer.cluster.store import aligned_buffer, load_checkpoint
from openwafer.wire import Endpoints

Globals = dict[str, float]


def restore(job: Job, shard: int, store: Records, ends: Endpoints) -> tuple[int, Globals]:
    """Fill a shard's records from the checkpoint `job.start`, which only the first shard needs to reach.

    Returns its step and its globals. Raises CheckpointError, before any record changes, if it is incomplete, damaged or of
    another model.
    """
    if shard:
        return _receive(job, shard, store, ends)
    checkpoint = load_checkpoint(job.start, _Dealer(job, store, ends))
    for other in range(1, len(job.plan.memoryx_records)):
        ends.outbox("across", memoryx(other)).send([checkpoint.step, checkpoint.globals], job.stall_s)
    return checkpoint.step, checkpoint.globals


class _Dealer:
    """Every record of the plan, for `load_checkpoint` to fill: some here, the others on their way to their shards."""

    def __init__(self, job: Job, store: Records, ends: Endpoints) -> None:
        self.plan: Plan = job.plan
        self.records = job.plan.records
        self._store = store
        self._ends = ends
        self._stall_s = job.stall_s

    def memory(self, index: int) -> memoryview | None:
        return None if memoryx_of(self.plan, index) else self._store.memory(index)

    def write(self, index: int, step: int, buffer: memoryview) -> None:
        shard = memoryx_of(self.plan, index)
        if shard:
            send_record(self._ends.writer(f"restored{shard}"), index, step, buffer, self._stall_s)
        else:
            self._store.write(index, step, buffer)


def _receive(job: Job, shard: int, store: Records, ends: Endpoints) -> tuple[int, Globals]:
    reader = ends.reader(f"restored{shard}")
    scratch: memoryview | None = None
    for index in store.indices:
        record = job.plan.records[index]
        buffer = store.memory(index)
        if buffer is None:
            if scratch is None:
                scratch = aligned_buffer(max(job.plan.records[own].nbytes for own in store.indices))
            buffer = scratch
        step, data = receive_record(reader, index, buffer[: record.nbytes], job.stall_s)
        store.write(index, step, data)
    step, globals = ends.inbox("across", memoryx()).receive(job.stall_s, type=tuple[int, Globals])
    return step, globals
