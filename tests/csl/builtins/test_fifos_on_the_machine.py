"""What "Data Structure Descriptors" says of FIFOs, on a machine."""

from __future__ import annotations

import pytest
from machine_cases import START, loop, run

HEAD = """
var buffer = @zeros([4]u16);
const fifo = @allocate_fifo(buffer);
var a = [6]u16 { 1, 2, 3, 4, 5, 6 };
var b = @zeros([6]u16);
const from = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{6} -> a[i] });
const to = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{6} -> b[i] });
var told = @zeros([4]u16);
fn tell(at: u16, complete: bool) void { told[at] = if (complete) 1 else 2; }
"""


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
def test_an_operation_tells_whether_a_fifo_cut_it_short(architecture, tmp_path):
    """Four of six fit; then four of six are there. What is moved is moved."""
    program = (
        HEAD
        + START
        + """
task start() void {
  tell(0, @mov16(fifo, @set_dsd_length(from, 3)));
  const second: bool = @mov16(fifo, @set_dsd_length(from, 3));
  tell(1, second);
  if (!@mov16(to, fifo)) { told[2] = 7; }
  told[3] = if (@mov16(to, from)) 1 else 2;
}
"""
    )
    ran = run(program, tmp_path, architecture)

    assert ran.failure == ""
    assert ran["told"] == [1, 2, 7, 1]


def test_a_register_of_a_fifo_is_the_fifo(tmp_path):
    """@allocate_fifo loads the registers that it is given; dsr_fifo types tell of early ends as the FIFO itself does."""
    program = (
        HEAD.replace(
            "@allocate_fifo(buffer)",
            "@allocate_fifo(buffer, .{ .dest = @get_dsr(dsr_dest, 4), .src = @get_dsr(dsr_src1, 4), .xdsr = @get_xdsr(1) })",
        )
        + START
        + """
const into = @get_dsr(dsr_fifo_dest, 4);
const out_of = @get_dsr(dsr_fifo_src1, @get_dsr(dsr_src1, 4));
task start() void {
  tell(0, @mov16(into, from));
  tell(1, @mov16(@set_dsd_length(to, 3), out_of));
  tell(2, @mov16(fifo, @set_dsd_length(from, 1)));
}
"""
    )
    ran = run(program, tmp_path)

    assert ran.failure == ""
    assert ran["told"] == [2, 1, 1, 0]
    assert ran["b"] == [1, 2, 3, 0, 0, 0]


def test_a_scalar_keeps_its_value_where_a_fifo_runs_empty(tmp_path):
    """What was popped until then is gone, as the documentation says."""
    program = (
        HEAD
        + START
        + """
var last: [2]u16;
task start() void {
  last[0] = 77;
  last[1] = 78;
  @mov16(fifo, @set_dsd_length(from, 2));
  @set_fifo_read_length(fifo, 3);
  tell(0, @mov16(&last[0], fifo));
  @mov16(fifo, @set_dsd_length(from, 2));
  @set_fifo_read_length(fifo, 2);
  tell(1, @mov16(&last[1], fifo));
  @set_fifo_read_length(fifo, 1);
  tell(2, @mov16(&last[1], fifo));
}
"""
    )
    ran = run(program, tmp_path)

    assert ran.failure == ""
    assert ran["told"] == [2, 1, 2, 0]
    assert ran["last"] == [77, 2]


def test_a_fifo_keeps_how_much_an_operation_left(tmp_path):
    """After an early end the FIFO's own length is what remained, and the next operation takes that many."""
    program = (
        HEAD
        + START
        + """
task start() void {
  @set_fifo_write_length(fifo, 6);
  tell(0, @mov16(fifo, 9));
  tell(1, @mov16(@set_dsd_length(to, 3), fifo));
  tell(2, @mov16(fifo, 5));
  tell(3, @mov16(to, fifo));
}
"""
    )
    ran = run(program, tmp_path)

    assert ran.failure == ""
    assert ran["told"] == [2, 1, 1, 2]
    assert ran["b"] == [9, 5, 5, 0, 0, 0]


def test_an_asynchronous_operation_waits_where_a_synchronous_one_ends(tmp_path):
    """A full FIFO suspends the sender's microthread; all six arrive."""
    program = (
        HEAD
        + START
        + """
const in = @get_dsd(fabin_dsd, .{ .extent = 6, .input_queue = @get_input_queue(2) });
const out = @get_dsd(fabout_dsd, .{ .extent = 6, .output_queue = @get_output_queue(2) });
const next_id = @get_local_task_id(9);
task start() void {
  @mov16(out, from, .{ .async = true, .ut_id = @get_ut_id(6) });
  @mov16(fifo, in, .{ .async = true, .activate = next_id });
  @mov16(to, fifo, .{ .async = true, .ut_id = @get_ut_id(5) });
}
task next() void { told[0] = 1; }
comptime {
  @bind_local_task(next, next_id);
  @initialize_queue(@get_input_queue(2), .{ .color = @get_color(3) });
  @initialize_queue(@get_output_queue(2), .{ .color = @get_color(3) });
"""
        + loop(3)
        + "}\n"
    )
    ran = run(program, tmp_path)

    assert ran.failure == ""
    assert ran["told"] == [1, 0, 0, 0]
    assert ran["b"] == [1, 2, 3, 4, 5, 6]


def test_a_shortage_and_its_end_activate_tasks(tmp_path):
    """activate_pop only after the FIFO was full, activate_push only after it was empty."""
    program = (
        HEAD.replace(
            "@allocate_fifo(buffer)",
            "@allocate_fifo(buffer, .{ .activate_pop = popped, .activate_push = pushed })",
        )
        + START
        + """
task pushed() void { told[0] += 1; }
task popped() void { told[1] += 1; }
task start() void {
  @mov16(fifo, @set_dsd_length(from, 2));
  @mov16(@set_dsd_length(to, 2), fifo);
  told[2] = told[0] + told[1];
  @mov16(@set_dsd_length(to, 1), fifo);
  @mov16(fifo, from);
  @mov16(@set_dsd_length(to, 1), fifo);
}
comptime {
  @bind_local_task(pushed, @get_local_task_id(10));
  @bind_local_task(popped, @get_local_task_id(11));
}
"""
    )
    ran = run(program, tmp_path)

    assert ran.failure == ""
    assert ran["told"] == [1, 1, 0, 0]
