"""The table of operations: for each, how its dims belong together, and the ATen nodes that compute it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import fx

from openwafer.base import CirhError
from openwafer.compat.cirh._batch import Axes, AxesRule, Axis, Look, result
from openwafer.compat.cirh._dense import integers
from openwafer.compat.cirh._emit import Emitter, Value
from openwafer.compat.cirh._function import Dense, Function, Op, Type


@dataclass(slots=True)
class Use:
    """One operation as its lowering sees it. Types are those for the number of samples that is lowered for."""

    emit: Emitter
    function: Function
    op: Op
    values: list[Value]
    ins: list[Type]
    outs: list[Type]
    numbers: list[torch.Tensor | None]
    """Operands that are constants: their values, of shape () where one fills them."""
    dtypes: list[torch.dtype]
    """Of the results; for the vendor's half format, of what holds it."""

    def tensor(self, index: int) -> fx.Node:
        """An operand, as a tensor of its whole shape."""
        return self.emit.tensor(self.values[index])

    def shape(self, index: int = 0) -> list[int]:
        """The shape of a result."""
        return list(self.outs[index].shape)

    def dtype(self, index: int = 0) -> torch.dtype:
        return self.dtypes[index]

    def text(self, key: str, *allowed: str) -> str:
        """A string attribute. Raises CirhError if it is none of `allowed`."""
        value = self.op.attributes.get(key)
        if not isinstance(value, str) or (allowed and value not in allowed):
            raise self.refuse(f"{key} is {value!r}; it must be one of {', '.join(allowed)}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.op.attributes.get(key, default)
        if isinstance(value, (str, dict, list, Dense, Type)) or value is None:
            raise self.refuse(f"{key} is {value!r}; it must be a number")
        return float(value)

    def integer(self, key: str, default: int | None = None) -> int:
        return int(self.number(key, default))

    def flag(self, key: str) -> bool:
        return bool(self.op.attributes.get(key, False))

    def list_of(self, key: str) -> list[int]:
        return integer_list(self.function, self.op, key)

    def known(self, index: int, what: str) -> list[int]:
        """The integers of an operand that must be a constant."""
        found = self.numbers[index]
        if found is None:
            raise self.refuse(f"{what} (operand {index}) must be a constant")
        return [int(value) for value in found.expand(self.ins[index].shape).reshape(-1).tolist()]

    def refuse(self, why: str) -> CirhError:
        """The error for what is not run here."""
        return CirhError(f"{self.function.where(self.op)}: {why}")


Lower = Callable[[Use], "Value | tuple[Value, ...]"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One operation. `exact`: its results are values of its operands, so a narrow format needs no rounding again."""

    axes: AxesRule
    lower: Lower
    exact: bool = False


RULES: dict[str, Rule] = {}

OPERANDS = {
    **dict.fromkeys(
        (
            "Add", "Sub", "Mul", "Div", "Pow", "Atan2", "And", "Or", "Xor", "Compare", "MatMul", "DotGeneral", "Convolution",
            "Gather", "GatherNd", "Transpose", "BiasAdd", "GeluGrad", "ReluGrad", "EluGrad", "LeakyReluGrad", "SigmoidGrad",
            "HardSigmoidGrad", "Pool", "SparseSoftmaxCrossEntropyWithLogits", "SoftmaxCrossEntropyWithLogits", "RandomNormal",
        ),
        2,
    ),
    **dict.fromkeys(
        (
            "Cast", "Reshape", "BroadcastInDim", "Reduce", "L2Norm", "Softmax", "Sqrt", "Rsqrt", "Exp", "Log", "Abs", "Not",
            "Relu", "Gelu", "Tanh", "Sigmoid", "Split", "TopK", "BiasAddGrad", "Repeat", "pad", "unpad", "CumSum", "CumProd",
        ),
        1,
    ),
    **dict.fromkeys(
        ("Select", "Clamp", "LayerNorm", "Scatter", "ScatterNd", "Slice", "Arange", "RandomUniform", "FusedBatchNormGrad"), 3
    ),
    **dict.fromkeys(("LayerNormGrad", "StridedSlice"), 4),
    "Const": 0,
}  # fmt: skip
"""How many operands an operation has, where that is one number; what the analyses of whole programs rely on."""

_OTHER_FRONT_END = "no PyTorch program asks for it: it belongs to another front end"
_WAFERS = (
    "it spreads one tensor over several wafers; here systems hold samples, and MemoryX holds the weights"
)
_GENERATION = "it belongs to generation on the device, which is served here by `wafer serve`"
_UNKNOWN = "what it computes is not published"

REFUSED: dict[str, str] = {
    "Adam": _OTHER_FRONT_END,
    "GradientDescent": _OTHER_FRONT_END,
    "Composite": _UNKNOWN,
    "DLowRankScan": _UNKNOWN,
    "ExpertParallelShuffle": _WAFERS,
    "ExpertParallelShuffleKtoK": _WAFERS,
    "ExpertParallelUnshuffle": _WAFERS,
    "ExpertParallelUnshuffleKtoK": _WAFERS,
    "FusedTopK": _GENERATION,
    "FusedTopP": _GENERATION,
    "FusedTopPDeinterleaved": _GENERATION,
    "GlobalTensorToWaferShards": _WAFERS,
    "InfSparseMatMul": _GENERATION,
    "LowRankScan": _UNKNOWN,
    "MaskFromTopK": _UNKNOWN,
    "MeshAllGather": _WAFERS,
    "MeshAllSlice": _WAFERS,
    "MeshShard": _WAFERS,
    "MeshToMeshTransfer": _WAFERS,
    "MultiboxSelectWeight": _WAFERS,
    "MultiboxStoreWeight": _WAFERS,
    "NonZero": "the shape of its result depends on values",
    "WaferShardsToGlobalTensor": _WAFERS,
}
"""Operations that are known and not run -> why."""


def rule(*names: str, axes: AxesRule, exact: bool = False) -> Callable[[Lower], Lower]:
    """Register the lowering of one or several operations."""

    def register(lower: Lower) -> Lower:
        for name in names:
            assert name not in RULES, name
            RULES[name] = Rule(axes, lower, exact)
        return lower

    return register


def integer_list(function: Function, op: Op, key: str) -> list[int]:
    """An attribute that is a constant of integers."""
    value = op.attributes.get(key)
    if not isinstance(value, Dense):
        raise CirhError(f"{function.where(op)}: {key} is {value!r}; it must be a constant of integers")
    return integers(value)


# --- common ways in which dims belong together ------------------------------------------------------------


def alike(look: Look) -> Axes:
    """Elementwise: dim i of every operand and result of the full rank."""
    full = max((kind.shape for kind in (*look.ins, *look.outs)), key=len, default=())
    slots = [i for i, kind in enumerate(look.ins) if kind.shape == full]
    slots += [result(i) for i, kind in enumerate(look.outs) if kind.shape == full]
    return [(Axis.EACH, [(slot, dim) for slot in slots]) for dim in range(len(full))]


def alike_but(*keys: str) -> AxesRule:
    """Elementwise in every dim but those that the attributes name."""

    def axes(look: Look) -> Axes:
        rank = len(look.ins[0].shape)
        own: set[int] = set()
        for key in keys:
            value = look.op.attributes.get(key)
            if isinstance(value, Dense):
                own.update(dim % rank for dim in integers(value))
            elif isinstance(value, int):
                own.add(value % max(rank, 1))
        slots = [i for i, kind in enumerate(look.ins) if len(kind.shape) == rank]
        slots += [result(i) for i, kind in enumerate(look.outs) if len(kind.shape) == rank]
        return [(Axis.EACH, [(slot, dim) for slot in slots]) for dim in range(rank) if dim not in own]

    return axes


def unrelated(look: Look) -> Axes:
    """No dim of an operand is one of a result."""
    return []
