"""The engine as a whole: one instance makes the PE-IR of one PE program, or evaluates one layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema import _types as t
from openwafer.csl.sema._carry import carry
from openwafer.csl.sema._globals import Globals
from openwafer.csl.sema._module import LIBRARY, ModuleInstance
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Value
from openwafer.csl.syntax import ast


class Engine(Globals):
    """Walks the tree of a program: executes what is known at compile time and makes code of the rest.

    `diagnostics` holds what is wrong, `warnings` what is suspicious, `printed` what @comptime_print showed.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._open: list[ModuleInstance] = []
        self.library: Path = LIBRARY
        self._handlers = {
            **self.literal_handlers(),
            **self.flow_handlers(),
            **self.loop_handlers(),
            **self.statement_handlers(),
            ast.Call: self.call_expression,
        }

    def finish(self) -> ir.Unit:
        """Compiles what was asked for; the unit is complete if there are no diagnostics."""
        self.compile_bodies()
        self.place_variables()
        if not self.diagnostics:
            for one in self.unit.functions.values():
                carry(one, self.unit.functions)
        return self.unit

    def type_name(self, type: Type) -> str:
        """A type as CSL writes it."""
        return str(type)

    def param(self, value: str) -> Value:
        """A param of the command line: an integer, a float, a bool, or else a string."""
        for parse, kind in (
            (lambda: int(value, 0), t.COMPTIME_INT),
            (lambda: float(value), t.COMPTIME_FLOAT),
        ):
            try:
                return Value(kind, parse())
            except ValueError:
                continue
        if value in ("true", "false"):
            return Value(t.BOOL, value == "true")
        return Value(t.COMPTIME_STRING, value.encode())
