"""A plan in words and tables, for people."""

from __future__ import annotations

from openwafer.artifact._plan import HEAP_BYTES, Layer, Mode, Plan
from openwafer.base import format_bytes


def describe_plan(plan: Plan) -> str:
    """What would run how, and in how much memory. All numbers are predictions."""
    size = plan.systems[0].rows[0]
    layers = plan.layers[size]
    weights = sum(tensor.nbytes for record in plan.records for tensor in record.weights)
    parameters = sum(
        _count(tensor.shape) for record in plan.records for tensor in record.weights if tensor.trained
    )
    lines = [
        f"{plan.model}: {parameters:,} trained parameters, {format_bytes(weights)} of weights, "
        f"{format_bytes(sum(r.nbytes for r in plan.records))} with optimizer state",
        f"mode          {plan.mode}, {len(plan.systems)} system(s): {plan.replicas} replica(s) x {plan.stages} stage(s)",
        f"batch         {plan.batch} samples; microbatches {_rows(plan)}",
        f"arithmetic    {plan.flops_per_step / 1e12:.4g} TFLOP a step",
    ]
    if plan.mode is Mode.PIPELINED:
        lines.append(f"bubble        {100 * plan.bubble:.1f} % of a step, for stages of equal time")
    recomputed = sum(layer.recompute for layer in layers)
    lines.append(
        f"activations   {'kept' if not recomputed else f'recomputed in {recomputed} of {len(layers)} layers'}"
    )
    lines.append(
        "update        after the last gradient, since something needs all of them (clipping, loss scaling): "
        f"MemoryX keeps {_waiting(plan)} of gradients"
        if plan.update.waits
        else "update        as soon as the gradients of a layer are complete"
    )
    lines += ["", "memory        predicted peak"]
    for index, system in enumerate(plan.systems):
        memory = system.memory
        lines.append(
            f"  system{index:<6} {format_bytes(memory.peak):>10}  (weights {format_bytes(memory.weights)}, "
            f"activations {format_bytes(memory.activations)}, gradients {format_bytes(memory.gradients)}, "
            f"inputs {format_bytes(memory.inputs)}"
            + (f", libraries {format_bytes(memory.reserve)}" if memory.reserve else "")
            + ")"
        )
    held = plan.memoryx
    several = f"{len(plan.memoryx_records)} shards, " if len(plan.memoryx_records) > 1 else ""
    lines.append(
        f"  memoryx      {format_bytes(held.ram):>10}  ({several}store {format_bytes(held.store_ram)}, "
        f"gradients {format_bytes(held.gradients)}, buffers {format_bytes(held.buffers)})"
        + (f" and {format_bytes(held.store_disk + held.gradients_disk)} on disk" if held.store_disk else "")
    )
    lines.append(
        f"  this host    {format_bytes(plan.host_bytes):>10}  for all roles, beyond Python and PyTorch themselves; "
        f"{format_bytes(HEAP_BYTES)} of it for what the heap holds beside"
    )
    lines += ["", f"{'layer':<34}{'repeats':>8}{'weights':>12}{'streamed':>12}{'GFLOP':>10}  bodies"]
    for layer, count in _runs(layers):
        own = [plan.records[index] for index in layer.records]
        work = (layer.forward_flops + layer.backward_flops) / 1e9
        bodies = layer.forward.body + (f" {layer.backward.body}" if layer.backward else "")
        lines.append(
            f"{layer.name[:33]:<34}{count:>8}{format_bytes(sum(r.weight_bytes for r in own)):>12}"
            f"{format_bytes(sum(r.stream_bytes for r in own)):>12}{work:>10.4g}  {bodies}"
        )
    lines += [f"note: {note}" for note in plan.notes]
    return "\n".join(lines) + "\n"


def _waiting(plan: Plan) -> str:
    held = plan.memoryx
    return (
        f"{format_bytes(held.gradients_disk)} on disk"
        if held.gradients_disk
        else format_bytes(held.gradients)
    )


def _rows(plan: Plan) -> str:
    shown = {system.replica: system.rows for system in plan.systems}
    kinds = sorted(set(shown.values()), reverse=True)
    return "; ".join(
        (f"{len(rows)} x {rows[0]}" if len(set(rows)) == 1 else " + ".join(map(str, rows)))
        + (f" on {sum(value == rows for value in shown.values())} replicas" if len(kinds) > 1 else "")
        for rows in kinds
    )


def _runs(layers: tuple[Layer, ...]) -> list[tuple[Layer, int]]:
    """Neighbouring layers that share their bodies, counted."""
    out: list[tuple[Layer, int]] = []
    for layer in layers:
        same = out and _bodies(out[-1][0]) == _bodies(layer)
        if same:
            out[-1] = (out[-1][0], out[-1][1] + 1)
        else:
            out.append((layer, 1))
    return out


def _bodies(layer: Layer) -> tuple[str, str]:
    return layer.forward.body, layer.backward.body if layer.backward else ""


def _count(shape: tuple[int, ...]) -> int:
    total = 1
    for dim in shape:
        total *= dim
    return total
