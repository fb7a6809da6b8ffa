"""PE-IR: what one PE runs, typed and without any CSL left in it.

A Unit is one tile's program: its symbols (variables in memory, with their first values and, once linked, addresses), its
functions, and what is bound to tasks, queues and names of the host. A function is a list of basic blocks; each ends in a
terminator. Values are scalars and descriptors (DSDs): arrays and structs exist only in memory. A Temporary is assigned once
and used only in its own block; what lives longer is a Local. Locals of type `stack(n)` have an address.

`print_unit` and `parse_unit` are inverse; `verify` says what every consumer may rely on.
"""

from __future__ import annotations

import builtins
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Type: TypeAlias = Literal[
    "void",
    "bool",
    "i8",
    "u8",
    "i16",
    "u16",
    "i32",
    "u32",
    "i64",
    "u64",
    "f16",
    "bf16",
    "cb16",
    "f32",
    "ptr",
    "dsd",
]
"""`ptr` is a 16-bit byte address, `dsd` a descriptor of 32 bytes. Booleans take one byte in memory."""

BYTES: dict[Type, int] = {
    "bool": 1, "i8": 1, "u8": 1, "i16": 2, "u16": 2, "i32": 4, "u32": 4, "i64": 8, "u64": 8,
    "f16": 2, "bf16": 2, "cb16": 2, "f32": 4, "ptr": 2, "dsd": 32,
}  # fmt: skip


# --- operands ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Temporary:
    """`%3`: the result of an instruction."""

    number: int


@dataclass(frozen=True, slots=True)
class Number:
    """`i16 5`, `f32 1.5`, `bool 1`: integers as Python ints in their type's range, floats exactly representable."""

    type: Type
    value: int | float


@dataclass(frozen=True, slots=True)
class Address:
    """`@name+4`: the address of a symbol, plus bytes."""

    symbol: str
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Descriptor:
    """`dsd mem1d(base @x+4, length 10, stride 2)`: a DSD that is known; fields as in `artifact` PE ABI's DESCRIPTOR.

    `base` is an Address, or an int (an address, a FIFO's number is in `queue`).
    """

    kind: Literal["mem1d", "mem4d", "fabin", "fabout", "fifo", "circbuf"]
    base: Address | int = 0
    length: int = 0
    stride: int = 0
    color: int = 0xFF
    queue: int = 0xFF
    flags: int = 0
    index: int = 0
    priority: int = 0
    simd: int = 0
    control_transform: int = 0
    zero: int = 0
    extents: tuple[int, int, int, int] = (1, 1, 1, 1)
    strides: tuple[int, int, int, int] = (0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Constant:
    """`const u16 3`: entry 3 of the program's constants, where tiles that share the code differ. A dsd takes four."""

    type: Type
    slot: int


Operand: TypeAlias = Temporary | Number | Address | Descriptor | Constant


# --- instructions -----------------------------------------------------------------------------------------
# `location` is an index into Unit.locations. `result` is the Temporary's number.

Arithmetic: TypeAlias = Literal[
    "add", "sub", "mul", "div", "rem", "and", "or", "xor", "shl", "shr", "neg", "not"
]
Comparison: TypeAlias = Literal["eq", "ne", "lt", "le", "gt", "ge"]


@dataclass(frozen=True, slots=True)
class Compute:
    """`%2 = add i16 %0, i16 1`; `not` of a bool is logical, of integers bitwise.

    Integers wrap around; `div` and `rem` truncate towards zero; `shr` of signed types keeps the sign; a shift by the width
    or more gives 0 (or the sign); dividing integers by 0 traps. Floats round to nearest even, 16-bit ones once.
    """

    result: int
    operation: Arithmetic
    type: Type
    operands: tuple[Operand, ...]
    location: int = 0


@dataclass(frozen=True, slots=True)
class Compare:
    """`%2 = lt i16 %0, %1`: a bool; `type` is that of the operands. With NaN only `ne` holds."""

    result: int
    comparison: Comparison
    type: Type
    left: Operand
    right: Operand
    location: int = 0


@dataclass(frozen=True, slots=True)
class Convert:
    """`%1 = convert f32 %0 to i16`: the value, as @as defines it. Floats to integers truncate, and saturate at the ends."""

    result: int
    source: Type
    target: Type
    operand: Operand
    location: int = 0


@dataclass(frozen=True, slots=True)
class Bitcast:
    """`%1 = bitcast u32 %0 to f32`: the bits; both types have the same size. `ptr` counts as 16 bits."""

    result: int
    source: Type
    target: Type
    operand: Operand
    location: int = 0


@dataclass(frozen=True, slots=True)
class Get:
    """`%1 = get %x`: the value of a register local."""

    result: int
    local: str
    location: int = 0


@dataclass(frozen=True, slots=True)
class Set:
    """`set %x, %1`."""

    local: str
    value: Operand
    location: int = 0


@dataclass(frozen=True, slots=True)
class Frame:
    """`%1 = frame %x`: the address of a stack local."""

    result: int
    local: str
    location: int = 0


@dataclass(frozen=True, slots=True)
class Element:
    """`%2 = element %0, i16 %1 of 10 x 4 "x"`: the address base + index * bytes. Traps unless 0 <= index < count.

    `index` has type i16, u16, i32 or u32 by `index_type`; `count` None (a `[*]T`) is not checked. `name` is what messages
    call the array.
    """

    result: int
    base: Operand
    index_type: Type
    index: Operand
    count: int | None
    bytes: int
    name: str
    location: int = 0


@dataclass(frozen=True, slots=True)
class Offset:
    """`%1 = offset %0 + 8`: the address of a field."""

    result: int
    base: Operand
    bytes: int
    location: int = 0


@dataclass(frozen=True, slots=True)
class Load:
    """`%1 = load f32 %0 known`. `known` says that the address lies in an object for sure; else it is checked as code runs."""

    result: int
    type: Type
    address: Operand
    known: bool
    location: int = 0


@dataclass(frozen=True, slots=True)
class Store:
    """`store f32 %0, %1`: address, value."""

    type: Type
    address: Operand
    value: Operand
    known: bool
    location: int = 0


@dataclass(frozen=True, slots=True)
class Copy:
    """`copy %to, %from, 40`: bytes of an array or struct; they do not overlap, or are the same."""

    target: Operand
    source: Operand
    bytes: int
    location: int = 0


@dataclass(frozen=True, slots=True)
class Invoke:
    """`%1 = call f(%0)`; `result` None for void."""

    result: int | None
    function: str
    arguments: tuple[Operand, ...]
    location: int = 0


@dataclass(frozen=True, slots=True)
class Machine:
    """`%1 = machine tsc(u32 0)`: one of MACHINE (see `_machine.py`) with operands of its types."""

    result: int | None
    name: str
    operands: tuple[Operand, ...]
    location: int = 0


@dataclass(frozen=True, slots=True)
class EditDsd:
    """`%1 = edit length %0, %2`: a descriptor with one field changed.

    base: a ptr. offset: i16 bytes that are added to the base. length: u16. stride: i16 elements. color, queue: u16.
    """

    result: int
    field: Literal["base", "offset", "length", "stride", "color", "queue", "index"]
    descriptor: Operand
    value: Operand
    location: int = 0


@dataclass(frozen=True, slots=True)
class Register:
    """A DSR as an operand: `dest 3`."""

    file: Literal["dest", "src0", "src1"]
    number: int


@dataclass(frozen=True, slots=True)
class VectorOperand:
    """What a vector operation works on: a dsd, a DSR, a scalar of type `type`, or a pointer to one element."""

    kind: Literal["dsd", "dsr", "scalar", "pointer"]
    value: Operand | Register
    type: Type = "void"


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a vector operation; actions and targets are names of the ABI's enums in lower case, ids are numbers."""

    asynchronous: bool = False
    thread: int | None = None
    priority: int = 0
    end: tuple[str, str, int] | None = None
    """(action, target, id) at the end: ("activate", "task", 9)."""
    unblock: tuple[str, int] | None = None
    """(target, id), beside `end`."""
    control: tuple[str, str, int] | None = None
    """When a control wavelet arrives."""


@dataclass(frozen=True, slots=True)
class Vector:
    """`vector fmacs dsd %0, dsd %1, dsr src1 2, scalar f32 %3 [async, end activate task 9]`. It may wait."""

    operation: str
    operands: tuple[VectorOperand, ...]
    settings: Settings
    location: int = 0


@dataclass(frozen=True, slots=True)
class LoadDsr:
    """`dsr dest 3 = %0 [async, end ...] save`: loads a descriptor into a register."""

    register: Register
    descriptor: Operand
    settings: Settings
    save_address: bool
    single_step: bool
    location: int = 0


@dataclass(frozen=True, slots=True)
class MapBegin:
    """`map dsd %0 read f32, dsd %1 write f32`: opens an iteration over operands; `modes` has read, write for each."""

    operands: tuple[VectorOperand, ...]
    types: tuple[Type, ...]
    modes: tuple[Literal["read", "write"], ...]
    location: int = 0


@dataclass(frozen=True, slots=True)
class MapNext:
    """`%1 = map_next`: writes what was put, then goes on to the next element; a bool, false at the end. It may wait."""

    result: int
    location: int = 0


@dataclass(frozen=True, slots=True)
class MapRead:
    """`%1 = map_read 0 f32`: the element of an operand (by its place among the operands)."""

    result: int
    operand: int
    type: Type
    location: int = 0


@dataclass(frozen=True, slots=True)
class MapWrite:
    """`map_write 1 f32 %0`."""

    operand: int
    type: Type
    value: Operand
    location: int = 0


Instruction: TypeAlias = (
    Compute | Compare | Convert | Bitcast | Get | Set | Frame | Element | Offset | Load | Store | Copy | Invoke
    | Machine | EditDsd | Vector | LoadDsr | MapBegin | MapNext | MapRead | MapWrite
)  # fmt: skip


# --- terminators ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Jump:
    """`jump ^2`."""

    block: int


@dataclass(frozen=True, slots=True)
class Branch:
    """`branch %0, ^1, ^2`."""

    condition: Operand
    then: int
    otherwise: int


@dataclass(frozen=True, slots=True)
class Choose:
    """`choose i16 %0 [1: ^2, 5: ^3] else ^4`."""

    type: Type
    value: Operand
    cases: tuple[tuple[int, int], ...]
    otherwise: int


@dataclass(frozen=True, slots=True)
class Return:
    """`return %0`, `return`."""

    value: Operand | None = None


@dataclass(frozen=True, slots=True)
class Halt:
    """`halt assert`: an error at run time; `kind` is a Trap of the ABI in lower case, `numbers` are those of that trap.

    Numbers that are not 0 are printed: `halt stack (16, 4096)`.
    """

    kind: str
    location: int = 0
    numbers: tuple[int, int] = (0, 0)


Terminator: TypeAlias = Jump | Branch | Choose | Return | Halt


# --- functions and units ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Block:
    """Straight-line code; blocks are named by their place in the function, ^0 is the entry."""

    instructions: list[Instruction] = field(default_factory=list)
    terminator: Terminator | None = None


@dataclass(frozen=True, slots=True)
class Local:
    """A register local (`type`; it begins as 0), or with `bytes` a place in the stack frame that has an address."""

    type: Type
    bytes: int = 0
    align: int = 2


@dataclass(slots=True)
class Function:
    """`fn name(%a: i16) i16 !3`: parameters are the first locals."""

    name: str
    parameters: tuple[str, ...]
    result: Type
    locals: dict[str, Local]
    blocks: list[Block]
    location: int = 0


@dataclass(frozen=True, slots=True)
class Relocation:
    """At byte `at` of a symbol's first value stands the 16-bit address of another symbol plus `offset`."""

    at: int
    symbol: str
    offset: int


@dataclass(frozen=True, slots=True)
class Variable:
    """`symbol @x: 40 align 4 "[10]f32" = hex "00..."`; `value` shorter than `bytes` is filled with zeros."""

    name: str
    bytes: int
    align: int
    type: str
    """As CSL writes it."""
    value: builtins.bytes = b""
    relocations: tuple[Relocation, ...] = ()
    exported: str = ""
    """`linkname`, if there is one."""


@dataclass(frozen=True, slots=True)
class BoundTask:
    """`task data 3 = f(i16, u16) blocked`."""

    kind: Literal["data", "local", "control", "teardown", "empty_queue"]
    id: int
    function: str | None
    parameters: tuple[Type, ...] = ()
    active: bool = False
    blocked: bool = False
    priority: Literal["low", "high"] = "low"
    rotation: tuple[int, int, int] | None = None
    """A data task: limit, the counter as the program starts, and the control task that takes its turn at the limit."""


@dataclass(frozen=True, slots=True)
class BoundQueue:
    """`queue input 2 color 3`."""

    direction: Literal["input", "output"]
    number: int
    color: int
    priority: int = 0
    location: int = 0
    control_offset: int = 0


FifoAction: TypeAlias = Literal["test_or_suspend", "terminate", "suspend", "fault"]


@dataclass(frozen=True, slots=True)
class BoundFifo:
    """`fifo 0 @buffer activate_push 9 empty terminate`."""

    number: int
    symbol: str
    activate_push: int | None = None
    activate_pop: int | None = None
    empty: FifoAction = "test_or_suspend"
    """What happens to an operation that pops from it as it is empty."""
    full: FifoAction = "test_or_suspend"
    """And to one that pushes as it is full."""


@dataclass(frozen=True, slots=True)
class Exported:
    """`export variable "x" "*[4]f32" = @x+0 pointer @x_ptr` or `export function "f" "fn(i16)void" function f takes i16`."""

    name: str
    kind: Literal["variable", "function"]
    address: Address | None = None
    """What the pointer points to as the program starts."""
    pointer: str | None = None
    """The symbol that holds the pointer, where it can change."""
    function: str | None = None
    parameters: tuple[Type, ...] = ()
    type: str = ""


@dataclass(slots=True)
class Unit:
    """One tile's program."""

    name: str
    architecture: Literal["wse2", "wse3"]
    half: Literal["f16", "bf16", "cb16"] = "f16"
    symbols: dict[str, Variable] = field(default_factory=dict)
    """In the order in which the linker places them."""
    functions: dict[str, Function] = field(default_factory=dict)
    tasks: list[BoundTask] = field(default_factory=list)
    queues: list[BoundQueue] = field(default_factory=list)
    fifos: list[BoundFifo] = field(default_factory=list)
    preloads: list[LoadDsr] = field(default_factory=list)
    """DSRs that are loaded before the program starts; their descriptors are known."""
    blocked: list[tuple[str, int]] = field(default_factory=list)
    """(target, id): queues, colors and microthreads that are blocked before the program starts."""
    opened: list[tuple[str, int]] = field(default_factory=list)
    """(target, id): queues and colors without a data task whose control wavelets may start tasks from the start."""
    config: list[tuple[int, int]] = field(default_factory=list)
    exports: list[Exported] = field(default_factory=list)
    strings: list[str] = field(default_factory=list)
    locations: list[tuple[str, int, int]] = field(default_factory=lambda: [("", 0, 0)])
