"""What comptime blocks say about a program: tasks, queues, routes, exports, registers."""

from __future__ import annotations

import pytest
from meaning_cases import body, lines, unit_of


def tasks(program, folder, architecture="wse3"):
    unit = unit_of(program, folder, architecture)
    return [(one.kind, one.id, one.function, one.active, one.blocked) for one in unit.tasks]


def test_tasks_begin_as_comptime_blocks_say(tmp_path):
    """@activate, @block and @unblock in a comptime block set the state at the start."""
    program = (
        "const a = @get_local_task_id(9);\nconst b = @get_local_task_id(10);\nconst c = @get_data_task_id(@get_input_queue(2));\n"
        "task ta() void {}\ntask tb() void {}\ntask tc(x: u16, i: u16) void {}\n"
        "comptime { @block(b); @bind_local_task(ta, a); @bind_local_task(tb, b); @bind_data_task(tc, c);\n"
        "  @activate(a); @block(c); @block(a); @unblock(a); }\n"
    )

    assert tasks(program, tmp_path) == [
        ("data", 2, "tc", False, True),
        ("local", 9, "ta", True, False),
        ("local", 10, "tb", False, True),
    ]


def test_control_tasks_may_have_a_table_of_their_own(tmp_path):
    """@set_control_task_table decouples their ids from those of local tasks, wherever it stands."""
    program = (
        "task a() void {}\ntask b() void {}\n"
        "comptime { @bind_control_task(a, @get_control_task_id(10)); @set_control_task_table(.{ .stride = 4 });\n"
        "  @bind_local_task(b, @get_local_task_id(10)); }\n"
    )

    assert tasks(program, tmp_path) == [("control", 10, "a", False, False), ("local", 10, "b", False, False)]


def test_the_teardown_id_is_a_handler_for_every_color(tmp_path):
    """Id 29 runs when a color is torn down; @set_teardown_handler names the color."""
    one = "task a() void {}\ncomptime { @bind_local_task(a, @get_local_task_id(29)); }\n"
    other = "fn f() void {}\ncomptime { @set_teardown_handler(f, @get_color(5)); }\n"

    assert tasks(one, tmp_path) == [("teardown", -1, "a", False, False)]
    assert tasks(other, tmp_path) == [("teardown", 5, "f", False, False)]


@pytest.mark.parametrize(
    ("architecture", "what", "machine"),
    [
        ("wse2", "@get_color(3)", "block_color(u16 3)"),
        ("wse3", "@get_input_queue(3)", "block_queue(u16 3)"),
        ("wse3", "@get_ut_id(3)", "block_thread(u16 3)"),
        ("wse3", "@get_local_task_id(13)", "block(u16 13)"),
    ],
)
def test_running_code_blocks_tasks_colors_queues_and_microthreads(architecture, what, machine, tmp_path):
    """Each has its operation of the machine."""
    found = lines(unit_of(body(f"@block({what});"), tmp_path, architecture))

    assert f"machine {machine}" in found


def test_what_is_blocked_from_the_start_can_be_unblocked_again(tmp_path):
    """Colors and queues are no tasks, so they are told apart from them."""
    unit = unit_of(
        "comptime { @block(@get_input_queue(3)); @block(@get_input_queue(4)); @unblock(@get_input_queue(3)); }",
        tmp_path,
    )

    assert unit.blocked == [("queue", 4)]


def test_queues_have_their_colors_and_priorities(tmp_path):
    """On the WSE-2 input queues have a priority, and output queues need nothing."""
    unit = unit_of(
        "comptime { @initialize_queue(@get_input_queue(3), .{ .color = @get_color(5), .priority = .{ .medium = true } });\n"
        "  @initialize_queue(@get_output_queue(3)); }",
        tmp_path,
        "wse2",
    )

    assert [(one.direction, one.number, one.color, one.priority) for one in unit.queues] == [
        ("input", 3, 5, 2)
    ]


def test_exports_know_what_their_pointers_point_to(tmp_path):
    """A const pointer is known for good; of a `var` the host also gets the place where it is kept."""
    unit = unit_of(
        "var a = @zeros([4]f32);\nvar p: [*]f32 = &a;\nconst q: [*]f32 = &a;\nvar n: i16 = 3;\n"
        "fn f(x: i16, y: f32) void {}\n"
        'comptime { @export_symbol(p); @export_symbol(q, "other"); @export_symbol(n); @export_symbol(f, "go"); }\n',
        tmp_path,
    )
    exports = {one.name: one for one in unit.exports}

    assert (exports["p"].pointer, exports["p"].address.symbol) == ("p", "a")
    assert (exports["other"].pointer, exports["other"].address.symbol) == (None, "a")
    assert (exports["n"].pointer, exports["n"].address.symbol) == (None, "n")
    assert (exports["go"].function, exports["go"].parameters) == ("f", ("i16", "f32"))


def test_symbols_have_the_number_of_their_export(tmp_path):
    """@get_symbol_id is what the host's get_id gives."""
    unit_of(
        "var a = @zeros([4]f32);\nvar p: [*]f32 = &a;\nfn f() void {}\n"
        "comptime { @export_symbol(p); @export_symbol(f); @comptime_assert(@get_symbol_id(f) == 1); }\n",
        tmp_path,
    )


def test_registers_are_set_before_the_start_or_by_code(tmp_path):
    """A comptime block reads back what it stored."""
    unit = unit_of(
        body("@set_config(0x7f21, @get_config(0x7e00 + 1));")
        + "comptime { @set_config(0x7e00, 42); @set_config(0x7e00, @get_config(0x7e00) + 3); }\n",
        tmp_path,
    )

    assert unit.config == [(0x7E00, 45)]
    assert "machine config_write(u16 32545, %0)" in lines(unit)


def test_a_filter_has_an_id(tmp_path):
    """In the order of the colors that got one."""
    unit_of(
        "comptime {\n"
        "  @set_local_color_config(@get_color(5), .{ .routes = .{ .rx = WEST, .tx = RAMP }, .filter = .{ "
        ".kind = .{ .range = true }, .min_idx = 3, .max_idx = 5 } });\n"
        "  @set_local_color_config(@get_color(6), .{ .routes = .{ .rx = WEST, .tx = RAMP }, .filter = .{ "
        ".kind = .{ .counter = true }, .count_data = true, .limit1 = 9, .max_counter = 3 } });\n"
        "  @comptime_assert(@get_filter_id(@get_color(6)) == 1);\n}\n",
        tmp_path,
    )


def test_code_finds_exported_variables_by_their_number(tmp_path):
    """@get_tensor_ptr gives the pointer, @get_symbol_value a copy; the number is that of the export."""
    found = lines(
        unit_of(
            body(
                "var p = @get_tensor_ptr(which); var v = @get_symbol_value(i16, which); n = v; p[0] = 3;",
                "var a = @zeros([4]f32);\nvar q: [*]f32 = &a;\nvar n: i16 = 3;\nvar m: i16 = 4;\nvar which: u16 = 1;\n"
                "comptime { @export_symbol(q); @export_symbol(n); @export_symbol(m); }\n",
            ),
            tmp_path,
        )
    )

    first, second = (line for line in found if line.startswith("choose"))
    assert "[0: " in first
    assert "[1: " in second
    assert ", 2: " in second
