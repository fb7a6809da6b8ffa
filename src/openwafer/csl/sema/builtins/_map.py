"""`@map(f, a, b, out)`: a function for each element of DSDs."""

from __future__ import annotations

from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import MemoryPlace, Value
from openwafer.csl.sema.builtins._automatic_queues import note_queue
from openwafer.csl.sema.builtins._operations import FILES

_ELEMENTS = ("i16", "i32", "u16", "u32", "f16", "bf16", "cb16", "f32")


@builtin("map", 2, None, stage="code")
def map_(call: Call) -> Value:
    """Calls the function until one of the DSDs has no element left."""
    function = call.function(0, "what @map calls")
    kind = call.value(0).type
    assert isinstance(kind, t.FunctionType)
    count = len(kind.parameters)
    produces = kind.result is not t.VOID
    if len(call) != 1 + count + produces:
        call.error(
            None,
            f"@map with `{function.name}` takes {count} inputs{' and an output' if produces else ''}, found {len(call) - 1}",
            hint="the inputs come in the order of the parameters, the output of a function with a result last",
        )
    inputs = [_input(call, index, kind.parameters[index - 1]) for index in range(1, 1 + count)]
    output = _output(call, 1 + count, kind.result) if produces else None
    operands: list[ir.VectorOperand] = []
    types: list[ir.Type | None] = []
    modes: list[str] = []
    for one, mode in (*((one, "read") for one in inputs), (output, "write")):
        if isinstance(one, _Elements):
            one.number = len(operands)
            operands.append(one.operand)
            types.append(one.type.ir)
            modes.append(mode)
    if not operands:
        call.error(
            None,
            "@map needs a DSD or DSR among its arguments",
            hint=f"without one, call `{function.name}` itself",
        )
    call.emit(ir.MapBegin(tuple(operands), tuple(types), tuple(modes), call.location))  # type: ignore[arg-type]
    builder = call.engine.builder(call.span, "@map")
    head, body, end = builder.new_block(), builder.new_block(), builder.new_block()
    builder.jump(head)
    builder.block = head
    builder.branch(call.emit(ir.MapNext(call.result(), call.location)), body, end)
    builder.block = body
    with call.engine.controlled():
        arguments = [one if isinstance(one, Value) else _read(call, one) for one in inputs]
        result = call.call(function, arguments)
        if isinstance(output, _Elements):
            value = call.operand(call.engine.coerce(result, output.type, call.span))
            assert output.type.ir is not None
            call.emit(ir.MapWrite(output.number, output.type.ir, value, call.location))
        elif output is not None:
            call.store(output, result)
    builder.jump(head)
    builder.block = end
    return v.NOTHING


class _Elements:
    """An argument of which each call gets, or makes, one element."""

    def __init__(self, operand: ir.VectorOperand, type: t.Type) -> None:
        self.operand = operand
        self.type = type
        self.number = 0
        """Its place among the operands of the iteration."""


def _elements(call: Call, index: int, type: t.Type | None) -> _Elements:
    value = call.value(index)
    if type is None or str(type) not in _ELEMENTS:
        call.error(
            call.span_of(index),
            "the elements of a DSD in @map",
            expected="a parameter or result of i16, u16, i32, u32, @fp16() or f32",
            found="`anytype`" if type is None else f"`{type}`",
            hint="write a function with types of its own around it",
        )
    if value.type in FILES:
        register = ir.Register(FILES[value.type], value.data)  # type: ignore[arg-type]
        return _Elements(ir.VectorOperand("dsr", register), type)
    note_queue(call, index, value, False)
    return _Elements(ir.VectorOperand("dsd", call.operand(value)), type)


def _input(call: Call, index: int, type: t.Type | None) -> Value | _Elements:
    value = call.value(index, type)
    if value.type is t.FIFO:
        call.error(
            call.span_of(index),
            "a FIFO cannot take part in @map",
            hint="move it into memory first: @mov16(dsd, fifo)",
        )
    if value.type is t.FABOUT_DSD or value.type in (t.DSR_DEST, t.DSR_SRC0):
        call.error(
            call.span_of(index),
            "an input of @map",
            expected="a DSD to read from, or a dsr_src1",
            found=f"`{value.type}`",
        )
    if t.is_dsd(value.type) or value.type in FILES:
        return _elements(call, index, type)
    return value if type is None else call.engine.coerce(value, type, call.span_of(index))


def _output(call: Call, index: int, type: t.Type | None) -> MemoryPlace | _Elements:
    value = call.value(index)
    found = value.type
    if isinstance(found, t.Pointer) and not found.const and found.target is type:
        return MemoryPlace(call.operand(value), found.target, value.known, name=call.span_of(index).text)
    if found is t.DSR_DEST or found in (t.MEM1D_DSD, t.MEM4D_DSD, t.FABOUT_DSD):
        return _elements(call, index, type)
    call.error(
        call.span_of(index),
        "the output of @map",
        expected=f"a DSD to write to, a dsr_dest, or `*{type}`",
        found=f"`{found}`",
    )


def _read(call: Call, one: _Elements) -> Value:
    assert one.type.ir is not None
    return v.code(one.type, call.emit(ir.MapRead(call.result(), one.number, one.type.ir, call.location)))
