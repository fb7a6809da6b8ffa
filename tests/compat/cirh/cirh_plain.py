"""CIRH functions evaluated by plain torch, one operation after the other on whole batches: what the cluster must equal.

Nothing here is shared with the lowering but the parser. Only the operations of the golden texts are written out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from openwafer.compat.cirh import Function, Op, parse
from openwafer.compat.cirh._dense import DTYPES, decode, integers

_BINARY = {
    "Add": torch.add,
    "Sub": torch.sub,
    "Mul": torch.mul,
    "Or": torch.logical_or,
    "And": torch.logical_and,
}
_UNARY = {
    "Sqrt": torch.sqrt, "Relu": torch.relu, "Tanh": torch.tanh, "Cos": torch.cos, "Reciprocal": torch.reciprocal,
    "Abs": torch.abs, "Not": torch.logical_not, "Floor": torch.floor, "Sigmoid": torch.sigmoid, "Exp": torch.exp,
}  # fmt: skip
_COMPARE = {"EQ": torch.eq, "NE": torch.ne, "LT": torch.lt, "LE": torch.le, "GT": torch.gt, "GE": torch.ge}


def evaluate(function: Function, arguments: Mapping[int, Tensor]) -> list[Tensor]:
    """The results for values of the arguments, by index of value."""
    values = dict(arguments)
    for op in function.ops:
        found = _one(function, op, [values[v] for v in op.operands])
        for value, result in zip(op.results, found if isinstance(found, tuple) else (found,), strict=True):
            kind = function.values[value]
            assert tuple(result.shape) == kind.shape, f"{op}: {tuple(result.shape)}"
            values[value] = result.to(DTYPES[kind.element])
    return [values[result.value] for result in function.results]


def _one(function: Function, op: Op, x: list[Tensor]) -> Any:
    name, a = op.name, op.attributes
    shape = function.values[op.results[0]].shape
    dtype = DTYPES[function.values[op.results[0]].element]

    def dims(key: str) -> list[int]:
        return integers(a[key])  # type: ignore[arg-type]

    if name == "Const":
        return decode(a["value"]).expand(shape)  # type: ignore[arg-type]
    if name in _BINARY:
        return _BINARY[name](x[0], x[1])
    if name in _UNARY:
        return _UNARY[name](x[0])
    if name == "Div":
        return x[0] / x[1] if dtype.is_floating_point else torch.div(x[0], x[1], rounding_mode="trunc")
    if name == "Compare":
        return _COMPARE[str(a["comparison_direction"])](x[0], x[1])
    if name == "Cast":
        return x[0] != 0 if dtype is torch.bool else x[0].to(dtype)
    if name == "Select":
        return torch.where(x[0], x[1], x[2])
    if name == "Clamp":
        return torch.minimum(torch.maximum(x[0], x[1]), x[2])
    if name == "BroadcastInDim":
        wide = [1] * len(shape)
        for size, into in zip(x[0].shape, dims("broadcast_dimensions"), strict=True):
            wide[into] = size
        return x[0].reshape(wide).expand(shape)
    if name == "Reshape":
        return x[0].reshape(shape)
    if name == "Transpose":
        return x[0].permute(x[1].tolist())
    if name == "Reduce" and a["reduce_kind"] == "ARGMAX":
        return x[0].argmax(dims("dimensions")[0]).reshape(shape)
    if name == "Reduce":
        kinds = {"ADD": torch.sum, "MAX": torch.amax, "MIN": torch.amin, "OR": torch.any, "AND": torch.all}
        return kinds[str(a["reduce_kind"])](x[0], tuple(dims("dimensions"))).reshape(shape)
    if name == "MatMul":
        left = x[0].mT if a["transpose_a"] else x[0]
        return left @ (x[1].mT if a["transpose_b"] else x[1])
    if name == "DotGeneral":
        return _dot(
            x[0],
            x[1],
            *(
                dims(f"{side}_{kind}_dimensions")
                for kind in ("batching", "contracting")
                for side in ("lhs", "rhs")
            ),
        )
    if name == "LayerNorm":
        return F.layer_norm(x[0], x[2].shape, x[2], x[1], float(a["epsilon"]))  # type: ignore[arg-type]
    if name == "LayerNormGrad":
        return _layer_norm_grad(x, float(a["epsilon"]))  # type: ignore[arg-type]
    if name == "Softmax":
        return torch.softmax(x[0], int(a["axis"]))  # type: ignore[arg-type]
    if name == "Gelu":
        return F.gelu(x[0], approximate=str(a["approximation"]).lower())
    if name == "GeluGrad":
        source = x[1].detach().requires_grad_()
        return torch.autograd.grad(F.gelu(source, approximate=str(a["approximation"]).lower()), source, x[0])[
            0
        ]
    if name == "SparseSoftmaxCrossEntropyWithLogits":
        p = torch.softmax(x[0], -1)
        one = F.one_hot(x[1].long(), x[0].shape[-1])
        return F.cross_entropy(x[0], x[1].long(), reduction="none"), p - one
    if name == "Gather":
        axis = int(a["axis"])  # type: ignore[arg-type]
        if x[1].ndim == x[0].ndim > 1:
            return torch.gather(x[0], axis, x[1].long())
        return x[0].index_select(axis, x[1].long())
    if name == "ScatterNd":
        return x[0].index_put(tuple(x[1].long().T), x[2], accumulate=True)
    if name == "Scatter":
        put = torch.Tensor.scatter if a["reduce_kind"] == "NONE" else torch.Tensor.scatter_add
        return put(x[0], int(a["axis"]), x[1].long(), x[2])  # type: ignore[arg-type]
    if name == "Concat":
        return torch.cat(x, int(a["axis"]))  # type: ignore[arg-type]
    if name == "Split":
        return torch.split(x[0], dims("split_sizes")[0], int(a["axis"]))  # type: ignore[arg-type]
    if name == "Slice":
        return x[0][tuple(slice(b, b + n) for b, n in zip(x[1].tolist(), shape, strict=True))]
    if name == "L2Norm":
        return torch.linalg.vector_norm(x[0], 2, dims("dims"), bool(a["keepdim"]))
    if name == "Arange":
        return torch.arange(x[0].item(), x[1].item(), x[2].item())
    if name == "Convolution":
        return _convolution(a, x, shape, [dims(key) for key in ("stride", "padding", "dilation")])
    if name == "BiasAdd":
        return x[0] + x[1].reshape([-1 if i == a["dim"] else 1 for i in range(x[0].ndim)])
    if name == "BiasAddGrad":
        return x[0].sum([i for i in range(x[0].ndim) if i != a["dim"]])
    if name == "TopK":
        return tuple(torch.topk(x[0], int(a["k"]), int(a["dimension"]), bool(a["largest"])))  # type: ignore[arg-type]
    raise AssertionError(f"no plain form of {name} is written down here")


def _dot(left: Tensor, right: Tensor, bl: list[int], br: list[int], cl: list[int], cr: list[int]) -> Tensor:
    names = iter("abcdefghijklmnopqrstuvwxyz")
    first = [next(names) for _ in left.shape]
    second = [next(names) for _ in right.shape]
    for i, j in (*zip(bl, br, strict=True), *zip(cl, cr, strict=True)):
        second[j] = first[i]
    out = [first[i] for i in bl]
    out += [c for i, c in enumerate(first) if i not in (*bl, *cl)]
    out += [c for i, c in enumerate(second) if i not in (*br, *cr)]
    return torch.einsum(f"{''.join(first)},{''.join(second)}->{''.join(out)}", left, right)


def _layer_norm_grad(x: list[Tensor], epsilon: float) -> tuple[Tensor, Tensor, Tensor]:
    source, beta, gamma = (value.detach().requires_grad_() for value in x[1:])
    made = F.layer_norm(source, gamma.shape, gamma, beta, epsilon)
    found = torch.autograd.grad(made, (source, beta, gamma), x[0])
    return found[0], found[1], found[2]


def _convolution(
    a: Mapping[str, Any], x: list[Tensor], shape: tuple[int, ...], sizes: list[list[int]]
) -> Tensor:
    stride, padding, dilation = sizes
    convolve = {3: F.conv1d, 4: F.conv2d, 5: F.conv3d}[x[0].ndim]

    def forward(source: Tensor, kernel: Tensor) -> Tensor:
        return convolve(source, kernel, None, stride, padding, dilation)

    if a["conv_pass_direction"] == "FWD":
        return forward(x[0], x[1])
    wanted = torch.zeros(shape, dtype=x[0].dtype, requires_grad=True)
    if a["conv_pass_direction"] == "BWD_INPUT":
        return torch.autograd.grad(forward(wanted, x[1]), wanted, x[0])[0]
    return torch.autograd.grad(forward(x[0], wanted), wanted, x[1])[0]


# --- training loops ---------------------------------------------------------------------------------------


class PlainRun:
    """A program's state, and steps of it on whole batches."""

    def __init__(self, text: str, state: Mapping[str, Tensor]) -> None:
        self.function = parse(text)
        self.state = {name: value.clone() for name, value in state.items()}
        self.tensors: dict[str, Tensor] = {}
        """Outputs of the last step that are no single numbers."""

    def step(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """One step; returns the outputs that are single numbers."""
        values = {}
        for argument in self.function.arguments:
            name = argument.attributes.get("tf.resource_name")
            source = self.state[str(name)] if name else batch[str(argument.attributes["cs.input_name"])]
            values[argument.value] = source
        results = evaluate(self.function, values)
        aliases = {
            a.attributes.get("tf.aliasing_output"): str(a.attributes.get("tf.resource_name"))
            for a in self.function.arguments
        }
        outputs = {}
        for index, (result, value) in enumerate(zip(self.function.results, results, strict=True)):
            if index in aliases:
                self.state[aliases[index]] = value.clone()
            elif value.numel() == 1:
                outputs[str(result.attributes["cs.output_name"])] = float(value)
            else:
                self.tensors[str(result.attributes["cs.output_name"])] = value
        return outputs


def first_state(text: str, seed: int = 0) -> dict[str, Tensor]:
    """Values to begin with, by the client's names: weights drawn, moments zero, numbers as the client begins with them."""
    function = parse(text)
    generator = torch.Generator().manual_seed(seed)
    numbers = {"loss_scale": 2.0**10, "beta1_power": 0.9, "beta2_power": 0.99}
    state = {}
    for argument in function.arguments:
        name = argument.attributes.get("tf.resource_name")
        if name is None:
            continue
        kind, key = function.values[argument.value], str(name).rpartition(".")[2]
        dtype = DTYPES[kind.element]
        if not kind.shape:
            state[str(name)] = torch.tensor(numbers.get(key, 0), dtype=dtype)
        elif dtype is torch.bool:
            state[str(name)] = torch.rand(kind.shape, generator=generator) < 0.7
        elif "state.model." in str(name):
            scale = 1 / math.sqrt(kind.shape[-1]) if len(kind.shape) > 1 else 0.1
            value = torch.randn(kind.shape, generator=generator) * scale
            state[str(name)] = (value + 1 if "ln" in str(name) and key == "weight" else value).to(dtype)
        else:
            state[str(name)] = torch.zeros(kind.shape, dtype=dtype)
    return state


def batch_of(text: str, seed: int, classes: int = 2) -> dict[str, Tensor]:
    """One batch by the client's names: numbers drawn, integers below `classes`."""
    function = parse(text)
    generator = torch.Generator().manual_seed(1000 + seed)
    batch = {}
    for argument in function.arguments:
        name = argument.attributes.get("cs.input_name")
        if name is None:
            continue
        kind = function.values[argument.value]
        dtype = DTYPES[kind.element]
        if dtype.is_floating_point:
            batch[str(name)] = torch.randn(kind.shape, generator=generator).to(dtype)
        else:
            batch[str(name)] = torch.randint(0, classes, kind.shape, generator=generator).to(dtype)
    return batch
