"""Fused attention off the CPU, and which operators a GPU lacks."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from system_cases import ADAMW, small

from openwafer.artifact import Instr, Symbol
from openwafer.cluster import _device_attention
from openwafer.cluster._device_attention import (
    OPERATORS,
    attention,
    attention_backward,
    in_chunks,
    in_chunks_backward,
)
from openwafer.cluster._kernels import Kernels
from openwafer.graph.passes import BodyTable, assemble

aten = torch.ops.aten
EPSILON = torch.finfo(torch.float32).eps
GPU = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="needs a GPU, which PyTorch does not find here"
)


def operands(samples=2, heads=4, kv_heads=4, queries=7, keys=7, width=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)

    def make(heads: int, rows: int) -> torch.Tensor:
        return torch.randn(samples, heads, rows, width, generator=generator).to(dtype)

    return make(heads, queries), make(kv_heads, keys), make(kv_heads, keys), make(heads, queries)


def mask_for(kind: str, queries: int, keys: int) -> torch.Tensor | None:
    generator = torch.Generator().manual_seed(1)
    if kind == "none":
        return None
    mask = torch.zeros(queries, keys).masked_fill(
        torch.rand(queries, keys, generator=generator) < 0.3, -torch.inf
    )
    mask[:, 0] = 0
    return mask if kind == "rows" else mask[None, None]


SHAPES = [
    {},
    {"kv_heads": 2},
    {"queries": 5, "keys": 11},
    {"queries": 40, "keys": 40, "width": 16},
]


@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("mask", ["none", "rows", "four dims"])
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_in_chunks_is_the_cpus_fused_attention(shape, is_causal, mask, scale, monkeypatch):
    """Forward and backward, with grouped heads, masks and more keys than queries, one query at a time and all at once.

    Sums of at most 40 + 16 terms of size 1, added in another order: some hundred roundings at most.
    """
    if is_causal and mask != "none":
        pytest.skip("the CPU's operator takes one or the other")
    query, key, value, gradient = operands(**shape)
    added = mask_for(mask, query.shape[2], key.shape[2])
    expected = aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, is_causal, attn_mask=added, scale=scale
    )
    gradients = aten._scaled_dot_product_flash_attention_for_cpu_backward(
        gradient, query, key, value, *expected, 0.0, is_causal, attn_mask=added, scale=scale
    )

    for chunk_bytes in (1, 1 << 20):
        monkeypatch.setattr(_device_attention, "CHUNK_BYTES", chunk_bytes)
        out, sums = attention(query, key, value, 0.0, is_causal, attn_mask=added, scale=scale)
        found = attention_backward(
            gradient, query, key, value, out, sums, 0.0, is_causal, attn_mask=added, scale=scale
        )

        for mine, other in zip((out, sums, *found), (*expected, *gradients), strict=True):
            assert mine.shape == other.shape
            assert mine.dtype == other.dtype
            assert torch.allclose(mine, other, rtol=256 * EPSILON, atol=256 * EPSILON)


def test_a_query_that_sees_nothing_gets_zeros():
    """exp(-inf + inf) would be NaN, and one such row would make every gradient NaN."""
    query, key, value, gradient = operands()
    mask = torch.zeros(7, 7)
    mask[3] = -torch.inf

    out, sums = in_chunks(query, key, value, False, mask, None)
    found = in_chunks_backward(gradient, query, key, value, out, sums, False, mask, None)

    assert torch.all(out[:, :, 3] == 0)
    assert torch.all(found[0][:, :, 3] == 0)
    assert all(torch.isfinite(value).all() for value in (out, *found))


def test_half_precision_is_summed_in_float32():
    """As every fused kernel does: the result is the float32 one, rounded once."""
    query, key, value, gradient = operands(queries=40, keys=40, dtype=torch.bfloat16)

    out, sums = in_chunks(query, key, value, True, None, None)
    wide, _ = in_chunks(query.float(), key.float(), value.float(), True, None, None)
    grads = in_chunks_backward(gradient, query, key, value, out, sums, True, None, None)

    assert torch.equal(out, wide.bfloat16())
    assert {value.dtype for value in grads} == {torch.bfloat16}


def test_a_mask_is_padded_for_the_kernel_that_wants_its_rows_aligned():
    """The padding is never seen: the view has as many keys as there are."""
    query, key, _, _ = operands(queries=5, keys=11, dtype=torch.bfloat16)
    mask = torch.randn(2, 1, 5, 11)

    bias = _device_attention._bias(mask, query, key)

    assert bias.shape == (2, 4, 5, 11)
    assert bias.dtype == torch.bfloat16
    assert torch.equal(bias, mask.bfloat16().expand(2, 4, 5, 11))
    assert all(stride % _device_attention.BIAS_ALIGN == 0 for stride in bias.stride()[:-1])


@pytest.mark.parametrize(
    ("chosen", "mask"), [("flash", "none"), ("efficient", "none"), ("efficient", "rows")]
)
def test_a_gpus_kernels_are_called_as_their_schemas_want(chosen, mask, monkeypatch):
    """Without numbers and without a GPU: arguments bind, and results have the shapes that bodies expect."""
    monkeypatch.setattr(_device_attention, "_kernel", lambda *_: chosen)
    query, key, value, gradient = (
        x.to("meta") for x in operands(queries=40, keys=40, width=16, dtype=torch.bfloat16)
    )
    added = mask_for(mask, 40, 40)
    added = None if added is None else added.to("meta")

    out, sums = attention(query, key, value, 0.0, mask == "none", attn_mask=added)
    grads = attention_backward(gradient, query, key, value, out, sums, 0.0, mask == "none", attn_mask=added)

    assert [x.shape for x in (out, *grads)] == [x.shape for x in (query, query, key, value)]
    assert {x.dtype for x in (out, *grads)} == {torch.bfloat16}
    assert sums.dtype == torch.float32


def test_attention_is_the_only_captured_operator_that_a_gpu_lacks():
    """By PyTorch's own table of kernels: a body runs on a GPU as it is, once attention has been replaced.

    Three others have no GPU kernel but do not come up: tracing keeps convolution whole and oneDNN out.
    """
    only_cpu = cpu_only()
    assert {name.removeprefix("aten.").removesuffix(".default") for name in OPERATORS} <= only_cpu
    table = BodyTable()
    assemble(small().capture(ADAMW), table, lambda index, count: False)
    bodies = table.bodies.values()
    used = {instr.op for body in bodies for instr in body.instrs if instr.op.startswith("aten.")}

    assert {op for op in used if op.split(".")[1] in only_cpu} == set(OPERATORS)
    assert "aten.native_batch_norm" not in only_cpu
    # The device is the system's own: no body may name another.
    symbols = {
        arg.name
        for body in bodies
        for instr in body.instrs
        for arg in arguments(instr)
        if isinstance(arg, Symbol)
    }
    assert not any("device" in name for name in symbols)


def cpu_only() -> set[str]:
    """Names of native functions with a kernel for the CPU and none that a GPU could use."""
    yaml = pytest.importorskip("yaml", reason="reads PyTorch's own table, which is YAML")
    spec = find_spec("torchgen")
    assert spec is not None
    assert spec.origin is not None
    path = Path(spec.origin).parent / "packaged/ATen/native/native_functions.yaml"
    found = set()
    for entry in yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        keys = {key.strip() for group in entry.get("dispatch", {}) for key in group.split(",")}
        elsewhere = "CUDA" in keys or any("Composite" in key for key in keys)
        if "CPU" in keys and not elsewhere and "structured_delegate" not in entry:
            found.add(entry["func"].split("(")[0].split(".")[0])
    return found


def arguments(instr: Instr):
    return (*instr.args, *(value for _, value in instr.kwargs))


def test_the_cpu_keeps_its_own_attention():
    """Bitwise eager PyTorch on the CPU is the promise there; only other devices take another kernel."""
    table = BodyTable()
    assemble(small().capture(ADAMW), table, lambda index, count: False)
    found = {
        (device, instr.op): Kernels(torch.device(device)).find(body, position, False)[0]
        for device in ("cpu", "cuda")
        for body in table.bodies.values()
        for position, instr in enumerate(body.instrs)
        if instr.op in OPERATORS
    }

    assert len(found) == 4
    for op, replacement in OPERATORS.items():
        assert found["cpu", op] is not replacement
        assert found["cuda", op] is replacement


@pytest.mark.gpu
@GPU
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("mask", ["none", "rows"])
@pytest.mark.parametrize("shape", [*SHAPES, {"queries": 64, "keys": 64, "width": 64}, {"width": 7}])
def test_a_gpus_kernels_compute_what_chunks_compute(shape, mask, dtype):
    """Whichever kernel takes the operands; causal without a mask. Half precision rounds the probabilities too."""
    query, key, value, gradient = (x.cuda() for x in operands(**shape, dtype=dtype))
    added = mask_for(mask, query.shape[2], key.shape[2])
    added = None if added is None else added.cuda().to(dtype)
    causal = mask == "none"
    exact = in_chunks(
        *(x.cpu().float() for x in (query, key, value)),
        causal,
        None if added is None else added.cpu().float(),
        None,
    )

    out, sums = attention(query, key, value, 0.0, causal, attn_mask=added)
    found = attention_backward(gradient, query, key, value, out, sums, 0.0, causal, attn_mask=added)

    wide = [x.cpu().float() for x in (gradient, query, key, value)]
    expected = in_chunks_backward(*wide, *exact, causal, None if added is None else added.cpu().float(), None)
    tolerance = 64 * torch.finfo(dtype).eps
    for mine, other in zip((out, *found), (exact[0], *expected), strict=True):
        assert torch.allclose(mine.cpu().float(), other, rtol=tolerance, atol=tolerance)
