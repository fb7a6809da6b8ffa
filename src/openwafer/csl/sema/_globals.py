"""Globals: imports, params, and the values of consts and vars."""

from __future__ import annotations

from typing import Any, Literal

from openwafer.base import InputError
from openwafer.csl._diagnostics import DiagnosticError, Note
from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._module import LIBRARY, Global, ModuleInstance, SourceFile
from openwafer.csl.sema._old_libraries import OLD_LIBRARIES
from openwafer.csl.sema._scope import Failure, Frame, Unmet
from openwafer.csl.sema._symbols import OwnedPlace, Symbols
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import FunctionValue, MemoryPlace, Place, Value, ValuePlace
from openwafer.csl.sema._walk import nodes
from openwafer.csl.syntax import ast


class Globals(Symbols):
    """What stands outside of functions."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._running: list[Global] = []
        self._open: list[ModuleInstance] = []
        self._stages: list[tuple[ModuleInstance, ast.Stage]] = []

    # --- modules ---

    def import_module(self, name: str, params: dict[str, Value], span: Span) -> ModuleInstance:
        """`@import_module(name, params)`: a new instance of the file's module."""
        importer = self.frame.module
        path = self.files.find(name, importer.path)
        if path is None:
            if name in OLD_LIBRARIES:
                self.fail(
                    span,
                    f"`{name}` is a library of SDK 0.x, this compiler is for programs of 1.0 and later",
                    hint=OLD_LIBRARIES[name],
                )
            where = "the library" if name.startswith("<") else str(importer.path.parent)
            self.fail(
                span,
                f"there is no file `{name}` in {where} or the import paths",
                hint="mend the name, or add its folder to CSL_IMPORT_PATH",
            )
        try:
            file = self.files.load(path, name if path.is_relative_to(LIBRARY) else None)
        except DiagnosticError as error:
            for one in error.diagnostics:
                self.report(
                    one.span,
                    one.message,
                    expected=one.expected,
                    found=one.found,
                    hint=one.hint,
                    notes=one.notes,
                )
            raise Failure from None
        except InputError as error:
            self.fail(span, str(error))
        if sum(one.file is file for one in self._open) > 8:
            self.fail(span, f"`{name}` imports itself")
        prefix = importer.prefix
        if self._running and isinstance(self._running[-1].declaration, ast.Variable):
            prefix += self._running[-1].declaration.name + "."
        for given in params:
            if not any(
                isinstance(d, ast.Variable) and d.kind == "param" and d.name == given
                for d in file.tree.declarations
            ):
                self.warn(span, f"`{name}` has no param `{given}`")
        with self.context(span, f"`{name}` is imported here"):
            return self.instantiate(file, params, prefix, span)

    def instantiate(
        self, file: SourceFile, params: dict[str, Value], prefix: str = "", imported: Span | None = None
    ) -> ModuleInstance:
        """An instance of a file's module, with its globals computed; its comptime blocks wait for `run_stages`."""
        module = ModuleInstance(file, params, prefix, imported, len(self.modules))
        self.modules.append(module)
        self._open.append(module)
        failed = False
        for declaration in file.tree.declarations:
            if isinstance(declaration, ast.Stage):
                continue
            if declaration.name in module.globals:
                first = module.globals[declaration.name].declaration.span
                note = Note(first, "the first one is here")
                self.report(
                    declaration.span,
                    f"`{declaration.name}` is declared twice",
                    hint="choose another name",
                    notes=[note],
                )
                failed = True
                continue
            module.globals[declaration.name] = Global(declaration, module)
        for one in module.globals.values():
            try:
                if isinstance(one.declaration, ast.Variable):
                    if self._wanted_at_once(one.declaration, imported is None):
                        self.resolve(one, one.declaration.span)
                elif one.declaration.storage == "export":
                    self.compiled(self._function(one), one.declaration.span)
            except Failure:
                failed = True
            except RecursionError:
                self._too_deep(one.declaration.span)
                failed = True
        self._open.pop()
        self._stages.extend((module, one) for one in file.tree.declarations if isinstance(one, ast.Stage))
        if failed and imported is not None:
            raise Failure
        return module

    def _wanted_at_once(self, declaration: ast.Variable, root: bool) -> bool:
        """Whether a global counts even if nothing uses it: of the program's own file, what is exported, and imports.

        Other globals, and params without a value, are looked at where they are used. Programs rely on it: a module may hold
        what makes no sense with the params of one import and is not used there.
        """
        if declaration.kind == "param" and declaration.value is None:
            return False
        if root or declaration.storage == "export":
            return True
        value = declaration.value
        return value is not None and any(
            isinstance(node, ast.Builtin) and node.name == "import_module" for node in nodes(value)
        )

    def run_stages(self, kind: Literal["comptime", "layout"], root: ModuleInstance) -> None:
        """Runs the comptime blocks of all modules, those of imported modules first; layout blocks only of the root."""
        for module, stage in self._stages:
            if stage.kind != kind or (kind == "layout" and module is not root):
                continue
            frame = Frame(module)
            try:
                with self.within(frame):
                    if module.imported is None:
                        self._stage(stage)
                    else:
                        with self.context(module.imported, "imported here"):
                            self._stage(stage)
            except Failure:
                continue
            except RecursionError:
                self._too_deep(stage.span)

    def _stage(self, stage: ast.Stage) -> None:
        failed = False
        with self.scoped():
            for node in stage.body.statements:
                try:
                    self.execute(node)
                except Unmet:
                    raise
                except Failure:
                    failed = True
        if failed:
            raise Failure

    # --- values ---

    def _function(self, one: Global) -> FunctionValue:
        if one.function is None:
            assert isinstance(one.declaration, ast.Function)
            one.function = FunctionValue(one.declaration, one.module)
        return one.function

    def global_value(self, one: Global, span: Span) -> Value:
        """The value of a const, param or function; an error for a var."""
        declaration = one.declaration
        if isinstance(declaration, ast.Function):
            return self._function_value(one)
        self.resolve(one, span)
        if declaration.kind == "var":
            return self.load(self.global_place(one, span), span)
        assert one.value is not None
        return one.value

    def _function_value(self, one: Global) -> Value:
        if one.value is None:
            function = self._function(one)
            declaration = function.declaration
            signature = self.signatures.get(function) or self.signature(function)
            if signature is not None:
                type = t.function(declaration.kind, signature.parameters, signature.result)
            else:
                type = t.function(declaration.kind, [None] * len(declaration.parameters), None)
            one.value = Value(type, function)
        return one.value

    def global_place(self, one: Global, span: Span) -> Place:
        """What a global's name stands for."""
        declaration = one.declaration
        if isinstance(declaration, ast.Function):
            value = self._function_value(one)
            return ValuePlace(value, value.type, declaration.name)
        in_memory = declaration.kind == "var" or declaration.storage == "extern"
        if one.state == "failed":
            raise Failure
        if in_memory and one.state != "done":
            self._resolve_type(one, span)
        if not in_memory or one.type is None:
            self.resolve(one, span)
        assert one.type is not None
        if in_memory:
            const = declaration.kind != "var"
            self.use(one)
            return MemoryPlace(ir.Address(self.symbol(one)), one.type, True, const, declaration.name)
        assert one.value is not None
        return OwnedPlace(one.value, one.value.type, declaration.name, True, one)

    def _resolve_type(self, one: Global, span: Span) -> None:
        """The declared type alone, so that `&x` needs no first value of x."""
        declaration = one.declaration
        assert isinstance(declaration, ast.Variable)
        if one.type is not None or declaration.type is None or one.state != "new":
            return
        self._enter(one, span, "typing")
        try:
            with self.within(Frame(one.module)):
                one.type = self.type_of(declaration.type)
                in_memory = declaration.kind == "var" or declaration.storage == "extern"
                if in_memory and self.comptime_only(one.type):
                    hint = "give it a type that running code has, or make it a const"
                    name = declaration.name
                    self.fail(
                        declaration.span,
                        f"`{name}` has type `{one.type}`, which exists only at compile time",
                        hint=hint,
                    )
            one.state = "typed"
        except Failure:
            one.state = "failed"
            raise
        finally:
            self._running.pop()

    def _enter(self, one: Global, span: Span, state: Literal["typing", "running"]) -> None:
        if one.state == "failed":
            raise Failure
        if one.state in ("typing", "running"):
            start = next(at for at, other in enumerate(self._running) if other is one)
            notes = [
                Note(other.declaration.span, f"`{other.declaration.name}` needs this")
                for other in self._running[start + 1 :]
            ]
            self.fail(
                one.declaration.span, f"the value of `{one.declaration.name}` depends on itself", notes=notes
            )
        one.state = state
        self._running.append(one)

    def resolve(self, one: Global, span: Span) -> None:
        """Computes the value of a global, once."""
        if one.state == "done":
            return
        declaration = one.declaration
        assert isinstance(declaration, ast.Variable)
        self._resolve_type(one, span)
        self._enter(one, span, "running")
        try:
            with self.within(Frame(one.module)):
                self._compute_global(one, declaration)
            one.state = "done"
        except Failure:
            one.state = "failed"
            raise
        finally:
            self._running.pop()

    def _compute_global(self, one: Global, declaration: ast.Variable) -> None:
        name = declaration.name
        if declaration.kind == "param":
            one.value = self._param(one, declaration)
            one.type = one.value.type
            return
        value = None if declaration.value is None else self.evaluate(declaration.value, one.type)
        if declaration.storage == "extern":
            if value is not None:
                self.fail(
                    declaration.span,
                    f"`extern {declaration.kind} {name}` gets its value elsewhere",
                    hint="remove the value",
                )
            if one.type is None:
                self.fail(declaration.span, f"`extern {declaration.kind} {name}` needs a type")
            return
        if value is not None and declaration.value is not None:
            self.require_known(value, declaration.value.span, f"the first value of `{name}`")
            if one.type is not None:
                value = self.coerce(value, one.type, declaration.value.span, f"`{name}`")
        elif declaration.kind == "const" and declaration.storage != "export":
            self.fail(declaration.span, f"the const `{name}` has no value", hint="add `= ...`")
        type = one.type if one.type is not None and one.type is not t.COMPTIME_STRUCT else None
        if type is None:
            if value is None:
                self.fail(
                    declaration.span, f"`{name}` has neither a type nor a value", hint="write `var x: i16;`"
                )
            type = value.type
        if value is None:
            value = v.zero(type)
        self._name_type(value, name)
        if declaration.kind == "var" and self.comptime_only(type):
            hint = f"give it a type that running code has: `var {name}: i16 = ...`, or make it a const"
            self.fail(
                declaration.span, f"`{name}` has type `{type}`, which exists only at compile time", hint=hint
            )
        one.type, one.value = type, value
        if declaration.kind == "var" or declaration.storage == "export":
            one.used = one.used or one.module.imported is None or declaration.storage == "export"
            if value is not None:
                self.initial[self.symbol(one)] = value

    def _name_type(self, value: Value | None, name: str) -> None:
        """`const complex = struct {...}` gives a type its name."""
        if value is not None and isinstance(value.data, t.Record | t.Enum) and value.type is t.TYPE:
            value.data.name = value.data.name or name

    def _param(self, one: Global, declaration: ast.Variable) -> Value:
        given = one.module.params.get(declaration.name)
        if (
            given is not None
            and given.type is t.VOID
            and declaration.value is not None
            and one.type is not None
        ):
            # What <memcpy/get_params> gives for a stream that the program does not have.
            given = given if one.type is t.VOID else None
        if given is not None:
            span = one.module.imported or declaration.span
            if one.type is not None:
                given = self._given(given, one.type, span, declaration)
            return given
        if declaration.value is None:
            span = one.module.imported or declaration.span
            note = Note(declaration.span, "it is declared here")
            self.fail(
                span,
                f"the param `{declaration.name}` has no value",
                hint=f"give it one: --params={declaration.name}:..."
                if self.layout is not None and one.module.imported is None
                else f"give it one: `.{declaration.name} = ...`",
                notes=[note] if one.module.imported else [],
            )
        value = self.evaluate(declaration.value, one.type)
        self.require_known(value, declaration.value.span, f"the param `{declaration.name}`")
        return (
            value
            if one.type is None
            else self.coerce(value, one.type, declaration.value.span, f"`{declaration.name}`")
        )

    def _given(self, value: Value, type: Type, span: Span, declaration: ast.Variable) -> Value:
        """A param's value in its type; numbers of another integer type are taken if they fit."""
        if t.is_fixed_integer(value.type) and t.is_fixed_integer(type):
            value = v.comptime_int(value.data)
        return self.coerce(value, type, span, f"the param `{declaration.name}`")
