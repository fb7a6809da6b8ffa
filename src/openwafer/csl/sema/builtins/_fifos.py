"""FIFOs: rings in memory that operations push to and pop from."""

from __future__ import annotations

from typing import cast, get_args

from openwafer.csl._diagnostics import Note
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._facts import FifoTasks, TaskName
from openwafer.csl.sema._values import FunctionValue, Value
from openwafer.csl.sema.builtins._settings import choice, priority

_ELEMENTS = ("i16", "u16", "f16", "bf16", "cb16", "i32", "u32", "f32")
_REGISTERS = {"dest": t.DSR_DEST, "src": t.DSR_SRC1, "xdsr": t.XDSR}
_ACTIONS = ("empty_action", "full_action")
_FIELDS = ("activate_push", "activate_pop", "priority", "simd_mode", *_REGISTERS, *_ACTIONS)
_OF_WSE3 = ("suspend", "fault")
FIFOS = 16
"""Not published; as many as there are XDSRs in the tables."""


@builtin("allocate_fifo", 1, 2, stage="comptime")
def allocate_fifo(call: Call) -> Value:
    """A FIFO in a global array; once per array."""
    place = call.place(0)
    pointer = call.load(place) if isinstance(place.type, t.Pointer) else call.address(place)
    assert isinstance(pointer.type, t.Pointer)
    array = pointer.type.target
    if not isinstance(array, t.Array) or str(array.element) not in _ELEMENTS:
        call.error(
            call.span_of(0),
            "the buffer of a FIFO",
            expected="a global array of numbers of 16 or 32 bits",
            found=f"`{array}`",
        )
    if not isinstance(pointer.data, ir.Address) or pointer.data.offset or pointer.type.const:
        call.error(call.span_of(0), "the buffer of a FIFO is a whole global array, declared as `var`")
    resources = call.engine.resources
    symbol = pointer.data.symbol
    known = resources.fifos.get(symbol)
    if known is not None and known[1] != call.span:
        call.engine.fail(
            call.span,
            f"`{symbol}` is the buffer of a FIFO already",
            notes=(Note(known[1], "allocated here"),),
        )
    if len(resources.fifos) == FIFOS:
        call.error(None, f"a PE has {FIFOS} FIFOs, this is one more")
    number = len(resources.fifos)
    resources.fifos[symbol] = (number, call.span)
    made = ir.Descriptor(
        "fifo", base=pointer.data, length=array.count, queue=number, stride=array.element.bytes // 2
    )
    push = pop = None
    actions: dict[str, ir.FifoAction] = {}
    if len(call) > 1:
        fields = call.fields(1, "the configuration of a FIFO", _FIELDS)
        push, pop = (_task(call, fields.get(name), name) for name in ("activate_push", "activate_pop"))
        if "priority" in fields:
            level = priority(call, fields["priority"], call.field_span(1, "priority"))
            made = ir.Descriptor(
                "fifo", base=made.base, length=made.length, queue=number, stride=made.stride, priority=level
            )
        if "simd_mode" in fields:
            if call.architecture != "wse2":
                call.error(
                    call.field_span(1, "simd_mode"),
                    "FIFOs of the WSE-3 have no `simd_mode`",
                    hint="leave it out",
                )
            choice(
                call,
                fields["simd_mode"],
                call.field_span(1, "simd_mode"),
                "`simd_mode`",
                ("simd_32", "simd_64", "simd_32_or_64"),
            )
        _registers(call, fields, made)
        actions = {name: _action(call, fields[name], name) for name in _ACTIONS if name in fields}
    empty, full = (actions.get(name, "test_or_suspend") for name in _ACTIONS)
    resources.fifo_tasks.append(FifoTasks(number, symbol, push, pop, empty, full))
    return Value(t.FIFO, made)


def _task(call: Call, value: Value | None, name: str) -> int | TaskName | None:
    if value is None:
        return None
    span = call.field_span(1, name)
    if value.known and isinstance(value.data, FunctionValue):
        return TaskName(value.data, span)
    if value.type is not t.LOCAL_TASK_ID:
        call.error(span, f"`{name}`", expected="a local_task_id or a task", found=f"`{value.type}`")
    return int(call.engine.require_known(value, span, f"`{name}`").data)


def _action(call: Call, value: Value, name: str) -> ir.FifoAction:
    """What an operation does that finds the FIFO empty or full (dialect 2.10)."""
    span = call.field_span(1, name)
    if call.dialect == "1.4":
        call.error(span, f"`{name}` came with dialect 2.10", hint="compile with --sdk-dialect=2.10")
    if call.architecture == "wse2" and name == "full_action":
        call.error(
            span, "FIFOs of the WSE-2 have no `full_action`", hint="leave it out; choose with @is_arch"
        )
    chosen = choice(call, value, span, f"`{name}`", get_args(ir.FifoAction))
    if call.architecture == "wse2" and chosen in _OF_WSE3:
        call.error(
            span,
            f"FIFOs of the WSE-2 do not {chosen}",
            hint="use .{ .terminate = true }; choose with @is_arch",
        )
    return cast("ir.FifoAction", chosen)


def _registers(call: Call, fields: dict[str, Value], fifo: ir.Descriptor) -> None:
    """The registers that the program chose hold the FIFO from the start."""
    given = [name for name in _REGISTERS if name in fields]
    if not given:
        return
    if len(given) != len(_REGISTERS):
        call.error(call.span_of(1), "`dest`, `src` and `xdsr` of a FIFO are given together, or none of them")
    for name, type in _REGISTERS.items():
        if fields[name].type is not type:
            call.error(
                call.field_span(1, name), f"`{name}`", expected=f"`{type}`", found=f"`{fields[name].type}`"
            )
    if fields["dest"].data != fields["src"].data:
        call.error(
            call.span_of(1),
            f"`dest` is register {fields['dest'].data}, but `src` {fields['src'].data}",
            hint="use one number",
        )
    for name in _REGISTERS:
        key = (name, int(fields[name].data))
        old = call.engine.resources.fifo_registers.get(key)
        if old is not None:
            call.engine.fail(
                call.field_span(1, name),
                f"{name} {key[1]} belongs to another FIFO",
                notes=(Note(old, "taken here"),),
            )
        call.engine.resources.fifo_registers[key] = call.field_span(1, name)
    for register in (ir.Register("dest", fields["dest"].data), ir.Register("src1", fields["src"].data)):
        call.unit.preloads.append(ir.LoadDsr(register, fifo, ir.Settings(), False, False, call.location))


def _length(call: Call, machine: str) -> Value:
    fifo = call.known(0, "the FIFO", t.FIFO)
    length = call.coerced(1, t.U16)
    return call.machine(machine, ir.Number("u16", fifo.data.queue), call.operand(length))


@builtin("set_fifo_read_length", 2, stage="code")
def set_fifo_read_length(call: Call) -> Value:
    """How many elements the next operations pop."""
    return _length(call, "fifo_read_length")


@builtin("set_fifo_write_length", 2, stage="code")
def set_fifo_write_length(call: Call) -> Value:
    """How many elements the next operations push."""
    return _length(call, "fifo_write_length")
