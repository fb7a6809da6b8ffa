"""Instructions and terminators of PE-IR as lines of LLVM: control, memory, calls, and what waits."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from openwafer.artifact import _pe_abi as abi
from openwafer.csl import ir
from openwafer.csl.native import _arithmetic as arithmetic
from openwafer.csl.native import _frames as frames
from openwafer.csl.native._types import LLVM, function_name, integer, local_name

_OPERANDS = 8  # no operation has more


class Writer:
    """Writes one function's body; `lines` is the text so far, `allocas` what its beginning must allocate.

    `constants` maps the initialiser of a global constant to its name, over the whole module.
    """

    def __init__(
        self,
        function: ir.Function,
        functions: Mapping[str, ir.Function],
        waiting: frozenset[str],
        layout: frames.Layout | None,
        constants: dict[str, str],
    ) -> None:
        self.lines: list[str] = []
        self.allocas: list[str] = []
        self.places = 0
        self._function, self._functions, self._waiting = function, functions, waiting
        self._layout, self._constants = layout, constants
        self._values: dict[int, str] = {}  # of temporaries that no waiting place separates from a use
        self._fresh = 0
        self._block = 0

    # --- lines and values -------------------------------------------------------------------------------------

    def line(self, text: str) -> None:
        self.lines.append("  " + text)

    def let(self, expression: str) -> str:
        """A new LLVM value."""
        self._fresh += 1
        name = f"%v{self._fresh}"
        self.line(f"{name} = {expression}")
        return name

    def begin_block(self, number: int) -> None:
        self._block = number
        self.lines.append(f"b{number}:")

    def value(self, operand: ir.Operand, kind: ir.Type) -> str:
        """The LLVM value of an operand, without its type."""
        match operand:
            case ir.Temporary():
                slot = self._slot(operand.number)
                return (
                    self._values[operand.number]
                    if slot is None
                    else self.let(f"load {LLVM[kind]}, ptr {slot}")
                )
            case ir.Number():
                return _literal(operand)
            case ir.Constant():
                return self._constant(operand)
            case ir.Descriptor():
                return _words(ir.pack_descriptor(operand, {}))
            case ir.Address():
                raise AssertionError(f"the address of {operand.symbol} was not resolved")

    def assign(self, result: int, kind: ir.Type, value: str) -> None:
        """Names a temporary's value, and keeps it in the frame if it is used behind a waiting place."""
        slot = self._slot(result)
        if slot is None:
            self._values[result] = value
        else:
            self.line(f"store {LLVM[kind]} {value}, ptr {slot}")

    def _slot(self, temporary: int) -> str | None:
        if self._layout is None or (self._block, temporary) not in self._layout.temporaries:
            return None
        offset = self._layout.temporaries[self._block, temporary]
        return self.let(f"getelementptr inbounds i8, ptr %frame, i64 {offset}")

    def _constant(self, constant: ir.Constant) -> str:
        table_at = self.let(f"getelementptr inbounds i8, ptr %view, i64 {ir.VIEW['constants']}")
        table = self.let(f"load ptr, ptr {table_at}, !invariant.load !0")
        at = self.let(f"getelementptr inbounds i64, ptr {table}, i64 {constant.slot}")
        if constant.type == "dsd":
            return self.let(f"load [4 x i64], ptr {at}, !invariant.load !0")
        word = self.let(f"load i64, ptr {at}, !invariant.load !0")
        kind = integer(constant.type)
        bits = word if kind == "i64" else self.let(f"trunc i64 {word} to {kind}")
        return self.from_bits(constant.type, bits)

    def from_bits(self, kind: ir.Type, bits: str) -> str:
        """A value from the integer that memory holds."""
        if kind == "bool":
            return self.let(f"icmp ne i8 {bits}, 0")
        return self.let(f"bitcast i32 {bits} to float") if kind == "f32" else bits

    def to_bits(self, kind: ir.Type, value: str) -> str:
        """The integer that memory holds for a value."""
        if kind == "bool":
            return self.let(f"zext i1 {value} to i8")
        return self.let(f"bitcast float {value} to i32") if kind == "f32" else value

    def word(self, kind: ir.Type, value: str) -> str:
        """A value of at most 32 bits as the u32 that the runtime takes."""
        bits = self.to_bits(kind, value)
        return bits if integer(kind) == "i32" else self.let(f"zext {integer(kind)} {bits} to i32")

    def from_word(self, kind: ir.Type, word: str) -> str:
        """The value in a u32 that the runtime gave."""
        bits = word if integer(kind) == "i32" else self.let(f"trunc i32 {word} to {integer(kind)}")
        return self.from_bits(kind, bits)

    def _global(self, value: str) -> str:
        return self._constants.setdefault(value, f"@c{len(self._constants)}")

    # --- instructions -----------------------------------------------------------------------------------------

    def instruction(self, one: ir.Instruction) -> None:
        """One instruction."""
        match one:
            case ir.Compute():
                self.assign(one.result, one.type, arithmetic.compute(self, one))
            case ir.Compare():
                self.assign(one.result, "bool", arithmetic.compare(self, one))
            case ir.Convert():
                self.assign(one.result, one.target, arithmetic.convert(self, one))
            case ir.Bitcast():
                value = self.value(one.operand, one.source)
                if one.source != one.target and "dsd" not in (one.source, one.target):
                    value = self.from_bits(one.target, self.to_bits(one.source, value))
                self.assign(one.result, one.target, value)
            case ir.Get():
                kind = self._function.locals[one.local].type
                self.assign(one.result, kind, self.let(f"load {LLVM[kind]}, ptr {local_name(one.local)}"))
            case ir.Set():
                kind = self._function.locals[one.local].type
                self.line(f"store {LLVM[kind]} {self.value(one.value, kind)}, ptr {local_name(one.local)}")
            case ir.Element():
                self._element(one)
            case ir.Offset():
                self.assign(
                    one.result, "ptr", self.let(f"add i16 {self.value(one.base, 'ptr')}, {_i16(one.bytes)}")
                )
            case ir.Load():
                self._load(one)
            case ir.Store():
                self._store(one)
            case ir.Copy():
                self._copy(one)
            case ir.Invoke():
                self._invoke(one)
            case ir.Machine():
                self._machine(one)
            case ir.EditDsd():
                self._edit(one)
            case ir.Frame():
                raise AssertionError(f"the address of {one.local} was not resolved")
            case _:
                self._operation(one)

    def _element(self, one: ir.Element) -> None:
        index = self.value(one.index, one.index_type)
        wide = self._extend(index, one.index_type, "i64")
        if one.count is not None:
            self.line(f"call void @element(ptr %view, i64 {wide}, i64 {one.count}, i32 {one.location})")
        short = index if integer(one.index_type) == "i16" else self.let(f"trunc i64 {wide} to i16")
        offset = self.let(f"mul i16 {short}, {_i16(one.bytes)}")
        self.assign(one.result, "ptr", self.let(f"add i16 {self.value(one.base, 'ptr')}, {offset}"))

    def _extend(self, value: str, kind: ir.Type, target: str) -> str:
        how = "sext" if kind in ir.SIGNED else "zext"
        return value if integer(kind) == target else self.let(f"{how} {integer(kind)} {value} to {target}")

    def _load(self, one: ir.Load) -> None:
        address = self.value(one.address, "ptr")
        if one.type == "dsd" or one.known:
            at = self._at(address, one)
            kind = "[4 x i64]" if one.type == "dsd" else integer(one.type)
            bits = self.let(f"load {kind}, ptr {at}, align 1")
        else:
            kind = integer(one.type)
            bits = self.let(f"call {kind} @load{kind[1:]}(ptr %view, i16 {address}, i32 {one.location})")
        self.assign(one.result, one.type, self.from_bits(one.type, bits))

    def _store(self, one: ir.Store) -> None:
        address, value = (
            self.value(one.address, "ptr"),
            self.to_bits(one.type, self.value(one.value, one.type)),
        )
        if one.type == "dsd" or one.known:
            at = self._at(address, one)
            kind = "[4 x i64]" if one.type == "dsd" else integer(one.type)
            if one.type != "dsd":  # no element of a vector
                self.line(f"call void @watch(ptr %view, i16 {address}, i16 {ir.BYTES[one.type]})")
            self.line(f"store {kind} {value}, ptr {at}, align 1")
        else:
            kind = integer(one.type)
            arguments = f"ptr %view, i16 {address}, {kind} {value}, i32 {one.location}"
            self.line(f"call void @store{kind[1:]}({arguments})")

    def _at(self, address: str, one: ir.Load | ir.Store) -> str:
        """The host's address of a value in memory."""
        if one.known:
            return self.let(f"call ptr @known(ptr %view, i16 {address})")
        return self._range(address, ir.BYTES[one.type], one.location)

    def _range(self, address: str, size: int, location: int) -> str:
        return self.let(f"call ptr @range(ptr %view, i16 {address}, i32 {size}, i32 {location})")

    def _copy(self, one: ir.Copy) -> None:
        address = self.value(one.target, "ptr")
        target = self._range(address, one.bytes, one.location)
        source = self._range(self.value(one.source, "ptr"), one.bytes, one.location)
        if one.bytes:
            self.line(f"call void @watch(ptr %view, i16 {address}, i16 {one.bytes})")
        self.line(
            f"call void @llvm.memcpy.inline.p0.p0.i64(ptr {target}, ptr {source}, i64 {one.bytes}, i1 false)"
        )

    def _invoke(self, one: ir.Invoke) -> None:
        callee = self._functions[one.function]
        kinds = [callee.locals[name].type for name in callee.parameters]
        values = [self.value(v, kind) for v, kind in zip(one.arguments, kinds, strict=True)]
        given = "".join(f", {LLVM[kind]} {value}" for kind, value in zip(kinds, values, strict=True))
        name = function_name(one.function)
        if one.function not in self._waiting:
            call = f"call {LLVM[callee.result]} {name}(ptr %view{given})"
            if one.result is None:
                self.line(call)
            else:
                self.assign(one.result, callee.result, self.let(call))
            return
        assert self._layout is not None
        frame = f"getelementptr inbounds i8, ptr %frame, i64 {self._layout.bytes}"
        place = self._new_place()
        first_frame = self.let(frame)
        self.line(f"store i32 0, ptr {first_frame}")
        self.line(f"br label %first{place}")
        # called again, the callee has its parameters in its frame
        self.lines.append(f"r{place}:")
        frame_again = self.let(frame)
        nothing = "".join(f", {LLVM[kind]} zeroinitializer" for kind in kinds)
        again = self.let(f"call i32 {name}(ptr %view, ptr {frame_again}{nothing})")
        self.line(f"br label %after{place}")
        self.lines.append(f"first{place}:")
        first = self.let(f"call i32 {name}(ptr %view, ptr {first_frame}{given})")
        self.line(f"br label %after{place}")
        self.lines.append(f"after{place}:")
        status = self.let(f"phi i32 [{first}, %first{place}], [{again}, %r{place}]")
        self._leave_unless_done(status, place, f"done{place}")
        if one.result is not None:
            at = self.let(f"getelementptr inbounds i8, ptr %frame, i64 {self._layout.bytes + frames.RESULT}")
            self.assign(one.result, callee.result, self.let(f"load {LLVM[callee.result]}, ptr {at}"))

    def _machine(self, one: ir.Machine) -> None:
        operation = ir.MACHINE[one.name]
        if not operation.runtime:  # x and y
            at = self.let(f"getelementptr inbounds i8, ptr %view, i64 {ir.VIEW[one.name]}")
            assert one.result is not None
            self.assign(one.result, operation.result, self.let(f"load {LLVM[operation.result]}, ptr {at}"))
            return
        words = [str(number) for number in operation.first]
        for operand, kind in zip(one.operands, operation.parameters, strict=True):
            words.append(self.word(kind, self.value(operand, kind)))
        arguments = "".join(f", i32 {word}" for word in words)
        if operation.result == "void":
            self.line(f"call void @{operation.runtime}(ptr %view{arguments})")
            return
        word = self.let(f"call i32 @{operation.runtime}(ptr %view{arguments})")
        if one.result is not None:
            self.assign(one.result, operation.result, self.from_word(operation.result, word))

    def _edit(self, one: ir.EditDsd) -> None:
        """Replaces some bits of one of the four words."""
        field = "base" if one.field == "offset" else one.field
        word, shift = divmod(8 * ir.FIELD[field], 64)
        width = 8 if field in ("color", "queue") else 16
        descriptor = self.value(one.descriptor, "dsd")
        value = self.value(one.value, ir.EDIT_TYPES[one.field])
        old = self.let(f"extractvalue [4 x i64] {descriptor}, {word}")
        if one.field == "offset":
            moved = self.let(f"lshr i64 {old}, {shift}")
            value = self.let(f"add i16 {value}, {self.let(f'trunc i64 {moved} to i16')}")
        new = self.let(f"zext i16 {value} to i64")
        new = self.let(f"and i64 {new}, {(1 << width) - 1}")
        new = self.let(f"shl i64 {new}, {shift}")
        rest = self.let(f"and i64 {old}, {(1 << 64) - 1 - (((1 << width) - 1) << shift)}")
        both = self.let(f"or i64 {rest}, {new}")
        self.assign(one.result, "dsd", self.let(f"insertvalue [4 x i64] {descriptor}, i64 {both}, {word}"))

    def _with_flags(self, descriptor: str, flags: int) -> str:
        if not flags:
            return descriptor
        word = self.let(f"extractvalue [4 x i64] {descriptor}, 0")
        word = self.let(f"or i64 {word}, {flags << 8 * ir.FIELD['flags']}")
        return self.let(f"insertvalue [4 x i64] {descriptor}, i64 {word}, 0")

    # --- machine operations that may wait -----------------------------------------------------------------------

    def _operation(self, one: ir.Instruction) -> None:
        match one:
            case ir.Vector():
                record = ir.pack_vector(one.operation, len(one.operands), one.settings, one.location)
                self._wait(
                    f"call i32 @ow_vector(ptr %view, ptr {self._bytes(record)}, ptr {self._operands(one)})"
                )
            case ir.LoadDsr():
                self._load_dsr(one)
            case ir.MapBegin():
                types = self._bytes(ir.map_types(one))
                arguments = f"ptr {self._operands(one)}, ptr {types}, i32 {one.location}"
                self._wait(f"call i32 @ow_map_begin(ptr %view, {arguments})")
            case ir.MapNext():
                self._wait(f"call i32 @ow_map_next(ptr %view, ptr {self._slot(one.result)})")
            case ir.MapRead():
                word = self.let(f"call i32 @ow_map_read(ptr %view, i32 {one.operand})")
                self.assign(one.result, one.type, self.from_word(one.type, word))
            case ir.MapWrite():
                word = self.word(one.type, self.value(one.value, one.type))
                self.line(f"call void @ow_map_write(ptr %view, i32 {one.operand}, i32 {word})")

    def _load_dsr(self, one: ir.LoadDsr) -> None:
        flags = ir.dsr_flags(one)
        if isinstance(one.descriptor, ir.Descriptor):
            at = self._bytes(ir.pack_descriptor(one.descriptor, {}, flags))
        else:
            descriptor = self._with_flags(self.value(one.descriptor, "dsd"), flags)
            at = self._allocate("%descriptors", f"[{_OPERANDS} x [4 x i64]]")
            self.line(f"store [4 x i64] {descriptor}, ptr {at}")
        record = self._bytes(ir.pack_vector(None, 0, one.settings, one.location))
        kind, number = ir.register_kind(one.register), one.register.number
        self._wait(f"call i32 @ow_load_dsr(ptr %view, i32 {kind}, i32 {number}, ptr {at}, ptr {record})")

    def _operands(self, one: ir.Vector | ir.MapBegin) -> str:
        """The OPERANDs: a constant if nothing in them is known only as the code runs."""
        parts = [self._operand(place, operand) for place, operand in enumerate(one.operands)]
        if not any("%" in part for triple in parts for part in triple):
            items = ", ".join(f"{{ i32, i32, ptr }} {{ i32 {k}, i32 {b}, ptr {d} }}" for k, b, d in parts)
            return self._global(f"[{len(parts)} x {{ i32, i32, ptr }}] [{items}]")
        array = self._allocate("%operands", f"[{_OPERANDS} x {{ i32, i32, ptr }}]")
        for place, triple in enumerate(parts):
            for field, (kind, value) in enumerate(zip(("i32", "i32", "ptr"), triple, strict=True)):
                at = self.let(
                    f"getelementptr inbounds {{ i32, i32, ptr }}, ptr {array}, i64 {place}, i32 {field}"
                )
                self.line(f"store {kind} {value}, ptr {at}")
        return array

    def _operand(self, place: int, operand: ir.VectorOperand) -> tuple[str, str, str]:
        """kind, bits and descriptor."""
        kinds, value = abi.OperandKind, operand.value
        if isinstance(value, ir.Register):
            return str(ir.register_kind(value)), str(value.number), "null"
        match operand.kind:
            case "pointer":
                return str(int(kinds.POINTER)), self._word_of(value, "ptr"), "null"
            case "scalar":
                return str(int(kinds.SCALAR)), self._word_of(value, operand.type), "null"
        if isinstance(value, ir.Descriptor):
            return str(int(kinds.DSD)), "0", self._bytes(ir.pack_descriptor(value, {}))
        array = self._allocate("%descriptors", f"[{_OPERANDS} x [4 x i64]]")
        at = self.let(f"getelementptr inbounds [4 x i64], ptr {array}, i64 {place}")
        self.line(f"store [4 x i64] {self.value(value, 'dsd')}, ptr {at}")
        return str(int(kinds.DSD)), "0", at

    def _word_of(self, operand: ir.Operand, kind: ir.Type) -> str:
        if isinstance(operand, ir.Number):
            return str(ir.encode(kind, operand.value))
        return self.word(kind, self.value(operand, kind))

    def _bytes(self, data: bytes) -> str:
        text = "".join(f"\\{byte:02X}" for byte in data)
        return self._global(f'[{len(data)} x i8] c"{text}"')

    def _allocate(self, name: str, kind: str) -> str:
        """A place on the host's stack that all operations of the function share: the runtime copies what it needs."""
        line = f"  {name} = alloca {kind}, align 8"
        if line not in self.allocas:
            self.allocas.append(line)
        return name

    def _new_place(self) -> int:
        self.places += 1
        return self.places

    def _wait(self, call: str) -> None:
        place = self._new_place()
        self._leave_unless_done(self.let(call), place, f"r{place}")

    def _leave_unless_done(self, status: str, place: int, done: str) -> None:
        """Goes on at `done`, or stores where to go on later and returns the status."""
        is_done = self.let(f"icmp eq i32 {status}, {int(abi.Status.DONE)}")
        self.line(f"br i1 {is_done}, label %{done}, label %leave{place}")
        self.lines.append(f"leave{place}:")
        self.line(f"store i32 {place}, ptr %frame")
        self.line(f"ret i32 {status}")
        self.lines.append(f"{done}:")

    # --- terminators ------------------------------------------------------------------------------------------

    def terminator(self, end: ir.Terminator, number: int) -> None:
        """The end of a block; edges backwards go through a block of their own that takes fuel."""
        edges: dict[int, str] = {}
        for target in ir.successors(end):
            edges[target] = f"b{target}" if target > number else f"back{number}.{target}"
        match end:
            case ir.Jump():
                self.line(f"br label %{edges[end.block]}")
            case ir.Branch():
                condition = self.value(end.condition, "bool")
                self.line(f"br i1 {condition}, label %{edges[end.then]}, label %{edges[end.otherwise]}")
            case ir.Choose():
                kind = integer(end.type)
                value = self.to_bits(end.type, self.value(end.value, end.type))
                cases = " ".join(f"{kind} {case}, label %{edges[target]}" for case, target in end.cases)
                self.line(f"switch {kind} {value}, label %{edges[end.otherwise]} [{cases}]")
            case ir.Return():
                self._return(end)
            case ir.Halt():
                trap = int(abi.Trap[end.kind.upper()])
                first, second = end.numbers
                numbers = f"i64 {first}, i64 {second}"
                self.line(f"call void @ow_trap(ptr %view, i32 {trap}, i32 {end.location}, {numbers})")
                self.line("unreachable")
        for target, label in edges.items():
            if target <= number:
                self.lines.append(f"{label}:")
                self.line("call void @back(ptr %view)")
                self.line(f"br label %b{target}")

    def _return(self, end: ir.Return) -> None:
        kind = self._function.result
        value = "" if end.value is None else self.value(end.value, kind)
        if self._layout is None:
            self.line(f"ret {LLVM[kind]} {value}".rstrip())
            return
        if value:
            at = self.let(f"getelementptr inbounds i8, ptr %frame, i64 {frames.RESULT}")
            self.line(f"store {LLVM[kind]} {value}, ptr {at}")
        self.line("store i32 0, ptr %frame")
        self.line(f"ret i32 {int(abi.Status.DONE)}")


def _literal(number: ir.Number) -> str:
    match number.type:
        case "bool":
            return "true" if number.value else "false"
        case "f32":
            value = ir.decode("f32", ir.encode("f32", number.value))
            return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
        case "f16" | "bf16" | "cb16":
            return str(ir.encode(number.type, number.value))
        case _:
            return str(number.value)


def _words(data: bytes) -> str:
    return "[" + ", ".join(f"i64 {word}" for word in struct.unpack("<4Q", data)) + "]"


def _i16(value: int) -> int:
    return ir.wrap("i16", value)
