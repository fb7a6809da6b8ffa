"""The memory of a PE as its program starts."""

from __future__ import annotations

from openwafer.csl.ir import _ir as ir
from openwafer.csl.ir._link import Linked


def memory_image(unit: ir.Unit, linked: Linked) -> bytes:
    """The first values of all symbols at their addresses, pointers resolved; what follows the last byte is zero."""
    image = bytearray(linked.end)
    for symbol in unit.symbols.values():
        at = linked.addresses[symbol.name]
        image[at : at + len(symbol.value)] = symbol.value
        for relocation in symbol.relocations:
            target = (linked.addresses[relocation.symbol] + relocation.offset) & 0xFFFF
            image[at + relocation.at : at + relocation.at + 2] = target.to_bytes(2, "little")
    return bytes(image).rstrip(b"\0")
