"""Builtins that only the files of csl/library may use; library/PRIVATE.md says what each is for."""

from __future__ import annotations

from typing import get_args

from openwafer.artifact._image import Direction, Route
from openwafer.artifact._pe_abi import PrintKind
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import NOTHING, Value, comptime_int

_TYPES = {
    "u16": t.U16,
    "u32": t.U32,
    "i16": t.I16,
    "i32": t.I32,
    "f32": t.F32,
    "hex16": t.U16,
    "hex32": t.U32,
    "bool": t.BOOL,
}


@builtin("__unblock_commands", 0, stage="code")
def unblock_commands(call: Call) -> Value:
    """The host's next command may begin."""
    return call.machine("unblock_commands")


def _place(call: Call, name: str, index: int) -> Value:
    if not call.comptime:
        return call.machine(name, type=t.U16)
    call.engine.resources.asked_place = True
    place = call.engine.options.place
    if place is None:
        call.error(
            None,
            "the place of the tile is not known here",
            hint="ask for it in code that runs, or in the program of a tile of a layout",
        )
    return Value(t.U16, place[index])


@builtin("__x", 0)
def x(call: Call) -> Value:
    """The tile's column; at comptime the program then depends on the place."""
    return _place(call, "x", 0)


@builtin("__y", 0)
def y(call: Call) -> Value:
    """The tile's row."""
    return _place(call, "y", 1)


@builtin("__integer", 1)
def integer(call: Call) -> Value:
    """1 for an unsigned integer type of fixed width, 2 for a signed one, 0 for other types."""
    found = call.type(0)
    fixed = isinstance(found, t.Primitive) and found.kind == "integer"
    return comptime_int((2 if found.signed else 1) if fixed and isinstance(found, t.Primitive) else 0)


@builtin("__bit_size", 1)
def bit_size(call: Call) -> Value:
    """The width of a type in bits; 0 where it has none."""
    found = call.type(0)
    scalar = isinstance(found, t.Primitive | t.Enum | t.Pointer) and found.ir not in (None, "void", "dsd")
    packed = isinstance(found, t.Record) and found.packed
    return comptime_int(t.packed_bits(found) if scalar or packed else 0)


@builtin("__message_colors", 1, stage="block")
def message_colors(call: Call) -> Value:
    """Reserves the colors of a tuple; the router routes the first of them by what the messages say."""
    colors = [int(one.data) for one in call.known(0, "the colors").data]
    resources = call.engine.resources
    for color in colors:
        if color in resources.routes:
            call.error(
                call.span, f"color {color} belongs to <message_passing>", hint="configure another color"
            )
    carrier = Route(rx=get_args(Direction), messages=True)
    resources.routes |= {color: (carrier if color == colors[0] else Route(), call.span) for color in colors}
    return NOTHING


@builtin("__pointed_bits", 1)
def pointed_bits(call: Call) -> Value:
    """The width of what a type of pointer points to, or of the elements of that array."""
    found = call.type(0)
    target = found.target if isinstance(found, t.Pointer) else found
    element = target.element if isinstance(target, t.Array) else target
    number = isinstance(element, t.Primitive) and element.kind in ("integer", "float")
    return comptime_int(t.packed_bits(element) if number and isinstance(found, t.Pointer) else 0)


@builtin("__tsc", 1, stage="code")
def tsc(call: Call) -> Value:
    """A word of the cycle counter."""
    return call.machine("tsc", ir.Number("u16", call.integer(0, "the word", 0, 2)), type=t.U16)


@builtin("__tsc_control", 1, stage="code")
def tsc_control(call: Call) -> Value:
    """0 stops the counter, 1 starts it from 0, 2 sets it to 0."""
    return call.machine(("tsc_off", "tsc_on", "tsc_reset")[call.integer(0, "the command", 0, 2)])


@builtin("__queue_length", 1, stage="code")
def queue_length(call: Call) -> Value:
    """Wavelets in a queue."""
    queue = call.value(0)
    name = "input_queue_length" if queue.type is t.INPUT_QUEUE else "output_queue_length"
    return call.machine(name, call.operand(queue), type=t.U16)


def _string(call: Call, index: int) -> ir.Number:
    """A string's index in the unit."""
    text, strings = call.text(index), call.unit.strings
    if text not in strings:
        strings.append(text)
    return ir.Number("u32", strings.index(text))


def _bits(call: Call, index: int, kind: str) -> ir.Operand:
    """A value as the u32 that the machine shows."""
    type = call.engine.half if kind == "f16" else _TYPES[kind]
    value = call.coerced(index, type)
    if t.is_float(type) or type in (t.I16, t.I32):
        value = call.bitcast(value, t.U32 if type.bytes == 4 else t.U16)
    return call.operand(call.convert(value, t.U32))


@builtin("__print", 2, stage="code")
def print_(call: Call) -> Value:
    """A number into the simulator's log."""
    kind = call.text(0)
    return call.machine(f"print_{kind}", _bits(call, 1, kind), ir.Number("u32", 0))


@builtin("__print_string", 1, stage="code")
def print_string(call: Call) -> Value:
    """A string into the log."""
    return call.machine("print_string", ir.Number("u32", 0), _string(call, 0))


@builtin("__trace", 3, stage="code")
def trace(call: Call) -> Value:
    """A number into the trace called `key`."""
    key, kind = _string(call, 0), call.text(1)
    number = ir.Number("u32", PrintKind[kind.upper()])
    bits = ir.Number("u32", 0) if kind == "timestamp" else _bits(call, 2, kind)
    return call.machine("trace", key, number, bits, ir.Number("u32", 0))


@builtin("__trace_string", 2, stage="code")
def trace_string(call: Call) -> Value:
    """A string into the trace."""
    key = _string(call, 0)
    return call.machine(
        "trace", key, ir.Number("u32", PrintKind.STRING), ir.Number("u32", 0), _string(call, 1)
    )
