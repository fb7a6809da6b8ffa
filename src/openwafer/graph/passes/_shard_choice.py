"""Choose the vocabulary weights to cut by rows, so that none of them sets the size of slots, buffers and rings alone.

Every slot of a ring and every buffer of MemoryX has room for the largest record. So a weight is worth cutting that is
larger than what the largest layer beside it holds, into shards of about that layer's size.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil

from torch import fx

from openwafer.artifact import TensorType
from openwafer.base import MIB, format_bytes, round_up
from openwafer.graph.ir import StepGraph, tensor_type
from openwafer.graph.passes._layers import find_layers, weights_of
from openwafer.graph.passes._shards import Uses, find_uses

MIN_SHARD_BYTES = 4 * MIB
"""No weight of up to this size is cut, and no shard is planned smaller: what is gained would not be noticed."""
ROWS = 64
"""Shards of more rows have a multiple of this."""
_NUMBERED = re.compile(r"((?:.*\.)?\d+)\.")
"""The innermost numbered module of a name."""


@dataclass(frozen=True)
class Cut:
    """One weight to cut by rows, with the biases of its projections."""

    weight: str
    bounds: tuple[int, ...]
    """Where shards begin, from 0, and last the number of rows."""
    biases: tuple[str, ...]
    note: str


@dataclass(frozen=True)
class Choice:
    """What to cut, and what a reader of the plan should know about what is not cut."""

    cuts: tuple[Cut, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def shards(self) -> dict[str, tuple[int, ...]]:
        """By weight, as `capture` takes it."""
        return {name: cut.bounds for cut in self.cuts for name in (cut.weight, *cut.biases)}

    @property
    def all_notes(self) -> tuple[str, ...]:
        return (*(cut.note for cut in self.cuts), *self.notes)

    def without(self, name: str, note: str) -> Choice:
        """The choice that leaves a weight, or the weight of a bias, whole."""
        kept = tuple(cut for cut in self.cuts if name != cut.weight and name not in cut.biases)
        return Choice(kept, (*self.notes, note))


def is_worth_a_look(divisible: Mapping[str, TensorType], forced: bool) -> bool:
    """Whether any weight may be worth cutting, so that a capture to look for vocabularies pays.

    Names decide nothing else: what is numbered together (`blocks.3.`) is a layer or a part of one, so that no matrix
    smaller than that sets a peak.
    """
    matrices = {name: kind.nbytes for name, kind in divisible.items() if len(kind.shape) == 2}
    if forced or not matrices:
        return bool(matrices)
    largest = max(matrices, key=matrices.__getitem__)
    numbered: dict[str, int] = {}
    for name, kind in divisible.items():
        module = _NUMBERED.match(name)
        if module and name != largest:
            numbered[module[1]] = numbered.get(module[1], 0) + kind.nbytes
    return matrices[largest] > max([MIN_SHARD_BYTES, *numbered.values()])


def choose_shards(step: StepGraph, divisible: Mapping[str, TensorType], forced: bool) -> Choice:
    """The weights of a step (forward alone will do) that are cut.

    divisible: weights whose update treats their elements alike, by name, with their types. forced: cut every
    vocabulary weight that can be, at least in two, however small.
    """
    names = {node: name for name, node in step.weights.items()}
    uses = {
        name: found
        for node, name in names.items()
        if (found := _vocabulary_uses(node)) is not None and (forced or _bytes(step, name) > MIN_SHARD_BYTES)
    }
    biases = {name: _biases(found, names, divisible) for name, found in uses.items()}
    able = {
        name
        for name, found in uses.items()
        if name in divisible and biases[name] is not None and not found.why_whole
    }
    beside = {bias for found in biases.values() for bias in found or ()}
    base = max(_largest_layer(step, able | beside), MIN_SHARD_BYTES)
    layer = max(_largest_layer(step, set(uses) | beside), MIN_SHARD_BYTES)
    cuts, notes = [], []
    for name, found in uses.items():
        size = _bytes(step, name)
        if name in able and (forced or size > base):
            bounds = _bounds(step.type_of(step.weights[name]).shape[0], max(ceil(size / base), 2))
            if len(bounds) > 2:
                cuts.append(Cut(name, bounds, tuple(biases[name] or ()), _note(step, name, bounds)))
        elif name not in able and size > layer:
            why = found.why_whole or (
                "the bias beside it is used otherwise too"
                if name in divisible
                else "its update does not treat all elements alike"
            )
            notes.append(
                f"{name} ({format_bytes(size)}) is larger than any layer and sets the size of every slot, but it stays "
                f"whole: {why}"
            )
    return Choice(tuple(cuts), tuple(notes))


def _vocabulary_uses(weight: fx.Node) -> Uses | None:
    """How a matrix is used, if any use is that of a vocabulary."""
    if weight.meta["val"].ndim != 2:
        return None
    uses = find_uses(weight)
    return uses if uses.embeddings or uses.heads else None


def _biases(
    uses: Uses, names: Mapping[fx.Node, str], divisible: Mapping[str, TensorType]
) -> list[str] | None:
    """The biases of a weight's projections; None if one of them cannot be cut along with it."""
    found = []
    for head in uses.heads:
        if head.bias is not None:
            name = names.get(_source(head.bias), "")
            if name not in divisible or len(_source(head.bias).users) != 1:
                return None
            found.append(name)
    return list(dict.fromkeys(found))


def _source(node: fx.Node) -> fx.Node:
    while node.op == "call_function" and len(node.all_input_nodes) == 1:
        node = node.all_input_nodes[0]
    return node


def _largest_layer(step: StepGraph, apart: set[str]) -> int:
    """Bytes of the weights of the largest layer, not counting those of `apart`."""
    forward = find_layers(step)
    counted = {node for name, node in step.read_weights.items() if name not in apart}
    held: list[set[fx.Node]] = [set() for _ in forward.layers]
    for node, layer in forward.layer_of.items():
        held[layer] |= weights_of(node, forward.weight_views) & counted
    return max((sum(tensor_type(node.meta["val"]).nbytes for node in own) for own in held), default=0)


def _bounds(rows: int, count: int) -> tuple[int, ...]:
    """Where `count` shards of nearly equal size begin; the last may have fewer rows."""
    each = ceil(rows / count)
    if each > ROWS:
        each = round_up(each, ROWS)
    return (*range(0, rows, each), rows)


def _note(step: StepGraph, name: str, bounds: tuple[int, ...]) -> str:
    kind = step.type_of(step.weights[name])
    return (
        f"{name} ({kind}, {format_bytes(kind.nbytes)}) is cut by rows into {len(bounds) - 1} shards of "
        f"{bounds[1]:,}, which stream and are updated like layers"
    )


def _bytes(step: StepGraph, name: str) -> int:
    return step.type_of(step.weights[name]).nbytes
