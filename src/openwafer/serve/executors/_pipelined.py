"""Layers shared out among processes, through which batches follow one another."""

from __future__ import annotations

import os
import queue
import threading
from typing import final

import torch

from openwafer.base import EngineError, InputError, WaferError
from openwafer.serve.executors._base import Batch
from openwafer.serve.executors._memory import BATCH_TOKENS
from openwafer.serve.executors._stage_watch import Stages, declare
from openwafer.serve.executors._stages import (
    PATIENCE_S,
    Header,
    StageStart,
    receive,
    send,
    slot_bytes,
    split_layers,
    view_bytes,
)
from openwafer.serve.model import Checkpoint, Precision, Progress
from openwafer.wire import SharedTransport

STALL_S = 10.0
"""How long a stage may give no sign of life."""

HANG_S = 300.0
"""How long a stage may take for one layer of a batch: a chunk of a long prompt on a slow CPU takes many seconds."""


@final
class PipelinedExecutor:
    """An Executor whose layers lie in processes of their own, as many batches under way as there are stages.

    Only hidden states pass between stages, through shared memory; keys and values stay with their layers. On the CPU the
    stages share its cores, on GPUs they take one device after another. Numbers are those of the resident executor where
    the native kernels compute, and where torch does as long as its products do not depend on the number of threads.

    A stage that fails, is killed, gives no sign of life for `stall_s`, or has a batch and does nothing for `hang_s` ends the
    executor: `submit` and `collect` raise EngineError, which names the stage. The processes end with `close`, and with this
    process, however it ends.

    Raises PlanError for more stages than layers, and whatever loading raises.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        precision: Precision,
        blocks: int,
        stages: int,
        device: torch.device | str = "cpu",
        progress: Progress | None = None,
        stall_s: float = STALL_S,
        hang_s: float = HANG_S,
    ) -> None:
        self.config = config = checkpoint.config
        self.blocks, self.in_flight = blocks, stages
        device = torch.device(device)
        starts = [
            StageStart(
                index=index,
                stages=stages,
                folder=os.path.abspath(checkpoint.folder),
                precision=precision,
                layers=layers,
                blocks=blocks,
                device=_device_of(device, index),
                threads=max(1, torch.get_num_threads() // stages),
            )
            for index, layers in enumerate(split_layers(config, precision, stages))
        ]
        transport = SharedTransport()
        row_bytes = max(8, config.hidden * precision.compute.itemsize)
        ends = declare(
            transport,
            starts,
            batch_bytes=slot_bytes(row_bytes, BATCH_TOKENS),
            logits_bytes=slot_bytes(4 * config.vocabulary, 64),
        )
        self._results: queue.SimpleQueue[torch.Tensor | None] = queue.SimpleQueue()
        self._submitted = self._collected = 0
        self._failure: EngineError | None = None
        self._stages = Stages(starts, transport, stall_s, hang_s)
        try:
            self._stages.wait_ready(progress)
            self._writer, self._reader = ends.writer("batches"), ends.reader("logits")
        except BaseException:
            self._stages.close()
            raise
        self._broken: WaferError | None = None
        # Logits are taken as they come: else a stage could wait for us while we wait for it to take a large batch.
        self._thread = threading.Thread(target=self._collect, name="logits", daemon=True)
        self._thread.start()

    @property
    def pids(self) -> list[int]:
        """The process of each stage."""
        return self._stages.pids

    @property
    def busy_s(self) -> tuple[float, ...]:
        return self._stages.busy_s

    def submit(self, batch: Batch) -> None:
        self._check()
        self._submitted += 1
        try:
            send(self._writer, Header.of(batch), batch.tokens_T, self._look)
        except EngineError as error:
            raise self._fail(error) from None
        except WaferError as error:
            raise self._fail(self._stages.explain(error)) from error

    def collect(self) -> torch.Tensor:
        self._check()
        if self._collected == self._submitted:
            raise EngineError("no batch was submitted before this collect")
        while True:
            try:
                logits = self._results.get(timeout=PATIENCE_S)
                break
            except queue.Empty:
                try:
                    self._look()
                except EngineError as error:
                    raise self._fail(error) from None
        if logits is None:
            assert self._broken is not None
            raise self._fail(self._stages.explain(self._broken)) from self._broken
        self._collected += 1
        return logits

    def close(self) -> None:
        if self._failure is None:
            self._failure = EngineError("this executor was closed; open another one")
        self._stages.close()
        self._thread.join()

    def _collect(self) -> None:
        try:
            while True:
                _, data = receive(self._reader)
                self._results.put(view_bytes(data, torch.float32, self.config.vocabulary))
        except WaferError as error:
            self._broken = error
            self._results.put(None)

    def _look(self) -> None:
        self._stages.look(self._submitted)

    def _check(self) -> None:
        if self._failure is not None:
            raise EngineError(str(self._failure))

    def _fail(self, error: EngineError) -> EngineError:
        self._failure = error
        return error


def _device_of(device: torch.device, index: int) -> str:
    if device.type != "cuda":
        return str(device)
    count = torch.cuda.device_count()
    if count == 0:
        raise InputError("torch finds no GPU for the stages; choose cpu")
    return f"cuda:{((device.index or 0) + index) % count}"
