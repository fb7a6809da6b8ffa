"""The commands of memcpy and of ports: each a generator that yields what it waits for."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from openwafer.artifact._image import Program
from openwafer.base import InputError
from openwafer.host._arrays import from_block
from openwafer.host._device import Device
from openwafer.host._driver import Command, Cycle, Until
from openwafer.host._options import MemcpyDataType, MemcpyOrder
from openwafer.host._program import THROUGH_POINTER, CompiledProgram, Region


class Commands:
    """Makes the commands for one loaded program."""

    def __init__(self, program: CompiledProgram, device: Device) -> None:
        self._program = program
        self._device = device
        self.launched = ""  # the function that was launched last
        self.warning = ""  # of `drain`, for the user

    def wait_for_stream(self) -> Until:
        """Every PE has to take the next command, also where a copy does not touch it: commands reach all of them."""
        region = self._program.rectangle
        hint = (
            f"a function that the host launches has to call unblock_cmd_stream() of <memcpy/memcpy>, itself or in a task that "
            f"it starts, on every PE; {self.launched!r} was launched last"
            if self.launched
            else ""
        )
        return Until(
            lambda: self._device.commands_idle(region), f"{region} to unblock the command stream", hint
        )

    def write(
        self, name: str, region: Region, block: NDArray[np.uint32], kind: MemcpyDataType, cycles: int
    ) -> Command:
        """Copy `block` [row, column, element] to an exported variable."""
        what = f"memcpy_h2d to {name!r}"
        addresses = self._program.addresses(name, region, what)
        narrow = kind is MemcpyDataType.MEMCPY_16BIT
        size = block.shape[2] * (2 if narrow else 4)
        self._check_room(name, region, addresses, size, what)
        data = (block & 0xFFFF).astype(np.uint16) if narrow else block
        yield self.wait_for_stream()
        yield Cycle(self._device.cycle + cycles)
        self._device.write_words(self._places(name, region, addresses, size, what), region, data)

    def read(
        self,
        name: str,
        region: Region,
        count: int,
        kind: MemcpyDataType,
        order: MemcpyOrder,
        result: NDArray[Any],
        cycles: int,
    ) -> Command:
        """Copy an exported variable to a host array."""
        what = f"memcpy_d2h from {name!r}"
        addresses = self._program.addresses(name, region, what)
        narrow = kind is MemcpyDataType.MEMCPY_16BIT
        size = count * (2 if narrow else 4)
        self._check_room(name, region, addresses, size, what, reads=True)
        yield self.wait_for_stream()
        yield Cycle(self._device.cycle + cycles)
        places = self._places(name, region, addresses, size, what, reads=True)
        block = self._device.read_words(places, region, count, np.uint16 if narrow else np.uint32)
        from_block(block.astype(np.uint32), result, order)

    def launch(self, name: str, words: list[int], cycles: int, *, blocking: bool) -> Command:
        """Call an exported function on every PE that has it.

        A blocking launch ends when every PE takes the next command, or when nothing moves: a function that has not unblocked
        the stream by then may still be waiting for data that the host streams to other PEs. What needs the stream tells so.
        """
        yield self.wait_for_stream()
        yield Cycle(self._device.cycle + cycles)
        self.launched = name
        for x, y, entry in self._program.entries(name):
            self._device.launch(x, y, entry, words)
        if blocking:
            everywhere = self.wait_for_stream()
            yield Until(everywhere.ready, everywhere.what, everywhere.hint, or_rest=True)

    def drain(self) -> Command:
        """Wait until every PE takes commands: the end of a run.

        A function that has done everything but unblock the stream keeps nobody waiting any more: that is only warned of.
        """
        wait = self.wait_for_stream()
        yield replace(wait, or_rest=True)
        if wait.ready():
            return
        if not self._device.lacks_only_unblock():
            yield wait
        self.warning = (
            f"{self.launched!r}, launched last, has not called unblock_cmd_stream() of <memcpy/memcpy> on every PE that runs "
            "it; nothing was lost, but a further command of the host would have waited for ever"
        )

    def send_all(self, color: int, region: Region, block: NDArray[np.uint32]) -> Command:
        """Stream `block` [row, column, word] to the PEs of a region; done when the fabric has taken every word."""
        yield self.wait_for_stream()
        places = [
            (region.x + column, region.y + row)
            for row in range(region.height)
            for column in range(region.width)
        ]
        for x, y in places:
            self._device.send(color, x, y, block[y - region.y, x - region.x])
        left = [(x, y) for x, y in places]

        def taken() -> bool:
            while left and self._device.pending(color, *left[-1]) == 0:
                left.pop()
            return not left

        hint = (
            "the next command of the host begins when the fabric has taken every word of this one; what the program sends back "
            "meanwhile needs room on the wafer, for example a FIFO"
        )
        yield Until(taken, f"the words of color {color} to be taken at {region}", hint)

    def receive_all(
        self, color: int, region: Region, count: int, order: MemcpyOrder, result: NDArray[Any]
    ) -> Command:
        """Stream `count` words from each PE of a region to a host array."""
        yield self.wait_for_stream()
        block = np.zeros((*region.shape, count), np.uint32)
        left = {
            (x, y): 0
            for y in range(region.y, region.y + region.height)
            for x in range(region.x, region.x + region.width)
        }

        def arrived() -> bool:
            for (x, y), have in list(left.items()):
                words = self._device.receive(color, x, y, count - have)
                block[y - region.y, x - region.x, have : have + words.size] = words
                left[x, y] = have + words.size
                if left[x, y] == count:
                    del left[x, y]
            return not left

        yield Until(arrived, f"{count} words of color {color} from each PE of {region}")
        from_block(block, result, order)

    def send_port(self, port: str, x: int, y: int, words: NDArray[np.uint32]) -> Command:
        """Stream words into a port of a layout."""
        self._device.send(port, x, y, words)
        yield Until(
            lambda: self._device.pending(port, x, y) == 0, f"the fabric to take the words of port {port!r}"
        )

    def receive_port(
        self, port: str, x: int, y: int, count: int, deliver: Callable[[NDArray[np.uint32]], None]
    ) -> Command:
        """Take words from a port of a layout and hand them over when all have arrived."""
        parts: list[NDArray[np.uint32]] = []
        have = 0

        def arrived() -> bool:
            nonlocal have
            words = self._device.receive(port, x, y, count - have)
            if words.size:
                parts.append(words)
                have += words.size
            return have == count

        yield Until(arrived, f"{count} words at port {port!r}")
        deliver(np.concatenate(parts) if parts else np.zeros(0, np.uint32))

    def _places(
        self,
        name: str,
        region: Region,
        addresses: NDArray[np.int32],
        size: int,
        what: str,
        reads: bool = False,
    ) -> NDArray[np.int32]:
        """Where a copy begins on each PE, now that every pointer has its value; checked again where one can change."""
        places = self._device.follow(addresses, region)
        if places is not addresses:
            self._check_room(name, region, places, size, what, reads)
        return places

    def _check_room(
        self,
        name: str,
        region: Region,
        addresses: NDArray[np.int32],
        size: int,
        what: str,
        reads: bool = False,
    ) -> None:
        """A copy must not run over the end of the variable that it begins in; `size` in bytes per PE.

        Reading what lies behind it harms nothing, and public programs do so (stencil-v2 of SDK 1.0): that is warned of.
        """
        rows, columns = slice(region.y, region.y + region.height), slice(region.x, region.x + region.width)
        programs = self._program.program_at[rows, columns].astype(np.int64)
        warning = ""
        kinds, firsts = np.unique(programs * (2 * THROUGH_POINTER) + addresses, return_index=True)
        for kind, first in zip(kinds, firsts, strict=True):
            number, address = divmod(int(kind), 2 * THROUGH_POINTER)
            if address >= THROUGH_POINTER:
                continue  # _places does it
            program = self._program.image.programs[number]
            problem, harmless = _overrun(program, address, size)
            if problem:
                through = ""
                if name in program.pointers:
                    y, x = divmod(int(first), region.width)
                    through = f"; the pointer {name!r} of PE ({region.x + x}, {region.y + y}) has the value {address} now"
                if not (reads and harmless):
                    raise InputError(f"{what}: {problem}{through}")
                warning = warning or f"{what}: {problem}{through}; the rest is what lies behind it"
        if warning:
            warnings.warn(warning, stacklevel=2)


def _overrun(program: Program, address: int, size: int) -> tuple[str, bool]:
    """What is wrong with a copy of `size` bytes to or from `address`, or nothing; and whether a read would do no harm."""
    if program.symbols and address < min(symbol.address for symbol in program.symbols):
        return (
            f"address {address} lies before the first variable of {program.name}; set the pointer before the copy",
            False,
        )
    inside = address + size <= program.memory_bytes
    for symbol in program.symbols:
        end = symbol.address + symbol.bytes
        if symbol.address <= address < end and address + size > end:
            return (
                f"{size} bytes per PE are copied, and {symbol.name} ({symbol.type}) of {program.name} has {end - address} "
                "from there on; copy fewer elements or make it larger",
                inside,
            )
    if not inside:
        return (
            f"{size} bytes from address {address} leave the PE's memory of {program.memory_bytes} bytes; "
            "copy fewer elements",
            False,
        )
    return "", True
