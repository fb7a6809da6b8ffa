"""What every consumer of PE-IR may rely on: types fit, names are known, temporaries are assigned once before their uses."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn, get_args

from openwafer.artifact import _pe_abi as abi
from openwafer.base import CslError
from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._bits import FLOATS, INTEGERS
from openwafer.csl.ir._link import call_order
from openwafer.csl.ir._machine import MACHINE
from openwafer.csl.ir._operands import (
    argument_words,
    entries,
    operands,
    result_of,
    result_type,
    successors,
    used_types,
)
from openwafer.csl.ir._print import print_instruction
from openwafer.csl.ir._records import OPERATION_NUMBER
from openwafer.csl.ir._verify_bindings import check_bindings

_SCALARS = frozenset(get_args(ir.Type)) - {"void", "dsd"}
_LOGIC = ("and", "or", "xor", "not")
_UNARY = ("neg", "not")
_MAP_LIMIT = 8


def verify(unit: ir.Unit) -> None:
    """Checks every rule of `_ir.py`'s docstrings.

    Raises CslError with the function, block and instruction; a unit of the front end never fails here.
    """
    check_bindings(unit)
    for function in unit.functions.values():
        _Checker(unit, function).check()
    call_order(unit.functions, unit.locations)
    for name in entries(unit):
        _check_entry(unit.functions[name])


def _check_entry(function: ir.Function) -> None:
    kinds = [function.locals[name].type for name in function.parameters]
    if "dsd" in kinds:
        raise CslError(
            f"PE-IR: entry {function.name} takes a dsd, but entries take numbers and pointers only"
        )
    words = sum(map(argument_words, kinds))
    if words > abi.ARGUMENT_WORDS:
        raise CslError(
            f"PE-IR: entry {function.name} takes {words} words of arguments, but at most {abi.ARGUMENT_WORDS} can be given"
        )


class _Checker:
    def __init__(self, unit: ir.Unit, function: ir.Function) -> None:
        self._unit, self._function = unit, function
        self._block = 0
        self._at: ir.Instruction | str | None = None
        self._assigned: set[int] = set()
        self._types: dict[int, ir.Type] = {}

    def _fail(self, message: str) -> NoReturn:
        where = ""
        if self._at is not None:
            what = self._at if isinstance(self._at, str) else repr(print_instruction(self._at))
            where = f", block ^{self._block}, {what}"
        raise CslError(f"PE-IR, function {self._function.name}{where}: {message}")

    def check(self) -> None:
        function = self._function
        if tuple(function.locals)[: len(function.parameters)] != function.parameters:
            self._fail("its parameters are not its first locals")
        for name, local in function.locals.items():
            if local.bytes and name in function.parameters:
                self._fail(f"parameter %{name} is a stack local")
            if not local.bytes and local.type == "void":
                self._fail(f"local %{name} is void")
            if local.align < 1 or local.align & (local.align - 1):
                self._fail(f"local %{name} has alignment {local.align}, which is no power of two")
        if not function.blocks:
            self._fail("it has no block")
        self._check_location(function.location)
        for number, block in enumerate(function.blocks):
            self._types, self._block = {}, number
            for one in block.instructions:
                self._at = one
                self._check_names(one)
                self._check_uses(one)
                self._check_rules(one)
                self._define(one)
            self._at = "at its end"
            self._check_end(block.terminator)

    def _check_location(self, location: int) -> None:
        if not 0 <= location < len(self._unit.locations):
            self._fail(f"location {location} is not in the unit's table of {len(self._unit.locations)}")

    # --- names, types, temporaries ----------------------------------------------------------------------------

    def _check_names(self, one: ir.Instruction) -> None:
        match one:
            case ir.Get() | ir.Set() | ir.Frame():
                local = self._function.locals.get(one.local)
                if local is None:
                    self._fail(f"there is no local %{one.local}")
                if bool(local.bytes) != isinstance(one, ir.Frame):
                    kind = (
                        "lies on the stack: use frame"
                        if local.bytes
                        else "lies in a register and has no address"
                    )
                    self._fail(f"local %{one.local} {kind}")
            case ir.Invoke():
                if one.function not in self._unit.functions:
                    self._fail(f"there is no function {one.function}")
            case ir.Machine():
                if one.name not in MACHINE:
                    self._fail(f"there is no machine operation {one.name}; there are {', '.join(MACHINE)}")
            case ir.Vector():
                if one.operation not in OPERATION_NUMBER:
                    self._fail(f"there is no vector operation {one.operation}")
        self._check_location(one.location)

    def _check_uses(self, node: ir.Instruction | ir.Terminator) -> None:
        used, wanted = operands(node), used_types(node, self._function, self._unit.functions)
        if len(used) != len(wanted):
            self._fail(f"it takes {len(wanted)} operands, found {len(used)}")
        for operand, kind in zip(used, wanted, strict=True):
            found = self._type(operand)
            if found != kind:
                self._fail(f"expected an operand of type {kind}, found {found}")

    def _type(self, operand: ir.Operand) -> ir.Type:
        match operand:
            case ir.Temporary():
                if operand.number not in self._types:
                    known = operand.number in self._assigned
                    reason = "of another block" if known else "that is not assigned before"
                    self._fail(f"it uses %{operand.number}, a temporary {reason}")
                return self._types[operand.number]
            case ir.Number():
                self._check_number(operand)
                return operand.type
            case ir.Constant():
                return operand.type
            case ir.Address():
                self._check_symbol(operand)
                return "ptr"
            case ir.Descriptor():
                if isinstance(operand.base, ir.Address):
                    self._check_symbol(operand.base)
                return "dsd"

    def _check_symbol(self, address: ir.Address) -> None:
        if address.symbol not in self._unit.symbols:
            self._fail(f"there is no symbol @{address.symbol}")

    def _check_number(self, number: ir.Number) -> None:
        if number.type in FLOATS:
            return
        if number.type not in _SCALARS or not isinstance(number.value, int) or isinstance(number.value, bool):
            self._fail(f"{number.type} {number.value} is no number")
        width = 1 if number.type == "bool" else 8 * ir.BYTES[number.type]
        low, high = (-(1 << width - 1), 1 << width - 1) if number.type[0] == "i" else (0, 1 << width)
        if not low <= number.value < high:
            self._fail(f"{number.value} is out of range for {number.type}")

    def _define(self, one: ir.Instruction) -> None:
        kind = result_type(one, self._function, self._unit.functions)
        number = result_of(one)
        if number is None:
            if kind != "void" and not isinstance(
                one, ir.Invoke | ir.Machine | ir.MapBegin | ir.Store | ir.MapWrite
            ):
                self._fail("its result is not assigned")
            return
        if kind == "void":
            self._fail("it gives nothing that could be assigned")
        if number in self._assigned:
            self._fail(f"%{number} is assigned a second time")
        self._assigned.add(number)
        self._types[number] = kind

    # --- rules of single instructions -------------------------------------------------------------------------

    def _check_rules(self, one: ir.Instruction) -> None:
        match one:
            case ir.Compute():
                self._check_compute(one)
            case ir.Compare():
                self._among(one.type, _SCALARS)
            case ir.Convert():
                self._among(one.source, _SCALARS)
                self._among(one.target, _SCALARS)
            case ir.Bitcast():
                if "void" in (one.source, one.target) or ir.BYTES[one.source] != ir.BYTES[one.target]:
                    self._fail(f"{one.source} and {one.target} do not have the same size")
            case ir.Element():
                self._among(one.index_type, frozenset(("i16", "u16", "i32", "u32")))
            case ir.Load() | ir.Store():
                self._among(one.type, _SCALARS | {"dsd"})
            case ir.Vector():
                self._check_vector_operands(one.operands)
                self._check_settings(one.settings)
            case ir.LoadDsr():
                self._check_settings(one.settings)
            case ir.MapBegin():
                self._check_vector_operands(one.operands)
                if not len(one.operands) == len(one.types) == len(one.modes):
                    self._fail("operands, types and modes differ in number")
                for kind in one.types:
                    self._among(kind, frozenset(abi.MAP_TYPES))
            case ir.MapRead() | ir.MapWrite():
                self._among(one.type, frozenset(abi.MAP_TYPES))

    def _among(self, kind: ir.Type, allowed: Iterable[str]) -> None:
        if kind not in allowed:
            self._fail(f"type {kind} is not possible here; {', '.join(sorted(allowed))} are")

    def _check_compute(self, one: ir.Compute) -> None:
        allowed: frozenset[str] = INTEGERS
        if one.operation in _LOGIC:
            allowed = INTEGERS | {"bool"}
        elif one.operation in ("add", "sub", "mul", "div", "neg"):
            allowed = INTEGERS | FLOATS
        self._among(one.type, allowed)
        count = 1 if one.operation in _UNARY else 2
        if len(one.operands) != count:
            self._fail(f"it takes {count} operands, found {len(one.operands)}")

    def _check_vector_operands(self, found: tuple[ir.VectorOperand, ...]) -> None:
        if len(found) > _MAP_LIMIT:
            self._fail(f"it takes at most {_MAP_LIMIT} operands, found {len(found)}")
        for one in found:
            if (one.kind == "dsr") != isinstance(one.value, ir.Register):
                self._fail("an operand that is a dsr names a register, others do not")
            if one.kind == "scalar":
                self._among(one.type, {kind for kind in _SCALARS if ir.BYTES[kind] <= 4})
            elif one.type != "void":
                self._fail(f"only scalars have a type, found {one.type}")

    def _check_settings(self, settings: ir.Settings) -> None:
        actions = {one.name.lower() for one in abi.Action}
        targets = {one.name.lower() for one in abi.Target}
        for action in (settings.end, settings.control):
            if action and not (action[0] in actions and action[1] in targets):
                self._fail(f"{action[0]} {action[1]} is no action of the machine")
        if settings.unblock and settings.unblock[0] not in targets:
            self._fail(f"{settings.unblock[0]} cannot be unblocked")

    def _check_end(self, end: ir.Terminator | None) -> None:
        if end is None:
            self._fail("it has no terminator")
        for target in successors(end):
            if not 0 <= target < len(self._function.blocks):
                self._fail(f"there is no block ^{target}")
        self._check_uses(end)
        match end:
            case ir.Choose():
                self._among(end.type, INTEGERS | {"bool"})
                values = [value for value, _ in end.cases]
                if len(set(values)) != len(values):
                    self._fail("two cases have the same value")
                for value in values:
                    self._check_number(ir.Number(end.type, value))
            case ir.Return():
                if (end.value is None) != (self._function.result == "void"):
                    self._fail(f"a function that gives {self._function.result} returns {end.value}")
            case ir.Halt():
                if end.kind.upper() not in abi.Trap.__members__:
                    self._fail(f"there is no trap {end.kind}")
