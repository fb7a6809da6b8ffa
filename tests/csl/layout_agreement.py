"""A layout evaluated twice, with recorded loops and by walking every iteration, as data that can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from openwafer.csl.layout import Layout, evaluate_layout, parse_params
from openwafer.csl.sema._core import Options
from openwafer.csl.sema._module import Files, ModuleInstance
from openwafer.csl.sema._values import FunctionValue, Value


def evaluated(
    path: Path,
    params: Mapping[str, str],
    options: Options,
    *,
    colors: Mapping[str, str] | None = None,
    import_paths: tuple[Path, ...] = (),
) -> tuple[Layout, Layout]:
    """Of the file at `path`: with recorded loops, and without."""
    files = Files(options.dialect, import_paths)
    file = files.load(path)
    given = parse_params(params, file.tree, file.source.name)
    given |= parse_params(colors or {}, file.tree, file.source.name)
    recorded, walked = (
        evaluate_layout(file, given, options, files, tracing=tracing) for tracing in (True, False)
    )
    return recorded, walked


def described(layout: Layout) -> dict[str, Any]:
    """All that a layout says, in its order."""
    facts = layout.facts
    return {
        "rectangle": (facts.rectangle, facts.rectangle_span),
        "tiles": [
            (
                place,
                one.file,
                one.importer,
                one.span,
                {name: plain(value) for name, value in one.params.items()},
            )
            for place, one in facts.tiles.items()
        ],
        "routes": [(place, list(routes.items())) for place, routes in facts.routes.items()],
        "exports": facts.exports,
        "streams": layout.streams,
        "diagnostics": layout.diagnostics,
        "warnings": layout.warnings,
        "printed": layout.printed,
    }


def plain(value: Any) -> Any:
    """A known value without objects of its evaluation."""
    if isinstance(value, FunctionValue):
        return plain(value.module), value.declaration.span
    if isinstance(value, ModuleInstance):
        return value.path, {name: plain(one) for name, one in value.params.items()}
    if not isinstance(value, Value):
        return value
    assert type(value) is Value, f"{value} is an expression of an iteration that is over"
    data = value.data
    if isinstance(data, np.ndarray):
        return value.type, data.shape, data.tobytes()
    if isinstance(data, tuple):
        return value.type, tuple(map(plain, data))
    return value.type, type(data), data.hex() if isinstance(data, float) else plain(data)
