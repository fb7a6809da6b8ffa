"""DSD operations, @map, DSRs and FIFOs: the PE-IR that they become."""

from __future__ import annotations

import pytest
from meaning_cases import body, lines, unit_of

from openwafer.csl._diagnostics import DiagnosticError
from openwafer.csl.ir._records import FIELD

HEAD = """
var a = @zeros([10]f32);
var h = @zeros([10]f16);
var n = @zeros([10]i16);
var w = @zeros([10]u32);
var s: f32 = 2.0;
var sh: f16 = 2.0;
var si: i16 = 3;
var su: u32 = 3;
const A = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{10} -> a[i] });
const H = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{10} -> h[i] });
const N = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{10} -> n[i] });
const W = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{10} -> w[i] });
const in = @get_dsd(fabin_dsd, .{ .extent = 10, .fabric_color = @get_color(3), .input_queue = @get_input_queue(2) });
const out = @get_dsd(fabout_dsd, .{ .extent = 10, .fabric_color = @get_color(4), .output_queue = @get_output_queue(2) });
const dest = @get_dsr(dsr_dest, 1);
const src0 = @get_dsr(dsr_src0, 2);
const src1 = @get_dsr(dsr_src1, 3);
const id = @get_local_task_id(9);
"""


def vectors(statements, folder, architecture="wse3", declarations=""):
    found = lines(unit_of(body(statements, HEAD + declarations), folder, architecture))
    return [line for line in found if line.startswith("vector")]


def operands(line):
    """`dsd @a`, `scalar f32 2.0`, ...: the kinds of the operands, and scalars whole."""
    words = []
    for part in (
        line.split(" [")[0]
        .replace("), ", ")|")
        .replace(", scalar", "|scalar")
        .replace(", dsr", "|dsr")
        .split("|")
    ):
        words.append(part)
    return words


@pytest.mark.parametrize(
    ("statement", "kinds"),
    [
        ("@add16(N, N, N);", "dsd dsd dsd"),
        ("@add16(N, 10, N);", "dsd scalar:i16 dsd"),
        ("@add16(N, N, @as(u16, 7));", "dsd dsd scalar:u16"),
        ("@add16(N, N, 40000);", "dsd dsd scalar:u16"),
        ("@sub16(N, N, si);", "dsd dsd scalar:i16"),
        ("@popcnt(N, 5);", "dsd scalar:i16"),
        ("@mov32(W, su);", "dsd scalar:u32"),
        ("@mov32(&su, W);", "pointer dsd"),
        ("@mov16(&si, in);", "pointer dsd"),
        ("@fadds(&s, s, A);", "pointer scalar:f32 dsd"),
        ("@faddhs(&s, s, H);", "pointer scalar:f32 dsd"),
        ("@faddhs(A, sh, A);", "dsd scalar:f16 dsd"),
        ("@fmacs(A, A, A, 2.0);", "dsd dsd dsd scalar:f32"),
        ("@fmacs(A, A, A, 2);", "dsd dsd dsd scalar:f32"),
        ("@fmach(H, H, H, sh);", "dsd dsd dsd scalar:f16"),
        ("@fmachs(A, H, H, 1.5);", "dsd dsd dsd scalar:f16"),
        ("@fh2s(A, H);", "dsd dsd"),
        ("@fs2h(H, s);", "dsd scalar:f32"),
        ("@fs2xp16(&si, s);", "pointer scalar:f32"),
        ("@xp162fs(A, si);", "dsd scalar:i16"),
        ("@fnorms(&s, s);", "pointer scalar:f32"),
        ("@fscales(&s, s, 3);", "pointer scalar:f32 scalar:i16"),
        ("@fmovs(out, in);", "dsd dsd"),
        ("@fmacs(dest, src0, src1, s);", "dsr dsr dsr scalar:f32"),
        ("@fadds(src0, src0, src1);", "dsr dsr dsr"),
        ("@dfilt(in, .{ .async = true });", "dsd"),
    ],
)
def test_operands_are_taken_in_every_documented_form(statement, kinds, tmp_path):
    """The forms of "Builtins for DSD Operations"; a number without a width gets the operation's type."""
    unit = unit_of(body(statement, HEAD), tmp_path)
    vector = next(
        one for block in unit.functions["t"].blocks for one in block.instructions if hasattr(one, "settings")
    )

    found = [f"scalar:{one.type}" if one.kind == "scalar" else one.kind for one in vector.operands]
    assert found == kinds.split()


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (".async = true", "[async]"),
        (".async = true, .activate = id", "[async, end activate task 9]"),
        (".async = true, .activate = t", "[async, end activate task 9]"),
        (".async = true, .unblock = id", "[async, end unblock task 9]"),
        (".async = true, .unblock = @get_input_queue(4)", "[async, end unblock queue 4]"),
        (".async = true, .on_control = .{ .terminate = true }", "[async, control terminate task 0]"),
        (".async = true, .on_control = .{ .activate = id }", "[async, control activate task 9]"),
        (".async = true, .ut_id = @get_ut_id(5)", "[async, thread 5]"),
        (".async = true, .priority = .{ .high = true }", "[async, priority 3]"),
    ],
)
def test_settings_become_settings(settings, expected, tmp_path):
    """Tasks may be named by their id or by their own name."""
    (line,) = vectors(f"@fmovs(A, in, .{{ {settings} }});", tmp_path)

    assert line.endswith(expected)


def test_a_color_is_unblocked_on_the_wse2(tmp_path):
    """There wavelets are held by color."""
    (line,) = vectors("@fmovs(A, in, .{ .async = true, .unblock = @get_color(5) });", tmp_path, "wse2")

    assert line.endswith("[async, end unblock color 5]")


def test_map_reads_calls_and_writes_until_an_operand_ends(tmp_path):
    """Scalars and pointers among the inputs are passed on to each call."""
    declarations = "fn f(x: f32, k: f32, p: *f32) f32 { p.* += 1.0; return x * k; }\n"
    found = lines(unit_of(body("@map(f, A, 2.0, &s, out);", HEAD + declarations), tmp_path))

    assert any(
        line.startswith("map dsd dsd mem1d") and "read f32" in line and "write f32" in line for line in found
    )
    assert any("map_next" in line for line in found)
    assert any("call f(" in line and "f32 2.0" in line and "@s+0" in line for line in found)
    assert any(line.startswith("map_write 1 f32") for line in found)


def test_the_output_of_a_map_may_be_one_variable(tmp_path):
    """The result of each call goes there, so that it can be an input of the next."""
    declarations = "fn f(x: f32, sum: *f32) f32 { return x + sum.*; }\n"
    found = lines(unit_of(body("@map(f, A, &s, &s);", HEAD + declarations), tmp_path))

    assert any(line.startswith("store f32 @s+0") for line in found)


def test_a_register_is_loaded_before_the_program_starts_or_by_it(tmp_path):
    """In a comptime block the last load of a register counts."""
    unit = unit_of(
        body("@load_to_dsr(src1, in, .{ .async = true, .activate = id });", HEAD)
        + "comptime {\n  @load_to_dsr(dest, A);\n  @load_to_dsr(dest, W, .{ .save_address = true });\n"
        + "  @load_to_dsr(src0, H, .{ .single_step = true });\n}\n",
        tmp_path,
    )

    loads = {(one.register.file, one.register.number): one for one in unit.preloads}
    assert loads["dest", 1].save_address
    assert loads["src0", 2].single_step
    assert len(unit.preloads) == 2
    assert any(line.startswith("dsr src1 3 = dsd fabin") and "async" in line for line in lines(unit))


def test_a_fifo_has_its_buffer_and_its_tasks(tmp_path):
    """A task may be named before it is bound, and the FIFO may be one that only code mentions."""
    declarations = "const q = @allocate_fifo(w, .{ .activate_push = t, .activate_pop = id });\n"
    unit = unit_of(
        body("@mov32(q, in, .{ .async = true }); @set_fifo_write_length(q, 7);", HEAD + declarations),
        tmp_path,
    )

    (fifo,) = unit.fifos
    assert (fifo.symbol, fifo.activate_push, fifo.activate_pop) == ("w", 9, 9)
    assert any("machine fifo_write_length(u16 0, u16 7)" in line for line in lines(unit))


def test_an_operation_is_complete_where_its_result_is_asked_for(tmp_path):
    """Only a FIFO can cut an operation short, so that wrappers may return what others give."""
    found = lines(unit_of(body("const done: bool = @fadds(A, A, A); @assert(done);", HEAD), tmp_path))

    assert sum(line.startswith("vector") for line in found) == 1


def in_queues(lines):
    return [
        line.rpartition("queue ")[2].split(")")[0].split(",")[0] if "queue" in line else "" for line in lines
    ]


def received(*colors, asynchronous=()):
    """DSDs i<color> that name no queue, and what receives by each of them."""
    declarations = "".join(
        f"const i{color} = @get_dsd(fabin_dsd, .{{ .extent = 1, .fabric_color = @get_color({color}) }});\n"
        for color in dict.fromkeys(colors)
    )
    settings = {color: ", .{ .async = true }" for color in asynchronous}
    return "".join(f"@fmovs(A, i{color}{settings.get(color, '')}); " for color in colors), declarations


def test_operations_of_the_wse2_get_a_queue_if_they_name_none(tmp_path):
    """One for each color, from the last on; queues that the program names or initialises are left alone."""
    statements, declarations = received(3, 4, 3)
    declarations += (
        "comptime { @initialize_queue(@get_input_queue(7), .{ .color = @get_color(8) }); }\n"
        "const named = @get_dsd(fabin_dsd, .{ .extent = 1, .fabric_color = @get_color(9), "
        ".input_queue = @get_input_queue(6) });\n"
    )
    found = vectors(statements + "@fmovs(A, named);", tmp_path, "wse2", declarations)

    assert in_queues(found) == ["5", "4", "5", "6"]


def test_asynchronous_operations_of_the_wse2_get_their_queues_first(tmp_path):
    """A queue is also the microthread; synchronous operations can share what a color has without one."""
    statements, declarations = received(*range(1, 12), asynchronous=(11,))
    found = vectors(statements, tmp_path, "wse2", declarations)

    assert in_queues(found) == ["6", "5", "4", "3", "1", "0", "", "", "", "", "7"]


def test_a_variable_dsd_of_the_wse2_gets_a_queue_too(tmp_path):
    """Running code may change its length and use it asynchronously, so its first value has the queue of its color."""
    unit = unit_of(
        body(
            "v = @set_dsd_length(v, su); @fmovs(A, v);",
            HEAD.replace("su: u32", "su: u16")
            + "var v = @get_dsd(fabin_dsd, .{ .extent = 1, .fabric_color = @get_color(5) });\n",
        ),
        tmp_path,
        "wse2",
    )

    assert unit.symbols["v"].value[FIELD["queue"]] == 7


def test_asynchronous_operations_of_more_colors_than_queues_are_refused(tmp_path):
    """Two at once cannot share a queue; which are at work at once only the programmer knows."""
    statements, declarations = received(*range(1, 10), asynchronous=range(1, 10))
    with pytest.raises(
        DiagnosticError, match=r"no input queue is left for this fabin_dsd.*\n.*\n.*\n.*name one with"
    ):
        vectors(statements, tmp_path, "wse2", declarations)
