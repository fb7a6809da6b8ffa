"""A System: receives weights, runs its program on its microbatches, gives gradients back.

It holds activations and a few layers of weights, never the whole set (weight streaming), or the weights of its own
stage (pipelined). Which, and in what order, its program says; this file only carries programs out.
"""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch

from openwafer.artifact import (
    Action,
    Backward,
    Body,
    Call,
    Forward,
    Layer,
    Load,
    ReceiveValues,
    SendGradients,
    SendValues,
    TensorType,
    Unload,
    call_of,
    drops,
    gradient_records,
    layers_for,
    system_outputs,
)
from openwafer.cluster._device import Bytes, Message
from openwafer.cluster._device_open import open_device
from openwafer.cluster._execute import Compiled, compile_body
from openwafer.cluster._job import Job, memoryx, system_role
from openwafer.cluster._kernels import Kernels, mix
from openwafer.cluster._matmul import matmul_kernels
from openwafer.cluster._memory import gradients as gradient_views
from openwafer.cluster._memory import is_finite, peak_rss, streamed_weights, view
from openwafer.cluster._messages import Command, Ended, Ready, Result, Span, Step, Stop
from openwafer.cluster._system_rings import SystemRings
from openwafer.cluster._threads import use_threads
from openwafer.wire import Endpoints

OFFSETS = 64


class _Prepared(NamedTuple):
    """An action, the values that nothing uses after it, and those of them that can die inside its body."""

    action: Action
    dropped: tuple[str, ...]
    dying: tuple[str, ...]


class SystemRole:
    """One system of a job. `run()` obeys the coordinator until told to stop."""

    def __init__(self, job: Job, index: int, endpoints: Endpoints) -> None:
        self.job = job
        self.plan = job.plan
        self.index = index
        self.me = self.plan.systems[index]
        self.role = system_role(index)
        self.ends = endpoints
        self.device = open_device(job.device, job.plan, index, job.system_memory)
        self._kernels = Kernels(
            self.device.operators, matmul_kernels(job.matmul, job.threads, job.matmul_choices)
        )
        self.rings = SystemRings(job.plan, index, endpoints, self.device)
        self._compiled: dict[str, Compiled] = {}
        self._record_of = self.plan.record_of
        self._programs = {
            train: self._prepare(train) for train in (True, False) if train or self.me.evaluation
        }
        self._constants: dict[tuple[int, bool], dict[str, torch.Tensor]] = {}
        self._row_offset = self._first_row()
        laid, self.output_bytes = system_outputs(self.plan, index)
        self.outputs: dict[tuple[str, int], list[tuple[TensorType, int]]] = {}
        """By value and microbatch: where its copies go in a slot of outputs."""
        for output, microbatch, kind, offset in laid:
            self.outputs.setdefault((output.value, microbatch), []).append((kind, offset))
        self._buffer_records = {name: self._record_of[name] for name, _ in self.plan.buffers}

    def run(self) -> None:
        """Obey the coordinator. Raises what goes wrong; the caller reports it."""
        use_threads(self.job.threads)
        reports = self.ends.outbox("reports")
        with torch.inference_mode(), self.device:
            reports.send(Ready(self.role))
            self._obey()
            peak = self.device.peak_bytes
        reports.send(Ended(self.role, peak_rss(), peak))

    def _obey(self) -> None:
        inbox = self.ends.inbox("commands")
        reports = self.ends.outbox("reports")
        done = 0
        while not isinstance(command := inbox.receive(type=Command), Stop):
            if isinstance(command, Step):
                if command.train and self.job.fail == f"{self.role}:{command.number}":
                    die()
                run = _StepRun(self, command, record=done < self.job.timeline_steps)
                reports.send(run.run())
                done += 1

    def _prepare(self, train: bool) -> list[_Prepared]:
        """The program with, for each action, what it is the last to use."""
        program = self.me.program if train else self.me.evaluation
        layers = self.plan.layers if train else self.plan.evaluation
        out = []
        for action, dropped in zip(program, drops(program, self.me.rows, layers), strict=True):
            kept: set[str] = set()
            if isinstance(action, (Forward, Backward)):
                own = layers[self.me.rows[action.microbatch]]
                call = call_of(action, own)
                kept = {*(call.outputs if call else ()), *(g.value for g in own[action.layer].gradients)}
            out.append(_Prepared(action, dropped, tuple(name for name in dropped if name not in kept)))
        return out

    def call(self, call: Call, values: list[Any]) -> tuple[torch.Tensor, ...]:
        if call.body not in self._compiled:
            body: Body = self.plan.body[call.body]
            self._compiled[call.body] = compile_body(body, self._kernels)
        return self._compiled[call.body](values)

    def constants(self, size: int, train: bool) -> dict[str, torch.Tensor]:
        """Values that depend on nothing, made once."""
        if (size, train) not in self._constants:
            call = (self.plan.constants if train else self.plan.evaluation_constants)[size]
            made = dict(zip(call.outputs, self.call(call, []), strict=True)) if call else {}
            self._constants[size, train] = made
        return self._constants[size, train]

    def _first_row(self) -> int:
        before = [s for s in self.plan.systems if s.replica < self.me.replica and s.stage == self.me.stage]
        return sum(sum(system.rows) for system in before)


class _StepRun:
    """One step of one system: the values alive, by microbatch and name."""

    def __init__(self, role: SystemRole, step: Step, record: bool) -> None:
        self.role = role
        self.step = step
        self.train = step.train
        self.plan = role.plan
        self.values: list[dict[str, Any]] = [{} for _ in role.me.rows]
        self.weights: dict[str, torch.Tensor] = {}
        self.globals: dict[str, float] = {}
        self.users: dict[int, int] = {}
        self.tickets: dict[int, int] = {}
        self.slots: dict[tuple[int, int], dict[str, torch.Tensor]] = {}
        """Gradient slots by (layer, record)."""
        self.filled: dict[tuple[int, int], set[str]] = {}
        self.buffers: dict[str, torch.Tensor] = {}
        self.output_slot: Bytes | None = None
        self.loss_sum: float | None = None
        self.metric_sums: dict[str, float] = {}
        self.bad_layer = ""
        self.waits = dict.fromkeys(("weights", "gradients", "inputs", "values"), 0.0)
        self.computed: list[tuple[str, Any, Any]] = []
        """(span, its beginning and its end as marks of the device) of every body that ran."""
        self.spans: list[Span] | None = [] if record else None

    def run(self) -> Result:
        me, device = self.role.me, self.role.device
        with self._span("wait inputs", "inputs"):
            batch = self.role.rings.batches.receive(self.role.job.stall_s)
        self._take_batch(batch.token, batch.data)
        for action, dropped, dying in self.role._programs[self.train]:
            device.advance()
            if isinstance(action, Load):
                self._load(action.layer)
            elif isinstance(action, Unload):
                self._unload(action.layer)
            elif isinstance(action, (Forward, Backward)):
                self._run_layer(action, dying)
            elif isinstance(action, SendGradients):
                self._send_gradients(action.layer)
            elif isinstance(action, SendValues):
                self._send_values(action)
            else:
                self._receive_values(action)
            if dropped:
                alive = self.values[getattr(action, "microbatch", 0)]
                for name in dropped:
                    alive.pop(name, None)
        self._send_buffers()
        if self.output_slot is not None:
            self.role.rings.outputs.commit({"step": self.step.number}, self.role.output_bytes)
        self.role.rings.batches.release(batch.ticket)
        # The next step begins with weights that wait for these gradients: there is nothing to run ahead to.
        device.settle()
        return Result(
            system=self.role.index,
            step=self.step.number,
            train=self.train,
            rows=sum(me.rows),
            loss_sum=self.loss_sum,
            metric_sums=self.metric_sums,
            bad_layer=self.bad_layer,
            compute_s=self._compute_s(),
            weights_wait_s=self.waits["weights"],
            gradients_wait_s=self.waits["gradients"],
            inputs_wait_s=self.waits["inputs"],
            values_wait_s=self.waits["values"],
            spans=tuple(self.spans or ()),
        )

    # --- inputs ---------------------------------------------------------------------------------------

    def _take_batch(self, token: dict[str, Any], data: Bytes) -> None:
        """Split this replica's rows into microbatches; add the scalars that belong to each."""
        whole = {
            name: view(data, TensorType(dtype, tuple(shape)), offset)
            for name, dtype, shape, offset in token["tensors"]
        }
        start = 0
        for microbatch, size in enumerate(self.role.me.rows):
            values = self.values[microbatch]
            values.update({name: tensor[start : start + size] for name, tensor in whole.items()})
            values["sample_fraction"] = self.role.device.scalar(size / self.plan.batch, torch.float32)
            values["rng"] = mix(self.role.job.seed, self.step.number, self.role._row_offset + start)
            values.update(self.role.constants(size, self.train))
            start += size

    # --- weights --------------------------------------------------------------------------------------

    def _layers(self, microbatch: int = 0) -> tuple[Layer, ...]:
        return layers_for(self.plan, self.role.me.rows[microbatch], self.train)

    def _load(self, layer: int) -> None:
        for record in self._layers()[layer].records:
            reader = self.role.rings.weights(record)
            with self._span("wait weights", "weights"):
                message = reader.receive(self.role.job.stall_s)
            assert message.token["record"] == record, f"stream order: {message.token['record']} for {record}"
            self._take_globals(message)
            old = self.tickets.pop(record, None)
            if old is not None:
                reader.release(old)
            self.tickets[record] = message.ticket
            self.users[record] = self.users.get(record, 0) + 1
            self.weights.update(streamed_weights(self.plan.records[record], message.data))

    def _take_globals(self, message: Message) -> None:
        for name, value, dtype in message.token["globals"]:
            if self.globals.get(name) != value:
                self.globals[name] = value
                tensor = self.role.device.scalar(value, getattr(torch, dtype))
                for values in self.values:
                    values[name] = tensor

    def _unload(self, layer: int) -> None:
        for record in self._layers()[layer].records:
            self.users[record] -= 1
            if self.users[record]:
                continue
            for weight in self.plan.records[record].weights:
                self.weights.pop(weight.name, None)
            self.role.rings.weights(record).release(self.tickets.pop(record))

    # --- arithmetic -----------------------------------------------------------------------------------

    def _run_layer(self, action: Forward | Backward, dying: tuple[str, ...]) -> None:
        microbatch = action.microbatch
        layer = self._layers(microbatch)[action.layer]
        call = layer.forward if isinstance(action, Forward) else layer.backward
        assert call is not None
        alive = self.values[microbatch]
        inputs = [name if isinstance(name, int) else self._value(alive, name) for name in call.inputs]
        kind = "forward" if isinstance(action, Forward) else "backward"
        # Inputs whose last use this is die inside the body: nothing here may keep them.
        for name in dying:
            alive.pop(name, None)
        device = self.role.device
        device.join()
        started = device.mark()
        outputs = self.role.call(call, inputs)
        self.computed.append((f"{kind} {layer.name} [{microbatch}]", started, device.mark()))
        alive.update(zip(call.outputs, outputs, strict=True))
        del outputs
        if isinstance(action, Forward):
            self._take_results(microbatch, layer, call)
        else:
            self._add_gradients(microbatch, action.layer)

    def _compute_s(self) -> float:
        """Seconds of arithmetic in this step; its spans join the others."""
        total = 0.0
        seconds = self.role.device.seconds
        for name, first, last in self.computed:
            started, ended = seconds(first), seconds(last)
            total += ended - started
            if self.spans is not None:
                self.spans.append(Span(self.role.role, name, started, ended))
        return total

    def _value(self, alive: dict[str, Any], name: str) -> Any:
        if name in alive:
            return alive[name]
        if name in self.buffers:
            return self.buffers[name]
        return self.weights[name]

    def _take_results(self, microbatch: int, layer: Layer, call: Call) -> None:
        alive = self.values[microbatch]
        rows = self.role.me.rows[microbatch]
        loss = self.plan.loss if self.train else self.plan.evaluation_loss
        read = self.role.device.read
        for name in call.outputs:
            if name == loss:
                read(alive[name], partial(self._take_loss, microbatch, layer, rows))
        for metric in self.plan.metrics if self.train else self.plan.evaluation_metrics:
            if metric.value in call.outputs:
                read(alive[metric.value], partial(self._take_metric, metric.label, rows))
        if self.train:
            for name in call.outputs:
                self._hand_out(microbatch, name)
            for buffer, made in self.plan.buffers:
                if made in call.outputs:
                    self.buffers[buffer] = alive[made]

    def _hand_out(self, microbatch: int, name: str) -> None:
        """Copy a value to where it is handed out, if it is."""
        for kind, offset in self.role.outputs.get((name, microbatch), ()):
            if self.output_slot is None:
                with self._span("wait output slot", "values"):
                    self.output_slot = self.role.rings.outputs.acquire(self.role.job.stall_s)
            view(self.output_slot, kind, offset).copy_(self.values[microbatch][name])

    def _take_loss(self, microbatch: int, layer: Layer, rows: int, value: float) -> None:
        self.loss_sum = (self.loss_sum or 0.0) + value * rows
        if not math.isfinite(value) and not self.bad_layer:
            self.bad_layer = self._first_bad(microbatch, layer, infinity=math.isinf(value))

    def _take_metric(self, label: str, rows: int, value: float) -> None:
        self.metric_sums[label] = self.metric_sums.get(label, 0.0) + value * rows

    def _first_bad(self, microbatch: int, loss_layer: Layer, infinity: bool) -> str:
        """Where it began, as far as the values that are still alive tell: an input, else the first such layer.

        infinity: look for that too; a mask of -inf is no fault when the loss is NaN.
        """
        alive = self.values[microbatch]

        def is_bad(name: str) -> bool:
            value = alive.get(name)
            return isinstance(value, torch.Tensor) and not is_finite(value, infinity=not infinity)

        for name, _, _ in self.plan.inputs:
            if is_bad(name):
                return f"the input {name!r}"
        for layer in self._layers(microbatch):
            if any(is_bad(name) for name in layer.forward.outputs):
                return f"the output of {layer.name}"
        return f"the output of {loss_layer.name}"

    def _add_gradients(self, microbatch: int, index: int) -> None:
        alive = self.values[microbatch]
        layer = self._layers(microbatch)[index]
        # The ring commits slots in the order of their acquisition, which is the order in which layers send: so layers of
        # one record have slots of their own.
        for record in gradient_records(self.plan, layer):
            if (index, record) not in self.slots:
                with self._span("wait gradient slot", "gradients"):
                    slot = self.role.rings.gradients(record).acquire(self.role.job.stall_s)
                self.slots[index, record] = gradient_views(self.plan.records[record], slot)
                self.filled[index, record] = set()
        for gradient in layer.gradients:
            key = index, self.role._record_of[gradient.weight]
            target = self.slots[key][gradient.weight]
            if gradient.weight in self.filled[key]:
                target.add_(alive[gradient.value])
            else:
                target.copy_(alive[gradient.value])
                self.filled[key].add(gradient.weight)

    def _send_gradients(self, layer: int) -> None:
        for record in gradient_records(self.plan, self._layers()[layer]):
            views = self.slots.pop((layer, record))
            filled = self.filled.pop((layer, record))
            for name, target in views.items():
                if name not in filled:
                    target.zero_()
            self.role.rings.gradients(record).commit(
                {"step": self.step.number, "layer": layer, "record": record},
                self.plan.records[record].gradient_bytes,
            )

    def _send_buffers(self) -> None:
        """Batch statistics go back to MemoryX from the first replica."""
        if self.train and self.plan.buffers and self.role.me.replica == 0:
            for shard, records in enumerate(self.plan.memoryx_records):
                own = {
                    name: value.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                    for name, value in self.buffers.items()
                    if self.role._record_of[name] in records
                }
                self.role.ends.outbox("buffers", memoryx(shard)).send([self.step.number, own])

    # --- pipeline -------------------------------------------------------------------------------------

    def _send_values(self, action: SendValues) -> None:
        alive = self.values[action.microbatch]
        writer = self.role.rings.values_to(action.peer)
        with self._span("wait value slot", "values"):
            slot = writer.acquire(self.role.job.stall_s)
        fields, offset = [], 0
        for name in action.values:
            value = alive[name]
            kind = TensorType(str(value.dtype).removeprefix("torch."), tuple(value.shape))
            view(slot, kind, offset).copy_(value)
            fields.append([name, kind.dtype, list(kind.shape), offset])
            offset += -(-kind.nbytes // OFFSETS) * OFFSETS
        writer.commit(fields, offset)

    def _receive_values(self, action: ReceiveValues) -> None:
        reader = self.role.rings.values_from(action.peer)
        with self._span("wait values", "values"):
            message = reader.receive(self.role.job.stall_s)
        self.role.device.join()
        alive = self.values[action.microbatch]
        for name, dtype, shape, offset in message.token:
            alive[name] = view(message.data, TensorType(dtype, tuple(shape)), offset).clone()
        reader.release(message.ticket)

    @contextmanager
    def _span(self, name: str, kind: str) -> Iterator[None]:
        started = time.monotonic()
        yield
        ended = time.monotonic()
        self.waits[kind] += ended - started
        if self.spans is not None and ended - started > 1e-4:
            self.spans.append(Span(self.role.role, name, started, ended))


def die() -> None:
    """Fault injection: end as if killed."""
    os.kill(os.getpid(), signal.SIGKILL)
