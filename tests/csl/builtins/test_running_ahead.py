"""Scalar code is executed ahead of its cycle; microthreads see what it stores from that cycle on."""

from __future__ import annotations

import pytest
from machine_cases import START, loop, run

PROGRAM = """
const wave = @get_color(3);
const in_queue = @get_input_queue(2);
const out_queue = @get_output_queue(3);
const done_id = @get_local_task_id(9);
var sent = @zeros([40]u32);
var got = @zeros([40]u32);
const from = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{40} -> sent[i] });
const to = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{40} -> got[i] });
const out = @get_dsd(fabout_dsd, .{ .extent = 40, .fabric_color = wave, .output_queue = out_queue });
const in = @get_dsd(fabin_dsd, .{ .extent = 40, .fabric_color = wave, .input_queue = in_queue });
comptime { @initialize_queue(in_queue, .{ .color = wave }); }
comptime { if (@is_arch("wse3")) { @initialize_queue(out_queue, .{ .color = wave }); } }
""" + loop(3).replace("@set_local", "comptime { @set_local").replace(");\n", "); }\n")


def received(tmp_path, architecture: str, after: str) -> list[int]:
    """What a PE gets that sends 0 to 39 to itself and goes on with `after`."""
    code = f"""
task start() void {{
  for (@range(u32, 40)) |i| {{ sent[i] = i; }}
  @mov32(to, in, .{{ .async = true }});
  @mov32(out, from, .{{ .async = true }});
  {after}
}}
"""
    ran = run(PROGRAM + code + START, tmp_path, architecture)
    assert ran.failure == ""
    return ran["got"]


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
def test_a_microthread_sends_what_stood_there_when_it_read(tmp_path, architecture):
    """It reads an element a cycle, and a loop takes longer for each: it never catches up, as on the wafer."""
    after = "for (@range(u32, 40)) |i| { sent[i] = 1000 + i; }"

    assert received(tmp_path, architecture, after) == list(range(40))


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
def test_a_microthread_sees_stores_that_come_before_it(tmp_path, architecture):
    """From the end backwards the loop meets the microthread: what it has overtaken is sent as it was, the rest is new."""
    after = "for (@range(u32, 40)) |i| { sent[39 - i] = 1000; }"

    got = received(tmp_path, architecture, after)

    meets = got.index(1000)
    assert 5 < meets < 38
    assert got == [*range(meets), *[1000] * (40 - meets)]
