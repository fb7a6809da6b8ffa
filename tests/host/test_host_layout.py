"""SdkLayout: numbers for colors, ways for connections, and the program that comes out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from host_cases import FakeMachine

import openwafer.csl._compile
from openwafer.artifact._image import Image, Program, Symbol, Tile
from openwafer.base import InputError
from openwafer.host import (
    Color,
    Edge,
    IntRectangle,
    IntVector,
    Route,
    RoutingPosition,
    SdkLayout,
    SdkRuntime,
    SdkTarget,
    get_edge_routing,
    get_platform,
)

STEPS = {"EAST": (1, 0, "WEST"), "WEST": (-1, 0, "EAST"), "NORTH": (0, -1, "SOUTH"), "SOUTH": (0, 1, "NORTH")}


@pytest.fixture
def compiled(monkeypatch, tmp_path):
    """Compiles any layout to PEs with v: [4]u16; the texts of the layouts are in the list."""
    (tmp_path / "pe.csl").write_text("")
    texts: list[str] = []

    def compile_program(path, *, architecture, fabric, **_):
        texts.append(path.read_text())
        places = [line.split("(")[1].split(", ")[:2] for line in texts[-1].splitlines() if "pe.csl" in line]
        program = Program(
            name="pe.csl", code=0, memory=b"", memory_bytes=1024, symbols=(Symbol("v", 64, 8, "[4]u16"),)
        )
        return Image(
            architecture=architecture,
            fabric=fabric,
            offset=(0, 0),
            rectangle=fabric,
            programs=(program,),
            tiles=tuple(Tile(int(x), int(y), 0) for x, y in places),
        )

    monkeypatch.setattr(openwafer.csl._compile, "compile_program", compile_program)
    return texts


def layout(target: SdkTarget = SdkTarget.WSE3) -> SdkLayout:
    return SdkLayout(get_platform(None, target=target))


def position(*, rx: tuple[Route, ...] = (), tx: tuple[Route, ...] = ()) -> RoutingPosition:
    return RoutingPosition().set_input(list(rx)).set_output(list(tx))


FROM_RAMP = position(rx=(Route.RAMP,))
TO_RAMP = position(tx=(Route.RAMP,))


def arrivals(image: Image, x: int, y: int, color: int) -> set[tuple[int, int]]:
    """Where wavelets that a PE's ramp sends come out at a ramp, by following the routes; each must be let in."""
    tiles = {(tile.x, tile.y): tile.routes for tile in image.tiles}
    found, todo, seen = set(), [(x, y, "RAMP")], set()
    while todo:
        x, y, came = todo.pop()
        assert (x, y, came) not in seen, "wavelets go in circles"
        seen.add((x, y, came))
        route = tiles[x, y][color]
        assert came in route.rx, f"PE ({x}, {y}) does not take color {color} from {came}"
        for side in route.tx:
            if side == "RAMP":
                found.add((x, y))
            else:
                dx, dy, enters = STEPS[side]
                todo.append((x + dx, y + dy, enters))
    return found


def test_connected_ports_get_one_number_and_a_way(compiled):
    """The regions of the public program sdklayout-03: three connections, two of them with colors of one name."""
    made = layout()
    senders = []
    for name, place in (("sender1", (2, 2)), ("sender2", (4, 7))):
        region = made.create_code_region("pe.csl", name, 1, 1)
        color = region.color("tx")
        region.set_param_all(color)
        senders.append(region.create_output_port(color, Edge.RIGHT, [FROM_RAMP], 10))
        region.place(*place)
    adder = made.create_code_region("pe.csl", "add2vec", 1, 1)
    rx1, rx2, tx = Color("rx1"), Color("rx2"), Color("tx")
    ports = [adder.create_input_port(color, Edge.RIGHT, [TO_RAMP], 10) for color in (rx1, rx2)]
    out = adder.create_output_port(tx, Edge.LEFT, [FROM_RAMP], 10)
    adder.place(7, 4)
    receiver = made.create_code_region("pe.csl", "receiver", 1, 1)
    rx = Color("rx")
    into = receiver.create_input_port(rx, Edge.LEFT, [TO_RAMP], 10)
    receiver.place(3, 3)
    made.connect(senders[0], ports[0])
    made.connect(senders[1], ports[1])
    made.connect(out, into)

    image = made.compile("out").image()

    numbers = [color.get_value() for color in (rx1, rx2, tx)]
    assert len(set(numbers)) == 3
    assert senders[0].color.get_value() == rx1.get_value()
    assert rx.get_value() == tx.get_value()
    assert arrivals(image, 2, 2, rx1.get_value()) == {(7, 4)}
    assert arrivals(image, 4, 7, rx2.get_value()) == {(7, 4)}
    assert arrivals(image, 7, 4, tx.get_value()) == {(3, 3)}
    assert f".tx = @get_color({rx1.get_value()})" in compiled[0]


def test_wide_ports_are_connected_lane_by_lane(compiled):
    """The first PE of one edge reaches the first of the other, and lanes of one color never meet."""
    made = layout()
    left = made.create_code_region("pe.csl", "left", 1, 3)
    right = made.create_code_region("pe.csl", "right", 3, 1)
    tx, rx = left.color("c"), right.color("c")
    out = left.create_output_port(tx, Edge.RIGHT, [FROM_RAMP], 6)
    into = right.create_input_port(rx, Edge.BOTTOM, [TO_RAMP], 6)
    left.place(1, 6)
    right.place(3, 1)
    made.connect(out, into)

    image = made.compile("out").image()

    color = tx.get_value()
    assert [arrivals(image, 1, 6 + lane, color) for lane in range(3)] == [
        {(3 + lane, 1)} for lane in range(3)
    ]


def test_neighbours_are_connected_without_a_tile_between(compiled):
    """Two regions side by side share a link."""
    made = layout()
    left, right = (made.create_code_region("pe.csl", name, 1, 1) for name in "ab")
    out = left.create_output_port(Color("o"), Edge.RIGHT, [FROM_RAMP], 1)
    into = right.create_input_port(Color("i"), Edge.LEFT, [TO_RAMP], 1)
    assert made.hstack([left, right], IntVector(3, 3)) == 2
    made.connect(out, into)

    image = made.compile("out").image()

    assert arrivals(image, 3, 3, out.color.get_value()) == {(4, 3)}
    assert len(image.tiles) == 2


def test_positions_become_switch_positions(compiled):
    """Position 0 is the route; later ones name only what they change. Edges may differ."""
    made = layout(SdkTarget.WSE2)
    region = made.create_code_region("pe.csl", "demux", 3, 1)
    color = region.color("c")
    keep = position(rx=(Route.WEST,), tx=(Route.RAMP,))
    forward = position(rx=(Route.WEST,), tx=(Route.EAST,))
    region.paint_all(color, [keep, forward], [get_edge_routing(Edge.RIGHT, [keep])])

    image = made.compile("out").image()

    first, last = image.tiles[0].routes[color.get_value()], image.tiles[2].routes[color.get_value()]
    assert (first.rx, first.tx) == (("WEST",), ("RAMP",))
    assert [(one.rx, one.tx) for one in first.positions] == [(None, ("EAST",))]
    assert last.positions == ()


def test_streams_are_ports_at_the_edge_of_their_tile(compiled):
    """The host's words enter where the port's edge is, and the runtime finds them by the stream's name."""
    made = layout()
    region = made.create_code_region("pe.csl", "add", 1, 1)
    into = region.create_input_port(Color("i", 5), Edge.RIGHT, [TO_RAMP], 4)
    out = region.create_output_port(Color("o"), Edge.LEFT, [FROM_RAMP], 4)
    region.place(7, 4)

    names = made.create_input_stream(into), made.create_output_stream(out)
    image = made.compile("out", save_port_map=True).image()
    beside = json.loads(Path("out_port_map.json").read_text())

    ports = {port.name: (port.direction, port.x, port.y, port.side, port.color) for port in image.ports}
    assert ports == {
        names[0]: ("in", 7, 4, "EAST", 5),
        names[1]: ("out", 7, 4, "WEST", out.color.get_value()),
    }
    assert image.tiles[0].routes[5].rx == ("EAST",)
    assert [one["port_name"] for one in beside["buses"]] == list(names)


def test_a_dealt_out_array_is_in_memory_before_the_program_starts(compiled, tmp_path):
    """set_symbol_all gives each PE its block of rows and columns, row by row."""
    made = layout()
    region = made.create_code_region("pe.csl", "gemv", 2, 2)
    region.place(1, 1)
    region.set_symbol_all("v", np.arange(16, dtype=np.uint16), 4, 4)
    runtime = SdkRuntime(made.compile("out"), get_platform(), memcpy_required=False, machine=FakeMachine)

    runtime.load()
    runtime.run()
    runtime.stop()

    assert list(runtime.read_symbol(2, 2, "v", dtype="uint16")) == [10, 11, 14, 15]


def test_parameters_differ_by_place(compiled):
    """One PE, a rectangle up to before its second corner, or all."""
    made = layout()
    region = made.create_code_region("pe.csl", "r", 3, 1)
    region.set_param_all("size", 4)
    region.set_param_range(IntRectangle(IntVector(1, 0), IntVector(3, 1)), "size", 5)
    region.set_param(IntVector(2, 0), "size", 6)

    made.compile("out")

    assert [line.split(".size = ")[1][0] for line in compiled[0].splitlines() if ".size" in line] == [
        "4",
        "5",
        "6",
    ]


def wrong_overlap(made, a, b):
    made.compile("out")


def wrong_way(made, a, b):
    made.connect(b, a)


def wrong_sizes(made, a, b):
    b.region.place(5, 5)
    made.connect(a, b.region.create_input_port(Color("x"), Edge.TOP, [TO_RAMP], 3))
    made.compile("out")


def wrong_numbers(made, a, b):
    b.region.place(5, 5)
    one, other = Color("one", 3), Color("other", 4)
    made.connect(
        a.region.create_output_port(one, Edge.RIGHT, [FROM_RAMP], 1),
        b.region.create_input_port(other, Edge.LEFT, [TO_RAMP], 1),
    )
    made.compile("out")


def wrong_clash(made, a, b):
    b.region.place(5, 5)
    for name in ("one", "other"):
        a.region.paint(IntVector(0, 0), Color(name, 7), [position(rx=(Route.RAMP,), tx=(Route.EAST,))])
    made.compile("out")


def wrong_paint(made, a, b):
    b.region.place(5, 5)
    a.region.paint(IntVector(0, 0), Color("c"), [FROM_RAMP])
    made.compile("out")


def wrong_wall(made, a, b):
    b.region.place(5, 0)
    made.connect(a.region.create_output_port(a.color, Edge.LEFT, [FROM_RAMP], 2, "w"), b)
    made.compile("out")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (wrong_overlap, r"code regions 'a' and 'b' overlap on PE \(0, 0\)"),
        (wrong_way, "connect takes an output port and an input port, not input port"),
        (wrong_sizes, "sends 2 words over 1 PEs, and 'b_x' receives 3"),
        (wrong_numbers, "whose numbers differ"),
        (wrong_clash, r"have one number and meet on PE \(0, 0\)"),
        (wrong_paint, "position 0 is RoutingPosition\\(RAMP -> nothing\\); it needs an input and an output"),
        (wrong_wall, r"no way from PE \(0, 0\)"),
        (lambda made, a, b: a.region.place(-1, 0), "outside of the fabric"),
        (
            lambda made, a, b: a.region.create_output_port(a.color, Edge.TOP, [], 1),
            "has a port 'a_tx' already",
        ),
        (lambda made, a, b: a.region.set_param_all("x", 1.5), "expected a whole number or a Color"),
        (
            lambda made, a, b: a.region.set_symbol_all("v", np.zeros(3, np.int32), 3, 2),
            "do not deal out evenly",
        ),
        (lambda made, a, b: made.create_code_region("no.csl", "c", 1, 1), "there is no file no.csl"),
        (lambda made, a, b: made.create_code_region("pe.csl", "a", 1, 1), "names are unique"),
        (lambda made, a, b: made.create_input_stream(a), "cannot be a stream that way"),
        (lambda made, a, b: Color("c", 24), "number 24; a router has 0 to 23"),
        (lambda made, a, b: IntRectangle(IntVector(2, 0), IntVector(1, 1)), "ends before it begins"),
    ],
)
def test_a_wrong_layout_says_what_to_change(compiled, wrong, message):
    """A layout is checked as a whole before anything is compiled."""
    made = layout()
    a = made.create_code_region("pe.csl", "a", 1, 1)
    b = made.create_code_region("pe.csl", "b", 1, 1)
    out = a.create_output_port(Color("tx"), Edge.RIGHT, [FROM_RAMP], 2)
    into = b.create_input_port(Color("rx"), Edge.LEFT, [TO_RAMP], 2)

    with pytest.raises(InputError, match=message):
        wrong(made, out, into)
    assert compiled == []


SENDER = """
param size: u16;
param tx: color;
const queue = @get_output_queue(2);
var data = @zeros([size]u32);
const from = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{size} -> data[i] });
const out = @get_dsd(fabout_dsd, .{ .extent = size, .fabric_color = tx, .output_queue = queue });
const main_id = @get_local_task_id(8);
task main() void { @mov32(out, from, .{ .async = true }); }
comptime {
  @bind_local_task(main, main_id);
  @activate(main_id);
  if (@is_arch("wse3")) { @initialize_queue(queue, .{ .color = tx }); }
}
"""
KEEPER = """
param size: u16;
param rx: color;
param more: color;
param tx: color;
const queues = .{ @get_input_queue(2), @get_input_queue(3) };
const queue = @get_output_queue(2);
const a = @get_dsd(fabin_dsd, .{ .extent = size, .fabric_color = rx, .input_queue = queues[0] });
const b = @get_dsd(fabin_dsd, .{ .extent = size, .fabric_color = more, .input_queue = queues[1] });
const out = @get_dsd(fabout_dsd, .{ .extent = size, .fabric_color = tx, .output_queue = queue });
var held = @zeros([size]u32);
const memory = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{size} -> held[i] });
const first_id = @get_local_task_id(8);
const then_id = @get_local_task_id(9);
task first() void { @mov32(memory, a, .{ .async = true, .activate = then }); }
task then() void { @mov32(out, b, .{ .async = true }); }
comptime {
  @bind_local_task(first, first_id);
  @bind_local_task(then, then_id);
  @activate(first_id);
  @initialize_queue(queues[0], .{ .color = rx });
  @initialize_queue(queues[1], .{ .color = more });
  if (@is_arch("wse3")) { @initialize_queue(queue, .{ .color = tx }); }
}
"""


@pytest.mark.parametrize("target", list(SdkTarget))
def test_a_layout_runs_on_the_fabric(tmp_path, target):
    """A sender with dealt-out values, a region that keeps them, and the host's words through it and back."""
    (tmp_path / "sender.csl").write_text(SENDER)
    (tmp_path / "keeper.csl").write_text(KEEPER)
    platform = get_platform(None, target=target)
    made = SdkLayout(platform)
    sender = made.create_code_region("sender.csl", "sender", 1, 1)
    tx = sender.color("tx")
    sender.set_param_all("size", 5)
    sender.set_param_all(tx)
    sender.set_symbol_all("data", np.arange(5, dtype=np.uint32) * 11, 5, 1)
    sender.place(6, 5)
    keeper = made.create_code_region("keeper.csl", "keeper", 1, 1)
    rx, more, out = keeper.color("rx"), Color("more"), Color("tx")
    keeper.set_param_all("size", 5)
    for color in (rx, more, out):
        keeper.set_param_all(color)
    keeper.place(2, 2)
    made.connect(
        sender.create_output_port(tx, Edge.TOP, [FROM_RAMP], 5),
        keeper.create_input_port(rx, Edge.LEFT, [TO_RAMP], 5),
    )
    into = made.create_input_stream(keeper.create_input_port(more, Edge.TOP, [TO_RAMP], 5))
    back = made.create_output_stream(keeper.create_output_port(out, Edge.RIGHT, [FROM_RAMP], 5))
    runtime = SdkRuntime(made.compile("out"), platform, memcpy_required=False)
    sent, received = np.array([1.5, -2, 3, 4, 5], np.float32), np.zeros(5, np.float32)

    runtime.load()
    runtime.run()
    runtime.send(into, sent, nonblock=True)
    runtime.receive(back, received, 5, nonblock=True)
    runtime.stop()

    assert list(received) == list(sent)
    assert list(runtime.read_symbol(2, 2, "held", dtype="uint32")) == [0, 11, 22, 33, 44]
