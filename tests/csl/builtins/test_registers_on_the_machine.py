"""What "Data Structure Registers" of SDK 2.10 says of XDSRs, stride registers and circular buffers, on a machine."""

from __future__ import annotations

import pytest
from machine_cases import START, build, run

from openwafer.csl import DiagnosticError

HEAD = """
var a = [10]u16 { 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 };
var b = @zeros([20]u16);
const from = @get_dsr(dsr_src1, 1);
const to = @get_dsr(dsr_dest, 1);
const x = @get_xdsr(1);
const all = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{20} -> b[i] });
comptime { @load_to_dsr(to, all); }
"""


def ran(program: str, tmp_path, architecture="wse3"):
    done = run(HEAD + program + START, tmp_path, architecture, "2.10")
    assert done.failure == ""
    return done


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
def test_a_circular_buffer_begins_again_after_its_last_element(architecture, tmp_path):
    """Its extent may be longer than it is; without `wraparound` the array's size counts."""
    program = """
const ring = @get_dsd(circbuf_dsd, .{ .base_address = &a, .extent = 20 });
comptime { @load_to_dsr_xdsr(from, x, ring); }
task start() void { @mov16(to, from); }
"""
    assert ran(program, tmp_path, architecture)["b"] == [*range(10), *range(10)]


def test_a_circular_buffer_wraps_where_it_says(tmp_path):
    """Five elements, from the third on: the base is where it begins."""
    program = """
const ring = @get_dsd(circbuf_dsd, .{ .base_address = &a[2], .extent = 12, .wraparound = 5 });
task start() void { @load_to_dsr_xdsr(from, x, ring); @mov16(to, from); }
"""
    assert ran(program, tmp_path)["b"][:13] == [2, 3, 4, 5, 6, 2, 3, 4, 5, 6, 2, 3, 0]


def test_a_circular_buffer_that_saves_its_address_goes_on_where_it_stood(tmp_path):
    """Its head moves, its beginning does not."""
    program = """
const ring = @get_dsd(circbuf_dsd, .{ .base_address = &a, .extent = 7, .wraparound = 5 });
comptime { @load_to_dsr_xdsr(from, x, ring, .{ .save_address = true }); }
task start() void {
  @mov16(@set_dsd_length(all, 7), from);
  @mov16(@increment_dsd_offset(@set_dsd_length(all, 7), 7, u16), from);
}
"""
    assert ran(program, tmp_path)["b"][:14] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1, 2, 3]


def test_a_circular_buffer_takes_elements_of_two_words(tmp_path):
    """The wraparound counts elements, whatever their size, and a variable may hold the DSD."""
    program = """
var wide = [3]u32 { 70000, 80000, 90000 };
var out = @zeros([5]u32);
var ring = @get_dsd(circbuf_dsd, .{ .base_address = &wide, .extent = 5 });
const there = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{5} -> out[i] });
task start() void { @load_to_dsr_xdsr(from, x, @set_dsd_length(ring, 4)); @mov32(there, from); }
"""
    assert ran(program, tmp_path)["out"] == [70000, 80000, 90000, 70000, 0]


def test_a_circular_buffer_can_be_written(tmp_path):
    """The last elements that go round are what stays."""
    program = """
const ring = @get_dsd(circbuf_dsd, .{ .base_address = &b, .extent = 10, .wraparound = 4 });
const source = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{10} -> a[i] });
task start() void { @load_to_dsr_xdsr(to, x, ring); @mov16(to, source); }
"""
    assert ran(program, tmp_path)["b"][:5] == [8, 9, 6, 7, 0]


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
def test_a_matrix_is_read_through_stride_registers(architecture, tmp_path):
    """Two dimensions whose inner stride is not 1 need one; the same as code runs needs all three."""
    program = """
const rows = @get_dsd(mem4d_dsd, .{ .tensor_access = |i, j|{2, 3} -> a[5 * i + 2 * j] });
var held = rows;
const s = .{ @get_sr(0), @get_sr(1), @get_sr(2) };
comptime { @load_to_dsr_xdsr_sr(from, x, .{ s[0] }, rows); }
task start() void {
  @mov16(@set_dsd_length(all, 6), from);
  @load_to_dsr_xdsr_sr(from, x, s, held);
  @mov16(@increment_dsd_offset(@set_dsd_length(all, 6), 6, u16), from);
}
"""
    assert ran(program, tmp_path, architecture)["b"][:13] == [0, 2, 4, 5, 7, 9, 0, 2, 4, 5, 7, 9, 0]


def test_a_register_gets_another_base(tmp_path):
    """In place, before the program starts and as it runs; length and stride stay."""
    program = """
const few = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{2} -> a[i] });
comptime {
  @load_to_dsr(from, few);
  @set_dsr_base_addr(from, &a[4]);
}
fn part(at: i16) mem1d_dsd { return @increment_dsd_offset(@set_dsd_length(all, 2), at, u16); }
task start() void {
  @mov16(part(0), from);
  const pointer: [*]u16 = &a;
  @set_dsr_base_addr(from, pointer);
  @mov16(part(2), from);
  @set_dsr_base_addr(from, &a[7]);
  @mov16(part(4), from);
}
"""
    assert ran(program, tmp_path)["b"][:7] == [4, 5, 0, 1, 7, 8, 0]


def test_registers_compare_and_have_numbers(tmp_path):
    """SDK 2.10: `==` on DSRs, XDSRs and SRs, and @get_int."""
    program = """
const s = @get_sr(3);
comptime {
  @comptime_assert(from == @get_dsr(dsr_src1, 1) and from != @get_dsr(dsr_src1, 2));
  @comptime_assert(s == @get_sr(3) and x != @get_xdsr(2));
  @comptime_assert(@get_int(s) == 3 and @get_int(x) == 1 and @get_int(to) == 1);
}
task start() void {}
"""
    ran(program, tmp_path)


WRONG = {
    "a circular buffer as an operand": (
        "task start() void { @mov16(all, ring); }",
        "a circbuf_dsd cannot be an operand by itself",
    ),
    "a circular buffer in a DSR alone": (
        "comptime { @load_to_dsr(from, ring); }",
        "write @load_to_dsr_xdsr(dsr, xdsr, dsd)",
    ),
    "a matrix in a DSR alone": (
        "comptime { @load_to_dsr(from, rows); }",
        "write @load_to_dsr_xdsr_sr(dsr, xdsr, .{ sr, ... }, dsd)",
    ),
    "too many stride registers": (
        "comptime { @load_to_dsr_xdsr_sr(from, x, .{ @get_sr(0) }, rows); }",
        "this mem4d_dsd needs 0 stride registers, found 1",
    ),
    "too few for one that is not known": (
        "var held = rows;\ntask start() void { @load_to_dsr_xdsr_sr(from, x, .{ @get_sr(0) }, held); }",
        "this mem4d_dsd needs 3 stride registers, found 1; one that only running code knows needs all of them",
    ),
    "a wraparound behind the array": (
        "const c = @get_dsd(circbuf_dsd, .{ .base_address = &a, .extent = 20, .wraparound = 15 });"
        "comptime { @load_to_dsr_xdsr(from, x, c); }",
        "`wraparound` is 1 to the 10 elements of the array, found 15",
    ),
    "no wraparound": (
        "const c = @get_dsd(circbuf_dsd, .{ .base_address = &a[2], .extent = 20 });"
        "comptime { @load_to_dsr_xdsr(from, x, c); }",
        "this circbuf_dsd needs `wraparound`",
    ),
    "an XDSR of a FIFO": (
        "var buffer = @zeros([4]u16);\nconst f = @allocate_fifo(buffer, .{ .dest = @get_dsr(dsr_dest, 4), "
        ".src = @get_dsr(dsr_src1, 4), .xdsr = x });\ntask start() void { @mov16(f, all); }\n"
        "comptime { @load_to_dsr_xdsr(from, x, ring); }",
        "xdsr 1 belongs to a FIFO",
    ),
    "a base for an empty register": (
        "comptime { @set_dsr_base_addr(from, a); }",
        "this register holds no memory DSD yet",
    ),
}


@pytest.mark.parametrize(("program", "message"), WRONG.values(), ids=WRONG)
def test_registers_that_do_not_fit_are_errors(program, message, tmp_path):
    """Each names what would be right."""
    head = (
        HEAD
        + """
const ring = @get_dsd(circbuf_dsd, .{ .base_address = &a, .extent = 20 });
const rows = @get_dsd(mem4d_dsd, .{ .tensor_access = |i, j|{2, 5} -> a[5 * i + j] });
"""
    )
    if "task start" not in program:
        program += "\ntask start() void {}"
    with pytest.raises(DiagnosticError, match=r".*") as raised:
        build(head + program + START, tmp_path, dialect="2.10")
    assert message in str(raised.value)


def test_a_base_for_a_register_without_a_memory_dsd_fails_as_the_program_runs(tmp_path):
    """A message, and not another register's memory."""
    done = run(
        HEAD + START + "task start() void { @set_dsr_base_addr(from, a); }\n", tmp_path, dialect="2.10"
    )

    assert "@set_dsr_base_addr changes dsr_src1 1, which holds no memory DSD" in done.failure


@pytest.mark.parametrize("program", ["const c: circbuf_dsd = a;", "const s = @get_sr(0);"])
def test_dialect_1_4_has_none_of_them(program, tmp_path):
    """The message names the dialect."""
    with pytest.raises(DiagnosticError) as raised:
        build(
            HEAD
            + program
            + START
            + "task start() void {}\ncomptime { @comptime_print("
            + program.split()[1].strip(":")
            + "); }\n",
            tmp_path,
        )
    assert "dialect 2.10" in str(raised.value)
