"""What MemoryX asks of the place where weights and optimizer state live."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from openwafer.artifact import Record
from openwafer.base import CheckpointError
from openwafer.cluster.store._tensors import check_names

NO_VALUES = -1
"""`step_of` of a record that was never initialised, loaded or written."""


class Stats:
    """Bytes that moved between a store and its disk, and the seconds that the callers spent on it."""

    def __init__(self) -> None:
        self.bytes_read = 0
        self.bytes_written = 0
        self.read_s = 0.0
        self.write_s = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def reading(self, nbytes: int) -> Iterator[None]:
        """Count a read of `nbytes` that succeeds in this block."""
        start = time.perf_counter()
        yield
        with self._lock:
            self.bytes_read += nbytes
            self.read_s += time.perf_counter() - start

    @contextmanager
    def writing(self, nbytes: int) -> Iterator[None]:
        """Count a write of `nbytes` that succeeds in this block."""
        start = time.perf_counter()
        yield
        with self._lock:
            self.bytes_written += nbytes
            self.write_s += time.perf_counter() - start


class Store(ABC):
    """One Record per layer, each with the step whose update it carries.

    Different records may be read and written from different threads at the same time; `flush` and `close`
    want the store for themselves. A buffer for a whole record holds weights at 0, state at `weight_bytes`.
    """

    records: tuple[Record, ...]
    stats: Stats
    step: int | None = None
    """The step of the last flush, also of an earlier process; None if there was none."""
    globals: dict[str, float]
    """The globals of the last flush."""

    def __init__(self, records: Sequence[Record]) -> None:
        check_names(records)
        self.records = tuple(records)
        self.stats = Stats()
        self.globals = {}
        self._steps = [NO_VALUES] * len(self.records)

    @abstractmethod
    def memory(self, index: int) -> memoryview | None:
        """The store's own memory of the whole record, if it keeps that record in RAM."""

    @abstractmethod
    def weights(self, index: int, into: memoryview | None = None) -> memoryview:
        """The weight region, `weight_bytes` long.

        A record in RAM is returned where it lies and `into` is ignored: do not write to it. Any other is
        read into `into` (page-aligned, at least `weight_bytes`).
        """

    @abstractmethod
    def read(self, index: int, into: memoryview | None = None) -> memoryview:
        """The whole record, `nbytes` long; where it lies or in `into`, as with `weights`."""

    @abstractmethod
    def write(self, index: int, step: int, buffer: memoryview) -> None:
        """Store the whole record as the update of `step` left it.

        For a record in RAM `buffer` is normally its own memory, updated in place; any other is copied.
        """

    def step_of(self, index: int) -> int:
        """The step whose update the record carries: 0 for initial values, -1 for no values yet."""
        return self._steps[index]

    def keep(self, index: int, step: int) -> None:
        """Say that the update of `step` left the record as it is, so that it carries that step too."""
        self._steps[index] = step

    @abstractmethod
    def flush(self, step: int, globals: dict[str, float], *, hashes: bool = True) -> None:
        """Make everything durable and consistent at `step`.

        Every record with trained weights must carry exactly `step`; the others may be older, and are kept.
        hashes: also record each record's hash, which reads the changed ones once.

        Raises CheckpointError if a record carries another step, StorageError if the disk fails.
        """

    @abstractmethod
    def close(self) -> None:
        """Let the memory, the files and the folder go. Does not flush. Closing twice is harmless."""

    def check_steps(self, step: int) -> None:
        """Raises CheckpointError unless the records together are the run at `step`; see `flush`."""
        for index, (record, found) in enumerate(zip(self.records, self._steps, strict=True)):
            if found != step and (record.trained or found == NO_VALUES or found > step):
                state = "has no values yet" if found == NO_VALUES else f"is at step {found}"
                raise CheckpointError(
                    f"the store is not at step {step}: record {index} ({record.name!r}) {state}; "
                    "initialise, load or write every record first"
                )
