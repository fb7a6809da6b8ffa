"""The profile `silicon` on the WSE-3: rates that third-party measurement, series F, found on the hardware."""

from __future__ import annotations

import pytest
from machine_cases import LAYOUT, START

from openwafer.csl import compile_program
from openwafer.fabric import Machine, load_timing

MEMORY = """
const N = {elements};
var a: [5120]{type} = @constants([5120]{type}, 1.0);
var b: [5120]{type} = @constants([5120]{type}, 1.0);
const A = @get_dsd(mem1d_dsd, .{{ .tensor_access = |i|{{N}} -> a[i] }});
const B = @get_dsd(mem1d_dsd, .{{ .tensor_access = |i|{{N}} -> b[i] }});
task start() void {{ {operation} }}
"""
SENDER = """
const red = @get_color(3);
const oq = @get_output_queue(2);
var words = @zeros([{elements}]u32);
const D = @get_dsd(mem1d_dsd, .{{ .tensor_access = |i|{{{elements}}} -> words[i] }});
const out = @get_dsd(fabout_dsd, .{{ .extent = {elements}, .output_queue = oq }});
task start() void {{ @mov32(out, D); }}
comptime {{ @initialize_queue(oq, .{{ .color = red }}); }}
"""
RECEIVER = """
const red = @get_color(3);
const iq = @get_input_queue(2);
var words = @zeros([{elements}]u32);
const D = @get_dsd(mem1d_dsd, .{{ .tensor_access = |i|{{{elements}}} -> words[i] }});
const in = @get_dsd(fabin_dsd, .{{ .extent = {elements}, .input_queue = iq }});
task start() void {{ @mov32(D, in); }}
comptime {{ @initialize_queue(iq, .{{ .color = red }}); }}
"""
TWO = """
layout {
  @set_rectangle(2, 1);
  @set_tile_code(0, 0, "pe.csl");
  @set_tile_code(1, 0, "receiver.csl");
  @set_color_config(0, 0, @get_color(3), .{ .routes = .{ .rx = .{ RAMP }, .tx = .{ EAST } } });
  @set_color_config(1, 0, @get_color(3), .{ .routes = .{ .rx = .{ WEST }, .tx = .{ RAMP } } });
}
"""


def cycles(folder, timing, program, layout=LAYOUT):
    (folder / "pe.csl").write_text(program, "utf-8")
    (folder / "layout.csl").write_text(layout, "utf-8")
    image = compile_program(
        folder / "layout.csl", params={}, architecture="wse3", fabric=(2, 1), offset=(0, 0), memcpy=False
    )
    machine = Machine(image, timing=timing)
    machine.run()
    assert not machine.failure
    return machine.cycle


def rate(folder, timing, text, few=1024, many=5120, **names):
    """Elements a cycle, by what more of them cost."""
    times = [cycles(folder, timing, START + text.format(elements=n, **names)) for n in (few, many)]
    return (many - few) / (times[1] - times[0])


@pytest.mark.parametrize(
    ("type", "operation", "measured"),
    [
        ("f16", "@fmovh(A, B);", 4.82),
        ("f32", "@fmovs(A, B);", 2.44),
        ("f16", "@fmach(A, A, B, 2.0);", 2.92),
        ("f32", "@fmacs(A, A, B, 2.0);", 0.50),
    ],
)
def test_vector_operations_have_the_rates_of_the_hardware(tmp_path, type, operation, measured):
    """One entry for all four: each is met within 3 %."""
    found = rate(tmp_path, "silicon", MEMORY, type=type, operation=operation)

    assert found == pytest.approx(measured, rel=0.03)


def test_a_simulated_copy_has_its_full_width(tmp_path):
    """On the vendor's simulator a copy is not held up."""
    found = rate(tmp_path, "sim", MEMORY, type="f16", operation="@fmovh(A, B);")

    assert found == pytest.approx(8.0, rel=0.01)


@pytest.mark.parametrize(("timing", "measured"), [("sim", 1.0), ("silicon", 1.125)])
def test_a_stream_takes_as_many_cycles_a_wavelet_as_measured(tmp_path, timing, measured):
    """A core that sends without a break pauses after every eighth wavelet on silicon."""
    times = []
    for elements in (800, 4000):
        (tmp_path / "receiver.csl").write_text(START + RECEIVER.format(elements=elements), "utf-8")
        times.append(cycles(tmp_path, timing, START + SENDER.format(elements=elements), TWO))

    assert (times[1] - times[0]) / 3200 == pytest.approx(measured, rel=0.001)


def test_a_single_wavelet_is_as_fast_on_silicon(tmp_path):
    """Only wavelets one behind the other wait, so hops and latencies are those of the simulator."""
    times = []
    for timing in ("sim", "silicon"):
        (tmp_path / "receiver.csl").write_text(START + RECEIVER.format(elements=1), "utf-8")
        times.append(cycles(tmp_path, timing, START + SENDER.format(elements=1), TWO))

    assert times[0] == times[1]


def test_a_hop_of_the_wse2_takes_one_cycle_on_silicon():
    """Collectives on a CS-2 were measured to; its simulator takes two."""
    hops = [load_timing("wse2", profile)["network.hop_cycles"] for profile in ("sim", "silicon")]

    assert hops == [2, 1]
