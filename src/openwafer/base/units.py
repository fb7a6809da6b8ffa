"""Bytes and rates as people write them."""

from __future__ import annotations

import re

from openwafer.base.errors import InputError

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB

PAGE_BYTES = 4096
"""The unit of direct I/O and of MemoryX records."""

_FACTORS = {
    "": 1,
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": KIB,
    "MIB": MIB,
    "GIB": GIB,
    "TIB": TIB,
    "K": KIB,
    "M": MIB,
    "G": GIB,
    "T": TIB,
}


def parse_bytes(text: str | int) -> int:
    """Read a size such as `512MiB`, `2GB` or `4096` as bytes.

    Raises InputError if the text is not a number followed by a unit of bytes.
    """
    if isinstance(text, int):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    factor = _FACTORS.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise InputError(f"{text!r} is not a size; write a number and a unit, for example 512MiB or 2GB")
    return int(float(match[1]) * factor)


def format_bytes(size_bytes: float) -> str:
    """Write bytes with a binary unit and three significant digits: `1.50 GiB`."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size) < 1024:
            return (
                f"{size:.0f} B"
                if unit == "B"
                else f"{size:.3g} {unit}"
                if size >= 10
                else f"{size:.2f} {unit}"
            )
        size /= 1024
    return f"{size:.2f} TiB"


def round_up(value: int, multiple: int) -> int:
    """The smallest multiple of `multiple` that is at least `value`."""
    return -(-value // multiple) * multiple
