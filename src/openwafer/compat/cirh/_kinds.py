"""What each value is to the batch: shared, made per sample, a partial sum over samples, or made of whole sums."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

from torch import Tensor

from openwafer.compat.cirh._batch import Axes, Axis, Batch, Tag, axes_of, constants_of
from openwafer.compat.cirh._function import Function, Op
from openwafer.compat.cirh._rules import RULES


class Kind(Enum):
    """SHARED: from state and constants alone. SAMPLES: it has a dim of the batch. PARTIAL: a sum over samples, which adds up
    over parts of the batch. TOTAL: made from such sums in a way that needs all of the batch (an update)."""

    SHARED = auto()
    SAMPLES = auto()
    PARTIAL = auto()
    TOTAL = auto()


_MADE_ANYWHERE = {"Const", "RandomUniform", "RandomNormal", "Reshape"}
"""Operations whose results may have a dim of the batch that no operand has."""
_LINEAR = {
    "Cast", "Reshape", "Transpose", "BroadcastInDim", "Slice", "StridedSlice", "Split", "Concat", "unpad",
    "BiasAddGrad", "Repeat", "AnnotateTensor", "TagGradient", "ScopeBoundary", "ConstrainValueLayout",
}  # fmt: skip
_PRODUCTS = {"Mul", "MatMul", "DotGeneral", "DMatMul", "Convolution"}


@dataclass
class Kinds:
    """By value. `whole`: why the batch cannot be divided, empty if it can."""

    of: dict[int, Kind]
    whole: str
    roots: set[int] = field(default_factory=set)
    """Partial sums that come straight from samples."""


def find_kinds(function: Function, inputs: list[int], batch: Batch) -> Kinds:
    """Classify every value, in order."""
    constants = constants_of(function)
    of = {argument.value: Kind.SHARED for argument in function.arguments}
    of.update(dict.fromkeys(inputs, Kind.SAMPLES))
    kinds = Kinds(of, batch.whole)
    for op in function.ops:
        _classify(function, op, batch, constants, kinds)
    return kinds


def _classify(
    function: Function, op: Op, batch: Batch, constants: Mapping[int, Tensor], kinds: Kinds
) -> None:
    tags, of = batch.tags, kinds.of
    axes: Axes = [] if op.name == "Reshape" else axes_of(function, op, RULES[op.name].axes, constants)
    own = [of[value] for value in op.operands]
    mixes = _mixed(op, axes, tags)
    if mixes:
        _need_all(kinds, f"{function.where(op)} {mixes}")
    sums = any(
        kind is Axis.SUM
        and any(
            slot >= 0 and (tag := tags.get(op.operands[slot])) and tag.dim == dim for slot, dim in members
        )
        for kind, members in axes
    )
    batched = Kind.SAMPLES in own or any(value in tags for value in (*op.operands, *op.results))
    if batched and (Kind.TOTAL in own or Kind.PARTIAL in own):
        _need_all(kinds, f"{function.where(op)} uses a sum over the batch for each sample")
    if sums and op.name in ("Scatter", "ScatterNd") and not _is_zero(constants.get(op.operands[0])):
        _need_all(kinds, f"{function.where(op)} adds up samples onto what is not zero")
    for value in op.results:
        if value in tags:
            of[value] = Kind.SAMPLES if Kind.SAMPLES in own or not _is_shared(own) else Kind.SHARED
        elif sums:
            of[value] = Kind.PARTIAL
            kinds.roots.add(value)
        elif batched:
            of[value] = Kind.SAMPLES if Kind.SAMPLES in own else _joined(op, own, constants)
        else:
            of[value] = _joined(op, own, constants)
            if of[value] is Kind.PARTIAL and own.count(Kind.PARTIAL) > 1:
                kinds.roots.add(value)


def _is_shared(own: list[Kind]) -> bool:
    return all(kind is Kind.SHARED for kind in own)


def _need_all(kinds: Kinds, why: str) -> None:
    kinds.whole = kinds.whole or why


def _mixed(op: Op, axes: Axes, tags: Mapping[int, Tag]) -> str:
    """How an operation mixes samples, if it does."""
    related = {member for _, members in axes for member in members}
    for slot, value in enumerate(op.operands):
        tag = tags.get(value)
        if tag is not None and op.name != "Reshape" and (slot, tag.dim) not in related:
            return "computes one sample's values from other samples"
        if tag is not None and op.name == "Reshape" and op.results[0] not in tags:
            return "joins parts of several samples into one dim"
    for index, value in enumerate(op.results):
        tag = tags.get(value)
        if tag is None or op.name in _MADE_ANYWHERE or (-1 - index, tag.dim) in related:
            continue
        if op.name != "BroadcastInDim":
            return "makes values that differ from sample to sample from their places in the batch"
    return ""


def _is_zero(constant: Tensor | None) -> bool:
    return constant is not None and not bool(constant.any())


def _joined(op: Op, own: list[Kind], constants: Mapping[int, Tensor]) -> Kind:
    """The kind of a result that has no dim of the batch, of operands that have none."""
    if _is_shared(own):
        return Kind.SHARED
    if Kind.TOTAL in own or Kind.SAMPLES in own:
        return Kind.TOTAL
    others = [kind for kind in own if kind is not Kind.PARTIAL]
    linear = (
        (op.name in ("Add", "Sub") and not others)
        or (op.name in _PRODUCTS and own.count(Kind.PARTIAL) == 1)
        or (op.name == "Div" and own[1] is Kind.SHARED)
        or (op.name in _LINEAR and own[0] is Kind.PARTIAL and (op.name != "Concat" or not others))
        or (
            op.name in ("Scatter", "ScatterNd")
            and _is_zero(constants.get(op.operands[0]))
            and own[1:] == [Kind.SHARED, Kind.PARTIAL]
            and op.attributes.get("reduce_kind", "ADD") == "ADD"
        )
        or (op.name == "Reduce" and op.attributes.get("reduce_kind") == "ADD")
        or (
            op.name == "Select"
            and own[0] is Kind.SHARED
            and all(
                kind is Kind.PARTIAL or _is_zero(constants.get(value))
                for kind, value in zip(own[1:], op.operands[1:], strict=True)
            )
        )
    )
    return Kind.PARTIAL if linear else Kind.TOTAL
