"""Short words for the network probe: sides as bits, control payloads, arrivals without their cycles."""

from __future__ import annotations

from openwafer.fabric import _native

WEST, EAST, SOUTH, NORTH, RAMP = 1, 2, 4, 8, 16
NOP, ADVANCE, RESET, TEARDOWN = range(4)
NO_POP, ALWAYS_POP, POP_ON_ADVANCE, POP_ON_ADVANCE_NOP = range(4)
STEP = {WEST: (-1, 0), EAST: (1, 0), SOUTH: (0, 1), NORTH: (0, -1)}
OPPOSITE = {WEST: EAST, EAST: WEST, SOUTH: NORTH, NORTH: SOUTH, RAMP: RAMP}

NetworkProbe = _native.NetworkProbe


def payload(*commands: int, noce: bool = True, entry: int = 31, data: int | None = None) -> int:
    """A control wavelet's 32 bits: commands from bit 22 on, wrapping at bit 30 to bit 0; the rest are NOPs."""
    bits = entry << 16
    for place in range(8):
        command = commands[place] if place < len(commands) else NOP
        for i, value in enumerate((command & 1, command >> 1, int(noce))):
            bits |= value << (22 + 3 * place + i) % 30
    if data is not None:
        bits = bits & ~0xFFFF | data
    return bits


def line(length: int, *, color: int = 0, **timing: int) -> NetworkProbe:
    """A row in which what the first PE sends on `color` goes to the last one, `length` hops away, which takes it."""
    probe = NetworkProbe(length + 1, 1, **timing)
    for x in range(length + 1):
        probe.configure(x, 0, color, WEST if x else RAMP, EAST if x < length else RAMP)
    probe.listen(length, 0, color)
    return probe


def words(probe: NetworkProbe, x: int, y: int, color: int) -> list[tuple[int, bool]]:
    """What the PE at (x, y) got on `color`: data and whether it was a control wavelet."""
    return [(data, control) for _, data, control in probe.arrivals(x, y, color)]


def data(probe: NetworkProbe, x: int, y: int, color: int) -> list[int]:
    """The data that the PE at (x, y) got on `color`."""
    return [value for value, _ in words(probe, x, y, color)]
