"""Assembled programs on the fabric: compiled and interpreted, they do the same in the same cycles."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ir_text import unit_of

from openwafer.artifact import _image as image
from openwafer.csl import ir
from openwafer.csl._assemble import assemble
from openwafer.csl.interpret import Executor

fabric = pytest.importorskip("openwafer.fabric", reason="the native core is not built")
GEMV = """symbol @a: 48 align 4 "[12]f32" = hex "{a}"
symbol @x: 16 align 4 "[4]f32" = hex "{x}"
symbol @y: 12 align 4 "[3]f32"
symbol @h: 2 align 2 "f16"
fn step(%j: i16) f32 {{
^0:
  %0 = get %j
  %1 = element @x+0, i16 %0 of 4 x 4 "x" !1
  %2 = load f32 %1 known
  %3 = element @a+0, i16 %0 of 12 x 4 "a" !1
  %4 = edit base dsd mem1d(base 0, length 3, stride 4), %3
  vector fmacs {y}, {y}, dsd %4, scalar f32 %2 !1
  %5 = convert f32 %2 to f16
  %6 = load f16 @h+0 known
  %7 = add f16 %6, %5
  store f16 @h+0, %7 known
  return %2
}}
fn main() void {{
  local %j: i16
^0:
  jump ^1
^1:
  %0 = get %j
  %1 = call step(%0)
  %2 = add i16 %0, i16 1
  set %j, %2
  %3 = lt i16 %2, i16 {columns}
  branch %3, ^1, ^2
^2:
  return
}}
"""
Y = "dsd dsd mem1d(base @y+0, length 3, stride 1)"
A = np.arange(12, dtype=np.float32).reshape(3, 4)
X = np.array([1.5, -2, 0.25, 8], dtype=np.float32)


def made(columns: int) -> tuple[image.Image, ir.Linked]:
    unit = unit_of(GEMV.format(y=Y, a=A.tobytes().hex(), x=X.tobytes().hex(), columns=columns))
    assert unit.tasks[0].function == "main"
    unit.tasks[0] = ir.BoundTask("local", 9, "main", active=True)
    assembly = assemble({0: unit})
    whole = image.Image(
        architecture="wse2",
        fabric=(1, 1),
        offset=(0, 0),
        rectangle=(1, 1),
        programs=assembly.programs,
        codes=assembly.codes,
        tiles=(image.Tile(0, 0, program=0),),
    )
    return whole, ir.link(unit)


def machines(whole: image.Image) -> list[Any]:
    executor = Executor(fabric._native.runtime_addresses())
    return [(fabric.Machine(whole), executor), (fabric.Machine(whole, executor=executor), executor)]


def test_a_gemv_is_right_and_takes_the_same_cycles_both_ways() -> None:
    """The same costs of the same blocks, the same operations at the same times."""
    whole, linked = made(4)
    cycles = []
    for machine, _ in machines(whole):
        assert machine.run().idle, machine.failure
        y = np.frombuffer(machine.read(0, 0, linked.addresses["y"], 12), np.float32)
        h = np.frombuffer(machine.read(0, 0, linked.addresses["h"], 2), np.float16)
        np.testing.assert_array_equal(y, A @ X)
        assert h[0] == X.sum()
        cycles.append(machine.cycle)
    assert cycles[0] == cycles[1] > 50


def test_an_error_of_the_program_is_told_with_its_line_both_ways() -> None:
    """Compiled code leaves by ow_trap, interpreted code by ow_fail; the user sees the same."""
    whole, _ = made(5)
    told = []
    for machine, _ in machines(whole):
        assert machine.run().failed
        told.append(machine.failure)
    assert told[0] == told[1]
    assert "pe.csl:3" in told[0]
