"""memcpy's streaming mode: which colors the host sends and receives on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from openwafer.csl.sema import _types as t
from openwafer.csl.sema._module import LIBRARY, ModuleInstance

GET_PARAMS = LIBRARY / "memcpy" / "get_params.csl"
_STREAMS: dict[str, Literal["in", "out"]] = {
    **{f"MEMCPYH2D_{number}": "in" for number in (1, 2, 3, 4)},
    **{f"MEMCPYD2H_{number}": "out" for number in (1, 2, 3, 4)},
}


def memcpy_streams(modules: Iterable[ModuleInstance]) -> dict[int, Literal["in", "out"]] | None:
    """Colors by the params of <memcpy/get_params>; None if no module imports it, so that the program is without memcpy."""
    streams: dict[int, Literal["in", "out"]] = {}
    found = False
    for module in modules:
        if module.path.resolve() != GET_PARAMS:
            continue
        found = True
        for name, direction in _STREAMS.items():
            value = module.params.get(name)
            if value is not None and value.type is t.COLOR:
                streams[int(value.data)] = direction
    return streams if found else None
