"""What MemoryX's threads agree on: how many updates each record carries, and what may not change yet."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

from openwafer.base import StallError
from openwafer.wire import Aborted, Endpoints


class Ledger:
    """Counts of applied updates, per record and for the job; every wait ends when the job is aborted.

    `version[r]` is the number of updates in record r; `completed` the number of steps whose updates, and whose
    globals, are all in place.
    """

    def __init__(self, versions: list[int], endpoints: Endpoints, stall_s: float) -> None:
        self.version = versions
        self.completed = max(versions, default=0)
        self.globals_version = self.completed
        self._held: set[int] = set()
        self._ends = endpoints
        self._stall_s = stall_s
        self._changed = threading.Condition()
        self.error: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """Wake every waiter with the error of one thread."""
        with self._changed:
            self.error = self.error or error
            self._changed.notify_all()

    def advance(self, record: int, version: int) -> None:
        with self._changed:
            self.version[record] = version
            self._changed.notify_all()

    def complete(self, steps: int) -> None:
        with self._changed:
            self.completed = steps
            self._changed.notify_all()

    def set_globals_version(self, steps: int) -> None:
        with self._changed:
            self.globals_version = steps
            self._changed.notify_all()

    def hold(self, records: Iterable[int]) -> None:
        """No update of these may begin until `release`: a checkpoint copies them out."""
        with self._changed:
            self._held.update(records)

    def release(self, record: int) -> None:
        with self._changed:
            self._held.discard(record)
            self._changed.notify_all()

    def wait_version(self, record: int, version: int) -> None:
        self._wait(lambda: self.version[record] >= version, f"update {version} of record {record}")

    def wait_completed(self, steps: int) -> None:
        self._wait(lambda: self.completed >= steps, f"the updates of step {steps}")

    def wait_globals(self, steps: int) -> None:
        self._wait(lambda: self.globals_version >= steps, f"the globals of step {steps}")

    def wait_released(self, record: int) -> None:
        self._wait(lambda: record not in self._held, f"the checkpoint's copy of record {record}")

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        waited = 0.0
        with self._changed:
            while not ready():
                if self.error is not None:
                    # Aborted, because the thread that failed has reported its error already.
                    raise Aborted(f"MemoryX stopped: {self.error}") from self.error
                if not self._changed.wait(0.1):
                    self._ends.check()
                    waited += 0.1
                if waited > self._stall_s:
                    raise StallError(
                        f"MemoryX waited {waited:.0f} s for {what}; a system or the disk has stopped"
                    )
