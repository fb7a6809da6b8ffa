"""The DSD operations: `@fmacs(y, y, A, x)`.

Each takes operands by the forms of "Builtins for DSD Operations", in a table below: D is a DSD or a DSR, S a scalar, P a
pointer to one element; the destination comes first.
"""

from __future__ import annotations

from dataclasses import dataclass

from openwafer.artifact._pe_abi import DescriptorFlag
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import Value
from openwafer.csl.sema.builtins._automatic_queues import note_queue
from openwafer.csl.sema.builtins._descriptors import descriptor_field, edit
from openwafer.csl.sema.builtins._settings import (
    ASYNC,
    NO_CONFIG,
    Config,
    asynchronous,
    config,
    flag,
    with_thread,
)

FILES = {t.DSR_DEST: "dest", t.DSR_SRC0: "src0", t.DSR_SRC1: "src1"}
FIFO_FILES = {t.DSR_FIFO_DEST: "dest", t.DSR_FIFO_SRC1: "src1"}
"""Registers that hold a FIFO."""
_REGISTERS = {**FILES, **FIFO_FILES}
_CUT_SHORT = (t.FIFO, *FIFO_FILES)
_INT16 = ("i16", "u16")
_INT32 = ("i32", "u32")
_WITH_SCALAR = ("DDD", "DSD", "DDS")
_FOLDING = (*_WITH_SCALAR, "PSD")
_UNARY = ("DD", "DS")


@dataclass(frozen=True, slots=True)
class Operation:
    """Which operands an operation takes. Types are names; `half` is the float that --fp16-format chose."""

    forms: tuple[str, ...]
    destination: tuple[str, ...]
    """Types that a pointer as destination may point to."""
    scalars: tuple[str, ...]
    """Types of a scalar; of two, the first that a number without a width fits."""
    folding: tuple[str, ...] = ()
    """Those of a scalar where the destination is a pointer, if they differ."""


def _same(forms: tuple[str, ...], *types: str) -> Operation:
    return Operation(forms, types, types)


OPERATIONS: dict[str, Operation] = {
    **dict.fromkeys(
        ("add16", "addc16", "and16", "or16", "xor16", "sar16", "sll16", "slr16"), _same(_WITH_SCALAR, *_INT16)
    ),
    "sub16": _same(("DDD", "DDS"), *_INT16),
    **dict.fromkeys(("clz", "ctz", "popcnt"), _same(_UNARY, *_INT16)),
    "mov16": _same((*_UNARY, "PD"), *_INT16),
    "mov32": _same((*_UNARY, "PD"), *_INT32),
    **dict.fromkeys(("fabsh", "fnegh"), _same(_UNARY, "half")),
    **dict.fromkeys(("fabss", "fnegs"), _same(_UNARY, "f32")),
    **dict.fromkeys(("faddh", "fsubh", "fmulh", "fmaxh"), _same(_FOLDING, "half")),
    **dict.fromkeys(("fadds", "fsubs", "fmuls", "fmaxs"), _same(_FOLDING, "f32")),
    "faddhs": Operation(_FOLDING, ("f32",), ("half",), ("f32",)),
    "fmovh": _same((*_UNARY, "PD"), "half"),
    "fmovs": _same((*_UNARY, "PD"), "f32"),
    "fh2s": Operation(_UNARY, ("f32",), ("half",)),
    "fs2h": Operation(_UNARY, ("half",), ("f32",)),
    "fh2xp16": Operation((*_UNARY, "PS"), ("i16",), ("half",)),
    "fs2xp16": Operation((*_UNARY, "PS"), ("i16",), ("f32",)),
    "xp162fh": Operation(_UNARY, ("half",), _INT16),
    "xp162fs": Operation(_UNARY, ("f32",), _INT16),
    "fmach": _same(("DDDS",), "half"),
    "fmachs": Operation(("DDDS",), ("f32",), ("half",)),
    "fmacs": _same(("DDDS",), "f32"),
    "fnormh": _same(("PS",), "half"),
    "fnorms": _same(("PS",), "f32"),
    "fscaleh": _same(("PSS",), "half"),
    "fscales": _same(("PSS",), "f32"),
}


def _operate(call: Call) -> Value:
    operation = OPERATIONS[call.name]
    count = len(operation.forms[0])
    arity = {len(form) for form in operation.forms}
    last = len(call) - 1
    has_config = len(call) - 1 in arity and _is_config(call, last)
    count = len(call) - has_config
    if count not in arity:
        numbers = " or ".join(map(str, sorted(arity)))
        call.error(
            None,
            f"@{call.name} takes {numbers} operands, found {count}",
            hint=f"write {_written(call.name, operation)}",
        )
    found = config(call, last) if has_config else NO_CONFIG
    form = "".join(_letter(call, index) for index in range(count))
    if form not in operation.forms:
        _refuse(call, operation, form)
    operands = [_operand(call, operation, form, index, found) for index in range(count)]
    _check_together(call, form, found)
    found.say_ids(call)
    call.emit(ir.Vector(call.name, tuple(operands), found.settings, call.location))
    return _result(call, count, found)


def _result(call: Call, count: int, found: Config) -> Value:
    """Whether the operation was complete, where somebody asks: only a FIFO can cut it short."""
    if call.expected is t.VOID:
        return v.NOTHING
    if found.settings.asynchronous or all(call.value(index).type not in _CUT_SHORT for index in range(count)):
        return v.TRUE
    return call.machine("vector_complete", type=t.BOOL)


for _name in OPERATIONS:
    builtin(_name, 2, 5, stage="code")(_operate)


def _is_config(call: Call, index: int) -> bool:
    return isinstance(call.value(index).type, t.Record)


def _letter(call: Call, index: int) -> str:
    type = call.value(index).type
    if t.is_dsd(type) or type in _REGISTERS:
        return "D"
    return "P" if isinstance(type, t.Pointer) else "S"


def _written(name: str, operation: Operation) -> str:
    words = {"D": "dsd", "S": "value", "P": "pointer"}
    forms = (f"@{name}({', '.join(words[letter] for letter in form)})" for form in operation.forms)
    return " or ".join(forms)


def _refuse(call: Call, operation: Operation, form: str) -> None:
    types = ", ".join(f"`{call.value(index).type}`" for index in range(len(form)))
    call.error(None, f"@{call.name} does not take ({types})", hint=f"write {_written(call.name, operation)}")


def type_named(call: Call, name: str) -> t.Primitive:
    """`half` is the 16-bit float of the program."""
    return call.engine.half if name == "half" else t.NAMED[name]


def _operand(call: Call, operation: Operation, form: str, index: int, found: Config) -> ir.VectorOperand:
    letter = form[index]
    if letter == "D":
        return _vector(call, index, len(form) - 1, found)
    if letter == "P":
        return _pointer(call, operation, index)
    names = operation.folding if form[0] == "P" and operation.folding else operation.scalars
    if form == "PSS" and index == 2:
        names = ("i16",)
    return _scalar(call, index, [type_named(call, name) for name in names])


def _scalar(call: Call, index: int, types: list[t.Primitive]) -> ir.VectorOperand:
    value = call.value(index, types[0])
    if (
        value.type is t.COMPTIME_INT
        and len(types) > 1
        and value.known
        and not types[0].low <= value.data <= types[0].high
    ):
        type = types[1]
    elif value.type in types:
        type = next(one for one in types if one is value.type)
    else:
        type = types[0]
        if value.type not in (t.COMPTIME_INT, t.COMPTIME_FLOAT):
            names = " or ".join(f"`{one}`" for one in types)
            call.error(
                call.span_of(index),
                f"a scalar of @{call.name}",
                expected=names,
                found=f"`{value.type}`",
                hint=f"convert it: @as({types[0]}, ...)" if t.is_numeric(value.type) else "",
            )
    operand = call.operand(call.engine.coerce(value, type, call.span_of(index)))
    assert type.ir is not None
    return ir.VectorOperand("scalar", operand, type.ir)


def _pointer(call: Call, operation: Operation, index: int) -> ir.VectorOperand:
    value = call.value(index)
    assert isinstance(value.type, t.Pointer)
    types = [type_named(call, name) for name in operation.destination]
    target = value.type.target
    if value.type.const or target not in types:
        names = " or ".join(f"`*{one}`" for one in types)
        call.error(
            call.span_of(index), f"the destination of @{call.name}", expected=names, found=f"`{value.type}`"
        )
    return ir.VectorOperand("pointer", call.operand(value))


def _vector(call: Call, index: int, sources: int, found: Config) -> ir.VectorOperand:
    value = call.value(index)
    if index == 1 and sources > 1 and value.type in (t.FIFO, t.DSR_FIFO_SRC1):
        call.error(call.span_of(1), "a FIFO cannot be the first of two sources", hint="exchange the sources")
    if value.type in _REGISTERS:
        if index == 0 and value.type in (t.DSR_SRC1, t.DSR_FIFO_SRC1):
            call.error(
                call.span_of(0), "a destination", expected="a dsr_dest or dsr_src0", found=f"`{value.type}`"
            )
        if index > 0 and value.type in (t.DSR_DEST, t.DSR_FIFO_DEST):
            call.error(
                call.span_of(index), "a source", expected="a dsr_src0 or dsr_src1", found=f"`{value.type}`"
            )
        return ir.VectorOperand("dsr", ir.Register(_REGISTERS[value.type], value.data))  # type: ignore[arg-type]
    if value.type is t.CIRCBUF_DSD:
        call.error(
            call.span_of(index),
            "a circbuf_dsd cannot be an operand by itself",
            hint="load it with @load_to_dsr_xdsr, and name the DSR here",
        )
    if index == 0 and value.type is t.FABIN_DSD:
        call.error(call.span_of(0), "a destination cannot be a fabin_dsd, which only receives")
    if index > 0 and value.type is t.FABOUT_DSD:
        call.error(call.span_of(index), "a source cannot be a fabout_dsd, which only sends")
    if value.type is t.FIFO and not value.known:
        call.error(
            call.span_of(index),
            "which FIFO this is must be known at compile time",
            hint="name the const that @allocate_fifo made, or make the parameter `comptime`",
        )
    note_queue(call, index, value, found.settings.asynchronous)
    return ir.VectorOperand("dsd", call.operand(_indexed(call, value, found)))


def _indexed(call: Call, value: Value, found: Config) -> Value:
    """A DSD with `wavelet_index_offset`, moved by the operation's index."""
    if found.index is None or value.type in (t.FABIN_DSD, t.FIFO):
        return value
    if value.known and not value.data.flags & DescriptorFlag.INDEXED:
        return value
    if value.type is t.FABOUT_DSD:
        return edit(call, value, "index", found.index)
    words = call.bitcast(found.index, t.I16)
    if value.known:
        bytes = words.data * 2 if words.known else _multiplied(call, words, ir.Number("i16", 2))
        return edit(call, value, "offset", Value(t.I16, bytes) if words.known else v.code(t.I16, bytes))
    flags = call.convert(descriptor_field(call, value, "flags", t.U8), t.I16)
    indexed = ir.Compute(
        call.result(),
        "and",
        "i16",
        (call.operand(flags), ir.Number("i16", DescriptorFlag.INDEXED)),
        call.location,
    )
    half = ir.Compute(call.result(), "shr", "i16", (call.emit(indexed), ir.Number("i16", 1)), call.location)
    return edit(call, value, "offset", v.code(t.I16, _multiplied(call, words, call.emit(half))))


def _multiplied(call: Call, value: Value, factor: ir.Operand) -> ir.Temporary:
    return call.emit(ir.Compute(call.result(), "mul", "i16", (call.operand(value), factor), call.location))


def _check_together(call: Call, form: str, found: Config) -> None:
    values = [call.value(index) for index in range(len(form))]
    types = [value.type for value in values]
    if call.architecture == "wse3" and types.count(t.FABIN_DSD) > 1:
        call.error(
            None,
            "an operation of the WSE-3 receives at most one fabin_dsd",
            hint="receive one of them into memory first",
        )
    out = values[0]
    if out.type is t.FABOUT_DSD and out.known and out.data.zero == 1 and len(form) == 2:
        call.error(
            call.span_of(0),
            f"this fabout_dsd clears the first of two sources, but @{call.name} has one here",
            hint="write .zero = .{ .second_source = true }, which also is the only source",
        )
    if not found.settings.asynchronous:
        return
    if not any(type in (t.FABIN_DSD, t.FABOUT_DSD, t.FIFO) or type in _REGISTERS for type in types):
        call.error(
            call.span_of(len(form)),
            "only operations on the fabric can be asynchronous",
            hint="leave .async out, and activate what follows with @activate",
        )


@builtin("dfilt", 2, stage="code")
def dfilt(call: Call) -> Value:
    """Drops data wavelets of a queue until so many control wavelets came as the DSD is long."""
    value = call.value(0)
    if value.type not in (t.FABIN_DSD, t.DSR_SRC1):
        call.error(
            call.span_of(0),
            "what @dfilt filters",
            expected="a fabin_dsd or a dsr_src1",
            found=f"`{value.type}`",
        )
    found = config(call, 1)
    if not found.settings.asynchronous or found.settings.control is not None or found.index is not None:
        call.error(
            call.span_of(1),
            "@dfilt is asynchronous, and takes neither `on_control` nor `index`",
            hint="write .{ .async = true }",
        )
    operand = (
        ir.VectorOperand("dsr", ir.Register("src1", value.data))
        if value.type is t.DSR_SRC1
        else ir.VectorOperand("dsd", call.operand(value))
    )
    found.say_ids(call)
    call.emit(ir.Vector("dfilt", (operand,), found.settings, call.location))
    return v.NOTHING


@builtin("load_to_dsr", 2, 3)
def load_to_dsr(call: Call) -> Value:
    """Puts a DSD into a register: as code runs, or in a comptime block before the program starts."""
    register, dsd = dsr_argument(call), call.value(1)
    if dsd.type is t.CIRCBUF_DSD or (dsd.type is t.MEM4D_DSD and call.dialect == "2.10"):
        more = "xdsr, dsd" if dsd.type is t.CIRCBUF_DSD else "xdsr, .{ sr, ... }, dsd"
        name = "load_to_dsr_xdsr" if dsd.type is t.CIRCBUF_DSD else "load_to_dsr_xdsr_sr"
        call.error(
            call.span_of(1),
            f"a {dsd.type} needs more registers than a DSR",
            hint=f"write @{name}(dsr, {more})",
        )
    fabric = dsd.type in (t.FABIN_DSD, t.FABOUT_DSD)
    if not fabric and dsd.type not in (t.MEM1D_DSD, t.MEM4D_DSD):
        call.error(
            call.span_of(1), "what a DSR holds", expected="a memory or fabric DSD", found=f"`{dsd.type}`"
        )
    if (dsd.type is t.FABIN_DSD and register.type is t.DSR_DEST) or (
        dsd.type is t.FABOUT_DSD and register.type is not t.DSR_DEST
    ):
        right = "a dsr_src0 or dsr_src1" if dsd.type is t.FABIN_DSD else "a dsr_dest"
        call.error(
            call.span_of(0), f"a register for a {dsd.type}", expected=right, found=f"`{register.type}`"
        )
    found, saves, steps = NO_CONFIG, False, False
    if len(call) > 2:
        names = (*ASYNC, "ut_id", "priority", "save_address", "single_step")
        fields = call.fields(2, "the configuration of a DSR", names)
        found = with_thread(call, 2, fields, asynchronous(call, 2, fields))
        saves, steps = flag(call, fields, 2, "save_address"), flag(call, fields, 2, "single_step")
        if found.settings.asynchronous and not fabric:
            call.error(call.span_of(2), "only a fabric DSD can be asynchronous", hint="leave .async out")
        if saves and fabric:
            call.error(call.field_span(2, "save_address"), "only a memory DSD has an address to save")
    if call.architecture == "wse2":
        note_queue(call, 1, dsd, found.settings.asynchronous)
    return load_register(call, register, 1, found, saves, steps)


def dsr_argument(call: Call) -> Value:
    """The first argument, a DSR that does not belong to a FIFO."""
    register = call.known(0, "a DSR")
    if register.type in FIFO_FILES:
        call.error(
            call.span_of(0),
            "a register of a FIFO is loaded by @allocate_fifo alone",
            hint="name it there with .dest or .src",
        )
    if register.type not in FILES:
        call.error(call.span_of(0), expected="a dsr_dest, dsr_src0 or dsr_src1", found=f"`{register.type}`")
    return register


def load_register(call: Call, register: Value, index: int, found: Config, saves: bool, steps: bool) -> Value:
    """Puts the DSD that is argument `index` into a register, at once or before the program starts."""
    file: ir.Register = ir.Register(FILES[register.type], register.data)  # type: ignore[arg-type, index]
    if call.comptime:
        known = call.known(index, "a DSD that is loaded before the program starts")
        made = ir.LoadDsr(file, known.data, found.settings, saves, steps, call.location)
        call.unit.preloads[:] = [one for one in call.unit.preloads if one.register != file]
        call.unit.preloads.append(made)
        return v.NOTHING
    descriptor = call.operand(call.value(index))
    found.say_ids(call)
    call.emit(ir.LoadDsr(file, descriptor, found.settings, saves, steps, call.location))
    return v.NOTHING
