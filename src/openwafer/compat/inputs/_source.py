"""The batches of a client's job: every system's share, from confined workers, again from any step."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import torch

from openwafer.base import MIB, InputError, RoleLost
from openwafer.cluster import BatchFunction
from openwafer.compat.inputs._batches import BatchWork, Order
from openwafer.compat.inputs._pipeline import Layout, Pipeline, TensorSpec, check_tensors
from openwafer.compat.inputs._worker import Worker
from openwafer.sandbox import TIERS, Confinement, Layers

_KEPT_STATES, _KEPT_STATE_BYTES = 32, 512 * MIB
_RESTARTS = 3
"""Of one worker that is killed from outside, without a batch in between."""


class Waits(msgspec.Struct, frozen=True):
    """What one system's input worker was waited for."""

    batches: int
    total_s: float
    last_s: float


class ClientBatches:
    """Makes the batches of one data pipeline in confined workers, `workers` of them for each system.

    Batch n of a run is always the same, however often workers are ended and started again: after a kill from outside they
    start by themselves, and asking for an earlier batch starts them again from the nearest state of the loader, or from the
    beginning where the loader has none, and reads on. The order of samples is that of the client's own input workers.

    Use as a context manager, or call `close`. `batches(system)` may be called by a thread for each system.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        tensors: Sequence[TensorSpec],
        rows: Sequence[int],
        *,
        python: str,
        confinement: Confinement,
        log: Callable[[str], None],
        workers: int = 1,
        state_steps: Sequence[range] = (),
        ahead: int = 3,
        start_timeout_s: float = 600.0,
        batch_timeout_s: float = 300.0,
        stall_s: float = 10.0,
        on_stall: Callable[[int, float], None] | None = None,
        tiers: Sequence[str] = TIERS,
    ) -> None:
        """Nothing is started yet: `start`, or the first batch that is asked for, does.

        rows: samples of each batch that a system takes, by system. state_steps: the numbers of steps after which the state
        of a restartable loader is kept. ahead: batches that each worker has ready. `log` takes one line of text, from any
        thread; `on_stall` a system and the seconds that it has waited, every `stall_s`.
        Raises InputError if the program's inputs cannot come from a pipeline.
        """
        if workers < 1 or not rows or min(rows) < 1:
            raise InputError(
                f"{workers} input workers for systems of {list(rows)} samples: each needs at least one"
            )
        self._layouts = [Layout(check_tensors(tensors), count) for count in rows]
        self._pipeline, self._python, self._confinement, self._log = pipeline, python, confinement, log
        self._workers_per_system, self._ahead, self._tiers = workers, ahead, tuple(tiers)
        self._state_steps = tuple((part.start, part.stop, part.step) for part in state_steps)
        self._timeouts, self._stall_s, self._on_stall = (start_timeout_s, batch_timeout_s), stall_s, on_stall
        self._running: dict[int, Worker] = {}
        self._states: OrderedDict[int, dict[int, bytes]] = OrderedDict()
        self._restored: tuple[int, list[bytes]] = (0, [])
        self._waits: dict[int, Waits] = {}
        self._restartable: bool | None = None
        self._closed = False
        self._lock = threading.Lock()

    @property
    def systems(self) -> int:
        return len(self._layouts)

    def start(self, step: int = 0) -> Layers:
        """Start every worker, for batch `step` and on; says what holds them. Raises as a worker's start does."""
        for rank in range(self.systems * self._workers_per_system):
            self._worker(rank, _count(step, rank, self._workers_per_system))
        layers = self._running[0].layers
        assert layers is not None
        return layers

    def batches(self, system: int) -> BatchFunction:
        """What the input worker of a system calls; the tensors of a batch are valid until its next call."""
        if not 0 <= system < self.systems:
            raise InputError(f"there is no system {system}; there are {self.systems}, counted from 0")
        return partial(self._batch, system)

    def waits(self, system: int) -> Waits:
        """Batches that a system took, and the seconds that it waited for them."""
        return self._waits.get(system, Waits(0, 0.0, 0.0))

    def worker_states(self, step: int) -> list[bytes] | None:
        """The loader's state after `step` steps, of every worker in order, pickled as the client expects it.

        None while it is not there: not all workers have come so far, `step` is not in `state_steps`, or the loader cannot
        be restarted.
        """
        with self._lock:
            found = self._states.get(step, {})
            whole = len(found) == self.systems * self._workers_per_system
            return [found[rank] for rank in sorted(found)] if whole else None

    @property
    def restartable(self) -> bool | None:
        """Whether the loader has a state; None before a worker has made it."""
        return self._restartable

    def state(self, step: int) -> dict[str, Any]:
        """What a checkpoint after `step` steps keeps so that `restore` makes the next batch cheap; plain values and bytes."""
        with self._lock:
            base, states = self._nearest(step)
        return {"step": step, "from": base, "workers": states}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take up what `state` returned, also that of other numbers of systems. Batches are right without it, only later.

        Raises InputError if it is something else.
        """
        base, states = state.get("from"), state.get("workers")
        if (
            not isinstance(base, int)
            or not isinstance(states, list)
            or not all(isinstance(blob, bytes) for blob in states)
        ):
            raise InputError(
                "the checkpoint's state of the data pipeline was not made by ClientBatches.state; resume without it"
            )
        with self._lock:
            self._restored = base, states

    def close(self) -> None:
        """End every worker; who waits for a batch gets RoleLost. May be called twice, by any thread."""
        with self._lock:
            self._closed = True
            running, self._running = self._running, {}
        for worker in running.values():
            worker.close()

    def __enter__(self) -> ClientBatches:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- one batch --------------------------------------------------------------------------------------

    def _batch(self, system: int, number: int, train: bool) -> Mapping[str, torch.Tensor]:
        if number < 0:
            raise InputError(f"there is no batch {number}; batches count from 0")
        begun = time.monotonic()
        turn, index = number % self._workers_per_system, number // self._workers_per_system
        rank = system * self._workers_per_system + turn
        restarts = 0
        while True:
            worker = self._worker(rank, index)
            reached = worker.next
            try:
                batch = worker.take(
                    index, self._timeout(worker), partial(self._stalled, system, number), self._stall_s
                )
                break
            except RoleLost:
                restarts = restarts + 1 if worker.next == reached else 1
                if self._closed or restarts > _RESTARTS:
                    raise
                self._log(f"input worker {rank}: starting it again at batch {number}")
                self._forget(rank, worker)
        if worker.restartable is not None:
            self._restartable = worker.restartable
        before, waited_s = self.waits(system), time.monotonic() - begun
        self._waits[system] = Waits(before.batches + 1, before.total_s + waited_s, waited_s)
        return batch

    def _timeout(self, worker: Worker) -> float:
        return self._timeouts[0] if worker.next == worker.work.first else self._timeouts[1]

    def _stalled(self, system: int, number: int, waited_s: float) -> None:
        self._log(
            f"INPUT_STARVATION: system {system} has waited {waited_s:.0f} s for batch {number}; the data pipeline is slower than "
            "the systems: use more workers per system, or make its samples cheaper"
        )
        if self._on_stall is not None:
            self._on_stall(system, waited_s)

    # --- workers ----------------------------------------------------------------------------------------

    def _worker(self, rank: int, index: int) -> Worker:
        """The running worker whose next batch is `index`; another is ended."""
        with self._lock:
            if self._closed:
                raise RoleLost(f"input worker {rank} is not there: the job's input was closed")
            worker = self._running.get(rank)
            if worker is not None and worker.next == index:
                return worker
        if worker is not None:
            self._forget(rank, worker)
        worker = self._start(rank, index)
        with self._lock:
            if not self._closed:
                self._running[rank] = worker
                return worker
        worker.close()
        raise RoleLost(f"input worker {rank} is not there: the job's input was closed")

    def _forget(self, rank: int, worker: Worker) -> None:
        worker.close()
        with self._lock:
            if self._running.get(rank) is worker:
                del self._running[rank]

    def _start(self, rank: int, index: int) -> Worker:
        workers = self._workers_per_system
        # The first step of the run at which this worker's own count is `index`.
        step = (index - 1) * workers + rank % workers + 1 if index else 0
        with self._lock:
            base, states = self._nearest(step)
        place = Order(
            rank=rank,
            rows_by_system=tuple(layout.rows for layout in self._layouts),
            workers_per_system=workers,
            first=index,
            base_index=_count(base, rank, workers),
            base_step=base,
            state_steps=self._state_steps,
        )
        work = BatchWork(self._pipeline, self._layouts[rank // workers], place, states, self._keep)
        name = f"input worker {rank}"
        return Worker(
            name, self._python, work, self._confinement, ahead=self._ahead, log=self._log, tiers=self._tiers
        )

    def _nearest(self, step: int) -> tuple[int, list[bytes]]:
        """The last step at or before `step` of which all states are kept, and they; (0, []) for the beginning."""
        every = self.systems * self._workers_per_system
        best, found = self._restored if self._restored[0] <= step else (0, [])
        for kept, states in self._states.items():
            if best < kept <= step and len(states) == every:
                best, found = kept, [states[rank] for rank in sorted(states)]
        return best, found

    def _keep(self, rank: int, step: int, blob: bytes) -> None:
        with self._lock:
            self._states.setdefault(step, {})[rank] = blob
            while len(self._states) > 1 and (
                len(self._states) > _KEPT_STATES
                or sum(len(blob) for kept in self._states.values() for blob in kept.values())
                > _KEPT_STATE_BYTES
            ):
                self._states.popitem(last=False)


def _count(step: int, rank: int, workers: int) -> int:
    """Batches that a worker has made after `step` steps: the workers of a system take turns."""
    full, rest = divmod(step, workers)
    return full + (rank % workers < rest)
