"""MemoryX: holds weights and optimizer state, sends weights in stream order, receives gradients, updates.

Its threads, which meet in the Ledger:

    stream <stage>   for each step: wait until a record carries the last update, read it, cast it, send it
    update <stage>   for each step: receive gradients (SwarmX sums them), update the record, write it
    write            puts updated records back on disk
    checkpoint       copies records out beside the run; an update waits until its record was copied
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import torch

from openwafer.artifact import (
    Mode,
    Record,
    gradient_order,
    load_order,
    record_buffers,
    streams_in_place,
    systems_of_stage,
)
from openwafer.base import PlanError, StallError, logger
from openwafer.cluster._failures import report_failure
from openwafer.cluster._job import (
    Job,
    system_role,
)
from openwafer.cluster._ledger import Ledger
from openwafer.cluster._memory import gradients as gradient_views
from openwafer.cluster._memory import is_finite, peak_rss, stored_state, stored_weights, streamed_weights
from openwafer.cluster._messages import (
    Command,
    Ended,
    Ready,
    SaveCheckpoint,
    Saved,
    Span,
    Step,
    Stop,
    Updated,
)
from openwafer.cluster._swarmx import reduce_in_place
from openwafer.cluster._system import die
from openwafer.cluster._updates import Updater
from openwafer.cluster.store import (
    CheckpointWriter,
    DiskStore,
    RamStore,
    Store,
    aligned_buffer,
    load_checkpoint,
)
from openwafer.wire import Aborted, Endpoints

GRADIENT = "/gradient"
_Snapshot = tuple[SaveCheckpoint, dict[str, float]]


class MemoryXRole:
    """The parameter service of a job. `run()` obeys the coordinator until told to stop."""

    def __init__(self, job: Job, endpoints: Endpoints) -> None:
        self.job = job
        self.plan = job.plan
        self.ends = endpoints
        self.role = "memoryx"
        self.log = logger(self.role)
        self.store = self._open_store()
        try:
            checkpoint = load_checkpoint(job.start, self.store)
            if isinstance(self.store, DiskStore):
                self.store.flush(checkpoint.step, checkpoint.globals, hashes=False)
        except BaseException:
            self.store.close()
            raise
        self.start_step = checkpoint.step
        self.updater = Updater(self.plan, checkpoint.globals)
        self.ledger = Ledger([checkpoint.step] * len(self.plan.records), endpoints, job.stall_s)
        self.reports = endpoints.outbox("reports")
        self.waits = self.plan.update.waits
        self.trained = [bool(record.trained) for record in self.plan.records]
        # A backward read brings the whole record, so that its update needs no second read.
        self.reads_ahead = (
            self.plan.store == "disk" and not self.waits and self.plan.mode is Mode.WEIGHT_STREAMING
        )
        self._buffers: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._ahead: dict[int, memoryview] = {}
        self._ahead_lock = threading.Lock()
        if self.plan.store == "disk":
            largest = max(record.nbytes for record in self.plan.records)
            for _ in range(record_buffers(self.plan)):
                self._buffers.put(aligned_buffer(largest))
        self._step_lock = threading.Condition()
        self._begun = checkpoint.step
        self._gradients_seen = 0
        self._applied = 0
        self._kept: dict[int, memoryview] = {}
        self._spans: list[Span] | None = [] if job.timeline_steps else None
        self._writer = ThreadPoolExecutor(1, "write")

    def run(self) -> None:
        """Obey the coordinator. Raises the first error of any thread."""
        stages = range(self.plan.stages)
        self._queues = {("stream", s): queue.SimpleQueue[Step | None]() for s in stages}
        self._queues.update({("update", s): queue.SimpleQueue[Step | None]() for s in stages})
        targets = {"stream": self._stream, "update": self._update}
        threads = [
            threading.Thread(
                target=self._guard, args=(targets[kind], stage), name=f"{kind} {stage}", daemon=True
            )
            for kind, stage in self._queues
        ]
        checkpoints: queue.SimpleQueue[_Snapshot | None] = queue.SimpleQueue()
        threads.append(
            threading.Thread(target=self._guard, args=(self._checkpoints, checkpoints), daemon=True)
        )
        for thread in threads:
            thread.start()
        inbox = self.ends.inbox("commands")
        self.reports.send(Ready(self.role, self.start_step))
        try:
            while True:
                command = inbox.receive(type=Command)
                if isinstance(command, Stop):
                    break
                if isinstance(command, SaveCheckpoint):
                    # Updates of later steps must not touch a record before its copy is out.
                    self.ledger.wait_completed(command.step)
                    self.ledger.hold(range(len(self.plan.records)))
                    checkpoints.put((command, self.updater.global_values))
                    continue
                for (kind, _), steps in self._queues.items():
                    if kind == "stream" or command.train:
                        steps.put(command)
        except BaseException as error:
            # First the report: what the threads wait for may end only when the coordinator knows.
            report_failure(self.role, error, self.ends)
            self.ledger.fail(error)
            raise
        else:
            self._end_threads(threads, checkpoints)
            if self.ledger._error is not None:
                raise self.ledger._error
            self.store.flush(self.ledger.completed, self.updater.global_values, hashes=False)
        finally:
            self._end_threads(threads, checkpoints)
            self.store.close()
        self.reports.send(Ended(self.role, peak_rss()))

    def _end_threads(
        self, threads: list[threading.Thread], checkpoints: queue.SimpleQueue[_Snapshot | None]
    ) -> None:
        """Let every thread finish its queue, or fail at its next wait. A second call does nothing."""
        for steps in self._queues.values():
            steps.put(None)
        checkpoints.put(None)
        for thread in threads:
            thread.join()
        self._writer.shutdown()

    def _guard(self, target: Any, argument: Any) -> None:
        torch.set_num_threads(1)
        try:
            with torch.inference_mode():
                target(argument)
        except BaseException as error:
            # In this order: a thread that the ledger wakes may not report before the one that failed.
            report_failure(self.role, error, self.ends)
            self.ledger.fail(error)

    def _open_store(self) -> Store:
        plan = self.plan
        if plan.store == "disk":
            if not self.job.store_folder:
                raise PlanError(
                    "the plan keeps MemoryX on disk, but no folder was given; write memoryx='disk:/path'"
                )
            return DiskStore(Path(self.job.store_folder), plan.records, set(plan.cached), fresh=True)
        segment = self.ends.segment("store").buffer
        buffers, at = [], 0
        for record in plan.records:
            buffers.append(segment[at : at + record.nbytes])
            at += record.nbytes
        return RamStore(plan.records, buffers)

    # --- weights down ---------------------------------------------------------------------------------

    def _stream(self, stage: int) -> None:
        system = self.plan.systems[systems_of_stage(self.plan, stage)[0]]
        orders = {
            train: load_order(self.plan, system, train)
            for train in (True, False)
            if train or system.evaluation
        }
        last_use = {index: position for position, index in enumerate(orders[True])}
        writer = self.ends.writer(f"weights{stage}")
        changing = {self.plan.record_of[name] for name, _ in self.plan.buffers}
        while (step := self._queues["stream", stage].get()) is not None:
            if self.waits:
                self.ledger.wait_globals(step.number)
            for position, index in enumerate(orders[step.train]):
                if index in changing:  # new batch statistics arrive when the step ends, after the update
                    self.ledger.wait_completed(step.number)
                elif self.trained[index]:
                    self.ledger.wait_version(index, step.number)
                token = {
                    "record": index,
                    "in_place": False,
                    "globals": [[entry.name, value, entry.dtype] for entry, value in self._global_values()],
                }
                last = step.train and last_use[index] == position
                self._send(writer, index, token, last and self.reads_ahead and self.trained[index])
        writer.drain(self.job.stall_s)

    def _global_values(self) -> list[tuple[Any, float]]:
        values = self.updater.global_values
        return [(entry, values[entry.name]) for entry in self.plan.globals]

    def _send(self, writer: Any, index: int, token: dict[str, Any], ahead: bool) -> None:
        record = self.plan.records[index]
        if streams_in_place(self.plan, index):
            token["in_place"] = True
            writer.commit_reference(token, record.weight_bytes)
            return
        slot = writer.acquire(self.job.stall_s)
        kept = self.store.memory(index)
        if kept is None and record.streams_as_stored and not ahead:
            started = time.monotonic()
            self.store.weights(index, slot[: record.weight_bytes])
            self._span("memoryx stream", f"read {record.name}", started)
        elif kept is not None:
            self._cast(record, kept, slot)
        else:
            held = self._take_buffer()
            started = time.monotonic()
            source = self.store.read(index, held) if ahead else self.store.weights(index, held)
            self._span("memoryx stream", f"read {record.name}", started)
            self._cast(record, source, slot)
            if ahead:
                with self._ahead_lock:
                    self._ahead[index] = held
            else:
                self._buffers.put(held)
        writer.commit(token, record.stream_bytes)

    def _cast(self, record: Record, source: memoryview, slot: memoryview) -> None:
        """Copy a record's weights into a slot, in the dtypes that systems compute with."""
        started = time.monotonic()
        stored = stored_weights(record, source)
        for name, target in streamed_weights(record, slot).items():
            target.copy_(stored[name])
        self._span("memoryx stream", f"cast {record.name}", started)

    def _take_buffer(self) -> memoryview:
        waited = 0.0
        while True:
            try:
                return self._buffers.get(timeout=0.5)
            except queue.Empty:
                self.ends.check()
                waited += 0.5
                if self.ledger._error is not None:
                    raise Aborted(f"MemoryX stopped: {self.ledger._error}") from self.ledger._error
                if waited > self.job.stall_s:
                    raise StallError(
                        f"MemoryX waited {waited:.0f} s for a free buffer; the disk has stopped"
                    ) from None

    # --- gradients up, updates ------------------------------------------------------------------------

    def _update(self, stage: int) -> None:
        members = systems_of_stage(self.plan, stage)
        order = gradient_order(self.plan, self.plan.systems[members[0]])
        readers = [self.ends.reader("gradients", system_role(index)) for index in members]
        expected = Counter(
            record
            for s in range(self.plan.stages)
            for _, record in gradient_order(self.plan, self.plan.systems[systems_of_stage(self.plan, s)[0]])
        )
        self._expected = expected
        while (step := self._queues["update", stage].get()) is not None:
            if self.job.fail == f"memoryx:{step.number}":
                die()
            for _, index in order:
                messages = [reader.receive(self.job.stall_s) for reader in readers]
                for message in messages:
                    assert (message.token["record"], message.token["step"]) == (index, step.number), (
                        message.token
                    )
                started = time.monotonic()
                record = self.plan.records[index]
                parts = [gradient_views(record, message.data) for message in messages]
                summed = {name: reduce_in_place([part[name] for part in parts]) for name in parts[0]}
                if len(messages) > 1:
                    self._span(f"memoryx update{stage or ''}", f"reduce {record.name}", started)
                self._begin(step)
                if expected[index] > 1 or self.waits:
                    complete = self._keep(index, summed, expected[index])
                    for reader, message in zip(readers, messages, strict=True):
                        reader.release(message.ticket)
                    if complete is not None:
                        self._received(step, index, complete, stage)
                else:
                    self._received(step, index, summed, stage)
                    for reader, message in zip(readers, messages, strict=True):
                        reader.release(message.ticket)
                del parts, summed
            self._end(step, stage)

    def _begin(self, step: Step) -> None:
        """Once per step, by whichever stage comes first."""
        # Not under the lock: the stage that completes the step before needs it.
        self.ledger.wait_completed(step.number)
        with self._step_lock:
            if self._begun == step.number:
                self.updater.begin()
                self._begun = step.number + 1
                self._contributions: Counter[int] = Counter()

    def _keep(
        self, index: int, summed: dict[str, torch.Tensor], expected: int
    ) -> dict[str, torch.Tensor] | None:
        """Copy or add gradients into a buffer of MemoryX's own; returns them when all contributions are in."""
        record = self.plan.records[index]
        with self._step_lock:
            if index not in self._kept:
                self._kept[index] = aligned_buffer(record.gradient_bytes)
            own = gradient_views(record, self._kept[index])
            first = not self._contributions[index]
            for name, value in summed.items():
                if first:
                    own[name].copy_(value)
                else:
                    own[name].add_(value)
            self._contributions[index] += 1
            return own if self._contributions[index] == expected else None

    def _received(self, step: Step, index: int, grads: dict[str, torch.Tensor], stage: int) -> None:
        named = {name + GRADIENT: value for name, value in grads.items()}
        with self._step_lock:
            self.updater.before(index, named)
        if not self.waits:
            self._apply(step, index, named, stage)

    def _apply(self, step: Step, index: int, grads: dict[str, torch.Tensor], stage: int) -> None:
        record = self.plan.records[index]
        self.ledger.wait_released(index)
        buffer = self.store.memory(index)
        held: memoryview | None = None
        lane = f"memoryx update{stage or ''}"
        if buffer is None:
            with self._ahead_lock:
                held = self._ahead.pop(index, None)
            if held is None:
                held = self._take_buffer()
                started = time.monotonic()
                self.store.read(index, held)
                self._span(lane, f"read {record.name}", started)
            buffer = held
        started = time.monotonic()
        tensors = {**stored_weights(record, buffer), **stored_state(record, buffer), **grads}
        self.updater.apply(index, tensors)
        del tensors
        self._span(lane, f"update {record.name}", started)
        if held is None:
            self.store.write(index, step.number + 1, buffer)
            self.ledger.advance(index, step.number + 1)
        else:
            self._writer.submit(self._guard, self._write, (index, step.number + 1, held))

    def _write(self, entry: tuple[int, int, memoryview]) -> None:
        index, version, held = entry
        started = time.monotonic()
        self.store.write(index, version, held[: self.plan.records[index].nbytes])
        self._span("memoryx write", f"write {self.plan.records[index].name}", started)
        self._buffers.put(held)
        self.ledger.advance(index, version)

    def _end(self, step: Step, stage: int) -> None:
        """The last stage to get here closes the step."""
        # A stage without gradients (all its weights frozen) must not run ahead and count for a later step.
        self._begin(step)
        with self._step_lock:
            self._gradients_seen += 1
            if self._gradients_seen < self.plan.stages:
                return
            self._gradients_seen = 0
        self.updater.across()
        if self.waits:
            for index in self._apply_order():
                grads = gradient_views(self.plan.records[index], self._kept[index])
                self._apply(step, index, {name + GRADIENT: value for name, value in grads.items()}, stage)
        self._take_buffers(step)
        logs = self.updater.finish()
        self.ledger.set_globals_version(step.number + 1)
        for index, trained in enumerate(self.trained):
            if trained:
                self.ledger.wait_version(index, step.number + 1)
            elif self.ledger.version[index] <= step.number:
                self.store.keep(index, step.number + 1)
                self.ledger.advance(index, step.number + 1)
        self.ledger.complete(step.number + 1)
        spans, self._spans = self._spans, self._spans
        if self._spans is not None:
            more = step.number + 1 - self.start_step < self.job.timeline_steps
            spans, self._spans = self._spans, [] if more else None
        self.reports.send(
            Updated(
                step=step.number,
                logs=logs,
                globals=self.updater.global_values,
                bytes_read=self.store.stats.bytes_read,
                bytes_written=self.store.stats.bytes_written,
                spans=tuple(spans or ()),
            )
        )

    def _apply_order(self) -> list[int]:
        """In the order in which the next forward asks for them."""
        order: dict[int, None] = {}
        for stage in range(self.plan.stages):
            system = self.plan.systems[systems_of_stage(self.plan, stage)[0]]
            order.update(dict.fromkeys(load_order(self.plan, system, True)))
        return [index for index in order if self.trained[index]]

    def _take_buffers(self, step: Step) -> None:
        """New batch statistics, from the first replica of every stage."""
        if not self.plan.buffers:
            return
        values: dict[str, bytes] = {}
        for stage in range(self.plan.stages):
            number, own = self.ends.inbox(
                "buffers", system_role(systems_of_stage(self.plan, stage)[0])
            ).receive(self.job.stall_s, type=tuple[int, dict[str, bytes]])
            assert number == step.number
            values.update(own)
        home = self.plan.record_of
        for index in sorted({home[name] for name in values}):
            self.ledger.wait_released(index)
            if self.trained[index]:
                self.ledger.wait_version(index, step.number + 1)
            record = self.plan.records[index]
            buffer = self.store.memory(index)
            held = None if buffer is not None else self._take_buffer()
            data = buffer if buffer is not None else self.store.read(index, held)
            for name, target in stored_weights(record, data).items():
                if name in values:
                    target.copy_(
                        torch.frombuffer(bytearray(values[name]), dtype=target.dtype).view(target.shape)
                    )
            self.store.write(index, step.number + 1, data)
            if held is not None:
                self._buffers.put(held)

    # --- checkpoints ----------------------------------------------------------------------------------

    def _checkpoints(self, commands: queue.SimpleQueue[_Snapshot | None]) -> None:
        scratch: memoryview | None = None
        while (snapshot := commands.get()) is not None:
            command, global_values = snapshot
            started = time.monotonic()
            folder = Path(command.folder)
            with CheckpointWriter(
                folder,
                command.step,
                self.plan.records,
                global_values,
                msgspec.msgpack.decode(command.extra),
                keep=self.job.keep_checkpoints,
            ) as writer:
                bad = ""
                for index in reversed(range(len(self.plan.records))):
                    self.ledger.wait_version(index, command.step)
                    if self.store.memory(index) is None and scratch is None:
                        scratch = aligned_buffer(max(record.nbytes for record in self.plan.records))
                    data = self.store.read(index, scratch)
                    bad = self._not_finite(index, data) or bad
                    if not bad:
                        writer.add(index, data)
                    self.ledger.release(index)
                if bad:
                    writer.abort()
                path = "" if bad else str(writer.commit())
            self.reports.send(Saved(command.step, path, time.monotonic() - started, bad))

    def _not_finite(self, index: int, data: memoryview) -> str:
        """The first tensor of a record that training has made useless: a weight with NaN or infinity, state with NaN.

        Weights that never change may hold anything (a mask of -inf).
        """
        record = self.plan.records[index]
        changing = {weight.name for weight in record.trained} | {name for name, _ in self.plan.buffers}
        for name, value in stored_weights(record, data).items():
            if name in changing and not is_finite(value):
                return name
        for name, value in stored_state(record, data).items():
            if not is_finite(value, infinity=True):
                return name
        return ""

    def _span(self, lane: str, name: str, started: float, ended: float | None = None) -> None:
        if self._spans is not None:
            self._spans.append(Span(lane, name, started, time.monotonic() if ended is None else ended))
