"""What the host may call and copy."""

from __future__ import annotations

from openwafer.artifact._image import Export
from openwafer.csl._diagnostics import Note
from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._facts import ExportedName, SymbolExport
from openwafer.csl.sema._values import FunctionValue, MemoryPlace, Value, ValuePlace
from openwafer.csl.sema.builtins._layout import layout_facts
from openwafer.csl.syntax import ast

MAX_PARAMETERS = 15


@builtin("export_name", 2, 3, stage="layout")
def export_name(call: Call) -> Value:
    """Declares a name for the host; the order of these calls makes the ids."""
    name = call.text(0, "the name for the host")
    type = call.type(1, "the type of what is exported")
    exports = layout_facts(call).exports
    if name in exports:
        call.engine.fail(
            call.span, f"`{name}` is exported twice", notes=(Note(exports[name].span, "the first time here"),)
        )
    if isinstance(type, t.FunctionType):
        if len(type.parameters) > MAX_PARAMETERS:
            call.error(
                call.span_of(1),
                f"the host passes at most {MAX_PARAMETERS} arguments, found {len(type.parameters)}",
            )
        for one in (*type.parameters, type.result):
            _plain(call, one)
        export = Export(name, "function", str(type), parameters=tuple(map(str, type.parameters)))
    else:
        _plain(call, type)
        if len(call) < 3:
            call.error(
                None,
                f"say whether `{name}` can change",
                hint=f'write @export_name("{name}", {type}, true) for a `var`',
            )
        export = Export(
            name, "variable", str(type), mutable=bool(call.known(2, "whether it can change", t.BOOL).data)
        )
    exports[name] = ExportedName(export, type, call.span)
    return v.NOTHING


def _plain(call: Call, type: t.Type | None) -> None:
    if type is None or type.comptime_only or isinstance(type, t.Array | t.Record | t.Enum) or t.is_odd(type):
        call.error(
            call.span_of(1),
            "what the host can see",
            expected="a number, a pointer, or a function of such",
            found="`anytype`" if type is None else f"`{type}`",
            hint=f"export a pointer: [*]{type.element}" if isinstance(type, t.Array) else "",
        )


@builtin("export_symbol", 1, 2, stage="block")
def export_symbol(call: Call) -> Value:
    """Gives the host a variable or a function under a name."""
    node = call.arguments[0]
    if not isinstance(node, ast.Name | ast.Member):
        call.error(node.span, "@export_symbol takes the name of a global variable or function")
    name = call.text(1, "the name for the host") if len(call) > 1 else node.span.text.rpartition(".")[2]
    resources = call.engine.resources
    if name in resources.exports:
        call.engine.fail(
            call.span,
            f"`{name}` is exported twice",
            hint="give one of them another name",
            notes=(Note(resources.exports[name].span, "the first time here"),),
        )
    place = call.place(0)
    _check_declared(call, name, place)
    if isinstance(place, ValuePlace) and isinstance(place.value.data, FunctionValue):
        call.code_of(place.value.data)
    resources.exports[name] = SymbolExport(name, place, call.span)
    return v.NOTHING


def _check_declared(call: Call, name: str, place: v.Place) -> None:
    declared = call.engine.options.exports
    if declared is None:
        return
    kind = "function" if isinstance(place.type, t.FunctionType) else "variable"
    if name not in declared:
        write = f'@export_name("{name}", {place.type}{"" if kind == "function" else ", true"})'
        hint = call.engine.similar(name, declared) or f"add {write} to the layout block"
        call.error(None, f"no @export_name of the layout declares `{name}`", hint=hint)
    wanted = declared[name]
    if wanted.type is not place.type and str(wanted.type) != str(place.type):
        call.engine.fail(
            call.span_of(0),
            f"`{name}`",
            expected=f"`{wanted.type}`",
            found=f"`{place.type}`",
            notes=(Note(wanted.span, "declared here"),),
        )
    if kind == "variable" and wanted.export.mutable and not isinstance(place, MemoryPlace):
        call.engine.fail(
            call.span_of(0),
            f"`{name}` is declared as one that changes, but is a const",
            hint="declare it as `var`, or pass false to @export_name",
            notes=(Note(wanted.span, "declared here"),),
        )


def _exported(call: Call, index: int) -> str:
    place = call.place(index)
    for name, one in call.engine.resources.exports.items():
        if one.place == place or (
            isinstance(place, ValuePlace)
            and isinstance(one.place, ValuePlace)
            and place.value.data is one.place.value.data
        ):
            return name
    text = call.span_of(index).text
    call.error(
        call.span_of(index),
        f"`{text}` is not exported",
        hint="export it with @export_symbol in a comptime block",
    )


@builtin("get_symbol_id", 1)
def get_symbol_id(call: Call) -> Value:
    """The number that the host calls an exported symbol by: its place among the @export_name calls."""
    name = _exported(call, 0)
    declared = call.engine.options.exports
    names = list(call.engine.resources.exports if declared is None else declared)
    return Value(t.U16, names.index(name))


@builtin("has_exported_tensors", 0)
def has_exported_tensors(call: Call) -> Value:
    """Whether the program exports a pointer."""
    return v.boolean(
        any(isinstance(one.place.type, t.Pointer) for one in call.engine.resources.exports.values())
    )


@builtin("rpc", 1, stage="block")
def rpc(call: Call) -> Value:
    """The host's launches reach exported functions without a task of the program, so that nothing has to be made here."""
    call.known(0, "the id of the task that listens", t.DATA_TASK_ID)
    if call.engine.resources.rpc is not None:
        call.engine.fail(
            call.span, "@rpc is used twice", notes=(Note(call.engine.resources.rpc, "the first time here"),)
        )
    call.engine.resources.rpc = call.span
    return v.NOTHING


@builtin("get_tensor_ptr", 1, stage="code")
def get_tensor_ptr(call: Call) -> Value:
    """The exported pointer that has a number, as `[*]u16`; for other numbers 0."""
    pointers = {
        number: one.place for number, one in _numbered(call).items() if isinstance(one.place.type, t.Pointer)
    }
    return _chosen(call, 0, pointers, t.pointer(t.U16, many=True), "a tensor")


@builtin("get_symbol_value", 2, stage="code")
def get_symbol_value(call: Call) -> Value:
    """The value of the exported variable that has a number; for other numbers 0."""
    type = call.type(0)
    values = {number: one.place for number, one in _numbered(call).items() if one.place.type is type}
    return _chosen(call, 1, values, type, f"a variable of type `{type}`")


def _numbered(call: Call) -> dict[int, SymbolExport]:
    declared = call.engine.options.exports
    exports = call.engine.resources.exports
    names = list(exports if declared is None else declared)
    return {names.index(name): one for name, one in exports.items()}


def _chosen(call: Call, index: int, places: dict[int, v.Place], type: t.Type, what: str) -> Value:
    """What the place with a number holds, chosen as code runs."""
    if not places or type.ir is None:
        call.error(None, f"the program exports no such thing: {what}", hint="export one with @export_symbol")
    number = call.operand(call.coerced(index, t.U16))
    builder = call.engine.builder(call.span, f"@{call.name}")
    kept = builder.local("chosen", type.ir)
    builder.emit(ir.Set(kept, ir.Number(type.ir, 0), call.location))
    blocks = {which: builder.new_block() for which in places}
    end = builder.new_block()
    cases = tuple((which, builder.index(block)) for which, block in blocks.items())
    builder.end(ir.Choose("u16", number, cases, builder.index(end)))
    for which, block in blocks.items():
        builder.block = block
        builder.emit(ir.Set(kept, call.operand(call.load(places[which])), call.location))
        builder.jump(end)
    builder.block = end
    return v.code(type, call.emit(ir.Get(call.result(), kept, call.location)))
