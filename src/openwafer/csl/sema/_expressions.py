"""Expressions: names, literals, members, elements, aggregates, and types, which are values too."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, cast

from openwafer.csl._source import Span
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import BUILTINS, PLACES, REFUSED, Call, Entry
from openwafer.csl.sema._module import Global, ModuleInstance
from openwafer.csl.sema._scope import POISON, AddressVariable, Failure, Scope, StackVariable
from openwafer.csl.sema._type_expressions import TypeExpressions
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import CellPlace, LocalPlace, MemoryPlace, Place, Value, ValuePlace
from openwafer.csl.sema.builtins._access import tensor_access
from openwafer.csl.syntax import ast

if TYPE_CHECKING:
    from openwafer.csl.sema._engine import Engine

_NAMED_TYPES = {name: v.type_value(one) for name, one in t.NAMED.items()}
_DIRECTIONS = {name: Value(t.DIRECTION, name) for name in t.DIRECTIONS}


_OF_OTHER_LANGUAGES = {
    **dict.fromkeys(
        ("int", "short", "long", "int32"), "integers have their width in the name: i16, i32, u16, u32"
    ),
    **dict.fromkeys(("float", "double"), "floats have their width in the name: f16, f32"),
    **dict.fromkeys(("print", "printf"), 'a PE prints through @import_module("<simprint>"), into sim.log'),
}
"""What to write instead of a name that people bring along."""


class Expressions(TypeExpressions):
    """The value, the place and the type of an expression."""

    _handlers: dict[type, Callable[[Any, Type | None], Value]]

    def evaluate(
        self, node: ast.Expression | ast.Assign | ast.While | ast.For, expected: Type | None = None
    ) -> Value:
        """The value of an expression; `expected` is what the code around it asks for."""
        return self._handlers[type(node)](node, expected)

    def literal_handlers(self) -> dict[type, Callable[[Any, Type | None], Value]]:
        """What this part contributes to the table of handlers."""
        return {
            ast.Name: self._name,
            ast.Integer: lambda node, _: Value(t.COMPTIME_INT, node.value),
            ast.Character: lambda node, _: Value(t.COMPTIME_INT, node.value),
            ast.Float: lambda node, _: Value(t.COMPTIME_FLOAT, node.value),
            ast.String: lambda node, _: Value(t.COMPTIME_STRING, node.value),
            ast.Bool: lambda node, _: v.TRUE if node.value else v.FALSE,
            ast.Unary: self.unary,
            ast.Binary: self.binary,
            ast.Member: self._member,
            ast.Dereference: lambda node, _: self.load(self.place(node), node.span),
            ast.Index: self._index,
            ast.Builtin: self._builtin,
            ast.Aggregate: self._aggregate,
            ast.Lambda: self._lambda,
            ast.PointerType: lambda node, _: v.type_value(self.pointer_type(node)),
            ast.ArrayType: lambda node, _: v.type_value(self.array_type(node)),
            ast.FunctionType: lambda node, _: v.type_value(self.function_type(node)),
            ast.EnumType: lambda node, _: v.type_value(self.enum_type(node)),
            ast.StructType: lambda node, _: v.type_value(self.struct_type(node)),
            ast.Assembly: self._assembly,
        }

    # --- names ---

    def _name(self, node: ast.Name, expected: Type | None) -> Value:
        name = node.text
        found = self.frame.scope.find(name)
        if found is not None:
            if isinstance(found, Value):
                if found is POISON:
                    raise Failure
                return found
            return self.load(self._bound_place(found, node.span), node.span)
        one = self.frame.module.globals.get(name)
        if one is not None:
            return self._global(one, node.span)
        value = _NAMED_TYPES.get(name) or _DIRECTIONS.get(name)
        if name in t.SINCE_2_10 and self.options.dialect == "1.4" and not self.frame.module.file.library:
            hint = "compile with --sdk-dialect=2.10"
            self.fail(
                node.span, f"`{name}` is a type of dialect 2.10; this program is compiled as 1.4", hint=hint
            )
        if name == "comptime_struct" and self.options.dialect != "1.4" and not self.frame.module.file.library:
            hint = "leave the type out, or declare a struct type"
            self.fail(node.span, "`comptime_struct` is part of dialect 1.4 only", hint=hint)
        if value is None:
            return self._integer_type(node)
        return value

    def _integer_type(self, node: ast.Name) -> Value:
        """`u3`, which dialect 2.10 has for every width."""
        found = re.fullmatch("([iu])(0|[1-9][0-9]*)", node.text)
        if found is None:
            self._unknown(node.text, node.span)
        if self.options.dialect == "1.4":
            self.fail(
                node.span,
                f"`{node.text}` is a type of dialect 2.10; this program is compiled as 1.4",
                hint="use 8, 16, 32 or 64 bits, or compile with --sdk-dialect=2.10",
            )
        if int(found[2]) == 0:
            self.fail(node.span, f"`{node.text}` is not supported yet", hint="it holds nothing: leave it out")
        if int(found[2]) > 64:
            self.fail(
                node.span, f"`{node.text}` is wider than the 64 bits of the widest type", hint="use an array"
            )
        return v.type_value(t.integer(found[1] == "i", int(found[2])))

    def _global(self, one: Global, span: Span) -> Value:
        declaration = one.declaration
        if isinstance(declaration, ast.Variable) and (
            declaration.kind == "var" or declaration.storage == "extern"
        ):
            return self.load(self.global_place(one, span), span)
        return self.global_value(one, span)

    def _unknown(self, name: str, span: Span) -> NoReturn:
        names = {*self.frame.module.globals, *t.NAMED, *t.DIRECTIONS}
        scope: Scope | None = self.frame.scope
        while scope is not None:
            names.update(scope.names)
            scope = scope.parent
        self.fail(
            span, f"`{name}` is not declared", hint=_OF_OTHER_LANGUAGES.get(name) or self.similar(name, names)
        )

    def _bound_place(
        self, found: CellPlace | LocalPlace | ValuePlace | StackVariable | AddressVariable, span: Span
    ) -> Place:
        if isinstance(found, StackVariable | AddressVariable):
            if self.frame.comptime:
                self.not_known(found.name, span)
            builder = self.builder(span)
            number = builder.number()
            if isinstance(found, StackVariable):
                builder.emit(ir.Frame(number, found.local, self.location(span)))
                return MemoryPlace(ir.Temporary(number), found.type, True, found.const, found.name)
            builder.emit(ir.Get(number, found.local, self.location(span)))
            return MemoryPlace(ir.Temporary(number), found.type, True, True, found.name)
        return found

    # --- places ---

    def place(self, node: ast.Expression) -> Place:
        """What an expression names; the results of other expressions are places that nobody can change."""
        if isinstance(node, ast.Name):
            found = self.frame.scope.find(node.text)
            if found is not None:
                if isinstance(found, Value):
                    if found is POISON:
                        raise Failure
                    return ValuePlace(found, found.type, node.text)
                return self._bound_place(found, node.span)
            one = self.frame.module.globals.get(node.text)
            if one is not None:
                return self.global_place(one, node.span)
        elif isinstance(node, ast.Member):
            return self._member_place(node)
        elif isinstance(node, ast.Index):
            return self._index_place(node)
        elif isinstance(node, ast.Dereference):
            return self.pointed(self.evaluate(node.base), node.span)
        elif isinstance(node, ast.Builtin) and node.name in PLACES:
            return PLACES[node.name](self._call_of(node, None))
        value = self.evaluate(node)
        return ValuePlace(value, value.type)

    def address_of(self, node: ast.Unary) -> Value:
        """`&a`."""
        root = node.operand
        while isinstance(root, ast.Member | ast.Index):
            root = root.base
        if not isinstance(root, ast.Name | ast.Dereference) and not (
            isinstance(root, ast.Builtin) and root.name in PLACES
        ):
            self.fail(
                node.operand.span,
                "only variables have an address",
                hint="put the value into a const or var, then take its address",
            )
        place = self.place(node.operand)
        if isinstance(place.type, t.FunctionType) and isinstance(place, ValuePlace):
            return Value(t.pointer(place.type, const=True), place.value.data)
        return self.address(place, node.span)

    # --- members ---

    def _member(self, node: ast.Member, expected: Type | None) -> Value:
        return self.load(self._member_place(node), node.span)

    def _member_place(self, node: ast.Member) -> Place:
        base = self.place(node.base)
        type = base.type
        name = node.name
        if isinstance(type, t.Record):
            at = type.index(name)
            if at is None:
                self._no_field(node, type)
            return self.field(base, at, node.span)
        if type is t.MODULE:
            module: ModuleInstance = self.load(base, node.span).data
            return self.module_member(module, name, node.span)
        if type is t.TYPE:
            return self._element_of_enum(self.load(base, node.span).data, node)
        if type is t.COMPTIME_STRUCT:  # a cell of that type: what counts is the value's own type
            value = self.load(base, node.span)
            assert isinstance(value.type, t.Record)
            at = value.type.index(name)
            if at is None:
                self._no_field(node, value.type)
            if isinstance(base, CellPlace):
                return CellPlace(base.cell, (*base.path, at), value.type.types[at], base.const)
            return self.field(ValuePlace(value, value.type), at, node.span)
        if isinstance(type, t.Pointer) and isinstance(type.target, t.Record):
            self.fail(node.span, f"`{type}` is a pointer", hint=f"follow it first: `.*.{name}`")
        self.fail(node.base.span, f"`.{name}`", expected="a struct, a module or an enum", found=f"`{type}`")

    def module_member(self, module: ModuleInstance, name: str, span: Span) -> Place:
        """A global of another module."""
        one = module.globals.get(name)
        if one is None:
            hint = self.similar(name, module.globals)
            self.fail(span, f"the module {module.file.source.name} has no `{name}`", hint=hint)
        return self.global_place(one, span)

    def _element_of_enum(self, type: Type, node: ast.Member) -> Place:
        if not isinstance(type, t.Enum):
            self.fail(
                node.base.span, f"the type `{type}` has no members", expected="an enum", found=f"`{type}`"
            )
        number = type.value(node.name)
        if number is None:
            names = [name for name, _ in type.elements]
            hint = self.similar(node.name, names) or f"it has {', '.join(names)}"
            self.fail(node.span, f"`{type}` has no element `{node.name}`", hint=hint)
        return ValuePlace(Value(type, number), type)

    def _no_field(self, node: ast.Member, type: t.Record) -> NoReturn:
        if type.names is None:
            self.fail(node.span, f"the fields of `{type}` have no names", hint="use `[0]`, `[1]`, ...")
        hint = self.similar(node.name, type.names) or f"it has {', '.join(type.names) or 'no fields'}"
        self.fail(node.span, f"`{type}` has no field `{node.name}`", hint=hint)

    # --- elements ---

    def _index(self, node: ast.Index, expected: Type | None) -> Value:
        return self.load(self._index_place(node), node.span)

    def _index_place(self, node: ast.Index) -> Place:
        base = self.place(node.base)
        type = base.type
        if isinstance(type, t.Array):
            indices = [self.evaluate(index) for index in node.indices]
            return self.element(base, indices, [index.span for index in node.indices], node.span)
        if isinstance(type, t.Pointer):
            return self._indexed_pointer(base, type, node)
        if isinstance(type, t.Record) or type is t.COMPTIME_STRUCT:
            return self._indexed_tuple(base, node)
        self.fail(node.base.span, "`[ ]`", expected="an array, a `[*]` pointer or a tuple", found=f"`{type}`")

    def _indexed_pointer(self, base: Place, type: t.Pointer, node: ast.Index) -> Place:
        if not type.many:
            hint = "follow it first: `.*[i]`" if isinstance(type.target, t.Array) else "follow it with `.*`"
            self.fail(node.base.span, f"`{type}` points to one value", hint=hint)
        if len(node.indices) != 1:
            self.fail(node.span, f"`{type}` takes one index", found=f"{len(node.indices)}", expected="one")
        index, where = self.evaluate(node.indices[0]), node.indices[0].span
        if not t.is_integer(index.type):
            self.fail(where, "an index", expected="an integer", found=f"`{index.type}`")
        pointer = self.load(base, node.base.span)
        if isinstance(pointer.data, v.Reference):
            target = pointer.data.place
            if isinstance(target.type, t.Array):
                return self.element(target, [index], [where], node.span)
        target_place = self.pointed(
            Value(t.pointer(type.target, const=type.const), pointer.data, pointer.known), node.span
        )
        if not isinstance(target_place, MemoryPlace):
            return target_place
        name = node.base.span.text
        address = self.indexed(target_place.address, index, None, type.target.bytes, name, where)
        return MemoryPlace(address, type.target, False, type.const, name)

    def _indexed_tuple(self, base: Place, node: ast.Index) -> Place:
        value = base.value if isinstance(base, ValuePlace) else self.load(base, node.base.span)
        type = value.type
        assert isinstance(type, t.Record)
        if type.names is not None and type.types:
            self.fail(node.base.span, f"`{type}` has names", hint=f"use `.{type.names[0]}`")
        if len(node.indices) != 1:
            self.fail(node.span, "a tuple takes one index")
        index = self.require_known(
            self.evaluate(node.indices[0]), node.indices[0].span, "the index of a tuple"
        )
        if not t.is_integer(index.type):
            self.fail(node.indices[0].span, "an index", expected="an integer", found=f"`{index.type}`")
        if not 0 <= index.data < len(type.types):
            self.fail(node.indices[0].span, f"index {index.data} is out of bounds for `{type}`")
        if isinstance(base, CellPlace):
            return CellPlace(base.cell, (*base.path, index.data), type.types[index.data], base.const)
        return self.field(base if base.type is type else ValuePlace(value, type), index.data, node.span)

    # --- builtins ---

    def _call_of(self, node: ast.Builtin, expected: Type | None) -> Call:
        return Call(cast("Engine", self), node, expected)

    def _builtin(self, node: ast.Builtin, expected: Type | None) -> Value:
        return self._entry(node).handler(self._call_of(node, expected))

    def _entry(self, node: ast.Builtin) -> Entry:
        """The builtin, if it may be called here and so."""
        entry = BUILTINS.get(node.name)
        library = self.frame.module.file.library
        if entry is None or (node.name.startswith("__") and not library):
            if node.name in REFUSED:
                problem, instead = REFUSED[node.name]
                self.fail(node.span, f"`@{node.name}` {problem}", hint=instead)
            known = [name for name in BUILTINS if not name.startswith("__")]
            close = self.similar(node.name, known)
            self.fail(
                node.span,
                f"there is no builtin `@{node.name}`",
                hint=close.replace("`", "`@", 1) if close else "",
            )
        if self.options.dialect not in entry.dialects:
            only = " and ".join(entry.dialects)
            self.fail(node.span, f"`@{node.name}` is part of dialect {only} only", hint=_builtin_hint(entry))
        count = len(node.arguments)
        if count < entry.least or (entry.most is not None and count > entry.most):
            least, most = entry.least, entry.most
            wanted = (
                f"{least}" if most == least else f"at least {least}" if most is None else f"{least} to {most}"
            )
            plural = "s" * (wanted != "1")
            self.fail(node.span, f"`@{node.name}`", expected=f"{wanted} argument{plural}", found=str(count))
        self._check_stage(entry, node.span)
        return entry

    def _check_stage(self, entry: Entry, span: Span) -> None:
        if entry.stage == "any":
            return
        if entry.stage == "code":
            self.builder(span, f"`@{entry.name}`")
        elif entry.stage == "layout" and self.layout is None:
            self.fail(span, f"`@{entry.name}` belongs in a layout block", hint="write it in `layout { ... }`")
        elif not self.frame.comptime:
            where = "a comptime block" if entry.stage != "layout" else "a layout block"
            self.fail(span, f"`@{entry.name}` is done at compile time", hint=f"write it in {where}")
        elif entry.stage == "block" and self.layout is not None:
            self.fail(span, f"`@{entry.name}` belongs to the program of a PE, not to the layout")

    # --- aggregates ---

    def _aggregate(self, node: ast.Aggregate, expected: Type | None) -> Value:
        if node.type is None:
            return self._anonymous(node, expected)
        type = self.type_of(node.type)
        if isinstance(type, t.Array):
            return self._array(node, type)
        if not isinstance(type, t.Record) or type.names is None:
            self.fail(node.type.span, "`{ ... }`", expected="an array or struct type", found=f"`{type}`")
        given: dict[str, Value] = {}
        spans: dict[str, Span] = {}
        for entry in node.entries:
            if not isinstance(entry, ast.FieldValue):
                self.fail(entry.span, f"`{type}` has named fields", expected="`.name = value`")
            at = type.index(entry.name)
            given[entry.name] = self.evaluate(entry.value, None if at is None else type.types[at])
            spans[entry.name] = entry.value.span
        return self.struct_value(type, given, spans, node.span)

    def _anonymous(self, node: ast.Aggregate, expected: Type | None) -> Value:
        names: list[str] = []
        parts: list[Value] = []
        for entry in node.entries:
            if isinstance(entry, ast.FieldValue):
                if entry.name in names:
                    self.fail(entry.span, f"the field `{entry.name}` has two values")
                names.append(entry.name)
                parts.append(self.evaluate(entry.value))
            else:
                parts.append(self.evaluate(entry))
        named = names or not parts
        return v.struct(t.record(names if named else None, [one.type for one in parts]), parts)

    def _array(self, node: ast.Aggregate, type: t.Array) -> Value:
        if len(node.entries) != type.count:
            self.fail(node.span, f"`{type}`", expected=f"{type.count} elements", found=str(len(node.entries)))
        parts = []
        for entry in node.entries:
            if isinstance(entry, ast.FieldValue):
                self.fail(entry.span, "the elements of an array have no names", hint="write the values alone")
            parts.append(self.coerce(self.evaluate(entry, type.element), type.element, entry.span))
        if all(one.known for one in parts):
            return v.array_value(type, self._payloads(parts, type))
        made = self.in_frame(type, "array", node.span)
        for at, one in enumerate(parts):
            address = self.moved(made.address, at * type.element.bytes, node.span)
            self.fill(MemoryPlace(address, type.element, True), one, node.entries[at].span)
        return v.code(type, made.address)

    def _lambda(self, node: ast.Lambda, expected: Type | None) -> Value:
        return tensor_access(self, node)

    def _assembly(self, node: ast.Assembly, expected: Type | None) -> Value:
        self.fail(
            node.span, "inline assembly is not supported", hint="write it in CSL, with the builtins for DSDs"
        )


def _builtin_hint(entry: Entry) -> str:
    other = f"compile with --sdk-dialect={entry.dialects[-1]}"
    return {"concat_structs": "write the fields into one struct type"}.get(entry.name, other)
