"""Rows that are not in the table of this package: somebody's own measurements, from a JSON file."""

from __future__ import annotations

import inspect
from pathlib import Path

import msgspec

from openwafer.artifact._image import Architecture
from openwafer.base import InputError
from openwafer.kernels.validate._measures import MEASURES
from openwafer.kernels.validate._published import NOT_PUBLISHED, Bound, Row

_GIVEN = 3  # parameters that every measure has: bench, architecture, timing


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    architecture: Architecture
    measure: str
    published: tuple[float, float]
    params: dict[str, int] = {}
    kind: Bound = "told"
    unit: str = "cycles"
    source: str = "a file of rows"


class _File(msgspec.Struct, forbid_unknown_fields=True):
    rows: list[_Entry]


def read_rows(path: Path) -> tuple[Row, ...]:
    """The rows of a file like

        {"rows": [{"name": "mine", "architecture": "wse3", "measure": "tile_cycles", "published": [2400, 2410],
                   "params": {"columns": 12, "rows": 12, "radius": 3}, "kind": "vector"}]}

    `measure` and its `params` are functions of this package (docs/fabric-timing.md lists them), `published` the least and
    the greatest number that was measured, `kind` the bound: exact, vector, scalar or told (none).
    Raises InputError if the file cannot be read or says something else.
    """
    try:
        entries = msgspec.json.decode(path.read_bytes(), type=_File).rows
    except OSError as error:
        raise InputError(
            f"--rows {path} cannot be read: {error.strerror}; name a JSON file of rows"
        ) from error
    except msgspec.DecodeError as error:
        raise InputError(
            f"--rows {path} is not a file of rows: {error}; see docs/fabric-timing.md for an example"
        ) from error
    return tuple(_row(path, number, entry) for number, entry in enumerate(entries))


def _row(path: Path, number: int, entry: _Entry) -> Row:
    where = f"--rows {path}: row {number} ({entry.name})"
    if entry.measure not in MEASURES:
        raise InputError(f"{where}: measure {entry.measure!r} is not known; choose of {', '.join(MEASURES)}")
    parameters = list(inspect.signature(MEASURES[entry.measure]).parameters.values())[_GIVEN:]
    missing = [one.name for one in parameters if one.default is one.empty and one.name not in entry.params]
    unknown = sorted(set(entry.params) - {one.name for one in parameters})
    if missing or unknown:
        wrong = f"lacks {', '.join(missing)}" if missing else f"does not take {', '.join(unknown)}"
        takes = ", ".join(one.name for one in parameters) or "none"
        raise InputError(f"{where}: {entry.measure} {wrong}; its params are: {takes}")
    low, high = entry.published
    if not 0 < low <= high:
        raise InputError(f"{where}: published is [{low}, {high}]; give the least and the greatest, above 0")
    return Row(
        *(NOT_PUBLISHED, entry.name, entry.architecture, entry.measure, low, high, entry.kind, entry.unit),
        source=entry.source,
        params=entry.params,
    )
