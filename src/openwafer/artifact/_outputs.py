"""Tensors that a step hands out whole: how they lie in the slots in which they come, and how parts make the whole."""

from __future__ import annotations

from collections.abc import Iterable

from openwafer.artifact._body import TensorType
from openwafer.artifact._plan import Forward, Output, Plan
from openwafer.artifact._traffic import VALUE_ALIGN_BYTES, layers_for
from openwafer.base import round_up

OUTPUT_SLOTS = 2
"""Of a ring of outputs: as many as steps may be in hand, so that nobody waits for whoever reads them."""

Laid = tuple[tuple[Output, int, TensorType, int], ...]
"""Output, microbatch, type of its part, offset."""


def part_type(output: Output, samples: int) -> TensorType:
    """The type of an output of a microbatch, or of a batch."""
    if output.dim < 0:
        return TensorType(output.dtype, output.shape)
    shape = list(output.shape)
    shape[output.dim] = output.before * samples * output.after
    return TensorType(output.dtype, tuple(shape))


def system_outputs(plan: Plan, index: int) -> tuple[Laid, int]:
    """What a system hands out in each step, as it lies in a slot of its ring, and the bytes of a slot, 0 without any."""
    system = plan.systems[index]
    made = {
        name
        for action in system.program
        if isinstance(action, Forward)
        for name in layers_for(plan, system.rows[0], True)[action.layer].forward.outputs
    }
    own = [output for output in plan.outputs if output.value in made]
    return _lay(
        (output, at, part_type(output, rows)) for at, rows in enumerate(system.rows) for output in own
    )


def update_outputs(plan: Plan) -> tuple[Laid, int]:
    """What MemoryX hands out in each step."""
    return _lay((output, 0, part_type(output, plan.batch)) for output in plan.update.outputs)


def _lay(parts: Iterable[tuple[Output, int, TensorType]]) -> tuple[Laid, int]:
    laid, end = [], 0
    for output, microbatch, kind in parts:
        laid.append((output, microbatch, kind, end))
        end += round_up(max(kind.nbytes, 1), VALUE_ALIGN_BYTES)
    return tuple(laid), end
