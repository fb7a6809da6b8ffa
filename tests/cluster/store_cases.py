"""Records with values that the tests of the store and of checkpoints share."""

from __future__ import annotations

import torch
from hypothesis import strategies as st

from openwafer.artifact import Record, TensorType, make_record
from openwafer.cluster.store import aligned_buffer, view_tensors

shapes = st.lists(st.integers(0, 7), max_size=3).map(tuple)
types = st.builds(TensorType, st.sampled_from(["float32", "bfloat16", "int64", "bool", "float64"]), shapes)


@st.composite
def record_lists(draw: st.DrawFn) -> list[Record]:
    """One to four records of random dtypes and shapes, odd, empty and 0-dim ones among them."""
    return [
        make_record(
            f"layer.{i}/{draw(st.sampled_from(['attn', 'mlp', 'ü']))}",
            [
                (f"h.{i}.w{j}", kind, kind.dtype, kind.dtype == "float32")
                for j, kind in enumerate(draw(st.lists(types, max_size=4)))
            ],
            [(f"h.{i}.w{j}/exp_avg", kind) for j, kind in enumerate(draw(st.lists(types, max_size=3)))],
        )
        for i in range(draw(st.integers(1, 4)))
    ]


def linear_records(count: int = 3, width: int = 40) -> list[Record]:
    """Equal layers: a bfloat16 bias, a float32 weight, its moments and a step count."""
    return [
        make_record(
            f"layer.{i}",
            [
                (f"h.{i}.bias", TensorType("bfloat16", (width + 1,)), "bfloat16", True),
                (f"h.{i}.weight", TensorType("float32", (width, width)), "bfloat16", True),
            ],
            [
                (f"h.{i}.weight/exp_avg", TensorType("float32", (width, width))),
                (f"h.{i}.weight/step", TensorType("int64", ())),
            ],
        )
        for i in range(count)
    ]


def random_values(records: list[Record], seed: int = 0) -> dict[str, torch.Tensor]:
    """A tensor of small random numbers, exact in every dtype, for every name."""
    generator = torch.Generator().manual_seed(seed)
    return {
        tensor.name: (
            torch.randint(0, 2, tensor.shape, generator=generator).bool()
            if tensor.dtype == "bool"
            else torch.randint(-100, 100, tensor.shape, generator=generator).to(getattr(torch, tensor.dtype))
        )
        for record in records
        for tensor in (*record.weights, *record.state)
    }


def filled(record: Record, values: dict[str, torch.Tensor]) -> memoryview:
    """A record's buffer with the given values, and noise where no tensor lies."""
    buffer = aligned_buffer(record.nbytes)
    buffer[:] = b"\xa5" * record.nbytes
    for name, tensor in view_tensors(record, buffer).items():
        tensor.copy_(values[name])
    return buffer


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Whether two dicts hold the same names with bitwise the same tensors."""
    return a.keys() == b.keys() and all(
        a[name].dtype == b[name].dtype and a[name].shape == b[name].shape and torch.equal(a[name], b[name])
        for name in a
    )
