"""The work of an input worker: which batches of which run, and where it begins."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec
import torch

from openwafer.compat.inputs._pipeline import STORAGE, Layout, Pipeline
from openwafer.compat.inputs._worker import Work


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Which worker of which run this is, and where it begins."""

    rank: int
    rows_by_system: tuple[int, ...]
    workers_per_system: int
    first: int
    """The worker's own count of the first batch to give."""
    base_index: int = 0
    """Its own count, and the run's, where the state was taken from which the loader starts."""
    base_step: int = 0
    state_steps: tuple[tuple[int, int, int], ...] = ()


class BatchWork(Work):
    """The batches of one pipeline, without end."""

    what = "data pipeline"
    result = "batch"

    def __init__(
        self,
        pipeline: Pipeline,
        layout: Layout,
        place: Order,
        states: list[bytes],
        on_state: Callable[[int, int, bytes], None],
    ) -> None:
        """states: of all workers, taken after `place.base_step` steps; empty: the pipeline's own."""
        self.pipeline, self.layout, self.place, self.states = pipeline, layout, place, states
        self.slot_bytes, self.first = layout.offsets[-1], place.first
        self._on_state = on_state

    def order(self) -> dict[str, object]:
        pipeline, layout = self.pipeline, self.layout
        tensors = [
            {
                "source": tensor.source,
                "dtype": tensor.dtype,
                "storage": STORAGE[tensor.dtype],
                "shape": tensor.shape,
                "offset": offset,
            }
            for tensor, offset in zip(layout.tensors, layout.offsets, strict=False)
        ]
        return {
            "task": "batches",
            **msgspec.structs.asdict(self.place),
            "rows": layout.rows,
            "tensors": tensors,
            "environment": dict(pipeline.environment),
            "python_paths": pipeline.python_paths,
            "visitor_count": len(pipeline.visitors),
        }

    def blobs(self) -> list[bytes]:
        pipeline = self.pipeline
        visitors = [blob for pair in pipeline.visitors for blob in pair]
        return [pipeline.builder, pipeline.arguments, pipeline.state, *visitors, *self.states]

    def view(self, index: int, slot: memoryview) -> Mapping[str, torch.Tensor]:
        return self.layout.view(slot)

    def keep_state(self, step: int, blob: bytes) -> bool:
        wanted = any(step in range(*part) for part in self.place.state_steps)
        if wanted:
            self._on_state(self.place.rank, step, blob)
        return wanted
