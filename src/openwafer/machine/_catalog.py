"""Find a machine by name, and walk the numbers of one."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import MappingProxyType
from typing import Final

from openwafer.base import InputError
from openwafer.machine._clusters import (
    ALCF_CS3,
    ANDROMEDA,
    CONDOR_GALAXY_1,
    CONDOR_GALAXY_1_PHASE_1,
    MAX_CS2,
    MAX_CS3,
)
from openwafer.machine._parts import Cluster, Machine, NodeGroup, System, Wafer
from openwafer.machine._quantity import Contested, Fact, Quantity
from openwafer.machine._systems import CS1, CS2, CS3
from openwafer.machine._wse1 import WSE1
from openwafer.machine._wse2 import WSE2
from openwafer.machine._wse3 import WSE3

_ALL: tuple[Machine, ...] = (
    WSE1, WSE2, WSE3, CS1, CS2, CS3,
    ANDROMEDA, CONDOR_GALAXY_1_PHASE_1, CONDOR_GALAXY_1, ALCF_CS3, MAX_CS2, MAX_CS3,
)  # fmt: skip

MACHINES: Final[Mapping[str, Machine]] = MappingProxyType({machine.name: machine for machine in _ALL})
"""Every machine by its name: wafers, then systems, then clusters, each from old to new."""


def find_machine(name: str) -> Machine:
    """The machine of that name; case, spaces, hyphens and underscores do not matter (`wse3`, `cs_2`).

    Raises InputError that lists the known names and the nearest one.
    """
    known = {_plain(machine): machine for machine in MACHINES}
    found = known.get(_plain(name))
    if found is not None:
        return MACHINES[found]
    nearest = difflib.get_close_matches(_plain(name), known, n=1, cutoff=0.5)
    hint = f"did you mean {known[nearest[0]]!r}? " if nearest else ""
    raise InputError(f"there is no machine {name!r}: {hint}openwafer knows {', '.join(MACHINES)}")


def _plain(name: str) -> str:
    return "".join(c for c in name.casefold() if c.isalnum())


def part_of(machine: Machine) -> Machine | None:
    """The machine inside: a cluster's system, a system's wafer; None for a wafer."""
    if isinstance(machine, Cluster):
        return machine.system
    return machine.wafer if isinstance(machine, System) else None


def facts_of(machine: Machine) -> Iterator[tuple[str, Fact]]:
    """Every number of the machine itself with its path (`pe.sram_bytes`), in the order of its fields.

    The machine inside (`part_of`) is not walked, and a number that is not known is left out.
    """
    return _facts(machine, "")


def _facts(value: object, path: str) -> Iterator[tuple[str, Fact]]:
    if isinstance(value, Quantity | Contested):
        yield path, value
    elif isinstance(value, tuple):
        for index, item in enumerate(value):
            name = item.role if isinstance(item, NodeGroup) else str(index)
            yield from _facts(item, f"{path}[{name}]")
    elif is_dataclass(value) and (not path or not isinstance(value, Wafer | System | Cluster)):
        for field in fields(value):
            yield from _facts(getattr(value, field.name), f"{path}.{field.name}" if path else field.name)


def quantities_of(fact: Fact) -> Iterator[Quantity]:
    """The recommended value, then its alternatives; after each, the parts that it was computed from."""
    for quantity in (fact.recommended, *fact.alternatives):
        yield quantity
        for _, part in quantity.parts:
            yield from quantities_of(part)
