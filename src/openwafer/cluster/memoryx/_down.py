"""Weights down: every record of a step in stream order, when it carries the last update, as systems compute with it."""

from __future__ import annotations

import queue
import time
from typing import Any

from openwafer.artifact import Plan, Record, load_order, streams_in_place, systems_of_stage
from openwafer.cluster._memory import stored_weights, streamed_weights
from openwafer.cluster._messages import Step
from openwafer.cluster.memoryx._shared import Shared


class WeightStream:
    """Sends the weights of one stage, step by step, as its queue tells; None ends it."""

    def __init__(self, shared: Shared, stage: int) -> None:
        self.shared = shared
        self.plan = shared.plan
        self.steps: queue.SimpleQueue[Step | None] = queue.SimpleQueue()
        self._writer = shared.ends.writer(f"weights{stage}")
        self._lane = f"{shared.role} stream"
        system = self.plan.systems[systems_of_stage(self.plan, stage)[0]]
        self._orders = {
            train: load_order(self.plan, system, train, shared.shard)
            for train in (True, False)
            if train or system.evaluation
        }
        self._last_use = {index: position for position, index in enumerate(self._orders[True])}
        self._changing = {self.plan.record_of[name] for name, _ in self.plan.buffers}
        self._waits = self.plan.update.waits or _reads_changing_globals(self.plan)

    def run(self) -> None:
        shared, ledger = self.shared, self.shared.ledger
        while (step := self.steps.get()) is not None:
            if self._waits:
                ledger.wait_globals(step.number)
            for position, index in enumerate(self._orders[step.train]):
                if index in self._changing:
                    # New batch statistics arrive when the step ends, after the update.
                    ledger.wait_completed(step.number)
                elif shared.trained[index]:
                    ledger.wait_version(index, step.number)
                # The last read of a step brings the whole record: its update needs no second one.
                last = step.train and self._last_use[index] == position
                self._send(index, last and shared.reads_ahead and shared.trained[index])
        self._writer.drain(shared.job.stall_s)

    def _send(self, index: int, ahead: bool) -> None:
        shared, record = self.shared, self.plan.records[index]
        token: dict[str, Any] = {"record": index, "in_place": False, "globals": self._global_values()}
        if streams_in_place(self.plan, index) and not self._writer.shape.far:
            token["in_place"] = True
            self._writer.commit_reference(token, record.weight_bytes)
            return
        slot = self._writer.acquire(shared.job.stall_s)
        kept = shared.store.memory(index)
        if kept is None and record.streams_as_stored and not ahead:
            started = time.monotonic()
            shared.store.weights(index, slot[: record.weight_bytes])
            shared.span(self._lane, f"read {record.name}", started)
        elif kept is not None:
            self._cast(record, kept, slot)
        else:
            held = shared.take_buffer(ahead=ahead)
            started = time.monotonic()
            source = shared.store.read(index, held) if ahead else shared.store.weights(index, held)
            shared.span(self._lane, f"read {record.name}", started)
            self._cast(record, source, slot)
            if ahead:
                shared.put_ahead(index, held)
            else:
                shared.give_back(held)
        self._writer.commit(token, record.stream_bytes)

    def _global_values(self) -> list[list[Any]]:
        values = self.shared.updater.global_values
        return [[entry.name, values[entry.name], entry.dtype] for entry in self.plan.globals]

    def _cast(self, record: Record, source: memoryview, slot: memoryview) -> None:
        """Copy a record's weights into a slot, in the dtypes that systems compute with."""
        started = time.monotonic()
        stored = stored_weights(record, source)
        for name, target in streamed_weights(record, slot).items():
            target.copy_(stored[name])
        self.shared.span(self._lane, f"cast {record.name}", started)


def _reads_changing_globals(plan: Plan) -> bool:
    """Whether systems compute with a global that steps change: then a step's weights must bring that of the step before."""
    changing = {name for name, _ in plan.update.new_globals}
    calls = [
        call
        for layers in plan.layers.values()
        for layer in layers
        for call in (layer.forward, layer.backward)
    ]
    return any(not changing.isdisjoint(call.inputs) for call in calls if call is not None)
