"""Builtins that the compiler evaluates: programs that assert what the documentation says."""

from __future__ import annotations

import json

import pytest
from meaning_cases import unit_of

CLAIMS = {
    "as": "@as(i16, 11.2) == 11 and @as(i16, -10.8) == -10 and @as(bool, -5) and !@as(bool, -0.0)",
    "bitcast": "@bitcast(u16, @as(f16, 1.0)) == 0x3c00 and @bitcast(i16, @as(u16, 0xffff)) == -1",
    "is_same_type": "@is_same_type(@type_of(@as(u16, 1)), u16) and !@is_same_type(i16, u16)",
    "element_type": "@is_same_type(@element_type([3, 5]f16), f16)",
    "element_count": "@element_count([3, 5, 7]f16) == 105",
    "dimensions": "@dimensions([3, 5, 7]f16)[1] == 5 and @is_same_type(@type_of(@dimensions([3]u8)), [1]u32)",
    "rank": "@rank([3, 5, 7]f16) == 3",
    "fp16": "@is_same_type(@fp16(), f16)",
    "is_comptime": "@is_comptime()",
    "get_int of ids": "@get_int(@get_local_task_id(29)) == 29 and @is_same_type(@type_of(@get_int(@get_color(3))), u16)",
    "get_int of an integer": "@is_same_type(@type_of(@get_int(@as(i8, -10))), i8)",
    "strlen": '@strlen("") == 0 and @strlen("abc123") == 6',
    "strcat": '@strlen(@strcat()) == 0 and @strlen(@strcat("hello", " ", "world!")) == 12',
    "get_array": '@get_array("abc")[1] == 98 and @is_same_type(@type_of(@get_array("\\u{3053}")), [3]u8)',
    "get_string_from_byte": "@get_array(@get_string_from_byte(65))[0] == 65",
    "field": '@field(.{ .a = 10 }, "a") == 10',
    "has_field": '@has_field(.{ .blah = 10 }, "blah") and !@has_field(.{ .blah = 10 }, "blub")',
    "concat_structs": "@concat_structs(.{ .foo = 10 }, .{ .bar = -1 }).bar == -1",
    "concat_structs of tuples": "@concat_structs(.{ 1, 2 }, .{ 3 })[2] == 3",
    "concat_structs of nothing": "@concat_structs(.{}, .{ .a = 3 }).a == 3",
    "is_arch": '@is_arch("wse3") and !@is_arch("wse2")',
    "zeros": "@zeros([4, 5]f32)[3, 4] == 0.0",
    "constants": "@constants([4, 5]i16, 10)[3, 4] == 10",
    "range": "@range_start(@range(i32, 3, 9, 2)) == 3 and @range_stop(@range(u32, 13)) == 13",
    "range_step": "@range_step(@range(i32, 3, 9, 2)) == 2 and @range_step(@range(i32, 3)) == 1",
    "get_data_task_id": "@get_int(@get_data_task_id(@get_input_queue(5))) == 5",
    "get_ut_id": "@get_int(@get_ut_id(6)) == 6",
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS)
def test_builtins_give_what_the_documentation_says(claim, tmp_path):
    """Each claim is an example of "Builtins", or follows from its text."""
    unit_of(f"comptime {{ @comptime_assert({claim}); }}", tmp_path)


def test_a_claim_that_is_wrong_is_found(tmp_path):
    """Else the test above would show nothing."""
    with pytest.raises(Exception, match="does not hold"):
        unit_of("comptime { @comptime_assert(@rank([3]f16) == 2); }", tmp_path)


def test_a_field_can_be_assigned_by_its_name(tmp_path):
    """@field stands left of `=` too."""
    unit_of(
        'comptime { var s = .{ .a = 10 }; @field(s, "a") = 20; @comptime_assert(s.a == 20); }',
        tmp_path,
    )


def test_the_type_of_an_expression_makes_no_code(tmp_path):
    """ "No code is generated for the input expression"."""
    unit = unit_of(
        "var n: u16 = 0;\nfn next() u16 { n += 1; return n; }\n"
        "task t() void { @comptime_assert(@is_same_type(@type_of(next()), u16)); }\n"
        "comptime { @bind_local_task(t, @get_local_task_id(9)); }\n",
        tmp_path,
    )

    assert unit.functions["t"].blocks[0].instructions == []


@pytest.mark.parametrize("half", ["f16", "bf16", "cb16"])
def test_the_16_bit_float_is_the_one_that_was_chosen(half, tmp_path):
    """--fp16-format decides what @fp16() is."""
    unit_of(f"comptime {{ @comptime_assert(@is_same_type(@fp16(), {half})); }}", tmp_path, half=half)


def test_values_come_from_json(tmp_path):
    """Arrays by the type that is asked for, objects by the types in their labels."""
    (tmp_path / "a.json").write_text(json.dumps([1, 2, 3, 4, 5, 6]))
    (tmp_path / "s.json").write_text(json.dumps({"n:u16": 3, "on:bool": True, "a:[2]f32": [0.5, 1.5]}))
    unit_of(
        'const a = @import_comptime_value([2, 3]u16, "a.json");\n'
        'const s = @import_comptime_value(comptime_struct, "s.json");\n'
        "comptime { @comptime_assert(a[1, 0] == 4 and s.n == 3 and s.on and s.a[1] == 1.5); }\n",
        tmp_path,
    )


def test_what_is_shown_while_compiling_is_collected(tmp_path):
    """@comptime_print is seen once for each time it is reached."""
    from openwafer.csl.layout._programs import Programs, make_program
    from openwafer.csl.sema._core import Options
    from openwafer.csl.sema._module import Files

    path = tmp_path / "t.csl"
    path.write_text('comptime { for ([2]i16 {1, 2}) |n| { @comptime_print("n", n, .{ .a = true }); } }')
    files, made = Files("1.4"), Programs()
    make_program(files.load(path), {}, Options(), files, made)

    assert [text for _, text in made.printed] == ["n 1 .{.a = true}", "n 2 .{.a = true}"]
