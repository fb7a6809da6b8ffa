"""Layout blocks: which tiles run which program, with which routes, and what the host is told."""

from __future__ import annotations

import pytest

from openwafer.artifact._image import Route, SwitchPosition
from openwafer.base import InputError
from openwafer.csl._compile import compile_program


def image(folder, layout, *, params=None, colors=None, architecture="wse3", **files):
    """The Image of a layout; `files` are further files by their names without `.csl`."""
    for name, text in {"layout": layout, **files}.items():
        (folder / f"{name}.csl").write_text(text, "utf-8")
    return compile_program(
        folder / "layout.csl",
        params=params or {},
        colors=colors or {},
        architecture=architecture,
        fabric=(300, 300),
        offset=(4, 1),
        memcpy=True,
    )


PE = "param n: u16;\nvar x: u16 = n;\nvar p: [*]u16 = @ptrcast([*]u16, &x);\nfn f() void { x += n; }\n"
PE += 'comptime { @export_symbol(p, "x"); @export_symbol(f); }\n'
NAMES = '@export_name("x", [*]u16, true); @export_name("f", fn()void);'


def test_tiles_with_the_same_file_and_params_share_a_program(tmp_path):
    """Params that are equal are one, however they are written; a thousand tiles of one program compile once."""
    made = image(
        tmp_path,
        "layout { @set_rectangle(4, 2); for (@range(u16, 4)) |x| { for (@range(u16, 2)) |y| {\n"
        f'  @set_tile_code(x, y, "pe.csl", .{{ .n = x / 2 }}); }} }} {NAMES} }}',
        pe=PE,
    )

    programs = {(tile.x, tile.y): tile.program for tile in made.tiles}
    assert len(made.tiles) == 8
    assert len(made.programs) == 2
    assert len(set(programs.values())) == 2
    assert programs[0, 0] == programs[1, 1]
    assert programs[2, 0] == programs[3, 1]
    assert programs[1, 0] != programs[2, 0]


def test_programs_that_differ_in_numbers_share_their_code(tmp_path):
    """Their constants differ, so one piece of code serves them all."""
    made = image(
        tmp_path,
        'layout { @set_rectangle(6, 1); for (@range(u16, 6)) |x| { @set_tile_code(x, 0, "pe.csl", .{ .n = x }); } '
        f"{NAMES} }}",
        pe=PE,
    )

    assert len(made.programs) == 6
    assert len(made.codes) == 1


def test_an_image_says_where_entries_are_declared(tmp_path):
    """Traces show a task with its line, as they do an operation; code that programs share has the places of them all."""
    made = image(
        tmp_path,
        'layout { @set_rectangle(2, 1); for (@range(u16, 2)) |x| { @set_tile_code(x, 0, "pe.csl", .{ .n = x }); } '
        f"{NAMES} }}",
        pe=PE,
    )

    (code,) = made.codes
    assert [program.locations[code.places[program.functions["f"]]][1:] for program in made.programs] == [
        (4, 1)
    ] * 2


def test_a_program_that_asks_for_its_place_at_compile_time_is_made_for_each_tile(tmp_path):
    """<layout> is evaluated where it stands; code that asks as it runs is shared."""
    tiles = 'for (@range(u16, 3)) |x| { @set_tile_code(x, 0, "pe.csl"); }'
    layout = f"layout {{ @set_rectangle(3, 1); {tiles} {NAMES} }}"
    head = 'const place = @import_module("<layout>");\nvar p: [*]u16 = @ptrcast([*]u16, &x);\n'
    tail = (
        'fn f() void { x = place.get_x_coord(); }\ncomptime { @export_symbol(p, "x"); @export_symbol(f); }\n'
    )
    at_comptime = image(tmp_path, layout, pe=head + "var x: u16 = place.get_x_coord() * 10;\n" + tail)
    as_it_runs = image(tmp_path, layout, pe=head + "var x: u16 = 0;\n" + tail)

    values = []
    for tile in at_comptime.tiles:
        program = at_comptime.programs[tile.program]
        address = program.variables["x"]
        values.append(int.from_bytes(program.memory[address : address + 2].ljust(2, b"\0"), "little"))
    assert values == [0, 10, 20]
    assert len(as_it_runs.programs) == 1


def test_tiles_may_run_the_file_of_the_layout_itself(tmp_path):
    """@set_tile_code without a file means this file; its params come from the command line."""
    made = image(
        tmp_path,
        f"param n: u16;\nlayout {{ @set_rectangle(1, 1); @set_tile_code(0, 0); {NAMES} }}\n"
        + PE.removeprefix("param n: u16;\n"),
        params={"n": "7"},
    )

    assert made.params == {"n": "7"}
    assert list(made.programs[0].functions) == ["f"]


def test_routes_come_from_the_layout_and_from_the_program(tmp_path):
    """@set_color_config is about one tile, @set_local_color_config about every tile that runs the program."""
    made = image(
        tmp_path,
        """
        layout {
          @set_rectangle(2, 1);
          @set_tile_code(0, 0, "pe.csl");
          @set_tile_code(1, 0, "pe.csl");
          @set_color_config(1, 0, @get_color(2), .{
            .routes = .{ .rx = .{ WEST, NORTH }, .tx = RAMP }, .teardown = true,
            .switches = .{ .pos1 = .{ .tx = EAST }, .pos3 = .{ .rx = SOUTH }, .ring_mode = true,
                           .current_switch_pos = 1, .pop_mode = .{ .always_pop = true } } });
        }
        """,
        pe="comptime { @set_local_color_config(@get_color(5), .{ .routes = .{ .rx = RAMP, .tx = .{ EAST } } }); }",
    )

    local = Route(rx=("RAMP",), tx=("EAST",))
    first, second = made.tiles
    assert first.routes == {5: local}
    assert second.routes[5] == local
    assert second.routes[2] == Route(
        rx=("WEST", "NORTH"),
        tx=("RAMP",),
        positions=(SwitchPosition(tx=("EAST",)), SwitchPosition(invalid=True), SwitchPosition(rx=("SOUTH",))),
        position=1,
        ring=True,
        pop="always_pop",
        teardown=True,
    )


def test_filters_say_how_many_wavelets_pass(tmp_path):
    """A counter filter passes counts up to `max_counter` and begins again behind `limit1`."""
    made = image(
        tmp_path,
        """
        layout {
          @set_rectangle(1, 1);
          @set_tile_code(0, 0, "<empty>");
          @set_color_config(0, 0, @get_color(2), .{ .routes = .{ .rx = WEST, .tx = RAMP }, .filter = .{
            .kind = .{ .counter = true }, .count_data = true, .limit1 = 9, .max_counter = 2, .init_counter = 4 } });
          @set_color_config(0, 0, @get_color(3), .{ .routes = .{ .rx = WEST, .tx = RAMP }, .filter = .{
            .kind = .{ .range = true }, .min_idx = 3, .max_idx = 5 } });
        }
        """,
    )

    counter, ranged = (made.tiles[0].routes[color].filter for color in (2, 3))
    assert (counter.kind, counter.initial, counter.limit1, counter.maximum) == ("counter", 4, 9, 2)
    assert (counter.count_data, counter.count_control) == (True, False)
    assert (ranged.kind, ranged.minimum, ranged.maximum) == ("range", 3, 5)


def test_colors_are_swapped_on_the_wse2(tmp_path):
    """`color_swap_x` and `_y` belong to the route."""
    made = image(
        tmp_path,
        'layout { @set_rectangle(1, 1); @set_tile_code(0, 0, "<empty>"); @set_color_config(0, 0, @get_color(2), '
        ".{ .routes = .{ .rx = WEST, .tx = EAST, .color_swap_x = true } }); }",
        architecture="wse2",
    )

    assert (made.tiles[0].routes[2].swap_x, made.tiles[0].routes[2].swap_y) == (True, False)


def test_exports_keep_the_order_of_the_layout(tmp_path):
    """The order of @export_name makes the ids that the host asks for."""
    made = image(
        tmp_path,
        'layout { @set_rectangle(1, 1); @set_tile_code(0, 0, "<empty>"); @export_name("z", [*]f32, true);\n'
        '  @export_name("a", fn(i16, f32)void); @export_name("m", u16, false); }',
    )

    assert [(one.name, one.kind, one.type, one.mutable) for one in made.exports] == [
        ("z", "variable", "[*]f32", True),
        ("a", "function", "fn(i16, f32) void", False),
        ("m", "variable", "u16", False),
    ]
    assert made.exports[1].parameters == ("i16", "f32")


def test_streaming_colors_come_from_the_params_of_memcpy(tmp_path):
    """<memcpy/get_params> says which colors the host sends and receives on."""
    made = image(
        tmp_path,
        'param c: color;\nconst memcpy = @import_module("<memcpy/get_params>", .{ .width = 1, .height = 1, '
        ".MEMCPYH2D_1 = c, .MEMCPYD2H_1 = @get_color(5) });\n"
        'layout { @set_rectangle(1, 1); @set_tile_code(0, 0, "pe.csl", .{ .memcpy_params = memcpy.get_params(0) }); }',
        colors={"c": "4"},
        pe='param memcpy_params: comptime_struct;\nconst sys = @import_module("<memcpy/memcpy>", memcpy_params);\n',
    )

    assert made.streams == {4: "in", 5: "out"}
    assert made.memcpy


def test_the_rectangle_is_known_to_layout_and_programs(tmp_path):
    """@get_rectangle gives its size, the fabric's and where it lies."""
    claim = "r.width == 2 and r.height == 1 and r.fabric.width == 300 and r.offsets.width == 4"
    check = f"const r = @get_rectangle(); @comptime_assert({claim});"
    image(
        tmp_path,
        f"layout {{ @set_rectangle(2, 1); {check}\n"
        '  @set_tile_code(0, 0, "pe.csl"); @set_tile_code(1, 0, "pe.csl"); }',
        pe=f"comptime {{ {check} }}",
    )


def test_ten_thousand_tiles_of_one_program_share_it(tmp_path):
    """A layout is as large as the wafer, so what its tiles have in common must be made once."""
    made = image(
        tmp_path,
        """
        const c = @get_color(3);
        const d = @get_color(4);
        layout {
          @set_rectangle(100, 100);
          for (@range(u16, 100)) |x| {
            for (@range(u16, 100)) |y| {
              @set_tile_code(x, y, "<empty>");
              @set_color_config(x, y, c, .{ .routes = .{ .rx = .{ WEST }, .tx = .{ RAMP, EAST } } });
              @set_color_config(x, y, d, .{ .routes = .{ .rx = .{ RAMP }, .tx = .{ SOUTH } } });
            }
          }
        }
        """,
    )

    assert len(made.tiles) == 10_000
    assert len(made.programs) == len(made.codes) == 1


@pytest.mark.parametrize(
    ("declared", "text", "expected"),
    [
        ("n: u16", "0x10", "n == 16"),
        ("n: i16", "-3", "n == -3"),
        ("n: f32", "2", "n == 2.0"),
        ("n: f16", "1e-1", "n == @as(f16, 0.1)"),
        ("n: bool", "true", "n"),
        ("n: color", "5", "@get_int(n) == 5"),
        ("n", "5", "n == 5"),
        ("n", "0.5", "n == 0.5"),
        ("n: comptime_string", "abc", "@strlen(n) == 3"),
    ],
)
def test_params_of_the_command_line_get_their_declared_types(declared, text, expected, tmp_path):
    """The text is read as the type says; a param without a type takes what the text looks like."""
    image(
        tmp_path,
        f'param {declared};\nlayout {{ @comptime_assert({expected}); @set_rectangle(1, 1); @set_tile_code(0, 0, "<empty>"); }}',
        params={"n": text},
    )


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"siz": "3"}, r"--params: .*layout.csl has no param 'siz'; did you mean 'size'\?"),
        (
            {"size": "many"},
            r"--params: 'many' is no value of type u16, which .*layout.csl:1 declares for 'size'",
        ),
        ({"size": "1.5"}, "is no value of type u16"),
    ],
)
def test_a_param_that_cannot_be_is_told(params, message, tmp_path):
    """The option, the param, and what was declared."""
    with pytest.raises(InputError, match=message):
        image(tmp_path, "param size: u16 = 3;\nlayout { @set_rectangle(1, 1); }", params=params)
