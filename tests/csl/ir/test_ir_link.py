"""Addresses, the memory as a program starts, and what a block costs."""

from __future__ import annotations

import pytest
from ir_machine import resolved, run_both
from ir_text import unit_of

from openwafer.base import CslError
from openwafer.csl import ir

FIRST = ir.FIRST_ADDRESS["wse2"]


def test_symbols_lie_in_the_order_of_their_declaration() -> None:
    """The bank that an array lies in follows from the order alone, as programs expect; 2 bytes are the least alignment."""
    linked = ir.link(
        unit_of(
            'symbol @a: 1 align 1 "u8"\nsymbol @b: 3 align 1 "u8"\nsymbol @c: 4 align 16 "u32"\nsymbol @d: 1 align 1 "u8"'
        )
    )
    assert linked.addresses == {"a": FIRST, "b": FIRST + 2, "c": FIRST + 16, "d": FIRST + 20}
    assert linked.end == FIRST + 24


def test_pointers_in_first_values_are_addresses() -> None:
    """A pointer that a program starts with is known only when everything has its place."""
    unit = unit_of(
        'symbol @p: 8 align 2 "*u8" = hex "0102030405" at 2 @x+3 at 6 @p+0\nsymbol @x: 4 align 2 "u32"'
    )
    memory = ir.memory_image(unit, ir.link(unit))
    target = (FIRST + 8 + 3).to_bytes(2, "little")
    assert memory[FIRST:] == bytes((1, 2)) + target + bytes((5, 0)) + FIRST.to_bytes(2, "little")


def test_too_much_memory_is_refused_with_the_largest_symbols() -> None:
    """Whoever reads it must know what to make smaller."""
    unit = unit_of(
        'symbol @small: 2 align 2 "u16"\nsymbol @big: 50000 align 2 "[25000]u16"\nsymbol @mid: 900 align 2 "[900]u8"'
    )
    with pytest.raises(CslError) as caught:
        ir.link(unit)
    assert "needs 51,928 bytes, a PE has 49,152; the largest are big 50,000, mid 900, small 2 bytes" in str(
        caught.value
    )


def test_a_program_may_fill_the_memory() -> None:
    """The last byte is a program's own."""
    assert ir.link(unit_of(f'symbol @x: {49152 - FIRST} align 2 "[*]u8"')).end == 49152


STACK = """symbol @out: 2 align 2 "u16"
fn leaf() ptr {
  local %s: stack(6) align 2
^0:
  %0 = frame %s
  store u16 %0, u16 7 known
  return %0
}
fn middle() ptr {
  local %s: stack(10) align 4
^0:
  %0 = call leaf()
  return %0
}
fn main() void {
  local %s: stack(4) align 8
^0:
  %0 = frame %s
  store u16 %0, u16 5 known
  %1 = call leaf()
  %2 = call middle()
  %3 = load u16 %0 known
  %4 = load u16 %2
  %5 = add u16 %3, %4
  store u16 @out+0, %5 known
  return
}
"""


def test_stack_locals_lie_behind_those_of_the_deepest_chain_of_calls() -> None:
    """Tasks run one at a time and nothing calls itself, so a function's locals have one place that no caller uses."""
    linked = ir.link(unit_of(STACK))
    base = linked.stack_base
    assert linked.stack == {("main", "s"): base, ("middle", "s"): base + 4, ("leaf", "s"): base + 14}
    assert linked.end == base + 20
    code, memory = resolved(unit_of(STACK))
    for machine in run_both(code, memory=memory):
        assert machine.data.raw[FIRST : FIRST + 2] == bytes((12, 0))


def test_recursion_that_no_pass_removed_is_refused_with_its_chain() -> None:
    """Locals have a place for each function once."""
    text = "fn a() void {\n^0:\n  call b()\n  return\n}\nfn b() void {\n^0:\n  call a()\n  return\n}"
    with pytest.raises(CslError, match=r"function a calls itself \(a -> b -> a\).*stack_calls"):
        ir.link(unit_of(text))


def test_blocks_cost_what_their_instructions_are() -> None:
    """Timing tables give cycles for these names; loops cost a taken branch."""
    unit = unit_of(
        """symbol @x: 60 align 2 "[10]T"
fn main(%i: i16) f32 {
  local %f: f32
^0:
  %0 = get %i
  %1 = element @x+0, i16 %0 of 10 x 6 "x"
  %2 = load f32 %1 known
  %3 = mul f32 %2, f32 2.0
  %4 = add f16 f16 1.0, f16 2.0
  %5 = convert f32 %3 to i32
  %6 = shl u8 u8 1, u8 2
  %7 = div i64 i64 1, i64 2
  set %f, %3
  set %f, f32 1.0
  copy @x+0, @x+20, 10
  jump ^1
^1:
  %8 = machine tsc(u16 0)
  %9 = lt u16 %8, u16 9
  branch %9, ^1, ^2
^2:
  %10 = get %f
  return %10
}"""
    )
    first = {
        "address": 1,
        "mul16": 1,
        "load32": 3,
        "store32": 2,
        "load16": 1,
        "store16": 1,
        "fmul32": 1,
        "fadd16": 1,
    }
    first |= {"convert": 1, "shift16": 1, "div64": 1, "move": 1}
    assert ir.unit_costs(unit) == (first, {"tsc": 1, "compare": 1, "branch_taken": 1}, {"return": 1})
    assert {kind for block in ir.unit_costs(unit) for kind in block} <= set(ir.COST_CLASSES)
    assert {one.cost for one in ir.MACHINE.values()} <= set(ir.COST_CLASSES)
