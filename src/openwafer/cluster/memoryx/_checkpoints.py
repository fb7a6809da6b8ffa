"""Checkpoints beside the run: records are copied out one by one, and an update waits until its record was."""

from __future__ import annotations

import queue
import time
from pathlib import Path

import msgspec

from openwafer.cluster._memory import is_finite, stored_state, stored_weights
from openwafer.cluster._messages import SaveCheckpoint, Saved
from openwafer.cluster.memoryx._shared import Shared
from openwafer.cluster.store import CheckpointWriter, aligned_buffer


class Checkpoints:
    """Writes checkpoints in a thread of its own; `save` asks for one, `end` lets it finish."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self._commands: queue.SimpleQueue[tuple[SaveCheckpoint, dict[str, float]] | None] = (
            queue.SimpleQueue()
        )
        self._scratch: memoryview | None = None

    def save(self, command: SaveCheckpoint) -> None:
        """Hold every record as it is after `command.step` steps, and have it written."""
        ledger = self.shared.ledger
        ledger.wait_completed(command.step)
        ledger.hold(range(len(self.shared.plan.records)))
        self._commands.put((command, self.shared.updater.global_values))

    def end(self) -> None:
        self._commands.put(None)

    def run(self) -> None:
        while (snapshot := self._commands.get()) is not None:
            self._write(*snapshot)

    def _write(self, command: SaveCheckpoint, global_values: dict[str, float]) -> None:
        shared, records = self.shared, self.shared.plan.records
        started = time.monotonic()
        with CheckpointWriter(
            Path(command.folder),
            command.step,
            records,
            global_values,
            msgspec.msgpack.decode(command.extra),
            keep=shared.job.keep_checkpoints,
        ) as writer:
            bad = ""
            # The backward updates the last records first, so they are let go first.
            for index in reversed(range(len(records))):
                shared.ledger.wait_version(index, command.step)
                if shared.store.memory(index) is None and self._scratch is None:
                    self._scratch = aligned_buffer(max(record.nbytes for record in records))
                data = shared.store.read(index, self._scratch)
                bad = self._not_finite(index, data) or bad
                if not bad:
                    writer.add(index, data)
                shared.ledger.release(index)
            if bad:
                writer.abort()
            path = "" if bad else str(writer.commit())
        shared.reports.send(Saved(command.step, path, time.monotonic() - started, bad))

    def _not_finite(self, index: int, data: memoryview) -> str:
        """The first tensor of a record that training has made useless: a weight with NaN or infinity, state with NaN.

        Weights that never change may hold anything (a mask of -inf).
        """
        plan = self.shared.plan
        record = plan.records[index]
        changing = {weight.name for weight in record.trained} | {name for name, _ in plan.buffers}
        for name, value in stored_weights(record, data).items():
            if name in changing and not is_finite(value):
                return name
        for name, value in stored_state(record, data).items():
            if not is_finite(value, infinity=True):
                return name
        return ""
