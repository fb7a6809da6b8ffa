"""Strings, which only the compiler knows, and what a program says as it compiles."""

from __future__ import annotations

from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import Value


@builtin("strlen", 1)
def strlen(call: Call) -> Value:
    """Bytes of a string."""
    return v.comptime_int(len(call.string(0)))


@builtin("strcat", 0, None)
def strcat(call: Call) -> Value:
    """Strings behind each other."""
    return v.string(b"".join(call.string(index) for index in range(len(call))))


@builtin("get_array", 1)
def get_array(call: Call) -> Value:
    """The bytes of a string as [n]u8."""
    text = call.string(0)
    return v.array_value(t.array((len(text),), t.U8), list(text))


@builtin("get_string_from_byte", 1)
def get_string_from_byte(call: Call) -> Value:
    """The string of one byte."""
    return v.string(bytes((call.integer(0, "a byte", 0, 255),)))


@builtin("comptime_print", 0, None)
def comptime_print(call: Call) -> Value:
    """Shows values while the program compiles."""
    values = [call.known(index, "what @comptime_print shows") for index in range(len(call))]
    call.engine.printed.append((call.span, " ".join(v.show(value) for value in values)))
    return v.NOTHING
