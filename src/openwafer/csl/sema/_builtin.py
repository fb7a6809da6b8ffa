"""How a builtin is written: a function of one `Call`, registered under its name.

    @builtin("get_color", 1)
    def get_color(call: Call) -> Value:
        return Value(t.COLOR, call.integer(0, "the id of a color", 0, 23))

`builtins/*.py` hold them; importing `builtins` fills the registry. What a builtin returns is the value of the call, NOTHING
for void. Names that begin with `__` are private: only the files of csl/library may use them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, NoReturn, TypeAlias

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Compiled, FunctionValue, Place, Value
from openwafer.csl.syntax import ast

if TYPE_CHECKING:
    from openwafer.csl.sema._engine import Engine

Stage: TypeAlias = Literal["any", "comptime", "layout", "block", "code"]
"""Where a builtin may be used: anywhere; at comptime only; in a layout block (and what it calls); in a comptime block outside of
functions (and what it calls); in code that runs on the PE."""
Handler: TypeAlias = "Callable[[Call], Value]"
PlaceHandler: TypeAlias = "Callable[[Call], Place]"


@dataclass(frozen=True, slots=True)
class Entry:
    """A registered builtin."""

    name: str
    least: int
    most: int | None
    stage: Stage
    dialects: tuple[str, ...]
    handler: Handler


BUILTINS: Final[dict[str, Entry]] = {}
REFUSED: Final[dict[str, tuple[str, str]]] = {}
"""Documented names that there is no builtin for: what is wrong with using one, and what to write instead."""
PLACES: Final[dict[str, PlaceHandler]] = {}
"""Builtins that can also be assigned to, such as @field."""


def builtin(
    name: str,
    least: int,
    most: int | None = -1,
    *,
    stage: Stage = "any",
    dialects: tuple[str, ...] = ("1.4", "2.10"),
) -> Callable[[Handler], Handler]:
    """Registers what `@name` does with `least` to `most` arguments (`most` None: any number; left out: exactly `least`)."""

    def register(handler: Handler) -> Handler:
        assert name not in BUILTINS, name
        BUILTINS[name] = Entry(name, least, least if most == -1 else most, stage, dialects, handler)
        return handler

    return register


def builtin_place(name: str) -> Callable[[PlaceHandler], PlaceHandler]:
    """Registers what `@name(...)` stands for where a place is needed: left of `=`, behind `&`."""

    def register(handler: PlaceHandler) -> PlaceHandler:
        PLACES[name] = handler
        return handler

    return register


class Call:
    """One use of a builtin, and all that it may ask of the engine. Arguments are counted from 0.

    Arguments are evaluated when asked for, each at most once; errors raise, so that nothing needs to be checked twice.
    """

    __slots__ = ("_values", "arguments", "engine", "expected", "name", "span")

    def __init__(self, engine: Engine, node: ast.Builtin, expected: Type | None) -> None:
        self.engine = engine
        self.span: Span = node.span
        self.name = node.name
        self.arguments: tuple[ast.Expression, ...] = node.arguments
        self.expected = expected
        """The type that the surrounding code asks for, if it does: `const x: u16 = @builtin(...)`."""
        self._values: dict[int, Value] = {}

    def __len__(self) -> int:
        return len(self.arguments)

    # --- arguments ---

    def value(self, index: int, expected: Type | None = None) -> Value:
        """The argument's value; `expected` is only asked for, use `coerced` to insist."""
        found = self._values.get(index)
        if found is None:
            found = self._values[index] = self.engine.evaluate(self.arguments[index], expected)
        return found

    def coerced(self, index: int, type: Type) -> Value:
        """The argument converted to `type` as an assignment would do it."""
        return self.engine.coerce(self.value(index, type), type, self.arguments[index].span)

    def known(self, index: int, what: str, type: Type | None = None) -> Value:
        """The argument, which must be comptime-known (and of type `type`); `what` says in messages what it is."""
        value = self.value(index, type) if type is None else self.coerced(index, type)
        return self.engine.require_known(value, self.arguments[index].span, what)

    def type(self, index: int, what: str = "a type") -> Type:
        """The argument, which must be a type."""
        return self.engine.type_of(self.arguments[index], what)

    def integer(self, index: int, what: str, low: int | None = None, high: int | None = None) -> int:
        """The argument, which must be a comptime-known integer of any integer type, within `low` to `high`."""
        value = self.known(index, what)
        if not t.is_integer(value.type):
            self.error(self.arguments[index].span, what, expected="an integer", found=f"`{value.type}`")
        return self.engine.require_within(int(value.data), self.arguments[index].span, what, low, high)

    def string(self, index: int, what: str = "a string") -> bytes:
        """The argument, which must be a comptime_string."""
        data: bytes = self.known(index, what, t.COMPTIME_STRING).data
        return data

    def text(self, index: int, what: str = "a string") -> str:
        """The same as text."""
        return self.string(index, what).decode("utf-8", "replace")

    def fields(self, index: int, what: str, names: tuple[str, ...] | None = None) -> dict[str, Value]:
        """The fields of a struct `.{ .name = value }`, in its order; with `names` no other fields may be there.

        Fields that only running code has are allowed; `.{}` gives an empty dictionary.
        """
        found = self.engine.struct_fields(self.value(index), self.arguments[index].span, what)
        for name in found:
            if names is not None and name not in names:
                hint = self.engine.similar(name, names) or f"there are {', '.join(names)}"
                self.error(self.field_span(index, name), f"{what} has no field `{name}`", hint=hint)
        return found

    def field_span(self, index: int, name: str) -> Span:
        """Where the value of a field is written; the whole argument, where it is no literal."""
        node = self.arguments[index]
        if isinstance(node, ast.Aggregate):
            for entry in node.entries:
                if isinstance(entry, ast.FieldValue) and entry.name == name:
                    return entry.value.span
        return node.span

    def place(self, index: int) -> Place:
        """The argument as a place: what it names, not its value."""
        return self.engine.place(self.arguments[index])

    def function(self, index: int, what: str) -> FunctionValue:
        """The argument, which must be a function or a task."""
        value = self.known(index, what)
        if not isinstance(value.data, FunctionValue):
            self.error(
                self.arguments[index].span, what, expected="a function or task", found=f"`{value.type}`"
            )
        return value.data

    def span_of(self, index: int) -> Span:
        """Where an argument is written."""
        return self.arguments[index].span

    @contextmanager
    def names(self, bound: dict[str, Value]) -> Iterator[None]:
        """Within it, names have these values: how the indices of `|i, j|{N, M} -> a[i, j]` are tried out."""
        with self.engine.bound_names(bound):
            yield

    # --- errors ---

    def error(
        self,
        span: Span | None,
        message: str = "",
        *,
        expected: str = "",
        found: str = "",
        hint: str = "",
    ) -> NoReturn:
        """Reports an error and leaves the statement. `span` None: the whole call."""
        self.engine.fail(span or self.span, message, expected=expected, found=found, hint=hint)

    def warn(self, message: str, span: Span | None = None) -> None:
        """Reports something that is only suspicious."""
        self.engine.warn(span or self.span, message)

    # --- where the call stands ---

    @property
    def comptime(self) -> bool:
        """Whether this code runs in the compiler; else it becomes code of the PE."""
        return self.engine.frame.comptime

    @property
    def in_library(self) -> bool:
        """Whether the file is one of csl/library."""
        return self.engine.frame.module.file.library

    @property
    def architecture(self) -> Literal["wse2", "wse3"]:
        """The target."""
        return self.engine.options.architecture

    @property
    def dialect(self) -> str:
        """`1.4` or `2.10`."""
        return self.engine.options.dialect

    @property
    def unit(self) -> ir.Unit:
        """The PE program that is being made; a layout has one that nobody uses."""
        return self.engine.unit

    # --- code ---

    @property
    def location(self) -> int:
        """The location of the call, for instructions."""
        return self.engine.location(self.span)

    def result(self) -> int:
        """The number of a new temporary."""
        return self.engine.builder(self.span, f"@{self.name}").number()

    def emit(self, instruction: ir.Instruction) -> ir.Temporary:
        """Adds an instruction behind those of the code so far; gives its result, which is nonsense if it has none.

        An error if this code runs at comptime.
        """
        self.engine.builder(self.span, f"@{self.name}").emit(instruction)
        return ir.Temporary(getattr(instruction, "result", None) or 0)

    def machine(self, name: str, *operands: ir.Operand, type: Type | None = None) -> Value:
        """Emits a machine operation (`ir._machine.MACHINE`); its result as a value of `type`, NOTHING without a type."""
        result = None if type is None else self.result()
        temporary = self.emit(ir.Machine(result, name, operands, self.location))
        return v.NOTHING if type is None else v.code(type, temporary)

    def operand(self, value: Value) -> ir.Operand:
        """A scalar, pointer or DSD as an operand; of an array or struct the address, after it was put into memory."""
        return self.engine.operand(value, self.span)

    def load(self, place: Place) -> Value:
        """What a place holds."""
        return self.engine.load(place, self.span)

    def store(self, place: Place, value: Value) -> None:
        """Puts a value, converted to the place's type as an assignment does it, into a place."""
        self.engine.store(place, value, self.span)

    def address(self, place: Place) -> Value:
        """`&place`; known for a variable of the program."""
        return self.engine.address(place, self.span)

    def convert(self, value: Value, type: Type) -> Value:
        """`@as(type, value)`."""
        return self.engine.convert(value, type, self.span)

    def bitcast(self, value: Value, type: Type) -> Value:
        """`@bitcast(type, value)`."""
        return self.engine.bitcast(value, type, self.span)

    def code_of(self, function: FunctionValue) -> Compiled:
        """The PE-IR function of a function or task that is not generic: `.name` in PE-IR, `.type` its FunctionType.

        It is compiled before the program is done, once however often it is asked for.
        """
        return self.engine.compiled(function, self.span)

    def call(self, function: FunctionValue, arguments: list[Value]) -> Value:
        """Calls a function with values."""
        return self.engine.call(function, arguments, self.span, [self.span] * len(arguments))
