"""Matrix products by oneDNN are right for all strides; the choice of kernel is measured once and obeyed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import ClassVar, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from openwafer.artifact import Body, parse_body
from openwafer.base import InputError
from openwafer.cluster import _matmul
from openwafer.cluster._execute import compile_body
from openwafer.cluster._kernels import Kernels
from openwafer.cluster._matmul import (
    choose_kernels,
    matmul_kernels,
    onednn_addmm,
    onednn_is_available,
    onednn_mm,
)
from openwafer.cluster._matmul_cache import Measured, Product, product_at

needs_onednn = pytest.mark.skipif(not onednn_is_available(), reason="this torch has no oneDNN")
CPU = torch.device("cpu")
ROUNDOFF = 2.0**-24

# Layer x[6, 5] @ W[7, 5]^T + bias: forward, gradient of x, gradient of W, as a captured step writes them.
LAYER = """body(v0: float32[6, 5], v1: float32[7, 5], v2: float32[7], v3: float32[6, 7]):
    v4: float32[5, 7] @ v1 = aten.t.default(v1)
    v5: float32[6, 7] = aten.addmm.default(v2, v0, v4)
    v6: float32[7, 5] @ v4 = aten.t.default(v4)
    v7: float32[6, 5] = aten.mm.default(v3, v6)
    v8: float32[7, 6] @ v3 = aten.t.default(v3)
    v9: float32[7, 5] = aten.mm.default(v8, v0)
    v10: float32[5, 7] @ v9 = aten.t.default(v9)
    v11: float32[7, 5] @ v10 = aten.t.default(v10)
    return v5, v7, v11
"""
FORWARD, GRAD_X, GRAD_W = 1, 3, 5  # positions of the products in LAYER

sizes = st.integers(1, 9) | st.sampled_from([16, 31, 64, 130])


def mm_body(rows: int, inner: int, columns: int, dtype: str = "float32", op: str = "mm.default") -> Body:
    return parse_body(
        f"body(v0: {dtype}[{rows}, {inner}], v1: {dtype}[{inner}, {columns}]):\n"
        f"    v2: {dtype}[{rows}, {columns}] = aten.{op}(v0, v1)\n"
        "    return v2\n"
    )


class Clock:
    """Time passes only in the kernels that it makes."""

    def __init__(self, pause_s: float = 0.0) -> None:
        self.now = 0.0
        self.pause_s = pause_s
        self.calls: list[str] = []
        self.threads: set[int] = set()

    def __call__(self) -> float:
        return self.now

    def kernel(self, name: str, *seconds: float) -> Callable[..., torch.Tensor]:
        """One that takes these times in turn, and the last of them from then on."""
        left = list(seconds)

        def run(*operands: torch.Tensor) -> torch.Tensor:
            self.calls.append(name)
            time.sleep(self.pause_s)
            self.threads.add(torch.get_num_threads())
            self.now += left.pop(0) if len(left) > 1 else left[0]
            return operands[0]

        return run


LAYOUTS: dict[str, Callable[[int, int], torch.Tensor]] = {
    "row-major": lambda n, m: torch.randn(n, m),
    "transposed": lambda n, m: torch.randn(m, n).t(),
    "columns of a wider one": lambda n, m: torch.randn(n, m + 5)[:, 2 : 2 + m],
    "transposed rows of a wider one": lambda n, m: torch.randn(m, n + 5)[:, 2 : 2 + n].t(),
    "every second element": lambda n, m: torch.randn(2 * n, 2 * m)[::2, ::2],
    "one row repeated": lambda n, m: torch.randn(1, m).expand(n, m),
    "one column repeated": lambda n, m: torch.randn(n, 1).expand(n, m),
    "one number": lambda n, m: torch.randn(()).expand(n, m),
    "overlapping windows": lambda n, m: torch.randn(n + m - 1).unfold(0, m, 1),
    "unused strides": lambda n, m: torch.randn(n * m).as_strided((n, m), (m if n > 1 else 99, 1)),
    "at an odd offset": lambda n, m: torch.randn(n * m + 3)[3:].view(n, m),
}
layouts = st.sampled_from(sorted(LAYOUTS))


def assert_within_bound(result: torch.Tensor, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor) -> None:
    """|error| <= gamma_K |a||b| with gamma_K = K u / (1 - K u): Higham, 2002, section 3.5; u is float32's.

    A bias is one more addend. Two more roundings cover the float64 reference and the comparison.
    """
    terms = a.shape[1] + 3
    gamma = terms * ROUNDOFF / (1 - terms * ROUNDOFF)
    exact = a.double() @ b.double() + bias.double()
    bound = gamma * (a.double().abs() @ b.double().abs() + bias.double().abs())
    assert ((result.double() - exact).abs() <= bound).all()


@needs_onednn
@settings(deadline=None, max_examples=150)
@given(n=sizes, k=sizes, m=sizes, a_layout=layouts, b_layout=layouts, seed=st.integers(0, 99))
def test_onednn_multiplies_operands_of_all_strides(
    n: int, k: int, m: int, a_layout: str, b_layout: str, seed: int
) -> None:
    """A body's operands are views of weights and gradients; a kernel that ignored strides would train noise.

    Later instructions may view the result, so that its strides must be those of ATen's.
    """
    torch.manual_seed(seed)
    a, b = LAYOUTS[a_layout](n, k), LAYOUTS[b_layout](k, m)

    result = onednn_mm(a, b)

    expected = torch.mm(a, b)
    assert (result.shape, result.dtype, result.stride()) == (
        expected.shape,
        expected.dtype,
        expected.stride(),
    )
    assert_within_bound(result, a, b, torch.zeros(()))


BIASES: dict[str, Callable[[int, int], torch.Tensor]] = {
    "a vector": lambda n, m: torch.randn(m),
    "every second element": lambda n, m: torch.randn(2 * m)[::2],
    "one number repeated": lambda n, m: torch.randn(1).expand(m),
    "one element": lambda n, m: torch.randn(1),
    "no dims": lambda n, m: torch.randn(()),
    "a row": lambda n, m: torch.randn(1, m),
    "a column": lambda n, m: torch.randn(n, 1),
    "a matrix": lambda n, m: torch.randn(n, m),
    "a transposed matrix": lambda n, m: torch.randn(m, n).t(),
}


@needs_onednn
@settings(deadline=None, max_examples=100)
@given(n=sizes, k=sizes, m=sizes, which=st.sampled_from(sorted(BIASES)), layout=layouts)
def test_onednn_broadcasts_a_bias_as_addmm_does(n: int, k: int, m: int, which: str, layout: str) -> None:
    """oneDNN reads a bias as M numbers in a row whatever its strides, and refuses the other shapes."""
    torch.manual_seed(n * 1000 + k * 100 + m)
    bias, a, b = BIASES[which](n, m), torch.randn(n, k), LAYOUTS[layout](k, m)
    before = bias.clone()

    result = onednn_addmm(bias, a, b)

    expected = torch.addmm(bias, a, b)
    assert (result.shape, result.dtype, result.stride()) == (
        expected.shape,
        expected.dtype,
        expected.stride(),
    )
    assert_within_bound(result, a, b, bias)
    assert torch.equal(bias, before)


@needs_onednn
def test_onednn_repeats_itself_bit_for_bit() -> None:
    """A recomputed activation must equal the one that the forward pass used."""
    a, b = torch.randn(150, 300), torch.randn(200, 300).t()

    first, second = onednn_mm(a, b), onednn_mm(a.clone(), b)

    assert torch.equal(first, second)


@needs_onednn
def test_a_slice_of_a_matrix_costs_a_copy_and_not_a_slow_kernel() -> None:
    """oneDNN's reference kernel, which takes such strides as they are, is some 500 times slower."""

    class Operands(TorchDispatchMode):
        strides: ClassVar[list[bool]] = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            if func is torch.ops.mkldnn._linear_pointwise.default:
                self.strides.append(args[1].is_contiguous() or args[1].t().is_contiguous())
            return func(*args, **(kwargs or {}))

    a, wide = torch.randn(192, 130), torch.randn(130, 800)
    with Operands() as seen:
        result = onednn_mm(a, wide[:, 200:457])

    assert seen.strides == [True]
    assert torch.equal(result, onednn_mm(a, wide[:, 200:457].contiguous()))


@needs_onednn
@pytest.mark.parametrize("kind", ["torch", "onednn", "auto"])
def test_a_body_computes_a_layer_with_any_kind_of_kernel(kind: Literal["torch", "onednn", "auto"]) -> None:
    """Forward and both gradients of a linear layer against float64, in one body of transposed views."""
    body = parse_body(LAYER)
    run = compile_body(body, Kernels(CPU, matmul_kernels(kind, 1)))
    x, weight, bias, grad = torch.randn(6, 5), torch.randn(7, 5), torch.randn(7), torch.randn(6, 7)

    with torch.inference_mode():
        y, grad_x, grad_w = run([x, weight, bias, grad])

    assert_within_bound(y, x, weight.t(), bias)
    assert_within_bound(grad_x, grad, weight, torch.zeros(()))
    assert_within_bound(grad_w, grad.t(), x, torch.zeros(()))
    if kind == "torch":
        assert torch.equal(y, torch.addmm(bias, x, weight.t()))


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4), (2, 3, 0), (0, 0, 0), (1, 1, 1)])
def test_products_without_elements_keep_atens_kernel(shape: tuple[int, int, int]) -> None:
    """oneDNN refuses an empty sum, which is zero; a body with one must still run under any kind."""
    n, k, m = shape
    kind: Literal["onednn", "auto"] = "onednn" if onednn_is_available() else "auto"
    run = compile_body(mm_body(n, k, m), Kernels(CPU, matmul_kernels(kind, 1)))

    (result,) = run([torch.ones(n, k), torch.ones(k, m)])

    assert torch.equal(result, torch.full((n, m), float(k)))


@needs_onednn
def test_only_float32_products_change_kernel() -> None:
    """ATen sends bfloat16 to oneDNN itself; float64, other operators and scaled products are not ours."""
    find = matmul_kernels("onednn", 1)
    assert find is not None
    scaled = parse_body(
        LAYER.replace("aten.addmm.default(v2, v0, v4)", "aten.addmm.default(v2, v0, v4, beta=2)")
    )

    assert find(mm_body(2, 3, 4), 0) is onednn_mm
    assert find(parse_body(LAYER), FORWARD) is onednn_addmm
    assert find(mm_body(2, 3, 4, dtype="bfloat16"), 0) is None
    assert find(mm_body(2, 3, 4, dtype="float64"), 0) is None
    assert find(mm_body(3, 3, 3, op="mul.Tensor"), 0) is None
    assert find(scaled, FORWARD) is None
    assert find(scaled, GRAD_X) is onednn_mm


@needs_onednn
def test_a_gpu_keeps_its_own_products() -> None:
    """These kernels are the CPU's; a system on another device must not be given one."""
    kernels = Kernels(torch.device("meta"), matmul_kernels("onednn", 1))

    call, _ = kernels.find(mm_body(2, 3, 4), 0, in_place=False)

    assert call is torch.ops.aten.mm.default


def test_products_know_the_layout_of_their_views() -> None:
    """Twice transposed is row-major again: the gradient of x reads the weight itself."""
    body = parse_body(LAYER)

    assert str(product_at(body, FORWARD)) == "addmm [7] + [6, 5] @ [5, 7].t"
    assert str(product_at(body, GRAD_X)) == "mm [6, 7] @ [7, 5]"
    assert str(product_at(body, GRAD_W)) == "mm [7, 6].t @ [6, 5]"
    assert product_at(body, 0) is None


def test_a_part_of_a_split_matrix_is_strided() -> None:
    """Its rows are as far apart as the whole's, which only MKL reads without a copy: ATen's kernel stays."""
    body = parse_body(
        "body(v0: float32[4, 6], v1: float32[3, 5]):\n"
        "    v2: (float32[4, 3], float32[4, 3],) @ v0 = aten.split.Tensor(v0, 3, 1)\n"
        "    v3: float32[4, 3] @ v2 = getitem(v2, 1)\n"
        "    v4: float32[4, 5] = aten.mm.default(v3, v1)\n"
        "    return v4\n"
    )

    assert str(product_at(body, 2)) == "mm [4, 3].strided @ [3, 5]"
    assert choose_kernels([body], 1) == {"mm [4, 3].strided @ [3, 5], threads=1": "torch"}
    clock = Clock()
    kernels = {"torch": clock.kernel("torch", 1.0), "onednn": clock.kernel("onednn", 0.5)}
    for part in (
        Product(rows=4, inner=3, columns=5, a=".strided"),
        Product(rows=4, inner=3, columns=5, b=".strided"),
    ):
        assert Measured(clock).choose(part, 1, kernels) == "torch"


@needs_onednn
def test_choices_are_obeyed_and_never_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """All systems of a job must add in the same order, so that none may decide for itself."""
    body = parse_body(LAYER)
    measured = {signature: "torch" for signature in choose_kernels([body], 1)}
    measured["mm [6, 7] @ [7, 5], threads=1"] = "onednn"
    del measured["mm [7, 6].t @ [6, 5], threads=1"]

    def refuse(*_: object) -> str:
        raise AssertionError("measured although the choices were given")

    monkeypatch.setattr(_matmul, "_measured", type("Refusing", (), {"choose": refuse})())
    find = matmul_kernels("auto", 1, json.loads(json.dumps(measured)))
    assert find is not None

    assert find(body, FORWARD) is None  # as chosen
    assert find(body, GRAD_X) is onednn_mm  # as chosen
    assert find(body, GRAD_W) is None  # unknown
    two_threads = matmul_kernels("auto", 2, measured)
    assert two_threads is not None
    assert two_threads(body, GRAD_X) is None  # chosen for another number of threads


def test_every_product_of_the_bodies_is_chosen() -> None:
    """Equal products share a choice; the table is what the coordinator hands to the roles."""
    body = parse_body(LAYER)

    choices = choose_kernels([body, mm_body(2, 3, 4), body], 1)

    assert set(choices) == {
        "addmm [7] + [6, 5] @ [5, 7].t, threads=1",
        "mm [6, 7] @ [7, 5], threads=1",
        "mm [7, 6].t @ [6, 5], threads=1",
        "mm [2, 3] @ [3, 4], threads=1",
    }
    assert set(choices.values()) <= {"torch", "onednn"}
    assert choices == choose_kernels([body, mm_body(2, 3, 4)], 1)


PRODUCT = Product(rows=4, inner=3, columns=2)


@pytest.mark.parametrize(
    ("onednn_s", "expected"), [(0.5, "onednn"), (0.95, "torch"), (1.0, "torch"), (2.0, "torch")]
)
def test_onednn_is_taken_only_if_it_is_clearly_faster(onednn_s: float, expected: str) -> None:
    """Bitwise equality with eager PyTorch is not given up for a few percent."""
    clock = Clock()
    kernels = {"torch": clock.kernel("torch", 1.0), "onednn": clock.kernel("onednn", onednn_s)}

    assert Measured(clock).choose(PRODUCT, 1, kernels) == expected


def test_a_slow_first_call_and_a_disturbed_one_do_not_decide() -> None:
    """The first call compiles and starts threads; another program may take the core during any other."""
    clock = Clock()
    kernels = {
        "torch": clock.kernel("torch", 1.0),
        "onednn": clock.kernel("onednn", 90.0, 7.0, 0.5, 7.0),
    }

    assert Measured(clock).choose(PRODUCT, 1, kernels) == "onednn"


def test_threads_that_ask_at_once_share_one_measurement() -> None:
    """Two measurements at a time would disturb each other, and could disagree."""
    clock = Clock(pause_s=0.002)
    kernels = {"torch": clock.kernel("torch", 1.0), "onednn": clock.kernel("onednn", 0.5)}
    measured = Measured(clock)
    measured.choose(PRODUCT, 1, kernels)
    once = len(clock.calls)
    other = Product(rows=5, inner=3, columns=2)
    barrier = threading.Barrier(8)
    answers: list[str] = []

    def ask() -> None:
        barrier.wait()
        answers.append(measured.choose(other, 1, kernels))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert answers == ["onednn"] * 8
    assert len(clock.calls) == 2 * once


def test_measuring_uses_the_jobs_threads_and_gives_them_back() -> None:
    """The faster kernel for one thread need not be so for two; the caller's setting is the caller's."""
    before = torch.get_num_threads()
    clock = Clock()
    kernels = {"torch": clock.kernel("torch", 1.0), "onednn": clock.kernel("onednn", 0.5)}

    Measured(clock).choose(PRODUCT, before + 1, kernels)

    assert clock.threads == {before + 1}
    assert torch.get_num_threads() == before


def test_measuring_leaves_the_random_numbers_alone() -> None:
    """A job's results must not depend on whether it measured."""
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)

    Product(rows=4, inner=3, columns=2, bias=(2,)).operands()

    assert torch.equal(torch.rand(3), expected)


lengths = st.integers(1, 60_000)


@settings(deadline=None)
@given(
    rows=lengths, inner=lengths, columns=lengths, bias=st.sampled_from(["none", "row", "column", "number"])
)
def test_large_products_are_measured_on_small_ones(rows: int, inner: int, columns: int, bias: str) -> None:
    """Choosing must take well below a second per model; alignment, which decides speeds, is kept."""
    shape = {"none": None, "row": (columns,), "column": (rows, 1), "number": ()}[bias]
    product = Product(rows=rows, inner=inner, columns=columns, b=".t", bias=shape)

    small = product.small()

    assert small.rows * small.inner * small.columns <= 200_000_000
    assert small.rows * small.inner + small.inner * small.columns + small.rows * small.columns <= 16_000_000
    for whole, part in [(rows, small.rows), (inner, small.inner), (columns, small.columns)]:
        assert 1 <= part <= whole
        assert part == whole or part % 64 == whole % 64
    if small.bias is not None:
        assert torch.empty(small.bias, device="meta").expand(small.rows, small.columns).dim() == 2
    if (
        rows * inner * columns <= 200_000_000
        and rows * inner + inner * columns + rows * columns <= 16_000_000
    ):
        assert small == product


def test_operands_have_the_layouts_of_their_product() -> None:
    """A measurement on other strides would be one of another product."""
    bias, a, b = Product(rows=4, inner=3, columns=2, a=".t", bias=(2,)).operands()

    assert (bias.shape, a.shape, a.stride(), b.shape, b.stride()) == ((2,), (4, 3), (1, 4), (3, 2), (2, 1))


def test_torch_is_no_kernel_of_ours() -> None:
    """Bitwise equality with eager PyTorch comes from running the same operator."""
    assert matmul_kernels("torch", 1) is None


def test_bad_arguments_say_what_to_use() -> None:
    """They come from a recipe or from a stored job."""
    with pytest.raises(InputError, match=r"matmul='mkl' is no kind.*'torch', 'onednn' or 'auto'"):
        matmul_kernels("mkl", 1)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="0 threads; use 1 or more"):
        matmul_kernels("auto", 0)
    with pytest.raises(InputError, match="-1 threads; use 1 or more"):
        choose_kernels([], -1)
    with pytest.raises(InputError, match=r"'mm \[2.*' is 'mkl'.*choose kernels again"):
        matmul_kernels("auto", 1, {"mm [2, 3] @ [3, 4], threads=1": "mkl"})


def test_a_torch_without_onednn_runs_everything_on_aten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who asks for oneDNN by name is told that it is missing."""
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)

    assert matmul_kernels("auto", 1) is None
    assert choose_kernels([mm_body(2, 3, 4)], 1) == {"mm [2, 3] @ [3, 4], threads=1": "torch"}
    with pytest.raises(InputError, match=r"needs a torch with oneDNN.*use matmul='torch' or 'auto'"):
        matmul_kernels("onednn", 1)
