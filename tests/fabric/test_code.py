"""Compiled code on the machine: LLVM assembly in, entries out, the runtime's functions found, caches hit."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from fabric_programs import dsd, mem, single, vector_record

from openwafer.artifact import _image as image
from openwafer.base import FabricError, InputError
from openwafer.fabric import LoadedCode, Machine, load_timing


def constant(name: str, data: bytes) -> str:
    escaped = "".join(f"\\{byte:02X}" for byte in data)
    return f'@{name} = private constant [{len(data)} x i8] c"{escaped}"\n'


def looping_code() -> image.Code:
    """x[i] = i in a scalar loop, then x += 2 * a as one @fmacs; both of four elements."""
    operands = ", ".join(
        f"%operand {{ i32 {kind}, i32 {bits}, ptr {'null' if value is None else '@' + name} }}"
        for (kind, bits, value), name in zip(
            (dsd(mem(0, 4)), dsd(mem(0, 4)), dsd(mem(16, 4)), single(2.0)), "xxa-", strict=True
        )
    )
    llvm = (
        "%operand = type { i32, i32, ptr }\n"
        + constant("vector", vector_record("fmacs", 4))
        + constant("x", mem(0, 4))
        + constant("a", mem(16, 4))
        + f"@operands = private constant [4 x %operand] [{operands}]\n"
        + """
declare i32 @ow_vector(ptr, ptr, ptr)
define i32 @ow_entry_0(ptr %pe, ptr %frame) {
entry:
  %memory = load ptr, ptr %pe
  br label %loop
loop:
  %i = phi i32 [0, %entry], [%next, %loop]
  %value = sitofp i32 %i to float
  %place = getelementptr float, ptr %memory, i32 %i
  store float %value, ptr %place
  %next = add i32 %i, 1
  %more = icmp slt i32 %next, 4
  br i1 %more, label %loop, label %done
done:
  %status = call i32 @ow_vector(ptr %pe, ptr @vector, ptr @operands)
  ret i32 %status
}
"""
    )
    return image.Code(ir="", llvm=llvm, entries=("main",), frame_bytes=4, blocks=({"add16": 2, "load16": 1},))


def one_pe(code: image.Code) -> image.Image:
    program = image.Program(
        name="program.csl",
        code=0,
        memory=bytes(16) + np.arange(4, dtype=np.float32).tobytes(),
        memory_bytes=64,
        tasks=(image.Task(kind="local", id=8, entry=0, active=True, name="main"),),
    )
    return image.Image(
        architecture="wse3",
        fabric=(8, 3),
        offset=(4, 1),
        rectangle=(1, 1),
        programs=(program,),
        codes=(code,),
        tiles=(image.Tile(0, 0, 0),),
    )


def test_a_program_runs_natively() -> None:
    """The thin path: one task, a scalar loop, one vector operation."""
    loaded = Machine(one_pe(looping_code()))

    assert loaded.run().idle
    assert not loaded.failure
    assert struct.unpack("<4f", loaded.read(0, 0, 0, 16)) == (0, 3, 6, 9)


def test_object_code_is_kept_in_a_folder(tmp_path: Path) -> None:
    """The second process need not compile: the file is named by what made it."""
    code = looping_code()
    folder = tmp_path / "objects"
    LoadedCode(code, folder)
    (kept,) = folder.glob("*.o")

    again = LoadedCode(code, folder)
    assert len(again.entries) == 1
    assert kept.stat().st_size > 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("ret i32 %status", "ret i16 %status"), "LLVM assembly is malformed"),
        (("@ow_vector", "@ow_unknown"), "calls ow_unknown, which this machine does not have"),
        (("@ow_entry_0", "@other"), "no function ow_entry_0"),
    ],
)
def test_code_that_cannot_be_loaded_says_why(change: tuple[str, str], message: str) -> None:
    """A fault of a compiler must not end in a crash of the process."""
    code = looping_code()
    wrong = image.Code(
        ir="", llvm=code.llvm.replace(*change), entries=("main",), frame_bytes=4, blocks=code.blocks
    )
    with pytest.raises(FabricError, match=message):
        Machine(one_pe(wrong))


def test_a_cost_class_without_a_price_is_an_error() -> None:
    """A new class must get a value with its source, not silently cost nothing."""
    code = looping_code()
    wrong = image.Code(ir="", llvm=code.llvm, entries=("main",), frame_bytes=4, blocks=({"teleport": 1},))
    with pytest.raises(
        InputError, match="cost class 'teleport', which the timing table wse3_sim does not price"
    ):
        Machine(one_pe(wrong))


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
@pytest.mark.parametrize("profile", ["sim", "silicon", "functional"])
def test_every_value_of_a_table_has_a_grade_and_a_source(
    architecture: image.Architecture, profile: str
) -> None:
    """A number without its origin cannot be argued with."""
    table = load_timing(architecture, profile)  # type: ignore[arg-type]

    assert len(table.entries) > 90
    assert all(len(entry.source) > 5 for entry in table.entries.values())
    assert table.block_cycles({}, "a test") == 0
    if profile == "functional":
        assert table.block_cycles({"div32": 9, "branch_taken": 2}, "a test") == 0
        assert table["queues.input_depth"] == load_timing(architecture)["queues.input_depth"]
    else:
        assert table.block_cycles({"add16": 1}, "a test") >= 1


def test_every_cost_class_of_the_compiler_has_a_price() -> None:
    """The compiler names the classes, the table prices them."""
    ir = pytest.importorskip("openwafer.csl.ir")
    for architecture in ("wse2", "wse3"):
        table = load_timing(architecture)  # type: ignore[arg-type]
        assert table.block_cycles(dict.fromkeys(ir.COST_CLASSES, 1), "the compiler") > 0


def test_unknown_tables_are_errors() -> None:
    """The choices are in the message."""
    with pytest.raises(InputError, match="choose one of sim, silicon, functional"):
        load_timing("wse2", "fast")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="choose one of wse2, wse3"):
        load_timing("wse9")  # type: ignore[arg-type]
