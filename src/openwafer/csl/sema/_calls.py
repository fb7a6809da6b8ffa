"""Calls: what a function is for its arguments, and functions that the compiler executes or inlines."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

from openwafer.csl._source import Span
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._core import MAX_CALLS
from openwafer.csl.sema._scope import (
    Frame,
    Returning,
    Target,
)
from openwafer.csl.sema._statements import Statements
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Compiled, FunctionValue, Value
from openwafer.csl.sema._walk import depends, taken
from openwafer.csl.syntax import ast


@dataclass(frozen=True, slots=True)
class Signature:
    """What a call of a function needs to know: of one that is not generic, once for all calls."""

    parameters: tuple[Type, ...]
    result: Type
    known: tuple[bool, ...]
    """Which parameters are known as it compiles."""
    comptime: bool
    """Its values are never in memory, so that only the compiler can call it."""


class Calls(Statements):
    """Calls of functions."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.signatures: dict[FunctionValue, Signature] = {}
        self._taken: dict[int, frozenset[str]] = {}
        self._signing: set[FunctionValue] = set()

    @abstractmethod
    def instance(
        self, function: FunctionValue, arguments: list[Value], signature: Signature, span: Span
    ) -> Compiled:
        """The PE-IR function for a choice of what is known."""

    @abstractmethod
    def invoke(
        self, compiled: Compiled, arguments: list[Value], signature: Signature, span: Span, spans: list[Span]
    ) -> Value:
        """The code of a call."""

    @abstractmethod
    def call_pointer(
        self, callee: Value, type: t.FunctionType, arguments: list[Value], node: ast.Call
    ) -> Value:
        """The code of a call through a pointer."""

    @abstractmethod
    def no_value(self, function: FunctionValue, result: Type) -> None:
        """An error: a function can end without its result."""

    def taken(self, body: ast.Block) -> frozenset[str]:
        """The names of which a function's body takes the address."""
        found = self._taken.get(id(body))
        if found is None:
            found = self._taken[id(body)] = taken(body)
        return found

    # --- calls ---

    def call_expression(self, node: ast.Call, expected: Type | None) -> Value:
        """`f(a, b)`."""
        callee = self.evaluate(node.function)
        spans = [one.span for one in node.arguments]
        if isinstance(callee.data, FunctionValue) and callee.known:
            wanted = self._wanted(callee.data)
            arguments = []
            for at, one in enumerate(node.arguments):
                arguments.append(self.evaluate(one, wanted[at] if at < len(wanted) else None))
                if self.dead():
                    return v.NOTHING
            return self.call(callee.data, arguments, node.span, spans)
        type = callee.type
        if isinstance(type, t.Pointer) and isinstance(type.target, t.FunctionType):
            return self.call_pointer(
                callee, type.target, [self.evaluate(one) for one in node.arguments], node
            )
        named = callee.data if type is t.TYPE and callee.known else None
        hint = (
            f"convert a value with `@as({named}, ...)`" if named is not None and t.is_numeric(named) else ""
        )
        self.fail(node.function.span, "a call", expected="a function", found=f"`{type}`", hint=hint)

    def _wanted(self, function: FunctionValue) -> tuple[Type | None, ...]:
        found = self.signatures.get(function)
        return () if found is None else found.parameters

    def call(self, function: FunctionValue, arguments: list[Value], span: Span, spans: list[Span]) -> Value:
        """Calls a function with values."""
        declaration = function.declaration
        if declaration.kind == "task":
            hint = "tasks are started by @activate or by wavelets; put the code into a `fn` that both use"
            self.fail(span, f"the task `{declaration.name}` cannot be called", hint=hint)
        if len(arguments) != len(declaration.parameters):
            count = len(declaration.parameters)
            wanted = f"{count} argument{'s' * (count != 1)}"
            self.fail(span, f"`{declaration.name}`", expected=wanted, found=str(len(arguments)))
        if self.frame.comptime:
            return self._call_comptime(function, arguments, span, spans)
        signature = self.signatures.get(function) or self.signature(function)
        if self.calls >= MAX_CALLS:
            self.fail(span, f"calls nest more than {MAX_CALLS} deep at compile time here")
        if signature is not None:
            pairs = zip(arguments, signature.parameters, spans, declaration.parameters, strict=True)
            arguments = [self.coerce(one, type, at, parameter_name(p)) for one, type, at, p in pairs]
        else:
            self.calls += 1
            try:
                arguments, signature = self._specialised(function, arguments, spans)
            finally:
                self.calls -= 1
        if signature.comptime:
            what = f"`{declaration.name}` has a parameter or result that exists only at compile time, so this"
            for one, at in zip(arguments, spans, strict=True):
                self.require_known(one, at, what)
            with self.at_comptime():
                return self._call_comptime(function, arguments, span, spans)
        # A range has no memory, so its parts cannot be passed: the body is compiled where they are known by name.
        ranges = any(isinstance(one.type, t.Range) and not one.known for one in arguments)
        if declaration.inline == "inline" or ranges or isinstance(signature.result, t.Range):
            return self._inlined(function, arguments, signature, span, spans)
        return self.invoke(
            self.instance(function, arguments, signature, span), arguments, signature, span, spans
        )

    def signature(self, function: FunctionValue) -> Signature | None:
        """The signature of a function that is not generic."""
        declaration = function.declaration
        if any(one.comptime or one.type is None for one in declaration.parameters) or depends(declaration):
            return None
        if function in self._signing:
            self.fail(declaration.span, f"the type of `{declaration.name}` depends on itself")
        self._check_names(declaration)
        self._signing.add(function)
        try:
            signature = self._typed(function)
        finally:
            self._signing.discard(function)
        self.signatures[function] = signature
        return signature

    def _check_names(self, declaration: ast.Function) -> None:
        names = [one.name for one in declaration.parameters if one.name is not None]
        for at, one in enumerate(declaration.parameters):
            if one.name is not None and one.name in names[:at]:
                self.fail(one.span, f"`{declaration.name}` has two parameters `{one.name}`")

    def _typed(self, function: FunctionValue) -> Signature:
        declaration = function.declaration
        with self.within(Frame(function.module)):
            parameters = tuple(
                [self.type_of(one.type) for one in declaration.parameters if one.type is not None]
            )
            result = self.type_of(declaration.result, "the type of the result")
        only = any(map(self.comptime_only, (*parameters, result)))
        return Signature(parameters, result, (False,) * len(parameters), only)

    def _specialised(
        self, function: FunctionValue, arguments: list[Value], spans: list[Span]
    ) -> tuple[list[Value], Signature]:
        """The arguments as a generic function takes them, and what it is for them."""
        self._check_names(function.declaration)
        found: list[Value] = []
        types: list[Type] = []
        known: list[bool] = []
        frame = Frame(function.module)
        for parameter, value, at in zip(function.declaration.parameters, arguments, spans, strict=True):
            if parameter.type is not None:
                with self.within(frame):
                    type = self.type_of(parameter.type)
                value = self.coerce(value, type, at, parameter_name(parameter))
            else:
                type = value.type
            fixed = (
                parameter.comptime
                or (parameter.type is None and self.comptime_only(type))
                or (isinstance(type, t.Range) and value.known)
            )
            if fixed:
                self.require_known(value, at, parameter_name(parameter))
            found.append(value)
            types.append(type)
            known.append(fixed)
            frame.scope.names[parameter.name or ""] = value
        with self.within(frame):
            result = self.type_of(function.declaration.result, "the type of the result")
        kept = [type for type, fixed in zip(types, known, strict=True) if not fixed]
        only = any(map(self.comptime_only, (*kept, result)))
        return found, Signature(tuple(types), result, tuple(known), only)

    # --- at comptime ---

    def _call_comptime(
        self, function: FunctionValue, arguments: list[Value], span: Span, spans: list[Span]
    ) -> Value:
        declaration = function.declaration
        if declaration.body is None:
            self.fail(span, f"the extern function `{declaration.name}` cannot be called at compile time")
        if self.calls >= MAX_CALLS:
            self.fail(span, f"`{declaration.name}` calls itself more than {MAX_CALLS} times at compile time")
        frame = Frame(function.module, name=declaration.name)
        names = frame.scope.names
        signature = self.signatures.get(function) or self.signature(function)
        pairs = zip(declaration.parameters, arguments, spans, strict=True)
        for at, (parameter, value, where) in enumerate(pairs):
            self.require_known(value, where, f"at compile time {parameter_name(parameter)}")
            if signature is not None:
                value = self.coerce(value, signature.parameters[at], where, parameter_name(parameter))
            elif parameter.type is not None:
                self.calls += 1
                try:
                    with self.within(frame):
                        type = self.type_of(parameter.type)
                finally:
                    self.calls -= 1
                value = self.coerce(value, type, where, parameter_name(parameter))
            names[parameter.name or ""] = value
        self.calls += 1
        try:
            with self.context(span, f"`{declaration.name}` is called here"), self.within(frame):
                frame.result = self.type_of(declaration.result) if signature is None else signature.result
                try:
                    self.evaluate(declaration.body)
                except Returning as found:
                    return found.value
        except RecursionError:
            self.fail(span, f"`{declaration.name}` nests too deeply at compile time")
        finally:
            self.calls -= 1
        if frame.result is not t.VOID:
            self.fail(
                declaration.span,
                f"`{declaration.name}` ends without a value",
                expected=f"`{frame.result}`",
                found="no `return`",
            )
        return v.NOTHING

    # --- inlined ---

    def _inlined(
        self,
        function: FunctionValue,
        arguments: list[Value],
        signature: Signature,
        span: Span,
        spans: list[Span],
    ) -> Value:
        declaration = function.declaration
        if self.calls >= MAX_CALLS:
            self.fail(span, f"`{declaration.name}` is inlined into itself more than {MAX_CALLS} times")
        assert declaration.body is not None
        outer = self.frame
        frame = Frame(
            function.module, builder=outer.builder, result=signature.result, taken=self.taken(declaration.body),
            name=declaration.name,
        )  # fmt: skip
        frame.control = outer.control
        for parameter, value in zip(declaration.parameters, arguments, strict=True):
            frame.scope.names[parameter.name or ""] = value
        frame.returns = Target(None, False, False, signature.result)
        target = frame.returns
        self.calls += 1
        try:
            with self.context(span, f"`{declaration.name}` is inlined here"), self.within(frame):
                self.evaluate(declaration.body)
                if not self.dead():
                    if signature.result is not t.VOID:
                        self.no_value(function, signature.result)
                    target.breaks.append(self.arrival(v.NOTHING, span))
                return self.merge(target.breaks, signature.result, span)
        finally:
            self.calls -= 1


def parameter_name(parameter: ast.Parameter) -> str:
    return f"parameter `{parameter.name}`" if parameter.name else "a parameter"
