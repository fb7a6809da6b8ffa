"""Vector operations on memory: which elements, in which order, what they cost, what is an error."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from fabric_programs import (
    RUNTIME,
    Code,
    Operand,
    Pe,
    array,
    descriptor,
    dsd,
    fifo,
    machine,
    main_task,
    mem,
    pointer,
    program,
    scalar,
    single,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from openwafer.artifact import _image as image
from openwafer.artifact import _pe_abi as abi
from openwafer.fabric import Machine, _native, load_timing


def run_vector(operation: str, *operands: Operand, memory: bytes = b"", **more: Any) -> Machine:
    """One PE that carries out one operation."""

    def main(pe: Pe) -> Iterator[None]:
        yield from pe.vector(operation, *operands, location=1)

    code = Code()
    made = program(code.add(main), memory, tasks=(main_task(),), **more)
    loaded = machine(code, [made])
    loaded.run()
    return loaded


def test_the_native_core_and_the_abi_agree() -> None:
    """Compiled code and core meet in memory only: one wrong offset would be silent corruption."""
    letters = {"u8": "B", "u16": "H", "i16": "h", "u32": "I", "i32": "i", "u64": "Q", "ptr": "Q"}

    def size(fields: tuple[tuple[str, str], ...], until: str | None = None) -> int:
        layout = "@" if any(kind in ("ptr", "u64") for _, kind in fields) else "="
        text = layout
        for name, kind in fields:
            if name == until:
                break
            base, _, count = kind.rstrip("]").partition("[")
            text += (count or "1") + letters[base]
        return struct.calcsize(text)

    sizes = _native.abi_sizes()
    assert sizes["PE_VIEW"] == size(abi.PE_VIEW)
    assert sizes["PE_VIEW.arguments"] == size(abi.PE_VIEW, "arguments")
    assert sizes["DESCRIPTOR"] == size(abi.DESCRIPTOR) == abi.DESCRIPTOR_BYTES
    assert sizes["DESCRIPTOR.strides"] == size(abi.DESCRIPTOR, "strides")
    assert sizes["OPERAND"] == size(abi.OPERAND)
    assert sizes["VECTOR"] == size(abi.VECTOR)
    assert sizes["VECTOR.location"] == size(abi.VECTOR, "location")
    assert tuple(_native.vector_operations()) == abi.VECTOR_OPERATIONS
    assert set(_native.runtime_addresses()) == {one.name for one in abi.RUNTIME}


@settings(max_examples=40, deadline=None)
@given(
    base=st.integers(0, 40),
    length=st.integers(1, 12),
    stride=st.integers(-4, 6),
)
def test_a_mem1d_dsd_walks_as_numpy_does(base: int, length: int, stride: int) -> None:
    """A DSD is base, length and stride in words: the same as an index expression."""
    at = 60 + base
    words = np.arange(200, dtype=np.uint16)
    loaded = run_vector(
        "mov16", dsd(mem(1000, length)), dsd(mem(2 * at, length, stride)), memory=words.tobytes()
    )

    assert not loaded.failure
    expected = words[at + stride * np.arange(length)]
    np.testing.assert_array_equal(array(loaded, 0, 1000, length, np.uint16), expected)


@settings(max_examples=40, deadline=None)
@given(
    extents=st.tuples(*[st.integers(1, 4)] * 4),
    strides=st.tuples(*[st.integers(-2, 9)] * 4),
)
def test_a_mem4d_dsd_walks_as_numpy_does(extents: tuple[int, ...], strides: tuple[int, ...]) -> None:
    """Strides are those of the access function, the last dim goes fastest."""
    words = np.arange(400, dtype=np.uint16)
    at = 100
    source = descriptor(abi.DescriptorKind.MEM4D, base=2 * at, extents=extents, strides=strides)
    count = int(np.prod(extents))
    loaded = run_vector("mov16", dsd(mem(1000, count)), dsd(source), memory=words.tobytes())

    places = at + np.tensordot(np.array(strides), np.indices(extents), 1).ravel()
    np.testing.assert_array_equal(array(loaded, 0, 1000, count, np.uint16), words[places])


A = np.array([1.5, -2.25, 3.0, 0.1, -7.5, 1e4], np.float32)
B = np.array([0.5, 4.0, -1.75, 3.3, 2.0, -0.001], np.float32)
I = np.array([1, -2, 300, -32768, 32767, 77], np.int16)  # noqa: E741
J = np.array([3, 5, -300, 1, 1, 4], np.int16)
HALVES = (A.astype(np.float16), B.astype(np.float16))


@pytest.mark.parametrize(
    ("operation", "first", "second", "expected"),
    [
        ("fadds", A, B, A + B),
        ("fsubs", A, B, A - B),
        ("fmuls", A, B, A * B),
        ("fmaxs", A, B, np.maximum(A, B)),
        ("fmovs", A, None, A),
        ("fnegs", A, None, -A),
        ("fabss", A, None, np.abs(A)),
        ("faddh", *HALVES, HALVES[0] + HALVES[1]),
        ("fsubh", *HALVES, HALVES[0] - HALVES[1]),
        ("fmulh", *HALVES, HALVES[0] * HALVES[1]),
        ("fmaxh", *HALVES, np.maximum(*HALVES)),
        ("fnegh", HALVES[0], None, -HALVES[0]),
        ("fs2h", A, None, A.astype(np.float16)),
        ("fh2s", HALVES[0], None, HALVES[0].astype(np.float32)),
        ("faddhs", A, HALVES[1], A + HALVES[1].astype(np.float32)),
        ("add16", I, J, I + J),
        ("sub16", I, J, I - J),
        ("and16", I, J, I & J),
        ("or16", I, J, I | J),
        ("xor16", I, J, I ^ J),
        ("sar16", I, np.abs(J) % 16, I >> (np.abs(J) % 16)),
        ("sll16", I, np.abs(J) % 16, I << (np.abs(J) % 16)),
        (
            "slr16",
            I,
            np.abs(J) % 16,
            (I.view(np.uint16) >> (np.abs(J) % 16).astype(np.uint16)).view(np.int16),
        ),
        ("xp162fs", I, None, I.astype(np.float32)),
        ("mov32", A.view(np.uint32), None, A.view(np.uint32)),
    ],
)
def test_an_operation_computes_each_element_as_numpy_does(
    operation: str,
    first: np.ndarray[Any, Any],
    second: np.ndarray[Any, Any] | None,
    expected: np.ndarray[Any, Any],
) -> None:
    """IEEE arithmetic rounded once, integers that wrap around: the same bits as NumPy."""
    memory = np.zeros(400, np.uint8)
    sources = (
        [first]
        if second is None
        else [first, second.astype(np.int16) if second.dtype == np.int64 else second]
    )
    operands = []
    for number, values in enumerate(sources):
        at = 100 * number
        memory[at : at + values.nbytes] = values.view(np.uint8)
        operands.append(dsd(mem(at, len(values))))
    expected = np.asarray(expected)
    if expected.dtype == np.int64:
        expected = expected.astype(np.int16)
    destination = dsd(mem(200, len(expected)))
    loaded = run_vector(operation, destination, *operands, memory=memory.tobytes())

    assert not loaded.failure
    result = array(loaded, 0, 200, len(expected), expected.dtype.type)
    np.testing.assert_array_equal(result.view(np.uint8), expected.view(np.uint8))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 0xFFFF), min_size=3, max_size=3))
def test_a_half_multiply_add_rounds_once(bits: list[int]) -> None:
    """@fmach is fused: the exact sum, rounded to nearest even, as a double rounds it where that is exact."""
    a, b, c = (np.array([one], np.uint16).view(np.float16)[0] for one in bits)
    memory = struct.pack("<2H", bits[0], bits[1])
    loaded = run_vector(
        "fmach", dsd(mem(8, 1)), dsd(mem(0, 1)), dsd(mem(2, 1)), scalar(bits[2]), memory=memory
    )

    with np.errstate(all="ignore"):
        expected = np.float16(np.float64(b) * np.float64(c) + np.float64(a))
    result = array(loaded, 0, 8, 1, np.float16)[0]
    assert (np.isnan(result) and np.isnan(expected)) or result == expected


@pytest.mark.parametrize("kind", ["f16", "bf16", "cb16"])
@given(value=st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_half_formats_round_to_nearest_even(kind: str, value: float) -> None:
    """Every format: the nearest representable value, ties to the even one, infinity beyond the largest."""
    shapes = {"f16": (0, 5, 10, 15), "bf16": (1, 8, 7, 127), "cb16": (2, 6, 9, 42)}
    bits, exponent_bits, mantissa_bits, bias = shapes[kind]
    found = RUNTIME["ow_single_to_half"](None, value, bits)
    back = RUNTIME["ow_half_to_single"](None, found, bits)

    if value == 0:
        assert back == 0
        return
    exponent = max(int(np.frexp(value)[1]) - 1, 1 - bias)
    unit = 2.0 ** (exponent - mantissa_bits)
    rounded = float(np.round(np.float64(value) / unit) * unit)  # NumPy rounds ties to even
    largest = (2 - 2.0**-mantissa_bits) * 2.0 ** (2**exponent_bits - 2 - bias)
    assert back == (rounded if abs(rounded) <= largest else np.copysign(np.inf, rounded))


def test_overlapping_operands_go_element_after_element() -> None:
    """x[i + 1] = x[i] + x[i + 1] is a running sum only if each element sees the one before it."""
    values = np.arange(1, 9, dtype=np.float32)
    loaded = run_vector("fadds", dsd(mem(4, 7)), dsd(mem(0, 7)), dsd(mem(4, 7)), memory=values.tobytes())

    np.testing.assert_array_equal(array(loaded, 0, 0, 8), np.cumsum(values))


def test_a_pointer_and_a_scalar_reduce_a_vector() -> None:
    """@fmaxs(&most, most, dsd) is how programs take a maximum: the scalar goes from element to element."""
    values = np.array([3, 9, -4, 8], np.float32)
    loaded = run_vector("fmaxs", pointer(100), single(1.0), dsd(mem(0, 4)), memory=values.tobytes())

    assert array(loaded, 0, 100, 1)[0] == 9


def test_the_length_is_that_of_the_first_operand_that_has_one() -> None:
    """Published in a comment of the examples: src0, else src1, else the destination, else one element."""
    words = np.arange(1, 20, dtype=np.uint16)
    loaded = run_vector("mov16", dsd(mem(100, 9)), dsd(mem(0, 3)), memory=words.tobytes())
    assert array(loaded, 0, 100, 5, np.uint16).tolist() == [1, 2, 3, 0, 0]

    loaded = run_vector("mov16", dsd(mem(100, 4)), scalar(7), memory=words.tobytes())
    assert array(loaded, 0, 100, 5, np.uint16).tolist() == [7, 7, 7, 7, 0]

    loaded = run_vector("mov16", pointer(100), scalar(7), memory=words.tobytes())
    assert array(loaded, 0, 100, 2, np.uint16).tolist() == [7, 0]


def test_a_vector_of_no_elements_does_nothing() -> None:
    """A loop's last turn often has none left; only operands without any length mean one element."""
    loaded = run_vector("mov16", dsd(mem(100, 0)), dsd(mem(0, 0)), memory=b"\x01\x00")

    assert array(loaded, 0, 100, 1, np.uint16)[0] == 0


def test_carries_go_through_a_chain_of_additions() -> None:
    """@add16 and @addc16 add numbers of more than 16 bits, lowest word first."""

    def main(pe: Pe) -> Iterator[None]:
        yield from pe.vector("add16", dsd(mem(20, 1)), dsd(mem(0, 1)), dsd(mem(8, 1)))
        yield from pe.vector("addc16", dsd(mem(22, 3)), dsd(mem(2, 3)), dsd(mem(10, 3)))

    first, second = 0xFFFF_FFFF_8000_0001, 0x0000_0000_8000_FFFF
    code = Code()
    loaded = machine(code, [program(code.add(main), struct.pack("<QQ", first, second), tasks=(main_task(),))])
    loaded.run()

    assert struct.unpack("<Q", loaded.read(0, 0, 20, 8))[0] == (first + second) % 2**64


@pytest.mark.parametrize("architecture", ["wse2", "wse3"])
@pytest.mark.parametrize("operation", ["mov16", "mov32", "fmovs"])
def test_a_copy_costs_setup_and_its_groups(architecture: image.Architecture, operation: str) -> None:
    """The published widths: so many elements a cycle after the setup, both from the table."""
    table = load_timing(architecture)
    ends = {}
    for count in (16, 64):

        def main(pe: Pe, count: int = count) -> Iterator[None]:
            before = pe.clock
            yield from pe.vector(operation, dsd(mem(1000, count)), dsd(mem(0, count)))
            pe.store(3000, pe.clock - before)

        code = Code()
        loaded = machine(code, [program(code.add(main), tasks=(main_task(),))], architecture=architecture)
        loaded.run()
        ends[count] = array(loaded, 0, 3000, 1, np.uint32)[0]

    setup = sum(table.entries[f"vector.{name}"].values[1] for name in ("setup_cycles", "descriptor_cycles"))
    assert ends[16] == setup + 16 / table[f"widths.{operation}"]
    assert ends[64] == setup + 64 / table[f"widths.{operation}"]


@pytest.mark.parametrize(
    ("destination", "words"),
    [(mem(4090, 8), "writes 2 bytes at address 4096"), (mem(0, 8, -1), "writes 2 bytes at address 65534")],
)
def test_an_access_outside_the_memory_names_operation_place_and_address(
    destination: bytes, words: str
) -> None:
    """Found while the program runs, it still names the PE and the source line."""
    loaded = run_vector("mov16", dsd(destination), scalar(1))

    assert "program.csl:7:3: PE (0, 0), task main" in loaded.failure
    assert f"@mov16 {words}" in loaded.failure
    assert loaded.run().failed


def test_a_missing_fifo_is_an_error() -> None:
    """Using what was never allocated would read somebody else's memory."""
    loaded = run_vector("mov16", dsd(mem(0, 1)), dsd(fifo(3)))

    assert "FIFO 3 does not exist" in loaded.failure
