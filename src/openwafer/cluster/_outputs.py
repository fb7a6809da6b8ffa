"""Tensors that steps hand out, as the coordinator puts them together from the parts of systems and microbatches."""

from __future__ import annotations

import torch
from torch import Tensor

from openwafer.artifact import Laid, Output, Plan, system_outputs, update_outputs
from openwafer.cluster._job import memoryx, system_role
from openwafer.cluster._memory import view
from openwafer.wire import Endpoints

Parts = dict[tuple[str, int, int], Tensor]
"""By label, replica and microbatch, which is the order of the samples."""


class Outputs:
    """The rings in which outputs come. One message for each report of a step, committed before the report is sent."""

    def __init__(self, plan: Plan, endpoints: Endpoints) -> None:
        self._plan, self._endpoints = plan, endpoints
        self._laid = [system_outputs(plan, index)[0] for index in range(len(plan.systems))]
        self._update = update_outputs(plan)[0]

    def take_system(self, index: int, timeout_s: float) -> Parts:
        """What a system handed out in the step that it has reported. Raises as RingReader.receive."""
        replica = self._plan.systems[index].replica
        taken = self._take(system_role(index), self._laid[index], timeout_s)
        return {(output.label, replica, microbatch): value for output, microbatch, value in taken}

    def take_update(self, timeout_s: float) -> Parts:
        """What MemoryX handed out in the step that it has reported."""
        taken = self._take(memoryx(), self._update, timeout_s)
        return {(output.label, 0, 0): value for output, _, value in taken}

    def _take(self, role: str, laid: Laid, timeout_s: float) -> list[tuple[Output, int, Tensor]]:
        if not laid:
            return []
        reader = self._endpoints.reader("outputs", role)
        message = reader.receive(timeout_s)
        taken = [
            (output, microbatch, view(message.data, kind, offset).clone())
            for output, microbatch, kind, offset in laid
        ]
        reader.release(message.ticket)
        return taken

    def join(self, parts: Parts) -> dict[str, Tensor]:
        """The outputs of a step, whole, by label."""
        every = (*self._plan.outputs, *self._plan.update.outputs)
        return {output.label: _joined(output, parts) for output in every}


def _joined(output: Output, parts: Parts) -> Tensor:
    own = [parts[key] for key in sorted(parts) if key[0] == output.label]
    if output.dim < 0:
        (whole,) = own
        return whole
    return torch.cat([_spread(output, part) for part in own], output.dim + 1).reshape(output.shape)


def _spread(output: Output, part: Tensor) -> Tensor:
    """The part with the samples as a dim of their own."""
    dim, before, after = output.dim, output.before, output.after
    samples = part.shape[dim] // (before * after)
    return part.reshape(*part.shape[:dim], before, samples, after, *part.shape[dim + 1 :])
