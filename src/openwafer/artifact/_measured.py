"""What is measured of a machine, for predictions of a step's time."""

from __future__ import annotations

from typing import NamedTuple


class DiskSpeed(NamedTuple):
    """The disks of a store, together."""

    read_bytes_per_s: float
    write_bytes_per_s: float
    slowdown: float = 1.0
    """How many times longer arithmetic takes while they are busy: a virtual machine's disk works on its cores, too."""
