"""What travels in one step, and the room that it needs: read off the plan by whoever sizes, predicts or executes."""

from __future__ import annotations

from openwafer.artifact._body import TensorType
from openwafer.artifact._plan import Layer, Load, Mode, Plan, SendGradients, SendValues, System
from openwafer.base import MIB, round_up

VALUE_ALIGN_BYTES = 64
EXCHANGE_BYTES = 8 * MIB
"""Most of a record that travels between MemoryX shards in one message."""
BATCH_SLOTS = 3
"""Of the ring "batches": one in use, two ready."""


def systems_of_stage(plan: Plan, stage: int) -> list[int]:
    """Indices of the systems that run a stage, in the order of their replicas: the leaves of the SwarmX tree."""
    return [index for index, system in enumerate(plan.systems) if system.stage == stage]


def layers_for(plan: Plan, size: int, train: bool) -> tuple[Layer, ...]:
    """The layers for microbatches of `size` samples."""
    return (plan.layers if train else plan.evaluation)[size]


def memoryx_of(plan: Plan, record: int) -> int:
    """The MemoryX shard that keeps a record."""
    return plan.memoryx_of[record] if plan.memoryx_of else 0


def load_order(plan: Plan, system: System, train: bool, shard: int | None = None) -> tuple[int, ...]:
    """Records in the order in which a system receives them in one step; of one MemoryX shard, or of all."""
    layers = layers_for(plan, system.rows[0], train)
    program = system.program if train else system.evaluation
    return tuple(
        record
        for action in program
        if isinstance(action, Load)
        for record in layers[action.layer].records
        if shard in (None, memoryx_of(plan, record))
    )


def gradient_records(plan: Plan, layer: Layer) -> tuple[int, ...]:
    """Records to whose gradients a layer adds, in the order in which a system sends them."""
    return tuple(sorted({plan.record_of[gradient.weight] for gradient in layer.gradients}))


def gradient_order(plan: Plan, system: System, shard: int | None = None) -> tuple[tuple[int, int], ...]:
    """(layer, record) of every gradient message of one step, in order; to one MemoryX shard, or to all."""
    layers = layers_for(plan, system.rows[0], True)
    return tuple(
        (action.layer, record)
        for action in system.program
        if isinstance(action, SendGradients)
        for record in gradient_records(plan, layers[action.layer])
        if shard in (None, memoryx_of(plan, record))
    )


def streams_in_place(plan: Plan, record: int) -> bool:
    """Whether systems read this record in MemoryX's own memory, so that it needs no slot."""
    return plan.store == "ram" and plan.records[record].streams_as_stored


def weight_slots(plan: Plan, stage: int, shard: int, in_place: bool = True) -> tuple[int, int]:
    """(slots, bytes of each) of the ring that carries weights of a MemoryX shard to the systems of a stage.

    Every shard reads ahead by itself, as far as one alone would. in_place: whether all those systems are on the shard's
    host; else every record needs a slot.
    """
    system = plan.systems[systems_of_stage(plan, stage)[0]]
    orders = [load_order(plan, system, train, shard) for train in (True, False) if train or system.evaluation]
    copied = {
        index for order in orders for index in order if not (in_place and streams_in_place(plan, index))
    }
    if not copied:
        return 0, 0
    slots = plan.slots if plan.mode is Mode.WEIGHT_STREAMING else max(len(order) for order in orders) + 1
    return slots, max(plan.records[index].stream_bytes for index in copied)


def gradient_slots(plan: Plan, system: int, shard: int) -> tuple[int, int]:
    """(slots, bytes of each) of a system's gradient ring to a MemoryX shard: what it fills at once, and one on its way."""
    entry = plan.systems[system]
    order = gradient_order(plan, entry, shard)
    layers = layers_for(plan, entry.rows[0], True)
    at_once = max(
        (
            sum(memoryx_of(plan, record) == shard for record in gradient_records(plan, layer))
            for layer in layers
        ),
        default=1,
    )
    slots = at_once + 1 if plan.mode is Mode.WEIGHT_STREAMING else len(order) + 1
    return max(slots, 2), max((plan.records[record].gradient_bytes for _, record in order), default=4096)


def weight_ring_bytes(plan: Plan, stage: int) -> int:
    """Bytes of the slots through which weights come to the systems of a stage, on MemoryX's host."""
    rings = (weight_slots(plan, stage, shard) for shard in range(len(plan.memoryx_records)))
    return sum(slots * slot_bytes for slots, slot_bytes in rings)


def gradient_ring_bytes(plan: Plan, system: int) -> int:
    """Bytes of the slots in which a system's gradients go up."""
    rings = (gradient_slots(plan, system, shard) for shard in range(len(plan.memoryx_records)))
    return sum(slots * slot_bytes for slots, slot_bytes in rings)


def batch_layout(plan: Plan, rows: int) -> tuple[tuple[str, TensorType, int], ...]:
    """Name, type and offset of each input in a slot of the ring "batches" that holds `rows` samples."""
    out, end = [], 0
    for name, dtype, shape in plan.inputs:
        kind = TensorType(dtype, (rows, *shape))
        out.append((name, kind, end))
        end += round_up(kind.nbytes, VALUE_ALIGN_BYTES)
    return tuple(out)


def batch_slot_bytes(plan: Plan, system: int) -> int:
    """Bytes of a slot of the ring "batches" from which a system reads."""
    layout = batch_layout(plan, sum(plan.systems[system].rows))
    return sum(round_up(kind.nbytes, VALUE_ALIGN_BYTES) for _, kind, _ in layout)


def value_slots(plan: Plan, members: list[int]) -> dict[tuple[int, int], tuple[int, int]]:
    """For a replica's systems: (sender, receiver) -> (slots, bytes of each) of the rings between stages."""
    by_stage = {plan.systems[index].stage: index for index in members}
    out: dict[tuple[int, int], tuple[int, int]] = {}
    for index in members:
        system = plan.systems[index]
        for train in (True, False):
            if not train and not system.evaluation:
                continue
            sizes = _value_bytes(plan, system, train)
            for action in system.program if train else system.evaluation:
                if isinstance(action, SendValues):
                    key = (index, by_stage[action.peer])
                    need = sum(sizes[name] for name in action.values)
                    slots, most = out.get(key, (min(plan.stages, len(system.rows)) + 1, 1))
                    out[key] = (slots, max(most, need))
    return out


def _value_bytes(plan: Plan, system: System, train: bool) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for size in set(system.rows):
        for layer in layers_for(plan, size, train):
            for call in (layer.forward, layer.backward):
                if call is not None:
                    body = plan.body[call.body]
                    for name, value in zip(call.outputs, body.outputs, strict=True):
                        need = round_up(body.type_of(value).nbytes, VALUE_ALIGN_BYTES)
                        sizes[name] = max(sizes.get(name, 0), need)
    return sizes


def record_buffers(plan: Plan, shard: int) -> tuple[int, int]:
    """(buffers, bytes of each) of a MemoryX shard for whole records on their way.

    A disk store has one per slot, one being updated, one being written; checkpoints borrow one of them. In RAM there is
    nothing to hold, but in the first of several shards what another hands it for a checkpoint.
    """
    shards = plan.memoryx_records
    indices = shards[shard] if shard else range(len(plan.records))
    largest = max(plan.records[index].nbytes for index in indices)
    if plan.store == "disk":
        return plan.slots + 2, largest
    return (1, largest) if shard == 0 and len(shards) > 1 else (0, 0)


def exchange_slots(plan: Plan, shard: int) -> tuple[int, int]:
    """(slots, bytes of each) of the rings through which a MemoryX shard gets and gives whole records, each way."""
    largest = max(plan.records[record].nbytes for record in plan.memoryx_records[shard])
    return 2, min(largest, EXCHANGE_BYTES)
