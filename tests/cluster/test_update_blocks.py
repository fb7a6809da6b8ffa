"""An update in blocks gives the numbers of the update operator by operator, bit for bit, and writes where it may."""

from __future__ import annotations

import pytest
import torch

from openwafer.artifact import Body, Instr, Ref, TensorType, parse_body
from openwafer.cluster._execute import compile_body
from openwafer.cluster._kernels import Kernels
from openwafer.cluster.memoryx._blocks import BLOCK, compile_blocked

ADAM = """body(v0: float32[300, 500], v1: float32[300, 500], v2: float32[300, 500], v3: float32[()], v4: bool[()]):
    v5: float32[300, 500] = aten.mul.Tensor(v1, 0.9)
    v6: float32[300, 500] = aten.mul.Tensor(v2, 0.1)
    v7: float32[300, 500] = aten.add.Tensor(v5, v6)
    v8: float32[300, 500] = aten.mul.Tensor(v7, v7)
    v9: float32[300, 500] = aten.sqrt.default(v8)
    v10: float32[300, 500] = aten.add.Tensor(v9, 1e-06)
    v11: float32[300, 500] = aten.div.Tensor(v2, v10)
    v12: float32[300, 500] = aten.mul.Tensor(v11, v3)
    v13: float32[300, 500] = aten.sub.Tensor(v0, v12)
    v14: float32[300, 500] = aten.where.self(v4, v13, v0)
    v15: float32[300, 500] = aten.where.self(v4, v7, v1)
    return v14, v15
"""
NORMS = """body(v0: float32[300, 500], v1: float32[300, 500], v2: float32[40]):
    v3: float32[300, 500] = aten.add.Tensor(v1, v0)
    v4: float32[()] = aten.linalg_vector_norm.default(v3, 2)
    v5: float32[()] = aten.linalg_vector_norm.default(v0, 2)
    v6: float32[()] = aten.div.Tensor(v5, v4)
    v7: float32[300, 500] = aten.mul.Tensor(v3, v6)
    v8: float32[300, 500] = aten.sub.Tensor(v0, v7)
    v9: bool[300, 500] = aten.gt.Scalar(v8, 0.5)
    v10: float16[300, 500] = aten._to_copy.default(v8, dtype=torch.float16)
    v11: float32[40] = aten.mul.Tensor(v2, v4)
    v12: float32[500, 300] @ v8 = aten.t.default(v8)
    v13: float32[500, 300] = aten.mul.Tensor(v12, 2.0)
    return v8, v9, v10, v11, v13
"""


def given(text: str) -> list[torch.Tensor]:
    body = parse_body(text)
    generator = torch.Generator().manual_seed(1)
    return [
        torch.tensor(True)
        if kind.dtype == "bool"
        else torch.randn(kind.shape, generator=generator, dtype=getattr(torch, kind.dtype))
        for kind in body.inputs
    ]


@pytest.mark.parametrize("text", [ADAM, NORMS], ids=["elementwise", "with norms between"])
def test_blocks_give_the_same_bits(text):
    """The tensors are more than two blocks, and no multiple of one; a transposed view is read as it lies."""
    body, kernels = parse_body(text), Kernels(torch.device("cpu"))
    assert 2 * BLOCK < 300 * 500 < 3 * BLOCK

    found = compile_blocked(body, kernels)(given(text))

    for got, wanted in zip(found, compile_body(body, kernels)(given(text)), strict=True):
        assert got.dtype == wanted.dtype
        assert torch.equal(got, wanted)


def test_new_values_replace_old_ones_where_nothing_else_reads_these():
    """Weight and moment lie in the record: the update writes there, and its results are those tensors."""
    body, kernels = parse_body(ADAM), Kernels(torch.device("cpu"))
    wanted = compile_body(body, kernels)(given(ADAM))
    values = given(ADAM)
    weight, moment = values[:2]

    found = compile_blocked(body, kernels, {0: 0, 1: 1})(values)

    assert [value.data_ptr() for value in found] == [weight.data_ptr(), moment.data_ptr()]
    assert torch.equal(weight, wanted[0])
    assert torch.equal(moment, wanted[1])


def test_a_value_that_is_read_again_is_not_written_over():
    """The weight's norm and its new value come from the weight as it was."""
    body, kernels = parse_body(NORMS), Kernels(torch.device("cpu"))
    wanted = compile_body(body, kernels)(given(NORMS))
    values = given(NORMS)
    before = values[0].clone()
    weight = values[0]

    found = compile_blocked(body, kernels, {0: 0})(values)

    assert torch.equal(weight, before)
    assert torch.equal(found[0], wanted[0])


def test_a_fused_optimizer_leaves_what_is_read_after_it():
    """An overflow takes the old weights back: the fused operator may not have written its new ones there."""
    kind = TensorType("float32", (300, 500))
    lists = tuple((Ref(i),) for i in range(4))
    options = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "weight_decay": 0.0, "eps": 1e-8}
    fused = Instr(
        "aten._fused_adamw.default",
        (*lists, (), (Ref(4),)),
        (*options.items(), ("amsgrad", False), ("maximize", False)),
        (kind,) * 5,
    )
    new = [Instr("getitem", (Ref(6), 0), (), ()), Instr("getitem", (Ref(7), 0), (), (kind,))]
    chosen = Instr("aten.where.self", (Ref(5), Ref(8), Ref(0)), (), (kind,))
    body = Body(
        (*(kind,) * 4, TensorType("float32", ()), TensorType("bool", ())), (fused, *new, chosen), (9,)
    )
    generator = torch.Generator().manual_seed(1)
    values = [torch.rand(kind.shape, generator=generator) for _ in range(4)]
    before = values[0].clone()

    (found,) = compile_blocked(body, Kernels(torch.device("cpu")), {0: 0})(
        [*values, torch.tensor(1.0), torch.tensor(False)]
    )

    assert torch.equal(found, before)


@pytest.mark.parametrize("shape", ["30, 50", "3, 5"])
def test_small_updates(shape):
    """A loop also pays below a block, and a weight's numbers do not depend on its size."""
    text = ADAM.replace("300, 500", shape)
    body, kernels = parse_body(text), Kernels(torch.device("cpu"))

    found = compile_blocked(body, kernels, {0: 0})(given(text))

    for got, wanted in zip(found, compile_body(body, kernels)(given(text)), strict=True):
        assert torch.equal(got, wanted)
