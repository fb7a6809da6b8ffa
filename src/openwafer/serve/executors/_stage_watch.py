"""Stages as the coordinator sees them: processes that are started, watched and ended."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, final

from openwafer import base
from openwafer.base import EngineError, RoleError, WaferError
from openwafer.base.processes import ending_of, start_process
from openwafer.serve.executors._stage_process import run_stage
from openwafer.serve.executors._stages import (
    ALIVE,
    BUSY_NS,
    COMPUTED,
    COORDINATOR,
    PULSE_BYTES,
    WORKED,
    Report,
    StageStart,
)
from openwafer.serve.model import Progress
from openwafer.wire import Aborted, Endpoints, SharedTransport, wait_any

_START_S = 300.0
"""How long a process may take until its first sign of life: it imports torch."""
_DIAGNOSE_S = 2.0
_LEAVE_S = 2.0
_LOOK_S = 0.25


@final
class Stages:
    """The processes of a pipeline.

    stall_s: how long a stage may give no sign of life. A process that computes gives signs, however long its layers take;
    one that is stopped, or starved, does not.
    hang_s: how long a stage that has a batch may take for one step of its work, the longest of which is a layer.
    """

    def __init__(
        self, starts: Sequence[StageStart], transport: SharedTransport, stall_s: float, hang_s: float
    ) -> None:
        self._starts, self._transport = starts, transport
        self._stall_s, self._hang_s = stall_s, hang_s
        self._ends = transport.endpoints(COORDINATOR)
        self._processes: list[Any] = []
        try:
            for start in starts:
                args = (start, transport.endpoints(start.name))
                self._processes.append(start_process(run_stage, args, start.name))
            transport.started()
        except BaseException:
            self.close()
            raise
        self._pulse = self._ends.segment("pulse").buffer.cast("Q")
        self._looked_at = time.monotonic()
        self._life = [_Unchanged(self._looked_at) for _ in starts]
        self._work = [_Unchanged(self._looked_at) for _ in starts]

    @property
    def pids(self) -> list[int]:
        """The process of each stage."""
        return [process.pid for process in self._processes]

    def wait_ready(self, progress: Progress | None) -> None:
        """Wait until all stages have loaded. Raises the error of one that failed, as it was raised there."""
        waiting = {start.name: self._ends.inbox("reports", start.name) for start in self._starts}
        loaded = {start.name: (0, 0) for start in self._starts}
        while waiting:
            self.look()
            try:
                ready = wait_any(list(waiting.values()), timeout_s=_LOOK_S)
            except base.StallError:
                continue
            for name, inbox in list(waiting.items()):
                if inbox not in ready:
                    continue
                try:
                    report = inbox.receive(type=Report)
                except RoleError as error:
                    raise self.explain(error) from error
                if report.kind == "failed":
                    raise _as_raised(name, report)
                if report.kind == "ready":
                    del waiting[name]
                    continue
                loaded[name] = (report.done, report.total)
                if progress is not None:
                    progress(
                        report.text, sum(d for d, _ in loaded.values()), sum(t for _, t in loaded.values())
                    )

    @property
    def busy_s(self) -> tuple[float, ...]:
        """Seconds that each stage has computed."""
        return tuple(self._numbers(index)[BUSY_NS] / 1e9 for index in range(len(self._starts)))

    def look(self, submitted: int = 0) -> None:
        """Raise EngineError if a stage gave no sign of life for `stall_s`, or did no work for `hang_s` though it has a batch.

        submitted: batches that the first stage was given so far. Only the time between calls at most a second apart counts:
        nobody looks while there is nothing to do.
        """
        now = time.monotonic()
        unseen, self._looked_at = now - self._looked_at, now
        given, hung = submitted, None
        for index, start in enumerate(self._starts):
            numbers = self._numbers(index)
            beats, worked, computed = numbers[ALIVE], numbers[WORKED], numbers[COMPUTED]
            silent_s = self._life[index].seconds(beats, now, unseen)
            if silent_s > (self._stall_s if beats else max(_START_S, self._stall_s)):
                raise EngineError(
                    f"{self._title(start)} gave no sign of life for {silent_s:.0f} s: it is stopped, or the machine gives it "
                    "no time; see what else runs there, and open the model again"
                )
            idle_s = self._work[index].seconds((worked, computed < given), now, unseen)
            if computed < given and idle_s > self._hang_s:
                # The last one: a stage whose results nobody takes waits because of one after it.
                hung = EngineError(
                    f"{self._title(start)} lives, but did nothing for {idle_s:.0f} s on a batch that it was given: it hangs, "
                    f"or one of its layers takes longer than the {self._hang_s:.0f} s allowed; open the model again, with "
                    "smaller batches or a larger hang_s if its layers are that slow"
                )
            given = computed
        if hung is not None:
            raise hung

    def explain(self, error: BaseException) -> EngineError:
        """The error for a chain of stages that broke: which of them it was, and why."""
        end = time.monotonic() + _DIAGNOSE_S
        while time.monotonic() < end:
            for start, process in zip(self._starts, self._processes, strict=True):
                report = self._failure(start)
                if report is not None:
                    return EngineError(f"{self._title(start)} failed: {report.text}; open the model again")
                if process.exitcode:
                    return EngineError(
                        f"{self._title(start)} {ending_of(process.exitcode)}; see the system's log (was it out of memory?), "
                        "and open the model again"
                    )
            time.sleep(0.02)
        return EngineError(f"the pipeline broke: {error}; open the model again")

    def close(self) -> None:
        """End all processes, by force where that takes longer than a moment; may be called twice."""
        self._transport.abort("the executor was closed")
        end = time.monotonic() + _LEAVE_S
        for process in self._processes:
            process.join(max(0.0, end - time.monotonic()))
        for process in self._processes:
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)
                process.join()
        self._transport.close()

    def _numbers(self, index: int) -> memoryview:
        """A stage's place in the pulse."""
        return self._pulse[index * PULSE_BYTES // 8 : (index + 1) * PULSE_BYTES // 8]

    def _failure(self, start: StageStart) -> Report | None:
        """The failure that a stage reported, if it did."""
        inbox = self._ends.inbox("reports", start.name)
        try:
            while inbox.poll():
                report = inbox.receive(type=Report)
                if report.kind == "failed":
                    return report
        except (RoleError, Aborted):
            pass
        return None

    def _title(self, start: StageStart) -> str:
        first, last = start.layers[0], start.layers[-1]
        pid = self._processes[start.index].pid
        return f"{start.name} of {len(self._starts)} (layers {first} to {last}, process {pid})"


@final
class _Unchanged:
    """For how long a value has been the same, as far as anybody looked."""

    def __init__(self, now: float) -> None:
        self._value: object = None
        self._since = now

    def seconds(self, value: object, now: float, unseen: float) -> float:
        """Since the value changed; of the time since the last look, `unseen`, nothing counts if it was more than a second."""
        if value != self._value:
            self._value, self._since = value, now
        elif unseen > 1.0:
            self._since += unseen
        return now - self._since


def declare(
    transport: SharedTransport, starts: Sequence[StageStart], batch_bytes: int, logits_bytes: int
) -> Endpoints:
    """Make the rings and links of a pipeline; returns the coordinator's ends. The sizes are those of slots."""
    names = [COORDINATOR, *(start.name for start in starts)]
    transport.segment("pulse", PULSE_BYTES * len(starts), names)
    for writer, reader in pairwise(names):
        transport.ring("batches", slots=3, slot_bytes=batch_bytes, writer=writer, readers=[reader])
    transport.ring("logits", slots=2, slot_bytes=logits_bytes, writer=names[-1], readers=[COORDINATOR])
    for start in starts:
        transport.link("reports", source=start.name, target=COORDINATOR)
    return transport.endpoints(COORDINATOR)


def _as_raised(name: str, report: Report) -> WaferError:
    """A stage's error while it loaded, of the class that it had there."""
    kind = getattr(base, report.error, None)
    if isinstance(kind, type) and issubclass(kind, WaferError):
        return kind(report.text)
    return EngineError(f"{name} could not load its layers: {report.text}")
