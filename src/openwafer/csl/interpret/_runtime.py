"""The fabric as the interpreter sees it: the PeView, and the functions of the PE ABI, called at their addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any

from openwafer.artifact import _pe_abi as abi
from openwafer.csl import ir
from openwafer.csl.interpret._values import Value, value_of

_TYPES: dict[str, Any] = {
    "u16": ctypes.c_uint16, "u32": ctypes.c_uint32, "i32": ctypes.c_int32, "u64": ctypes.c_uint64,
    "ptr": ctypes.c_void_p, "f32": ctypes.c_float, "void": None,
}  # fmt: skip


def _field(kind: str) -> Any:
    element, _, count = kind.removesuffix("]").partition("[")
    return _TYPES[element] * int(count) if count else _TYPES[element]


class PeView(ctypes.Structure):
    """PE_VIEW of the PE ABI."""

    _fields_ = tuple((name, _field(kind)) for name, kind in abi.PE_VIEW)


class Runtime:
    """The runtime's functions by name: `runtime.call("ow_tsc", view_address, 0)`."""

    def __init__(self, addresses: Mapping[str, int]) -> None:
        self._functions = {
            one.name: ctypes.CFUNCTYPE(
                _TYPES[one.result], ctypes.c_void_p, *(_TYPES[kind] for kind in one.parameters)
            )(addresses[one.name])
            for one in abi.RUNTIME
            if one.name in addresses
        }

    def call(self, name: str, *arguments: int) -> int:
        """What the function returns, 0 for nothing."""
        return int(self._functions[name](*arguments) or 0)


class Pe:
    """One PE while an entry runs: typed access to what its PeView shows."""

    def __init__(self, view: int) -> None:
        self.address = view
        self.view = PeView.from_address(view)
        size = self.view.memory_bytes
        self.memory = memoryview((ctypes.c_uint8 * size).from_address(self.view.memory)).cast("B")

    def charge(self, block: int) -> None:
        """Adds a block's cost to the clock."""
        self.view.clock += ctypes.c_uint32.from_address(self.view.costs + 4 * block).value

    def constant(self, constant: ir.Constant) -> Value:
        """An entry of the program's constants."""
        at = self.view.constants + 8 * constant.slot
        if constant.type == "dsd":
            return ctypes.string_at(at, abi.DESCRIPTOR_BYTES)
        return value_of(constant.type, ctypes.c_uint64.from_address(at).value)

    def argument(self, word: int, kind: ir.Type) -> Value:
        """An argument of the entry, from its first word."""
        data = ctypes.string_at(self.address + ir.VIEW["arguments"] + 4 * word, ir.BYTES[kind])
        return value_of(kind, int.from_bytes(data, "little"))
