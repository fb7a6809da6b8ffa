"""Functions: how they are called, specialised, inlined, executed by the compiler, and become PE-IR."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builder import Builder
from openwafer.csl.sema._core import MAX_CALLS
from openwafer.csl.sema._scope import (
    AddressVariable,
    Binding,
    Failure,
    Frame,
    Returning,
    Scope,
    StackVariable,
    Target,
)
from openwafer.csl.sema._statements import Statements
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Compiled, FunctionValue, LocalPlace, Reference, Value
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


@dataclass(slots=True)
class Pending:
    """A function whose body is still to be compiled."""

    compiled: Compiled
    function: FunctionValue
    bound: dict[str, Value]
    context: tuple[tuple[Span, str], ...]


class Functions(Statements):
    """Calls and bodies."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._signatures: dict[FunctionValue, Signature] = {}
        self._compiled: dict[tuple[Any, ...], Compiled] = {}
        self._names: set[str] = set()
        self._pending: list[Pending] = []
        self._numbers: dict[str, int] = {}
        self._pointed: list[Compiled] = []
        self._dispatchers: dict[t.FunctionType, str] = {}
        self._externs: dict[str, Span] = {}
        self._taken: dict[int, frozenset[str]] = {}
        self._signing: set[FunctionValue] = set()

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
            return self._call_pointer(
                callee, type.target, [self.evaluate(one) for one in node.arguments], node
            )
        self.fail(node.function.span, "a call", expected="a function", found=f"`{type}`")

    def _wanted(self, function: FunctionValue) -> tuple[Type | None, ...]:
        found = self._signatures.get(function)
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
        signature = self._signatures.get(function) or self._signature(function)
        if self.calls >= MAX_CALLS:
            self.fail(span, f"calls nest more than {MAX_CALLS} deep at compile time here")
        if signature is not None:
            pairs = zip(arguments, signature.parameters, spans, declaration.parameters, strict=True)
            arguments = [self.coerce(one, type, at, _parameter(p)) for one, type, at, p in pairs]
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
        if declaration.inline == "inline":
            return self._inlined(function, arguments, signature, span, spans)
        return self._invoke(
            self._instance(function, arguments, signature, span), arguments, signature, span, spans
        )

    def _signature(self, function: FunctionValue) -> Signature | None:
        """The signature of a function that is not generic."""
        declaration = function.declaration
        if any(one.comptime or one.type is None for one in declaration.parameters) or _depends(declaration):
            return None
        if function in self._signing:
            self.fail(declaration.span, f"the type of `{declaration.name}` depends on itself")
        self._check_names(declaration)
        self._signing.add(function)
        try:
            signature = self._typed(function)
        finally:
            self._signing.discard(function)
        self._signatures[function] = signature
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
                value = self.coerce(value, type, at, _parameter(parameter))
            else:
                type = value.type
            fixed = parameter.comptime or (parameter.type is None and self.comptime_only(type))
            if fixed:
                self.require_known(value, at, _parameter(parameter))
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
        signature = self._signatures.get(function) or self._signature(function)
        pairs = zip(declaration.parameters, arguments, spans, strict=True)
        for at, (parameter, value, where) in enumerate(pairs):
            self.require_known(value, where, f"at compile time {_parameter(parameter)}")
            if signature is not None:
                value = self.coerce(value, signature.parameters[at], where, _parameter(parameter))
            elif parameter.type is not None:
                self.calls += 1
                try:
                    with self.within(frame):
                        type = self.type_of(parameter.type)
                finally:
                    self.calls -= 1
                value = self.coerce(value, type, where, _parameter(parameter))
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
                        self._no_value(function, signature.result)
                    target.breaks.append(self.arrival(v.NOTHING, span))
                return self.merge(target.breaks, signature.result, span)
        finally:
            self.calls -= 1

    # --- code ---

    def _instance(
        self, function: FunctionValue, arguments: list[Value], signature: Signature, span: Span
    ) -> Compiled:
        fixed = {
            parameter.name or "": value
            for parameter, value, known in zip(
                function.declaration.parameters, arguments, signature.known, strict=True
            )
            if known
        }
        key = (function, *(key_of(one) for one in fixed.values()), *signature.parameters)
        found = self._compiled.get(key)
        if found is None:
            found = self._compiled[key] = self._new(function, fixed, signature, span)
        return found

    def _new(
        self, function: FunctionValue, fixed: dict[str, Value], signature: Signature, span: Span
    ) -> Compiled:
        declaration = function.declaration
        exported = self.linkname(declaration, function) or (declaration.name if declaration.storage else "")
        name = exported or function.module.prefix + declaration.name
        kept = [one for one, known in zip(signature.parameters, signature.known, strict=True) if not known]
        type = t.function(declaration.kind, kept, signature.result)
        if declaration.storage == "extern":
            self._externs.setdefault(name, declaration.span)
            return Compiled(name, type, name)
        if exported and name in self._names:
            self.fail(
                declaration.span, f"two functions are exported as `{name}`", hint="give one a `linkname`"
            )
        unique, count = name, 0
        while unique in self._names:
            count += 1
            unique = f"{name}.{count}"
        self._names.add(unique)
        compiled = Compiled(unique, type, exported)
        context = ((span, f"`{declaration.name}` is called here"),) if fixed or _generic(declaration) else ()
        self._pending.append(Pending(compiled, function, fixed, context))
        return compiled

    def linkname(
        self, declaration: ast.Function | ast.Variable, function: FunctionValue | None = None
    ) -> str:
        """The name that `linkname(...)` gives, empty without it."""
        for attribute in declaration.attributes:
            if attribute.name == "linkname":
                frame = self.frame if function is None else Frame(function.module)
                with self.within(frame):
                    value = self.coerce(
                        self.evaluate(attribute.value), t.COMPTIME_STRING, attribute.value.span
                    )
                text: bytes = self.require_known(value, attribute.value.span, "the linkname").data
                return text.decode("utf-8", "replace")
        return ""

    def compiled(self, function: FunctionValue, span: Span) -> Compiled:
        """The PE-IR function of a function that is not generic."""
        signature = self._signatures.get(function) or self._signature(function)
        name = function.declaration.name
        if signature is None:
            self.fail(span, f"`{name}` is generic, so it cannot be used without a call")
        if signature.comptime:
            self.fail(span, f"`{name}` has a parameter or result that exists only at compile time")
        if function.declaration.inline == "inline":
            self.fail(span, f"`{name}` is inline, so it has no code of its own", hint="remove `inline`")
        return self._instance(function, [v.NOTHING] * len(signature.parameters), signature, span)

    def _invoke(
        self, compiled: Compiled, arguments: list[Value], signature: Signature, span: Span, spans: list[Span]
    ) -> Value:
        operands = [
            self.operand(one, at)
            for one, at, known in zip(arguments, spans, signature.known, strict=True)
            if not known and one.type is not t.VOID
        ]
        return self.emit_call(compiled.name, operands, signature.result, span)

    def emit_call(self, name: str, operands: list[ir.Operand], result: Type, span: Span) -> Value:
        """The code of a call; arrays and structs come back in memory of the caller."""
        builder, location = self.builder(span), self.location(span)
        if t.is_aggregate(result):
            place = self.in_frame(result, "result", span)
            builder.emit(ir.Invoke(None, name, (place.address, *operands), location))
            return v.code(result, place.address)
        if result is t.VOID:
            builder.emit(ir.Invoke(None, name, tuple(operands), location))
            return v.NOTHING
        number = builder.number()
        builder.emit(ir.Invoke(number, name, tuple(operands), location))
        return v.code(result, ir.Temporary(number))

    # --- function pointers ---

    def _call_pointer(
        self, callee: Value, type: t.FunctionType, arguments: list[Value], node: ast.Call
    ) -> Value:
        spans = [one.span for one in node.arguments]
        if type.kind == "task":
            self.fail(node.span, "a task cannot be called")
        if len(arguments) != len(type.parameters):
            self.fail(
                node.span,
                "the function",
                expected=f"{len(type.parameters)} arguments",
                found=str(len(arguments)),
            )
        if type.result is None or t.is_aggregate(type.result):
            self.fail(
                node.span,
                "a function that is called through a pointer cannot give an array or struct",
                hint="pass a pointer to where the result goes",
            )
        wanted = [one for one in type.parameters if one is not None]
        pairs = zip(arguments, wanted, spans, strict=True)
        operands = [self.operand(self.coerce(one, want, at), at) for one, want, at in pairs]
        name = self._dispatchers.setdefault(type, f"call {type}")
        return self.emit_call(name, [self.operand(callee, node.span), *operands], type.result, node.span)

    def function_number(self, function: FunctionValue, span: Span) -> int:
        """What stands for a function in memory: from 1, in the order in which addresses were taken."""
        compiled = self.compiled(function, span)
        number = self._numbers.get(compiled.name)
        if number is None:
            self._pointed.append(compiled)
            number = self._numbers[compiled.name] = len(self._pointed)
        return number

    def _dispatcher(self, type: t.FunctionType, name: str) -> ir.Function:
        """Calls the function that a number stands for."""
        builder = Builder(name)
        code = _result_code(type.result)
        codes: list[ir.Type] = ["ptr", *_parameter_codes(type)]
        for at, one_code in enumerate(codes):
            builder.parameters.append(builder.local(f"a{at}", one_code))
        numbers = [builder.number() for _ in builder.parameters]
        entry = builder.block
        assert entry is not None
        builder.emit(ir.Get(numbers[0], "a0"))
        which = builder.number()
        builder.emit(ir.Bitcast(which, "ptr", "u16", ir.Temporary(numbers[0])))
        cases = []
        for one in self._pointed:
            if one.type is not type:
                continue
            builder.block = builder.new_block()
            cases.append((self._numbers[one.name], builder.index(builder.block)))
            operands = []
            for local in builder.parameters[1:]:
                operands.append(ir.Temporary(builder.number()))
                builder.emit(ir.Get(operands[-1].number, local))
            result = None if code == "void" else builder.number()
            builder.emit(ir.Invoke(result, one.name, tuple(operands)))
            builder.end(ir.Return(None if result is None else ir.Temporary(result)))
        wrong = builder.new_block()
        wrong.terminator = ir.Halt("unreachable")
        builder.block = entry
        builder.end(ir.Choose("u16", ir.Temporary(which), tuple(cases), builder.index(wrong)))
        return builder.finish(code)

    # --- bodies ---

    def pending(self) -> bool:
        """Whether something was asked for that is not made yet."""
        return bool(self._pending)

    def compile_bodies(self) -> None:
        """Compiles all functions that were asked for by now, and those that they call."""
        while self._pending:
            one = self._pending.pop(0)
            self._context.extend(one.context)
            try:
                self.unit.functions[one.compiled.name] = self._body_of(one)
            except Failure:
                pass
            except RecursionError:
                self._too_deep(one.function.declaration.span)
            finally:
                del self._context[len(self._context) - len(one.context) :]

    def _too_deep(self, span: Span) -> None:
        head = Span(span.source, span.start, min(span.end, span.start + 1))
        self.report(head, "this nests too deeply", hint="split it, or end the recursion that it begins")

    def finish_calls(self) -> None:
        """What calls through pointers lead to, once it is known which functions have their address taken."""
        for type, called in self._dispatchers.items():
            self.unit.functions[called] = self._dispatcher(type, called)
        for name, span in self._externs.items():
            if name not in self.unit.functions and not self.diagnostics:
                self.report(
                    span,
                    f"nothing exports a function `{name}`",
                    hint="add `export fn` to a module of the program",
                )

    def _body_of(self, one: Pending) -> ir.Function:
        declaration = one.function.declaration
        assert declaration.body is not None
        assert one.compiled.type.result is not None
        builder = Builder(one.compiled.name)
        result = one.compiled.type.result
        frame = Frame(
            one.function.module,
            builder=builder,
            result=result,
            taken=self.taken(declaration.body),
            name=declaration.name,
        )
        names = frame.scope.names
        names.update(one.bound)
        if t.is_aggregate(result):
            builder.parameters.append(builder.local("result", "ptr"))
        with self.within(frame):
            free = [p for p in declaration.parameters if p.name not in one.bound and p.name is not None]
            locals = []
            for parameter, type in zip(free, one.compiled.type.parameters, strict=True):
                assert type is not None
                code: ir.Type = "ptr" if t.is_aggregate(type) else type.ir or "void"
                locals.append("" if type is t.VOID else builder.local(parameter.name or "", code))
            builder.parameters.extend(filter(None, locals))
            for parameter, type, local in zip(free, one.compiled.type.parameters, locals, strict=True):
                assert type is not None
                names[parameter.name or ""] = self._bound_parameter(parameter, type, local)
            frame.scope = Scope(frame.scope)
            self.statements(declaration.body.statements)
            if builder.block is not None and result is not t.VOID:
                self._no_value(one.function, result)
        return builder.finish(_result_code(result))

    def _bound_parameter(self, parameter: ast.Parameter, type: Type, local: str) -> Binding:
        name, span = parameter.name or "", parameter.span
        if type is t.VOID:
            return v.NOTHING
        if t.is_aggregate(type):
            return AddressVariable(local, type, name)
        if name not in self.frame.taken:
            return LocalPlace(local, type, True)
        builder = self.builder(span)
        number = builder.number()
        builder.emit(ir.Get(number, local, self.location(span)))
        made = self.new_variable(name, type, v.code(type, ir.Temporary(number)), span)
        assert isinstance(made, StackVariable)
        return StackVariable(made.local, type, True, name)

    def _no_value(self, function: FunctionValue, result: Type) -> None:
        declaration = function.declaration
        body = declaration.body
        end = declaration.span if body is None else Span(body.span.source, body.span.end - 1, body.span.end)
        self.fail(
            end,
            f"`{declaration.name}` can end without a value",
            expected=f"a value of type `{result}`",
            found="the end of the function",
            hint="add `return ...`",
        )

    def give(self, value: Value, span: Span) -> None:
        """Ends the function with a result."""
        builder = self.builder(span)
        if builder.block is None:
            return
        if t.is_aggregate(value.type):
            number = builder.number()
            builder.emit(ir.Get(number, "result", self.location(span)))
            self.fill(v.MemoryPlace(ir.Temporary(number), value.type, True), value, span)
            builder.end(ir.Return())
        elif value.type is t.VOID:
            builder.end(ir.Return())
        else:
            builder.end(ir.Return(self.operand(value, span)))


def _parameter(parameter: ast.Parameter) -> str:
    return f"parameter `{parameter.name}`" if parameter.name else "a parameter"


def _generic(declaration: ast.Function) -> bool:
    return any(one.comptime or one.type is None for one in declaration.parameters) or _depends(declaration)


def _depends(declaration: ast.Function) -> bool:
    """Whether the types of parameters or the result name parameters."""
    names = {one.name for one in declaration.parameters if one.name}
    if not names:
        return False
    types = [*(one.type for one in declaration.parameters if one.type is not None), declaration.result]
    return any(isinstance(node, ast.Name) and node.text in names for one in types for node in nodes(one))


def _result_code(type: Type | None) -> ir.Type:
    return "void" if type is None or t.is_aggregate(type) else type.ir or "void"


def _parameter_codes(type: t.FunctionType) -> list[ir.Type]:
    return ["ptr" if t.is_aggregate(one) else one.ir or "void" for one in type.parameters if one is not None]


def nodes(root: ast.Node) -> Iterator[ast.Node]:
    """A node and all nodes in it."""
    pending: list[Any] = [root]
    while pending:
        one = pending.pop()
        if isinstance(one, tuple) and not isinstance(one, Span):
            pending.extend(one)
        elif isinstance(one, ast.Node):
            yield one
            pending.extend(getattr(one, name) for name in one.__dataclass_fields__ if name != "span")


def taken(body: ast.Block) -> frozenset[str]:
    """The names of which a body takes the address, also that of a part."""
    names = set()
    for node in nodes(body):
        if isinstance(node, ast.Unary) and node.operator == "&":
            inner: ast.Node = node.operand
            while isinstance(inner, ast.Member | ast.Index):
                inner = inner.base
            if isinstance(inner, ast.Name):
                names.add(inner.text)
    return frozenset(names)


def key_of(value: Value) -> object:
    """Something that two known values share exactly if they are the same."""
    data = value.data
    if isinstance(data, np.ndarray):
        return value.type, data.tobytes()
    if isinstance(data, tuple):
        return value.type, tuple(key_of(one) if isinstance(one, Value) else one for one in data)
    if isinstance(data, Reference):
        return value.type, id(data.place)
    if isinstance(data, float):
        return value.type, data.hex()
    return value.type, data
