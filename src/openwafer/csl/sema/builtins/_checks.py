"""What a program may ask about itself, and what it claims."""

from __future__ import annotations

from typing import Final, get_args

from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._scope import Unmet
from openwafer.csl.sema._values import Value
from openwafer.csl.sema.builtins._limits import Architecture

ARCHITECTURES: tuple[str, ...] = get_args(Architecture)


_EARLIER: Final = ("wse1",)
"""Machines that old programs ask for and nothing is compiled for."""


@builtin("is_arch", 1)
def is_arch(call: Call) -> Value:
    """`@is_arch("wse3")`."""
    name = call.text(0, "the name of an architecture")
    if name not in (*ARCHITECTURES, *_EARLIER):
        call.error(call.span_of(0), f"there is no architecture `{name}`", hint='there are "wse2" and "wse3"')
    return v.boolean(name == call.architecture)


@builtin("comptime_assert", 1, 2)
def comptime_assert(call: Call) -> Value:
    """Stops the compilation unless the condition holds."""
    _claim(call, call.known(0, "the condition of @comptime_assert", t.BOOL))
    return v.NOTHING


def _claim(call: Call, condition: Value) -> None:
    if condition.data:
        return
    message = call.text(1, "the message") if len(call) > 1 else ""
    call.engine.report(call.span, f"this assertion does not hold{': ' if message else ''}{message}")
    raise Unmet


@builtin("assert", 1)
def assert_(call: Call) -> Value:
    """Stops the program unless the condition holds; at comptime the same as @comptime_assert."""
    condition = call.coerced(0, t.BOOL)
    if call.comptime:
        _claim(call, call.known(0, "the condition of @assert", t.BOOL))
        return v.NOTHING
    builder = call.engine.builder(call.span, "@assert")
    fails, holds = builder.new_block(), builder.new_block()
    builder.branch(call.operand(condition), holds, fails)
    builder.block = fails
    builder.end(ir.Halt("assert", call.location))
    builder.block = holds
    return v.NOTHING


@builtin("random16", 0, stage="code")
def random16(call: Call) -> Value:
    """The next number of the PE's generator."""
    return call.machine("random16", type=t.U16)


@builtin("set_active_prng", 1, stage="code")
def set_active_prng(call: Call) -> Value:
    """Chooses the generator."""
    return call.machine("prng", call.operand(call.coerced(0, t.U16)))
