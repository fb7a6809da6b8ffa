"""Elementwise operators as one loop of machine code: each element is read once and written once, whatever lies between.

The operators round each element exactly, as ATen does, so the numbers are ATen's, bit for bit. Two things aside: of two zeros,
maximum and minimum may take either; a NaN is a NaN. What may differ is left to ATen: square roots, which it may take from a
library of vectors whose last bit is off, and corners of other operators (mixed dtypes, floats to integers, `alpha`).
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch

from openwafer.artifact import Arg, Body, Instr, Ref, Symbol

Loop = Callable[[Sequence[torch.Tensor], Sequence[torch.Tensor], int], None]
"""Takes a body's inputs, tensors for its outputs, and the number of elements. Inputs and outputs are contiguous, an output
may be an input; a value of shape () is one element for all. A tensor of another dtype than the body says is converted."""

_STORED = {
    "float32": "float",
    "float64": "double",
    "float16": "half",
    "bfloat16": "i16",
    "bool": "i8",
    "int32": "i32",
    "int64": "i64",
}
_HELD = {**_STORED, "float16": "float", "bfloat16": "float", "bool": "i1"}
"""What a value is between two operators: those of fewer bits are computed in float32, and rounded after each operator."""

_FLOATS = {"float32", "float64", "float16", "bfloat16"}
_NARROW = {"float16", "bfloat16"}
_INTEGERS = {"int32", "int64"}
_ARITHMETIC = {
    "aten.add.Tensor": "add",
    "aten.sub.Tensor": "sub",
    "aten.mul.Tensor": "mul",
    "aten.div.Tensor": "div",
}
_COMPARED = {  # of floats, of integers
    "eq": ("oeq", "eq"),
    "ne": ("une", "ne"),
    "lt": ("olt", "slt"),
    "le": ("ole", "sle"),
    "gt": ("ogt", "sgt"),
    "ge": ("oge", "sge"),
}
_EXTREMES = {"aten.maximum.default": "ogt", "aten.minimum.default": "olt"}
_SELECTS = {"aten.where.self", "aten.where.ScalarOther", "aten.where.ScalarSelf"}
_BITS = {"float": "f32", "double": "f64"}
_UNARY = {
    "aten.reciprocal.default",
    "aten.neg.default",
    "aten.abs.default",
    "aten.sgn.default",
}
_PARALLEL = ", !llvm.access.group !0"
"""On loads and stores of elements: those of one iteration do not touch those of another."""


class _Unknown(Exception):  # noqa: N818 - control flow within this file
    """ATen computes it."""


def has_loop(body: Body, instr: Instr) -> bool:
    """Whether `compile_loop` knows an operator with these types; that it is elementwise, the caller knows."""
    writer = _Writer(body)
    for value in instr.operands:
        writer.values[value] = "%x"
    try:
        writer.instr(instr)
    except _Unknown:
        return False
    return True


def compile_loop(body: Body) -> Loop:
    """The loop of a body of which every operator has one. Equal bodies but for their shape share their machine code."""
    function = _compiled(_assembly(body))
    read = [getattr(torch, kind.dtype) for kind in body.inputs]
    written = [getattr(torch, body.type_of(value).dtype) for value in body.outputs]
    pointers = ctypes.c_void_p * (len(read) + len(written))

    def run(inputs: Sequence[torch.Tensor], outputs: Sequence[torch.Tensor], size: int) -> None:
        # Masks are numbers to a body and bits in their record.
        given = [tensor.to(dtype).contiguous() for tensor, dtype in zip(inputs, read, strict=True)]
        made = [
            tensor if tensor.dtype == dtype else torch.empty_like(tensor, dtype=dtype)
            for tensor, dtype in zip(outputs, written, strict=True)
        ]
        function(pointers(*(tensor.data_ptr() for tensor in (*given, *made))), size)
        for target, tensor in zip(outputs, made, strict=True):
            if target is not tensor:
                target.copy_(tensor)

    return run


@lru_cache(maxsize=256)
def _compiled(assembly: str) -> Any:
    from openwafer.base import llvm  # updates without such operators do not load a compiler

    code = llvm.MachineCode(llvm.object_file(llvm.parse(assembly), vectorise=True))
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)(code.address("run"))
    function.code = code  # type: ignore[attr-defined]  # it lives as long as who calls it
    return function


def _assembly(body: Body) -> str:
    """`void run(ptr *pointers, i64 size)`: all loads of an element, then its operators, then all stores.

    An output may lie on an input, so the compiler has to be told (`_PARALLEL`) that it may vectorise.
    """
    writer = _Writer(body)
    first = len(body.inputs)
    pointers = []
    for number in range(first + len(body.outputs)):
        pointers.append(f"%a{number} = getelementptr ptr, ptr %pointers, i64 {number}")
        pointers.append(f"%p{number} = load ptr, ptr %a{number}")
    for value, kind in enumerate(body.inputs):
        if kind.shape == ():
            writer.values[value] = writer.load(f"%p{value}", kind.dtype)
    once, writer.lines = writer.lines, []
    for value, kind in enumerate(body.inputs):
        if kind.shape != ():
            writer.values[value] = writer.load(
                writer.element(f"%p{value}", kind.dtype), kind.dtype, _PARALLEL
            )
    for position, instr in enumerate(body.instrs):
        writer.values[first + position] = writer.instr(instr)
    for number, value in enumerate(body.outputs):
        dtype = body.type_of(value).dtype
        writer.store(writer.values[value], writer.element(f"%p{first + number}", dtype), dtype)
    return "\n".join(
        [
            "define void @run(ptr %pointers, i64 %size) {",
            "entry:",
            *pointers,
            *once,
            "%some = icmp sgt i64 %size, 0",
            "br i1 %some, label %loop, label %end",
            "loop:",
            "%i = phi i64 [ 0, %entry ], [ %next, %loop ]",
            *writer.lines,
            "%next = add nuw nsw i64 %i, 1",
            "%more = icmp slt i64 %next, %size",
            "br i1 %more, label %loop, label %end, !llvm.loop !1",
            "end:",
            "ret void",
            "}",
            "!0 = distinct !{}",
            '!1 = distinct !{!1, !{!"llvm.loop.parallel_accesses", !0}, !{!"llvm.loop.vectorize.enable", i1 true}}',
            *(f"declare {held} @llvm.fabs.{bits}({held})" for held, bits in _BITS.items()),
            "",
        ]
    )


class _Writer:
    """Lines of LLVM for one element. A value is its name; its type follows from the body's."""

    def __init__(self, body: Body) -> None:
        self.body = body
        self.lines: list[str] = []
        self.values: dict[int, str] = {}
        self._count = 0

    def let(self, expression: str) -> str:
        self._count += 1
        self.lines.append(f"%v{self._count} = {expression}")
        return f"%v{self._count}"

    # --- memory ---------------------------------------------------------------------------------------------------

    def element(self, pointer: str, dtype: str) -> str:
        return self.let(f"getelementptr {_STORED[dtype]}, ptr {pointer}, i64 %i")

    def load(self, pointer: str, dtype: str, group: str = "") -> str:
        value = self.let(f"load {_STORED[dtype]}, ptr {pointer}{group}")
        if dtype == "bool":
            return self.let(f"icmp ne i8 {value}, 0")
        if dtype == "float16":
            return self.let(f"fpext half {value} to float")
        if dtype == "bfloat16":
            wide = self.let(f"zext i16 {value} to i32")
            return self.let(f"bitcast i32 {self.let(f'shl i32 {wide}, 16')} to float")
        return value

    def store(self, value: str, pointer: str, dtype: str) -> None:
        if dtype == "bool":
            value = self.let(f"zext i1 {value} to i8")
        elif dtype == "float16":
            value = self.let(f"fptrunc float {value} to half")
        elif dtype == "bfloat16":
            bits = self.let(f"lshr i32 {self.let(f'bitcast float {value} to i32')}, 16")
            value = self.let(f"trunc i32 {bits} to i16")
        self.lines.append(f"store {_STORED[dtype]} {value}, ptr {pointer}{_PARALLEL}")

    def rounded(self, value: str, dtype: str) -> str:
        """A float as the nearest of a dtype with fewer bits, ties to even, still held as a float."""
        if dtype == "float16":
            return self.let(f"fpext half {self.let(f'fptrunc float {value} to half')} to float")
        if dtype == "bfloat16":
            bits = self.let(f"bitcast float {value} to i32")
            odd = self.let(f"and i32 {self.let(f'lshr i32 {bits}, 16')}, 1")
            raised = self.let(f"add i32 {self.let(f'add i32 {bits}, 32767')}, {odd}")
            cut = self.let(f"and i32 {raised}, -65536")
            unordered = self.let(f"fcmp uno float {value}, {value}")
            quiet = 0x7FC00000
            return self.let(
                f"bitcast i32 {self.let(f'select i1 {unordered}, i32 {quiet}, i32 {cut}')} to float"
            )
        return value

    # --- operands -------------------------------------------------------------------------------------------------

    def operand(self, arg: Arg, dtype: str) -> str:
        """An operand of this dtype, or a number as the dtype has it."""
        if isinstance(arg, Ref):
            if self.body.type_of(arg.index).dtype != dtype or dtype not in _STORED:
                raise _Unknown
            return self.values[arg.index]
        if not isinstance(arg, bool | int | float) or (isinstance(arg, bool) and dtype != "bool"):
            raise _Unknown
        if dtype in _FLOATS:
            number = float(torch.tensor(float(arg), dtype=getattr(torch, dtype)))
            return f"0x{struct.unpack('>Q', struct.pack('>d', number))[0]:016X}"
        if dtype in _INTEGERS and isinstance(arg, int) and -(1 << 31) <= arg < 1 << 31:
            return str(arg)
        if dtype == "bool" and isinstance(arg, bool):
            return "true" if arg else "false"
        raise _Unknown

    def dtype_of(self, arg: Arg) -> str:
        if not isinstance(arg, Ref):
            raise _Unknown
        return self.body.type_of(arg.index).dtype

    # --- operators ------------------------------------------------------------------------------------------------

    def instr(self, instr: Instr) -> str:
        """The value of one operator. Raises _Unknown for what is not computed here."""
        if len(instr.types) != 1 or instr.types[0].dtype not in _STORED:
            raise _Unknown
        dtype = instr.types[0].dtype
        if instr.op == "aten._to_copy.default":
            return self._cast(instr, dtype)
        if instr.kwargs:
            raise _Unknown
        if instr.op in _ARITHMETIC and len(instr.args) == 2:
            return self._arithmetic(_ARITHMETIC[instr.op], instr.args[0], instr.args[1], dtype)
        if instr.op == "aten.rsub.Scalar" and len(instr.args) == 2:
            return self._arithmetic("sub", instr.args[1], instr.args[0], dtype)
        if instr.op in _UNARY and dtype in _FLOATS:
            return self._unary(instr.op, self.operand(instr.args[0], dtype), dtype)
        if instr.op in _EXTREMES and dtype in _FLOATS:
            a, b = (self.operand(arg, dtype) for arg in instr.args)
            return self._extreme(_EXTREMES[instr.op], a, b, dtype)
        if instr.op == "aten.clamp.default" and dtype in _FLOATS - _NARROW:
            return self._clamp(instr.args, dtype)
        if instr.op in _SELECTS:
            which = self.operand(instr.args[0], "bool")
            yes, no = (self.operand(arg, dtype) for arg in instr.args[1:])
            return self.let(f"select i1 {which}, {_HELD[dtype]} {yes}, {_HELD[dtype]} {no}")
        if dtype == "bool":
            return self._logic(instr)
        raise _Unknown

    def _cast(self, instr: Instr, to: str) -> str:
        if any(key != "dtype" and not isinstance(value, Symbol | None | bool) for key, value in instr.kwargs):
            raise _Unknown
        source = self.dtype_of(instr.args[0])
        value = self.operand(instr.args[0], source)
        if source == to:
            return value
        if source in _FLOATS:
            held, wanted = _HELD[source], _HELD[to]
            if to == "bool":
                return self.let(f"fcmp une {held} {value}, 0.0")
            if to not in _FLOATS:
                raise _Unknown
            if held != wanted:
                value = self.let(f"{'fpext' if wanted == 'double' else 'fptrunc'} {held} {value} to {wanted}")
            return self.rounded(value, to)
        if to in _FLOATS:
            how = "uitofp" if source == "bool" else "sitofp"
            return self.rounded(self.let(f"{how} {_HELD[source]} {value} to {_HELD[to]}"), to)
        if to == "bool":
            return self.let(f"icmp ne {_HELD[source]} {value}, 0")
        if source == "bool":
            return self.let(f"zext i1 {value} to {_HELD[to]}")
        return self.let(f"{'sext' if to == 'int64' else 'trunc'} {_HELD[source]} {value} to {_HELD[to]}")

    def _arithmetic(self, name: str, left: Arg, right: Arg, dtype: str) -> str:
        if dtype in _NARROW and not (isinstance(left, Ref) and isinstance(right, Ref)):
            raise _Unknown  # ATen rounds the number before some operators and not before others
        a, b = self.operand(left, dtype), self.operand(right, dtype)
        if dtype in _FLOATS:
            return self.rounded(self.let(f"f{name} {_HELD[dtype]} {a}, {b}"), dtype)
        if dtype in _INTEGERS and name != "div":
            return self.let(f"{name} {_HELD[dtype]} {a}, {b}")
        raise _Unknown

    def _unary(self, op: str, value: str, dtype: str) -> str:
        held = _HELD[dtype]
        which = op.split(".")[1]
        if which == "neg":
            return self.let(f"fneg {held} {value}")
        if which == "reciprocal":
            return self.rounded(self.let(f"fdiv {held} 1.0, {value}"), dtype)
        if which == "sgn":
            up = self.let(f"uitofp i1 {self.let(f'fcmp ogt {held} {value}, 0.0')} to {held}")
            down = self.let(f"uitofp i1 {self.let(f'fcmp olt {held} {value}, 0.0')} to {held}")
            return self.let(f"fsub {held} {up}, {down}")
        return self.let(f"call {held} @llvm.fabs.{_BITS[held]}({held} {value})")

    def _extreme(self, predicate: str, a: str, b: str, dtype: str) -> str:
        """A NaN on either side is the result."""
        held = _HELD[dtype]
        found = self.let(f"select i1 {self.let(f'fcmp {predicate} {held} {a}, {b}')}, {held} {a}, {held} {b}")
        unordered = self.let(f"fcmp uno {held} {a}, {b}")
        return self.let(f"select i1 {unordered}, {held} 0x7FF8000000000000, {held} {found}")

    def _clamp(self, args: tuple[Arg, ...], dtype: str) -> str:
        """A NaN passes through."""
        held, value = _HELD[dtype], self.operand(args[0], dtype)
        for limit, predicate in zip(args[1:], ("olt", "ogt"), strict=False):
            if limit is not None:
                bound = self.operand(limit, dtype)
                beyond = self.let(f"fcmp {predicate} {held} {value}, {bound}")
                value = self.let(f"select i1 {beyond}, {held} {bound}, {held} {value}")
        return value

    def _logic(self, instr: Instr) -> str:
        _, name, kind = instr.op.split(".")
        if name in _COMPARED and kind in ("Tensor", "Scalar"):
            dtype = self.dtype_of(instr.args[0])
            a, b = (self.operand(arg, dtype) for arg in instr.args)
            if dtype in _FLOATS:
                return self.let(f"fcmp {_COMPARED[name][0]} {_HELD[dtype]} {a}, {b}")
            if dtype in _INTEGERS:
                return self.let(f"icmp {_COMPARED[name][1]} {_HELD[dtype]} {a}, {b}")
        if name in ("bitwise_and", "bitwise_or"):
            a, b = (self.operand(arg, "bool") for arg in instr.args)
            return self.let(f"{name.removeprefix('bitwise_')} i1 {a}, {b}")
        if name == "bitwise_not":
            return self.let(f"xor i1 {self.operand(instr.args[0], 'bool')}, true")
        raise _Unknown
