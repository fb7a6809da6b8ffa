"""Float32 matrix products on the CPU: ATen's own kernels, oneDNN's, or whichever is faster here.

ATen computes float32 products with MKL, whose speed depends on who made the CPU. oneDNN's kernels are in
torch too (it uses them for bfloat16 and in compiled models), behind one operator. Each adds in its own order:
results differ in the last bits, so all systems of a job must use the same kernels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch

from openwafer.artifact import Body
from openwafer.base import InputError
from openwafer.cluster._kernels import MatmulKernels
from openwafer.cluster._matmul_cache import Kernel, Measured, Product, product_at

MatmulKind = Literal["torch", "onednn", "auto"]

_measured = Measured()


def onednn_mm(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`a @ b` by oneDNN: float32 [N, M], row-major, from a [N, K] and b [K, M] of any strides.

    No dim may be 0. Reads a row-major `a` and a row-major or transposed `b` in place; copies any other
    operand first. With u = 2**-24, the error of an element is at most K * u / (1 - K * u) times its sum of
    |a| * |b|, as for any order of additions (Higham, Accuracy and Stability of Numerical Algorithms, 2002,
    section 3.5).
    """
    return _linear(a, b, None)


def onednn_addmm(bias: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`bias + a @ b` by oneDNN, as onednn_mm with one more addition.

    bias: float32 of any strides that broadcasts to [N, M].
    """
    if bias.dim() == 2 and bias.shape[0] > 1:
        return _linear(a, b, None).add_(bias)
    # oneDNN ignores a bias's strides and does not broadcast it
    return _linear(a, b, bias.reshape(-1).expand(b.shape[1]).contiguous())


def matmul_kernels(
    kind: MatmulKind, threads: int, choices: Mapping[str, str] | None = None
) -> MatmulKernels | None:
    """Kernels for the float32 products of bodies (`aten.mm`, `aten.addmm`) on the CPU; None: ATen's for all.

    - "torch": ATen's own, bit for bit what PyTorch computes.
    - "onednn": oneDNN's for every such product.
    - "auto": oneDNN's where they are clearly faster with `threads` threads, as `choices` says (see
      choose_kernels; a product that it does not know runs on ATen). Without choices, as measured once per
      process, which may differ between processes. ATen's own where torch has no oneDNN.

    Products of other dtypes and batched ones always keep ATen's kernels.

    Raises InputError for an unknown kind or choice, threads < 1, and "onednn" where torch has no oneDNN.
    """
    _check_threads(threads)
    if kind not in ("torch", "onednn", "auto"):
        raise InputError(f"matmul={kind!r} is no kind of matrix product; use 'torch', 'onednn' or 'auto'")
    for signature, choice in (choices or {}).items():
        if choice not in ("torch", "onednn"):
            raise InputError(
                f"the kernel of {signature!r} is {choice!r}, not 'torch' or 'onednn'; choose kernels again"
            )
    if kind == "onednn" and not onednn_is_available():
        raise InputError(
            f"matmul='onednn' needs a torch with oneDNN, and torch {torch.__version__} here has none; "
            "use matmul='torch' or 'auto'"
        )
    if kind == "torch" or not onednn_is_available():
        return None

    def kernel(body: Body, position: int) -> Kernel | None:
        product = product_at(body, position)
        if product is None:
            return None
        if kind == "onednn":
            chosen = "onednn"
        elif choices is None:
            chosen = kernel_for(product, threads)
        else:
            chosen = choices.get(product.signature(threads), "torch")
        return candidates(product)["onednn"] if chosen == "onednn" else None

    return kernel


def choose_kernels(bodies: Iterable[Body], threads: int) -> dict[str, str]:
    """The faster kernel, "torch" or "onednn", of each product in bodies: `choices` for every role's kernels.

    Plain data, for JSON too. Measures, with `threads` threads of this process, some 10 to 50 ms for a product
    that this process has not measured yet. Call it once per job, before the roles start and while nothing
    else computes; a process that called it must spawn the roles, not fork them, because OpenMP's threads do
    not survive a fork.

    Raises InputError for threads < 1.
    """
    _check_threads(threads)
    products = (product_at(body, position) for body in bodies for position in range(len(body.instrs)))
    return {product.signature(threads): kernel_for(product, threads) for product in products if product}


def kernel_for(product: Product, threads: int) -> str:
    """The name of the faster kernel, "torch" or "onednn", as measured once in this process."""
    return _measured.choose(product, threads, candidates(product)) if onednn_is_available() else "torch"


def candidates(product: Product) -> dict[str, Kernel]:
    """The kernels that can compute a product, by name."""
    aten: Any = torch.ops.aten
    if product.bias is None:
        return {"torch": aten.mm.default, "onednn": onednn_mm}
    return {"torch": aten.addmm.default, "onednn": onednn_addmm}


def onednn_is_available() -> bool:
    """Whether this torch can run its linear layers through oneDNN on this machine."""
    available: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return available and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _linear(a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    weight = b.t()
    if not (b.is_contiguous() or weight.is_contiguous()):
        # oneDNN reads other strides with its reference kernel, hundreds of times slower than a copy
        weight = weight.contiguous() if b.stride(0) == 1 else b.contiguous().t()
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise.default(a, weight, bias, "none", [], "")
    return result


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise InputError(f"matrix products cannot run on {threads} threads; use 1 or more")
