"""What a host does to a machine, in the words of a host. The only file of `host` that calls `fabric`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from openwafer.artifact._image import Image
from openwafer.host._program import THROUGH_POINTER, Region, same_value_regions

if TYPE_CHECKING:
    from openwafer.fabric import Profile

MakeMachine = Callable[..., Any]
_LOOK_EVERY_S = 0.1  # all lines are copied for a look


def simulator(image: Image, *, timing: Profile, object_cache: Path | None) -> Any:
    """The simulated machine for an image."""
    from openwafer.fabric import Machine, watch_machine

    machine = Machine(image, timing=timing, object_cache=object_cache)
    watch_machine(machine)
    return machine


class Device:
    """A loaded program on a machine."""

    def __init__(self, machine: Any) -> None:
        self.machine = machine
        self._printed = 0
        self._looked = 0.0

    @property
    def cycle(self) -> int:
        return int(self.machine.cycle)

    def advance(self, cycles: int) -> bool:
        """Run that many cycles; True, and earlier, if nothing can change any more without the host."""
        outcome = self.machine.run(cycles)
        return bool(outcome.idle)

    def skip_to(self, cycle: int) -> None:
        """On an idle machine: let time pass up to a cycle."""
        self.machine.skip_to(cycle)

    def failure(self) -> str:
        """What the program did wrong, or nothing."""
        return str(self.machine.failure or "")

    def diagnose(self) -> str:
        """What everything that waits is waiting for."""
        return str(self.machine.diagnose())

    def lacks_only_unblock(self) -> bool:
        """On an idle machine: whether all that waits are functions that have not unblocked the host's commands."""
        return not self.machine.diagnose(unblock=False)

    def finish_trace(self) -> None:
        """Write the traces that the environment asks for; see `fabric.watch_machine`."""
        from openwafer.fabric import finish_trace

        finish_trace(self.machine)

    # --- memory ---

    def write_words(self, addresses: NDArray[np.int32], region: Region, block: NDArray[Any]) -> None:
        """Write `block` [row, column, element], of 16-bit or 32-bit elements, at each PE's own address."""
        for part, address in same_value_regions(addresses, region):
            rows = slice(part.y - region.y, part.y - region.y + part.height)
            columns = slice(part.x - region.x, part.x - region.x + part.width)
            self.machine.write_block(part.x, part.y, address, np.ascontiguousarray(block[rows, columns]))

    def read_words(
        self, addresses: NDArray[np.int32], region: Region, count: int, kind: type[np.generic]
    ) -> NDArray[Any]:
        """Read `count` elements of each PE as [row, column, element]."""
        block = np.empty((*region.shape, count), kind)
        for part, address in same_value_regions(addresses, region):
            rows = slice(part.y - region.y, part.y - region.y + part.height)
            columns = slice(part.x - region.x, part.x - region.x + part.width)
            block[rows, columns] = self.machine.read_block(
                part.x, part.y, part.width, part.height, address, count, kind
            )
        return block

    def follow(self, addresses: NDArray[np.int32], region: Region) -> NDArray[np.int32]:
        """The same with each pointer replaced by where it points now."""
        if (addresses < THROUGH_POINTER).all():
            return addresses
        followed = addresses.copy()
        for part, address in same_value_regions(addresses, region):
            if address < THROUGH_POINTER:
                continue
            pointers = self.machine.read_block(
                part.x, part.y, part.width, part.height, address - THROUGH_POINTER, 1, np.uint16
            )
            rows = slice(part.y - region.y, part.y - region.y + part.height)
            columns = slice(part.x - region.x, part.x - region.x + part.width)
            followed[rows, columns] = np.asarray(pointers)[:, :, 0]
        return followed

    def read(self, x: int, y: int, address: int, size: int) -> bytes:
        """Bytes of one PE's memory."""
        return bytes(self.machine.read(x, y, address, size))

    # --- what programs tell ---

    def new_prints(self, *, final: bool) -> list[tuple[int, int, int, str]]:
        """Cycle, x, y and text of what PEs printed since the last call, by cycle.

        Code runs ahead of the machine's clock, so lines at or after it are held back unless the call is the `final` one.
        """
        now = time.monotonic()
        if not final and now - self._looked < _LOOK_EVERY_S:
            return []
        self._looked = now
        fresh = [
            line for line in self.machine.prints()[self._printed :] if final or line[0] < self.machine.cycle
        ]
        self._printed += len(fresh)
        return fresh

    def traces(self, x: int, y: int) -> list[tuple[str, int | float | str | bool]]:
        """Key and value of what a PE recorded, in order."""
        return list(self.machine.traces(x, y))

    # --- commands ---

    def launch(self, x: int, y: int, entry: int, arguments: list[int]) -> None:
        """Put a call into a PE's command stream."""
        self.machine.launch(x, y, entry, arguments)

    def commands_idle(self, region: Region) -> bool:
        """Whether every PE of the region can take a command at once."""
        return bool(self.machine.commands_idle(region.x, region.y, region.width, region.height))

    # --- streams ---

    def send(self, stream: int | str, x: int, y: int, words: NDArray[np.uint32]) -> None:
        """Let words wait at a port until the fabric takes them."""
        self.machine.send(stream, x, y, words)

    def pending(self, stream: int | str, x: int, y: int) -> int:
        """Words at a port that the fabric has not taken."""
        return int(self.machine.pending(stream, x, y))

    def receive(self, stream: int | str, x: int, y: int, count: int) -> NDArray[np.uint32]:
        """Up to `count` words that have arrived at a port; the first call opens it."""
        return np.asarray(self.machine.receive(stream, x, y, count), np.uint32)
