"""DSDs: `@get_dsd`, and builtins that give a changed copy of one."""

from __future__ import annotations

from dataclasses import replace

from openwafer.artifact._pe_abi import DescriptorFlag
from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._records import FIELD
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import MemoryPlace, Value
from openwafer.csl.sema.builtins._affine import plain_steps
from openwafer.csl.sema.builtins._settings import choice, flag, priority

KINDS = {t.MEM1D_DSD: "mem1d", t.MEM4D_DSD: "mem4d", t.FABIN_DSD: "fabin", t.FABOUT_DSD: "fabout"}
_SHAPE = ("base_address", "offset", "stride", "extent")
_MEMORY = (*_SHAPE, "tensor_access", "wavelet_index_offset")
_FABRIC = ("extent", "fabric_color", "priority", "control_transform", "simd_mode")
_FABIN = (*_FABRIC, "input_queue", "wavelet_index_offset")
_FABOUT = (*_FABRIC, "output_queue", "control", "wavelet_index_offset", "advance_switch", "zero")
SIMD_MODES = ("simd_32", "simd_64", "simd_32_or_64")
SIMD_MODES_2_10 = ("simd_off", "simd_max")
"""Of the WSE-3 in dialect 2.10, which does not say what they do; either leaves one value in a wavelet."""


@builtin("get_dsd", 2)
def get_dsd(call: Call) -> Value:
    """`@get_dsd(mem1d_dsd, .{...})`: known if all of its properties are."""
    kind = call.type(0, "the type of a DSD")
    if kind is t.MEM1D_DSD or kind is t.MEM4D_DSD:
        return _memory(call, kind)
    if kind is t.FABIN_DSD or kind is t.FABOUT_DSD:
        return _fabric(call, kind)
    if kind is t.CIRCBUF_DSD:
        return _circular(call)
    hint = "make it with @allocate_fifo" if kind is t.FIFO else ""
    call.error(
        call.span_of(0),
        expected="mem1d_dsd, mem4d_dsd, fabin_dsd or fabout_dsd",
        found=f"`{kind}`",
        hint=hint,
    )


# --- memory -----------------------------------------------------------------------------------------------


def element_words(call: Call, pointer: Value, span: Span) -> int:
    """16-bit words of the elements that a pointer points to."""
    assert isinstance(pointer.type, t.Pointer)
    element = pointer.type.target
    if isinstance(element, t.Array):
        element = element.element
    if not isinstance(element, t.Primitive | t.Enum) or t.bits_of(element) not in (16, 32):
        call.error(
            span,
            "elements of a memory DSD",
            expected="16 or 32 bits, such as `u16` or `f32`",
            found=f"`{element}`",
        )
    return element.bytes // 2


def _tuple(call: Call, value: Value, span: Span) -> list[Value]:
    """The parts of `.{a, b}`, or the one value."""
    if isinstance(value.type, t.Record) and value.type.names is None:
        return list(call.engine.parts(value, span).values())
    return [value]


def _memory(call: Call, kind: t.Primitive) -> Value:
    fields = call.fields(1, f"a {kind}", _MEMORY)
    spans = {name: call.field_span(1, name) for name in fields}
    if "tensor_access" in fields:
        span = spans["tensor_access"]
        for name, value in call.engine.struct_fields(
            fields["tensor_access"], span, "a tensor access", _SHAPE
        ).items():
            if name in fields:
                call.error(
                    spans[name],
                    f"`{name}` is given twice: the tensor access has one too",
                    hint="leave one out",
                )
            fields[name], spans[name] = value, span
    for name in ("base_address", "extent"):
        if name not in fields:
            hint = ".{ .tensor_access = |i|{N} -> a[i] } or .{ .base_address = &a, .extent = N }"
            call.error(call.span_of(1), f"a {kind} needs `{name}`", hint=f"write {hint}")
    pointer = fields["base_address"]
    if not isinstance(pointer.type, t.Pointer):
        call.error(spans["base_address"], "`base_address`", expected="a pointer", found=f"`{pointer.type}`")
    words = element_words(call, pointer, spans["base_address"])
    extents = [
        call.engine.coerce(one, t.U16, spans["extent"])
        for one in _tuple(call, fields["extent"], spans["extent"])
    ]
    given = fields.get("stride", v.tuple_of(*[v.comptime_int(1)] * len(extents)))
    stride_span = spans.get("stride", call.span)
    strides = [
        call.engine.coerce(one, t.I16, stride_span) if one.type is not t.I8 else one
        for one in _tuple(call, given, stride_span)
    ]
    most = 1 if kind is t.MEM1D_DSD else 4
    if not 1 <= len(extents) <= most:
        hint = "use mem4d_dsd" if len(extents) > 1 and most == 1 else ""
        call.error(
            spans["extent"],
            f"a {kind} has {'1 dimension' if most == 1 else '1 to 4 dimensions'}, found {len(extents)}",
            hint=hint,
        )
    if len(strides) != len(extents):
        call.error(
            stride_span,
            f"{len(strides)} strides for {len(extents)} extents",
            hint="give one for each dimension",
        )
    flags = DescriptorFlag.INDEXED if flag(call, fields, 1, "wavelet_index_offset") else 0
    made = ir.Descriptor("mem1d", flags=int(flags))
    value = Value(kind, made)
    if most == 4:
        made = _four(call, replace(made, kind="mem4d"), extents, strides, spans)
        value = Value(kind, made)
    value = _with_base(call, value, pointer)
    if most == 1:
        value = edit(call, value, "length", extents[0])
        value = edit(call, value, "stride", _scaled(call, strides[0], 1))
    if "offset" in fields:
        offset = call.engine.coerce(fields["offset"], t.I16, spans["offset"])
        value = edit(call, value, "offset", _scaled(call, offset, 2 * words))
    return value


def _four(
    call: Call,
    made: ir.Descriptor,
    extents: list[Value],
    strides: list[Value],
    spans: dict[str, Span],
) -> ir.Descriptor:
    """As documented, extents are written outermost first and strides innermost first."""
    numbers = []
    for what, values in (("extent", extents), ("stride", strides)):
        span = spans.get(what, call.span)
        numbers.append(
            [int(call.engine.require_known(one, span, f"`{what}` of a mem4d_dsd").data) for one in values]
        )
    outward = numbers[0]
    steps = plain_steps(numbers[1], outward)
    unused = 4 - len(outward)
    length = 1
    for extent in outward:
        length *= extent
    return replace(
        made,
        length=min(length, 0xFFFF),
        extents=(*[1] * unused, *outward),  # type: ignore[arg-type]
        strides=(*[0] * unused, *steps),  # type: ignore[arg-type]
    )


def _with_base(call: Call, dsd: Value, pointer: Value) -> Value:
    if dsd.known and pointer.known and isinstance(pointer.data, ir.Address | int):
        return Value(dsd.type, replace(dsd.data, base=pointer.data))
    if isinstance(pointer.data, v.Reference):
        call.error(None, "a DSD cannot describe a variable of the compiler", hint="use a global variable")
    return _edited(call, dsd, "base", call.operand(pointer))


def _scaled(call: Call, number: Value, factor: int) -> Value:
    """`factor * number` as an i16."""
    if number.known:
        return Value(t.I16, _wrapped(int(number.data) * factor))
    wide = call.convert(number, t.I16)
    if factor == 1:
        return wide
    product = ir.Compute(
        call.result(), "mul", "i16", (call.operand(wide), ir.Number("i16", factor)), call.location
    )
    return v.code(t.I16, call.emit(product))


def _wrapped(number: int) -> int:
    return (number + 0x8000) % 0x10000 - 0x8000


_CHANGES = {"length": "length", "stride": "stride", "color": "color", "queue": "queue", "index": "index"}


def edit(call: Call, dsd: Value, field: str, value: Value) -> Value:
    """A copy of a DSD in which one field has a value; `offset` adds bytes to the base."""
    if dsd.known and value.known:
        made: ir.Descriptor = dsd.data
        if field == "offset":
            base = made.base
            moved = (
                ir.Address(base.symbol, base.offset + value.data)
                if isinstance(base, ir.Address)
                else base + value.data
            )
            return Value(dsd.type, replace(made, base=moved))
        return Value(dsd.type, replace(made, **{_CHANGES[field]: value.data}))
    return _edited(call, dsd, field, call.operand(value))


def _edited(call: Call, dsd: Value, field: str, operand: ir.Operand) -> Value:
    instruction = ir.EditDsd(call.result(), field, call.operand(dsd), operand, call.location)  # type: ignore[arg-type]
    return v.code(dsd.type, call.emit(instruction))


# --- circular buffers -------------------------------------------------------------------------------------


def _circular(call: Call) -> Value:
    """Known as the program compiles; after `wraparound` elements it is at its beginning again."""
    fields = call.fields(1, "a circbuf_dsd", ("base_address", "extent", "wraparound"))
    for name in ("base_address", "extent"):
        if name not in fields:
            hint = "write .{ .base_address = &a, .extent = N }"
            call.error(call.span_of(1), f"a circbuf_dsd needs `{name}`", hint=hint)
    span = call.field_span(1, "base_address")
    pointer = call.engine.require_known(fields["base_address"], span, "the address of a circular buffer")
    if not isinstance(pointer.type, t.Pointer) or not isinstance(pointer.data, ir.Address | int):
        call.error(span, "`base_address`", expected="a pointer", found=f"`{pointer.type}`")
    words = element_words(call, pointer, span)
    array = pointer.type.target
    count = array.count if isinstance(array, t.Array) and not pointer.type.many else None
    if "wraparound" not in fields and count is None:
        call.error(
            call.span_of(1),
            "this circbuf_dsd needs `wraparound`: its base is no pointer to an array",
            hint="say after how many elements it begins again: .wraparound = N",
        )

    def number(name: str) -> int:
        where = call.field_span(1, name)
        given = call.engine.coerce(fields[name], t.U16, where)
        return int(call.engine.require_known(given, where, f"`{name}`").data)

    around = number("wraparound") if "wraparound" in fields else count
    assert around is not None
    if not 0 < around <= (0xFFFF // words if count is None else count):
        where = call.field_span(1, "wraparound")
        what = f"the {count} elements of the array" if count is not None else "what memory holds"
        call.error(where, f"`wraparound` is 1 to {what}, found {around}")
    made = ir.Descriptor(
        "circbuf", base=pointer.data, length=number("extent"), stride=1, extents=(1, 1, 1, around * words)
    )
    return Value(t.CIRCBUF_DSD, made)


# --- fabric -----------------------------------------------------------------------------------------------


def _fabric(call: Call, kind: t.Primitive) -> Value:
    inward = kind is t.FABIN_DSD
    fields = call.fields(1, f"a {kind}", _FABIN if inward else _FABOUT)
    queue_name, queue_type = ("input_queue", t.INPUT_QUEUE) if inward else ("output_queue", t.OUTPUT_QUEUE)
    if "extent" not in fields:
        call.error(call.span_of(1), f"a {kind} needs `extent`", hint="say how many wavelets: .extent = N")
    if "fabric_color" not in fields and queue_name not in fields:
        call.error(call.span_of(1), f"a {kind} needs `fabric_color` or `{queue_name}`")
    flags = 0
    if flag(call, fields, 1, "control"):
        flags |= DescriptorFlag.CONTROL
    if flag(call, fields, 1, "advance_switch"):
        flags |= DescriptorFlag.ADVANCE_SWITCH
    if flag(call, fields, 1, "wavelet_index_offset"):
        flags |= DescriptorFlag.INDEXED_IN if inward else DescriptorFlag.INDEXED
    made = ir.Descriptor("fabin" if inward else "fabout", flags=int(flags))
    if flag(call, fields, 1, "control_transform"):
        made = replace(made, control_transform=1)
    if "priority" in fields:
        made = replace(made, priority=priority(call, fields["priority"], call.field_span(1, "priority")))
    if "simd_mode" in fields:
        newest = call.dialect == "2.10" and call.architecture == "wse3"
        modes = SIMD_MODES_2_10 if newest else SIMD_MODES
        mode = choice(call, fields["simd_mode"], call.field_span(1, "simd_mode"), "`simd_mode`", modes)
        made = made if newest else replace(made, simd=1 + SIMD_MODES.index(mode))
    if "zero" in fields:
        sources = ("first_source", "second_source")
        which = choice(call, fields["zero"], call.field_span(1, "zero"), "`zero`", sources)
        made = replace(made, zero=1 + sources.index(which))
    value = Value(kind, made)
    for name, field, type in (
        (queue_name, "queue", queue_type),
        ("fabric_color", "color", t.COLOR),
        ("extent", "length", t.U16),
    ):
        if name in fields:
            found = fields[name]
            if type is t.COLOR and found.type is not t.COLOR:
                call.error(
                    call.field_span(1, name),
                    "`fabric_color`",
                    expected="`color`",
                    found=f"`{found.type}`",
                    hint="make colors with @get_color",
                )
            found = call.engine.coerce(found, type, call.field_span(1, name))
            if name == queue_name and found.known:
                call.engine.resources.named_queues.add((queue_name, int(found.data)))
            value = edit(call, value, field, found)
    return value


# --- changes ----------------------------------------------------------------------------------------------


def dsd_argument(call: Call, *kinds: t.Primitive) -> Value:
    """The first argument, a DSD of one of these types."""
    value = call.value(0)
    if value.type not in kinds:
        names = ", ".join(map(str, kinds[:-1])) + (" or " if len(kinds) > 1 else "") + str(kinds[-1])
        call.error(call.span_of(0), f"what @{call.name} changes", expected=names, found=f"`{value.type}`")
    return value


@builtin("set_dsd_base_addr", 2)
def set_dsd_base_addr(call: Call) -> Value:
    """The DSD begins at another tensor, without its old offset."""
    dsd = dsd_argument(call, t.MEM1D_DSD, t.MEM4D_DSD)
    place = call.place(1)
    pointer = call.load(place) if isinstance(place.type, t.Pointer) else call.address(place)
    assert isinstance(pointer.type, t.Pointer)
    return _with_base(call, dsd, pointer)


@builtin("increment_dsd_offset", 3)
def increment_dsd_offset(call: Call) -> Value:
    """The DSD begins so many elements of a type later."""
    dsd = dsd_argument(call, t.MEM1D_DSD, t.MEM4D_DSD)
    element = call.type(2, "the type of the elements")
    if not isinstance(element, t.Primitive) or not t.is_numeric(element) or element.bytes not in (2, 4):
        call.error(call.span_of(2), expected="a number type of 16 or 32 bits", found=f"`{element}`")
    return edit(call, dsd, "offset", _scaled(call, call.coerced(1, t.I16), element.bytes))


@builtin("set_dsd_length", 2)
def set_dsd_length(call: Call) -> Value:
    """The DSD has so many elements or wavelets."""
    kinds = (t.MEM1D_DSD, t.FABIN_DSD, t.FABOUT_DSD)
    dsd = dsd_argument(call, *kinds, *((t.CIRCBUF_DSD,) if call.dialect == "2.10" else ()))
    return edit(call, dsd, "length", call.coerced(1, t.U16))


def descriptor_field(call: Call, dsd: Value, name: str, type: t.Primitive, at: int = 0) -> Value:
    """A field of a DSD that only running code knows, read from a copy in the function's frame."""
    kept = call.engine.in_frame(dsd.type, "dsd", call.span)
    call.store(kept, dsd)
    address = call.engine.moved(kept.address, FIELD[name] + at, call.span)
    return call.load(MemoryPlace(address, type, True))


@builtin("set_dsd_stride", 2)
def set_dsd_stride(call: Call) -> Value:
    """The DSD takes every so many elements, of whatever size the operation that uses it has."""
    dsd = dsd_argument(call, t.MEM1D_DSD)
    return edit(call, dsd, "stride", _scaled(call, call.coerced(1, t.I8), 1))
