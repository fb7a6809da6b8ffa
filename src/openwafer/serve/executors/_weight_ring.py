"""Layers that are read from their files again for every batch, ahead of the batch that needs them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, final

import torch

from openwafer.base import PAGE_BYTES, EngineError, WaferError, round_up
from openwafer.serve.model import Checkpoint, Layer, ModelConfig, Precision, layer_plan, new_tensor


def slot_bytes(config: ModelConfig, precision: Precision) -> int:
    """Bytes of one layer in a ring: its tensors, each beginning on a page."""
    return sum(
        round_up(plan.elements * precision.compute.itemsize, PAGE_BYTES)
        for plan in layer_plan(config, 0).values()
    )


@final
class WeightRing:
    """Hands out layers in a fixed order, over and over; a thread reads the next ones into the slots that are free.

    Reads go through the page cache and nothing is mapped: what the process holds are the slots. The kernel reads ahead in a
    file that is read in order, which on the disks measured is faster than O_DIRECT (benchmarks/serve_streaming.py), and
    whatever memory the machine has to spare serves a layer's next round.

    layers: their numbers, in the order of `take`. A tensor stored in another dtype is cast on its way.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        layers: Sequence[int],
        slots: int,
        device: torch.device,
    ) -> None:
        assert layers
        assert slots >= 1
        assert precision.quantise == "none", "a slot holds numbers as they are multiplied"
        self._checkpoint, self._config, self._precision = checkpoint, checkpoint.config, precision
        self._order, self._device = tuple(layers), device
        self._slots = [_slot(self._config, precision, device) for _ in range(slots)]
        self._made: dict[tuple[int, int | None], Layer] = {}
        self._changed = threading.Condition()
        self._read = self._taken = self._released = (
            0  # layers so far; the next one's slot is the count modulo slots
        )
        self._bytes_moved = 0
        self._failure: str | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="weights", daemon=True)
        self._thread.start()

    @property
    def bytes_moved(self) -> int:
        """Bytes of the files that were read into slots so far."""
        return self._bytes_moved

    def take(self) -> Layer:
        """Wait for the next layer. It may be used until `release`. Raises EngineError if it could not be read."""
        with self._changed:
            self._changed.wait_for(lambda: self._read > self._taken or self._failure or self._closed)
            if self._read == self._taken:
                raise EngineError(self._failure or "the weights' stream was closed; open another executor")
            index = self._order[self._taken % len(self._order)]
            slot = self._taken % len(self._slots)
            self._taken += 1
        # What a layer does depends on its window beside its weights, so a slot has a Layer for each window.
        key = (slot, self._config.windows[index])
        if key not in self._made:
            self._made[key] = Layer(self._config, index, self._slots[slot], self._precision)
        return self._made[key]

    def release(self) -> None:
        """Give back the oldest layer that was taken; nothing may read its weights any more."""
        with self._changed:
            assert self._released < self._taken
            self._released += 1
            self._changed.notify_all()

    def close(self) -> None:
        """End the thread, which finishes the tensor that it reads, and free the slots; may be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._thread.join()
        self._made.clear()
        self._slots.clear()

    def _run(self) -> None:
        # Copies to a GPU have a stream of their own: they do not wait for the layers that compute meanwhile.
        stream: Any = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None  # type: ignore[no-untyped-call]
        try:
            with torch.cuda.stream(stream) if stream is not None else nullcontext():
                while self._await_slot() and self._fill():
                    if stream is not None:
                        stream.synchronize()
                    with self._changed:
                        self._read += 1
                        self._changed.notify_all()
        except (WaferError, RuntimeError, MemoryError) as error:
            with self._changed:
                self._failure = f"the weights could not be read again: {error}"
                self._changed.notify_all()

    def _await_slot(self) -> bool:
        """Wait until a slot is free; False if the ring was closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._read - self._released < len(self._slots) or self._closed)
            return not self._closed

    def _fill(self) -> bool:
        """Read the next layer, its tensors in the order of the files; False if the ring was closed meanwhile."""
        tensors = self._slots[self._read % len(self._slots)]
        places: dict[str, torch.Tensor] = {}
        for name, plan in layer_plan(self._config, self._order[self._read % len(self._order)]).items():
            start = 0
            for source, shape in plan.sources:
                places[source] = tensors[name][start : start + shape[0]]
                start += shape[0]
        stored = self._checkpoint.tensors
        for source in sorted(places, key=lambda source: (stored[source].path, stored[source].offset)):
            if self._closed:
                return False
            self._checkpoint.read(source, places[source])
            self._bytes_moved += stored[source].nbytes
        return True


def _slot(config: ModelConfig, precision: Precision, device: torch.device) -> dict[str, torch.Tensor]:
    """A layer's tensors over one piece of memory."""
    flat = new_tensor((slot_bytes(config, precision),), torch.uint8, device)
    tensors, start = {}, 0
    for name, plan in layer_plan(config, 0).items():
        nbytes = plan.elements * precision.compute.itemsize
        tensors[name] = flat[start : start + nbytes].view(precision.compute).view(plan.shape)
        start += round_up(nbytes, PAGE_BYTES)
    return tensors
