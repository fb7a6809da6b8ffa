"""From a StepGraph to layers, records and the update: the data that a Plan is made of."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import fx

from openwafer.artifact import Call, Gradient, Layer, Output, Part, Record, TensorType, Update, make_record
from openwafer.graph.ir import StepGraph, op_name
from openwafer.graph.passes._backward import BackwardLayers, find_backward
from openwafer.graph.passes._bodies import BodyTable, extract, value_name
from openwafer.graph.passes._flops import flops
from openwafer.graph.passes._layers import ForwardLayers, ancestors, common_prefix, find_layers, weights_of
from openwafer.graph.passes._shards import split_vocabulary
from openwafer.graph.passes._stream import gradient_source, narrow_streams
from openwafer.graph.passes._update import cut_update
from openwafer.graph.passes._vocabulary import chunk_vocabulary


@dataclass(frozen=True)
class Assembled:
    """One step, cut into layers. Without gradients (evaluation) layers have no backward and `update` is empty."""

    samples: int
    layers: tuple[Layer, ...]
    constants: Call | None
    records: tuple[Record, ...]
    update: Update
    loss: str
    metrics: tuple[tuple[str, str], ...]
    buffers: tuple[tuple[str, str], ...]
    """(buffer, value name) of buffers that the forward replaces."""
    outputs: tuple[Output, ...] = ()


def assemble(
    step: StepGraph,
    table: BodyTable,
    recompute: Callable[[int, int], bool] = lambda index, count: False,
    records: tuple[Record, ...] | None = None,
) -> Assembled:
    """Cut a step into layers, records and the update.

    recompute(layer, layers): whether a layer's inner values are made again in its backward rather than kept.
    records: those of another capture of the same model; without them the layers of this one define them.

    Raises CannotShardError if a weight that was captured in row shards is used other than as a vocabulary.
    """
    if not step.prepared:
        split_vocabulary(step)
        narrow_streams(step)
        if chunk_vocabulary(step):
            step.notes.append(
                "the loss over the vocabulary is computed in chunks of rows, so that logits are never whole"
            )
        step.prepared = True
    forward = find_layers(step)
    backward = find_backward(step, forward) if step.gradients else None
    if records is None:
        records = _make_records(step, forward)
    record_of = {weight.name: index for index, record in enumerate(records) for weight in record.weights}
    layers = _make_layers(step, table, forward, backward, recompute, records, record_of)
    constants = None
    if forward.constants:
        inner, sums = set(forward.constants), {gradient_source(step.gradients[name]) for name in step.sums}
        kept = [n for n in forward.constants if n in sums or any(user not in inner for user in n.users)]
        constants = extract(table, forward.constants, set(), kept)
    update = (
        cut_update(step, table, record_of, len(records))
        if step.new_weights
        or step.logs
        or step.update_outputs
        or any(new is not step.globals[g] for g, new in step.new_globals.items())
        else Update(begin=None, records=(), across=None, waits=False)
    )
    return Assembled(
        samples=step.samples,
        layers=layers,
        constants=constants,
        records=records,
        update=update,
        loss=value_name(step.loss),
        metrics=tuple((label, value_name(node)) for label, node in step.metrics.items()),
        buffers=tuple((name, value_name(node)) for name, node in step.new_buffers.items()),
        outputs=tuple(
            Output(
                label, value_name(entry.node), kind.dtype, kind.shape, entry.dim, entry.before, entry.after
            )
            for label, entry in step.outputs.items()
            for kind in (step.type_of(entry.node),)
        ),
    )


def _make_layers(
    step: StepGraph,
    table: BodyTable,
    forward: ForwardLayers,
    backward: BackwardLayers | None,
    recompute: Callable[[int, int], bool],
    records: tuple[Record, ...],
    record_of: dict[str, int],
) -> tuple[Layer, ...]:
    count = len(forward.layers)
    taken = {*step.reported, *(gradient_source(step.gradients[name]) for name in step.sums)}
    stage_of = (
        {node: index for index, nodes in enumerate(backward.stages) for node in nodes} if backward else {}
    )
    views = backward.weight_views if backward else forward.weight_views
    sent = {value for entry in backward.contributions for value, _ in entry} if backward else set()
    again = [bool(backward) and recompute(index, count) for index in range(count)]
    layers = []
    for index, nodes in enumerate(forward.layers):
        inside = set(nodes)
        stage = backward.stages[index] if backward else []

        def leaves(node: fx.Node, index: int = index) -> bool:
            """Whether a forward value is read outside this layer's own bodies."""
            for user in node.users:
                if forward.layer_of.get(user, index) != index:
                    return True
                if user in stage_of and (stage_of[user] != index or not again[index]):
                    return True
            return node in taken

        wanted = [n for n in nodes if leaves(n) and not isinstance(n.meta["val"], (tuple, list))]
        needed = ancestors(wanted)
        forward_call = extract(table, [n for n in nodes if n in needed or _part_of(n, needed)], views, wanted)
        backward_call = None
        if backward is not None:
            outputs = [
                n
                for n in stage
                if (n in sent or any(stage_of.get(user, index) != index for user in n.users))
                and not isinstance(n.meta["val"], (tuple, list))
            ]
            body_nodes = list(stage)
            if again[index]:
                kept = set(wanted)
                remade = _remade(stage, inside, kept)
                body_nodes = [n for n in nodes if n in remade] + stage
            backward_call = extract(table, body_nodes, views, outputs)
        used = {
            name
            for call in (forward_call, backward_call)
            if call
            for name in call.inputs
            if isinstance(name, str)
        }
        contributions = backward.contributions[index] if backward else []
        touched = {record_of[name] for name in used if name in record_of}
        touched |= {record_of[name] for _, name in contributions}
        layers.append(
            Layer(
                name=records[min(touched)].name if touched else f"layer{index}",
                records=tuple(sorted(touched)),
                forward=forward_call,
                backward=backward_call,
                gradients=tuple(
                    Gradient(value=value_name(value), weight=name) for value, name in contributions
                ),
                recompute=again[index],
                forward_flops=flops(nodes),
                backward_flops=flops(stage) + (flops(n for n in nodes if n in remade) if again[index] else 0),
            )
        )
    return tuple(layers)


def _part_of(node: fx.Node, needed: set[fx.Node]) -> bool:
    return op_name(node) == "getitem" and node in needed


def _remade(stage: list[fx.Node], inside: set[fx.Node], kept: set[fx.Node]) -> set[fx.Node]:
    """Forward nodes of the layer that its backward must run again: down to what was kept or comes from outside."""
    found: set[fx.Node] = set()
    stack = [source for node in stage for source in node.all_input_nodes]
    while stack:
        node = stack.pop()
        if node in inside and node not in kept and node not in found:
            found.add(node)
            stack.extend(node.all_input_nodes)
    return found


def _make_records(step: StepGraph, forward: ForwardLayers) -> tuple[Record, ...]:
    """One record per layer for the weights that it alone reads, then one per group of layers that share weights."""
    readers: dict[fx.Node, set[int]] = {}
    for node, layer in forward.layer_of.items():
        for weight in weights_of(node, forward.weight_views):
            readers.setdefault(weight, set()).add(layer)
    for name, other in step.companions.items():
        nodes = step.read_weights[name], step.read_weights[other]
        both = readers.get(nodes[0], set()) | readers.get(nodes[1], set())
        readers[nodes[0]] = readers[nodes[1]] = both
    names = {node: name for name, node in {**step.read_weights, **step.buffers}.items()}
    groups: dict[tuple[int, ...], list[str]] = {(index,): [] for index in range(len(forward.layers))}
    for node, name in names.items():
        groups.setdefault(tuple(sorted(readers.get(node, ()))), []).append(name)
    records = []
    for key in sorted(groups, key=lambda layers: (len(layers) != 1, layers)):
        members = groups[key]
        if not members:
            continue
        records.append(
            make_record(
                _record_name(step, members),
                [_weight_entry(step, name) for name in members],
                [
                    (f"{name}/{state}", step.type_of(node))
                    for name in members
                    for state, node in step.state.get(name, {}).items()
                ],
                _parts(step, members),
            )
        )
    return tuple(records)


def _weight_entry(step: StepGraph, name: str) -> tuple[str, TensorType, str, bool]:
    stored = step.weights.get(name) or step.buffers[name]
    read = step.streamed.get(name, stored)
    return name, step.type_of(stored), step.type_of(read).dtype, name in step.gradients


def _parts(step: StepGraph, names: list[str]) -> dict[str, Part]:
    """Where row shards and their state belong."""
    found: dict[str, Part] = {}
    for name in names:
        if name in step.parts:
            found[name] = part = step.parts[name]
            for state, node in step.state.get(name, {}).items():
                shape = step.type_of(node).shape
                shape = part.shape[:1] + shape[1:] if shape else ()
                found[f"{name}/{state}"] = Part(f"{part.whole}/{state}", shape, part.start)
    return found


def _record_name(step: StepGraph, members: list[str]) -> str:
    """The module that the weights belong to; where some are row shards, with their rows."""
    shards = [name for name in members if name in step.parts]
    if len(shards) == 1:
        return shards[0]
    if shards:
        return common_prefix([step.parts[name].whole for name in shards]) + shards[0][shards[0].rindex("[") :]
    return common_prefix(members) or _largest(step, members)


def _largest(step: StepGraph, names: list[str]) -> str:
    """What to call weights of several modules: the module of the largest."""
    nodes = {**step.weights, **step.buffers}
    largest = max(names, key=lambda name: step.type_of(nodes[name]).nbytes)
    return largest.rpartition(".")[0] or largest
