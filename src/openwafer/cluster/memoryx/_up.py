"""Gradients up: SwarmX sums them, the update runs on the record's own bytes, and the record goes back to its place."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import torch

from openwafer.artifact import gradient_order, load_order, systems_of_stage, update_outputs
from openwafer.cluster._job import system_role
from openwafer.cluster._memory import gradients as gradient_views
from openwafer.cluster._memory import stored_state, stored_weights, view
from openwafer.cluster._messages import Step, Updated
from openwafer.cluster._swarmx import reduce_in_place
from openwafer.cluster._system import die
from openwafer.cluster._threads import use_threads
from openwafer.cluster.memoryx._exchange import share_values
from openwafer.cluster.memoryx._kept import Gradients, KeptGradients
from openwafer.cluster.memoryx._shared import Shared
from openwafer.wire import RingMessage, RingReader

GRADIENT = "/gradient"


class Updates:
    """The update part of every step. Each stage has a thread in `run`; the last to finish a step closes it."""

    def __init__(self, shared: Shared) -> None:
        self.shared = shared
        self.plan = shared.plan
        self.waits = self.plan.update.waits
        self._shards = len(self.plan.memoryx_records)
        self.steps = [queue.SimpleQueue[Step | None]() for _ in range(self.plan.stages)]
        self._orders = [
            gradient_order(self.plan, self.plan.systems[systems_of_stage(self.plan, stage)[0]], shared.shard)
            for stage in range(self.plan.stages)
        ]
        self._expected = Counter(record for order in self._orders for _, record in order)
        self._lock = threading.Lock()
        self._begun = shared.start_step
        self._ended_stages = 0
        spill = Path(shared.job.store_folders[shared.shard]) if self.plan.spills_gradients else None
        self._kept = KeptGradients(self.plan.records, self._expected, spill)
        self._writer = ThreadPoolExecutor(1, "write", use_threads, (1,))

    def run(self, stage: int) -> None:
        """Update from the gradients of one stage, step by step, as its queue tells; None ends it."""
        shared = self.shared
        members = systems_of_stage(self.plan, stage)
        readers = [shared.ends.reader(f"gradients{shared.shard}", system_role(index)) for index in members]
        while (step := self.steps[stage].get()) is not None:
            if shared.job.fail == f"{shared.role}:{step.number}":
                die()
            for _, index in self._orders[stage]:
                messages = [reader.receive(shared.job.stall_s) for reader in readers]
                self._receive(step, stage, index, readers, messages)
            self.end(step, stage)

    def close(self) -> None:
        """Wait until every record is written."""
        self._writer.shutdown()

    def begin(self, step: Step) -> None:
        """Once per step, by whichever stage comes first."""
        # Not under the lock: the stage that completes the step before needs it.
        self.shared.ledger.wait_completed(step.number)
        with self._lock:
            if self._begun == step.number:
                self.shared.updater.begin(step.number)
                self._begun = step.number + 1
                self._kept.begin()

    def end(self, step: Step, stage: int) -> None:
        """The last stage to get here closes the step."""
        shared = self.shared
        # A stage without gradients (all its weights frozen) must not run ahead and count for a later step.
        self.begin(step)
        with self._lock:
            self._ended_stages += 1
            if self._ended_stages < self.plan.stages:
                return
            self._ended_stages = 0
        if self._shards > 1 and any(entry.before is not None for entry in self.plan.update.records):
            others = share_values(
                shared.updater.made_before, shared.ends, shared.shard, self._shards, shared.job.stall_s
            )
            shared.updater.take_before(others)
        shared.updater.across()
        if self.waits:
            for index in self._apply_order():
                self._apply(step, index, _named(self._kept.views(index)), stage)
                self._kept.leave(index)
        self._take_buffers(step)
        logs = shared.updater.finish()
        self._hand_out()
        shared.ledger.set_globals_version(step.number + 1)
        for index in shared.store.indices:
            if shared.trained[index]:
                shared.ledger.wait_version(index, step.number + 1)
            elif shared.ledger.version[index] <= step.number:
                shared.store.keep(index, step.number + 1)
                shared.ledger.advance(index, step.number + 1)
        shared.ledger.complete(step.number + 1)
        shared.reports.send(
            Updated(
                shard=shared.shard,
                step=step.number,
                logs=logs,
                globals=shared.updater.global_values,
                bytes_read=shared.store.stats.bytes_read,
                bytes_written=shared.store.stats.bytes_written,
                spans=shared.take_spans(step.number),
            )
        )

    def _hand_out(self) -> None:
        """Tensors that the update made and the job asked for; every shard has the same."""
        laid, nbytes = update_outputs(self.plan)
        if not laid or self.shared.shard:
            return
        writer = self.shared.ends.writer("outputs")
        slot = writer.acquire(self.shared.job.stall_s)
        for output, _, kind, offset in laid:
            view(slot, kind, offset).copy_(self.shared.updater.outputs[output.label])
        writer.commit({}, nbytes)

    def _receive(
        self, step: Step, stage: int, index: int, readers: list[RingReader], messages: list[RingMessage]
    ) -> None:
        """The gradients of one record, from every system of a stage."""
        record = self.plan.records[index]
        for message in messages:
            assert (message.token["record"], message.token["step"]) == (index, step.number), message.token
        started = time.monotonic()
        parts = [gradient_views(record, message.data) for message in messages]
        summed = {name: reduce_in_place([part[name] for part in parts]) for name in parts[0]}
        if len(messages) > 1:
            self.shared.span(self._lane(stage), f"reduce {record.name}", started)
        self.begin(step)
        if not self.waits and self._expected[index] == 1:
            self._received(step, index, summed, stage)
            for reader, message in zip(readers, messages, strict=True):
                reader.release(message.ticket)
            return
        complete = self._kept.add(index, summed)
        for reader, message in zip(readers, messages, strict=True):
            reader.release(message.ticket)
        if complete:
            self._received(step, index, self._kept.views(index), stage)
        self._kept.leave(index)

    def _received(self, step: Step, index: int, grads: Gradients, stage: int) -> None:
        named = _named(grads)
        with self._record(index) as own, self._lock:
            self.shared.updater.before(index, {**own, **named})
        if not self.waits:
            self._apply(step, index, named, stage)

    @contextmanager
    def _record(self, index: int) -> Iterator[Gradients]:
        """A record's weights and state by name, if what comes before the update reads them; a store on disk reads it for that."""
        shared, record = self.shared, self.plan.records[index]
        if not shared.updater.reads_record(index):
            yield {}
            return
        buffer = shared.store.memory(index)
        held = None if buffer is not None else shared.take_buffer()
        data = buffer if buffer is not None else shared.store.read(index, held)
        try:
            yield {**stored_weights(record, data), **stored_state(record, data)}
        finally:
            if held is not None:
                shared.give_back(held)

    def _apply(self, step: Step, index: int, grads: Gradients, stage: int) -> None:
        shared, record = self.shared, self.plan.records[index]
        shared.ledger.wait_released(index)
        buffer = shared.store.memory(index)
        held: memoryview | None = None
        if buffer is None:
            held = shared.take_ahead(index)
            if held is None:
                held = shared.take_buffer()
                started = time.monotonic()
                shared.store.read(index, held)
                shared.span(self._lane(stage), f"read {record.name}", started)
            buffer = held
        started = time.monotonic()
        shared.updater.apply(
            index, {**stored_weights(record, buffer), **stored_state(record, buffer), **grads}
        )
        shared.span(self._lane(stage), f"update {record.name}", started)
        if held is None:
            shared.store.write(index, step.number + 1, buffer)
            shared.ledger.advance(index, step.number + 1)
        else:
            self._writer.submit(shared.guard, self._write, index, step.number + 1, held)

    def _write(self, index: int, version: int, held: memoryview) -> None:
        shared, record = self.shared, self.plan.records[index]
        started = time.monotonic()
        shared.store.write(index, version, held[: record.nbytes])
        shared.span(f"{shared.role} write", f"write {record.name}", started)
        shared.give_back(held)
        shared.ledger.advance(index, version)

    def _lane(self, stage: int) -> str:
        return f"{self.shared.role} update{stage or ''}"

    def _apply_order(self) -> list[int]:
        """In the order in which the next forward asks for them."""
        order: dict[int, None] = {}
        for stage in range(self.plan.stages):
            system = self.plan.systems[systems_of_stage(self.plan, stage)[0]]
            order.update(dict.fromkeys(load_order(self.plan, system, True, self.shared.shard)))
        return [index for index in order if self.shared.trained[index]]

    def _take_buffers(self, step: Step) -> None:
        """New batch statistics of this shard's records, from the first replica of every stage."""
        shared = self.shared
        if not self.plan.buffers:
            return
        values: dict[str, bytes] = {}
        for stage in range(self.plan.stages):
            source = system_role(systems_of_stage(self.plan, stage)[0])
            number, own = shared.ends.inbox("buffers", source).receive(
                shared.job.stall_s, type=tuple[int, dict[str, bytes]]
            )
            assert number == step.number
            values.update(own)
        home = self.plan.record_of
        for index in sorted({home[name] for name in values}):
            shared.ledger.wait_released(index)
            if shared.trained[index]:
                shared.ledger.wait_version(index, step.number + 1)
            record = self.plan.records[index]
            buffer = shared.store.memory(index)
            held = None if buffer is not None else shared.take_buffer()
            data = buffer if buffer is not None else shared.store.read(index, held)
            for name, target in stored_weights(record, data).items():
                if name in values:
                    target.copy_(
                        torch.frombuffer(bytearray(values[name]), dtype=target.dtype).view(target.shape)
                    )
            shared.store.write(index, step.number + 1, data)
            if held is not None:
                shared.give_back(held)


def _named(grads: Gradients) -> Gradients:
    """Gradients by the names under which an update reads them."""
    return {name + GRADIENT: value for name, value in grads.items()}
