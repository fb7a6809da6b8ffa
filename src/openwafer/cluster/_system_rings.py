"""The rings of one system, as its device reads and writes them: batches, weights, gradients, boundary values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from openwafer.artifact import VALUE_BUFFERS, Plan, batch_slot_bytes, memoryx_of, weight_buffers
from openwafer.cluster._device import Device, Reader, Writer
from openwafer.cluster._job import memoryx, store_segment
from openwafer.wire import Endpoints, RingMessage

End = TypeVar("End")


class SystemRings:
    """Each ring is opened at its first use, which is after the device was entered."""

    def __init__(self, plan: Plan, index: int, endpoints: Endpoints, device: Device) -> None:
        self._plan = plan
        self._index = index
        self._stage = plan.systems[index].stage
        self._endpoints = endpoints
        self._device = device
        self._opened: dict[str, Any] = {}
        # On another host than MemoryX's there is no store to look into: there bytes come in slots.
        self._stores = {
            shard: endpoints.segment(store_segment(shard)).buffer
            for shard in range(len(plan.memoryx_records))
            if endpoints.has_segment(store_segment(shard))
        }
        self._store_offsets = _record_offsets(plan)

    @property
    def batches(self) -> Reader:
        """This replica's rows of each batch."""

        def make() -> Reader:
            sizes = [batch_slot_bytes(self._plan, self._index)]
            return self._device.reader(self._endpoints.reader("batches"), sizes)

        return self._open("batches", make)

    def weights(self, record: int) -> Reader:
        """Where a record streams in: from the MemoryX shard that keeps it."""
        shard = memoryx_of(self._plan, record)

        def make() -> Reader:
            ring = self._endpoints.reader(f"weights{self._stage}", memoryx(shard))
            return self._device.reader(ring, weight_buffers(self._plan, self._index, shard), self._locate)

        return self._open(f"weights from {shard}", make)

    def gradients(self, record: int) -> Writer:
        """Where a record's summed gradients go, to SwarmX."""
        name = f"gradients{memoryx_of(self._plan, record)}"

        def make() -> Writer:
            ring = self._endpoints.writer(name)
            return self._device.writer(ring, ring.shape.slots)

        return self._open(name, make)

    @property
    def outputs(self) -> Writer:
        """Where tensors go that a step hands out."""

        def make() -> Writer:
            ring = self._endpoints.writer("outputs")
            return self._device.writer(ring, ring.shape.slots)

        return self._open("outputs", make)

    def values_to(self, stage: int) -> Writer:
        """Where boundary values go to another stage."""
        name = f"values{self._stage}to{stage}"
        return self._open(name, lambda: self._device.writer(self._endpoints.writer(name), VALUE_BUFFERS))

    def values_from(self, stage: int) -> Reader:
        """Where boundary values come from another stage."""
        name = f"values{stage}to{self._stage}"

        def make() -> Reader:
            ring = self._endpoints.reader(name)
            return self._device.reader(ring, [ring.shape.slot_bytes] * VALUE_BUFFERS)

        return self._open(name, make)

    def _open(self, name: str, make: Callable[[], End]) -> End:
        if name not in self._opened:
            self._opened[name] = make()
        end: End = self._opened[name]
        return end

    def _locate(self, message: RingMessage) -> memoryview:
        """The bytes of a record as it streams: in the slot, or in the shared store, where they lie alike."""
        if not message.token["in_place"]:
            return message.data
        index = message.token["record"]
        start = self._store_offsets[index]
        store = self._stores[memoryx_of(self._plan, index)]
        return store[start : start + self._plan.records[index].stream_bytes]


def _record_offsets(plan: Plan) -> dict[int, int]:
    """Where each record begins in the store of its shard."""
    offsets = {}
    for records in plan.memoryx_records:
        at = 0
        for index in records:
            offsets[index] = at
            at += plan.records[index].nbytes
    return offsets
