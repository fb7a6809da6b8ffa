"""`@import_comptime_value(T, "file.json")`: values from JSON."""

from __future__ import annotations

import json
from typing import Any

from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Value


@builtin("import_comptime_value", 2, stage="any")
def import_comptime_value(call: Call) -> Value:
    """The value of a JSON file, looked for beside the file that asks for it."""
    type, name = call.type(0), call.text(1, "the name of a JSON file")
    path = call.engine.frame.module.path.parent / name
    try:
        data = json.loads(path.read_bytes())
    except OSError as error:
        call.error(
            call.span_of(1),
            f"{name} cannot be read: {error.strerror}",
            hint="name a file relative to this one",
        )
    except ValueError as error:
        call.error(call.span_of(1), f"{name} is no JSON: {error}")
    return _value(call, data, type, name)


def _value(call: Call, data: Any, type: Type, where: str) -> Value:
    if isinstance(type, t.Array):
        if not isinstance(data, list) or len(data) != type.count:
            found = f"a list of {len(data)}" if isinstance(data, list) else _named(data)
            call.error(
                call.span_of(1), f"{where} for `{type}`", expected=f"a list of {type.count}", found=found
            )
        parts = [_value(call, one, type.element, f"{where}[{at}]") for at, one in enumerate(data)]
        return v.array_value(type, [one.data for one in parts] if type.element.dtype is not None else parts)
    if type is t.COMPTIME_STRUCT and isinstance(data, dict):
        fields = {}
        for label, one in data.items():
            name, colon, kind = label.partition(":")
            if not colon:
                hint = 'write "name:type", such as "n:u16" or "a:[8]i16"'
                call.error(call.span_of(1), f"the label `{label}` in {where} has no type", hint=hint)
            fields[name] = _value(call, one, _type(call, kind.strip(), where), f"{where}.{name}")
        return v.anonymous(**fields)
    if isinstance(data, bool) and type is t.BOOL:
        return v.boolean(data)
    if isinstance(data, str) and type is t.COMPTIME_STRING:
        return v.string(data)
    if isinstance(data, int | float) and not isinstance(data, bool):
        if type is t.COLOR and isinstance(data, int):
            return Value(t.COLOR, data)
        number = Value(t.COMPTIME_INT, data) if isinstance(data, int) else Value(t.COMPTIME_FLOAT, data)
        return call.engine.coerce(number, type, call.span_of(1), where)
    call.error(call.span_of(1), where, expected=f"`{type}`", found=_named(data))


def _named(data: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(data), "a number")


def _type(call: Call, text: str, where: str) -> Type:
    """A type as a label writes it: a name, or `[8]i16`."""
    bracket, _, name = text.rpartition("]")
    element = t.NAMED.get(name.strip())
    size = bracket.removeprefix("[").strip()
    if element is None or (bracket and not size.isdecimal()):
        call.error(call.span_of(1), f"`{text}` in {where} is no type of a JSON value")
    return t.array((int(size),), element) if bracket else element
