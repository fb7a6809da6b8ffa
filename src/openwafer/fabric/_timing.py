"""Timing tables: what everything costs, per architecture and profile, each value with its grade and source."""

from __future__ import annotations

import math
import tomllib
from dataclasses import dataclass
from importlib import resources
from typing import Literal, get_args

from openwafer.artifact import _image
from openwafer.base import InputError
from openwafer.machine import WSE2, WSE3

Profile = Literal["sim", "silicon", "functional"]
Grade = Literal["published", "measured", "derived", "assumed"]


@dataclass(frozen=True, slots=True)
class TimingValue:
    """One entry of a table. `values` has one number, or one per queue or number of sources."""

    values: tuple[float, ...]
    grade: Grade
    source: str


@dataclass(frozen=True, slots=True)
class Timing:
    """A whole table: entries by `section.name`, in cycles, wavelets, elements a cycle, or counts."""

    architecture: _image.Architecture
    profile: Profile
    entries: dict[str, TimingValue]

    def __getitem__(self, name: str) -> float:
        """The first number of an entry."""
        return self.entries[name].values[0]

    def block_cycles(self, counts: dict[str, int], where: str) -> int:
        """What a block of code costs in cycles, rounded up.

        counts: operations by cost class. Raises InputError for a class that the table does not price; `where` names
        the code in it.
        """
        total = 0.0
        for name, count in counts.items():
            entry = self.entries.get(f"operations.{name}")
            if entry is None:
                raise InputError(
                    f"{where} uses the cost class {name!r}, which the timing table {self.architecture}_{self.profile} "
                    f"does not price; add it to [operations] with its source"
                )
            total += count * entry.values[0]
        return math.ceil(total - 1e-9)

    def native(self) -> dict[str, list[float]]:
        """The table as the native machine takes it."""
        return {name: list(entry.values) for name, entry in self.entries.items()}


def load_timing(architecture: _image.Architecture, profile: Profile = "sim") -> Timing:
    """The table of `architecture` and `profile` that comes with openwafer.

    functional charges nothing and has the sizes and queue depths of the sim table. Raises InputError for a name
    that is neither, or a table that is malformed.
    """
    if architecture not in get_args(_image.Architecture):
        raise InputError(f"no architecture {architecture!r}; choose one of wse2, wse3")
    if profile not in get_args(Profile):
        raise InputError(f"no timing profile {profile!r}; choose one of sim, silicon, functional")
    name = "functional" if profile == "functional" else f"{architecture}_{profile}"
    document = _read(name)
    base = document.get("base", f"{architecture}_sim" if profile != "sim" else None)
    entries: dict[str, TimingValue] = {}
    if base is not None:
        entries.update(_entries(_read(str(base)), str(base), {}))
    entries.update(_entries(document, name, entries))
    entries.update(_registers(architecture))
    return Timing(architecture=architecture, profile=profile, entries=entries)


def _registers(architecture: _image.Architecture) -> dict[str, TimingValue]:
    """How many DSRs there are, which the compiler has to know as well."""
    fact = {"wse2": WSE2, "wse3": WSE3}[architecture].pe.dsrs.recommended
    value = TimingValue((float(fact.value),), fact.grade.value, fact.source)
    return {f"registers.dsr_{file}": value for file in ("dest", "src0", "src1")}


def _read(name: str) -> dict[str, object]:
    text = resources.files("openwafer.fabric").joinpath("timing", f"{name}.toml").read_text(encoding="utf-8")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"the timing table {name}.toml is no TOML: {error}") from error


def _entries(document: dict[str, object], name: str, base: dict[str, TimingValue]) -> dict[str, TimingValue]:
    found: dict[str, TimingValue] = {}
    for section, content in document.items():
        if not isinstance(content, dict):
            continue
        for key, raw in content.items():
            value = _value(raw, f"{name}.toml, {section}.{key}")
            if key == "every":
                found.update({known: value for known in base if known.startswith(f"{section}.")})
            else:
                found[f"{section}.{key}"] = value
    return found


def _value(raw: object, where: str) -> TimingValue:
    match raw:
        case {"value": int() | float() | list() as value, "grade": str(grade), "source": str(source)}:
            values = value if isinstance(value, list) else [value]
            if grade in get_args(Grade) and source and all(isinstance(one, int | float) for one in values):
                return TimingValue(tuple(float(one) for one in values), grade, source)  # type: ignore[arg-type]
    raise InputError(
        f"{where} must be {{ value = number or numbers, grade = one of {', '.join(get_args(Grade))}, source = text }}"
    )
