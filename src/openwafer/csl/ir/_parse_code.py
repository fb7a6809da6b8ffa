"""The text of PE-IR, read back: functions, blocks, instructions."""

from __future__ import annotations

from typing import Any, cast, get_args

from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._operands import EDIT_TYPES
from openwafer.csl.ir._scan import Scanner

_TYPES = get_args(ir.Type)
_ARITHMETIC = get_args(ir.Arithmetic)
_COMPARISONS = get_args(ir.Comparison)
_FILES = ("dest", "src0", "src1")
_KINDS = ("mem1d", "mem4d", "fabin", "fabout", "fifo", "circbuf")


class CodeParser(Scanner):
    """Reads one function, or any part of it."""

    def type(self) -> ir.Type:
        return cast(ir.Type, self.one_of("a type", _TYPES))

    def types(self, end: str) -> tuple[ir.Type, ...]:
        """Types with commas between; none if `end` stands there."""
        found: list[ir.Type] = []
        while self.word.text != end:
            found.append(self.type())
            if not self.accept(","):
                break
        return tuple(found)

    def symbol(self) -> str:
        self.expect("@")
        return self.name()

    def local(self) -> str:
        self.expect("%")
        return self.name()

    def block(self) -> int:
        self.expect("^")
        return self.whole()

    def place(self) -> int:
        return self.whole() if self.accept("!") else 0

    def offset(self) -> int:
        """`+4`, also as `+-4`."""
        self.accept("+")
        return self.whole()

    def address(self) -> ir.Address:
        return ir.Address(self.symbol(), self.offset())

    def function(self) -> ir.Function:
        name, parameters = self.name(), []
        locals_: dict[str, ir.Local] = {}
        self.expect("(")
        while self.word.text == "%":
            parameters.append(self.local())
            self.expect(":")
            locals_[parameters[-1]] = ir.Local(self.type())
            if not self.accept(","):
                break
        self.expect(")")
        result, location = self.type(), self.place()
        self.expect("{")
        while self.accept("local"):
            local = self.local()
            self.expect(":")
            locals_[local] = self._local()
        blocks: list[ir.Block] = []
        while not self.accept("}"):
            word = self.word
            if self.block() != len(blocks):
                self.fail(f"blocks are numbered in order, this one is ^{len(blocks)}", word)
            self.expect(":")
            blocks.append(self._block())
        return ir.Function(name, tuple(parameters), result, locals_, blocks, location)

    def _local(self) -> ir.Local:
        if not self.accept("stack"):
            return ir.Local(self.type())
        self.expect("(")
        size = self.whole()
        self.expect(")")
        self.expect("align")
        return ir.Local("void", size, self.whole())

    def _block(self) -> ir.Block:
        block = ir.Block()
        while True:
            read = _TERMINATORS.get(self.word.text)
            if read is not None:
                self.take()
                block.terminator = read(self)
                return block
            block.instructions.append(self.instruction())

    # --- operands ---------------------------------------------------------------------------------------------

    def operand(self) -> ir.Operand:
        if self.accept("%"):
            return ir.Temporary(self.whole())
        if self.word.text == "@":
            return self.address()
        if self.accept("const"):
            return ir.Constant(self.type(), self.whole())
        if self.accept("dsd"):
            return self._descriptor()
        kind = self.type()
        if self.accept("nan"):
            return ir.Number(kind, float("nan"))
        return ir.Number(kind, self.number())

    def operands(self, end: str) -> tuple[ir.Operand, ...]:
        found: list[ir.Operand] = []
        while self.word.text != end:
            found.append(self.operand())
            if not self.accept(","):
                break
        return tuple(found)

    def _descriptor(self) -> ir.Descriptor:
        kind: Any = self.one_of("a kind of DSD", _KINDS)
        fields: dict[str, Any] = {}
        self.expect("(")
        while True:
            name = self.one_of("a field of a DSD", ir.Descriptor.__slots__)
            if name == "base":
                fields[name] = self.address() if self.word.text == "@" else self.whole()
            elif name in ("extents", "strides"):
                fields[name] = self._four()
            else:
                fields[name] = self.whole()
            if not self.accept(","):
                break
        self.expect(")")
        return ir.Descriptor(kind, **fields)

    def _four(self) -> tuple[int, ...]:
        numbers = [self.whole()]
        while self.accept("x"):
            numbers.append(self.whole())
        return tuple(numbers)

    def _register(self) -> ir.Register:
        return ir.Register(cast(Any, self.one_of("dest, src0 or src1", _FILES)), self.whole())

    def _vector_operand(self) -> ir.VectorOperand:
        kind: Any = self.one_of("dsd, dsr, scalar or pointer", ("dsd", "dsr", "scalar", "pointer"))
        if kind == "dsr":
            return ir.VectorOperand(kind, self._register())
        return ir.VectorOperand(kind, type=self.type() if kind == "scalar" else "void", value=self.operand())

    def _settings(self) -> ir.Settings:
        found: dict[str, Any] = {}
        if self.accept("["):
            while True:
                match self.one_of("a setting", ("async", "thread", "priority", "end", "unblock", "control")):
                    case "async":
                        found["asynchronous"] = True
                    case "thread" | "priority" as name:
                        found[name] = self.whole()
                    case "unblock":
                        found["unblock"] = (self.name(), self.whole())
                    case name:
                        found[name] = (self.name(), self.name(), self.whole())
                if not self.accept(","):
                    break
            self.expect("]")
        return ir.Settings(**found)

    # --- instructions -----------------------------------------------------------------------------------------

    def instruction(self) -> ir.Instruction:
        result = None
        if self.accept("%"):
            result = self.whole()
            self.expect("=")
        word = self.take()
        reader: Any = _WITH_RESULT.get(word.text) if result is not None else _WITHOUT_RESULT.get(word.text)
        if reader is None or word.kind != "name":
            kind = " that gives a value" if result is not None else ""
            self.fail(f"expected an instruction{kind}, found {word.text!r}", word)
        fields = reader(self, word.text, result)
        kind, *values = fields
        return cast(ir.Instruction, kind(*values, location=self.place()))

    def _compute(self, word: str, result: int) -> Any:
        return ir.Compute, result, word, self.type(), self.operands("")

    def _compare(self, word: str, result: int) -> Any:
        kind, left = self.type(), self.operand()
        self.expect(",")
        return ir.Compare, result, word, kind, left, self.operand()

    def _convert(self, word: str, result: int) -> Any:
        source, operand = self.type(), self.operand()
        self.expect("to")
        return (ir.Convert if word == "convert" else ir.Bitcast), result, source, self.type(), operand

    def _get(self, word: str, result: int) -> Any:
        return (ir.Get if word == "get" else ir.Frame), result, self.local()

    def _set(self, word: str, result: None) -> Any:
        local = self.local()
        self.expect(",")
        return ir.Set, local, self.operand()

    def _element(self, word: str, result: int) -> Any:
        base = self.operand()
        self.expect(",")
        index_type, index = self.type(), self.operand()
        self.expect("of")
        count = None if self.accept("*") else self.whole()
        self.expect("x")
        return ir.Element, result, base, index_type, index, count, self.whole(), self.string()

    def _offset(self, word: str, result: int) -> Any:
        base = self.operand()
        return ir.Offset, result, base, self.offset()

    def _load(self, word: str, result: int) -> Any:
        return ir.Load, result, self.type(), self.operand(), self.accept("known")

    def _store(self, word: str, result: None) -> Any:
        kind, address = self.type(), self.operand()
        self.expect(",")
        return ir.Store, kind, address, self.operand(), self.accept("known")

    def _copy(self, word: str, result: None) -> Any:
        target = self.operand()
        self.expect(",")
        source = self.operand()
        self.expect(",")
        return ir.Copy, target, source, self.whole()

    def _call(self, word: str, result: int | None) -> Any:
        name = self.name()
        self.expect("(")
        arguments = self.operands(")")
        self.expect(")")
        return (ir.Invoke if word == "call" else ir.Machine), result, name, arguments

    def _edit(self, word: str, result: int) -> Any:
        name = self.one_of("a field of a DSD", EDIT_TYPES)
        descriptor = self.operand()
        self.expect(",")
        return ir.EditDsd, result, name, descriptor, self.operand()

    def _vector(self, word: str, result: None) -> Any:
        operation, operands = self.name(), [self._vector_operand()]
        while self.accept(","):
            operands.append(self._vector_operand())
        return ir.Vector, operation, tuple(operands), self._settings()

    def _load_dsr(self, word: str, result: None) -> Any:
        register = self._register()
        self.expect("=")
        descriptor, settings = self.operand(), self._settings()
        return ir.LoadDsr, register, descriptor, settings, self.accept("save"), self.accept("single")

    def _map(self, word: str, result: None) -> Any:
        operands, types, modes = [], [], []
        while True:
            operands.append(self._vector_operand())
            modes.append(self.one_of("read or write", ("read", "write")))
            types.append(self.type())
            if not self.accept(","):
                return ir.MapBegin, tuple(operands), tuple(types), tuple(modes)

    def _map_next(self, word: str, result: int) -> Any:
        return ir.MapNext, result

    def _map_read(self, word: str, result: int) -> Any:
        return ir.MapRead, result, self.whole(), self.type()

    def _map_write(self, word: str, result: None) -> Any:
        return ir.MapWrite, self.whole(), self.type(), self.operand()

    # --- terminators ------------------------------------------------------------------------------------------

    def _jump(self) -> ir.Terminator:
        return ir.Jump(self.block())

    def _branch(self) -> ir.Terminator:
        condition = self.operand()
        self.expect(",")
        then = self.block()
        self.expect(",")
        return ir.Branch(condition, then, self.block())

    def _choose(self) -> ir.Terminator:
        kind, value, cases = self.type(), self.operand(), []
        self.expect("[")
        while self.word.text != "]":
            case = self.whole()
            self.expect(":")
            cases.append((case, self.block()))
            if not self.accept(","):
                break
        self.expect("]")
        self.expect("else")
        return ir.Choose(kind, value, tuple(cases), self.block())

    def _return(self) -> ir.Terminator:
        return ir.Return(None if self.word.text in ("^", "}") else self.operand())

    def _halt(self) -> ir.Terminator:
        kind, numbers = self.name(), (0, 0)
        if self.accept("("):
            first = self.whole()
            self.expect(",")
            numbers = (first, self.whole())
            self.expect(")")
        return ir.Halt(kind, self.place(), numbers)


_WITH_RESULT: dict[str, Any] = {
    **dict.fromkeys(_ARITHMETIC, CodeParser._compute),
    **dict.fromkeys(_COMPARISONS, CodeParser._compare),
    **dict.fromkeys(("convert", "bitcast"), CodeParser._convert),
    **dict.fromkeys(("get", "frame"), CodeParser._get),
    **dict.fromkeys(("call", "machine"), CodeParser._call),
    "element": CodeParser._element,
    "offset": CodeParser._offset,
    "load": CodeParser._load,
    "edit": CodeParser._edit,
    "map_next": CodeParser._map_next,
    "map_read": CodeParser._map_read,
}
_WITHOUT_RESULT: dict[str, Any] = {
    **dict.fromkeys(("call", "machine"), CodeParser._call),
    "set": CodeParser._set,
    "store": CodeParser._store,
    "copy": CodeParser._copy,
    "vector": CodeParser._vector,
    "dsr": CodeParser._load_dsr,
    "map": CodeParser._map,
    "map_write": CodeParser._map_write,
}
_TERMINATORS: dict[str, Any] = {
    "jump": CodeParser._jump,
    "branch": CodeParser._branch,
    "choose": CodeParser._choose,
    "return": CodeParser._return,
    "halt": CodeParser._halt,
}
