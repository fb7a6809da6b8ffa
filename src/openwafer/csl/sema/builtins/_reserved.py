"""Programs that import <memcpy/memcpy> must leave it what it needs ("Libraries", memcpy)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openwafer.csl.sema._module import LIBRARY
from openwafer.csl.sema.builtins._limits import LIMITS

if TYPE_CHECKING:
    from openwafer.csl.sema._engine import Engine

MEMCPY = LIBRARY / "memcpy" / "memcpy.csl"


def imports_memcpy(engine: Engine) -> bool:
    """Whether a module of the program is <memcpy/memcpy>."""
    return any(module.path.resolve() == MEMCPY for module in engine.modules)


def check_reserved(engine: Engine) -> None:
    """Records an error for every id that belongs to memcpy and to the program."""
    if not imports_memcpy(engine):
        return
    limits, resources = LIMITS[engine.options.architecture], engine.resources
    for binding in resources.bindings.values():
        if binding.id in limits.memcpy_tasks.get(binding.kind, ()):
            engine.report(
                binding.span,
                f"{binding.kind} task id {binding.id} belongs to <memcpy/memcpy>",
                hint=f"bind `{binding.function.name}` to another id",
            )
    for color, (_, span) in resources.routes.items():
        if color in limits.memcpy_colors:
            engine.report(span, f"color {color} belongs to <memcpy/memcpy>", hint="use a color of 0..20")
    for (kind, number), span in resources.queues.items():
        if number in limits.memcpy_queues:
            name = kind.replace("_", " ")
            free = max(limits.memcpy_queues) + 1
            engine.report(
                span, f"{name} {number} belongs to <memcpy/memcpy>", hint=f"use a queue from {free} on"
            )
