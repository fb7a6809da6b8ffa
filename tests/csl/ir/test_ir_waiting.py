"""Functions that wait for the machine, and errors at run time."""

from __future__ import annotations

from typing import Any

import pytest
from ir_machine import Machine, Native, resolved, run_both
from ir_text import unit_of

from openwafer.artifact import _pe_abi as abi
from openwafer.csl import ir

NESTED = """symbol @out: 24 align 8 "[6]u32"
fn leaf(%a: i32, %d: dsd) i32 {
  local %x: i32
^0:
  %0 = get %a
  %1 = mul i32 %0, i32 3
  %2 = get %d
  vector fmacs dsd %2, dsr src1 2, scalar i32 %1 [async, thread 3, end activate task 9] !1
  set %x, %1
  vector fmovs dsd %2, scalar i32 %0
  %3 = get %x
  %4 = add i32 %3, %0
  return %4
}
fn middle(%a: i32) dsd {
^0:
  %0 = get %a
  %1 = edit length dsd mem1d(base @out+0, length 3, stride 2), u16 7
  %2 = call leaf(%0, %1)
  dsr dest 3 = %1 [priority 2] save
  %3 = add i32 %2, %0
  %4 = call leaf(%3, %1)
  store i32 @out+0, %2 known
  store i32 @out+4, %4 known
  return %1
}
fn main(%n: i32) void {
  local %i: i32
  local %d: dsd
^0:
  vector mov32 dsd dsd fabout(base 0, length 4, color 5, queue 2), scalar u32 u32 9
  jump ^1
^1:
  %0 = get %i
  %1 = call middle(%0)
  set %d, %1
  %2 = add i32 %0, i32 1
  set %i, %2
  %3 = get %n
  %4 = lt i32 %2, %3
  branch %4, ^1, ^2
^2:
  map dsd dsd mem1d(base @out+0, length 2, stride 1) read f32, dsd dsd mem1d(base @out+0, length 2, stride 1) write f32
  jump ^3
^3:
  %5 = map_next
  branch %5, ^4, ^5
^4:
  %6 = map_read 0 f32
  map_write 1 f32 %6
  jump ^3
^5:
  %7 = get %d
  vector fnegs dsd %7, dsd %7
  %8 = get %i
  store i32 @out+8, %8 known
  return
}
"""
OPERATIONS = 1 + 2 * 5 + 1 + 3 + 1


def nested(**options: Any) -> tuple[Machine, Machine]:
    code, memory = resolved(unit_of(NESTED))
    return run_both(code, memory=memory, arguments=(2).to_bytes(4, "little"), **options)


def test_nested_calls_compute_what_they_say() -> None:
    """Without waiting, the last round's numbers stand in memory: 4 * 1, and 4 * (4 + 1)."""
    for machine in nested():
        out = machine.data.raw[1024:1036]
        assert [int.from_bytes(out[at : at + 4], "little") for at in (0, 4, 8)] == [4, 20, 2]
        assert machine.operations == OPERATIONS


@pytest.mark.parametrize("place", range(OPERATIONS))
def test_an_entry_goes_on_behind_the_operation_that_waited(place: int) -> None:
    """Whatever call it is in, the operation is not issued again, and every value is still there."""
    reference = nested()[0]
    for machine in nested(waits=[number == place for number in range(OPERATIONS)]):
        assert machine.statuses == [1, 0]
        assert machine.log == reference.log
        assert machine.data.raw == reference.data.raw
        assert machine.view.clock == reference.view.clock


def test_an_entry_may_wait_at_every_operation() -> None:
    """Each call of the entry goes as far as the next operation."""
    reference = nested()[0]
    for machine in nested(waits=[True] * OPERATIONS):
        assert machine.statuses == [1] * OPERATIONS + [0]
        assert machine.log == reference.log
        assert machine.seen["resume point"] == b"\0\0\0\0"


def test_the_frame_is_as_large_as_the_deepest_chain_of_calls() -> None:
    """The fabric gives `frame_bytes`; code must not write behind them."""
    code, memory = resolved(unit_of(NESTED))
    native = Native(code)
    for machine in (Machine(code, memory, waits=[True] * OPERATIONS, arguments=b"\2"),):
        machine.run(native.entry(0))
        behind = machine.frame.raw[native.frame_bytes :]
        assert native.frame_bytes < 400
        assert behind == b"\xee" * len(behind)


def traps(
    body: str, parameters: str = "%a: i16", arguments: bytes = b"", declarations: str = ""
) -> set[tuple[Any, ...]]:
    """What both executions report of a failing main."""
    code, memory = resolved(
        unit_of(f'symbol @x: 8 align 2 "[4]i16"\n{declarations}\nfn main({parameters}) void {{\n{body}\n}}')
    )
    found = set()
    for machine in run_both(code, memory=memory, arguments=arguments):
        assert machine.statuses == [abi.Status.FAILED]
        found.add(machine.log[-1])
    return found


@pytest.mark.parametrize(("index", "shown"), [(4, 4), (-1, 2**64 - 1), (-32768, 2**64 - 32768)])
def test_an_index_outside_an_array_is_an_error(index: int, shown: int) -> None:
    """The message tells the index and the extent, at the source line."""
    body = (
        '^0:\n  %0 = get %a\n  %1 = element @x+0, i16 %0 of 4 x 2 "x" !1\n  store i16 %1, %0 known\n  return'
    )
    found = traps(body, arguments=index.to_bytes(2, "little", signed=True))
    assert found == {("ow_fail", abi.Trap.INDEX, 1, shown, 4)}


@pytest.mark.parametrize(
    "access", ["%1 = load i32 %0", "store i32 %0, i32 1", "copy %0, @x+0, 4", "copy @x+0, %0, 4"]
)
def test_an_address_outside_the_memory_is_an_error(access: str) -> None:
    """A pointer whose object is not known is checked: the program's memory ends at 1032."""
    body = f"^0:\n  %0 = get %a\n  {access} !1\n  return"
    found = traps(body, "%a: ptr", (1030).to_bytes(2, "little"))
    assert found == {("ow_fail", abi.Trap.ADDRESS, 1, 1030, 4)}


@pytest.mark.parametrize("kind", ["i8", "u16", "i32", "u64"])
@pytest.mark.parametrize("operation", ["div", "rem"])
def test_dividing_by_zero_is_an_error(kind: str, operation: str) -> None:
    """Processors differ: some trap, some give 0."""
    body = f"^0:\n  %0 = get %a\n  %1 = {operation} {kind} {kind} 7, %0 !1\n  store {kind} @x+0, %1 known\n  return"
    assert traps(body, f"%a: {kind}") == {("ow_fail", abi.Trap.DIVISION, 1, 0, 0)}


@pytest.mark.parametrize("kind", ["assert", "unreachable"])
def test_a_halt_is_an_error_at_its_place(kind: str) -> None:
    """@assert and unreachable end the program with the line that they stand in."""
    assert traps(f"^0:\n  halt {kind} !1") == {("ow_fail", abi.Trap[kind.upper()], 1, 0, 0)}


def test_pointers_to_configuration_registers_reach_the_machine() -> None:
    """Byte addresses from 0xFE00 on are registers of 16 bits; a wider access takes several, lowest first."""
    code, memory = resolved(
        unit_of(
            """symbol @x: 8 align 2 "[4]i16"
fn main(%a: ptr) void {
^0:
  %0 = get %a
  %1 = load u32 %0
  store u32 @x+0, %1 known
  store u16 %0, u16 513
  return
}"""
        )
    )
    for machine in run_both(code, memory=memory, arguments=(0xFE42).to_bytes(2, "little")):
        assert machine.log == [
            ("ow_config_read", 0x7F21),
            ("ow_config_read", 0x7F22),
            ("ow_config_write", 0x7F21, 513),
        ]
        assert machine.data.raw[-8:-4] == bytes((1, 0, 2, 0))


def test_an_operation_that_fails_ends_the_entry() -> None:
    """FAILED means that the machine has its error: the entry returns at once."""

    class Failing(Machine):
        def ow_vector(self, record: int, operands: int) -> int:
            return int(abi.Status.FAILED)

    code, memory = resolved(unit_of(NESTED))
    machine = Failing(code, memory, arguments=b"\2").run(Native(code).entry(0))
    assert machine.statuses == [abi.Status.FAILED]
    assert machine.data.raw == memory


def test_entries_take_their_arguments_from_words_of_the_view() -> None:
    """A value of 64 bits takes two words, every other one word."""
    code, memory = resolved(
        unit_of(
            """symbol @x: 16 align 8 "[2]u64"
fn main(%a: i16, %b: u64, %c: f32) void {
^0:
  %0 = get %a
  %1 = get %b
  %2 = get %c
  store i16 @x+0, %0 known
  store f32 @x+4, %2 known
  store u64 @x+8, %1 known
  return
}"""
        )
    )
    words = (
        (5).to_bytes(4, "little")
        + (1 << 40).to_bytes(8, "little")
        + ir.encode("f32", 1.5).to_bytes(4, "little")
    )
    for machine in run_both(code, memory=memory, arguments=words):
        assert machine.data.raw[-16:] == b"\5\0\0\0" + words[12:] + words[4:12]
