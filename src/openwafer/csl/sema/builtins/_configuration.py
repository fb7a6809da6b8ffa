"""Configuration registers by their word addresses."""

from __future__ import annotations

from openwafer.csl.sema import _types as t
from openwafer.csl.sema import _values as v
from openwafer.csl.sema._builtin import Call, builtin
from openwafer.csl.sema._values import Value
from openwafer.csl.sema.builtins._ids import limits


def _address(call: Call, *, checked: bool) -> Value:
    address = call.coerced(0, t.U16)
    if not address.known:
        return address
    number, known = int(address.data), limits(call)
    if checked and number not in known.config:
        call.error(
            call.span_of(0),
            f"0x{number:04x} is no configuration register",
            hint=f"they are at 0x{known.config.start:04x} to 0x{known.config.stop - 1:04x}, in words",
        )
    if checked and call.comptime and any(number in one for one in known.reserved_config):
        call.error(
            call.span_of(0),
            f"0x{number:04x} belongs to a route or switch, which comptime code must not set here",
            hint="use @set_local_color_config; code that runs may write it",
        )
    return address


def _ranges(call: Call, index: int, address: Value) -> None:
    """The ranges that the address is said to be in: `.{a, b}` or `.{.{a, b}, .{c, d}}`."""
    if len(call) <= index:
        return
    value = call.known(index, "the range of addresses")
    parts = value.data if isinstance(value.type, t.Record) and value.type.names is None else ()
    pairs = parts if parts and isinstance(parts[0].type, t.Record) else (value,)
    ranges = []
    for pair in pairs:
        ends = [one.data for one in pair.data] if isinstance(pair.data, tuple) else []
        if len(ends) != 2 or not all(isinstance(one, int) for one in ends) or ends[0] > ends[1]:
            call.error(call.span_of(index), "a range of addresses is .{first, last}")
        ranges.append(range(ends[0], ends[1] + 1))
    if address.known and not any(address.data in one for one in ranges):
        call.error(call.span_of(0), f"0x{address.data:04x} is in none of the ranges that are given")


def _get(call: Call, *, checked: bool) -> Value:
    address = _address(call, checked=checked)
    _ranges(call, 1, address)
    if not call.comptime:
        return call.machine("config_read", call.operand(address), type=t.U16)
    number = int(call.known(0, "the address of a register").data)
    if checked and number not in call.engine.resources.config:
        call.error(None, f"nothing was stored at 0x{number:04x} yet", hint="store it with @set_config first")
    return Value(t.U16, call.engine.resources.config.get(number, 0))


def _set(call: Call, *, checked: bool) -> Value:
    address, value = _address(call, checked=checked), call.coerced(1, t.U16)
    _ranges(call, 2, address)
    if not call.comptime:
        return call.machine("config_write", call.operand(address), call.operand(value))
    number = int(call.known(0, "the address of a register").data)
    call.engine.resources.config[number] = int(call.known(1, "the value of a register").data)
    return v.NOTHING


@builtin("get_config", 1, 2)
def get_config(call: Call) -> Value:
    """Reads a register; in a comptime block what was stored there."""
    return _get(call, checked=True)


@builtin("set_config", 2, 3)
def set_config(call: Call) -> Value:
    """Writes a register; in a comptime block before the program starts."""
    return _set(call, checked=True)


@builtin("get_config_unchecked", 1)
def get_config_unchecked(call: Call) -> Value:
    """The same for any register."""
    return _get(call, checked=False)


@builtin("set_config_unchecked", 2)
def set_config_unchecked(call: Call) -> Value:
    """The same for any register."""
    return _set(call, checked=False)
