"""The tree of a CSL file: one frozen class per construct, each with its span and no behaviour.

Two trees are equal if they say the same; where it stands does not count. Types are expressions, as types are
values in CSL. Parentheses leave no node: the tree's shape says what they said.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from openwafer.csl._source import Span

Dialect: TypeAlias = Literal["1.4", "2.10"]


@dataclass(frozen=True, slots=True)
class Node:
    """Anything that stands somewhere."""

    span: Span = field(compare=False, repr=False)


# --- names and literals -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Name(Node):
    """`x`, and the names of types: `i16`, `void`, `mem1d_dsd`."""

    text: str


@dataclass(frozen=True, slots=True)
class Integer(Node):
    """`10`, `0x1f`, `0b11`, `1_000`. The text counts: it is printed as it was written."""

    text: str
    value: int


@dataclass(frozen=True, slots=True)
class Float(Node):
    """`1.5`, `1e-3`, `0x1.8p3`."""

    text: str
    value: float


@dataclass(frozen=True, slots=True)
class String(Node):
    """`"..."`. A string is bytes; the text in the file is UTF-8."""

    text: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Character(Node):
    """`'a'`: an integer, the code point."""

    text: str
    value: int


@dataclass(frozen=True, slots=True)
class Bool(Node):
    """`true` or `false`."""

    value: bool


# --- operators --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Unary(Node):
    """`-a`, `~a`, `!a`, `&a`."""

    operator: str
    operand: Expression


@dataclass(frozen=True, slots=True)
class Binary(Node):
    """`a + b`, `a and b`, `a == b`."""

    operator: str
    left: Expression
    right: Expression


@dataclass(frozen=True, slots=True)
class Member(Node):
    """`a.name`."""

    base: Expression
    name: str


@dataclass(frozen=True, slots=True)
class Dereference(Node):
    """`a.*`."""

    base: Expression


@dataclass(frozen=True, slots=True)
class Index(Node):
    """`a[i]`, `a[i, j]`: one index per dimension."""

    base: Expression
    indices: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Call(Node):
    """`f(a, b)`."""

    function: Expression
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Builtin(Node):
    """`@name(a, b)`; `name` without the `@`."""

    name: str
    arguments: tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Comptime(Node):
    """`comptime a`, `comptime { ... }`."""

    operand: Expression


# --- aggregates -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FieldValue(Node):
    """`.name = value` in a literal."""

    name: str
    value: Expression


@dataclass(frozen=True, slots=True)
class Aggregate(Node):
    """`.{ ... }` where `type` is None, else `[3]i16 {1, 2, 3}` or `complex { .re = 1.0 }`.

    The entries are all `FieldValue` or all expressions.
    """

    type: Expression | None
    entries: tuple[FieldValue, ...] | tuple[Expression, ...]


@dataclass(frozen=True, slots=True)
class Lambda(Node):
    """`|i, j|{N, M} -> body`: indices with their extents, and an access to a tensor."""

    names: tuple[str, ...]
    extents: tuple[Expression, ...]
    body: Expression


# --- types ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PointerType(Node):
    """`*T`, `*const T`; with `many` `[*]T`, `[*]const T`."""

    many: bool
    const: bool
    target: Expression


@dataclass(frozen=True, slots=True)
class ArrayType(Node):
    """`[N]T`, `[N, M]T`."""

    extents: tuple[Expression, ...]
    element: Expression


@dataclass(frozen=True, slots=True)
class Parameter(Node):
    """`name: T`, `comptime name: T`; in the types of functions and in `extern fn` also `T` alone.

    `type` None is `anytype`.
    """

    name: str | None
    type: Expression | None
    comptime: bool = False


@dataclass(frozen=True, slots=True)
class FunctionType(Node):
    """`fn(i16, f32) void`, `task() void`."""

    kind: Literal["fn", "task"]
    parameters: tuple[Parameter, ...]
    result: Expression


@dataclass(frozen=True, slots=True)
class Element(Node):
    """`red` or `red = 1` in an enumeration."""

    name: str
    value: Expression | None


@dataclass(frozen=True, slots=True)
class EnumType(Node):
    """`enum(u16) { red, white = 1 }`."""

    type: Expression | None
    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class FieldType(Node):
    """`name: T` in a struct or union."""

    name: str
    type: Expression


@dataclass(frozen=True, slots=True)
class StructType(Node):
    """`struct { x: i16 }`; from dialect 2.10 also `union`, and `packed` or `extern` before either."""

    kind: Literal["struct", "union"]
    layout: Literal["", "packed", "extern"]
    fields: tuple[FieldType, ...]


# --- control flow -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block(Node):
    """`{ ... }`, `label: { ... }`; `{}` is the value of type void."""

    label: str | None
    statements: tuple[Statement, ...]


@dataclass(frozen=True, slots=True)
class Arm(Node):
    """A condition of an `if` and what happens where it holds."""

    condition: Expression
    body: Action


@dataclass(frozen=True, slots=True)
class If(Node):
    """`if (a) x else if (b) y else z`: the arms in order, then `z`."""

    arms: tuple[Arm, ...]
    otherwise: Action | None


@dataclass(frozen=True, slots=True)
class Range(Node):
    """`1...5` in a switch: both ends belong to it."""

    first: Expression
    last: Expression


@dataclass(frozen=True, slots=True)
class Prong(Node):
    """`1, 3...5 => body` of a switch; `else => body` has no cases."""

    cases: tuple[Expression | Range, ...]
    body: Action


@dataclass(frozen=True, slots=True)
class Switch(Node):
    """`switch (subject) { ... }`."""

    subject: Expression
    prongs: tuple[Prong, ...]


@dataclass(frozen=True, slots=True)
class While(Node):
    """`while (condition) : (step) body`."""

    label: str | None
    inline: bool
    condition: Expression
    step: Action | None
    body: Action


@dataclass(frozen=True, slots=True)
class For(Node):
    """`for (sequence) |element, index| body`."""

    label: str | None
    inline: bool
    sequence: Expression
    element: str
    index: str | None
    body: Action


@dataclass(frozen=True, slots=True)
class Return(Node):
    """`return`, `return value`."""

    value: Expression | None


@dataclass(frozen=True, slots=True)
class Break(Node):
    """`break`, `break :label`, `break :label value`."""

    label: str | None
    value: Expression | None


@dataclass(frozen=True, slots=True)
class Continue(Node):
    """`continue`, `continue :label`."""

    label: str | None


@dataclass(frozen=True, slots=True)
class Assign(Node):
    """`a = b`, `a += b`."""

    operator: str
    target: Expression
    value: Expression


@dataclass(frozen=True, slots=True)
class Operand(Node):
    """`[name] "constraint" (value)` of inline assembly."""

    name: str
    constraint: Expression
    value: Expression


@dataclass(frozen=True, slots=True)
class Assembly(Node):
    """`asm volatile (text : outputs : inputs : clobbers)`."""

    volatile: bool
    text: Expression
    outputs: tuple[Operand, ...]
    inputs: tuple[Operand, ...]
    clobbers: tuple[Expression, ...]


# --- declarations -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Attribute(Node):
    """`align(16)`, `linkname("x")`, `linksection(".x")`."""

    name: Literal["align", "linkname", "linksection"]
    value: Expression


@dataclass(frozen=True, slots=True)
class Variable(Node):
    """`param`, `const` or `var`; `comptime` only inside functions, `storage` only outside."""

    kind: Literal["param", "const", "var"]
    storage: Literal["", "export", "extern"]
    comptime: bool
    name: str
    type: Expression | None
    attributes: tuple[Attribute, ...]
    value: Expression | None


@dataclass(frozen=True, slots=True)
class Function(Node):
    """`fn` or `task`. Only `extern` ones have no body."""

    kind: Literal["fn", "task"]
    storage: Literal["", "export", "extern"]
    inline: Literal["", "inline", "noinline"]
    name: str
    parameters: tuple[Parameter, ...]
    result: Expression
    attributes: tuple[Attribute, ...]
    body: Block | None


@dataclass(frozen=True, slots=True)
class Stage(Node):
    """`comptime { ... }` or `layout { ... }` between the declarations."""

    kind: Literal["comptime", "layout"]
    body: Block


@dataclass(frozen=True, slots=True)
class File(Node):
    """A whole file."""

    declarations: tuple[Declaration, ...]


Expression: TypeAlias = (
    Name
    | Integer
    | Float
    | String
    | Character
    | Bool
    | Unary
    | Binary
    | Member
    | Dereference
    | Index
    | Call
    | Builtin
    | Comptime
    | Aggregate
    | Lambda
    | PointerType
    | ArrayType
    | FunctionType
    | EnumType
    | StructType
    | Block
    | If
    | Switch
    | Return
    | Break
    | Continue
    | Assembly
)
Action: TypeAlias = Expression | Assign | While | For
"""What a branch, a loop or a prong may do without braces."""
Statement: TypeAlias = Variable | Action
Declaration: TypeAlias = Variable | Function | Stage
