"""Layers that are read from their files again for every batch, ahead of the batch that needs them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, final

import torch

from openwafer.base import EngineError, WaferError
from openwafer.serve.executors._weight_chunks import (
    CHUNK_BYTES,
    Chunk,
    layer_chunks,
    slot_bytes,
    slot_places,
    slot_tensors,
)
from openwafer.serve.executors._weight_files import WeightFiles, new_scratch
from openwafer.serve.model import Checkpoint, Layer, ModelConfig, Precision, new_tensor

READERS = 8
"""So that the disk has next reads to do while others wait for a core, or cast what they read. With three and chunks of 16 MiB the
stream was a sixth slower on two cores that other programs used, too."""


def ring_bytes(config: ModelConfig, precision: Precision, slots: int) -> int:
    """Bytes of a ring: its slots, and what its readers read into."""
    return slots * slot_bytes(config, precision) + READERS * CHUNK_BYTES


@final
class WeightRing:
    """Hands out layers in a fixed order, over and over; threads read the next ones into the slots that are free.

    Nothing is mapped: what the process holds are the slots. direct: as `WeightFiles` has it.

    layers: their numbers, in the order of `take`. A tensor stored in another dtype is cast on its way.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        layers: Sequence[int],
        slots: int,
        device: torch.device,
        direct: bool,
    ) -> None:
        assert layers
        assert slots >= 1
        assert precision.quantise == "none", "a slot holds numbers as they are multiplied"
        self._config, self._precision = checkpoint.config, precision
        self._order, self._device = tuple(layers), device
        on_cpu = device.type == "cpu"
        self._places = [slot_places(checkpoint, precision, layer, direct and on_cpu) for layer in layers]
        self._chunks = [
            layer_chunks(checkpoint, precision, layer, places)
            for layer, places in zip(layers, self._places, strict=True)
        ]
        self._files = WeightFiles((chunk.path for chunks in self._chunks for chunk in chunks), direct)
        self._slots = [
            new_tensor((slot_bytes(self._config, precision),), torch.uint8, device) for _ in range(slots)
        ]
        self._made: dict[tuple[int, int | None, tuple[int, ...]], Layer] = {}
        self._changed = threading.Condition()
        # Layers so far; the slot of the next one is the count modulo slots.
        self._begun = self._taken = self._released = 0
        self._to_read: deque[Chunk] = deque()
        """Of the layer that was begun last."""
        self._missing: dict[int, int] = {}
        """Chunks of a layer that are not there yet, by its count."""
        self._bytes_moved = 0
        self._failure: str | None = None
        self._closed = False
        self._threads = [
            threading.Thread(target=self._run, name=f"weights {number}", daemon=True)
            for number in range(READERS)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def bytes_moved(self) -> int:
        """Bytes of the files that were read into slots so far."""
        return self._bytes_moved

    def take(self) -> Layer:
        """Wait for the next layer. It may be used until `release`. Raises EngineError if it could not be read."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_there(self._taken) or self._failure or self._closed)
            if not self._is_there(self._taken):
                raise EngineError(self._failure or "the weights' stream was closed; open another executor")
            turn = self._taken % len(self._order)
            slot = self._taken % len(self._slots)
            self._taken += 1
        index, places = self._order[turn], self._places[turn]
        # Layers that lie alike in a slot and have the same window, which most have, are one Layer over other numbers.
        key = (slot, self._config.windows[index], tuple(places.values()))
        if key not in self._made:
            tensors = slot_tensors(self._slots[slot], self._config, self._precision, places)
            self._made[key] = Layer(self._config, index, tensors, self._precision)
        return self._made[key]

    def release(self) -> None:
        """Give back the oldest layer that was taken; nothing may read its weights any more."""
        with self._changed:
            assert self._released < self._taken
            self._released += 1
            self._changed.notify_all()

    def close(self) -> None:
        """End the threads, which finish the chunks that they read, and free the slots; may be called twice."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()
        self._files.close()
        self._made.clear()
        self._slots.clear()

    def _is_there(self, count: int) -> bool:
        return count < self._begun and count not in self._missing

    def _run(self) -> None:
        # Copies to a GPU have a stream of their own: they do not wait for the layers that compute meanwhile.
        stream: Any = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None  # type: ignore[no-untyped-call]
        try:
            scratch = new_scratch()
            with torch.cuda.stream(stream) if stream is not None else nullcontext():
                while (work := self._next()) is not None:
                    count, chunk = work
                    slot = self._slots[count % len(self._slots)]
                    self._files.read(chunk, slot, self._precision.compute, scratch)
                    if stream is not None:
                        stream.synchronize()
                    self._done(count, chunk)
        except (WaferError, RuntimeError, MemoryError) as error:
            with self._changed:
                self._failure = f"the weights could not be read again: {error}"
                self._changed.notify_all()

    def _next(self) -> tuple[int, Chunk] | None:
        """Wait for something to read; None if the ring was closed or broke."""
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._to_read
                    or self._begun - self._released < len(self._slots)
                    or self._closed
                    or self._failure
                )
            )
            if self._closed or self._failure:
                return None
            if not self._to_read:
                self._to_read.extend(self._chunks[self._begun % len(self._order)])
                self._missing[self._begun] = len(self._to_read)
                self._begun += 1
            return self._begun - 1, self._to_read.popleft()

    def _done(self, count: int, chunk: Chunk) -> None:
        with self._changed:
            self._bytes_moved += chunk.nbytes
            self._missing[count] -= 1
            if not self._missing[count]:
                del self._missing[count]
                self._changed.notify_all()
