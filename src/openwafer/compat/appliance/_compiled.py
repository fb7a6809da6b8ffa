"""Clients' programs in the compile cache: a folder for each program and its options."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import torch

from openwafer.appliance import COMPILE_ROOT, JobFolder
from openwafer.artifact import CompileCache, Plan, open_plan, packages_token
from openwafer.base import InputError
from openwafer.compat.appliance._requests import SUMMARY, Summary
from openwafer.compat.cirh import Program
from openwafer.graph import PlanOptions


class TensorInfo(msgspec.Struct, frozen=True):
    """An input, an output or a state tensor of a program: see compat.cirh for the fields."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    element: str
    updated: bool = False
    role: str = ""
    tensor: str = ""


class ProgramInfo(msgspec.Struct, frozen=True):
    """What a coordinator needs to know of a program beside its Plan."""

    name: str
    batch: int
    trains: bool
    counters: tuple[str, ...]
    inputs: tuple[TensorInfo, ...]
    states: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]


class CompileOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What beside the program's text decides the plan."""

    systems: int
    microbatch: int | Literal["auto"] | None = "auto"
    store: Literal["ram", "disk"] = "ram"


class Compiled(NamedTuple):
    folder: Path
    program: ProgramInfo
    plan: Plan


def key_of(text: str, options: CompileOptions) -> str:
    """`cs_` and a 64-bit number: the same for the same program and options, as long as nothing that plans has changed."""
    words = msgspec.json.encode((_planner(), text, options))
    return f"cs_{int.from_bytes(hashlib.sha256(words).digest()[:8])}"


@cache
def _planner() -> tuple[str, ...]:
    """What makes a plan of a program: our code, torch, this kind of machine."""
    code = packages_token(("openwafer.artifact", "openwafer.compat.cirh", "openwafer.graph"))
    return code, str(torch.__version__), torch.__config__.show(), torch.backends.cpu.get_cpu_capability()


def compile_program(text: str, options: CompileOptions, parent: Path, say: Callable[[str], None]) -> Compiled:
    """Plan a program, or find what was planned before.

    Raises CirhError, with the place, for a program that cannot be run here; PlanError if it does not fit; StorageError.
    """
    name = key_of(text, options)
    kept = CompileCache(parent)
    folder = kept.find(name, whole=SUMMARY)
    if folder is not None:
        say(f"Found existing cached compile with hash {name}")
        return open_compiled(folder)
    say("Reading the program")
    program = Program.parse(text, "cirh.mlir")
    say("Planning layers, placement and memory")
    plan = program.plan(
        PlanOptions(
            batch=program.batch,
            systems=options.systems,
            microbatch=options.microbatch,
            store=options.store,
            evaluate=False,
        )
    )
    info = ProgramInfo(
        name=program.name,
        batch=program.batch,
        trains=program.trains,
        counters=program.counters,
        inputs=tuple(TensorInfo(i.name, i.dtype, i.shape, i.element) for i in program.inputs),
        states=tuple(
            TensorInfo(s.name, s.dtype, s.shape, s.element, s.updated, s.role, s.tensor)
            for s in program.states
        ),
        outputs=tuple(TensorInfo(o.name, o.dtype, o.shape, o.element) for o in program.outputs),
    )
    summary = Summary(program.name, options.systems, sum(record.nbytes for record in plan.records))
    files = {
        "cirh.mlir": text.encode(),
        "program.json": msgspec.json.encode(info),
        SUMMARY: msgspec.json.encode(summary),
    }
    folder = kept.keep(name, plan, files)
    say(f"Compiled: {len(plan.layers[plan.microbatches[0]])} layers, microbatches of {plan.microbatches[0]}")
    return Compiled(folder, info, plan)


def open_compiled(folder: Path) -> Compiled:
    """Read a compiled program. Raises InputError if the folder holds none, PlanError if it was changed."""
    try:
        program = msgspec.json.decode((folder / "program.json").read_bytes(), type=ProgramInfo)
        return Compiled(folder, program, open_plan(folder))
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"there is no compiled program in {folder} ({error}); compile it again") from error


def compiled_folder(job: JobFolder, asked: str) -> Path:
    """A folder of this appliance's compile cache. Raises InputError for one that lies elsewhere."""
    root = job.path.resolve().parent.parent / COMPILE_ROOT
    found = Path(asked).resolve()
    if not found.is_relative_to(root):
        raise InputError(f"{asked} is no folder of this appliance's compile cache; compile the program again")
    return found
