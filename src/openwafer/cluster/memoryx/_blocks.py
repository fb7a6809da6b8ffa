"""Run the operators of a body that treat elements alike together, in one pass over memory.

An optimizer written out as operators passes over each weight's memory once for every operator. Here all operators that
belong together become one loop (`_loops.py`). Where some of them have none, loops and ATen's operators pass together over
one block that stays in the cache, then over the next. The numbers are the same, since every operator that is taken computes
each element from the elements at its place alone, exactly rounded.

Operators are put into rounds: first those of a round that run together, then the others (norms, products), whose results
the next round's may read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from openwafer.artifact import Arg, Body, Instr, Ref
from openwafer.cluster._execute import Compiled, compile_body
from openwafer.cluster._kernels import Kernels
from openwafer.cluster.memoryx._loops import Loop, compile_loop, has_loop

BLOCK = 1 << 16
"""Elements of a block: 256 KiB of float32, of which an update has half a dozen in use."""

POINTWISE = {
    "aten.add.Tensor",
    "aten.sub.Tensor",
    "aten.mul.Tensor",
    "aten.div.Tensor",
    "aten.rsub.Scalar",
    "aten.sqrt.default",
    "aten.reciprocal.default",
    "aten.neg.default",
    "aten.abs.default",
    "aten.sgn.default",
    "aten.maximum.default",
    "aten.minimum.default",
    "aten.clamp.default",
    "aten.clamp.Tensor",
    "aten.where.self",
    "aten.where.ScalarOther",
    "aten.where.ScalarSelf",
    "aten._to_copy.default",
    "aten.bitwise_and.Tensor",
    "aten.bitwise_or.Tensor",
    "aten.bitwise_not.default",
    *(
        f"aten.{name}.{kind}"
        for name in ("eq", "ne", "lt", "le", "gt", "ge")
        for kind in ("Tensor", "Scalar")
    ),
}
"""Operators that round each element exactly, so that neither its place in a block nor the block's size matters."""


@dataclass(frozen=True)
class _Group:
    """Operators that run together: one loop, or pieces over blocks."""

    loop: Loop | None
    blocks: Compiled | None
    """Instead of the loop, where there is none for all of it."""
    size: int
    whole: tuple[int, ...]
    """Values of `size` elements that it reads, in the order of its inputs."""
    scalars: tuple[int, ...]
    """Values of shape () that it reads; its inputs after those."""
    results: tuple[int, ...]
    """Values that it makes and others read."""


def compile_blocked(body: Body, kernels: Kernels, in_place: Mapping[int, int] | None = None) -> Compiled:
    """The function of a body, like `compile_body`; elementwise operators run together, but for those on single numbers.

    in_place: position of an output -> position of the input that it replaces. It is written there at once if nothing else
    reads that input; then the result is the input's own tensor.
    """
    instrs, first = body.instrs, len(body.inputs)
    taken = [_fits(body, instr) for instr in instrs]
    if not any(taken):
        return compile_body(body, kernels)
    rounds = _rounds(body, taken)
    groups = _group(body, taken, rounds)
    group_of = {position: number for number, group in enumerate(groups) for position in group}
    readers: dict[int, set[int]] = {}
    for position, instr in enumerate(instrs):
        for operand in instr.operands:
            readers.setdefault(operand, set()).add(position)
    steps: list[_Group | tuple[Compiled, tuple[int, ...], tuple[int, ...]]] = []
    for number in range(max(rounds) + 1):
        for group in groups:
            if rounds[group[0]] == number:
                steps.append(_compile_group(body, group, kernels))
        others = [p for p in range(len(instrs)) if not taken[p] and rounds[p] == number]
        if others:
            part, inputs, results = _part(body, others)
            kept = [i for i, v in enumerate(inputs) if v in body.outputs or not readers[v].issubset(others)]
            steps.append((compile_body(part, kernels, kept), inputs, results))
    replaced = {}
    for output, source in (in_place or {}).items():
        value = body.outputs[output]
        home = group_of.get(value - first)
        if (
            home is not None
            and readers.get(source, set()) <= set(groups[home])
            and source not in body.outputs
        ):
            replaced[value] = source

    def run(values: list[Any]) -> tuple[torch.Tensor, ...]:
        found: dict[int, Any] = dict(enumerate(values))
        values.clear()
        for step in steps:
            if isinstance(step, _Group):
                _run_group(body, step, found, replaced)
            else:
                compiled, inputs, results = step
                found.update(zip(results, compiled([found[value] for value in inputs]), strict=True))
        return tuple(found[value] for value in body.outputs)

    return run


def _run_group(body: Body, group: _Group, found: dict[int, Any], replaced: Mapping[int, int]) -> None:
    sources = [found[value].reshape(-1) for value in group.whole]
    scalars = [found[value] for value in group.scalars]
    targets = []
    for value in group.results:
        kind = body.type_of(value)
        if value in replaced and found[replaced[value]].is_contiguous():
            found[value] = found[replaced[value]]
        else:
            found[value] = torch.empty(kind.shape, dtype=getattr(torch, kind.dtype))
        targets.append(found[value].view(-1))
    if group.loop is not None:
        group.loop([*sources, *scalars], targets, group.size)
        return
    assert group.blocks is not None
    for start in range(0, group.size, BLOCK):
        part = slice(start, start + BLOCK)
        made = group.blocks([*(source[part] for source in sources), *scalars])
        for target, block in zip(targets, made, strict=True):
            target[part].copy_(block)


def _fits(body: Body, instr: Instr) -> bool:
    """Whether an operator may run with others: elementwise, on tensors of one shape and numbers, with a loop or large."""
    if instr.op not in POINTWISE or len(instr.types) != 1:
        return False
    shape = instr.types[0].shape
    size = math.prod(shape)
    return (
        shape != ()
        and all(
            body.type_of(operand).shape in (shape, ()) and _is_one(body, operand)
            for operand in instr.operands
        )
        and (size > BLOCK or has_loop(body, instr))
    )


def _is_one(body: Body, value: int) -> bool:
    return value < len(body.inputs) or len(body.instrs[value - len(body.inputs)].types) == 1


def _rounds(body: Body, taken: list[bool]) -> list[int]:
    """The round of each instruction."""
    first = len(body.inputs)
    rounds: list[int] = []
    for position, instr in enumerate(body.instrs):
        found = 0
        for operand in instr.operands:
            if operand >= first:
                before = operand - first
                waits = taken[position] and not taken[before]
                found = max(found, rounds[before] + waits)
        rounds.append(found)
    return rounds


def _group(body: Body, taken: list[bool], rounds: list[int]) -> list[list[int]]:
    """Instructions of one round and shape that read each other's results or the same values, in order."""
    first = len(body.inputs)
    parent = list(range(len(body.instrs)))

    def root(position: int) -> int:
        while parent[position] != position:
            parent[position] = parent[parent[position]]
            position = parent[position]
        return position

    reader: dict[tuple[int, int], int] = {}
    for position, instr in enumerate(body.instrs):
        if not taken[position]:
            continue
        for operand in instr.operands:
            if body.type_of(operand).shape == ():
                continue
            before = operand - first
            if before >= 0 and taken[before] and rounds[before] == rounds[position]:
                parent[root(position)] = root(before)
            key = operand, rounds[position]
            if key in reader:
                parent[root(position)] = root(reader[key])
            reader[key] = position
    groups: dict[int, list[int]] = {}
    for position in range(len(body.instrs)):
        if taken[position]:
            groups.setdefault(root(position), []).append(position)
    return list(groups.values())


def _part(body: Body, positions: list[int]) -> tuple[Body, tuple[int, ...], tuple[int, ...]]:
    """Some instructions as a body of their own; the values that it reads, and those that others need of it."""
    first = len(body.inputs)
    own = {first + position for position in positions}
    inputs: dict[int, None] = {}
    for position in positions:
        inputs.update((v, None) for v in body.instrs[position].operands if v not in own)
    wanted = set(body.outputs)
    for position, instr in enumerate(body.instrs):
        if first + position not in own:
            wanted.update(instr.operands)
    results = tuple(value for value in sorted(own) if value in wanted)
    return _renumbered(body, positions, tuple(inputs), results), tuple(inputs), results


def _renumbered(body: Body, positions: list[int], inputs: tuple[int, ...], results: tuple[int, ...]) -> Body:
    first = len(body.inputs)
    new = {value: index for index, value in enumerate(inputs)}
    new |= {first + position: len(inputs) + index for index, position in enumerate(positions)}
    instrs = tuple(
        Instr(
            op=instr.op,
            args=tuple(_moved(arg, new.__getitem__) for arg in instr.args),
            kwargs=tuple((key, _moved(arg, new.__getitem__)) for key, arg in instr.kwargs),
            types=instr.types,
        )
        for instr in (body.instrs[position] for position in positions)
    )
    kinds = tuple(
        body.inputs[value] if value < first else body.instrs[value - first].types[0] for value in inputs
    )
    return Body(kinds, instrs, tuple(new[value] for value in results))


def _moved(arg: Arg, new: Callable[[int], int]) -> Arg:
    if isinstance(arg, Ref):
        return Ref(new(arg.index))
    return tuple(_moved(item, new) for item in arg) if isinstance(arg, tuple) else arg


def _compile_group(body: Body, positions: list[int], kernels: Kernels) -> _Group:
    part, inputs, results = _part(body, positions)
    whole = tuple(value for value in inputs if body.type_of(value).shape != ())
    scalars = tuple(value for value in inputs if body.type_of(value).shape == ())
    part = _renumbered(body, positions, (*whole, *scalars), results)
    shape = body.instrs[positions[0]].types[0].shape
    loop = compile_loop(part) if all(has_loop(part, instr) for instr in part.instrs) else None
    blocks = None if loop is not None else _compile_pieces(part, kernels)
    return _Group(loop, blocks, math.prod(shape), whole, scalars, results)


def _compile_pieces(body: Body, kernels: Kernels) -> Compiled:
    """The function of a group for one block: loops, and between them ATen's operators, whose results stay in the cache."""
    known = [has_loop(body, instr) for instr in body.instrs]
    rounds = _rounds(body, known)
    steps = []
    for number in range(max(rounds) + 1):
        for looped in (True, False):
            chosen = [p for p, is_known in enumerate(known) if is_known == looped and rounds[p] == number]
            if chosen:
                part, inputs, results = _part(body, chosen)
                steps.append((_block_loop(part) if looped else compile_body(part, kernels), inputs, results))

    def run(values: list[Any]) -> tuple[torch.Tensor, ...]:
        found = dict(enumerate(values))
        for compiled, inputs, results in steps:
            found.update(zip(results, compiled([found[value] for value in inputs]), strict=True))
        return tuple(found[value] for value in body.outputs)

    return run


def _block_loop(body: Body) -> Compiled:
    """A loop that makes its own results, as long as what it reads."""
    loop = compile_loop(body)
    whole = next(index for index, kind in enumerate(body.inputs) if kind.shape != ())
    dtypes = [getattr(torch, body.type_of(value).dtype) for value in body.outputs]

    def run(values: list[Any]) -> tuple[torch.Tensor, ...]:
        size = len(values[whole])
        made = tuple(torch.empty(size, dtype=dtype) for dtype in dtypes)
        loop(values, made, size)
        return made

    return run
