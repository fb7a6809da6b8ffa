"""The engine as a whole: one instance makes the PE-IR of one PE program, or evaluates one layout."""

from __future__ import annotations

from typing import Any

from openwafer.csl.ir import _ir as ir
from openwafer.csl.sema._carry import carry
from openwafer.csl.sema._globals import Globals
from openwafer.csl.sema._scope import Failure
from openwafer.csl.sema._values import FunctionValue, ValuePlace
from openwafer.csl.sema.builtins import _finish
from openwafer.csl.syntax import ast


class Engine(Globals):
    """Walks the tree of a program: executes what is known at compile time and makes code of the rest.

    To be used inside `deep_nesting()`. `diagnostics` holds what is wrong, `warnings` what is suspicious, `printed` what
    @comptime_print showed.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._handlers = {
            **self.literal_handlers(),
            **self.flow_handlers(),
            **self.loop_handlers(),
            **self.statement_handlers(),
            ast.Call: self.call_expression,
        }

    def _look_further(self) -> None:
        bound = [(one.function, one.span) for one in self.resources.bindings.values()]
        for one in self.resources.exports.values():
            value = one.place.value.data if isinstance(one.place, ValuePlace) else None
            bound.extend([(value, one.span)] if isinstance(value, FunctionValue) else [])
        for function, span in bound:
            try:
                self.compiled(function, span)
            except Failure:
                continue
        self.compile_bodies()

    def finish(self) -> ir.Unit:
        """Compiles what was asked for; the unit is complete if there are no diagnostics."""
        if self.diagnostics:  # no unit will come of it; what else is wrong is told as well
            self._look_further()
            return self.unit
        _finish.finish(self)
        while self.pending():
            self.compile_bodies()
            self.place_variables()  # first values can ask for functions, by pointers to them
        self.finish_calls()
        _finish.finish_registers(self)
        if not self.diagnostics:
            for one in self.unit.functions.values():
                carry(one, self.unit.functions)
        return self.unit
