"""Numbers: what PE-IR defines and LLVM leaves open, such as division overflow, wide shifts, NaN, and 16-bit floats."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openwafer.csl import ir
from openwafer.csl.native._types import HALF_FORMAT, LLVM, integer

if TYPE_CHECKING:
    from openwafer.csl.native._writer import Writer

_FLOAT = {"add": "fadd", "sub": "fsub", "mul": "fmul", "div": "fdiv"}


def compute(to: Writer, one: ir.Compute) -> str:
    """The value of a Compute."""
    values = [to.value(operand, one.type) for operand in one.operands]
    if one.type == "f32":
        if one.operation == "neg":
            return to.let(f"fneg float {values[0]}")
        raw = to.let(f"{_FLOAT[one.operation]} float {values[0]}, {values[1]}")
        return to.let(f"call float @single(float {raw})")
    if one.type in ir.HALVES:
        return _half(to, one, values)
    return _integer(to, one, values)


def _integer(to: Writer, one: ir.Compute, values: list[str]) -> str:
    kind, signed = LLVM[one.type], one.type in ir.SIGNED
    match one.operation:
        case "neg":
            return to.let(f"sub {kind} 0, {values[0]}")
        case "not":
            return to.let(f"xor {kind} {values[0]}, {'true' if kind == 'i1' else -1}")
        case "div" | "rem":
            return _divide(to, one, values)
        case "shl" | "shr":
            return _shift(to, one, values, signed)
        case operation:
            return to.let(f"{operation} {kind} {values[0]}, {values[1]}")


def _divide(to: Writer, one: ir.Compute, values: list[str]) -> str:
    """The lowest number divided by -1 wraps around; LLVM leaves it undefined, so -1 becomes a negation."""
    kind, signed = LLVM[one.type], one.type in ir.SIGNED
    zero = to.let(f"icmp eq {kind} {values[1]}, 0")
    to.line(f"call void @divisor(ptr %view, i1 {zero}, i32 {one.location})")
    if not signed:
        return to.let(f"u{one.operation} {kind} {values[0]}, {values[1]}")
    minus = to.let(f"icmp eq {kind} {values[1]}, -1")
    safe = to.let(f"select i1 {minus}, {kind} 1, {kind} {values[1]}")
    result = to.let(f"s{one.operation} {kind} {values[0]}, {safe}")
    if one.operation == "rem":
        return result  # of 1 it is 0, as of -1
    negated = to.let(f"sub {kind} 0, {values[0]}")
    return to.let(f"select i1 {minus}, {kind} {negated}, {kind} {result}")


def _shift(to: Writer, one: ir.Compute, values: list[str], signed: bool) -> str:
    """LLVM leaves shifts by the width or more undefined; the amount counts without sign."""
    kind, width = LLVM[one.type], 8 * ir.BYTES[one.type]
    fits = to.let(f"icmp ult {kind} {values[1]}, {width}")
    rest = width - 1 if one.operation == "shr" and signed else 0
    amount = to.let(f"select i1 {fits}, {kind} {values[1]}, {kind} {rest}")
    how = "shl" if one.operation == "shl" else "ashr" if signed else "lshr"
    result = to.let(f"{how} {kind} {values[0]}, {amount}")
    if how == "ashr":
        return result
    return to.let(f"select i1 {fits}, {kind} {result}, {kind} 0")


def _half(to: Writer, one: ir.Compute, values: list[str]) -> str:
    """A double holds sums, products and quotients of 16-bit floats closely enough that one rounding follows."""
    if one.operation == "neg":
        return to.let(f"xor i16 {values[0]}, -32768")
    wide = [to.let(f"fpext float {half_to_single(to, one.type, value)} to double") for value in values]
    result = to.let(f"{_FLOAT[one.operation]} double {wide[0]}, {wide[1]}")
    return double_to_half(to, one.type, result)


def half_to_single(to: Writer, kind: ir.Type, value: str) -> str:
    """A 16-bit float as f32, exactly."""
    word = to.let(f"zext i16 {value} to i32")
    return to.let(f"call float @ow_half_to_single(ptr %view, i32 {word}, i32 {HALF_FORMAT[kind]})")


def double_to_half(to: Writer, kind: ir.Type, value: str) -> str:
    """A double as the nearest 16-bit float."""
    once = to.let(f"call float @once(double {value})")
    return single_to_half(to, kind, to.let(f"call float @single(float {once})"))


def single_to_half(to: Writer, kind: ir.Type, value: str) -> str:
    """An f32 as the nearest 16-bit float."""
    word = to.let(f"call i32 @ow_single_to_half(ptr %view, float {value}, i32 {HALF_FORMAT[kind]})")
    return to.let(f"trunc i32 {word} to i16")


_ORDERED = {"eq": "oeq", "ne": "une", "lt": "olt", "le": "ole", "gt": "ogt", "ge": "oge"}


def compare(to: Writer, one: ir.Compare) -> str:
    """The value of a Compare."""
    left, right = to.value(one.left, one.type), to.value(one.right, one.type)
    if one.type in ir.FLOATS:
        if one.type in ir.HALVES:
            left, right = half_to_single(to, one.type, left), half_to_single(to, one.type, right)
        return to.let(f"fcmp {_ORDERED[one.comparison]} float {left}, {right}")
    sign = "" if one.comparison in ("eq", "ne") else "s" if one.type in ir.SIGNED else "u"
    return to.let(f"icmp {sign}{one.comparison} {LLVM[one.type]} {left}, {right}")


def convert(to: Writer, one: ir.Convert) -> str:
    """The value of a Convert."""
    source, target = one.source, one.target
    value = to.value(one.operand, source)
    if source == target:
        return value
    if source in ir.HALVES:
        value, source = half_to_single(to, source, value), "f32"
    if source == "f32":
        return _from_single(to, value, target)
    if target == "bool":
        return to.let(f"icmp ne {LLVM[source]} {value}, 0")
    if target in ir.FLOATS:
        return _to_float(to, value, source, target)
    wide = _width(target) - _width(source)
    if wide == 0:
        return value
    how = "trunc" if wide < 0 else "sext" if source in ir.SIGNED else "zext"
    return to.let(f"{how} {LLVM[source]} {value} to {LLVM[target]}")


def _from_single(to: Writer, value: str, target: ir.Type) -> str:
    if target == "f32":
        return value
    if target == "bool":
        return to.let(f"fcmp une float {value}, 0.0")
    if target in ir.HALVES:
        return single_to_half(to, target, value)
    sign, kind = "s" if target in ir.SIGNED else "u", LLVM[target]
    return to.let(f"call {kind} @llvm.fpto{sign}i.sat.{kind}.f32(float {value})")


def _to_float(to: Writer, value: str, source: ir.Type, target: ir.Type) -> str:
    sign, kind = "s" if source in ir.SIGNED else "u", LLVM[source]
    if target == "f32":
        return to.let(f"{sign}itofp {kind} {value} to float")
    if kind == "i64":
        value = _sticky(to, value, source)
    return double_to_half(to, target, to.let(f"{sign}itofp {kind} {value} to double"))


def _sticky(to: Writer, value: str, source: ir.Type) -> str:
    """64 bits that a double would round become 53, the lowest of which says that there was more."""
    low = to.let(f"and i64 {value}, 2047")
    some = to.let(f"icmp ne i64 {low}, 0")
    mark = to.let(f"select i1 {some}, i64 2048, i64 0")
    high = to.let(f"and i64 {value}, -2048")
    marked = to.let(f"or i64 {high}, {mark}")
    if source in ir.SIGNED:
        size = to.let(f"call i64 @llvm.abs.i64(i64 {value}, i1 false)")
        large = to.let(f"icmp uge i64 {size}, {1 << 53}")
    else:
        large = to.let(f"icmp uge i64 {value}, {1 << 53}")
    return to.let(f"select i1 {large}, i64 {marked}, i64 {value}")


def _width(kind: ir.Type) -> int:
    return 1 if kind == "bool" else int(integer(kind)[1:])
