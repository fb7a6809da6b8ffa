"""Each use of a builtin that the public reference shows, in programs of our own: they compile, and give what it says."""

from __future__ import annotations

import pytest
from machine_cases import LAYOUT, START, build, run

# Claims that hold as the program compiles: "Builtins".
CLAIMS = {
    "as": "@as(i16, 11.2) == 11 and @as(i16, 10.8) == 10 and @as(i16, -10.8) == -10",
    "as of a bool": "!@as(bool, 0) and !@as(bool, -0.0) and @as(bool, -5)",
    "as of a literal": "@is_same_type(@type_of(@as(f16, 10)), f16)",
    "bitcast": "@bitcast(u16, @as(f16, 1.0)) == 0x3c00",
    "bitcast of what is no number": "@bitcast(u16, @bitcast(f16, @as(u16, 0x7e00))) == 0x7e00",
    "bitcast of infinity": "@bitcast(u32, @bitcast(f32, @as(u32, 0x7f800000))) == 0x7f800000",
    "bitcast to a number that is none": "@as(bool, @bitcast(f16, @as(u16, 0xffff)))",
    "concat_structs": "@concat_structs(.{ .foo = 10 }, .{ .bar = -1 }).bar == -1",
    "constants": "@constants([4, 5]i16, 10)[3, 4] == 10",
    "dimensions": "@dimensions([3, 5, 7]f16)[1] == 5 and @is_same_type(@type_of(@dimensions([3]f16)), [1]u32)",
    "element_count": "@element_count([3, 5, 7]f16) == 105",
    "element_type": "@is_same_type(@element_type([3, 5, 7]f16), f16)",
    "field": '@field(.{ .a = 10 }, "a") == 10',
    "fp16": "@is_same_type(@fp16(), f16)",
    "get_array": '@get_array("abc")[2] == 99',
    "get_array of text that is not ASCII": '@element_count(@type_of(@get_array("\u3053\u3093\u306b\u3061\u306f"))) == 15',
    "get_int of an id": "@get_int(@get_local_task_id(29)) == 29",
    "get_color where there is none": "@get_int(@get_color(32)) == 32 and @get_color(32) != @get_color(3)",
    "get_int of a color": "@is_same_type(@type_of(@get_int(@get_color(3))), u16)",
    "get_int of a number": "@get_int(@as(i8, -10)) == -10",
    "get_int of an enum": "@get_int(pair.SECOND) == 2 and @is_same_type(@type_of(@get_int(pair.FIRST)), u32)",
    "get_rectangle": "@get_rectangle().width == 1 and @get_rectangle().fabric.width == 1",
    "get_string_from_byte": "@strlen(@get_string_from_byte(65)) == 1 and @get_array(@get_string_from_byte('\\n'))[0] == 10",
    "has_field": '@has_field(.{ .blah = 10 }, "blah") and !@has_field(.{ .blah = 10 }, "b")',
    "is_arch": '@is_arch("wse3") and !@is_arch("wse2")',
    "is_arch of a machine that nothing is compiled for": '!@is_arch("wse1")',
    "is_comptime": "@is_comptime()",
    "range_start": "@range_start(@range(i32, 3, 9, 2)) == 3",
    "range_stop": "@range_stop(@range(u32, 13)) == 13",
    "range_step": "@range_step(@range(i32, 3, 9, 2)) == 2",
    "rank": "@rank([3, 5, 7]f16) == 3",
    "strcat": '@strlen(@strcat("hello", " ", "world!")) == 12 and @strlen(@strcat()) == 0',
    "strlen of a choice": '@strlen(if (42 == 42) "abc" else "abc123") == 3',
    "type_of": "@is_same_type(@type_of(@as(u16, 3)), u16)",
    "zeros": "@zeros([4, 5]f16)[1, 1] == 0.0",
}


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=CLAIMS.keys())
def test_what_is_said_of_a_builtin_holds_at_compile_time(claim, tmp_path):
    """A claim that does not hold stops the compilation."""
    head = START + "const pair = enum(u32) { FIRST = 1, SECOND = 2 };\ntask start() void {}\n"
    build(f"{head}comptime {{ @comptime_assert({claim}); }}\n", tmp_path)


# Code, and what the array `r` holds at the end.
USES = {
    "activate": ("@activate(@get_local_task_id(10));", [11]),
    "assert": ("@assert(x == 5); r[0] = 1;", [1]),
    "bitcast": ("r[0] = @bitcast(i16, @as(f16, 1.0));", [0x3C00]),
    "a pointer from a number": ("const p = @bitcast(*i16, @bitcast(u16, &r[1])); p.* = 4;", [0, 4]),
    "ptrcast": ("const p = @ptrcast(*u16, &r[0]); p.* = 9;", [9]),
    "field as a place": (
        'var s = both { .a = 1, .b = 2 }; @field(s, "a") = 20; r[0] = s.a; r[1] = s.b;',
        [20, 2],
    ),
    "range with a step": ("for (@range(i16, 1, 8, 3)) |i| { r[0] += i; }", [12]),
    "range downwards": ("for (@range(i16, 2, -3, -1)) |i| { r[0] += 1; r[1] = i; }", [5, -2]),
    "an empty range": ("for (@range(i16, 2, 7, -1)) |i| { r[0] = i; }", [0]),
    "a range up to a variable": ("for (@range(i16, x)) |i| { r[0] += i; }", [10]),
    "a range in a variable": (
        "var q = @range(u16, n); n = 9; r[0] = @as(i16, @range_stop(q)); for (q) |i| { r[1] += @as(i16, i); }",
        [3, 3],
    ),
    "a range as an argument": ("r[0] = total(@range(i16, 4)); r[1] = total(@range(i16, x));", [6, 10]),
    "a range out of a function": ("for (up_to(x)) |i| { r[0] += i; }", [10]),
    "constants of running code": ("const c = @constants([9]i16, x); x = 6; r = c;", [5] * 9),
    "is_comptime": ("r[0] = comptime known(); r[1] = known();", [1, 2]),
    "random16": (
        "const a = @random16(); const b: i16 = @as(i16, @random16()); r[0] = if (@as(i16, a) == b) 0 else 1;",
        [1],
    ),
    "set_active_prng": ("@set_active_prng(@as(u16, x)); r[0] = 1;", [1]),
    "set_config": ("@set_config(0x7e00, 45); r[0] = @as(i16, @get_config(0x7e00));", [45]),
    "set_config within a range": (
        "const at = 0x7e00 + @as(u16, x); @set_config(at, 7, .{ 0x7e00, 0x7e0f });"
        "r[0] = @as(i16, @get_config(at, .{ .{ 0x7e00, 0x7e04 }, .{ 0x7e05, 0x7e0f } }));",
        [7],
    ),
    "set_config unchecked": (
        "@set_config_unchecked(0x7e00, 3); r[0] = @as(i16, @get_config_unchecked(0x7e00));",
        [3],
    ),
    "block and unblock": ("@block(@get_local_task_id(10)); @activate(@get_local_task_id(10));", [0]),
    "block, then unblock": (
        "@block(@get_local_task_id(10)); @activate(@get_local_task_id(10)); @unblock(@get_local_task_id(10));",
        [11],
    ),
    "ids of running code": ("const id = @get_local_task_id(@as(u16, x) + 5); @activate(id);", [11]),
    "get_int of an id of running code": ("r[0] = @as(i16, @get_int(@get_local_task_id(@as(u16, x))));", [5]),
    "map into memory": ("@map(doubled, S, D);", [2, 4, 6]),
    "map with a value": ("@map(plus, S, x, D);", [6, 7, 8]),
    "map into a scalar": ("@map(plus, S, x, &r[7]);", [0, 0, 0, 0, 0, 0, 0, 8]),
    "map without a result": ("@map(note, S);", [0, 0, 0, 0, 0, 0, 6]),
    "map on registers": (
        "const i = @get_dsr(dsr_src1, 2); const o = @get_dsr(dsr_dest, 3);"
        "@load_to_dsr(i, S, .{ .single_step = true }); @load_to_dsr(o, D, .{ .single_step = true }); @map(doubled, i, o);",
        [2, 4, 6],
    ),
    "add16 with a constant": ("@add16(D, S, 10);", [11, 12, 13]),
    "a pointer as destination": ("@mov16(&r[5], S);", [0, 0, 0, 0, 0, 3]),
    "a base address": ("@mov16(@set_dsd_base_addr(D, other), S); r[0] = other[2];", [3]),
    "a base address by a pointer": ("@mov16(@set_dsd_base_addr(D, &other), S); r[0] = other[1];", [2]),
    "a base address from a pointer in memory": (
        "var p: [*]i16 = &r; const d = @get_dsd(mem1d_dsd,"
        " .{ .base_address = p, .stride = @as(i8, 2), .extent = n }); @mov16(d, S);",
        [1, 0, 2, 0, 3],
    ),
    "an offset": ("@mov16(@increment_dsd_offset(D, 2, i16), S);", [0, 0, 1, 2, 3]),
    "an offset backwards": (
        "@mov16(@increment_dsd_offset(@increment_dsd_offset(D, 4, i16), -x + 2, i16), S);",
        [0, 1, 2, 3],
    ),
    "a length": ("@mov16(D, @set_dsd_length(S, 2));", [1, 2]),
    "a stride": ("@mov16(@set_dsd_stride(D, 2), S);", [1, 0, 2, 0, 3]),
    "a stride of 0": ("@mov16(@set_dsd_stride(D, 0), S);", [3]),
    "a tensor access as a struct": (
        "const d = @get_dsd(mem1d_dsd, .{ .tensor_access = .{ .base_address = &r, .stride = 2, .extent = 3 } }); @mov16(d, S);",
        [1, 0, 2, 0, 3],
    ),
    "parts of a tensor access": (
        "const a = |i|{3} -> r[2 * i + 1];"
        "const d = @get_dsd(mem1d_dsd, .{ .base_address = a.base_address,"
        " .offset = a.offset, .stride = a.stride, .extent = a.extent });"
        "@mov16(d, S);",
        [0, 1, 0, 2, 0, 3],
    ),
    "an index": ("@mov16(I, S, .{ .index = @as(u16, x) });", [0, 0, 0, 0, 0, 1, 2, 3]),
    "an index that nobody asked for": ("@mov16(D, S, .{ .index = @as(u16, x) });", [1, 2, 3]),
    "an index of a DSD in a variable": ("var d = I; @mov16(d, S, .{ .index = 2 });", [0, 0, 1, 2, 3]),
    "two dims": (
        "@mov16(@get_dsd(mem4d_dsd, .{ .tensor_access = |i, j|{2, 2} -> m[i, j] }), 5); r[0] = m[1, 1]; r[1] = m[1, 2];",
        [5, 0],
    ),
    "strides of two dims": (
        "const d = @get_dsd(mem4d_dsd, .{ .base_address = &r, .extent = .{ 3, 3 }, .stride = .{ 1, -1 } });"
        "@mov16(d, @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{9} -> nine[i] }));",
        [1, 4, 7, 8, 9],
    ),
    "registers that keep their address": (
        "const i = @get_dsr(dsr_src1, 2); const o = @get_dsr(dsr_dest, 3);"
        "@load_to_dsr(i, @set_dsd_length(S, 1), .{ .save_address = true });"
        "@load_to_dsr(o, @set_dsd_length(D, 1), .{ .save_address = true });"
        "for (@range(i16, 3)) |_| { @mov16(o, i); }",
        [1, 2, 3],
    ),
    "a destination in src0": (
        "const i = @get_dsr(dsr_src1, 2); const o = @get_dsr(dsr_src0, 3);"
        "@load_to_dsr(i, S); @load_to_dsr(o, D); @add16(o, o, i); @add16(o, o, i);",
        [2, 4, 6],
    ),
    "symbol ids": ("r[0] = if (@get_symbol_id(r_pointer) == @as(u16, x)) 1 else 2;", [2]),
}

PROGRAM = (
    START
    + """
var x: i16 = 5;
var n: u16 = 3;
var r = @zeros([9]i16);
var r_pointer: [*]i16 = &r;
var m = @zeros([3, 3]i16);
var other = @zeros([9]i16);
const source = [3]i16 { 1, 2, 3 };
const nine = [9]i16 { 1, 2, 3, 4, 5, 6, 7, 8, 9 };
const both = struct { a: i16, b: i16 };
const S = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{3} -> source[i] });
const D = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{3} -> r[i] });
const I = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{3} -> r[i], .wavelet_index_offset = true });
fn known() i16 { if (@is_comptime()) { return 1; } else { return 2; } }
fn doubled(a: i16) i16 { return 2 * a; }
fn total(all: anytype) i16 { var sum: i16 = 0; for (all) |i| { sum += i; } return sum; }
fn up_to(stop: i16) @type_of(@range(i16, 1)) { return @range(i16, stop); }
fn plus(a: i16, b: i16) i16 { return a + b; }
fn note(a: i16) void { r[6] += a; }
task ten() void { r[0] = 11; }
comptime { @bind_local_task(ten, @get_local_task_id(10)); }
"""
)


@pytest.mark.parametrize(("code", "expected"), USES.values(), ids=USES.keys())
def test_a_use_of_a_builtin_does_what_is_said(code, expected, tmp_path):
    """The rest of the array stays 0."""
    more = "comptime { @export_symbol(r_pointer); }\n" if "symbol" in code else ""
    layout = LAYOUT.replace("}\n", '  @export_name("r_pointer", [*]i16, true);\n}\n') if more else LAYOUT
    ran = run(f"{PROGRAM}task start() void {{ {code} }}\n{more}", tmp_path, layout=layout)

    assert ran.failure == ""
    assert ran["r"] == expected + [0] * (9 - len(expected))
