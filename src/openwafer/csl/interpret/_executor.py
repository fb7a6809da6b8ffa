"""The interpreter in place of compiled code, for a whole machine."""

from __future__ import annotations

from collections.abc import Mapping

from openwafer.artifact._image import Code
from openwafer.csl import ir
from openwafer.csl.interpret._interpreter import Interpreter


class Executor:
    """Called with a Code it gives the addresses of entries that interpret it; they live as long as this object.

    `runtime` maps the names of the PE ABI's functions to their addresses.
    """

    def __init__(self, runtime: Mapping[str, int]) -> None:
        self._runtime = dict(runtime)
        self._interpreters: list[Interpreter] = []

    def __call__(self, code: Code) -> tuple[int, ...]:
        """Raises CslError if the code's text is no PE-IR."""
        interpreter = Interpreter(ir.parse_unit(code.ir), self._runtime)
        self._interpreters.append(interpreter)
        return interpreter.addresses
