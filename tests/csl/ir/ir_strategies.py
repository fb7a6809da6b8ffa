"""Random units: legal PE-IR of every kind of instruction, with branches, loops, calls and operations that wait."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

from hypothesis import strategies as st

from openwafer.csl import ir

T = ir.Temporary
WHOLE: tuple[ir.Type, ...] = ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")
FLOAT: tuple[ir.Type, ...] = ("f16", "bf16", "cb16", "f32")
SCALARS: tuple[ir.Type, ...] = ("bool", *WHOLE, *FLOAT, "ptr")
WORDS = tuple(kind for kind in SCALARS if ir.BYTES[kind] <= 4)
VALUES: tuple[ir.Type, ...] = (*SCALARS, "dsd")
OPERATIONS: tuple[ir.Arithmetic, ...] = get_args(ir.Arithmetic)
DATA, OUT = 128, 32


@cache
def numbers(kind: ir.Type) -> st.SearchStrategy[ir.Number]:
    """Literals of a type, often at the ends of its range."""
    if kind in ir.FLOATS:
        bits = st.integers(0, (1 << 8 * ir.BYTES[kind]) - 1)
        values = bits.map(lambda one: ir.decode(kind, one)).filter(lambda one: one == one)
        return (st.sampled_from((0.0, -0.0, 1.0, -1.5, 2.0)) | values).map(lambda one: ir.Number(kind, one))
    width = 1 if kind == "bool" else 8 * ir.BYTES[kind]
    low, high = (-(1 << width - 1), (1 << width - 1) - 1) if kind in ir.SIGNED else (0, (1 << width) - 1)
    small = st.integers(0, min(high, 17))
    return (small | st.sampled_from((low, high, high // 2 + 1)) | st.integers(low, high)).map(
        lambda one: ir.Number(kind, one)
    )


@cache
def descriptors(symbol: str = "data") -> st.SearchStrategy[ir.Descriptor]:
    """Known DSDs of every kind."""
    four = st.tuples(*[st.integers(1, 9)] * 4)
    return st.builds(
        ir.Descriptor,
        st.sampled_from(("mem1d", "mem4d", "fabin", "fabout", "fifo", "circbuf")),
        st.integers(0, 65535) | st.builds(ir.Address, st.just(symbol), st.integers(-4, 40)),
        length=st.integers(0, 65535),
        stride=st.integers(-32768, 32767),
        color=st.integers(0, 255),
        flags=st.integers(0, 127),
        index=st.integers(0, 65535),
        zero=st.integers(0, 2),
        extents=four,
        strides=four,
    )


def settings_of(draw: Any) -> ir.Settings:
    action = st.none() | st.tuples(
        st.sampled_from(("activate", "block")), st.just("task"), st.integers(0, 31)
    )
    return ir.Settings(
        asynchronous=draw(st.booleans()),
        thread=draw(st.none() | st.integers(0, 7)),
        priority=draw(st.integers(0, 3)),
        end=draw(action),
        unblock=draw(st.none() | st.tuples(st.just("queue"), st.integers(0, 7))),
        control=draw(action),
    )


class Maker:
    """Makes one function; every value that it computes can reach a local, and locals go to memory at the end."""

    def __init__(self, draw: Any, name: str, callees: list[ir.Function], waits: bool) -> None:
        self.draw, self.callees, self.waits = draw, callees, waits
        self.count = 0
        parameters = tuple(f"p{i}" for i in range(draw(st.integers(0, 3))))
        kinds = [draw(st.sampled_from(SCALARS)) for _ in parameters]
        self.locals = {one: ir.Local(kind) for one, kind in zip(parameters, kinds, strict=True)}
        self.locals |= {f"l_{kind}": ir.Local(kind) for kind in VALUES}
        self.locals["stack"] = ir.Local("void", 16, 4)
        result = draw(st.sampled_from(("void", *VALUES)))
        place = draw(st.integers(0, 1))
        self.function = ir.Function(name, parameters, result, self.locals, [ir.Block()], place)
        self.values: list[tuple[int, ir.Type]] = []

    @property
    def block(self) -> ir.Block:
        return self.function.blocks[-1]

    def new_block(self) -> int:
        self.function.blocks.append(ir.Block())
        self.values = []
        return len(self.function.blocks) - 1

    def add(self, one: ir.Instruction, kind: ir.Type | None = None) -> ir.Temporary:
        self.block.instructions.append(one)
        number = ir.result_of(one)
        if number is None:
            number = -1
        elif kind is not None:
            self.values.append((number, kind))
        return T(number)

    def new(self) -> int:
        self.count += 1
        return self.count - 1

    def operand(self, kind: ir.Type) -> ir.Operand:
        fitting = [number for number, found in self.values if found == kind]
        if fitting and self.draw(st.integers(0, 3)):
            return T(self.draw(st.sampled_from(fitting)))
        if kind == "dsd":
            return self.draw(descriptors())
        if kind == "ptr" and self.draw(st.booleans()):
            return ir.Address("data", self.draw(st.integers(0, DATA - 8)))
        return self.draw(numbers(kind))

    def instruction(self) -> None:
        makers = [self.compute] * 3 + [
            self.compare,
            self.convert,
            self.bitcast,
            self.get,
            self.set,
            self.element,
        ]
        makers += [self.load, self.store, self.copy, self.machine, self.edit, self.frame]
        makers += [self.call] if self.callees else []
        makers += [self.vector, self.load_dsr, self.map] if self.waits else []
        self.draw(st.sampled_from(makers))()

    def compute(self) -> None:
        operation = self.draw(
            st.sampled_from(
                ("add", "sub", "mul", "div", "rem", "and", "or", "xor", "shl", "shr", "neg", "not")
            )
        )
        kinds: tuple[ir.Type, ...] = WHOLE
        if operation in ("add", "sub", "mul", "div", "neg"):
            kinds = WHOLE + FLOAT
        elif operation in ("and", "or", "xor", "not"):
            kinds = (*WHOLE, "bool")
        kind = self.draw(st.sampled_from(kinds))
        operands = tuple(self.operand(kind) for _ in range(1 if operation in ("neg", "not") else 2))
        self.add(ir.Compute(self.new(), operation, kind, operands), kind)

    def compare(self) -> None:
        kind = self.draw(st.sampled_from(SCALARS))
        relation = self.draw(st.sampled_from(("eq", "ne", "lt", "le", "gt", "ge")))
        self.add(ir.Compare(self.new(), relation, kind, self.operand(kind), self.operand(kind)), "bool")

    def convert(self) -> None:
        source, target = self.draw(st.sampled_from(SCALARS)), self.draw(st.sampled_from(SCALARS))
        self.add(ir.Convert(self.new(), source, target, self.operand(source)), target)

    def bitcast(self) -> None:
        source = self.draw(st.sampled_from(SCALARS))
        target = self.draw(st.sampled_from([one for one in SCALARS if ir.BYTES[one] == ir.BYTES[source]]))
        self.add(ir.Bitcast(self.new(), source, target, self.operand(source)), target)

    def get(self) -> None:
        name = self.draw(st.sampled_from([one for one, local in self.locals.items() if not local.bytes]))
        self.add(ir.Get(self.new(), name), self.locals[name].type)

    def set(self) -> None:
        kind = self.draw(st.sampled_from(VALUES))
        self.add(ir.Set(f"l_{kind}", self.operand(kind)))

    def frame(self) -> None:
        self.add(ir.Frame(self.new(), "stack"), "ptr")

    def element(self) -> None:
        """Mostly inside the array: a trap ends the run."""
        kind = self.draw(st.sampled_from(("i16", "u16", "i32", "u32")))
        index = ir.Number(kind, self.draw(st.integers(0, 7)))
        if self.draw(st.integers(0, 9)) == 0:
            index = self.operand(kind)
        at = self.add(ir.Element(self.new(), ir.Address("data"), kind, index, 8, 3, "data"), "ptr")
        read = self.draw(st.sampled_from(SCALARS))
        self.add(ir.Load(self.new(), read, at, isinstance(index, ir.Number)), read)

    def load(self) -> None:
        kind = self.draw(st.sampled_from(VALUES))
        self.add(ir.Load(self.new(), kind, self.address(), False), kind)

    def store(self) -> None:
        kind = self.draw(st.sampled_from(VALUES))
        self.add(ir.Store(kind, self.address(), self.operand(kind), False))

    def address(self) -> ir.Operand:
        if self.draw(st.integers(0, 9)) == 0:
            return self.operand("ptr")
        if self.draw(st.integers(0, 9)) == 0:
            return ir.Number("ptr", self.draw(st.integers(0xFE00, 0xFFF8)))
        base = ir.Address("data", self.draw(st.integers(0, 60)))
        return self.add(ir.Offset(self.new(), base, self.draw(st.integers(0, 30))), "ptr")

    def copy(self) -> None:
        first, second = ir.Address("data", self.draw(st.integers(0, 20))), ir.Address("data", 64)
        pair = (first, second) if self.draw(st.booleans()) else (second, first)
        self.add(ir.Copy(*pair, self.draw(st.integers(0, 40))))

    def machine(self) -> None:
        name = self.draw(st.sampled_from(sorted(ir.MACHINE)))
        operation = ir.MACHINE[name]
        operands = tuple(self.operand(kind) for kind in operation.parameters)
        if operation.result == "void":
            self.add(ir.Machine(None, name, operands))
        else:
            self.add(ir.Machine(self.new(), name, operands), operation.result)

    def edit(self) -> None:
        name = self.draw(st.sampled_from(sorted(ir.EDIT_TYPES)))
        value = self.operand(ir.EDIT_TYPES[name])
        self.add(ir.EditDsd(self.new(), name, self.operand("dsd"), value), "dsd")

    def call(self) -> None:
        callee = self.draw(st.sampled_from(self.callees))
        arguments = tuple(self.operand(callee.locals[one].type) for one in callee.parameters)
        if callee.result == "void":
            self.add(ir.Invoke(None, callee.name, arguments))
        else:
            self.add(ir.Invoke(self.new(), callee.name, arguments), callee.result)

    def vector_operand(self) -> ir.VectorOperand:
        match self.draw(st.sampled_from(("dsd", "dsr", "scalar", "pointer"))):
            case "dsd":
                return ir.VectorOperand("dsd", self.operand("dsd"))
            case "dsr":
                return ir.VectorOperand("dsr", self.register())
            case "scalar":
                kind = self.draw(st.sampled_from(WORDS))
                return ir.VectorOperand("scalar", self.operand(kind), kind)
            case _:
                return ir.VectorOperand("pointer", self.operand("ptr"))

    def register(self) -> ir.Register:
        return ir.Register(self.draw(st.sampled_from(("dest", "src0", "src1"))), self.draw(st.integers(0, 7)))

    def vector(self) -> None:
        operands = tuple(self.vector_operand() for _ in range(self.draw(st.integers(1, 4))))
        operation = self.draw(st.sampled_from(sorted(ir.OPERATION_NUMBER)))
        self.add(ir.Vector(operation, operands, settings_of(self.draw), self.draw(st.integers(0, 1))))

    def load_dsr(self) -> None:
        marks = self.draw(st.booleans()), self.draw(st.booleans())
        self.add(ir.LoadDsr(self.register(), self.operand("dsd"), settings_of(self.draw), *marks))

    def map(self) -> None:
        kinds: tuple[Any, ...] = (self.draw(st.sampled_from(("u8", "i16", "f16", "f32"))), "f32")
        operands = (self.vector_operand(), ir.VectorOperand("dsd", self.operand("dsd")))
        self.add(ir.MapBegin(operands, kinds, ("read", "write")))
        self.add(ir.MapNext(self.new()), "bool")
        self.add(ir.MapRead(self.new(), 0, kinds[0]), kinds[0])
        self.add(ir.MapWrite(1, "f32", self.operand("f32")))

    # --- control ----------------------------------------------------------------------------------------------

    def straight(self) -> None:
        for _ in range(self.draw(st.integers(0, 6))):
            self.instruction()

    def loop(self, name: str) -> None:
        """Runs its body up to four times."""
        self.locals[name] = ir.Local("u16")
        self.add(ir.Set(name, ir.Number("u16", self.draw(st.integers(1, 4)))))
        self.block.terminator = ir.Jump(len(self.function.blocks))
        top = self.new_block()
        self.straight()
        before = self.add(ir.Get(self.new(), name))
        after = self.add(ir.Compute(self.new(), "sub", "u16", (before, ir.Number("u16", 1))))
        self.add(ir.Set(name, after))
        more = self.add(ir.Compare(self.new(), "ne", "u16", after, ir.Number("u16", 0)))
        self.block.terminator = ir.Branch(more, top, top + 1)
        self.new_block()

    def fork(self) -> None:
        at = len(self.function.blocks)
        if self.draw(st.booleans()):
            condition = self.add(
                ir.Compare(self.new(), "ne", "i32", self.operand("i32"), self.operand("i32"))
            )
            self.block.terminator = ir.Branch(condition, at, at + 1)
        else:
            kind = self.draw(st.sampled_from(WHOLE))
            value = self.operand(kind)
            self.block.terminator = ir.Choose(kind, value, ((0, at), (5, at + 1), (17, at + 2)), at + 1)
        for _ in range(2):
            self.new_block()
            self.straight()
            self.block.terminator = ir.Jump(at + 2)
        self.new_block()

    def finish(self) -> ir.Function:
        for number in range(self.draw(st.integers(0, 3))):
            self.straight()
            self.loop(f"n{number}") if self.draw(st.booleans()) else self.fork()
        self.straight()
        for place, kind in enumerate(VALUES):
            value = self.add(ir.Get(self.new(), f"l_{kind}"), kind)
            self.add(ir.Store(kind, ir.Address("out", OUT * place), value, True))
        if self.draw(st.integers(0, 19)) == 0:
            self.block.terminator = ir.Halt(
                "assert", 1, self.draw(st.sampled_from([(0, 0), (16, 7 << 32 | 4096)]))
            )
        elif self.function.result == "void":
            self.block.terminator = ir.Return()
        else:
            self.block.terminator = ir.Return(self.operand(self.function.result))
        return self.function


@st.composite
def units(draw: Any, waits: bool = True) -> ir.Unit:
    """A verified unit: three functions, each of which may call those before it; the last is a task's."""
    functions: list[ir.Function] = []
    for name in ("leaf", "odd name (i16)", "main"):
        maker = Maker(draw, name, list(functions), waits and draw(st.booleans()))
        functions.append(maker.finish())
    main = functions[-1]
    kinds = tuple(main.locals[one].type for one in main.parameters)
    first = draw(st.binary(max_size=DATA))
    return ir.Unit(
        draw(st.sampled_from(("pe.csl", 'odd "name"\\'))),
        draw(st.sampled_from(("wse2", "wse3"))),
        symbols={
            "data": ir.Variable("data", DATA, 4, "[64]u16", first),
            "out": ir.Variable("out", OUT * len(VALUES), 8, "[*]u8"),
            "odd.name 2": ir.Variable(
                "odd.name 2", 4, 2, "*u8", b"ab", (ir.Relocation(2, "out", -4),), "linked"
            ),
        },
        functions={one.name: one for one in functions},
        tasks=[
            ir.BoundTask("local", 9, "main", kinds, active=True, priority="high"),
            ir.BoundTask("data", 3, None, blocked=True),
            ir.BoundTask("data", 4, "main", kinds, rotation=(10, 2, 0)),
            ir.BoundTask("empty_queue", 10, "main", kinds),
        ],
        queues=[ir.BoundQueue("input", 2, 5, 3, 1, 12)],
        fifos=[
            ir.BoundFifo(0, "data", activate_pop=9),
            ir.BoundFifo(1, "data", empty="terminate", full="fault"),
        ],
        preloads=[ir.LoadDsr(ir.Register("dest", 1), draw(descriptors()), settings_of(draw), True, False)],
        blocked=[("queue", 2)],
        config=[(0x7F20, 4)],
        exports=[
            ir.Exported("x", "variable", ir.Address("data", 4), "odd.name 2", type="[*]f32"),
            ir.Exported("f", "function", function="main", parameters=kinds, type="fn()void"),
        ],
        strings=["a\n", ""],
        locations=[("", 0, 0), ("pe.csl", 3, 14)],
    )
