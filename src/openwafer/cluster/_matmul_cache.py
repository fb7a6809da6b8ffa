"""Which kernel computes a matrix product faster on this machine: measured once per kind of product."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from openwafer.artifact import Arg, Body, Ref, Symbol, TensorType
from openwafer.cluster._kernels import overload, symbol

Kernel = Callable[..., torch.Tensor]
Layout = Literal["", ".t", ".strided"]
"""Row-major, a transposed view of row-major, or anything else."""

CLEARLY = 1.25
"""How many times faster oneDNN must be to be chosen: less is within what a busy machine adds or takes."""
MULTIPLY_ADDS = 200_000_000
ELEMENTS = 16_000_000
"""A larger product is measured on a smaller one: some 5 ms of a core and 64 MB at most."""
REPEATS = 3
ALIGNED = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """A float32 product a[rows, inner] @ b[inner, columns] (+ bias): what a kernel's speed depends on."""

    rows: int
    inner: int
    columns: int
    a: Layout = ""
    b: Layout = ""
    bias: tuple[int, ...] | None = None

    def __str__(self) -> str:
        name = "mm" if self.bias is None else f"addmm {list(self.bias)} +"
        return f"{name} [{self.rows}, {self.inner}]{self.a} @ [{self.inner}, {self.columns}]{self.b}"

    def signature(self, threads: int) -> str:
        """Its name in a table of choices: equal for products that share one choice."""
        return f"{self}, threads={threads}"

    def operands(self) -> tuple[torch.Tensor, ...]:
        """Arguments of its operator: normal random values in its layouts, always the same ones."""
        random = torch.Generator()
        random.manual_seed(0)

        def make(layout: Layout, *shape: int) -> torch.Tensor:
            if layout == ".t":
                return torch.randn(*reversed(shape), generator=random).t()
            return torch.randn(*shape, generator=random)

        factors = make(self.a, self.rows, self.inner), make(self.b, self.inner, self.columns)
        return factors if self.bias is None else (make("", *self.bias), *factors)

    def small(self) -> Product:
        """The product that stands for it in a measurement: its longest dim halved until it is quick.

        A dim keeps its remainder by 64, so that rows stay as aligned as they were.
        """
        dims = [self.rows, self.inner, self.columns]
        while math.prod(dims) > MULTIPLY_ADDS or _elements(*dims) > ELEMENTS:
            longest = max(range(3), key=lambda dim: dims[dim])
            dims[longest] = dims[longest] // 2 // ALIGNED * ALIGNED + dims[longest] % ALIGNED
        rows, inner, columns = dims
        bias = (
            None if self.bias is None else tuple(map(min, self.bias, (rows, columns)[2 - len(self.bias) :]))
        )
        return replace(self, rows=rows, inner=inner, columns=columns, bias=bias)


def product_at(body: Body, position: int) -> Product | None:
    """The product that an instruction computes, or None.

    None for any other instruction, another dtype, scaling factors, and a product with a dim of 0.
    """
    instr = body.instrs[position]
    if instr.op not in ("aten.mm.default", "aten.addmm.default") or instr.kwargs:
        return None
    operands = [arg.index for arg in instr.args if isinstance(arg, Ref)]
    types = [body.type_of(index) for index in operands]
    if any(kind.dtype != "float32" or 0 in kind.shape for kind in types):
        return None
    a, b = types[-2:]
    return Product(
        rows=a.shape[0],
        inner=a.shape[1],
        columns=b.shape[1],
        a=_layout(body, operands[-2]),
        b=_layout(body, operands[-1]),
        bias=types[0].shape if len(types) == 3 else None,
    )


class Measured:
    """Choices made by measuring; safe to share between threads, which never measure at the same time."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._choices: dict[tuple[Product, int], str] = {}

    def choose(self, product: Product, threads: int, kernels: Mapping[str, Kernel]) -> str:
        """The name of the faster kernel with `threads` threads: "onednn" only if it is clearly faster.

        kernels: one each for "torch" and "onednn". Measures on the first call for a product, some 10 to
        50 ms; later calls give the same answer. The caller's number of threads is as before on return.
        """
        if ".strided" in (product.a, product.b):
            return "torch"  # oneDNN needs a copy of such an operand, MKL does not
        with self._lock:
            known = self._choices.get((product, threads))
            if known is None:
                known = self._choices[product, threads] = self._measure(product, threads, kernels)
            return known

    def _measure(self, product: Product, threads: int, kernels: Mapping[str, Kernel]) -> str:
        before = torch.get_num_threads()
        if threads != before:
            torch.set_num_threads(threads)
        try:
            operands = product.small().operands()
            seconds = dict.fromkeys(kernels, math.inf)
            for name in kernels:
                kernels[name](*operands)  # makes the threads and oneDNN's code for this shape
            for _ in range(REPEATS):
                for name, kernel in kernels.items():
                    start = self._clock()
                    kernel(*operands)
                    seconds[name] = min(seconds[name], self._clock() - start)
        finally:
            if threads != before:
                torch.set_num_threads(before)
        return "onednn" if seconds["onednn"] * CLEARLY < seconds["torch"] else "torch"


def _elements(rows: int, inner: int, columns: int) -> int:
    return rows * inner + inner * columns + rows * columns


def _layout(body: Body, index: int) -> Layout:
    try:
        value = _on_meta(body, index)
    except RuntimeError:
        return ".strided"  # a view that only other strides allow: something it views is not row-major
    if value.is_contiguous():
        return ""
    return ".t" if value.t().is_contiguous() else ".strided"


def _on_meta(body: Body, index: int) -> Any:
    """A value without its numbers. Views have their strides; inputs and results are taken for row-major."""
    if index < len(body.inputs):
        return _empty(body.inputs[index])
    instr = body.instrs[index - len(body.inputs)]
    if instr.view_of is None:
        return _empty(instr.types[0])
    args = [_argument(body, arg) for arg in instr.args]
    if instr.op == "getitem":
        return args[0][args[1]]
    return overload(instr.op)(*args, **{key: _argument(body, value) for key, value in instr.kwargs})


def _argument(body: Body, arg: Arg) -> Any:
    if isinstance(arg, Ref):
        return _on_meta(body, arg.index)
    if isinstance(arg, tuple):
        return [_argument(body, item) for item in arg]
    return symbol(arg) if isinstance(arg, Symbol) else arg


def _empty(kind: TensorType) -> torch.Tensor:
    return torch.empty(kind.shape, dtype=getattr(torch, kind.dtype), device="meta")
