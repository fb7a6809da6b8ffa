"""A program with a function for each mistake that shows only as code runs, and the host's part of it."""

from __future__ import annotations

LAYOUT = """\
const memcpy = @import_module("<memcpy/get_params>", .{ .width = 2, .height = 1 });
layout {
  @set_rectangle(2, 1);
  for (@range(i16, 2)) |x| {
    @set_tile_code(x, 0, "pe.csl", .{ .memcpy_params = memcpy.get_params(x) });
  }
  @export_name("y", [*]f32, true);
  @export_name("index", fn(i16)void);
  @export_name("through", fn(u16)void);
  @export_name("divide", fn(i32)void);
  @export_name("check", fn(bool)void);
  @export_name("unrouted", fn()void);
  @export_name("uninitialised", fn()void);
  @export_name("twice", fn()void);
  @export_name("listen", fn()void);
  @export_name("forget", fn()void);
}
"""
PE = """\
param memcpy_params: comptime_struct;
const sys_mod = @import_module("<memcpy/memcpy>", memcpy_params);
var y: [8]f32;
var y_ptr: [*]f32 = &y;
var n: i32 = 100;
var words: [50]u32;
const nowhere = @get_dsd(fabout_dsd, .{
  .extent = 4, .fabric_color = @get_color(5), .output_queue = @get_output_queue(2) });
const quiet = @get_dsd(fabin_dsd, .{
  .extent = 4, .fabric_color = @get_color(6), .input_queue = @get_input_queue(3) });
const closed = @get_dsd(fabin_dsd, .{
  .extent = 4, .fabric_color = @get_color(7), .input_queue = @get_input_queue(4) });
const memory = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{4} -> words[i] });

fn index(i: i16) void {
  y[i] = 1.0;
  sys_mod.unblock_cmd_stream();
}
fn through(i: u16) void {
  y_ptr[i] = 1.0;
  sys_mod.unblock_cmd_stream();
}
fn divide(by: i32) void {
  n = n / by;
  sys_mod.unblock_cmd_stream();
}
fn check(fine: bool) void {
  @assert(fine);
  sys_mod.unblock_cmd_stream();
}
fn unrouted() void {
  @mov32(nowhere, memory);
  sys_mod.unblock_cmd_stream();
}
fn uninitialised() void {
  @mov32(memory, closed);
  sys_mod.unblock_cmd_stream();
}
fn twice() void {
  @mov32(memory, quiet, .{ .async = true });
  @mov32(memory, quiet, .{ .async = true });
  sys_mod.unblock_cmd_stream();
}
fn listen() void {
  @mov32(memory, quiet);
  sys_mod.unblock_cmd_stream();
}
fn forget() void {}

comptime {
  @initialize_queue(@get_output_queue(2), .{ .color = @get_color(5) });
  @initialize_queue(@get_input_queue(3), .{ .color = @get_color(6) });
  @export_symbol(y_ptr, "y");
  @export_symbol(index);
  @export_symbol(through);
  @export_symbol(divide);
  @export_symbol(check);
  @export_symbol(unrouted);
  @export_symbol(uninitialised);
  @export_symbol(twice);
  @export_symbol(listen);
  @export_symbol(forget);
}
"""
RUN = """\
import numpy as np
from cerebras.sdk.runtime.sdkruntimepybind import MemcpyDataType, MemcpyOrder, SdkRuntime
how = dict(streaming=False, data_type=MemcpyDataType.MEMCPY_32BIT, order=MemcpyOrder.ROW_MAJOR, nonblock=False)
runner = SdkRuntime("out")
y = runner.get_id("y")
runner.load()
runner.run()
"""
FLAGS = ("--arch=wse3", "--fabric-dims=9,3", "--fabric-offsets=4,1", "--memcpy", "--channels=1", "-o", "out")
