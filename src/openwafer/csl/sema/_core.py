"""What every part of the engine uses: options, diagnostics, the frame, and the names of the other parts."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, NoReturn

from openwafer.csl._diagnostics import Diagnostic, Note
from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema._builder import Builder
from openwafer.csl.sema._facts import ExportedName, LayoutFacts, Resources
from openwafer.csl.sema._module import Files, Global, ModuleInstance
from openwafer.csl.sema._scope import Arrival, Failure, Frame, Scope
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Compiled, FunctionValue, Place, Value, show
from openwafer.csl.syntax import Dialect, ast

MAX_CALLS = 256  # nested calls at comptime; a recursion that is deeper than this hardly ends
MAX_INLINED_ITERATIONS = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What the command line decides for all files of a compilation."""

    architecture: Literal["wse2", "wse3"] = "wse3"
    dialect: Dialect = "1.4"
    half: Literal["f16", "bf16", "cb16"] = "f16"
    max_inlined_iterations: int = MAX_INLINED_ITERATIONS
    """Of one loop that runs at comptime."""
    exports: Mapping[str, ExportedName] | None = None
    """What the layout exports; None: there is no layout to hold a program's exports against."""
    rectangle: tuple[int, int] | None = None
    fabric: tuple[int, int] | None = None
    """Width and height; None: not known yet."""
    offset: tuple[int, int] = (0, 0)
    place: tuple[int, int] | None = None
    """The tile that the program is made for; one that never asks for it at comptime holds for every tile."""


class Core:
    """The engine's state. `frame` is where it stands."""

    frame: Frame

    def __init__(self, options: Options, files: Files, name: str) -> None:
        self.options = options
        self.files = files
        self.unit = ir.Unit(name, options.architecture, options.half)
        self.half = t.HALVES[options.half]
        self.diagnostics: list[Diagnostic] = []
        self.warnings: list[Diagnostic] = []
        self.printed: list[tuple[Span, str]] = []
        """What @comptime_print showed."""
        self.layout: LayoutFacts | None = None
        """What the builtins of a layout block collect, while there is one."""
        self.resources = Resources()
        """What builtins bound, initialised and exported for the program."""
        self.modules: list[ModuleInstance] = []
        self.initial: dict[str, Value] = {}
        """What symbols hold at first."""
        self._told: set[tuple[Span, str]] = set()
        self._context: list[tuple[Span, str]] = []
        self._locations: dict[tuple[int, int], int] = {}
        self.calls = 0

    # --- the other parts ---

    @abstractmethod
    def evaluate(
        self, node: ast.Expression | ast.Assign | ast.While | ast.For, expected: Type | None = None
    ) -> Value:
        """The value of an expression; `expected` is what the code around it asks for."""

    @abstractmethod
    def execute(self, node: ast.Statement) -> None:
        """Does a statement."""

    @abstractmethod
    def place(self, node: ast.Expression) -> Place:
        """What an expression names."""

    @abstractmethod
    def type_of(self, node: ast.Expression, what: str = "a type") -> Type:
        """The type that an expression is."""

    @abstractmethod
    def coerce(self, value: Value, type: Type, span: Span, what: str = "") -> Value:
        """The value as an assignment to a variable of `type` has it; an error if that needs @as."""

    @abstractmethod
    def load(self, place: Place, span: Span) -> Value:
        """What a place holds."""

    @abstractmethod
    def store(self, place: Place, value: Value, span: Span) -> None:
        """Puts a value into a place."""

    @abstractmethod
    def address(self, place: Place, span: Span) -> Value:
        """A pointer to a place."""

    @abstractmethod
    def operand(self, value: Value, span: Span) -> ir.Operand:
        """A value for PE-IR; the address of an array or struct."""

    @abstractmethod
    def merge(self, arrivals: list[Arrival], expected: Type | None, span: Span) -> Value:
        """Where several ways of running code come together."""

    @abstractmethod
    def call(self, function: FunctionValue, arguments: list[Value], span: Span, spans: list[Span]) -> Value:
        """Calls a function."""

    @abstractmethod
    def compiled(self, function: FunctionValue, span: Span) -> Compiled:
        """The PE-IR function of a function that is not generic."""

    @abstractmethod
    def global_value(self, one: Global, span: Span) -> Value:
        """The value of a const, param or function; an error for a var."""

    @abstractmethod
    def global_place(self, one: Global, span: Span) -> Place:
        """What a global's name stands for."""

    # --- errors ---

    def fail(
        self,
        span: Span,
        message: str = "",
        *,
        expected: str = "",
        found: str = "",
        hint: str = "",
        notes: Iterable[Note] = (),
    ) -> NoReturn:
        """Records an error and leaves the statement."""
        self.report(span, message, expected=expected, found=found, hint=hint, notes=notes)
        raise Failure

    def report(
        self,
        span: Span,
        message: str = "",
        *,
        expected: str = "",
        found: str = "",
        hint: str = "",
        notes: Iterable[Note] = (),
    ) -> None:
        """Records an error, once for each place and text, with the calls and imports that led there."""
        ways = list(dict.fromkeys(reversed(self._context)))  # a recursion is told once
        context = [Note(at, text) for at, text in ways[:6]]
        one = Diagnostic(
            span=span, message=message, expected=expected, found=found, hint=hint, notes=(*notes, *context)
        )
        if (span, one.headline) not in self._told:
            self._told.add((span, one.headline))
            self.diagnostics.append(one)

    def warn(self, span: Span, message: str) -> None:
        """Records something suspicious, once."""
        if (span, message) not in self._told:
            self._told.add((span, message))
            self.warnings.append(Diagnostic(span=span, message=message))

    @contextmanager
    def context(self, span: Span, text: str) -> Iterator[None]:
        """Within it, errors carry a note."""
        self._context.append((span, text))
        try:
            yield
        finally:
            self._context.pop()

    def similar(self, name: str, names: Iterable[str]) -> str:
        """A hint that names what was probably meant."""
        close = difflib.get_close_matches(name, names, 1)
        return f"did you mean `{close[0]}`?" if close else ""

    # --- checks ---

    def comptime_only(self, type: Type) -> bool:
        """Whether running code cannot have such values: also the 16-bit floats that --fp16-format did not choose."""
        if type.comptime_only:
            return True
        if isinstance(type, t.Array):
            type = type.element
        return type in (t.F16, t.BF16, t.CB16) and type is not self.half

    def require_known(self, value: Value, span: Span, what: str) -> Value:
        """The value itself; an error if only running code has it."""
        if not value.known:
            self.fail(
                span,
                f"{what or 'this'} must be known at compile time",
                hint="use a const, a param or a comptime var",
            )
        return value

    def require_within(self, value: int, span: Span, what: str, low: int | None, high: int | None) -> int:
        """The number itself; an error if it is out of range."""
        if (low is not None and value < low) or (high is not None and value > high):
            allowed = (
                f"at least {low}"
                if high is None
                else f"at most {high}"
                if low is None
                else f"{low} to {high}"
            )
            self.fail(span, f"{what} is out of range: {value}", hint=f"use {allowed}")
        return value

    def struct_fields(
        self, value: Value, span: Span, what: str, names: tuple[str, ...] | None = None
    ) -> dict[str, Value]:
        """The fields of a struct with names, each by its name."""
        type = value.type
        if not isinstance(type, t.Record) or (type.names is None and type.types):
            self.fail(span, what, expected="a struct `.{ .name = value }`", found=f"`{type}`")
        found = self.parts(value, span)
        for name in found:
            if names is not None and name not in names:
                hint = self.similar(name, names) or f"there are {', '.join(names)}"
                self.fail(span, f"{what} has no field `{name}`", hint=hint)
        return found

    @abstractmethod
    def parts(self, value: Value, span: Span) -> dict[str, Value]:
        """The fields of a struct by name or number, loaded if it lies in memory."""

    # --- where it stands ---

    def location(self, span: Span) -> int:
        """The index of a place of the text in the unit's locations."""
        key = (id(span.source), span.start)
        found = self._locations.get(key)
        if found is None:
            line, column = span.source.position(span.start)
            self.unit.locations.append((span.source.name, line, column))
            found = self._locations[key] = len(self.unit.locations) - 1
        return found

    def builder(self, span: Span, what: str = "this") -> Builder:
        """The function that code goes to; an error where the compiler itself executes."""
        frame = self.frame
        if frame.comptime or frame.builder is None:
            self.fail(
                span,
                f"{what} runs on the PE, but here the compiler evaluates",
                hint="move it into a function or task, outside of comptime",
            )
        return frame.builder

    @contextmanager
    def within(self, frame: Frame) -> Iterator[None]:
        """Stands in another frame for a while."""
        outer = getattr(self, "frame", None)
        self.frame = frame
        try:
            yield
        finally:
            if outer is not None:
                self.frame = outer

    @contextmanager
    def scoped(self) -> Iterator[Scope]:
        """A block's names."""
        frame = self.frame
        outer = frame.scope
        frame.scope = Scope(outer)
        try:
            yield frame.scope
        finally:
            frame.scope = outer

    @contextmanager
    def bound_names(self, bound: dict[str, Value]) -> Iterator[None]:
        """Names that have values for a while."""
        with self.scoped() as scope:
            scope.names.update(bound)
            yield

    @contextmanager
    def controlled(self) -> Iterator[None]:
        """A branch or loop of running code: comptime variables from outside keep their values in it."""
        frame = self.frame
        outer = frame.control
        frame.control = object()
        try:
            yield
        finally:
            frame.control = outer

    @contextmanager
    def at_comptime(self) -> Iterator[None]:
        """The compiler itself executes."""
        frame = self.frame
        outer = frame.comptime
        frame.comptime = True
        try:
            yield
        finally:
            frame.comptime = outer

    def dead(self) -> bool:
        """Whether control cannot get here."""
        frame = self.frame
        return not frame.comptime and frame.builder is not None and frame.builder.block is None

    def describe(self, value: Value) -> str:
        """A value in a message: its type, and what it is if that helps."""
        if value.known and t.is_numeric(value.type):
            return f"`{value.type}` {show(value)}"
        return f"`{value.type}`"
