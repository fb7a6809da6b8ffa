"""The loop of an elementwise body gives ATen's numbers bit for bit, corners of the formats included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from openwafer.artifact import Body, Instr, Ref, Symbol, TensorType
from openwafer.cluster._execute import compile_body
from openwafer.cluster._kernels import Kernels
from openwafer.cluster.memoryx._loops import compile_loop, has_loop

FLOATS = ("float32", "float64", "float16", "bfloat16")
SIZE = 1003
CORNERS = [0.0, -0.0, 1.0, -1.0, 1e-45, -1e-40, 6e-8, 65504.0, 65520.0, 3.3895e38, 3.4e38, 1e300]
CORNERS += [
    float("inf"),
    float("-inf"),
    float("nan"),
    1.00390625,
    1.01171875,
]  # the last two: ties of bfloat16


def values(dtype: str, seed: int, size: int = SIZE) -> torch.Tensor:
    """Numbers of several magnitudes, every pair of corners among them."""
    generator = torch.Generator().manual_seed(seed)
    if dtype == "bool":
        return torch.randint(2, (size,), generator=generator) == 1
    if dtype.startswith("int"):
        return torch.randint(-99, 99, (size,), generator=generator).to(getattr(torch, dtype))
    wide = torch.randn(size, generator=generator, dtype=torch.float64)
    wide *= 10.0 ** torch.randint(-6, 6, (size,), generator=generator)
    corners = torch.tensor(CORNERS, dtype=torch.float64)
    pairs = corners.repeat_interleave(len(CORNERS)) if seed % 2 else corners.repeat(len(CORNERS))
    wide[: min(size, len(pairs))] = pairs[:size]
    return wide.to(getattr(torch, dtype))


def body_of(kinds: list[TensorType], *instrs: Instr) -> Body:
    return Body(tuple(kinds), instrs, tuple(range(len(kinds), len(kinds) + len(instrs))))


def whole(dtype: str, size: int = SIZE) -> TensorType:
    return TensorType(dtype, (size,))


def loop(body: Body, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """What the body's loop makes of the inputs."""
    kinds = [body.type_of(value) for value in body.outputs]
    made = [torch.empty(kind.shape, dtype=getattr(torch, kind.dtype)) for kind in kinds]
    compile_loop(body)(inputs, made, kinds[0].shape[0])
    return made


def aten(body: Body, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return compile_body(body, Kernels(torch.device("cpu")))(list(inputs))


def assert_same(body: Body, inputs: list[torch.Tensor]) -> None:
    assert all(has_loop(body, instr) for instr in body.instrs)
    for got, wanted, instr in zip(loop(body, inputs), aten(body, inputs), body.instrs, strict=True):
        assert got.dtype == wanted.dtype
        assert bits(got) == bits(wanted), instr


def bits(value: torch.Tensor) -> list[int]:
    """Every NaN is one; all else, the sign of a zero too, as it is."""
    if value.is_floating_point():
        value = torch.where(value.isnan(), torch.full_like(value, torch.nan), value)
        kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[value.element_size()]
        value = value.view(kind)
    return value.tolist()


@pytest.mark.parametrize("dtype", FLOATS)
def test_each_operator_of_floats(dtype):
    """Of two tensors, of a tensor and a number, of one tensor, and those that give bools."""
    kinds = [whole(dtype), whole(dtype), whole("bool")]
    v0, v1, v2 = Ref(0), Ref(1), Ref(2)
    here, truth = (whole(dtype),), (whole("bool"),)
    instrs = [
        *(
            Instr(f"aten.{name}.Tensor", (v0, other), (), here)
            for name in ("add", "sub", "mul", "div")
            for other in ((v1,) if dtype in ("float16", "bfloat16") else (v1, 0.1))
        ),
        *(Instr(f"aten.{name}.default", (v0,), (), here) for name in ("reciprocal", "neg", "abs", "sgn")),
        Instr("aten.where.self", (v2, v0, v1), (), here),
        Instr("aten.where.ScalarOther", (v2, v0, 0.1), (), here),
        Instr("aten.where.ScalarSelf", (v2, 0.1, v0), (), here),
        *(
            Instr(f"aten.{name}.{kind}", (v0, other), (), truth)
            for name in ("eq", "ne", "lt", "le", "gt", "ge")
            for kind, other in (("Tensor", v1), ("Scalar", 0.1))
        ),
    ]
    if dtype in ("float32", "float64"):
        instrs.append(Instr("aten.rsub.Scalar", (v0, 0.3), (), here))
        instrs += [Instr("aten.clamp.default", (v0, *ends), (), here) for ends in ((-0.7, 1.3), (None, 0.0))]

    assert_same(body_of(kinds, *instrs), [values(dtype, 1), values(dtype, 2), values("bool", 3)])


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_larger_and_the_smaller(dtype):
    """Of two zeros either may be taken: ATen takes another in the last elements of a tensor than before."""
    instrs = [
        Instr(f"aten.{name}.default", (Ref(0), Ref(1)), (), (whole(dtype),))
        for name in ("maximum", "minimum")
    ]
    body, inputs = body_of([whole(dtype), whole(dtype)], *instrs), [values(dtype, 1), values(dtype, 2)]

    for got, wanted in zip(loop(body, inputs), aten(body, inputs), strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("source", [*FLOATS, "bool", "int32", "int64"])
def test_each_cast(source):
    kinds = [
        to for to in (*FLOATS, "bool", "int32", "int64") if not (source in FLOATS and to.startswith("int"))
    ]
    instrs = [
        Instr("aten._to_copy.default", (Ref(0),), (("dtype", Symbol(f"torch.{to}")),), (whole(to),))
        for to in kinds
    ]

    assert_same(body_of([whole(source)], *instrs), [values(source, 1)])


def test_integers_and_bools():
    kinds = [whole("int32"), whole("int32"), whole("bool"), whole("bool")]
    v0, v1, v2, v3 = map(Ref, range(4))
    instrs = [
        *(Instr(f"aten.{name}.Tensor", (v0, v1), (), (whole("int32"),)) for name in ("add", "sub", "mul")),
        Instr("aten.add.Tensor", (v0, 7), (), (whole("int32"),)),
        Instr("aten.lt.Tensor", (v0, v1), (), (whole("bool"),)),
        Instr("aten.ge.Scalar", (v0, 3), (), (whole("bool"),)),
        Instr("aten.bitwise_and.Tensor", (v2, v3), (), (whole("bool"),)),
        Instr("aten.bitwise_or.Tensor", (v2, v3), (), (whole("bool"),)),
        Instr("aten.bitwise_not.default", (v2,), (), (whole("bool"),)),
    ]

    given_ = [values("int32", 1), values("int32", 2), values("bool", 3), values("bool", 4)]
    assert_same(body_of(kinds, *instrs), given_)


def test_a_value_of_shape_nothing_is_one_for_all():
    kinds = [whole("float32"), TensorType("float32", ()), TensorType("bool", ())]
    instrs = [
        Instr("aten.mul.Tensor", (Ref(0), Ref(1)), (), (whole("float32"),)),
        Instr("aten.where.self", (Ref(2), Ref(3), Ref(0)), (), (whole("float32"),)),
    ]

    for chosen in (True, False):
        assert_same(body_of(kinds, *instrs), [values("float32", 1), torch.tensor(0.3), torch.tensor(chosen)])


def test_an_output_may_lie_on_an_input():
    """Every element is read before it is written, also where the loop takes many at once."""
    kinds = [whole("float32"), whole("float32")]
    body = body_of(
        kinds,
        Instr("aten.add.Tensor", (Ref(0), Ref(1)), (), (whole("float32"),)),
        Instr("aten.sub.Tensor", (Ref(0), Ref(1)), (), (whole("float32"),)),
    )
    inputs = [values("float32", 1), values("float32", 2)]
    wanted = aten(body, inputs)

    compile_loop(body)(inputs, inputs, SIZE)

    assert [bits(value) for value in inputs] == [bits(value) for value in wanted]


def test_tensors_of_other_dtypes_are_converted():
    """A mask is kept as bits, and is multiplied with as numbers."""
    body = body_of(
        [whole("float32"), whole("float32")],
        Instr("aten.mul.Tensor", (Ref(0), Ref(1)), (), (whole("float32"),)),
        Instr("aten.mul.Tensor", (Ref(1), Ref(1)), (), (whole("float32"),)),
    )
    weight, mask = values("float32", 1), values("bool", 2)
    before = mask.clone()
    made = torch.empty_like(weight)

    compile_loop(body)([weight, mask], [made, mask], SIZE)

    assert bits(made) == bits(weight * before)
    assert torch.equal(mask, before)


@pytest.mark.parametrize(
    "instr",
    [
        Instr("aten.add.Tensor", (Ref(0), Ref(0)), (("alpha", 2),), (whole("float32"),)),
        Instr("aten.mul.Tensor", (Ref(0), Ref(1)), (), (whole("float32"),)),
        Instr("aten.add.Tensor", (Ref(1), 0.1), (), (whole("float16"),)),
        Instr("aten.sqrt.default", (Ref(0),), (), (whole("float32"),)),
        Instr("aten._to_copy.default", (Ref(0),), (("dtype", Symbol("torch.int32")),), (whole("int32"),)),
        Instr("aten.bitwise_not.default", (Ref(2),), (), (whole("int32"),)),
        Instr("aten.clamp.Tensor", (Ref(0), Ref(0)), (), (whole("float32"),)),
    ],
)
def test_what_a_loop_does_not_know_is_left_to_aten(instr):
    """Other dtypes side by side, two roundings in one operator, roots, floats to integers."""
    assert not has_loop(body_of([whole("float32"), whole("float16"), whole("int32")], instr), instr)


@settings(max_examples=15, deadline=None)
@given(st.data())
def test_programs_of_many_operators(data):
    """Results of one operator are operands of the next, in one loop and in ATen."""
    size = data.draw(st.sampled_from([1, 7, 64, 300]))
    kinds = [whole("float32", size), whole("float32", size), TensorType("float32", ()), whole("bool", size)]
    instrs: list[Instr] = []
    numbers, truths = [0, 1], [3]
    for position in range(data.draw(st.integers(1, 12))):
        a, b = (Ref(data.draw(st.sampled_from(numbers))) for _ in range(2))
        op = data.draw(st.sampled_from(["add", "sub", "mul", "div", "lt", "where", "cast", "scale"]))
        here = (whole("float32", size),)
        if op in ("add", "sub", "mul", "div"):
            instrs.append(Instr(f"aten.{op}.Tensor", (a, b), (), here))
        elif op == "lt":
            instrs.append(Instr("aten.lt.Tensor", (a, b), (), (whole("bool", size),)))
        elif op == "where":
            instrs.append(Instr("aten.where.self", (Ref(data.draw(st.sampled_from(truths))), a, b), (), here))
        elif op == "cast":
            truth = Ref(data.draw(st.sampled_from(truths)))
            instrs.append(
                Instr("aten._to_copy.default", (truth,), (("dtype", Symbol("torch.float32")),), here)
            )
        else:
            instrs.append(Instr("aten.mul.Tensor", (a, Ref(2)), (), here))
        (truths if op == "lt" else numbers).append(len(kinds) + position)
    inputs = [
        values("float32", 1, size),
        values("float32", 2, size),
        torch.tensor(-1.7),
        values("bool", 3, size),
    ]

    assert_same(body_of(kinds, *instrs), inputs)
