"""Some layers in memory, the others read from their files for every batch."""

from __future__ import annotations

import time
from collections import deque
from typing import final

import torch

from openwafer.base import EngineError, InputError
from openwafer.serve.executors._base import Batch
from openwafer.serve.executors._cache import make_cache
from openwafer.serve.executors._weight_ring import WeightRing
from openwafer.serve.model import (
    Checkpoint,
    Layer,
    Loader,
    Precision,
    Progress,
    Rotation,
    Step,
    layer_bytes,
)
from openwafer.wire import available_memory_bytes


@final
class StreamingExecutor:
    """An Executor for models larger than memory: a batch passes through each layer while the next ones are read.

    One pass moves the bytes of all streamed layers, whatever the batch: tokens a second grow with the tokens of a batch. The
    embedding, the head and `resident` layers stay in memory, the latter evenly among the streamed ones, so that reading goes
    on while they compute. Reading goes on between batches, too, up to `slots` layers ahead. Numbers are those of the
    resident executor, bit for bit: the same layers see the same weights.

    direct: read past the page cache. By default it is read through where the machine has memory for all that is streamed,
    which is the user's limit and not the machine's then; else nothing would be there any more when its turn comes again.

    Raises InputError for int8, whose matrices do not lie in the files, StorageError if a file cannot be opened.
    """

    in_flight = 1

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        blocks: int,
        resident: int,
        slots: int = 3,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
        direct: bool | None = None,
    ) -> None:
        check_streamable(precision)
        self.config = config = checkpoint.config
        self.blocks = blocks
        self._device = torch.device(device)
        kept = resident_layers(config.layers, resident)
        # Read in the order of a pass; progress counts what stays.
        loader = Loader(checkpoint, precision, self._device, layers=kept, progress=progress)
        self._embedding = loader.embedding()
        self._layers: dict[int, Layer] = {index: loader.layer(index) for index in kept}
        self._head = loader.head()
        self._rotation = Rotation(config, self._device)
        self._caches = [make_cache(config, precision, blocks, self._device) for _ in range(config.layers)]
        streamed = [index for index in range(config.layers) if index not in self._layers]
        self._direct = direct if direct is not None else not _fits_page_cache(checkpoint, len(streamed))
        self._ring = (
            WeightRing(checkpoint, precision, streamed, slots, self._device, self._direct)
            if streamed
            else None
        )
        self._results: deque[torch.Tensor] = deque()
        self._failure: str | None = None
        self._busy_s = 0.0

    @property
    def busy_s(self) -> tuple[float, ...]:
        return (self._busy_s,)

    @property
    def bytes_moved(self) -> int:
        """Bytes of weights that were read for batches so far, those read ahead included."""
        return 0 if self._ring is None else self._ring.bytes_moved

    @property
    def direct(self) -> bool:
        """Whether files are read past the page cache, where the file system can."""
        return self._direct

    @torch.inference_mode()
    def submit(self, batch: Batch) -> None:
        if self._failure is not None:
            raise EngineError(self._failure)
        began = time.perf_counter()
        try:
            step = Step(self._rotation, batch.positions_T, batch.starts, batch.contexts, batch.tables_SB)
            with step.run():
                x_TH = self._embedding(batch.tokens_T)
                for index, (keys, values) in enumerate(self._caches):
                    if index in self._layers:
                        x_TH = self._layers[index](x_TH, step, keys, values)
                    else:
                        x_TH = self._streamed(x_TH, step, keys, values)
                self._results.append(self._head(x_TH, step, batch.outputs).cpu())
        except EngineError as error:
            self._failure = str(error)
            raise
        except (RuntimeError, IndexError, MemoryError) as error:
            # The stream stands somewhere between two layers now.
            self._failure = (
                f"a batch of {len(batch.tokens_T)} tokens of {len(batch.contexts)} sequences failed on {self._device}: "
                f"{error}; lower the tokens of a batch or the memory given to the cache"
            )
            raise EngineError(self._failure) from error
        self._busy_s += time.perf_counter() - began

    def collect(self) -> torch.Tensor:
        if not self._results:
            raise EngineError(self._failure or "no batch was submitted before this collect")
        return self._results.popleft()

    def close(self) -> None:
        self._failure = "this executor was closed; open another one"
        if self._ring is not None:
            self._ring.close()
        self._layers, self._caches = {}, []
        self._results.clear()

    def _streamed(
        self, x_TH: torch.Tensor, step: Step, keys: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        assert self._ring is not None
        asked = time.perf_counter()
        layer = self._ring.take()
        self._busy_s -= time.perf_counter() - asked
        x_TH = layer(x_TH, step, keys, values)
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()  # only then is nothing read any more
        self._ring.release()
        return x_TH


def resident_layers(layers: int, count: int) -> tuple[int, ...]:
    """Which of the layers stay in memory if `count` of them do: evenly spread."""
    return tuple(place * layers // count for place in range(min(count, layers)))


def _fits_page_cache(checkpoint: Checkpoint, layers: int) -> bool:
    """Whether the machine can keep so many layers' files in memory beside everything else."""
    available = available_memory_bytes()
    return (
        available is not None
        and layers * layer_bytes(checkpoint.config, Precision(checkpoint.dtype)) < 0.8 * available
    )


def check_streamable(precision: Precision) -> None:
    """Raises InputError for weights that would have to be made anew for every batch."""
    if precision.quantise != "none":
        raise InputError(
            f"weights cannot be streamed as {precision}: the files hold no such matrices, and every batch would have to make "
            "them anew; choose another dtype, or run the model resident or pipelined"
        )
