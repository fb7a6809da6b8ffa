"""Routing without time, written apart from the core: who gets which wavelets of one source, and in which order.

A wavelet goes through a tree of routers in one go. That is the right order wherever each color has one source, since
neither links nor buffers let wavelets of a color pass each other. Commands are a list here, not bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from fabric_probe import ADVANCE, NOP, OPPOSITE, RAMP, RESET, STEP

Place = tuple[int, int]
Command = tuple[int, bool]  # opcode, NOCE


@dataclass(frozen=True)
class Wavelet:
    """A data wavelet, or a control wavelet with eight commands."""

    data: int
    commands: tuple[Command, ...] = ()


@dataclass(frozen=True)
class Rule:
    """What passes a filter on the ramp."""

    kind: Literal["range", "counter"]
    first: int = 0  # counter: where it begins; range: the lowest index
    round: int = 1  # counter: wavelets in a round
    last: int = 0  # counter: the last count that passes; range: the highest index


@dataclass
class Router:
    """One color of one router."""

    tx: int
    positions: tuple[int | None, ...] = ()  # tx masks of positions 1 to 3; None: invalid
    ring: bool = False
    pop: str = "no_pop"
    position: int = 0
    rule: Rule | None = None
    counted: int = 0
    got: list[Wavelet] = field(default_factory=list)

    def sides(self) -> int:
        """Where wavelets go at the current position."""
        known = [self.tx, *self.positions]
        tx = known[self.position]
        assert tx is not None
        return tx

    def advance(self) -> bool:
        """Go to the next position, if there is one."""
        before = self.position
        following = self.position + 1
        if following <= len(self.positions) and self.positions[following - 1] is not None:
            self.position = following
        elif self.ring:
            self.position = 0
        return self.position != before

    def accepts(self, wavelet: Wavelet) -> bool:
        """Whether the filter lets the wavelet through to the CE."""
        if self.rule is None:
            return True
        if self.rule.kind == "range":
            return bool(wavelet.commands) or self.rule.first <= wavelet.data >> 16 <= self.rule.last
        count = (self.rule.first + self.counted) % self.rule.round
        self.counted += not wavelet.commands
        return count <= self.rule.last


def send(routers: dict[Place, Router], at: Place, wavelet: Wavelet) -> None:
    """One wavelet from `at` through the tree, to whoever gets it."""
    router = routers[at]
    sides = router.sides()
    onward = wavelet
    if wavelet.commands:
        opcode, noce = wavelet.commands[0]
        advanced = opcode == ADVANCE and router.advance()
        if opcode == RESET:
            router.position = 0
        pops = {
            "no_pop": False,
            "always_pop": True,
            "pop_on_advance": advanced,
            "pop_on_advance_nop": advanced or opcode == NOP,
        }
        if pops[router.pop]:
            onward = Wavelet(wavelet.data, (*wavelet.commands[1:], (NOP, True)))
        if sides & RAMP and not noce and router.accepts(wavelet):
            router.got.append(wavelet)
    elif sides & RAMP and router.accepts(wavelet):
        router.got.append(wavelet)
    for side, (dx, dy) in STEP.items():
        if sides & side:
            send(routers, (at[0] + dx, at[1] + dy), onward)


def inputs(routers: dict[Place, Router], source: Place) -> dict[Place, int]:
    """From which side each router of the tree is reached."""
    found = {source: RAMP}
    for at, router in routers.items():
        for sides in (router.tx, *router.positions):
            for side, (dx, dy) in STEP.items():
                if sides is not None and sides & side:
                    found[at[0] + dx, at[1] + dy] = OPPOSITE[side]
    return found
