"""DSDs: how properties and tensor accesses become descriptors, and how they are changed."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from meaning_cases import body, lines, unit_of

from openwafer.csl import ir
from openwafer.csl.sema.builtins._affine import documented_strides, plain_steps


def loaded(expression, folder, declarations="var a = @zeros([4, 5]f32);", register="dsr_src1"):
    """The descriptor of a DSD that is known."""
    program = f"{declarations}\ncomptime {{ @load_to_dsr(@get_dsr({register}, 1), {expression}); }}"
    descriptor = unit_of(program, folder).preloads[0].descriptor
    assert isinstance(descriptor, ir.Descriptor)
    return descriptor


def f32_bytes_of(descriptor):
    """The byte addresses that an operation on f32 goes through, from the descriptor's base."""
    ranges = [range(extent) for extent in descriptor.extents]
    return [
        4 * sum(i * stride for i, stride in zip(index, descriptor.strides, strict=True))
        for index in product(*ranges)
    ]


def test_the_documented_strides_of_a_tensor_access(tmp_path):
    """ "Data Structure Descriptors": the example with four indices has strides 1, -3, -3, -23 and offset 2."""
    unit_of(
        "var A: [4, 5]i16;\n"
        "const access = |i, j, k, l|{5, 5, 5, 5} -> A[i + j, k + l + 2];\n"
        "comptime {\n"
        "  @comptime_assert(access.offset == 2 and access.extent[0] == 5);\n"
        "  @comptime_assert(access.stride[0] == 1 and access.stride[1] == -3);\n"
        "  @comptime_assert(access.stride[2] == -3 and access.stride[3] == -23);\n"
        "}\n",
        tmp_path,
    )


@given(st.lists(st.tuples(st.integers(-9, 9), st.integers(1, 6)), min_size=1, max_size=4))
def test_documented_strides_and_plain_steps_are_inverse(dims):
    """The registers' form and the descriptor's form say the same."""
    steps, extents = [one[0] for one in dims], [one[1] for one in dims]

    assert plain_steps(documented_strides(steps, extents), extents) == steps


@given(
    extents=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    factors=st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=4, max_size=4),
)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_tensor_access_goes_through_the_elements_that_numpy_finds(extents, factors, tmp_path):
    """Row-major addresses of a[...] for each index, the last index fastest."""
    names = "ijkl"[: len(extents)]
    rows, columns = (
        " + ".join([f"{factor[which]} * {name}" for factor, name in zip(factors, names, strict=False)])
        for which in (0, 1)
    )
    header = f"|{', '.join(names)}|{{{', '.join(map(str, extents))}}}"
    found = loaded(
        f"@get_dsd(mem4d_dsd, .{{ .tensor_access = {header} -> a[{rows} + 30, {columns} + 30] }})",
        tmp_path,
        "var a = @zeros([61, 61]f32);",
    )

    place = np.arange(61 * 61).reshape(61, 61)
    expected = []
    for index in product(*(range(extent) for extent in extents)):
        row, column = (
            sum(factor[which] * at for factor, at in zip(factors, index, strict=False)) for which in (0, 1)
        )
        expected.append(4 * int(place[row + 30, column + 30]))
    assert isinstance(found.base, ir.Address)
    assert [found.base.offset + one for one in f32_bytes_of(found)] == expected


@pytest.mark.parametrize(
    ("properties", "offset", "length", "stride"),
    [
        (".tensor_access = |i|{4} -> a[i, i]", 0, 4, 6),
        (".tensor_access = |i|{5} -> a[1, i]", 20, 5, 1),
        (".tensor_access = |i|{7} -> a[0, 3]", 12, 7, 0),
        (".tensor_access = |i|{3} -> a[0, 4 - i]", 16, 3, -1),
        (".base_address = &a, .extent = 6", 0, 6, 1),
        (".base_address = &a, .extent = 6, .stride = 3, .offset = 2", 8, 6, 3),
        (".base_address = @ptrcast([*]u16, &a), .extent = 6, .stride = 3", 0, 6, 3),
    ],
)
def test_a_one_dimensional_dsd_counts_in_elements_of_its_tensor(properties, offset, length, stride, tmp_path):
    """Strides count elements of the operation that uses the DSD, offsets elements of the tensor."""
    found = loaded(f"@get_dsd(mem1d_dsd, .{{ {properties} }})", tmp_path)

    assert (found.base.offset, found.length, found.stride) == (offset, length, stride)


def test_fabric_dsds_carry_their_properties(tmp_path):
    """Each property has its field or flag."""
    out = loaded(
        "@get_dsd(fabout_dsd, .{ .extent = 7, .fabric_color = @get_color(3), .output_queue = @get_output_queue(2), "
        ".control = true, .advance_switch = true, .wavelet_index_offset = true, .priority = .{ .high = true }, "
        ".simd_mode = .{ .simd_64 = true }, .control_transform = true })",
        tmp_path,
        register="dsr_dest",
    )

    assert (out.kind, out.length, out.color, out.queue) == ("fabout", 7, 3, 2)
    assert (out.flags, out.priority, out.simd, out.control_transform) == (1 | 2 | 4, 3, 2, 1)


DSD = "var a = @zeros([10]f32);\nvar b = @zeros([10]f32);\nvar n: i16 = 3;\nvar m: u16 = 4;\n"
DSD += "const d = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{10} -> a[i] });\n"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("@set_dsd_base_addr(d, b)", "mem1d(base @b+0, length 10, stride 1"),
        ("@set_dsd_base_addr(d, &b)", "mem1d(base @b+0, length 10, stride 1"),
        ("@increment_dsd_offset(d, 3, f32)", "mem1d(base @a+12, length 10, stride 1"),
        ("@increment_dsd_offset(d, -1, u16)", "mem1d(base @a+-2, length 10, stride 1"),
        ("@set_dsd_length(d, 4)", "mem1d(base @a+0, length 4, stride 1"),
        ("@set_dsd_stride(d, 3)", "mem1d(base @a+0, length 10, stride 3"),
    ],
)
def test_a_change_of_a_known_dsd_is_known(change, expected, tmp_path):
    """No code is needed for it."""
    found = lines(unit_of(body(f"@fnegs({change}, d);", DSD), tmp_path))

    assert next(line for line in found if line.startswith("vector")).startswith(
        f"vector fnegs dsd dsd {expected}"
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("@increment_dsd_offset(d, n, f32)", ["mul i16 %0, i16 4", "edit offset"]),
        ("@set_dsd_length(d, m)", ["load u16 @m+0 known", "edit length"]),
        ("@set_dsd_stride(d, @as(i8, n))", ["convert i8", "edit stride"]),
        ("@set_dsd_base_addr(d, @bitcast([*]f32, m))", ["bitcast u16", "edit base"]),
    ],
)
def test_a_change_by_what_only_running_code_has_is_code(change, expected, tmp_path):
    """One field of the descriptor is edited."""
    found = lines(unit_of(body(f"@fnegs({change}, d);", DSD), tmp_path))

    for part in expected:
        assert any(part in line for line in found), found


def test_an_index_moves_dsds_that_ask_for_it(tmp_path):
    """`.index` counts words for memory and goes into the wavelets of a fabout_dsd; others ignore it."""
    declarations = DSD + (
        "const w = @get_dsd(mem1d_dsd, .{ .tensor_access = |i|{4} -> b[i], .wavelet_index_offset = true });\n"
        "const out = @get_dsd(fabout_dsd, .{ .extent = 4, .output_queue = @get_output_queue(2), "
        ".wavelet_index_offset = true });\n"
    )
    found = lines(
        unit_of(
            body("@fmovs(w, d, .{ .index = 3 }); @fmovs(out, w, .{ .index = m });", declarations), tmp_path
        )
    )

    first, second = (line for line in found if line.startswith("vector"))
    assert "dsd mem1d(base @b+6" in first
    assert "dsd mem1d(base @a+0" in first
    assert any("edit index dsd fabout(" in line for line in found)
    assert second.startswith("vector fmovs dsd %")
