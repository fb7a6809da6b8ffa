"""A small machine for PE code: memory, a PeView, and a runtime that writes down every call that it gets."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import llvmlite.binding as llvm

from openwafer.artifact import _pe_abi as abi
from openwafer.csl import ir
from openwafer.csl.interpret import Interpreter
from openwafer.csl.interpret._runtime import PeView
from openwafer.csl.native import emit

llvm.initialize_native_target()
llvm.initialize_native_asmprinter()

TYPES: dict[str, Any] = {
    "u32": ctypes.c_uint32, "i32": ctypes.c_int32, "u64": ctypes.c_uint64, "ptr": ctypes.c_void_p,
    "f32": ctypes.c_float, "void": None,
}  # fmt: skip
FUEL = 5
ROUNDS = 200  # an entry that waits more often than this never ends

# ow_trap leaves the entry as the fabric's does. Floats cross as bits, since ctypes would make signalling NaNs quiet.
HARNESS = """
@buffer = internal global [1024 x i8] zeroinitializer, align 16
declare i32 @_setjmp(ptr) returns_twice
declare void @longjmp(ptr, i32) noreturn
declare void @test_fail(ptr, i32, i32, i64, i64)
declare i32 @test_half_bits(ptr, i32, i32)
declare i32 @test_single_bits(ptr, i32, i32)
define i32 @run(ptr %entry, ptr %view, ptr %frame) {
  %back = call i32 @_setjmp(ptr @buffer) returns_twice
  %trapped = icmp ne i32 %back, 0
  br i1 %trapped, label %failed, label %go
go:
  %status = call i32 %entry(ptr %view, ptr %frame)
  ret i32 %status
failed:
  ret i32 2
}
define void @ow_trap(ptr %view, i32 %trap, i32 %location, i64 %first, i64 %second) {
  call void @test_fail(ptr %view, i32 %trap, i32 %location, i64 %first, i64 %second)
  call void @longjmp(ptr @buffer, i32 1)
  unreachable
}
define float @ow_half_to_single(ptr %view, i32 %bits, i32 %format) {
  %wide = call i32 @test_half_bits(ptr %view, i32 %bits, i32 %format)
  %value = bitcast i32 %wide to float
  ret float %value
}
define i32 @ow_single_to_half(ptr %view, float %value, i32 %format) {
  %wide = bitcast float %value to i32
  %bits = call i32 @test_single_bits(ptr %view, i32 %wide, i32 %format)
  ret i32 %bits
}
"""
FORMATS: tuple[tuple[ir.Type, int], ...] = (("f16", 10), ("bf16", 7), ("cb16", 9))


@dataclass
class Machine:
    """One PE that runs a resolved unit; `waits` says of each operation whether it waits first."""

    unit: ir.Unit
    memory: bytes
    constants: Sequence[int] = ()
    waits: Sequence[bool] = ()
    arguments: bytes = b""
    elements: int = 2
    watched: tuple[int, int] = (0, 0)
    """First address and bytes of what microthreads are said to read."""
    log: list[tuple[Any, ...]] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    operations: int = 0

    def __post_init__(self) -> None:
        self.data = ctypes.create_string_buffer(self.memory, len(self.memory))
        blocks = sum(len(one.blocks) for one in self.unit.functions.values())
        self.costs = (ctypes.c_uint32 * max(1, blocks))(*(3 * number + 1 for number in range(blocks)))
        self.table = (ctypes.c_uint64 * max(1, len(self.constants)))(*self.constants)
        self.view = PeView(x=3, y=7, memory_bytes=len(self.memory), fuel=FUEL)
        self.view.watched_from, self.view.watched_bytes = self.watched
        self.view.memory = ctypes.addressof(self.data)
        self.view.costs = ctypes.addressof(self.costs)
        self.view.constants = ctypes.addressof(self.table)
        address = ctypes.addressof(self.view)
        ctypes.memmove(address + ir.VIEW["arguments"], self.arguments, len(self.arguments))
        # 0xEE: an entry may rely on the first 4 bytes only
        self.frame = ctypes.create_string_buffer(b"\0\0\0\0" + b"\xee" * 8188, 8192)
        self.left = 0
        self.byte: int | None = None
        MACHINES[address] = self

    def run(self, entry: Any) -> Machine:
        """Calls an entry until it no longer waits."""
        for _ in range(ROUNDS):
            status = entry(ctypes.addressof(self.view), ctypes.addressof(self.frame))
            self.statuses.append(status)
            if status != abi.Status.WAITING:
                break
            if self.byte is not None:  # what ow_map_next left to be written
                self._next_element(self.byte)
                self.byte = None
        del MACHINES[ctypes.addressof(self.view)]
        return self

    @property
    def seen(self) -> dict[str, Any]:
        """All that an execution may change."""
        return {
            "statuses": self.statuses,
            "log": self.log,
            "clock": self.view.clock,
            "fuel": self.view.fuel,
            "memory": self.data.raw,
            "resume point": self.frame.raw[:4] if self.statuses[-1] == abi.Status.DONE else b"",
        }

    # --- the runtime ------------------------------------------------------------------------------------------

    def call(self, name: str, arguments: tuple[Any, ...]) -> int:
        special = getattr(self, name, None)
        if special is not None:
            return int(special(*arguments))
        self.log.append((name, *arguments))
        return 0x12340000 + len(self.log)  # more bits than a u16 has

    def _status(self) -> int:
        self.operations += 1
        waits = self.operations <= len(self.waits) and self.waits[self.operations - 1]
        return int(abi.Status.WAITING if waits else abi.Status.DONE)

    def _operands(self, count: int, at: int) -> list[tuple[int, int, bytes]]:
        found = []
        for kind, bits, descriptor in struct.iter_unpack("<IIQ", ctypes.string_at(at, 16 * count)):
            found.append((kind, bits, ctypes.string_at(descriptor, 32) if descriptor else b""))
        return found

    def ow_vector(self, record: int, operands: int) -> int:
        data = ctypes.string_at(record, 20)
        self.log.append(("vector", data, self._operands(data[2], operands)))
        self.data[len(self.log) % len(self.memory)] = (
            len(self.log) & 0xFF
        )  # the machine works on the same memory
        return self._status()

    def ow_load_dsr(self, kind: int, number: int, descriptor: int, record: int) -> int:
        self.log.append(("dsr", kind, number, ctypes.string_at(descriptor, 32), ctypes.string_at(record, 20)))
        return self._status()

    def ow_map_begin(self, operands: int, types: int, location: int) -> int:
        kinds = ctypes.string_at(types, 9).partition(b"\xff")[0]
        self.log.append(("map", kinds, self._operands(len(kinds), operands), location))
        self.left = self.elements
        return self._status()

    def ow_map_next(self, byte: int) -> int:
        self.log.append(("next",))
        status = self._status()
        if status == abi.Status.DONE:
            self._next_element(byte)
        else:
            self.byte = byte
        return status

    def _next_element(self, byte: int) -> None:
        ctypes.c_uint8.from_address(byte).value = int(self.left > 0)
        self.left -= 1

    def ow_poll(self) -> int:
        self.log.append(("poll",))
        self.view.fuel = FUEL
        return 0


MACHINES: dict[int, Machine] = {}


def _callback(one: abi.Runtime) -> Any:
    def answer(view: int, *arguments: Any) -> Any:
        result = MACHINES[view].call(one.name, arguments)
        return None if one.result == "void" else result

    return ctypes.CFUNCTYPE(TYPES[one.result], ctypes.c_void_p, *(TYPES[kind] for kind in one.parameters))(
        answer
    )


def _half_bits(view: int, bits: int, number: int) -> int:
    kind, fraction = FORMATS[number]
    if bits & 0x7FFF > ir.encode(kind, float("inf")):  # a NaN, with its payload
        return (bits >> 15) << 31 | 0x7F800000 | (bits & ((1 << fraction) - 1)) << (23 - fraction)
    return ir.encode("f32", ir.decode(kind, bits))


def _single_bits(view: int, bits: int, number: int) -> int:
    kind = FORMATS[number][0]
    if bits & 0x7FFFFFFF > 0x7F800000:
        return (bits >> 31) << 15 | ir.encode(kind, float("nan"))
    return ir.encode(kind, ir.decode("f32", bits))


_BITS = ctypes.CFUNCTYPE(ctypes.c_uint32, ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32)
_IN_HARNESS = ("ow_trap", "ow_half_to_single", "ow_single_to_half")
CALLBACKS = {one.name: _callback(one) for one in abi.RUNTIME if one.name not in _IN_HARNESS}
HELPERS = {
    "test_fail": CALLBACKS["ow_fail"],
    "test_half_bits": _BITS(_half_bits),
    "test_single_bits": _BITS(_single_bits),
}
RUNTIME = {name: ctypes.cast(one, ctypes.c_void_p).value or 0 for name, one in (CALLBACKS | HELPERS).items()}


class Native:
    """A resolved unit, compiled for this host."""

    def __init__(self, unit: ir.Unit, level: int = 2) -> None:
        code = emit(unit)
        self.frame_bytes = code.frame_bytes
        module = llvm.parse_assembly(code.llvm)
        module.verify()
        machine = llvm.Target.from_default_triple().create_target_machine(opt=level)
        builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=level))
        builder.getModulePassManager().run(module, builder)
        self._optimised, self._machine = str(module), machine
        self.engine = llvm.create_mcjit_compiler(module, machine)
        harness = llvm.parse_assembly(HARNESS)
        self.engine.add_module(harness)
        for one in (*module.functions, *harness.functions):  # of this engine: the fabric's are the process's
            if one.is_declaration and one.name in RUNTIME:
                self.engine.add_global_mapping(one, RUNTIME[one.name])
        self.engine.finalize_object()
        pointers = [ctypes.c_void_p] * 3
        self._run = ctypes.CFUNCTYPE(ctypes.c_int32, *pointers)(self.engine.get_function_address("run"))

    def assembly(self) -> str:
        """The host's assembly."""
        return str(self._machine.emit_assembly(llvm.parse_assembly(self._optimised)))

    def entry(self, number: int) -> Any:
        """A callable with the signature of an entry."""
        address = self.engine.get_function_address(f"ow_entry_{number}")
        return lambda view, frame: self._run(address, view, frame)


def run_both(unit: ir.Unit, entry: int = 0, **options: Any) -> tuple[Machine, Machine]:
    """The same entry by the interpreter and natively, on equal machines."""
    interpreted = Machine(unit, **options).run(Interpreter(unit, RUNTIME).entries[entry])
    native = Machine(unit, **options).run(Native(unit).entry(entry))
    return interpreted, native


def resolved(unit: ir.Unit) -> tuple[ir.Unit, bytes]:
    """A unit verified, linked and freed of symbols, and its memory as it starts."""
    ir.verify(unit)
    linked = ir.link(unit)
    return ir.resolve(unit, linked), ir.memory_image(unit, linked).ljust(linked.end, b"\0")
