"""Locations: the module scope and the Python line that an operation comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping

from openwafer.compat.cirh._function import Place

_PART = re.compile(r'"((?:[^"\\]|\\.)*)"(?::(\d+):\d+)?|(#\w+)')
_PACKAGES = ("torch/", "cerebras/pytorch/", "cerebras/appliance/")
"""How the client shortens the paths of files that are not the user's."""
_DEPTH = 64
"""Aliases deep that a location is followed; the client's tracebacks are far shallower."""


def read_place(text: str, aliases: Mapping[str, str]) -> Place:
    """The first name that is no file, and the first file that is the user's, of a location's text.

    A location nests names, files and call sites; aliases are followed. Unknown parts are skipped, never an error: a
    location is for messages only.
    """
    files: list[str] = []
    names: list[str] = []
    _collect(text, aliases, files, names, _DEPTH)
    own = next(
        (file for file in files if not file.startswith(_PACKAGES) and "site-packages" not in file), None
    )
    return Place(names[0] if names else "", own or (files[0] if files else ""))


def _collect(text: str, aliases: Mapping[str, str], files: list[str], names: list[str], depth: int) -> None:
    if depth == 0:
        return
    for name, line, alias in _PART.findall(text):
        if alias:
            if alias in aliases:
                _collect(aliases[alias], aliases, files, names, depth - 1)
        elif line:
            files.append(f"{name}:{line}")
        elif name:
            names.append(name)
