"""Units from text that tests write: a header, and one entry `main`."""

from __future__ import annotations

from openwafer.csl import ir


def unit_of(text: str, name: str = "pe.csl") -> ir.Unit:
    """The unit of declarations in `text`; `main` becomes local task 9."""
    unit = ir.parse_unit(f'unit "{name}" wse2 f16\nlocation "" 0 0\nlocation "pe.csl" 3 14\n{text}')
    if "main" in unit.functions:
        main = unit.functions["main"]
        kinds = tuple(main.locals[one].type for one in main.parameters)
        unit.tasks.append(ir.BoundTask("local", 9, "main", kinds))
    return unit
