"""What a job says of its input: opaque bytes, what a batch must look like, and where it may run."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence

import msgspec
import torch

from openwafer.base import InputError, round_up
from openwafer.sandbox import Confinement, Limits, Mount, interpreter_paths

# torch's name of a dtype -> what numpy calls the same bytes
STORAGE = {
    "bool": "u1",
    "uint8": "u1",
    "int8": "i1",
    "int16": "i2",
    "int32": "i4",
    "int64": "i8",
    "float16": "f2",
    "bfloat16": "i2",
    "float32": "f4",
    "float64": "f8",
}
_ALIGN = 64
_SYSTEM = ("/usr/local",)
"""Prefixes of interpreters that everybody may read."""
CACHE = "/n0/cache"
"""Where the client's data sets copy what they read often; here a folder of the worker's scratch space."""


class TensorSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One tensor of every batch, as the program declares it."""

    name: str
    """What the plan calls it."""
    dtype: str
    """As torch prints it, without `torch.`."""
    shape: tuple[int, ...]
    """Of one sample, without the batch dim."""
    source: str = ""
    """What the client's batch calls it: `input` and the keys and positions that lead to it, with `_` between; default: `name`."""


class Pipeline(msgspec.Struct, frozen=True, kw_only=True):
    """The client's data pipeline as it sent it: pickles that only a confined worker ever loads."""

    builder: bytes
    """A callable that returns the loader."""
    arguments: bytes = b""
    """Its (args, kwargs); empty: none."""
    state: bytes = b""
    """(state of the loader from an earlier run, options for loading it); empty: begin anew."""
    visitors: tuple[tuple[bytes, bytes], ...] = ()
    """(types, function) pairs for structures of batches that the client registered."""
    environment: Mapping[str, str] = msgspec.field(default_factory=dict)
    """Variables that the client asked for; seen by its pipeline only."""
    python_paths: tuple[str, ...] = ()
    """Folders to import from, in front; each must lie in a mount."""


class Layout(msgspec.Struct, frozen=True):
    """Where the tensors of a batch of `rows` samples lie in a slot."""

    tensors: tuple[TensorSpec, ...]
    rows: int

    @property
    def offsets(self) -> list[int]:
        at, found = 0, []
        for tensor in self.tensors:
            found.append(at)
            at += round_up(self.nbytes(tensor), _ALIGN)
        return [*found, at]

    def nbytes(self, tensor: TensorSpec) -> int:
        return self.rows * math.prod(tensor.shape) * int(STORAGE[tensor.dtype][1:])

    def view(self, slot: memoryview) -> dict[str, torch.Tensor]:
        """The tensors by name, in the slot itself; only truth values are copied, so that each is 0 or 1."""
        views = {}
        for tensor, offset in zip(self.tensors, self.offsets, strict=False):
            dtype = torch.uint8 if tensor.dtype == "bool" else getattr(torch, tensor.dtype)
            piece = slot[offset : offset + self.nbytes(tensor)]
            flat = torch.frombuffer(piece, dtype=dtype) if len(piece) else torch.empty(0, dtype=dtype)
            value = flat.reshape(self.rows, *tensor.shape)
            views[tensor.name] = value.ne(0) if tensor.dtype == "bool" else value
        return views


def check_tensors(tensors: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """The same, each with its source. Raises InputError for a dtype that cannot come from a data pipeline, or none at all."""
    if not tensors:
        raise InputError("the program declares no inputs, so there is nothing for a data pipeline to make")
    for tensor in tensors:
        if tensor.dtype not in STORAGE:
            raise InputError(
                f"input {tensor.name!r} is {tensor.dtype}; a data pipeline can make {', '.join(STORAGE)}"
            )
    return tuple(msgspec.structs.replace(tensor, source=tensor.source or tensor.name) for tensor in tensors)


def confine(
    python: str,
    *,
    mounts: Sequence[str] = (),
    writable: Sequence[str] = (),
    volumes: Sequence[str] = (),
    python_from_job: bool = False,
    limits: Limits | None = None,
    unconfined: bool = False,
) -> Confinement:
    """The confinement of an input worker: the client's interpreter and these mounts, and nothing else.

    mounts, writable: folders that the job asks for; each must lie, after links, in one of the `volumes` that whoever runs the
    appliance has declared. python_from_job: the job named the interpreter, so its folders must too, unless they are the
    system's or those of the appliance's own Python. Raises InputError if the interpreter is not there; mounts are checked
    when the worker starts.
    """
    folders = interpreter_paths(python)
    ours = (*_SYSTEM, *interpreter_paths(sys.executable)) if python_from_job else folders
    asked = [folder for folder in folders if folder not in ours]
    return Confinement(
        mounts=tuple(Mount(path=path) for path in (*asked, *mounts))
        + tuple(Mount(path=path, writable=True) for path in writable),
        trusted=tuple(folder for folder in folders if folder in ours),
        volumes=tuple(volumes),
        scratch_at=("/tmp", CACHE),
        limits=limits or Limits(),
        unconfined=unconfined,
    )
