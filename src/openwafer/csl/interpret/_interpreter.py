"""Carries out a unit's functions: a stack of activations that can stop at any machine operation and go on later."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from openwafer.artifact import _pe_abi as abi
from openwafer.csl import ir
from openwafer.csl.interpret import _values as values
from openwafer.csl.interpret._runtime import Pe, Runtime
from openwafer.csl.interpret._values import TrapError, Value

_CONFIG_BASE = 0xFE00
_ENTRY = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p)


@dataclass(slots=True)
class _Activation:
    """One call of a function; `index` is the next instruction of `block`."""

    function: ir.Function
    locals: dict[str, Value]
    result: int | None
    """The caller's temporary for the result."""
    block: int = 0
    index: int = 0
    temporaries: dict[int, Value] = field(default_factory=dict)


class Interpreter:
    """Runs a resolved unit; `entries` holds a callback for each entry, in the order of `ir.entries`.

    The callbacks have the PE ABI's signature, and live as long as the interpreter. `runtime` maps the names of the ABI's
    functions to addresses; those that the code never calls may be missing. Errors of the program go to ow_fail.
    """

    def __init__(self, unit: ir.Unit, runtime: Mapping[str, int]) -> None:
        self._unit = unit
        self._runtime = Runtime(runtime)
        self._waiting: dict[tuple[int, int], _Thread] = {}
        self._first_block: dict[str, int] = {}
        at = 0
        for name, function in unit.functions.items():
            self._first_block[name] = at
            at += len(function.blocks)
        self.entries = tuple(self._entry(name) for name in ir.entries(unit))

    @property
    def addresses(self) -> tuple[int, ...]:
        """The addresses of the callbacks."""
        return tuple(ctypes.cast(one, ctypes.c_void_p).value or 0 for one in self.entries)

    def _entry(self, name: str) -> Any:
        def run(view: int, frame: int) -> int:
            resume_point = ctypes.c_uint32.from_address(frame)
            if resume_point.value == 0:
                thread = _Thread(self._unit, self._runtime, self._first_block, Pe(view))
                thread.start(name)
            else:
                thread = self._waiting.pop((view, frame))
            status = thread.run()
            resume_point.value = int(status == abi.Status.WAITING)
            if status == abi.Status.WAITING:
                self._waiting[view, frame] = thread
            return int(status)

        return _ENTRY(run)


class _Thread:
    """What one entry of one PE is doing."""

    def __init__(self, unit: ir.Unit, runtime: Runtime, first_block: Mapping[str, int], pe: Pe) -> None:
        self._unit, self._runtime, self._first_block, self._pe = unit, runtime, first_block, pe
        self._stack: list[_Activation] = []
        self._map_byte = ctypes.c_uint8()
        self._map_result: int | None = None

    def start(self, name: str) -> None:
        """Begins an entry, with its arguments from the PeView."""
        function = self._unit.functions[name]
        arguments, word = [], 0
        for parameter in function.parameters:
            kind = function.locals[parameter].type
            arguments.append(self._pe.argument(word, kind))
            word += ir.argument_words(kind)
        self._push(function, arguments, None)

    def run(self) -> abi.Status:
        """Goes on until the entry ends, has to wait, or fails."""
        if self._map_result is not None:
            self._stack[-1].temporaries[self._map_result] = self._map_byte.value
            self._map_result = None
        while self._stack:
            top = self._stack[-1]
            block = top.function.blocks[top.block]
            location = 0
            try:
                if top.index == len(block.instructions):
                    location = block.terminator.location if isinstance(block.terminator, ir.Halt) else 0
                    self._end(top, block.terminator)
                    continue
                one = block.instructions[top.index]
                top.index += 1
                location = one.location
                status = self._step(top, one)
            except TrapError as trap:
                self._call("ow_fail", int(trap.trap), location, trap.first, trap.second)
                return abi.Status.FAILED
            if status != abi.Status.DONE:
                return status
        return abi.Status.DONE

    # --- control ----------------------------------------------------------------------------------------------

    def _push(self, function: ir.Function, arguments: list[Value], result: int | None) -> None:
        started = {name: bytes(32) if one.type == "dsd" else 0 for name, one in function.locals.items()}
        started |= zip(function.parameters, arguments, strict=True)
        self._stack.append(_Activation(function, started, result))
        self._pe.charge(self._first_block[function.name])

    def _go(self, top: _Activation, block: int) -> None:
        if block <= top.block:
            self._pe.view.fuel -= 1
            if self._pe.view.fuel < 0:
                self._call("ow_poll")
        top.block, top.index, top.temporaries = block, 0, {}
        self._pe.charge(self._first_block[top.function.name] + block)

    def _end(self, top: _Activation, end: ir.Terminator | None) -> None:
        match end:
            case ir.Jump():
                self._go(top, end.block)
            case ir.Branch():
                self._go(top, end.then if self._value(end.condition) else end.otherwise)
            case ir.Choose():
                self._go(top, dict(end.cases).get(self._value(end.value), end.otherwise))
            case ir.Return():
                value = None if end.value is None else self._value(end.value)
                self._stack.pop()
                if top.result is not None:
                    self._stack[-1].temporaries[top.result] = value
            case ir.Halt():
                raise TrapError(abi.Trap[end.kind.upper()], *end.numbers)

    def _call(self, name: str, *arguments: int) -> int:
        return self._runtime.call(name, self._pe.address, *arguments)

    def _value(self, operand: ir.Operand) -> Value:
        match operand:
            case ir.Temporary():
                return self._stack[-1].temporaries[operand.number]
            case ir.Number():
                return values.value_of(operand.type, ir.encode(operand.type, operand.value))
            case ir.Constant():
                return self._pe.constant(operand)
            case ir.Descriptor():
                return ir.pack_descriptor(operand, {})
            case ir.Address():
                raise AssertionError(f"the address of {operand.symbol} was not resolved")

    # --- instructions -----------------------------------------------------------------------------------------

    def _step(self, top: _Activation, one: ir.Instruction) -> abi.Status:
        """One instruction; only machine operations answer anything but DONE."""
        match one:
            case ir.Vector() | ir.LoadDsr() | ir.MapBegin() | ir.MapNext():
                return abi.Status(self._operation(top, one))
            case ir.Invoke():
                arguments = [self._value(operand) for operand in one.arguments]
                self._push(self._unit.functions[one.function], arguments, one.result)
            case ir.Set():
                top.locals[one.local] = self._value(one.value)
            case ir.Store():
                self._store(self._value(one.address), one, self._value(one.value))
            case ir.Copy():
                target, source = self._value(one.target), self._value(one.source)
                self._check(target, one.bytes)
                self._check(source, one.bytes)
                self._watch(target, one.bytes)
                self._pe.memory[target : target + one.bytes] = bytes(
                    self._pe.memory[source : source + one.bytes]
                )
            case ir.MapWrite():
                self._call("ow_map_write", one.operand, values.bits_of(one.type, self._value(one.value)))
            case _:
                result = self._evaluate(top, one)
                number = ir.result_of(one)
                if number is not None:
                    top.temporaries[number] = result
        return abi.Status.DONE

    def _evaluate(self, top: _Activation, one: ir.Instruction) -> Value:
        match one:
            case ir.Compute():
                return values.compute(
                    one.operation, one.type, [self._value(operand) for operand in one.operands]
                )
            case ir.Compare():
                return values.compare(one.comparison, one.type, self._value(one.left), self._value(one.right))
            case ir.Convert():
                return values.convert(one.source, one.target, self._value(one.operand))
            case ir.Bitcast():
                value = self._value(one.operand)
                if one.source == "dsd":
                    return value
                return values.value_of(one.target, values.bits_of(one.source, value))
            case ir.Get():
                return top.locals[one.local]
            case ir.Element():
                index = self._value(one.index)
                if one.count is not None and not 0 <= index < one.count:
                    raise TrapError(abi.Trap.INDEX, index & (1 << 64) - 1, one.count)
                return (self._value(one.base) + index * one.bytes) & 0xFFFF
            case ir.Offset():
                return (self._value(one.base) + one.bytes) & 0xFFFF
            case ir.Load():
                return self._load(self._value(one.address), one)
            case ir.Machine():
                return self._machine(one)
            case ir.EditDsd():
                return _edit(self._value(one.descriptor), one.field, self._value(one.value))
            case ir.MapRead():
                return values.value_of(one.type, self._call("ow_map_read", one.operand))
            case _:
                raise AssertionError(f"{one} was not resolved")

    def _check(self, address: int, size: int) -> None:
        if address + size > len(self._pe.memory):
            raise TrapError(abi.Trap.ADDRESS, address, size)

    def _watch(self, address: int, size: int) -> None:
        view = self._pe.view
        if size and view.watched_from - size < address < view.watched_from + view.watched_bytes:
            self._call("ow_watch", address, size)

    def _load(self, address: int, one: ir.Load) -> Value:
        size = ir.BYTES[one.type]
        if not one.known and address >= _CONFIG_BASE and one.type != "dsd":
            bits = 0
            for word in range(max(1, size // 2)):
                bits |= (self._call("ow_config_read", address // 2 + word) & 0xFFFF) << 16 * word
            return values.value_of(one.type, bits & (1 << 8 * size) - 1)
        self._check(address, size)
        data = bytes(self._pe.memory[address : address + size])
        return data if one.type == "dsd" else values.value_of(one.type, int.from_bytes(data, "little"))

    def _store(self, address: int, one: ir.Store, value: Value) -> None:
        size = ir.BYTES[one.type]
        if not one.known and address >= _CONFIG_BASE and one.type != "dsd":
            bits = values.bits_of(one.type, value)
            for word in range(max(1, size // 2)):
                self._call("ow_config_write", address // 2 + word, bits >> 16 * word & 0xFFFF)
            return
        self._check(address, size)
        if one.type != "dsd":
            self._watch(address, size)
        data = value if one.type == "dsd" else values.bits_of(one.type, value).to_bytes(size, "little")
        self._pe.memory[address : address + size] = data

    def _machine(self, one: ir.Machine) -> Value:
        operation = ir.MACHINE[one.name]
        if not operation.runtime:  # x and y
            return getattr(self._pe.view, one.name)
        words = [
            values.bits_of(kind, self._value(operand))
            for operand, kind in zip(one.operands, operation.parameters, strict=True)
        ]
        answer = self._call(operation.runtime, *operation.first, *words)
        return None if operation.result == "void" else values.value_of(operation.result, answer)

    # --- machine operations that may wait -----------------------------------------------------------------------

    def _operation(self, top: _Activation, one: ir.Instruction) -> int:
        match one:
            case ir.Vector():
                operands = self._operands(one.operands)
                count = len(one.operands)
                vector = _buffer(ir.pack_vector(one.operation, count, one.settings, one.location))
                return self._call("ow_vector", _address(vector), _address(operands[0]))
            case ir.LoadDsr():
                flagged = bytearray(self._value(one.descriptor))
                flagged[ir.FIELD["flags"]] |= ir.dsr_flags(one)
                descriptor = _buffer(bytes(flagged))
                vector = _buffer(ir.pack_vector(None, 0, one.settings, one.location))
                kind, number = ir.register_kind(one.register), one.register.number
                return self._call("ow_load_dsr", kind, number, _address(descriptor), _address(vector))
            case ir.MapBegin():
                operands = self._operands(one.operands)
                types = _buffer(ir.map_types(one))
                return self._call("ow_map_begin", _address(operands[0]), _address(types), one.location)
            case ir.MapNext():
                status = self._call("ow_map_next", ctypes.addressof(self._map_byte))
                if status == abi.Status.WAITING:
                    self._map_result = one.result
                top.temporaries[one.result] = self._map_byte.value
                return status
            case _:
                raise AssertionError(one)

    def _operands(self, operands: tuple[ir.VectorOperand, ...]) -> list[Any]:
        """The OPERANDs, and behind them the descriptors that they point to."""
        held: list[Any] = [None]
        data = b""
        for one in operands:
            value = one.value
            if isinstance(value, ir.Register):
                triple = (ir.register_kind(value), value.number, 0)
            elif one.kind == "dsd":
                held.append(_buffer(self._value(value)))
                triple = (int(abi.OperandKind.DSD), 0, _address(held[-1]))
            elif one.kind == "pointer":
                triple = (int(abi.OperandKind.POINTER), self._value(value), 0)
            else:
                triple = (int(abi.OperandKind.SCALAR), values.bits_of(one.type, self._value(value)), 0)
            data += struct.pack("<IIQ", *triple)
        held[0] = _buffer(data)
        return held


def _buffer(data: bytes) -> Any:
    return ctypes.create_string_buffer(data, len(data))


def _address(buffer: Any) -> int:
    return ctypes.addressof(buffer)


def _edit(descriptor: bytes, name: str, value: int) -> bytes:
    """One field of a descriptor replaced; `offset` adds to the base."""
    data = bytearray(descriptor)
    at = ir.FIELD["base" if name == "offset" else name]
    if name in ("color", "queue"):
        data[at] = value & 0xFF
        return bytes(data)
    if name == "offset":
        value += int.from_bytes(data[at : at + 2], "little")
    data[at : at + 2] = (value & 0xFFFF).to_bytes(2, "little")
    return bytes(data)
