"""Which dim of each value is the batch, and what happens to samples: the analysis that makes a step divisible.

A dim carries the batch if one row of it belongs to one sample. `Tag(dim, before, after)`: that dim has
`before * batch * after` entries, the batch between. Tags begin at the inputs and go through operations both ways: a
value made from weights alone, repeated for each sample, gets a tag because something batched meets it.

An operation says how its dims belong together (`Axis`). `EACH`: it does the same to each entry. `SUM`: it adds the
entries up, so that samples end there, and the result is a partial sum. A batched dim that stands in no axis of an
operation is mixed by it: then the step cannot be divided.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from torch import Tensor

from openwafer.base import CirhError
from openwafer.compat.cirh._dense import decode, integers
from openwafer.compat.cirh._function import Dense, Function, Op, Type


class Axis(Enum):
    """What an operation does along dims that belong together."""

    EACH = auto()
    SUM = auto()


Member = tuple[int, int]
"""(operand, dim), or (-1 - result, dim)."""

Axes = list[tuple[Axis, list[Member]]]


@dataclass(frozen=True, slots=True)
class Look:
    """One operation, as a rule about its dims sees it."""

    op: Op
    ins: Sequence[Type]
    outs: Sequence[Type]
    numbers: Sequence[Tensor | None]
    """Operands that are constants: their values, of shape () where one fills them."""

    def constant(self, index: int) -> list[int] | None:
        """The integers of an operand, if it is a constant."""
        found = self.numbers[index]
        if found is None:
            return None
        return [int(value) for value in found.expand(self.ins[index].shape).reshape(-1).tolist()]

    def dims(self, key: str) -> list[int]:
        """An attribute that is a constant of integers; empty if it is something else."""
        value = self.op.attributes.get(key)
        return integers(value) if isinstance(value, Dense) else []

    def integer(self, key: str, default: int = 0) -> int:
        """An attribute that is an integer."""
        value = self.op.attributes.get(key, default)
        return value if isinstance(value, int) else default


AxesRule = Callable[[Look], Axes]


@dataclass(frozen=True, slots=True)
class Tag:
    """Dim `dim` has before * batch * after entries."""

    dim: int
    before: int = 1
    after: int = 1


def result(index: int = 0) -> int:
    """How a Member names a result."""
    return -1 - index


@dataclass
class Batch:
    """The batch of a function, the tags of its values, and why it cannot be divided, if so."""

    size: int
    tags: dict[int, Tag] = field(default_factory=dict)
    whole: str = ""
    """Why every step needs its whole batch at once; empty if it can be divided."""
    mixed: set[int] = field(default_factory=set)
    """Values made by mixing samples, without a dim for them."""

    def scaled(self, value: int, kind: Type, samples: int) -> Type:
        """The type of a value for a batch of `samples`."""
        tag = self.tags.get(value)
        if tag is None or samples == self.size:
            return kind
        shape = list(kind.shape)
        shape[tag.dim] = tag.before * samples * tag.after
        return Type(kind.element, tuple(shape))


class _Conflict(Exception):  # noqa: N818 - control flow within this file
    def __init__(self, why: str) -> None:
        self.why = why


def find_batch(function: Function, inputs: list[int], rule_of: Callable[[str], AxesRule]) -> Batch:
    """Tag every value that carries the batch.

    inputs: the arguments that are the batch; their first dim is it. If samples meet somewhere, `whole` says where, and
    tags follow the values from the inputs only.
    """
    sizes = {function.values[value].shape[:1] for value in inputs}
    if len(sizes) != 1 or sizes == {()}:
        return Batch(1, whole="its inputs have no common first dim that could be the batch")
    size = sizes.pop()[0]
    start = {value: Tag(0) for value in inputs}
    if size > 1:
        try:
            return Batch(size, _spread(function, dict(start), rule_of, both_ways=True))
        except _Conflict as conflict:
            why = conflict.why
    else:
        why = "its batch is one sample"
    return Batch(size, _spread(function, dict(start), rule_of, both_ways=False), whole=why)


def look_at(function: Function, op: Op, constants: Mapping[int, Tensor]) -> Look:
    """One operation with the types of its operands and results."""
    return Look(
        op,
        [function.values[value] for value in op.operands],
        [function.values[value] for value in op.results],
        [constants.get(value) for value in op.operands],
    )


def axes_of(function: Function, op: Op, rule: AxesRule, constants: Mapping[int, Tensor]) -> Axes:
    """How the dims of one operation belong together. Raises CirhError if its operands and attributes make no sense of it."""
    try:
        return rule(look_at(function, op, constants))
    except (IndexError, ValueError, TypeError, ZeroDivisionError, AttributeError) as error:
        raise CirhError(
            f"{function.where(op)}: its operands, results or attributes are not those of this operation ({error})"
        ) from None


def constants_of(function: Function) -> dict[int, Tensor]:
    """The values that `cirh.Const` defines, of shape () where one number fills them."""
    found = {}
    for op in function.ops:
        dense = op.attributes.get("value")
        if op.name == "Const" and isinstance(dense, Dense):
            found[op.results[0]] = decode(dense)
    return found


def _spread(
    function: Function, tags: dict[int, Tag], rule_of: Callable[[str], AxesRule], both_ways: bool
) -> dict[int, Tag]:
    values = function.values
    constants = constants_of(function)
    neighbours: list[list[int]] = [[] for _ in values]
    for position, op in enumerate(function.ops):
        for value in (*op.operands, *op.results):
            neighbours[value].append(position)
    arguments = {argument.value for argument in function.arguments} - set(tags)
    axes: list[Axes | None] = [None] * len(function.ops)
    queue = (
        deque(range(len(function.ops)))
        if not both_ways
        else deque(dict.fromkeys(position for value in tags for position in neighbours[value]))
    )
    waiting = set(queue)

    def set_tag(value: int, tag: Tag, op: Op) -> None:
        known = tags.get(value)
        if known == tag or (not both_ways and (known is not None or value in arguments)):
            return
        if known is not None:
            raise _Conflict(f"{function.where(op)} relates different samples to each other")
        if value in arguments:
            raise _Conflict(f"{function.where(op)} relates samples to entries of the state")
        tags[value] = tag
        for position in neighbours[value]:
            if position not in waiting:
                waiting.add(position)
                queue.append(position)

    while queue:
        position = queue.popleft()
        waiting.discard(position)
        op = function.ops[position]
        if op.name == "Const":
            if both_ways:
                _check_constant(function, op, tags)
        elif op.name == "Reshape":
            _through_reshape(function, op, tags, set_tag, both_ways)
        else:
            relations = axes[position]
            if relations is None:
                relations = axes[position] = axes_of(function, op, rule_of(op.name), constants)
            for _, members in relations:
                _through_axis(op, members, tags, set_tag, both_ways)
    return tags


def _value_of(op: Op, slot: int) -> int:
    return op.operands[slot] if slot >= 0 else op.results[-1 - slot]


def _through_axis(
    op: Op,
    members: list[Member],
    tags: dict[int, Tag],
    set_tag: Callable[[int, Tag, Op], None],
    both_ways: bool,
) -> None:
    found: Tag | None = None
    for slot, dim in members:
        tag = tags.get(_value_of(op, slot))
        if tag is not None and tag.dim == dim and (both_ways or slot >= 0):
            found = tag
            break
    if found is None:
        return
    for slot, dim in members:
        if slot < 0 or both_ways:
            set_tag(_value_of(op, slot), Tag(dim, found.before, found.after), op)


def _through_reshape(
    function: Function, op: Op, tags: dict[int, Tag], set_tag: Callable[[int, Tag, Op], None], both_ways: bool
) -> None:
    source, made = op.operands[0], op.results[0]
    for one, other in ((source, made), (made, source)):
        if one in tags and (both_ways or one == source):
            tag = reshaped(tags[one], function.values[one].shape, function.values[other].shape)
            if tag is None and not both_ways:
                return
            if tag is None:
                raise _Conflict(f"{function.where(op)} joins parts of several samples into one dim")
            set_tag(other, tag, op)
            return


def reshaped(tag: Tag, shape: tuple[int, ...], into: tuple[int, ...]) -> Tag | None:
    """Where the batch is after a reshape; None if no single dim holds it any more."""
    batch = shape[tag.dim] // (tag.before * tag.after)
    outer = tag.before
    for size in shape[: tag.dim]:
        outer *= size
    inner = tag.after
    for size in shape[tag.dim + 1 :]:
        inner *= size
    left = 1
    for dim, size in enumerate(into):
        right = 1
        for later in into[dim + 1 :]:
            right *= later
        if left and right and outer % left == 0 and inner % right == 0:
            before, after = outer // left, inner // right
            if before * batch * after == size:
                return Tag(dim, before, after)
        left *= size
    return None


def _check_constant(function: Function, op: Op, tags: dict[int, Tag]) -> None:
    """A constant with a dim of the batch must be the same for every sample, so that fewer of them can have it."""
    value = op.results[0]
    if value not in tags:
        return
    dense = op.attributes["value"]
    assert isinstance(dense, Dense)
    found = decode(dense)
    if found.ndim == 0:
        return
    rows = by_sample(found, tags[value])
    if not bool((rows == rows[:, :1]).all()):
        raise _Conflict(f"{function.where(op)} is a constant that differs from sample to sample")


def by_sample(values: Tensor, tag: Tag) -> Tensor:
    """A constant as [outside, batch, inside]."""
    batch = values.shape[tag.dim] // (tag.before * tag.after)
    outside = tag.before * math.prod(values.shape[: tag.dim])
    return values.reshape(outside, batch, -1)
