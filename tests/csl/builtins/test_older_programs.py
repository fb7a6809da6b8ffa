"""What public programs for SDK 1.0 to 1.2 do that newer ones write in another way."""

from __future__ import annotations

import pytest
from machine_cases import START, build, loop, run

EDGE = """
param input: color = @get_color(32);
var used: u16 = 1;
const in = @get_dsd(fabin_dsd, .{ .extent = 1, .fabric_color = input, .input_queue = @get_input_queue(3) });
var word = @zeros([1]u16);
const W = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{1} -> word[i] });
fn receive() void { if (@get_int(input) < 24) { @mov16(W, in); } else { used = 0; } }
"""


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
def test_a_stream_that_is_absent_leaves_a_param_its_default(architecture, tmp_path):
    """<memcpy/get_params> has void for it; a color that is none may be compared, and stand in a DSD that nobody uses."""
    (tmp_path / "edge.csl").write_text(EDGE, "utf-8")
    program = (
        START
        + """
const stream = {};
const edge = @import_module("edge.csl", .{ .input = stream });
var used: u16 = 1;
task start() void { edge.receive(); used = edge.used; }
"""
    )
    ran = run(program, tmp_path, architecture)

    assert not ran.failure
    assert ran["used"] == [0]


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
def test_a_clock_may_be_read_through_registers(architecture, tmp_path):
    """Programs carry a copy of <time> that asks <tile_config>.target where the counter is."""
    program = (
        START
        + """
const config = @import_module("<tile_config>");
const target = config.target;
var words = @zeros([3]u16);
var later = @zeros([3]u16);
var stopped = @zeros([2]u16);
fn control() *u16 { return @bitcast(*u16, @as(u16, target.addresses.PERF_COUNTER_CONTROL)); }
fn word(i: u16) *u16 {
  return @bitcast(*u16, @as(u16, config.addresses.TIMESTAMP_COUNTER) + i * target.word_size);
}
fn read(into: *[target.tsc_size_words]u16) void {
  for (@range(u16, target.tsc_size_words)) |i| { into.*[i] = word(i).*; }
}
task start() void {
  control().* = 7;
  for (@range(u16, 3)) |i| { word(i).* = 0; }
  read(&words);
  for (@range(u16, 20)) |i| { later[2] += i; }
  read(&later);
  control().* = 0;
  stopped[0] = word(0).*;
  stopped[1] = word(0).* + control().*;
}
"""
    )
    ran = run(program, tmp_path, architecture)

    assert not ran.failure
    assert 0 < ran["words"][0] < ran["later"][0] < 1000
    assert ran["words"][1:] == ran["later"][1:] == [0, 0]
    assert ran["stopped"][0] == ran["stopped"][1] > ran["later"][0]


def test_a_route_may_be_set_through_registers_alone(tmp_path):
    """A color is given without directions, and code sets them at `addresses.COLOR_CONFIG`, a byte address."""
    program = (
        START
        + f"""
const target = @import_module("<tile_config>").target;
const c = @get_color(5);
const out = @get_dsd(fabout_dsd, .{{ .extent = 1, .fabric_color = c, .output_queue = @get_output_queue(2) }});
var got: u16 = 0;
task receive(word: u16) void {{ got = word; }}
task start() void {{
  const register = @bitcast(*u16, @as(u16, target.addresses.COLOR_CONFIG) + @get_int(c) * target.word_size);
  register.* |= 0x210;
  @mov16(out, @as(u16, 77), .{{ .async = true }});
}}
comptime {{
  @bind_data_task(receive, @get_data_task_id(c));
  {loop(5).replace(".{ RAMP }", ".{}")}
}}
"""
    )
    ran = run(program, tmp_path, "wse2")

    assert not ran.failure
    assert ran["got"] == [77]


def test_a_control_wavelet_may_name_a_data_task_by_its_color(tmp_path):
    """On the WSE-2, where all tasks share a table; topic-05-switches of SDK 1.0 does so."""
    program = (
        START
        + f"""
const c = @get_color(5);
const out = @get_dsd(fabout_dsd, .{{
  .extent = 1, .fabric_color = c, .output_queue = @get_output_queue(2), .control = true }});
var got: u16 = 0;
task receive(word: u16) void {{ got = word; }}
task start() void {{ @mov32(out, @as(u32, 5 << 16 | 0xaa), .{{ .async = true }}); }}
comptime {{
  @bind_data_task(receive, @get_data_task_id(c));
  {loop(5)}
}}
"""
    )
    ran = run(program, tmp_path, "wse2")

    assert not ran.failure
    assert ran["got"] == [0xAA]


def test_a_tally_needs_no_input_queues(tmp_path):
    """histogram-torus of SDK 1.0 names output queues alone; a single tile completes by itself."""
    layout = """
const tally = @import_module("<kernels/tally/layout>", .{
  .kernel_width = 1, .kernel_height = 1, .phase2_tally = 0, .output_color = @get_color(0),
  .colors = [3]color { @get_color(1), @get_color(2), @get_color(3) } });
layout {
  @set_rectangle(1, 1);
  @set_tile_code(0, 0, "pe.csl", .{ .tally_params = tally.get_params(0, 0) });
}
"""
    program = (
        START
        + """
param tally_params;
const done_id = @get_local_task_id(9);
const tally = @import_module("<kernels/tally/pe>",
  @concat_structs(tally_params, .{ .output_queues = [2]u16 { 4, 5 }, .callback = done_id }));
var completed: u16 = 0;
task done() void { completed += 1; }
task start() void { tally.signal_completion(); }
comptime { @bind_local_task(done, done_id); }
"""
    )
    ran = run(program, tmp_path, "wse2", layout=layout)

    assert not ran.failure
    assert ran["completed"] == [1]


def test_other_machines_do_not_exist(tmp_path):
    """Only names that the vendor gave are taken."""
    with pytest.raises(Exception, match="there is no architecture `wse4`"):
        build(START + 'task start() void { if (@is_arch("wse4")) {} }', tmp_path)
