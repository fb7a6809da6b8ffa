"""All layers on one device, in this process."""

from __future__ import annotations

import time
from collections import deque
from typing import final

import torch

from openwafer.base import EngineError
from openwafer.serve.executors._base import Batch
from openwafer.serve.executors._cache import make_cache
from openwafer.serve.model import Checkpoint, Loader, Precision, Progress, Rotation, Step


@final
class ResidentExecutor:
    """An Executor that computes in `collect`'s order, at once, in `submit`.

    Loads the whole model; progress is called after each tensor. device: as torch names it.
    """

    in_flight = 1

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        blocks: int,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
    ) -> None:
        self.config = checkpoint.config
        self.blocks = blocks
        self._device = torch.device(device)
        loader = Loader(checkpoint, precision, self._device, progress=progress)
        self._embedding = loader.embedding()
        self._layers = [loader.layer(index) for index in range(self.config.layers)]
        self._head = loader.head()
        self._rotation = Rotation(self.config, self._device)
        self._caches = [make_cache(self.config, precision, blocks, self._device) for _ in self._layers]
        self._results: deque[torch.Tensor] = deque()
        self._busy_s = 0.0

    @property
    def busy_s(self) -> tuple[float, ...]:
        return (self._busy_s,)

    @property
    def nbytes(self) -> int:
        """Bytes of weights and cache together."""
        weights = (
            self._embedding.weight_VH.nbytes + self._head.nbytes + sum(layer.nbytes for layer in self._layers)
        )
        return weights + sum(keys.nbytes + values.nbytes for keys, values in self._caches)

    @torch.inference_mode()
    def submit(self, batch: Batch) -> None:
        if not self._layers:
            raise EngineError("this executor was closed; open another one")
        began = time.perf_counter()
        try:
            step = Step(self._rotation, batch.positions_T, batch.starts, batch.contexts, batch.tables_SB)
            with step.run():
                x_TH = self._embedding(batch.tokens_T)
                for layer, (keys, values) in zip(self._layers, self._caches, strict=True):
                    x_TH = layer(x_TH, step, keys, values)
                self._results.append(self._head(x_TH, step, batch.outputs).cpu())
        except (RuntimeError, IndexError, MemoryError) as error:
            raise EngineError(
                f"a batch of {len(batch.tokens_T)} tokens of {len(batch.contexts)} sequences failed on {self._device}: "
                f"{error}; lower the tokens of a batch or the memory given to the cache"
            ) from error
        self._busy_s += time.perf_counter() - began

    def collect(self) -> torch.Tensor:
        if not self._results:
            raise EngineError("no batch was submitted before this collect")
        return self._results.popleft()

    def close(self) -> None:
        self._layers, self._caches = [], []
        self._results.clear()
