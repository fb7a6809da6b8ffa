"""Generated bodies and schedules for the property tests."""

from __future__ import annotations

from functools import cache

from hypothesis import strategies as st

from openwafer.artifact import (
    Action,
    Backward,
    Body,
    Call,
    Forward,
    Gradient,
    Instr,
    Layer,
    ReceiveValues,
    Ref,
    SendGradients,
    SendValues,
    Symbol,
    TensorType,
)

OPERATORS = [
    "aten.mm.default",
    "aten.add.Tensor",
    "aten.sum.dim_IntList",
    "aten.pow.Tensor_Scalar",
    "aten._fused_adamw.tensor_lr",
    "aten.__and__.Tensor",
    "aten.where.self",
    "wafer.seeded",
    "wafer.constant",
    "getitem",
    "aten.transpose.int",
]

types = st.builds(
    TensorType,
    st.sampled_from(["float32", "bfloat16", "float16", "float64", "int64", "int32", "bool", "uint8"]),
    st.lists(st.integers(0, 70_000), max_size=4).map(tuple),
)
symbols = st.sampled_from(
    [
        Symbol("torch.float32"),
        Symbol("torch.strided"),
        Symbol("torch.contiguous_format"),
        Symbol("torch.bool"),
    ]
)
plain_arguments = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    symbols,
)


@cache
def arguments(values: int) -> st.SearchStrategy:
    """What may stand in a call when `values` values exist."""
    refs = st.integers(0, values - 1).map(Ref) if values else st.nothing()
    return st.recursive(
        st.one_of(plain_arguments, refs), lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5
    )


@st.composite
def bodies(draw: st.DrawFn) -> Body:
    """Any body that the data type can hold; nothing says that it computes something sensible."""
    inputs = tuple(draw(st.lists(types, max_size=4)))
    instrs = []
    for position in range(draw(st.integers(0, 6))):
        known = len(inputs) + position
        names = draw(
            st.lists(
                st.sampled_from(["dim", "keepdim", "dtype", "out_int32"]),
                unique=True,
                max_size=2,
            )
        )
        instrs.append(
            Instr(
                op=draw(st.sampled_from(OPERATORS)),
                args=tuple(draw(st.lists(arguments(known), max_size=4))),
                kwargs=tuple((name, draw(arguments(known))) for name in names),
                types=tuple(draw(st.lists(types, max_size=3))),
                view_of=draw(st.none() | st.integers(0, known - 1)) if known else None,
            )
        )
    count = len(inputs) + len(instrs)
    outputs = draw(st.lists(st.integers(0, count - 1), max_size=4)) if count else []
    return Body(inputs, tuple(instrs), tuple(outputs))


NAMES = st.sampled_from([f"x{i}" for i in range(6)])


def _call(draw: st.DrawFn) -> Call:
    return Call(
        body="",
        inputs=tuple(draw(st.lists(NAMES | st.integers(0, 9), max_size=3))),
        outputs=tuple(draw(st.lists(NAMES, max_size=2, unique=True))),
    )


@st.composite
def schedules(draw: st.DrawFn) -> tuple[tuple[Action, ...], tuple[int, ...], dict[int, tuple[Layer, ...]]]:
    """(program, rows, layers by size): any order of actions over a few names, sensible or not."""
    count = draw(st.integers(1, 3))
    rows = tuple(draw(st.lists(st.sampled_from([1, 2]), min_size=1, max_size=3)))

    def layers() -> tuple[Layer, ...]:
        return tuple(
            Layer(
                name=f"layer{index}",
                records=(index,),
                forward=_call(draw),
                backward=_call(draw),
                gradients=tuple(
                    Gradient(value=name, weight="w") for name in draw(st.lists(NAMES, max_size=1))
                ),
                recompute=False,
                forward_flops=0,
                backward_flops=0,
            )
            for index in range(count)
        )

    layer = st.integers(0, count - 1)
    microbatch = st.integers(0, len(rows) - 1)
    values = st.lists(NAMES, min_size=1, max_size=2, unique=True).map(tuple)
    actions = st.one_of(
        st.builds(Forward, layer, microbatch),
        st.builds(Backward, layer, microbatch),
        st.builds(SendGradients, layer),
        st.builds(SendValues, st.just(1), microbatch, values),
        st.builds(ReceiveValues, st.just(1), microbatch, values),
    )
    program = tuple(draw(st.lists(actions, max_size=12)))
    return program, rows, {size: layers() for size in set(rows)}
