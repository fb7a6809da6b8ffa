"""The compile cache: a folder for each program and its options, complete or not there."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from openwafer.appliance import JobFolder
from openwafer.artifact import Plan, describe_plan, plan_from_json, plan_to_json
from openwafer.base import InputError, StorageError
from openwafer.compat.appliance._requests import COMPILE_ROOT, SUMMARY, Summary
from openwafer.compat.cirh import Program
from openwafer.graph import PlanOptions

FORMAT = 1
"""Raised when a folder of an earlier version may not be read any more."""


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
    """`cs_` and a 64-bit number: the same for the same program and options."""
    words = msgspec.json.encode((FORMAT, text, options))
    return f"cs_{int.from_bytes(hashlib.sha256(words).digest()[:8])}"


def compile_program(text: str, options: CompileOptions, parent: Path, say: Callable[[str], None]) -> Compiled:
    """Plan a program, or find what was planned before.

    Raises CirhError, with the place, for a program that cannot be run here; PlanError if it does not fit; StorageError.
    """
    name = key_of(text, options)
    folder = parent / name
    if (folder / SUMMARY).is_file():
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
        "plan.json": plan_to_json(plan),
        "plan.txt": describe_plan(plan).encode(),
        SUMMARY: msgspec.json.encode(summary),
    }
    _write(folder, files)
    say(f"Compiled: {len(plan.layers[plan.microbatches[0]])} layers, microbatches of {plan.microbatches[0]}")
    return Compiled(folder, info, plan)


def open_compiled(folder: Path) -> Compiled:
    """Read a compiled program. Raises InputError if the folder holds none, PlanError if it was changed."""
    try:
        program = msgspec.json.decode((folder / "program.json").read_bytes(), type=ProgramInfo)
        return Compiled(folder, program, plan_from_json((folder / "plan.json").read_bytes()))
    except (OSError, msgspec.MsgspecError) as error:
        raise InputError(f"there is no compiled program in {folder} ({error}); compile it again") from error


def compiled_folder(job: JobFolder, asked: str) -> Path:
    """A folder of this appliance's compile cache. Raises InputError for one that lies elsewhere."""
    root = job.path.resolve().parent.parent / COMPILE_ROOT
    found = Path(asked).resolve()
    if not found.is_relative_to(root):
        raise InputError(f"{asked} is no folder of this appliance's compile cache; compile the program again")
    return found


def _write(folder: Path, files: dict[str, bytes]) -> None:
    """All files or none: two jobs may compile the same program at once, and either may be killed."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        try:
            for name, data in files.items():
                with open(beside / name, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
            beside.chmod(0o755)
            beside.rename(folder)
        except OSError:
            shutil.rmtree(beside, ignore_errors=True)
            if not (folder / SUMMARY).is_file():
                raise
    except OSError as error:
        raise StorageError(
            f"cannot write {folder}: {error.strerror}; make room on the disk of the appliance's state folder"
        ) from error
