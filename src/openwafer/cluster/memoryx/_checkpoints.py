"""Checkpoints beside the run: records are copied out one by one, and an update waits until its record was."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from openwafer.artifact import memoryx_of
from openwafer.cluster._memory import is_finite, stored_state, stored_weights
from openwafer.cluster._messages import SaveCheckpoint, Saved
from openwafer.cluster.memoryx._exchange import receive_record, send_record
from openwafer.cluster.memoryx._shared import Shared
from openwafer.cluster.store import CheckpointWriter
from openwafer.wire import wait_any


class Checkpoints:
    """Writes checkpoints in a thread of its own; `save` asks for one, `end` lets it finish."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self._commands: queue.SimpleQueue[tuple[SaveCheckpoint, dict[str, float]] | None] = (
            queue.SimpleQueue()
        )

    def save(self, command: SaveCheckpoint) -> None:
        """Hold every record as it is after `command.step` steps, and have it written."""
        ledger = self.shared.ledger
        ledger.wait_completed(command.step)
        ledger.hold(self.shared.store.indices)
        self._commands.put((command, self.shared.updater.global_values))

    def end(self) -> None:
        self._commands.put(None)

    def run(self) -> None:
        while (snapshot := self._commands.get()) is not None:
            self._write(*snapshot)

    def _write(self, command: SaveCheckpoint, global_values: dict[str, float]) -> None:
        if self.shared.shard:
            self._hand_over(command)
            return
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
            for index in _order(range(len(records))):
                with self._record(index, command.step) as data:
                    bad = self._not_finite(index, data) or bad
                    if not bad:
                        writer.add(index, data)
                shared.ledger.release(index)
            if bad:
                writer.abort()
            path = "" if bad else str(writer.commit())
        shared.reports.send(Saved(command.step, path, time.monotonic() - started, bad))

    def _hand_over(self, command: SaveCheckpoint) -> None:
        """The first shard writes the checkpoint: give it the records of this one."""
        shared = self.shared
        writer = shared.ends.writer(f"saved{shared.shard}")
        for index in _order(shared.store.indices):
            with self._record(index, command.step) as data:
                send_record(writer, index, command.step, data, shared.job.stall_s)
            shared.ledger.release(index)
        writer.drain(shared.job.stall_s)

    @contextmanager
    def _record(self, index: int, step: int) -> Iterator[memoryview]:
        """A whole record as the updates of `step` steps left it: where it lies, or in a buffer for as long as this takes."""
        shared = self.shared
        home = memoryx_of(shared.plan, index)
        own = home == shared.shard
        if own:
            shared.ledger.wait_version(index, step)
            if (memory := shared.store.memory(index)) is not None:
                yield memory[: shared.plan.records[index].nbytes]
                return
        # A buffer is taken when the record is there to be copied: who holds one waits for no update.
        reader = None if own else shared.ends.reader(f"saved{home}")
        if reader is not None:
            wait_any([reader], shared.job.stall_s)
        buffer = shared.take_buffer()
        try:
            if reader is None:
                yield shared.store.read(index, buffer)
            else:
                into = buffer[: shared.plan.records[index].nbytes]
                found, data = receive_record(reader, index, into, shared.job.stall_s)
                assert found == step, (found, step)
                yield data
        finally:
            shared.give_back(buffer)

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


def _order(records: Sequence[int]) -> list[int]:
    """All shards alike: the backward updates the last records first, so they are let go first."""
    return sorted(records, reverse=True)
