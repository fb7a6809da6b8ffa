"""Native code against the interpreter, bit for bit."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ir_machine import RUNTIME, Machine, Native, resolved, run_both
from ir_strategies import FLOAT, SCALARS, units
from ir_text import unit_of

from openwafer.csl import ir
from openwafer.csl.interpret import Interpreter
from openwafer.csl.interpret._values import compute

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


@settings(max_examples=80, deadline=None, suppress_health_check=SLOW)
@given(
    unit=units(),
    waits=st.lists(st.booleans(), max_size=12),
    arguments=st.binary(max_size=24),
    watched=st.sampled_from([(0, 0), (1090, 40), (1024, 900)]),
)
def test_native_code_does_what_the_interpreter_does(
    unit: ir.Unit, waits: list[bool], arguments: bytes, watched: tuple[int, int]
) -> None:
    """Memory, clock, fuel, every call of the runtime with its records, and where it waits or traps are the same."""
    code, memory = resolved(unit)

    interpreted, native = run_both(code, memory=memory, waits=waits, arguments=arguments, watched=watched)

    assert native.seen == interpreted.seen


@pytest.mark.parametrize(
    ("store", "told"),
    [
        ("store u16 @data+0, u16 5 known", []),
        ("store u16 @data+6, u16 5 known", []),
        ("store u16 @data+8, u16 5 known", [("ow_watch", 1032, 2)]),
        ("store u32 @data+6, u32 5 known", [("ow_watch", 1030, 4)]),
        ("store u64 @data+14, u64 5", [("ow_watch", 1038, 8)]),
        ("store u64 @data+16, u64 5", []),
        ("copy @data+4, @data+32, 6", [("ow_watch", 1028, 6)]),
    ],
)
def test_a_store_where_a_microthread_reads_is_told_before_it_happens(store: str, told: list[object]) -> None:
    """Watched are the bytes 1032 to 1039; the store itself then runs ahead as any other."""
    text = f'symbol @data: 64 align 4 "[16]u32"\nfn main() void {{\n^0:\n  {store}\n  return\n}}\n'
    code, memory = resolved(unit_of(text))

    interpreted, native = run_both(code, memory=memory, watched=(1032, 8))

    assert interpreted.log == native.log == told
    assert native.seen == interpreted.seen


OPERATIONS = ("add", "sub", "mul", "div", "rem", "and", "or", "xor", "shl", "shr")
RELATIONS = ("eq", "ne", "lt", "le", "gt", "ge")


def arithmetic_unit(kind: ir.Type) -> ir.Unit:
    """Stores the result of everything that can be done with two values of a type."""
    lines: list[str] = []
    results: list[ir.Type] = []

    def store(expression: str, result: ir.Type) -> None:
        number = 2 + len(results)
        lines.append(f"  %{number} = {expression}")
        lines.append(f"  store {result} @out+{8 * len(results)}, %{number} known")
        results.append(result)

    if kind in FLOAT:
        operations: tuple[str, ...] = ("add", "sub", "mul", "div")
    else:
        operations = {"bool": ("and", "or", "xor"), "ptr": ()}.get(kind, OPERATIONS)
    for operation in operations:
        store(f"{operation} {kind} %0, %1", kind)
    if kind not in ("ptr", "bool"):
        store(f"neg {kind} %0", kind)
    if kind not in (*FLOAT, "ptr"):
        store(f"not {kind} %0", kind)
    for relation in RELATIONS:
        store(f"{relation} {kind} %0, %1", "bool")
    for target in SCALARS:
        store(f"convert {kind} %0 to {target}", target)
        if ir.BYTES[kind] == ir.BYTES[target]:
            store(f"bitcast {kind} %0 to {target}", target)
    body = "\n".join(lines)
    return unit_of(
        f"""symbol @out: {8 * len(results)} align 8 "[*]u64"
fn main(%a: {kind}, %b: {kind}) void {{
^0:
  %0 = get %a
  %1 = get %b
{body}
  return
}}"""
    )


def interesting(kind: ir.Type) -> list[int]:
    """Bits of values where something may go wrong, and some others."""
    width = 1 if kind == "bool" else 8 * ir.BYTES[kind]
    chance = random.Random(width)
    special = [
        0,
        1,
        2,
        3,
        7,
        width - 1,
        width,
        width + 1,
        1 << width - 1,
        (1 << width - 1) - 1,
        (1 << width) - 1,
        (1 << 53) + 1,
    ]
    special += [(1 << 63) + (1 << 55) + 1, (1 << 24) + 1, (1 << 31) - 64]
    if kind in FLOAT:
        values = (
            1.0,
            -1.0,
            0.1,
            65504.0,
            65520.0,
            3e38,
            -2.5,
            127.5,
            3e9,
            1e-40,
            float("inf"),
            float("-inf"),
            float("nan"),
        )
        special += [ir.encode(kind, one) for one in values]
    values_bits = [one & ((1 << width) - 1) for one in special + [chance.getrandbits(64) for _ in range(12)]]
    return sorted(set(values_bits))


@pytest.mark.parametrize("kind", SCALARS)
def test_every_operation_of_a_type_gives_the_same_bits(kind: ir.Type) -> None:
    """The ends of ranges, wide shifts, -2^n / -1, NaN, subnormals and ties are where processors and Python differ."""
    code, memory = resolved(arithmetic_unit(kind))
    native, interpreter = Native(code).entry(0), Interpreter(code, RUNTIME).entries[0]
    values, size = interesting(kind), 4 * ir.argument_words(kind)
    chance = random.Random(0)
    pairs = [(one, other) for one in values for other in chance.sample(values, min(4, len(values)))]
    for pair in pairs:
        arguments = b"".join(one.to_bytes(size, "little") for one in pair)
        expected = Machine(code, memory, arguments=arguments).run(interpreter).seen
        assert Machine(code, memory, arguments=arguments).run(native).seen == expected, pair


@given(
    operation=st.sampled_from(("add", "sub", "mul", "div")),
    first=st.floats(width=32, allow_nan=False),
    second=st.floats(width=32, allow_nan=False),
)
def test_f32_arithmetic_is_that_of_numpy(operation: ir.Arithmetic, first: float, second: float) -> None:
    """The interpreter computes in doubles and rounds; this is the same as computing in float32."""
    function = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}[operation]
    with np.errstate(all="ignore"):
        expected = function(np.float32(first), np.float32(second))
    bits = compute(operation, "f32", [ir.encode("f32", first), ir.encode("f32", second)])

    assert bits == (ir.SINGLE_NAN if np.isnan(expected) else int(expected.view(np.uint32)))


@given(bits=st.integers(0, 65535), single=st.floats(allow_nan=False))
def test_f16_literals_are_those_of_numpy(bits: int, single: float) -> None:
    """The three 16-bit formats share one conversion, and NumPy knows one of them."""
    with np.errstate(all="ignore"):
        assert ir.encode("f16", single) == int(np.float16(single).view(np.uint16))
    value = np.uint16(bits).view(np.float16)
    assert np.isnan(value) or ir.decode("f16", bits) == float(value)


def test_16_bit_sums_are_rounded_once() -> None:
    """1 + 2^-8 + 2^-40 lies above the middle between two bf16; a float32 on the way would make it a tie."""
    tiny = ir.encode("bf16", 2.0**-40 + 2.0**-47)
    code, memory = resolved(
        unit_of(
            """symbol @out: 2 align 2 "u16"
fn main(%a: bf16, %b: bf16) void {
^0:
  %0 = get %a
  %1 = get %b
  %2 = add bf16 %0, %1
  store bf16 @out+0, %2 known
  return
}"""
        )
    )
    half_ulp = ir.encode("bf16", 2.0**-8)
    for pair, expected in (
        ((half_ulp, 0x3F80), 0x3F80),
        ((0x3F81, half_ulp), 0x3F82),
        ((tiny, 0x3F80), 0x3F80),
    ):
        for machine in run_both(
            code, memory=memory, arguments=b"".join(one.to_bytes(4, "little") for one in pair)
        ):
            assert int.from_bytes(machine.data.raw[1024:1026], "little") == expected


def test_a_loop_takes_fuel_at_every_jump_backwards() -> None:
    """A loop without end must let the fabric look in: every jump backwards takes one, below 0 the code calls ow_poll."""
    code, memory = resolved(
        unit_of(
            """fn main() void {
  local %i: i16
^0:
  jump ^1
^1:
  %0 = get %i
  %1 = add i16 %0, i16 1
  set %i, %1
  %2 = lt i16 %1, i16 13
  branch %2, ^1, ^2
^2:
  return
}"""
        )
    )
    for machine in run_both(code, memory=memory):
        assert (
            machine.log.count(("poll",)) == 2
        )  # 12 jumps: 5 of the first fuel, then one each to ask, 5 more
        assert machine.view.clock == 1 + 13 * 4 + 7  # what Machine charges for the three blocks


def test_native_code_needs_no_function_besides_the_runtime() -> None:
    """A call of libc would be unresolved on some system; zeroing and copying loops must stay loops."""
    code, _ = resolved(
        unit_of(
            """symbol @x: 512 align 2 "[256]u16"
fn main() void {
  local %i: u16
^0:
  copy @x+0, @x+256, 256
  jump ^1
^1:
  %0 = get %i
  %1 = element @x+0, u16 %0 of * x 2 "x"
  store u16 %1, u16 0 known
  %2 = add u16 %0, u16 1
  set %i, %2
  %3 = lt u16 %2, u16 256
  branch %3, ^1, ^2
^2:
  return
}"""
        )
    )
    assembly = Native(code).assembly()
    calls = set(re.findall(r"\b(mem(?:cpy|set|move)\w*|fmod\w*|__\w+hf\w*)", assembly))
    assert not calls, calls
