"""The update part of the step, as MemoryX runs it: per record, in place, on the record's own bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from openwafer.artifact import Call, Plan
from openwafer.cluster._execute import Compiled
from openwafer.cluster._kernels import Kernels, mix
from openwafer.cluster.memoryx._blocks import compile_blocked

RNG = "rng"
"""The name under which an update reads the step's random key."""


class Updater:
    """Runs the calls of `plan.update` and keeps the globals.

    `begin(step)` once per step, then `before` and `apply` per record, `across` when every `before` has run, `finish` last.
    Values made for the step are kept by name until `finish`.
    """

    def __init__(self, plan: Plan, globals: Mapping[str, float], seed: int = 0) -> None:
        self.plan = plan
        self._seed = seed
        self.update = plan.update
        self._kernels = Kernels(torch.device("cpu"))
        self._compiled: dict[tuple[str, tuple[tuple[int, int], ...]], Compiled] = {}
        """By body, and by which outputs replace which inputs."""
        self.globals = {
            entry.name: torch.tensor(
                globals.get(entry.name, entry.initial), dtype=getattr(torch, entry.dtype)
            )
            for entry in plan.globals
        }
        self.outputs: dict[str, torch.Tensor] = {}
        """Tensors that the last finished step hands out."""
        self._scalars: dict[str, torch.Tensor] = {}
        self._made_before: set[str] = set()

    def begin(self, step: int = 0) -> None:
        """Compute what depends on the globals alone, and the key from which random operators of the step's update draw."""
        self._scalars = {**self.globals, RNG: torch.tensor(mix(self._seed, step))}
        self._made_before = set()
        self._run(self.update.begin, {})

    def before(self, record: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Small values of one record's gradients, for `across`; `tensors` has all that `reads_record` asks for."""
        call = self.update.records[record].before
        self._run(call, tensors)
        self._made_before.update(call.outputs if call is not None else ())

    def reads_record(self, record: int) -> bool:
        """Whether `before` reads more of a record than its gradients: its weights, its state."""
        call = self.update.records[record].before
        own = {
            tensor.name for tensor in (*self.plan.records[record].weights, *self.plan.records[record].state)
        }
        return call is not None and not own.isdisjoint(call.inputs)

    @property
    def made_before(self) -> dict[str, torch.Tensor]:
        """What `before` made of the records here, in this step."""
        return {name: self._scalars[name] for name in sorted(self._made_before)}

    def take_before(self, values: Mapping[str, torch.Tensor]) -> None:
        """What `before` made of the records of other shards."""
        self._scalars.update(values)

    def across(self) -> None:
        self._run(self.update.across, {})

    def apply(self, record: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write the record's new weights and state into `tensors`, which lie over the record."""
        call = self.update.records[record].apply
        if call is None:
            return
        in_place = {
            position: call.inputs.index(name)
            for position, name in enumerate(call.outputs)
            if name in call.inputs
        }
        for name, value in zip(call.outputs, self._call(call, tensors, in_place), strict=True):
            target = tensors[name]
            if value.data_ptr() != target.data_ptr():
                target.copy_(value)

    def finish(self) -> dict[str, float]:
        """Move the globals on; returns the values to report."""
        logs = {label: float(self._scalars[value]) for label, value in self.update.logs}
        self.outputs = {entry.label: self._scalars[entry.value] for entry in self.update.outputs}
        for name, value in self.update.new_globals:
            self.globals[name] = self._scalars[value].clone()
        self._scalars = {}
        return logs

    @property
    def global_values(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.globals.items()}

    def _run(self, call: Call | None, tensors: Mapping[str, torch.Tensor]) -> None:
        if call is not None:
            self._scalars.update(zip(call.outputs, self._call(call, tensors), strict=True))

    def _call(
        self, call: Call, tensors: Mapping[str, torch.Tensor], in_place: Mapping[int, int] | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Outputs of a call; those of `in_place` may be written over the inputs that they replace."""
        key = call.body, tuple((in_place or {}).items())
        if key not in self._compiled:
            self._compiled[key] = compile_blocked(self.plan.body[call.body], self._kernels, in_place)
        inputs: list[Any] = [
            name if isinstance(name, int) else tensors[name] if name in tensors else self._scalars[name]
            for name in call.inputs
        ]
        return self._compiled[key](inputs)
