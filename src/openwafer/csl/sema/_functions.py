"""Functions become PE-IR: one for each choice of what they depend on, with their bodies and calls through pointers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builder import Builder
from openwafer.csl.sema._calls import Calls, Signature
from openwafer.csl.sema._scope import (
    AddressVariable,
    Binding,
    Failure,
    Frame,
    Scope,
    StackVariable,
)
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Compiled, FunctionValue, LocalPlace, Value
from openwafer.csl.sema._walk import is_generic, key_of
from openwafer.csl.syntax import ast


@dataclass(slots=True)
class Pending:
    """A function whose body is still to be compiled."""

    compiled: Compiled
    function: FunctionValue
    bound: dict[str, Value]
    context: tuple[tuple[Span, str], ...]


class Functions(Calls):
    """Instances and bodies."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._compiled: dict[tuple[Any, ...], Compiled] = {}
        self._names: set[str] = set()
        self._pending: list[Pending] = []
        self._numbers: dict[str, int] = {}
        self._pointed: list[Compiled] = []
        self._dispatchers: dict[t.FunctionType, str] = {}
        self._externs: dict[str, Span] = {}

    # --- code ---

    def instance(
        self, function: FunctionValue, arguments: list[Value], signature: Signature, span: Span
    ) -> Compiled:
        """The PE-IR function for a choice of what is known."""
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
        context = (
            ((span, f"`{declaration.name}` is called here"),) if fixed or is_generic(declaration) else ()
        )
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
        signature = self.signatures.get(function) or self.signature(function)
        name = function.declaration.name
        if signature is None:
            self.fail(span, f"`{name}` is generic, so it cannot be used without a call")
        if signature.comptime:
            self.fail(span, f"`{name}` has a parameter or result that exists only at compile time")
        if function.declaration.inline == "inline":
            self.fail(span, f"`{name}` is inline, so it has no code of its own", hint="remove `inline`")
        return self.instance(function, [v.NOTHING] * len(signature.parameters), signature, span)

    def invoke(
        self, compiled: Compiled, arguments: list[Value], signature: Signature, span: Span, spans: list[Span]
    ) -> Value:
        """The code of a call."""
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

    def call_pointer(
        self, callee: Value, type: t.FunctionType, arguments: list[Value], node: ast.Call
    ) -> Value:
        """The code of a call through a pointer."""
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
                self.no_value(one.function, result)
        return builder.finish(_result_code(result), self.location(declaration.span))

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

    def no_value(self, function: FunctionValue, result: Type) -> None:
        """An error: a function can end without its result."""
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


def _result_code(type: Type | None) -> ir.Type:
    return "void" if type is None or t.is_aggregate(type) else type.ir or "void"


def _parameter_codes(type: t.FunctionType) -> list[ir.Type]:
    return ["ptr" if t.is_aggregate(one) else one.ir or "void" for one in type.parameters if one is not None]
