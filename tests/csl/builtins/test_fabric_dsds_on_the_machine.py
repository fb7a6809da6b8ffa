"""What fabric DSDs, queues and filters do beside moving wavelets, on a machine."""

from __future__ import annotations

import pytest
from machine_cases import START, loop, run

HEAD = """
var a = [4]i16 { 1, 2, 3, 4 };
var b = [4]i16 { 10, 20, 30, 40 };
var r = @zeros([8]i16);
var seen = @zeros([8]u16);
const A = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{4} -> a[i] });
const B = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{4} -> b[i] });
const R = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{4} -> r[i] });
const red = @get_color(3);
const iq = @get_input_queue(2);
const oq = @get_output_queue(2);
const in = @get_dsd(fabin_dsd, .{ .extent = 4, .fabric_color = red, .input_queue = iq });
const next_id = @get_local_task_id(9);
comptime {
  @initialize_queue(iq, .{ .color = red });
  if (@is_arch("wse3")) { @initialize_queue(oq, .{ .color = red }); } else { @initialize_queue(oq); }
}
"""


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
@pytest.mark.parametrize(
    ("which", "operation", "a", "b", "sent"),
    [
        (
            "first_source",
            "@add16(out, A, B, .{ .async = true });",
            [0] * 4,
            [10, 20, 30, 40],
            [11, 22, 33, 44],
        ),
        ("second_source", "@add16(out, A, B, .{ .async = true });", [1, 2, 3, 4], [0] * 4, [11, 22, 33, 44]),
        ("second_source", "@mov16(out, B, .{ .async = true });", [1, 2, 3, 4], [0] * 4, [10, 20, 30, 40]),
    ],
)
def test_a_source_is_cleared_once_it_was_sent(which, operation, a, b, sent, architecture, tmp_path):
    """`zero` of a fabout_dsd; the only source of an operation counts as its second."""
    program = (
        HEAD
        + START
        + f"""
const out = @get_dsd(fabout_dsd, .{{
  .extent = 4, .fabric_color = red, .output_queue = oq, .zero = .{{ .{which} = true }} }});
task start() void {{ {operation} @mov16(R, in, .{{ .async = true{
            ", .ut_id = @get_ut_id(5)" if architecture == "wse3" else ""
        } }}); }}
comptime {{ {loop(3)} }}
"""
    )
    if architecture == "wse2":  # there the queue is the microthread
        program = program.replace("oq = @get_output_queue(2)", "oq = @get_output_queue(4)")
    ran = run(program, tmp_path, architecture)

    assert ran.failure == ""
    assert (ran["a"], ran["b"], ran["r"][:4]) == (a, b, sent)


def test_ids_of_an_operation_may_be_known_only_as_it_runs(tmp_path):
    """The task to activate, the microthread and the queue to unblock are values like others."""
    program = (
        HEAD
        + START
        + """
const out = @get_dsd(fabout_dsd, .{ .extent = 4, .fabric_color = red, .output_queue = oq });
var number: u16 = 10;
var thread: u16 = 6;
task start() void {
  const id = @get_local_task_id(number);
  @mov16(out, A, .{ .async = true, .activate = id, .ut_id = @get_ut_id(thread) });
  number += 1;
  @mov16(R, in, .{ .async = true, .unblock = @get_local_task_id(number) });
}
task sent() void { seen[0] += 1; }
task received() void { seen[1] += 1; seen[2] = @as(u16, r[3]); }
comptime {
  @bind_local_task(sent, @get_local_task_id(10));
  @bind_local_task(received, @get_local_task_id(11));
  @activate(@get_local_task_id(11));
  @block(@get_local_task_id(11));
"""
        + loop(3)
        + "}\n"
    )
    ran = run(program, tmp_path)

    assert ran.failure == ""
    assert ran["seen"][:3] == [1, 1, 4]


def test_a_register_keeps_an_id_that_running_code_gave(tmp_path):
    """@load_to_dsr takes the id of the moment; other operations in between do not change it."""
    program = (
        HEAD
        + START
        + """
const out = @get_dsd(fabout_dsd, .{ .extent = 4, .fabric_color = red, .output_queue = oq });
const register = @get_dsr(dsr_src1, 2);
var number: u16 = 10;
task start() void {
  @load_to_dsr(register, in, .{ .async = true, .activate = @get_local_task_id(number) });
  number = 11;
  @mov16(out, A, .{ .async = true, .activate = @get_local_task_id(number), .ut_id = @get_ut_id(6) });
  @mov16(R, register, .{ .async = true });
}
task received() void { seen[0] += 1; }
task sent() void { seen[1] += 1; }
comptime {
  @bind_local_task(received, @get_local_task_id(10));
  @bind_local_task(sent, @get_local_task_id(11));
"""
        + loop(3)
        + "}\n"
    )
    ran = run(program, tmp_path)

    assert ran.failure == ""
    assert ran["seen"][:2] == [1, 1]


def test_an_emptied_queue_runs_its_own_handler(tmp_path):
    """Input and output queues of one number are told apart, by the handler and by the library's status."""
    program = (
        HEAD
        + START
        + """
const tile_config = @import_module("<tile_config>");
const out = @get_dsd(fabout_dsd, .{ .extent = 4, .fabric_color = red, .output_queue = oq });
fn received() void {
  seen[0] += 1;
  seen[1] = tile_config.queue_flush.iq_status();
  tile_config.queue_flush.exit(iq);
  seen[2] = tile_config.queue_flush.iq_status();
}
fn sent() void {
  seen[3] += 1;
  seen[4] = tile_config.queue_flush.oq_status();
  tile_config.queue_flush.exit(oq);
}
task start() void {
  @mov16(out, A, .{ .async = true, .ut_id = @get_ut_id(6) });
  @mov16(R, in, .{ .async = true, .activate = next_id });
}
task next() void { @queue_flush(oq); @queue_flush(iq); }
comptime {
  @bind_local_task(next, next_id);
  @set_empty_queue_handler(received, iq);
  @set_empty_queue_handler(sent, oq);
"""
        + loop(3)
        + "}\n"
    )
    ran = run(program, tmp_path)

    assert ran.failure == ""
    assert ran["seen"][:5] == [1, 4, 0, 1, 4]


def test_flushing_a_queue_that_nobody_handles_is_an_error(tmp_path):
    """The message names the queue, and what could run."""
    ran = run(HEAD + START + "task start() void { @queue_flush(oq); }\n", tmp_path)

    assert "@queue_flush found output queue 2 empty" in ran.failure
    assert "@set_empty_queue_handler" in ran.failure


def test_a_queue_may_have_a_control_task_table_of_its_own(tmp_path):
    """One id in control wavelets of two colors starts two tasks: tables lie `stride` entries apart."""
    program = (
        START
        + """
const control = @import_module("<control>");
var seen = @zeros([4]u16);
const red = @get_color(3);
const blue = @get_color(4);
const in_red = @get_input_queue(2);
const in_blue = @get_input_queue(3);
const out_red = @get_output_queue(2);
const out_blue = @get_output_queue(3);
const to_red = @get_dsd(fabout_dsd, .{ .extent = 1, .control = true, .fabric_color = red, .output_queue = out_red });
const to_blue = @get_dsd(fabout_dsd, .{ .extent = 1, .control = true, .fabric_color = blue, .output_queue = out_blue });
task start() void {
  const word = control.encode_control_task_payload(@get_control_task_id(10));
  @mov32(to_red, word);
  @mov32(to_blue, word);
}
task of_red() void { seen[0] += 1; }
task of_blue() void { seen[1] += 1; }
task local() void { seen[2] += 1; }
comptime {
  @set_control_task_table(.{ .instructions = 8, .stride = 4 });
  @bind_control_task(of_red, @get_control_task_id(10));
  @bind_control_task(of_blue, @get_control_task_id(18));
  @bind_local_task(local, @get_local_task_id(10));
  @initialize_queue(in_red, .{ .color = red });
  @initialize_queue(in_blue, .{ .color = blue, .ctrl_table_id = 2 });
  @initialize_queue(out_red, .{ .color = red });
  @initialize_queue(out_blue, .{ .color = blue });
  @unblock(in_red);
  @unblock(in_blue);
"""
        + loop(3)
        + loop(4)
        + "}\n"
    )
    ran = run(program, tmp_path)

    assert ran.failure == ""
    assert ran["seen"] == [1, 1, 0, 0]


def test_a_counter_filter_may_pass_control_wavelets_alone(tmp_path):
    """filter_control: of all wavelets only the control wavelet that comes as the counter stands at its maximum."""
    program = (
        START
        + """
const control = @import_module("<control>");
var seen = @zeros([4]u16);
const red = @get_color(3);
const iq = @get_input_queue(2);
const oq = @get_output_queue(2);
const data = @get_dsd(fabout_dsd, .{ .extent = 2, .fabric_color = red, .output_queue = oq });
const word = @get_dsd(fabout_dsd, .{ .extent = 1, .control = true, .fabric_color = red, .output_queue = oq });
task start() void {
  const payload = control.encode_control_task_payload(@get_control_task_id(40));
  @mov32(word, payload);
  @mov32(data, 7);
  @mov32(word, payload | 5);
  @mov32(data, 8);
  @mov32(word, payload);
}
task by_data(value: u32) void { seen[0] += 1; }
task by_control(value: u16) void { seen[1] += 1; seen[2] = value; }
comptime {
  @initialize_queue(iq, .{ .color = red });
  @initialize_queue(oq, .{ .color = red });
  @bind_data_task(by_data, @get_data_task_id(iq));
  @bind_control_task(by_control, @get_control_task_id(40));
"""
        + loop(
            3,
            ", .filter = .{ .kind = .{ .counter = true }, .count_data = true, .limit1 = 9, .max_counter = 2,"
            " .filter_control = true }",
        )
        + "}\n"
    )
    ran = run(program, tmp_path)

    assert ran.failure == ""
    assert ran["seen"] == [0, 1, 5, 0]


def test_more_colors_than_queues_work_without_a_name_on_the_wse2(tmp_path):
    """Synchronous operations need no queue of their own: each of 12 colors takes its word out and back, twice."""
    colors = range(1, 13)
    dsds = "".join(
        f"const o{c} = @get_dsd(fabout_dsd, .{{ .extent = 1, .fabric_color = @get_color({c}) }});\n"
        f"const i{c} = @get_dsd(fabin_dsd, .{{ .extent = 1, .fabric_color = @get_color({c}) }});\n"
        for c in colors
    )
    sends = "".join(f"@mov16(o{c}, @as(u16, {c}) + base); " for c in colors)
    receives = "".join(f"@mov16(&got, i{c}); total[{c - 1}] += got; " for c in reversed(colors))
    program = (
        f"var total = @zeros([12]u16);\nvar got: u16;\n{dsds}{START}"
        f"fn around(base: u16) void {{ {sends}{receives} }}\ntask start() void {{ around(0); around(100); }}\n"
        f"comptime {{ {''.join(loop(c) for c in colors)} }}\n"
    )

    ran = run(program, tmp_path, "wse2")

    assert not ran.failure
    assert ran["total"] == [2 * c + 100 for c in colors]
