"""Makes ClientBatches of the pipelines in client_pipelines.py."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from openwafer.compat.inputs import ClientBatches, Pipeline, TensorSpec, confine
from openwafer.sandbox import Limits

HERE = str(Path(__file__).parent)
MIB = 1 << 20
TENSORS = (
    TensorSpec(name="images", dtype="float32", shape=(3,), source="input_x"),
    TensorSpec(name="labels", dtype="int64", shape=(), source="input_y"),
)


def by_name(name: str) -> bytes:
    """The pickle of something in client_pipelines, which nobody here need import for it."""
    return f"cclient_pipelines\n{name}\n.".encode()


def then(act: str, *args: object) -> dict[str, bytes]:
    """A builder of two good batches and then `act(*args)`."""
    called = (
        b"cfunctools\npartial\n("
        + by_name(act)[:-1]
        + b"".join(pickle.dumps(arg, 0)[:-1] for arg in args)
        + b"tR"
    )
    return {"builder": by_name("Then"), "arguments": b"((" + called + b"t(dt."}


def pipeline(name: str | None = None, /, *args: object, **fields: Any) -> Pipeline:
    """One that calls `client_pipelines.<name>(*args)`, or another builder."""
    if name is not None:
        fields |= {"builder": by_name(name), "arguments": pickle.dumps((args, {}))}
    return Pipeline(python_paths=(HERE,), **fields)


def source(
    made: Pipeline,
    rows: Sequence[int] = (4,),
    *,
    tensors: Sequence[TensorSpec] = TENSORS,
    mounts: Sequence[str] = (),
    memory_bytes: int = 512 * MIB,
    log: list[str] | None = None,
    **fields: Any,
) -> ClientBatches:
    limits = Limits(memory_bytes=memory_bytes, scratch_bytes=16 * MIB, processes=40)
    return ClientBatches(
        made,
        tensors,
        rows,
        python=sys.executable,
        confinement=confine(sys.executable, mounts=(HERE, *mounts), volumes=("/",), limits=limits),
        log=(log if log is not None else []).append,
        **fields,
    )


def labels(batches: ClientBatches, numbers: Sequence[int], system: int = 0) -> list[list[int]]:
    function = batches.batches(system)
    return [function(number, True)["labels"].tolist() for number in numbers]
