"""From the operator names of a body to callables on this machine."""

from __future__ import annotations

import base64
import threading
import zlib
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch

from openwafer.artifact import Body, Symbol
from openwafer.base import PlanError
from openwafer.cluster._device_attention import OPERATORS
from openwafer.cluster._losses import LOSSES
from openwafer.cluster._shards import SHARDS

aten = torch.ops.aten

CPU = torch.device("cpu")

_MASK = (1 << 63) - 1
_fork_lock = threading.Lock()


def mix(*values: int) -> int:
    """A well-spread 63-bit key from integers, the same on every machine (SplitMix64, Steele et al., 2014)."""
    state = 0x9E3779B97F4A7C15
    for value in values:
        state = (state ^ (value & 0xFFFFFFFFFFFFFFFF)) * 0xBF58476D1CE4E5B9 & 0xFFFFFFFFFFFFFFFF
        state = (state ^ (state >> 27)) * 0x94D049BB133111EB & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state & _MASK


def overload(name: str) -> Any:
    """The ATen operator of a name such as `aten.mm.default`. Raises PlanError if this torch has none."""
    try:
        namespace, packet, which = name.split(".")
        return getattr(getattr(getattr(torch.ops, namespace), packet), which)
    except (AttributeError, ValueError):
        raise PlanError(
            f"the plan uses the operator {name}, which torch {torch.__version__} does not have; plan the job again with "
            "the torch that runs it"
        ) from None


def seeded(
    name: str,
    rng: torch.Tensor | int,
    salt: int,
    *args: Any,
    on: torch.device = CPU,
    **kwargs: Any,
) -> Any:
    """Run a random operator so that its numbers depend on (rng, salt) and nothing else.

    on: where it draws if no argument is a tensor. The CPU and GPUs have other generators: the same key draws other numbers
    on a GPU than on the CPU, and the same on every GPU of one kind.
    """
    op = overload(name)
    key = mix(int(rng), int(salt))
    device = next((a.device for a in args if isinstance(a, torch.Tensor)), on)
    if device.type != "cpu" and _makes(op, tuple(a for a in args if isinstance(a, torch.Tensor))):
        kwargs["device"] = device
    if any(argument.name == "generator" for argument in op._schema.arguments):
        generator = torch.Generator(device)
        generator.manual_seed(key)
        return op(*args, **kwargs, generator=generator)
    with _fork_lock, torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(key)
        return op(*args, **kwargs)


def constant(values: list[Any], shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor written into the graph."""
    return torch.tensor(values, dtype=dtype).reshape(shape)


@lru_cache(maxsize=256)
def packed(text: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A larger tensor written into the graph: its bytes, zlib, base 85. Unpacked once; nobody may write into it."""
    data = bytearray(zlib.decompress(base64.b85decode(text)))
    return torch.frombuffer(data, dtype=dtype).reshape(shape)


def _packed(text: str, shape: list[int], dtype: torch.dtype) -> torch.Tensor:
    return packed(text, tuple(shape), dtype)


def rounded(values: torch.Tensor, exponent_bits: int, mantissa_bits: int) -> torch.Tensor:
    """float32 values rounded to a format with fewer bits, to the nearest, ties to even.

    The format has subnormal numbers and infinities, as IEEE 754 has them, and a bias in the middle of its exponents. What is
    too large becomes infinite.
    """
    bias = (1 << (exponent_bits - 1)) - 1
    smallest = 2.0 ** (1 - bias)  # normal
    largest = (2.0 - 2.0**-mantissa_bits) * 2.0**bias
    drop = 23 - mantissa_bits
    bits = values.contiguous().view(torch.int32)
    odd = (bits >> drop) & 1
    nearest = ((bits + ((1 << (drop - 1)) - 1) + odd) >> drop << drop).view(torch.float32)
    step = smallest * 2.0**-mantissa_bits
    small = torch.round(values / step) * step
    found = torch.where(values.abs() < smallest, small, nearest)
    found = torch.where(
        found.abs() > largest, torch.copysign(torch.full_like(found, torch.inf), values), found
    )
    return torch.where(torch.isfinite(values), found, values)


def fused_in_place(op: Any) -> Callable[..., Any]:
    """The functional fused optimizer `op`, run in place: results are the arguments themselves.

    Only for calls whose weights and moments nobody reads afterwards.
    """
    packet, which = op._schema.name.split("::")[1], op._overloadname
    in_place = getattr(getattr(aten, packet + "_"), which)

    def run(weights: Any, grads: Any, first: Any, second: Any, maxima: Any, steps: Any, **kwargs: Any) -> Any:
        in_place(weights, grads, first, second, maxima, steps, **kwargs)
        return weights, grads, first, second, maxima

    return run


FUSED = {
    "aten._fused_adamw.tensor_lr",
    "aten._fused_adamw.default",
    "aten._fused_adam.tensor_lr",
    "aten._fused_adam.default",
}

MatmulKernels = Callable[[Body, int], Callable[..., Any] | None]
"""Chooses another kernel for a matrix product, instruction `position` of a body; None for ATen's own."""


class Kernels:
    """Operators for one device. `matmul` is asked on the CPU only."""

    def __init__(self, device: torch.device, matmul: MatmulKernels | None = None) -> None:
        self.device = device
        self._matmul = matmul if device.type == "cpu" else None

    def find(self, body: Body, position: int, in_place: bool) -> tuple[Callable[..., Any], dict[str, Any]]:
        """The callable of an instruction, and keyword arguments that the device adds."""
        instr = body.instrs[position]
        if instr.op == "wafer.seeded":
            return seeded, {"on": self.device}
        if instr.op == "wafer.constant":
            return (constant if self.device.type == "cpu" else _once_on(self.device)), {}
        if instr.op == "wafer.packed":
            return (_packed if self.device.type == "cpu" else _once_on(self.device, _packed)), {}
        if instr.op == "wafer.round":
            return rounded, {}
        if self.device.type != "cpu" and instr.op in OPERATORS:
            return OPERATORS[instr.op], {}
        if instr.op in LOSSES:
            return LOSSES[instr.op], {}
        if instr.op in SHARDS:
            return SHARDS[instr.op], {}
        if self._matmul is not None and (chosen := self._matmul(body, position)) is not None:
            return chosen, {}
        # Some kernels lay their results out otherwise than tracing foretold (batch normalisation of a transposed
        # tensor does): then a view needs a copy. Where it needs none, reshape is the view.
        op = overload("aten.reshape.default" if instr.op == "aten.view.default" else instr.op)
        if in_place and instr.op in FUSED:
            return fused_in_place(op), {}
        return op, {"device": self.device} if _makes(op, tuple(instr.operands)) else {}


def _makes(op: Any, operands: tuple[Any, ...]) -> bool:
    """Whether the operator makes a tensor from none, so that it must be told where."""
    return not operands and any(argument.name == "device" for argument in op._schema.arguments)


def _once_on(
    device: torch.device, make: Callable[..., torch.Tensor] = constant
) -> Callable[..., torch.Tensor]:
    """`make`, copied to a device at its first call: an instruction's numbers never change, and a copy would wait."""
    kept: list[torch.Tensor] = []

    def run(*args: Any) -> torch.Tensor:
        if not kept:
            kept.append(make(*args).to(device))
        return kept[0]

    return run


def symbol(value: Symbol) -> Any:
    """`torch.float32` and its like."""
    return getattr(torch, value.name.removeprefix("torch."))
