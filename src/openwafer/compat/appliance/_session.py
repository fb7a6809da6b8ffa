"""One run of a program: steps on the cluster's coordinator, outputs and checkpoints kept until the client has had them."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, final

import torch

from openwafer.artifact import Plan
from openwafer.base import CheckpointError, InputError, RoleLost, WaferError
from openwafer.cluster import CheckpointDone, Coordinator, Job, SaveCheckpoint, Step, StepDone, encode_extra
from openwafer.cluster.store import Checkpoint
from openwafer.compat.appliance._compiled import ProgramInfo, TensorInfo
from openwafer.compat.appliance._weights import read_state
from openwafer.compat.inputs import ClientBatches

AHEAD_STEPS = 1000
"""Steps whose outputs may wait for the client; a client that asks for none of them is not waited for."""
AHEAD_BYTES = 256 << 20
"""Of tensors among these outputs."""
AHEAD_CHECKPOINTS = 2
"""Checkpoints that may wait for the client on disk."""
_RECOVERIES = 3
"""From the last checkpoint, without a new one in between."""
_EVERY = 1 << 30
"""Checkpoints that the cluster keeps: all; the session removes them when the client has moved on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOrder:
    """What the client asks of a run. Steps count from 0 here, as in the protocol."""

    steps: int
    checkpoint_steps: frozenset[int]
    output_steps: frozenset[int] | None
    """None: every step."""
    first_number: int
    """Number of the run's first step in the job, from which random numbers go on."""


@dataclass(slots=True)
class _Progress:
    done: int = 0
    """Steps that are complete."""
    outputs: dict[int, dict[str, float | torch.Tensor]] = field(default_factory=dict)
    checkpoints: dict[int, Checkpoint] = field(default_factory=dict)
    """By step: the state after it. The state before the first step is that after step -1."""
    refused: dict[int, str] = field(default_factory=dict)
    """Checkpoints that were not written, and why."""
    wanted: int = -1
    """The latest step that the client has asked for."""
    unbounded: bool = False
    """The client asks for nothing more, or never asks."""
    failure: WaferError | None = None
    ended: bool = False
    seconds: float = 0.0


@final
class Session:
    """Runs in a thread of its own from `start` on; every other method may be called by any thread.

    A role that is lost is replaced, and the steps since the last checkpoint are done again to the same numbers.
    """

    def __init__(
        self,
        program: ProgramInfo,
        plan: Plan,
        order: RunOrder,
        inputs: ClientBatches,
        start: Checkpoint,
        folder: Path,
        *,
        job: Callable[[Checkpoint], Job],
        progress: Callable[[StepDone], None],
        failed: Callable[[WaferError], None],
        say: Callable[[str], None],
    ) -> None:
        self.program, self.plan, self.order = program, plan, order
        self._inputs, self._start, self._folder = inputs, start, folder
        self._job, self._tell, self._failed, self._say = job, progress, failed, say
        self._changed = threading.Condition()
        self._progress = _Progress(checkpoints={-1: start})
        self._cancelled = ""
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="session", daemon=True)
        self._infos = {info.name: info for info in program.states}
        self._outputs = {info.name: info for info in program.outputs}

    # --- life -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin; returns when every role is ready. Raises what went wrong."""
        self._thread.start()
        self._ready.wait()
        if self._progress.failure is not None:
            raise self._progress.failure

    def finish(self) -> float:
        """Wait for the last step; the seconds that the steps took. Raises what went wrong."""
        with self._changed:
            self._progress.unbounded = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._progress.ended)
            if self._progress.failure is not None:
                raise self._progress.failure
            return self._progress.seconds

    def cancel(self, why: str) -> None:
        """End after the step that is under way; does not wait. Without effect on a session that has ended."""
        with self._changed:
            self._cancelled = self._cancelled or why
            self._changed.notify_all()
        self._inputs.close()

    def join(self, timeout_s: float) -> bool:
        """Wait until every role has gone; whether they have."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    @property
    def folders(self) -> list[Path]:
        """The checkpoints that are there."""
        return [checkpoint.folder for checkpoint in self._progress.checkpoints.values()]

    @property
    def steps_done(self) -> int:
        return self._progress.done

    # --- what the client fetches ------------------------------------------------------------------------------

    def fetch(self, step: int, name: str) -> torch.Tensor:
        """An output of a step, or a state tensor after it; waits until it is there.

        Raises InputError for what will never be there; what went wrong if the run failed.
        """
        info = self._outputs.get(name)
        if info is not None:
            return self._output(step, info)
        if name not in self._infos:
            raise InputError(
                f"the program has no output or state {name!r}; outputs are {', '.join(self._outputs)}"
            )
        return read_state(self.checkpoint(step), self._infos[name])

    def info(self, name: str) -> TensorInfo:
        """What the program declares of a state tensor. Raises InputError if it has none of this name."""
        if name not in self._infos:
            raise InputError(f"the program has no state {name!r}")
        return self._infos[name]

    def checkpoint(self, step: int) -> Checkpoint:
        """The state after a step at which a checkpoint is due; waits for it."""
        if step not in self.order.checkpoint_steps and step not in (-1, self.order.steps - 1):
            raise InputError(f"the run takes no checkpoint at step {step}; state is read where it takes one")
        with self._changed:
            self._want(step)
            self._wait_for(lambda: step in self._progress.checkpoints or step in self._progress.refused)
            if step in self._progress.refused:
                raise CheckpointError(self._progress.refused[step])
            return self._progress.checkpoints[step]

    def wait_for(self, steps: int) -> None:
        """Until so many steps are complete. Raises what made that impossible."""
        with self._changed:
            self._want(steps - 1)
            self._wait_for(lambda: self._progress.done >= steps)

    def final(self) -> Checkpoint:
        """The state at the end of the run. Waits for the end."""
        self.finish()
        with self._changed:
            return self._progress.checkpoints[max(self._progress.checkpoints)]

    def _output(self, step: int, info: TensorInfo) -> torch.Tensor:
        if not 0 <= step < self.order.steps:
            raise InputError(f"the run has steps 0 to {self.order.steps - 1}; step {step} is none of them")
        with self._changed:
            self._want(step)
            self._wait_for(lambda: step in self._progress.outputs or step < self._oldest())
            found = self._progress.outputs.get(step)
        if found is None:
            raise InputError(f"outputs of step {step} are not kept any more; ask for them while they are new")
        if info.name not in found:
            raise InputError(f"step {step} made no output {info.name!r}")
        made = found[info.name]
        dtype = getattr(torch, info.dtype)
        value = (
            made.to(dtype) if isinstance(made, torch.Tensor) else torch.full(info.shape, made, dtype=dtype)
        )
        return value.to(torch.float16) if info.element == "f16" else value

    def _want(self, step: int) -> None:
        """Note where the client is: what lies before is not asked for again, and new steps may begin."""
        if step <= self._progress.wanted:
            return
        self._progress.wanted = step
        for old in [key for key in self._progress.outputs if key < step - AHEAD_STEPS]:
            del self._progress.outputs[old]
        self._forget_tensors()
        saved = sorted(key for key in self._progress.checkpoints if key >= 0)
        for key in [key for key in saved if key < step][:-1]:
            # The newest at or before the client's step may still be read, and a lost role goes on from it.
            shutil.rmtree(self._progress.checkpoints.pop(key).folder, ignore_errors=True)
        self._changed.notify_all()

    def _oldest(self) -> int:
        return min(self._progress.outputs, default=0)

    def _wait_for(self, there: Callable[[], bool]) -> None:
        """With the lock held. Raises what made waiting pointless."""
        self._changed.wait_for(lambda: there() or self._progress.failure is not None or self._progress.ended)
        if there():
            return
        if self._progress.failure is not None:
            raise self._progress.failure
        raise InputError("the run has ended without making this")

    # --- the thread -------------------------------------------------------------------------------------------

    def _run(self) -> None:
        begun = time.monotonic()
        try:
            self._attempts()
        except WaferError as error:
            self._fail(error)
        except Exception as error:
            self._fail(WaferError(f"the run failed: {error!r}; this is a bug of openwafer, please report it"))
            raise
        finally:
            self._inputs.close()
            with self._changed:
                self._progress.ended = True
                self._progress.seconds = time.monotonic() - begun
                self._changed.notify_all()
            self._ready.set()

    def _fail(self, error: WaferError) -> None:
        with self._changed:
            self._progress.failure = WaferError(self._cancelled) if self._cancelled else error
        if not self._cancelled:
            self._failed(error)

    def _attempts(self) -> None:
        recoveries, start = 0, self._start
        while True:
            try:
                self._attempt(start)
                return
            except RoleLost as error:
                newest = self._progress.checkpoints[max(self._progress.checkpoints)]
                recoveries = recoveries + 1 if newest.step == start.step else 1
                if self._cancelled or recoveries > _RECOVERIES:
                    raise
                start = newest
                self._progress.done = start.step - self.order.first_number
                self._say(f"{str(error).partition(';')[0]}; going on from {start.folder.name}")

    def _attempt(self, start: Checkpoint) -> None:
        done = start.step - self.order.first_number
        with Coordinator(self._job(start), self._batches, processes=True) as coordinator:
            self._ready.set()
            for event in coordinator.run(self._commands(done)):
                with self._changed:
                    self._note(event)
                    self._changed.notify_all()
                if self._cancelled:
                    raise WaferError(self._cancelled)
                if isinstance(event, StepDone):
                    self._tell(event)

    def _batches(self, replica: int) -> Callable[[int, bool], Mapping[str, torch.Tensor]]:
        """Batches of one system, in the dtypes that the plan reads."""
        make = self._inputs.batches(replica)
        wanted = {name: getattr(torch, dtype) for name, dtype, _ in self.plan.inputs}

        def batch(number: int, train: bool) -> Mapping[str, torch.Tensor]:
            return {
                name: value.to(wanted[name]) for name, value in make(number, train).items() if name in wanted
            }

        return batch

    def _commands(self, first: int) -> Iterator[Step | SaveCheckpoint]:
        saved = first - 1
        for step in range(first, self.order.steps):
            self._hold(step)
            if self._cancelled:
                return
            yield Step(number=self.order.first_number + step, batch=step, train=True)
            if step in self.order.checkpoint_steps:
                yield self._save(step)
                saved = step
        last = self.order.steps - 1
        if saved < last and any(info.updated for info in self.program.states):
            yield self._save(last)

    def _save(self, step: int) -> SaveCheckpoint:
        extra: dict[str, Any] = {"data": self._inputs.state(step + 1)}
        number = self.order.first_number + step + 1
        return SaveCheckpoint(step=number, folder=str(self._folder), extra=encode_extra(extra))

    def _hold(self, step: int) -> None:
        """Wait while the client is too far behind. Not while a checkpoint is being written: who waits for it is the client."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._cancelled) or not self._is_ahead(step))

    def _is_ahead(self, step: int) -> bool:
        progress = self._progress
        if progress.unbounded:
            return False
        tensors = sum(_nbytes(made) for at, made in progress.outputs.items() if at > progress.wanted)
        if progress.wanted < 0:
            return tensors > AHEAD_BYTES
        due = {at for at in self.order.checkpoint_steps if at < step}
        if any(
            at not in progress.checkpoints and at not in progress.refused and at > progress.wanted
            for at in due
        ):
            return False
        waiting = sum(1 for at in progress.checkpoints if at > progress.wanted)
        return step - progress.wanted > AHEAD_STEPS or waiting >= AHEAD_CHECKPOINTS or tensors > AHEAD_BYTES

    def _note(self, event: StepDone | CheckpointDone) -> None:
        progress = self._progress
        if isinstance(event, CheckpointDone):
            step = event.step - self.order.first_number - 1
            if event.bad:
                progress.refused[step] = (
                    f"there is no checkpoint at step {step}: {event.bad} is not finite; lower the learning rate, or "
                    "scale the loss"
                )
            else:
                progress.checkpoints[step] = Checkpoint.open(event.folder)
            return
        step = event.step - self.order.first_number
        progress.done = step + 1
        if self.order.output_steps is None or step in self.order.output_steps:
            progress.outputs[step] = {**event.logs, **event.metrics, **event.outputs}
            self._forget_tensors()

    def _forget_tensors(self) -> None:
        """No more tensors are kept than memory is meant to hold: the oldest go that the client has passed, and of a client that
        asks for nothing more any but the last."""
        progress = self._progress
        held = sum(map(_nbytes, progress.outputs.values()))
        for step in sorted(progress.outputs)[:-1]:
            if held <= AHEAD_BYTES or not (progress.unbounded or step < progress.wanted):
                return
            held -= _nbytes(progress.outputs[step])
            progress.outputs[step] = {
                name: made for name, made in progress.outputs[step].items() if isinstance(made, float)
            }


def _nbytes(outputs: Mapping[str, float | torch.Tensor]) -> int:
    return sum(made.nbytes for made in outputs.values() if isinstance(made, torch.Tensor))
