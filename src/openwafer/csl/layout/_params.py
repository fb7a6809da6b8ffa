"""Params from the command line: `--params=n:4,scale:0.5,debug:true`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from openwafer.base import InputError
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._values import Value
from openwafer.csl.syntax import ast


def parse_params(
    texts: Mapping[str, str], file: ast.File, name: str, *, option: str = "--params"
) -> dict[str, Value]:
    """The values of a file's params, for the engine to convert to their types. `name` is what messages call the file.

    Raises InputError for a param that the file does not have, and for a text that its type cannot be read from.
    """
    declared = {
        one.name: one for one in file.declarations if isinstance(one, ast.Variable) and one.kind == "param"
    }
    found = {}
    for param, text in texts.items():
        if param not in declared:
            close = difflib.get_close_matches(param, declared, 1)
            there = f"did you mean {close[0]!r}?" if close else f"it has {', '.join(declared) or 'none'}"
            raise InputError(f"{option}: {name} has no param {param!r}; {there}")
        found[param] = _value(param, text.strip(), declared[param], name, option)
    return found


def _value(param: str, text: str, declared: ast.Variable, name: str, option: str) -> Value:
    written = declared.type.text if isinstance(declared.type, ast.Name) else ""
    type = t.NAMED.get(written)
    number = _integer(text)
    if type is t.COMPTIME_STRING:
        return v.string(text)
    if type is t.BOOL or (type is None and text in ("true", "false")):
        if text in ("true", "false", "0", "1"):
            return v.boolean(text in ("true", "1"))
    elif type is not None and t.is_float(type):
        try:
            return Value(t.COMPTIME_FLOAT, float(text))
        except ValueError:
            pass
    elif number is not None:
        return Value(t.COLOR, number) if type is t.COLOR else Value(t.COMPTIME_INT, number)
    elif type is None:
        try:
            return Value(t.COMPTIME_FLOAT, float(text))
        except ValueError:
            return v.string(text)
    line, _ = declared.span.source.position(declared.span.start)
    raise InputError(
        f"{option}: {text!r} is no value of type {written or 'number'}, which {name}:{line} declares for {param!r}; "
        f"write {option}={param}:<value>"
    )


def _integer(text: str) -> int | None:
    try:
        return int(text, 0)
    except ValueError:
        return None
