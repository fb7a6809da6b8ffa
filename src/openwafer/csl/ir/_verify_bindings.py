"""The rules for what stands beside code: variables, tasks, queues, FIFOs, exports."""

from __future__ import annotations

from openwafer.artifact import _pe_abi as abi
from openwafer.base import CslError
from openwafer.csl.ir import _ir as ir


def check_bindings(unit: ir.Unit) -> None:
    """Checks that declarations name what exists and fit together.

    Raises CslError.
    """
    if not unit.locations:
        raise CslError(f"PE-IR of {unit.name}: the table of locations is empty; its first entry is nowhere")
    for name, symbol in unit.symbols.items():
        _check_symbol(unit, name, symbol)
    for task in unit.tasks:
        if task.function is None:
            continue
        what = f"{task.kind} task {task.id}"
        _need_function(unit, task.function, what)
        parameters = _parameter_types(unit, task.function)
        if parameters != task.parameters:
            raise CslError(
                f"PE-IR of {unit.name}: {what} takes ({', '.join(task.parameters)}), "
                f"but function {task.function} takes ({', '.join(parameters)})"
            )
    for fifo in unit.fifos:
        _need_symbol(unit, fifo.symbol, f"fifo {fifo.number}")
    for one in unit.exports:
        _check_export(unit, one)
    for load in unit.preloads:
        if not isinstance(load.descriptor, ir.Descriptor):
            raise CslError(f"PE-IR of {unit.name}: the preload of {load.register} needs a known descriptor")
        if isinstance(load.descriptor.base, ir.Address):
            _need_symbol(unit, load.descriptor.base.symbol, "a preload")
    for target, _ in unit.blocked:
        if target.upper() not in abi.Target.__members__:
            raise CslError(f"PE-IR of {unit.name}: {target} cannot be blocked; queue, thread and color can")
    for target, _ in unit.opened:
        if target not in ("queue", "color"):
            raise CslError(f"PE-IR of {unit.name}: {target} cannot be opened; queue and color can")


def _check_symbol(unit: ir.Unit, name: str, symbol: ir.Variable) -> None:
    where = f"PE-IR of {unit.name}: symbol @{name}"
    if name != symbol.name:
        raise CslError(f"{where} calls itself @{symbol.name}")
    if symbol.align < 1 or symbol.align & (symbol.align - 1):
        raise CslError(f"{where} has alignment {symbol.align}, which is no power of two")
    if len(symbol.value) > symbol.bytes:
        raise CslError(f"{where} has {symbol.bytes} bytes, but its first value has {len(symbol.value)}")
    for one in symbol.relocations:
        _need_symbol(unit, one.symbol, f"symbol @{name}")
        if not 0 <= one.at <= symbol.bytes - 2:
            raise CslError(f"{where} has {symbol.bytes} bytes, but a pointer at byte {one.at}")


def _check_export(unit: ir.Unit, one: ir.Exported) -> None:
    what = f'export "{one.name}"'
    if one.kind == "function":
        _need_function(unit, one.function, what)
        assert one.function is not None
        parameters = _parameter_types(unit, one.function)
        if parameters != one.parameters:
            raise CslError(
                f"PE-IR of {unit.name}: {what} takes ({', '.join(one.parameters)}), "
                f"but function {one.function} takes ({', '.join(parameters)})"
            )
    elif one.address is None and one.pointer is None:
        raise CslError(f"PE-IR of {unit.name}: {what} is a variable, but names no address")
    if one.address is not None:
        _need_symbol(unit, one.address.symbol, what)
    if one.pointer is not None:
        _need_symbol(unit, one.pointer, what)


def _need_symbol(unit: ir.Unit, name: str, what: str) -> None:
    if name not in unit.symbols:
        raise CslError(f"PE-IR of {unit.name}: {what} names @{name}, which is no symbol of the unit")


def _need_function(unit: ir.Unit, name: str | None, what: str) -> None:
    if name not in unit.functions:
        raise CslError(f"PE-IR of {unit.name}: {what} names {name}, which is no function of the unit")


def _parameter_types(unit: ir.Unit, name: str) -> tuple[ir.Type, ...]:
    function = unit.functions[name]
    return tuple(function.locals[one].type for one in function.parameters if one in function.locals)
