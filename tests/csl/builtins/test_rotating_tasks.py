"""@bind_rotating_tasks (SDK 2.10, "Builtins for WSE-3"), on a machine."""

from __future__ import annotations

import pytest
from machine_cases import START, build, loop, run

from openwafer.csl import DiagnosticError

HEAD = """
var order = @zeros([40]u16);
var count: u16 = 0;
fn note(what: u16) void { order[count] = what; count += 1; }
task main(data: u32) void { note(@as(u16, data)); }
const iq = @get_input_queue(0);
const more_iq = @get_input_queue(1);
"""
SEND = """
const out = @get_dsd(fabout_dsd, .{ .extent = 1, .output_queue = @get_output_queue(2) });
task start() void { for (@range(u32, 9)) |i| { @mov32(out, i + 1); } }
"""
QUEUES = """
  @initialize_queue(iq, .{ .color = @get_color(3) });
  @initialize_queue(@get_output_queue(2), .{ .color = @get_color(3) });
""" + loop(3)


def ran(program: str, tmp_path) -> list[float]:
    done = run(HEAD + program + SEND + START, tmp_path, dialect="2.10")
    assert done.failure == ""
    return done["order"]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (".limit = 3", [1, 2, 3, 104, 5, 6, 7, 108, 9]),
        (".limit = 3, .init = 2", [1, 102, 3, 4, 5, 106, 7, 8, 9]),
        (".limit = 1", [1, 102, 3, 104, 5, 106, 7, 108, 9]),
        (".limit = 0", [100 + i for i in range(1, 10)]),
    ],
)
def test_after_so_many_starts_the_other_task_takes_the_wavelet(config, expected, tmp_path):
    """The counter starts at `init`; the control task comes in place of the data task as it stands at `limit`."""
    program = f"""
task alt(data: u32) void {{ note(100 + @as(u16, data)); }}
comptime {{
  @bind_rotating_tasks(main, alt, @get_data_task_id(iq), .{{ {config} }});
  @set_control_task_table();
{QUEUES}
}}
"""
    assert ran(program, tmp_path)[:9] == expected


def test_the_other_task_may_take_no_argument(tmp_path):
    """As in the documentation; a task of the same number in the other table does not matter."""
    program = f"""
task alt() void {{ note(100); }}
comptime {{
  @bind_rotating_tasks(main, alt, @get_data_task_id(iq), .{{ .limit = 4 }});
  @set_control_task_table();
{QUEUES}
}}
"""
    assert ran(program, tmp_path)[:9] == [1, 2, 3, 4, 100, 6, 7, 8, 9]


def test_two_queues_rotate_with_control_tables_of_their_own(tmp_path):
    """Both alternates are control task 0 of their queue, so each queue has a table."""
    program = f"""
task alt(data: u32) void {{ note(100 + @as(u16, data)); }}
task second(data: u32) void {{ note(200 + @as(u16, data)); }}
task alt_second() void {{ note(300); }}
const back = @get_dsd(fabout_dsd, .{{ .extent = 1, .output_queue = @get_output_queue(3) }});
task again() void {{ for (@range(u32, 5)) |i| {{ @mov32(back, i + 1); }} }}
comptime {{
  @bind_rotating_tasks(main, alt, @get_data_task_id(iq), .{{ .limit = 3 }});
  @bind_rotating_tasks(second, alt_second, @get_data_task_id(more_iq), .{{ .limit = 2 }});
  @set_control_task_table();
{QUEUES}
  @initialize_queue(more_iq, .{{ .color = @get_color(4), .ctrl_table_id = 1 }});
  @initialize_queue(@get_output_queue(3), .{{ .color = @get_color(4) }});
  {loop(4)}
  @bind_local_task(again, @get_local_task_id(10));
  @activate(@get_local_task_id(10));
}}
"""
    order = [int(one) for one in ran(program, tmp_path) if one]
    assert [one for one in order if one < 200] == [1, 2, 3, 104, 5, 6, 7, 108, 9]
    assert [one for one in order if one >= 200] == [201, 202, 300, 204, 205]


ALT = "task alt() void {}\n"
WRONG = {
    "one table for two": (
        ALT + "task other(data: u32) void {}\ncomptime {\n"
        "  @bind_rotating_tasks(main, alt, @get_data_task_id(iq), .{ .limit = 3 });\n"
        "  @bind_rotating_tasks(other, alt, @get_data_task_id(more_iq), .{ .limit = 3 });\n"
        "  @set_control_task_table();\n  @initialize_queue(more_iq, .{ .color = @get_color(4) });\n",
        "control task 0 of input queue 1 is `alt`, but its id 0 already runs the control task `alt`",
    ),
    "no control table": (
        ALT + "comptime {\n  @bind_rotating_tasks(main, alt, @get_data_task_id(iq), .{ .limit = 3 });\n",
        "control task 0 of input queue 0 is `alt`, but its id 0 already runs the data task `main`",
    ),
    "no limit": (
        ALT + "comptime {\n  @bind_rotating_tasks(main, alt, @get_data_task_id(iq), .{ .init = 3 });\n",
        "a rotation needs `limit`",
    ),
    "a start behind the limit": (
        ALT
        + "comptime {\n  @bind_rotating_tasks(main, alt, @get_data_task_id(iq), .{ .init = 3, .limit = 2 });\n",
        "`init` is out of range: 3",
    ),
    "a data task without data": (
        ALT + "comptime {\n  @bind_rotating_tasks(alt, alt, @get_data_task_id(iq), .{ .limit = 2 });\n",
        "the data task `alt` needs a parameter for the wavelet's data",
    ),
}


@pytest.mark.parametrize(("program", "message"), WRONG.values(), ids=WRONG)
def test_rotations_that_cannot_be_are_errors(program, message, tmp_path):
    """Each names what is missing, and where the other one stands."""
    with pytest.raises(DiagnosticError) as raised:
        build(HEAD + program + QUEUES + "}\n" + SEND + START, tmp_path, dialect="2.10")
    assert message in str(raised.value)


def test_only_the_wse3_and_dialect_2_10_rotate(tmp_path):
    """The error says what to do instead."""
    rotate = "@bind_rotating_tasks(main, alt, @get_data_task_id(ID), .{ .limit = 2 });"
    program = HEAD + ALT + f"comptime {{ {rotate} }}\n"
    for architecture, dialect, id, message in (
        ("wse2", "2.10", "@get_color(3)", "only the WSE-3 rotates tasks"),
        ("wse3", "1.4", "iq", "`@bind_rotating_tasks` is part of dialect 2.10 only"),
    ):
        with pytest.raises(DiagnosticError) as raised:
            build(
                program.replace("ID", id) + START + "task start() void {}\n",
                tmp_path,
                architecture,
                dialect,
            )
        assert message in str(raised.value)
