"""Full and empty actions of FIFOs (SDK 2.10, "Data Structure Descriptors"), on a machine."""

from __future__ import annotations

import pytest
from machine_cases import START, build, loop, run

from openwafer.csl import DiagnosticError

HEAD = """
var buffer = @zeros([4]u16);
var a = [6]u16 {{ 1, 2, 3, 4, 5, 6 }};
var b = @zeros([6]u16);
const fifo = @allocate_fifo(buffer, .{{ {0} }});
const from = @get_dsd(mem1d_dsd, .{{ .tensor_access = |i|{{6}} -> a[i] }});
const to = @get_dsd(mem1d_dsd, .{{ .tensor_access = |i|{{6}} -> b[i] }});
var told = @zeros([4]u16);
fn tell(at: u16, complete: bool) void {{ told[at] = if (complete) 1 else 2; }}
"""
LOOP = (
    """
const in = @get_dsd(fabin_dsd, .{ .extent = 6, .input_queue = @get_input_queue(2) });
const out = @get_dsd(fabout_dsd, .{ .extent = 6, .output_queue = @get_output_queue(2) });
const next_id = @get_local_task_id(9);
comptime {
  @bind_local_task(next, next_id);
  @initialize_queue(@get_input_queue(2), .{ .color = @get_color(3) });
  @initialize_queue(@get_output_queue(2), .{ .color = @get_color(3) });
"""
    + loop(3)
    + "}\n"
)


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
def test_an_empty_fifo_terminates_a_pop_that_then_counts_as_complete(architecture, tmp_path):
    """In place of false the operation gives true; a scalar keeps its value, and the length is what was left."""
    program = """
task start() void {
  @mov16(fifo, @set_dsd_length(from, 2));
  tell(0, @mov16(to, fifo));
  tell(1, @mov16(fifo, @set_dsd_length(from, 2)));
  @set_fifo_read_length(fifo, 3);
  told[3] = 77;
  tell(2, @mov16(&told[3], fifo));
}
"""
    ran = run(
        HEAD.format(".empty_action = .{ .terminate = true }") + START + program,
        tmp_path,
        architecture,
        "2.10",
    )

    assert ran.failure == ""
    assert ran["told"] == [1, 1, 1, 77]
    assert ran["b"] == [1, 2, 0, 0, 0, 0]


def test_a_full_fifo_terminates_a_push(tmp_path):
    """Four of six fit, and nobody is told."""
    program = "task start() void { tell(0, @mov16(fifo, from)); tell(1, @mov16(to, fifo)); }\n"
    ran = run(
        HEAD.format(".full_action = .{ .terminate = true }") + START + program, tmp_path, dialect="2.10"
    )

    assert ran.failure == ""
    assert ran["told"] == [1, 2, 0, 0]
    assert ran["b"] == [1, 2, 3, 4, 0, 0]


def test_a_synchronous_operation_suspends_until_a_microthread_has_filled_the_fifo(tmp_path):
    """By default it would end at once with nothing; the machine goes on meanwhile."""
    program = (
        """
task start() void {
  @mov16(out, from, .{ .async = true, .ut_id = @get_ut_id(6) });
  @mov16(fifo, in, .{ .async = true, .activate = next_id });
  tell(0, @mov16(to, fifo));
}
task next() void { told[1] = 1; }
"""
        + LOOP
    )
    ran = run(HEAD.format(".empty_action = .{ .suspend = true }") + START + program, tmp_path, dialect="2.10")

    assert ran.failure == ""
    assert ran["told"] == [1, 1, 0, 0]
    assert ran["b"] == [1, 2, 3, 4, 5, 6]


def test_an_asynchronous_operation_ends_where_an_empty_fifo_terminates(tmp_path):
    """By default it would wait for more; its task is activated as at any end."""
    program = (
        """
task start() void {
  @mov16(fifo, @set_dsd_length(from, 3));
  @mov16(out, fifo, .{ .async = true, .activate = next_id });
}
task next() void {
  told[0] = 1;
  @mov16(@set_dsd_length(to, 3), @set_dsd_length(in, 3));
}
"""
        + LOOP
    )
    ran = run(
        HEAD.format(".empty_action = .{ .terminate = true }") + START + program, tmp_path, dialect="2.10"
    )

    assert ran.failure == ""
    assert ran["told"] == [1, 0, 0, 0]
    assert ran["b"] == [1, 2, 3, 0, 0, 0]


@pytest.mark.parametrize(
    ("field", "code", "message"),
    [
        (
            "full",
            "@mov16(fifo, from);",
            "@mov16 pushes to FIFO 0, which is full and whose .full_action is fault",
        ),
        (
            "empty",
            "@mov16(to, fifo);",
            "@mov16 pops from FIFO 0, which is empty and whose .empty_action is fault",
        ),
    ],
)
def test_a_fault_halts_the_machine_with_its_place(field, code, message, tmp_path):
    """An error that names the FIFO, what it found and the line."""
    ran = run(
        HEAD.format(f".{field}_action = .{{ .fault = true }}") + START + f"task start() void {{ {code} }}\n",
        tmp_path,
        dialect="2.10",
    )

    assert message in ran.failure
    assert "pe.csl" in ran.failure


def test_the_default_is_what_it_always_was(tmp_path):
    """`test_or_suspend`, written out: a synchronous operation ends and tells so."""
    program = "task start() void { tell(0, @mov16(fifo, from)); }\n"
    ran = run(
        HEAD.format(".full_action = .{ .test_or_suspend = true }") + START + program, tmp_path, dialect="2.10"
    )

    assert ran["told"] == [2, 0, 0, 0]


@pytest.mark.parametrize(
    ("field", "architecture", "dialect", "message"),
    [
        (".empty_action = .{ .terminate = true }", "wse3", "1.4", "`empty_action` came with dialect 2.10"),
        (".full_action = .{ .terminate = true }", "wse2", "2.10", "FIFOs of the WSE-2 have no `full_action`"),
        (".empty_action = .{ .suspend = true }", "wse2", "2.10", "FIFOs of the WSE-2 do not suspend"),
        (
            ".empty_action = .{ .stop = true }",
            "wse3",
            "2.10",
            "there are test_or_suspend, terminate, suspend",
        ),
    ],
)
def test_actions_that_a_machine_does_not_have_are_errors(field, architecture, dialect, message, tmp_path):
    """The WSE-2 can only end a pop."""
    program = HEAD.format(field) + START + "task start() void { @mov16(fifo, from); }\n"
    with pytest.raises(DiagnosticError) as raised:
        build(program, tmp_path, architecture, dialect)
    assert message in str(raised.value)
