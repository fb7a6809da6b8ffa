"""Operations on each element: arithmetic, comparison, casts, activations and their gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from openwafer.compat.cirh._emit import Splat, Value, dtype_of
from openwafer.compat.cirh._rules import Use, alike, rule

aten = torch.ops.aten

_BINARY = {
    "Add": aten.add.Tensor,
    "Sub": aten.sub.Tensor,
    "Mul": aten.mul.Tensor,
    "Atan2": aten.atan2.default,
    "Pow": aten.pow.Tensor_Tensor,
}
_UNARY = {
    "Cos": aten.cos.default,
    "Sin": aten.sin.default,
    "Erf": aten.erf.default,
    "Exp": aten.exp.default,
    "Log": aten.log.default,
    "Reciprocal": aten.reciprocal.default,
    "Rsqrt": aten.rsqrt.default,
    "Sqrt": aten.sqrt.default,
    "Sigmoid": aten.sigmoid.default,
    "Tanh": aten.tanh.default,
    "HardSigmoid": aten.hardsigmoid.default,
}
_EXACT_UNARY = {
    "Abs": aten.abs.default,
    "Ceil": aten.ceil.default,
    "Floor": aten.floor.default,
    "Round": aten.round.default,
    "Sign": aten.sgn.default,
    "Relu": aten.relu.default,
}
_COMPARISONS = {"EQ": aten.eq, "NE": aten.ne, "LT": aten.lt, "LE": aten.le, "GT": aten.gt, "GE": aten.ge}
_LOGIC = {
    "And": aten.bitwise_and.Tensor,
    "Or": aten.bitwise_or.Tensor,
    "Xor": aten.bitwise_xor.Tensor,
}


@rule(*_BINARY, axes=alike)
def _binary(use: Use) -> Value:
    target = _BINARY[use.op.name]
    if dtype_of(use.values[0]) is torch.bool and use.op.name in ("Add", "Mul"):
        target = aten.bitwise_or.Tensor if use.op.name == "Add" else aten.bitwise_and.Tensor
    return use.emit.pointwise(
        target, use.values, numbers=(1,) if use.op.name in ("Add", "Sub", "Mul") else ()
    )


@rule("Div", axes=alike)
def _div(use: Use) -> Value:
    if dtype_of(use.values[0]).is_floating_point:
        return use.emit.pointwise(aten.div.Tensor, use.values, numbers=(1,))
    return use.emit.pointwise(aten.div.Tensor_mode, use.values, numbers=(1,), rounding_mode="trunc")


@rule(*_UNARY, axes=alike)
def _unary(use: Use) -> Value:
    return use.emit.pointwise(_UNARY[use.op.name], use.values)


@rule(*_EXACT_UNARY, axes=alike, exact=True)
def _exact_unary(use: Use) -> Value:
    return use.emit.pointwise(_EXACT_UNARY[use.op.name], use.values)


@rule("Not", axes=alike, exact=True)
def _not(use: Use) -> Value:
    return use.emit.pointwise(aten.bitwise_not.default, use.values)


@rule(*_LOGIC, axes=alike, exact=True)
def _logic(use: Use) -> Value:
    return use.emit.pointwise(_LOGIC[use.op.name], use.values)


@rule("Compare", axes=alike, exact=True)
def _compare(use: Use) -> Value:
    packet = _COMPARISONS[use.text("comparison_direction", *_COMPARISONS)]
    left, right = use.values
    if isinstance(left, fx.Node) and isinstance(right, Splat) and right.number is not None:
        return use.emit(packet.Scalar, left, right.number)
    return use.emit.pointwise(packet.Tensor, [left, right])


@rule("Cast", axes=alike)
def _cast(use: Use) -> Value:
    """To an integer: towards zero, as ATen casts. To i1: whether it is not zero."""
    return cast(use, use.values[0], use.dtype())


@rule("ExtSI", axes=alike, exact=True)
def _extend(use: Use) -> Value:
    return cast(use, use.values[0], use.dtype())


@rule("ExtUI", axes=alike, exact=True)
def _extend_unsigned(use: Use) -> Value:
    """The bits of the operand, read as a number without a sign."""
    kind = dtype_of(use.values[0])
    wide = cast(use, use.values[0], use.dtype())
    if kind is torch.bool:
        return wide
    return use.emit.pointwise(
        aten.bitwise_and.Tensor, [wide, Splat((1 << 8 * kind.itemsize) - 1, use.dtype(), use.outs[0].shape)]
    )


def cast(use: Use, value: Value, dtype: torch.dtype) -> Value:
    """The value in another dtype."""
    if dtype_of(value) == dtype:
        return value
    if isinstance(value, Splat) and value.number is not None:
        found = torch.tensor(value.number, dtype=value.dtype).to(dtype)
        return Splat(found.item(), dtype, value.shape)
    return use.emit.pointwise(aten._to_copy.default, [value], dtype=dtype)


@rule("Select", axes=alike, exact=True)
def _select(use: Use) -> Value:
    return select(use, *use.values)


def select(use: Use, condition: Value, yes: Value, no: Value) -> Value:
    """`yes` where the condition holds, else `no`."""
    emit = use.emit
    if isinstance(condition, Splat) and condition.number is not None:
        return yes if condition.number else no
    everywhere = all(isinstance(value, Splat) for value in (condition, yes, no))
    mask = emit.operand(condition, False)
    chosen = [emit.operand(value, True) for value in (yes, no)]
    numbers = [not hasattr(value, "meta") for value in chosen]
    if all(numbers):
        chosen[0], numbers[0] = emit.operand(yes, False), False
    target: Any = aten.where.self
    if numbers[1]:
        target = aten.where.ScalarOther
    elif numbers[0]:
        target = aten.where.ScalarSelf
    node = emit(target, mask, *chosen)
    kind = dtype_of(yes)
    if node.meta["val"].dtype != kind:  # a Python number that widened what it met
        node = emit(aten._to_copy.default, node, dtype=kind)
    shape = use.outs[0].shape
    if everywhere:
        return Splat(node, kind, shape)
    if tuple(node.meta["val"].shape) != shape:
        return emit(aten.expand.default, node, list(shape))
    return node


@rule("Clamp", axes=alike, exact=True)
def _clamp(use: Use) -> Value:
    """min(max(x, low), high); a NaN stays one."""
    value, low, high = use.values
    bounds = [value.number if isinstance(value, Splat) else None for value in (low, high)]
    if None not in bounds and dtype_of(value).is_floating_point:
        lowest, highest = (float(bound or 0) for bound in bounds)
        if isinstance(value, Splat) and value.number is not None:
            found = torch.tensor(value.number, dtype=value.dtype).clamp(lowest, highest)
            return Splat(found.item(), value.dtype, value.shape)
        source = use.emit.operand(value, False)
        node = use.emit(
            aten.clamp.default,
            source,
            None if lowest == float("-inf") else lowest,
            None if highest == float("inf") else highest,
        )
        return Splat(node, value.dtype, value.shape) if isinstance(value, Splat) else node
    return use.emit.pointwise(aten.clamp.Tensor, [value, low, high])


@rule("Fscale", axes=alike)
def _fscale(use: Use) -> Value:
    """x * 2 ** n."""
    power = use.values[1]
    if dtype_of(power).is_floating_point:
        power = cast(use, power, torch.int32)
    return use.emit.pointwise(aten.ldexp.Tensor, [use.values[0], power])


# --- activations ------------------------------------------------------------------------------------------


def _approximation(use: Use) -> str:
    return (
        use.text("approximation", "NONE", "TANH").lower() if "approximation" in use.op.attributes else "none"
    )


@rule("Gelu", axes=alike)
def _gelu(use: Use) -> Value:
    return use.emit(aten.gelu.default, use.tensor(0), approximate=_approximation(use))


@rule("GeluGrad", axes=alike)
def _gelu_grad(use: Use) -> Value:
    """Operands: gradient, input."""
    return use.emit(aten.gelu_backward.default, use.tensor(0), use.tensor(1), approximate=_approximation(use))


@rule("ReluGrad", axes=alike, exact=True)
def _relu_grad(use: Use) -> Value:
    """Operands: gradient, input."""
    return use.emit(aten.threshold_backward.default, use.tensor(0), use.tensor(1), 0)


@rule("Elu", axes=alike)
def _elu(use: Use) -> Value:
    return use.emit(aten.elu.default, use.tensor(0), use.number("alpha", 1.0))


@rule("EluGrad", axes=alike)
def _elu_grad(use: Use) -> Value:
    """Operands: gradient, input."""
    return use.emit(
        aten.elu_backward.default, use.tensor(0), use.number("alpha", 1.0), 1.0, 1.0, False, use.tensor(1)
    )


@rule("LeakyRelu", axes=alike)
def _leaky_relu(use: Use) -> Value:
    return use.emit(aten.leaky_relu.default, use.tensor(0), use.number("alpha", 0.01))


@rule("LeakyReluGrad", axes=alike)
def _leaky_relu_grad(use: Use) -> Value:
    """Operands: gradient, input."""
    return use.emit(
        aten.leaky_relu_backward.default, use.tensor(0), use.tensor(1), use.number("alpha", 0.01), False
    )


@rule("HardSigmoidGrad", axes=alike)
def _hard_sigmoid_grad(use: Use) -> Value:
    """Operands: gradient, input."""
    return use.emit(aten.hardsigmoid_backward.default, use.tensor(0), use.tensor(1))


@rule("SigmoidGrad", axes=alike)
def _sigmoid_grad(use: Use) -> Value:
    """Operands: result of the sigmoid, gradient."""
    return use.emit(aten.sigmoid_backward.default, use.tensor(1), use.tensor(0))


@rule("Softplus", axes=alike)
def _softplus(use: Use) -> Value:
    return use.emit(
        aten.softplus.default, use.tensor(0), use.number("beta", 1.0), use.number("threshold", 20.0)
    )


@rule(
    "ScopeBoundary",
    "AnnotateTensor",
    "TagGradient",
    "ConstrainValueLayout",
    "RefillRecomputeConstraint",
    "SerializeBarrier",
    "DeviceToDeviceTransfer",
    axes=alike,
    exact=True,
)
def _same(use: Use) -> Value | tuple[Value, ...]:
    """Says something about its operands to a placer of kernels; the values are the same."""
    return tuple(use.values)
