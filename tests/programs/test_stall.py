"""A pipeline whose host sends everything before it takes anything: it holds what its queues hold, and says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from program_run import MARGIN, OFFSET, Run

from openwafer.base import StalledError
from openwafer.csl import compile_program

LAYOUT = """\
const memcpy = @import_module("<memcpy/get_params>", .{
  .width = 1, .height = 1, .MEMCPYH2D_1 = @get_color(0), .MEMCPYD2H_1 = @get_color(1) });
layout {
  @set_rectangle(1, 1);
  @set_tile_code(0, 0, "pe.csl", .{ .memcpy_params = memcpy.get_params(0) });
}
"""
PE = """\
param memcpy_params: comptime_struct;
const sys_mod = @import_module("<memcpy/memcpy>", memcpy_params);
const in_queue = @get_input_queue(2);
const out_queue = @get_output_queue(3);
const words_in = @get_dsd(fabin_dsd, .{
  .extent = 1000, .fabric_color = sys_mod.MEMCPYH2D_1, .input_queue = in_queue });
const words_out = @get_dsd(fabout_dsd, .{
  .extent = 1000, .fabric_color = sys_mod.MEMCPYD2H_1, .output_queue = out_queue });
task double() void {
  @fadds(words_out, words_in, 1.5, .{ .async = true });
}
comptime {
  @bind_local_task(double, @get_local_task_id(8));
  @activate(@get_local_task_id(8));
  @initialize_queue(in_queue, .{ .color = sys_mod.MEMCPYH2D_1 });
  if (@is_arch("wse3")) { @initialize_queue(out_queue, .{ .color = sys_mod.MEMCPYD2H_1 }); }
}
"""


@pytest.mark.parametrize(("architecture", "most"), [("wse2", 14), ("wse3", 16)])
def test_a_pipeline_holds_what_its_queues_hold_and_then_stalls(
    architecture: Any, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The WSE-2 stalls at 15 words as published, the WSE-3 with its deeper queues at 17; the diagnosis names the queues."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layout.csl").write_text(LAYOUT)
    (tmp_path / "pe.csl").write_text(PE)
    fabric = (16 + MARGIN[0], 16 + MARGIN[1])
    image = compile_program(
        Path("layout.csl"), params={}, architecture=architecture, fabric=fabric, offset=OFFSET, memcpy=True
    )
    fits = Run(image, tmp_path / "fits", {})
    words = np.arange(most, dtype=np.float32).reshape(1, 1, -1)
    fits.stream_in(0, 0, 0, words)
    np.testing.assert_array_equal(fits.stream_out(1, 0, 0, 1, 1, most, np.float32), words + np.float32(1.5))
    fits.stop()

    stalls = Run(image, tmp_path / "stalls", {})
    with pytest.raises(StalledError) as told:
        stalls.stream_in(0, 0, 0, np.zeros((1, 1, most + 1), np.float32))

    lines = str(told.value).splitlines()
    assert lines[0].startswith(
        "memcpy_h2d of color 0 cannot go on: it waits for the words of color 0 to be taken at PE (0, 0), "
    )
    assert lines[1].startswith(
        "hint: the next command of the host begins when the fabric has taken every word"
    )
    assert lines[2:] == [
        "PE (0, 0) pe.csl:",
        f"  microthread 3: @fadds at pe.csl:10:3, {1000 - most + 4} elements to go, waits: output queue 3 is full "
        f"(color 1, {most - 8} wavelets)",
        f"  output queue 3 holds {most - 8} wavelets of color 1 that the router does not take",
        "host: 1 words of color 0 to PE (0, 0) wait for room in its input queue",
    ]
