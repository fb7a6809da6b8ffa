"""What the threads of MemoryX work on together."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from openwafer.artifact import Mode, record_buffers
from openwafer.base import StallError
from openwafer.cluster._failures import report_failure
from openwafer.cluster._job import Job, memoryx
from openwafer.cluster._messages import Span
from openwafer.cluster.memoryx._ledger import Ledger
from openwafer.cluster.memoryx._records import Records
from openwafer.cluster.memoryx._updater import Updater
from openwafer.cluster.store import aligned_buffer
from openwafer.wire import Aborted, Endpoints

_POLL_S = 0.5

T = TypeVar("T")


class Shared:
    """One shard's store, ledger, updater and buffers.

    Buffers hold one record each, on its way from or to the disk. `ahead` holds whole records that the stream read for
    a backward, so that their updates need no second read. Those may wait for a checkpoint, and a checkpoint for a buffer:
    so one buffer is never given for reading ahead.
    """

    def __init__(
        self, job: Job, shard: int, endpoints: Endpoints, store: Records, updater: Updater, step: int
    ) -> None:
        self.job = job
        self.shard = shard
        self.role = memoryx(shard)
        self.plan = job.plan
        self.ends = endpoints
        self.store = store
        self.updater = updater
        self.start_step = step
        self.ledger = Ledger([step] * len(self.plan.records), endpoints, job.stall_s)
        self.reports = endpoints.outbox("reports")
        self.trained = [bool(record.trained) for record in self.plan.records]
        self.reads_ahead = (
            self.plan.store == "disk"
            and not self.plan.update.waits
            and self.plan.mode is Mode.WEIGHT_STREAMING
        )
        self._ahead: dict[int, memoryview] = {}
        self._ahead_lock = threading.Lock()
        self._buffers: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        buffers, buffer_bytes = record_buffers(self.plan, shard)
        for _ in range(buffers):
            self._buffers.put(aligned_buffer(buffer_bytes))
        self._places_ahead = threading.Semaphore(max(buffers - 1, 0))
        self._spans: list[Span] | None = [] if job.timeline_steps else None

    def guard(self, target: Callable[..., None], *arguments: Any) -> None:
        """Run a thread's work; what goes wrong is reported and wakes every other thread."""
        try:
            target(*arguments)
        except BaseException as error:
            # In this order: a thread that the ledger wakes may not report before the one that failed.
            report_failure(self.role, error, self.ends)
            self.ledger.fail(error)

    def take_buffer(self, *, ahead: bool = False) -> memoryview:
        """A free buffer; `ahead`: for `put_ahead`. Raises StallError if none comes within the job's time."""
        if ahead:
            self._wait(lambda: self._places_ahead.acquire(timeout=_POLL_S) or None)
        return self._wait(self._free_buffer)

    def _free_buffer(self) -> memoryview | None:
        try:
            return self._buffers.get(timeout=_POLL_S)
        except queue.Empty:
            return None

    def _wait(self, take: Callable[[], T | None]) -> T:
        """What `take` gives, which returns None after a while without it."""
        waited = 0.0
        while (taken := take()) is None:
            self.ends.check()
            waited += _POLL_S
            if self.ledger.error is not None:
                raise Aborted(f"MemoryX stopped: {self.ledger.error}") from self.ledger.error
            if waited > self.job.stall_s:
                raise StallError(f"MemoryX waited {waited:.0f} s for a free buffer; the disk has stopped")
        return taken

    def give_back(self, buffer: memoryview) -> None:
        self._buffers.put(buffer)

    def put_ahead(self, record: int, buffer: memoryview) -> None:
        """Keep a whole record for the update that follows."""
        with self._ahead_lock:
            self._ahead[record] = buffer

    def take_ahead(self, record: int) -> memoryview | None:
        """The record that was kept, for an update that waits for nothing any more."""
        with self._ahead_lock:
            buffer = self._ahead.pop(record, None)
        if buffer is not None:
            self._places_ahead.release()
        return buffer

    def span(self, lane: str, name: str, started: float) -> None:
        """Note work for the timeline, from `started` until now."""
        if self._spans is not None:
            self._spans.append(Span(lane, name, started, time.monotonic()))

    def take_spans(self, step: int) -> tuple[Span, ...]:
        """What was noted since the last call; after `job.timeline_steps` steps nothing more is."""
        spans = self._spans
        if spans is not None:
            self._spans = [] if step + 1 - self.start_step < self.job.timeline_steps else None
        return tuple(spans or ())
