"""Builtins within recorded loops: those that say something of a tile, and those that only give a value."""

from __future__ import annotations

from openwafer.csl.layout._traced import now, plain
from openwafer.csl.sema._builtin import Call
from openwafer.csl.sema._engine import Engine
from openwafer.csl.sema._types import Type
from openwafer.csl.sema._values import Value
from openwafer.csl.syntax import ast

PURE = frozenset(
    {
        *("as", "bitcast", "get_int", "fp16", "is_arch", "is_comptime", "comptime_assert"),
        *("is_same_type", "type_of", "element_type", "element_count", "dimensions", "rank"),
        *("zeros", "constants", "range", "range_start", "range_stop", "range_step"),
        *("field", "has_field", "concat_structs", "strlen", "strcat", "get_array", "get_string_from_byte"),
        *("get_color", "get_input_queue", "get_output_queue", "get_ut_id", "get_rectangle"),
        *("get_data_task_id", "get_local_task_id", "get_control_task_id"),
    }
)
"""Builtins that give a value and do nothing else; whatever else a loop calls is not recorded."""
TILES = frozenset({"set_tile_code", "set_color_config"})


class TileCall(Call):
    """A call whose first two arguments are a tile: their numbers are used without the iteration depending on them."""

    __slots__ = ("places",)

    def __init__(self, engine: Engine, node: ast.Builtin, expected: Type | None) -> None:
        super().__init__(engine, node, expected)
        self.places: list[Value] = []
        """The two, as they are."""

    def value(self, index: int, expected: Type | None = None) -> Value:
        """The argument's value; what becomes of it outlives the iteration."""
        found = self._values.get(index)
        if found is None:
            found = self.engine.evaluate(self.arguments[index], expected)
            if index < 2:
                self.places.append(found)
            found = Value(found.type, now(found), found.known) if index < 2 else plain(found)
            self._values[index] = found
        return found
