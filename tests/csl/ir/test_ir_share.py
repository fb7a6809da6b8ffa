"""Code that tiles share, and the programs of an Image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ir_machine import RUNTIME, Machine, Native, resolved
from ir_strategies import units
from ir_text import unit_of

from openwafer.artifact import _image as image
from openwafer.artifact import _pe_abi as abi
from openwafer.csl import ir
from openwafer.csl._assemble import assemble
from openwafer.csl.interpret import Interpreter


def program(
    length: int = 4, scale: float = 2.0, size: int = 8, color: int = 3, name: str = "pe.csl"
) -> ir.Unit:
    """A tile's program with what usually differs between tiles."""
    to = f"dsd mem1d(base @x+4, length {length}, stride 2)"
    source = f"dsd dsd fabin(base 0, length {length}, color {color})"
    return unit_of(
        f"""string "hello"
symbol @pad: {size} align 2 "[*]u8"
symbol @x: 16 align 4 "[4]f32" = hex "0000803f"
symbol @x_ptr: 2 align 2 "[*]f32" at 0 @x+0
fn main(%a: f32) void {{
  local %s: stack(4) align 4
^0:
  %0 = get %a
  %1 = mul f32 %0, f32 {scale}
  %2 = frame %s
  store f32 %2, %1 known
  vector fmuls dsd {to}, {source}, pointer %2 !1
  %3 = load f32 %2 known
  store f32 @x+0, %3 known
  return
}}
task data 3 = main(f32) blocked
queue input 2 color {color} !1
fifo 1 @pad activate_push 9
preload dsr dest 2 = dsd mem1d(base @x+0, length {length}, stride 2) [async, end activate task 9] save
blocked queue 2
config 32544 = 4
export variable "x" "[*]f32" = @x+0 pointer @x_ptr
export function "go" "fn(f32)void" function main takes f32""",
        name,
    )


def run(code: ir.Unit, entry: Any, memory: bytes, constants: tuple[int, ...] = ()) -> dict[str, Any]:
    arguments = ir.encode("f32", 1.5).to_bytes(4, "little")
    return Machine(code, memory, constants=constants, arguments=arguments, waits=[True]).run(entry).seen


def test_tiles_that_differ_in_numbers_share_code() -> None:
    """Literals, addresses, descriptors and places on the stack become entries of each program's constants."""
    made = [program(), program(length=9), program(scale=-0.5), program(size=20), program(color=7)]
    assembly = assemble(dict(enumerate(made)))

    assert len(assembly.codes) == 1
    shared = ir.parse_unit(assembly.codes[0].ir)
    native, interpreter = Native(shared).entry(0), Interpreter(shared, RUNTIME).entries[0]
    for key, unit in enumerate(made):
        alone, memory = resolved(unit)
        expected = run(alone, Interpreter(alone, RUNTIME).entries[0], memory)
        constants = assembly.programs[assembly.program_of[key]].constants
        assert run(shared, native, memory, constants) == expected
        assert run(shared, interpreter, memory, constants) == expected


def test_tiles_that_differ_in_instructions_do_not_share_code() -> None:
    """Only numbers may differ."""
    other = ir.parse_unit(ir.print_unit(program()).replace("mul f32", "add f32"))
    assembly = assemble({"a": program(), "b": other, "c": program(length=5)})

    assert len(assembly.codes) == 2
    assert [one.code for one in assembly.programs] == [0, 0, 1]
    assert assembly.program_of == {"a": 0, "c": 1, "b": 2}


def test_equal_tiles_are_one_program() -> None:
    """A thousand PEs that run one program cost one Program."""
    assembly = assemble({(x, y): program() for x in range(3) for y in range(4)})

    assert len(assembly.programs) == len(assembly.codes) == 1
    assert assembly.programs[0].constants == ()
    assert set(assembly.program_of.values()) == {0}


def test_numbers_that_differ_in_the_same_way_take_one_constant() -> None:
    """A length stands in many descriptors; it must not be stored for each."""
    group = ir.share([(one, ir.link(one)) for one in (program(), program(size=20))])[0]

    text = ir.print_unit(group.unit)
    assert text.count("const ") == 3  # the DSD in memory, the frame, the store
    assert (
        len(group.constants[0]) == len(set(zip(*group.constants, strict=True))) == 6
    )  # one dsd, two pointers


@settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
@given(unit=units(), waits=st.lists(st.booleans(), max_size=6), data=st.data())
def test_shared_code_does_what_each_tile_would_do_alone(
    unit: ir.Unit, waits: list[bool], data: st.DataObject
) -> None:
    """Any literal may differ, in any place; those of type u16 count loops here."""
    other = ir.parse_unit(ir.print_unit(unit))

    def change(operand: ir.Operand) -> ir.Operand:
        if (
            isinstance(operand, ir.Number)
            and operand.type in ("i32", "i16", "f32")
            and data.draw(st.booleans())
        ):
            return ir.Number(operand.type, operand.value // 2 if operand.value == operand.value else 1)
        return operand

    for function in other.functions.values():
        for block in function.blocks:
            block.instructions = [ir.map_operands(one, change) for one in block.instructions]
    pair = (unit, other)
    (group,) = ir.share([(one, ir.link(one)) for one in pair])
    native = Native(group.unit, level=1).entry(0)
    for one, constants in zip(pair, group.constants, strict=True):
        code, memory = resolved(one)
        expected = Machine(code, memory, waits=waits).run(Interpreter(code, RUNTIME).entries[0]).seen
        assert Machine(code, memory, constants=constants, waits=waits).run(native).seen == expected


def test_a_program_holds_all_that_the_fabric_needs(tmp_path: Path) -> None:
    """The Image is the only thing that passes from the compiler to the machine."""
    unit = program()
    linked = ir.link(unit)
    assembly = assemble({0: unit})
    made, x = assembly.programs[0], linked.addresses["x"]

    assert made.memory[x : x + 4] == b"\0\0\x80\x3f"
    assert made.memory_bytes == linked.end
    assert made.symbols[1] == image.Symbol("x", x, 16, "[4]f32", 4)
    assert made.tasks == (
        image.Task("data", 3, 0, ("f32",), blocked=True, name="main"),
        image.Task("local", 9, 0, ("f32",), name="main"),
    )
    assert made.queues == (image.Queue("input", 2, 3, location=1),)
    assert made.fifos == (image.Fifo(1, linked.addresses["pad"], 8, activate_push=9),)
    assert made.blocked == (image.Blocked(int(abi.Target.QUEUE), 2),)
    assert (made.config, made.strings) == (((32544, 4),), ("hello",))
    assert (made.variables, made.pointers, made.functions) == (
        {"x": x},
        {"x": linked.addresses["x_ptr"]},
        {"go": 0},
    )
    preload = ir.unpack_descriptor(made.preloads[0].descriptor)
    assert (preload.base, preload.length) == (x, 4)
    assert preload.flags == abi.DescriptorFlag.SAVE_ADDRESS | abi.DescriptorFlag.ASYNCHRONOUS
    assert made.preloads[0].vector[6:9] == bytes((abi.Action.ACTIVATE, abi.Target.TASK, 9))
    whole = image.Image(
        architecture="wse2",
        fabric=(8, 3),
        offset=(4, 1),
        rectangle=(1, 1),
        programs=assembly.programs,
        codes=assembly.codes,
    )
    image.write_image(whole, tmp_path / "image")
    assert image.read_image(tmp_path / "image") == whole
