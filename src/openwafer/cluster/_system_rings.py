"""The rings of one system, as its device reads and writes them: batches, weights, gradients, boundary values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from openwafer.artifact import VALUE_BUFFERS, Plan, batch_slot_bytes, weight_buffers
from openwafer.cluster._device import Device, Reader, Writer
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
        here = plan.store == "ram" and any(record.streams_as_stored for record in plan.records)
        self._store = endpoints.segment("store").buffer if here and endpoints.has_segment("store") else None
        self._store_offsets = _record_offsets(plan)

    @property
    def batches(self) -> Reader:
        """This replica's rows of each batch."""

        def make() -> Reader:
            sizes = [batch_slot_bytes(self._plan, self._index)]
            return self._device.reader(self._endpoints.reader("batches"), sizes)

        return self._open("batches", make)

    @property
    def weights(self) -> Reader:
        """Records, as they stream."""

        def make() -> Reader:
            ring = self._endpoints.reader(f"weights{self._stage}")
            return self._device.reader(ring, weight_buffers(self._plan, self._index), self._locate)

        return self._open("weights", make)

    @property
    def gradients(self) -> Writer:
        """Summed gradients, to SwarmX."""

        def make() -> Writer:
            ring = self._endpoints.writer("gradients")
            return self._device.writer(ring, ring.shape.slots)

        return self._open("gradients", make)

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
        assert self._store is not None
        index = message.token["record"]
        start = self._store_offsets[index]
        return self._store[start : start + self._plan.records[index].stream_bytes]


def _record_offsets(plan: Plan) -> list[int]:
    offsets, at = [], 0
    for record in plan.records:
        offsets.append(at)
        at += record.nbytes
    return offsets
