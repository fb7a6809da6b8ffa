"""Builtins that the public documentation names and that are not here, each with what to write instead."""

from __future__ import annotations

from openwafer.csl.sema._builtin import REFUSED

REFUSED.update(
    {
        "bind_task": (
            "was removed with SDK 1.1",
            "write @bind_data_task, @bind_local_task or @bind_control_task",
        ),
        "export": ("is not supported yet", "write `export` before the declaration"),
        "get_color_id": ("was removed with SDK 1.2", "write @get_int(color)"),
    }
)
