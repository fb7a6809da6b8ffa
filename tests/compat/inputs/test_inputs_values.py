"""Initial values that are described: computed in the sandbox, and checked when they come out of it."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence

import pytest
import torch
from client_sources import HERE, MIB, by_name

from openwafer.base import InputError
from openwafer.compat.inputs import InitialValue, confine, initial_values
from openwafer.sandbox import Limits


def compute(values: Sequence[InitialValue], log: list[str] | None = None) -> dict[str, torch.Tensor]:
    confinement = confine(
        sys.executable,
        mounts=[HERE],
        volumes=["/"],
        limits=Limits(memory_bytes=4096 * MIB, scratch_bytes=MIB),
    )
    said = (log if log is not None else []).append
    return dict(initial_values(values, python=sys.executable, confinement=confinement, log=said))


def hook(name: str) -> bytes:
    """The pickle of a list with one function of client_pipelines, which it makes importable first."""
    path = b"csite\naddsitedir\n(V" + HERE.encode() + b"\ntR0"
    return path + b"(l" + by_name(name)[:-1] + b"a."


def test_bytes_fills_and_hooks_become_tensors() -> None:
    """In order, of every rank; a hook that returns nothing has changed the tensor itself."""
    found = compute(
        [
            InitialValue(name="w", dtype="float32", shape=(2, 2), data=struct.pack("<4f", 1, 2, 3, 4)),
            InitialValue(name="s", dtype="int64", shape=(), fill=7),
            InitialValue(name="b", dtype="bfloat16", shape=(3,), fill=0.5),
            InitialValue(name="m", dtype="bool", shape=(2,), fill=1),
            InitialValue(name="d", dtype="float32", shape=(2,), fill=3.0, hooks=hook("doubles")),
            InitialValue(name="z", dtype="float32", shape=(0, 4)),
        ]
    )

    assert list(found) == ["w", "s", "b", "m", "d", "z"]
    assert found["w"].tolist() == [[1, 2], [3, 4]]
    assert found["s"].shape == ()
    assert found["s"].item() == 7
    assert torch.equal(found["b"], torch.full((3,), 0.5, dtype=torch.bfloat16))
    assert found["m"].tolist() == [True, True]
    assert found["d"].tolist() == [6, 6]
    assert found["z"].shape == (0, 4)


def test_a_value_that_is_not_what_it_is_said_to_be_is_refused() -> None:
    """The program's tensors have one shape, whatever a hook thinks."""
    with pytest.raises(InputError, match=r"w became .* after its hooks"):
        compute([InitialValue(name="w", dtype="float32", shape=(2,), hooks=hook("flattens_too_much"))])
    with pytest.raises(InputError, match="has 3 bytes, which are no float32"):
        compute([InitialValue(name="w", dtype="float32", shape=(2,), data=b"abc")])
    with pytest.raises(InputError, match="'w' is quint8"):
        compute([InitialValue(name="w", dtype="quint8", shape=(2,))])


def test_a_hostile_hook_is_contained() -> None:
    """It came as a pickle like a data pipeline, and it runs where data pipelines run."""
    log: list[str] = []

    with pytest.raises(
        InputError, match=r"the initial value failed.*opens a network connection \(socket\(AF_INET\)\)"
    ):
        compute([InitialValue(name="w", dtype="float32", shape=(2,), hooks=hook("connects"))], log)

    assert any("refused socket(AF_INET)" in line for line in log)


def test_nothing_is_started_for_no_values() -> None:
    """Most jobs have none."""
    assert compute([]) == {}
