"""What a stage's process does: load its layers, then carry batches from the ring before it to the ring after it."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from typing import Self, final

import torch

from openwafer.base import RoleLost, WaferError
from openwafer.base.processes import ignore_interrupts
from openwafer.serve.executors._cache import make_cache
from openwafer.serve.executors._stages import (
    ALIVE,
    BUSY_NS,
    COMPUTED,
    PULSE_BYTES,
    WORKED,
    Header,
    Report,
    StageStart,
    receive,
    send,
    view_bytes,
)
from openwafer.serve.kernels import set_threads
from openwafer.serve.model import Checkpoint, Loader, Rotation, Step
from openwafer.wire import Aborted, Endpoints

_PULSE_S = 0.2


def run_stage(start: StageStart, ends: Endpoints) -> None:
    """Be a stage until the transport ends. An error of its own is reported; one that came from others is theirs to tell."""
    ignore_interrupts()  # the coordinator ends us
    with ends, Pulse(start, ends) as pulse:
        try:
            torch.set_num_threads(start.threads)
            set_threads(start.threads)
            stage = Stage(start, ends, pulse)
            stage.report(Report("ready"))
            while True:
                stage.step()
        except (Aborted, RoleLost):
            pass
        except Exception as error:
            text = str(error) if isinstance(error, WaferError) else f"{type(error).__name__}: {error}"
            with suppress(WaferError):
                ends.outbox("reports").send(Report("failed", text, type(error).__name__), timeout_s=1.0)


@final
class Stage:
    """A stage's layers, and the two rings between which it stands.

    The first stage gets tokens and embeds them; the last one turns hidden states into logits.
    """

    def __init__(self, start: StageStart, ends: Endpoints, pulse: Pulse) -> None:
        self._pulse = pulse
        self._reports = ends.outbox("reports")
        self._reader = ends.reader("batches")
        self._writer = ends.writer("batches" if start.index < start.stages - 1 else "logits")
        self._device = torch.device(start.device)
        checkpoint = Checkpoint(start.folder)
        self._config, self._dtype = checkpoint.config, start.precision.compute
        first, last = start.index == 0, start.index == start.stages - 1
        loader = Loader(
            checkpoint,
            start.precision,
            self._device,
            layers=start.layers,
            embedding=first,
            head=last,
            progress=lambda what, done, total: self.report(
                Report("loaded", f"{start.name}, {what}", done=done, total=total)
            ),
        )
        self._embedding = loader.embedding() if first else None
        self._layers = [loader.layer(index) for index in start.layers]
        self._head = loader.head() if last else None
        self._rotation = Rotation(self._config, self._device)
        self._caches = [
            make_cache(self._config, start.precision, start.blocks, self._device) for _ in self._layers
        ]

    def report(self, report: Report) -> None:
        """Tell the coordinator."""
        self._reports.send(report)

    @torch.inference_mode()
    def step(self) -> None:
        """Take one batch through the layers. Raises Aborted and RoleLost when there will be no other."""
        header, data = receive(self._reader)
        began = time.perf_counter_ns()
        assert isinstance(header, Header)
        self._pulse.worked()
        positions_T, tables_SB = header.tensors()
        step = Step(self._rotation, positions_T, header.starts, header.contexts, tables_SB)
        with step.run():
            if self._embedding is not None:
                x_TH = self._embedding(data.view(torch.int64))
            else:
                x_TH = view_bytes(data, self._dtype, self._config.hidden).to(self._device)
            for layer, (keys, values) in zip(self._layers, self._caches, strict=True):
                x_TH = layer(x_TH, step, keys, values)
                self._pulse.worked()
            if self._head is not None:
                x_TH = self._head(x_TH, step, header.outputs)
            result = x_TH.cpu()
        # From here on the batch is the next stage's to answer for.
        self._pulse.computed(time.perf_counter_ns() - began)
        send(self._writer, header if self._head is None else None, result)
        self._pulse.worked()


@final
class Pulse:
    """A stage's numbers in the segment `pulse`, by which the coordinator sees that it lives and that it works.

    A thread counts signs of life from the beginning to the end of the `with`.
    """

    def __init__(self, start: StageStart, ends: Endpoints) -> None:
        begin = start.index * PULSE_BYTES
        self._numbers = ends.segment("pulse").buffer[begin : begin + PULSE_BYTES].cast("Q")
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="pulse", daemon=True)

    def __enter__(self) -> Self:
        self._numbers[ALIVE] = 1
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def worked(self) -> None:
        """Say that a step of work was done."""
        self._numbers[WORKED] += 1

    def computed(self, busy_ns: int) -> None:
        """Say that a batch was computed, and how long it took."""
        self._numbers[BUSY_NS] += busy_ns
        self._numbers[COMPUTED] += 1

    def _beat(self) -> None:
        while not self._ended.wait(_PULSE_S):
            self._numbers[ALIVE] += 1
