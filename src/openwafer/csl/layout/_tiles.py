"""Tiles that run the same file with the same params share one program."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from openwafer.csl.layout._identity import identity
from openwafer.csl.sema._facts import TileCode

Place: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True)
class ProgramKey:
    """What a program is made from."""

    file: str | None
    """As the layout names it; None is the file that names it."""
    importer: Path
    params: Hashable
    """The identity of the params, by name."""


def group_tiles(tiles: Mapping[Place, TileCode]) -> dict[ProgramKey, list[Place]]:
    """The tiles of each program, both in the order of the layout's calls."""
    groups: dict[ProgramKey, list[Place]] = {}
    of_code: dict[int, list[Place]] = {}  # tiles share the objects that a loop made once
    for place, code in tiles.items():
        places = of_code.get(id(code))
        if places is None:
            params = frozenset((name, identity(value)) for name, value in code.params.items())
            places = groups.setdefault(ProgramKey(code.file, code.importer, params), [])
            of_code[id(code)] = places
        places.append(place)
    return groups
