"""Recursive functions on a machine: frames in the PE's memory, operations that wait inside them, a stack that is full.

`run_stack.csl` computes with them; here is what needs a machine.
"""

from __future__ import annotations

import pytest
from machine_cases import START, build, loop, run

from openwafer.base import CslError
from openwafer.csl import ir

SUM = """
var sum: i32;
var depth: u16;
fn down(n: u16) i32 {
  if (n == 0) { return 0; }
  return @as(i32, n) + down(n - 1);
}
task start() void { sum = down(%s); }
"""
FRAME_BYTES = 6
"""Of `down`: the number of the call, and n as an i32, which the addition behind the call needs."""


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
def test_a_recursion_goes_as_deep_as_its_stack_has_frames(architecture, tmp_path):
    """The last frame that fits is used; one more is an error with the place of the call and the function."""
    fits = ir.STACK_BYTES // FRAME_BYTES - 1

    assert run(START + SUM % fits, tmp_path, architecture)["sum"] == [fits * (fits + 1) // 2]

    failure = run(START + SUM % (fits + 1), tmp_path, architecture).failure
    line = (START + SUM).splitlines().index("  return @as(i32, n) + down(n - 1);") + 1
    assert f"pe.csl:{line}:" in failure
    assert f"the stack of 4096 bytes is full: this call of `down` needs {FRAME_BYTES} more" in failure


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
def test_a_function_may_wait_in_the_middle_of_a_recursion(architecture, tmp_path):
    """Each level sends a wavelet, and waits for it behind the call: they come back in the order in which they were sent."""
    program = (
        START
        + """
var got = @zeros([4]i16);
var word: [1]i16;
const red = @get_color(3);
const iq = @get_input_queue(2);
const oq = @get_output_queue(2);
const out = @get_dsd(fabout_dsd, .{ .extent = 1, .fabric_color = red, .output_queue = oq });
const in = @get_dsd(fabin_dsd, .{ .extent = 1, .fabric_color = red, .input_queue = iq });
fn level(n: i16) i16 {
  if (n == 0) { return 100; }
  @mov16(out, n);
  const below = level(n - 1);
  var here: i16 = 0;
  @mov16(&here, in);
  got[n - 1] = here;
  return below + here * n;
}
var result: i16;
task start() void { result = level(4); }
comptime {
  @initialize_queue(iq, .{ .color = red });
  if (@is_arch("wse3")) { @initialize_queue(oq, .{ .color = red }); } else { @initialize_queue(oq); }
}
comptime { """
        + loop(3)
        + "}\n"
    )
    ran = run(program, tmp_path, architecture)

    assert not ran.failure
    assert ran["got"] == [4, 3, 2, 1]
    assert ran["result"] == [100 + 4 * 1 + 3 * 2 + 2 * 3 + 1 * 4]


def test_tasks_use_the_stack_one_after_another(tmp_path):
    """A task runs to its end, so cycles that do not lead to each other share one stack; one below another has its own."""
    program = (
        START
        + """
fn a(n: i16) i16 { if (n == 0) { return 0; } return 1 + a(n - 1); }
fn b(n: i16) i16 { if (n == 0) { return 0; } return 2 + b(n - 1); }
fn c(n: i16) i16 { if (n == 0) { return 0; } return a(n) + c(n - 1); }
var r: [3]i16;
task start() void { r[0] = a(5); r[1] = b(5); r[2] = c(5); }
"""
    )
    stacks = [one for one in build(program, tmp_path).programs[0].symbols if one.name.startswith("stack$")]

    assert [one.bytes for one in stacks] == [ir.STACK_BYTES] * 2
    assert run(program, tmp_path)["r"] == [5, 10, 15]


def test_a_frame_that_is_larger_than_the_stack_is_an_error_of_the_compiler(tmp_path):
    """No call of the function could ever run."""
    program = (
        START
        + """
fn f(n: u16) f32 {
  var a: [1100]f32 = @zeros([1100]f32);
  if (n == 0) { return 0.0; }
  a[n] = 1.0;
  return a[n] + f(n - 1);
}
var r: f32;
var k: u16 = 3;
task start() void { r = f(k); }
"""
    )
    with pytest.raises(
        CslError, match=r"recursive function f needs a frame of 4,4\d\d bytes, the stack has 4,096"
    ):
        build(program, tmp_path)
