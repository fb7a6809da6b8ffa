"""The Machine: an Image on a fabric, cycle by cycle. Places are columns and rows of the program's rectangle."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openwafer.artifact import _image as image
from openwafer.artifact._pe_abi import PrintKind
from openwafer.base import InputError
from openwafer.fabric._code import LoadedCode
from openwafer.fabric._load import SIDES, load_machine
from openwafer.fabric._timing import Profile, Timing, load_timing
from openwafer.fabric._trace import TRACE_LIMIT, read_trace
from openwafer.fabric._trace_file import Trace, TraceFacts

Executor = Callable[[image.Code], Sequence[int]]
_SPIN_LIMIT = 1 << 36  # cycles without a wait: more than a minute of a wafer's time


@dataclass(frozen=True, slots=True)
class Outcome:
    """Why a run ended."""

    idle: bool
    """Nothing can change without the host."""
    stalled: bool = False
    """Idle, and something waits: a task in an operation, a command, a wavelet. `Machine.diagnose` says what."""
    failed: bool = False
    """The program did what the machine forbids; `Machine.failure` says what, where and what to do."""


_OUTCOMES = (
    Outcome(idle=True),
    Outcome(idle=False),
    Outcome(idle=True, stalled=True),
    Outcome(idle=True, failed=True),
)


class Machine:
    """A fabric with an Image loaded. Machines are independent of each other, and equal inputs give equal cycles."""

    def __init__(
        self,
        loaded: image.Image,
        timing: Profile | Timing = "sim",
        executor: Executor | None = None,
        object_cache: Path | None = None,
        jitter: int = 0,
    ) -> None:
        """Load `loaded`; nothing runs before `run`.

        timing: `sim` and `silicon` are tables of cycles, `functional` charges nothing; or a table
        of one's own. executor: for tests, gives the
        addresses of a code's entries in place of compiled code. object_cache: a folder that keeps compiled code.
        jitter: for tests, a seed from 1 on: links take longer, wavelets are held, tasks start late, and who goes first
        among equals is drawn at random; whoever has no race gives the same answer. 0 draws nothing.
        Raises InputError if the image contradicts itself, FabricError if its code cannot be compiled.
        """
        if not 0 <= jitter < 1 << 32:
            raise InputError(f"jitter {jitter} is no seed; give 1 to {(1 << 32) - 1}, or 0 for none")
        self.image = loaded
        self.timing = timing if isinstance(timing, Timing) else load_timing(loaded.architecture, timing)
        self._codes = (
            [] if executor is not None else [LoadedCode(code, object_cache) for code in loaded.codes]
        )
        entries = (
            [executor(code) for code in loaded.codes]
            if executor is not None
            else [c.entries for c in self._codes]
        )
        try:
            self._native = load_machine(loaded, self.timing, entries, jitter)
            self._ports = {
                port.name: (
                    self._native.open_port(
                        port.x, port.y, SIDES.index(port.side), port.color, port.direction == "in"
                    ),
                    port,
                )
                for port in loaded.ports
            }
        except (ValueError, IndexError) as error:
            raise InputError(f"the program does not fit the machine: {error}") from error
        self._native.spin_limit = _SPIN_LIMIT
        self._native.start()

    @property
    def cycle(self) -> int:
        """Cycles since the start."""
        return self._native.cycle

    @property
    def failure(self) -> str:
        """What the program did that the machine forbids, with its place; empty while it did not."""
        return self._native.failure

    def run(self, cycles: int | None = None) -> Outcome:
        """Run until nothing can change without the host, or for `cycles` more."""
        if cycles is not None and cycles < 0:
            raise InputError(f"a machine cannot run {cycles} cycles; give 0 or more")
        return _OUTCOMES[self._native.run(-1 if cycles is None else cycles)]

    def skip_to(self, cycle: int) -> None:
        """On an idle machine: let time pass up to a cycle, as when the host takes its time."""
        self._native.skip_to(cycle)

    # --- memory ---

    def read(self, x: int, y: int, address: int, count: int) -> bytes:
        """`count` bytes of a PE's memory from byte `address`. Raises InputError outside of it."""
        self._check(x, y)
        try:
            return self._native.read(x, y, address, count)
        except (IndexError, TypeError) as error:
            raise _wrong_place(error) from error

    def write(self, x: int, y: int, address: int, data: bytes) -> None:
        """Write `data` to a PE's memory at byte `address`. Raises InputError outside of it."""
        self._check(x, y)
        try:
            self._native.write(x, y, address, data)
        except (IndexError, TypeError) as error:
            raise _wrong_place(error) from error

    def read_block(
        self,
        x: int,
        y: int,
        width: int,
        height: int,
        address: int,
        count: int,
        kind: type[np.generic] = np.uint32,
    ) -> NDArray[np.generic]:
        """`count` elements of `kind` from the same byte address of every PE of a rectangle: [row, column, element]."""
        self._check(x, y, width, height)
        item = np.dtype(kind).itemsize
        try:
            data = self._native.read_block(x, y, width, height, address, count * item)
        except (IndexError, TypeError) as error:
            raise _wrong_place(error) from error
        return data.view(kind)

    def write_block(self, x: int, y: int, address: int, block: NDArray[np.generic]) -> None:
        """Write `block` [row, column, element] to the same byte address of every PE of a rectangle."""
        height, width, _ = block.shape
        self._check(x, y, width, height)
        data = np.ascontiguousarray(block).view(np.uint8)
        try:
            self._native.write_block(x, y, address, data)
        except (IndexError, TypeError) as error:
            raise _wrong_place(error) from error

    # --- commands ---

    def launch(self, x: int, y: int, entry: int, arguments: Sequence[int] = ()) -> None:
        """Put a call of `entry` into a PE's command stream.

        It starts when no command before it blocks the stream, and blocks it until the program unblocks it. arguments:
        32-bit words. Raises InputError for a place without a program, an entry that it has not, or too many words.
        """
        self._check(x, y)
        try:
            self._native.launch(x, y, entry, [int(word) & 0xFFFFFFFF for word in arguments])
        except (IndexError, ValueError, TypeError) as error:
            raise InputError(f"the launch cannot be made: {error}") from error

    def commands_idle(self, x: int, y: int, width: int, height: int) -> bool:
        """Whether no PE of the rectangle has a command waiting or its stream blocked."""
        self._check(x, y, width, height)
        return self._native.commands_idle(x, y, width, height)

    # --- streams: a port of the image by name, or a streaming color at a PE ---

    def send(
        self, stream: int | str, x: int, y: int, words: NDArray[np.uint32], control: bool = False
    ) -> None:
        """Let words wait until the fabric takes them; x and y are those of the PE, and unused for a port."""
        data = np.ascontiguousarray(words, np.uint32).ravel()
        if isinstance(stream, str):
            number, port = self._port(stream, "in")
            self._native.send_port(number, port.color, data, control)
            return
        self._check_stream(stream, "in")
        self._check(x, y)
        try:
            self._native.send_stream(x, y, stream, data, control)
        except (IndexError, ValueError) as error:
            raise _wrong_place(error) from error

    def pending(self, stream: int | str, x: int, y: int) -> int:
        """Words that were sent and that the fabric has not taken."""
        if isinstance(stream, str):
            return self._native.pending_port(self._port(stream, "in")[0])
        self._check(x, y)
        return self._native.pending_stream(x, y, stream)

    def receive(self, stream: int | str, x: int, y: int, count: int) -> NDArray[np.uint32]:
        """Up to `count` words that have come out so far.

        What is missing stays asked for until the next call: until the host asks, a streaming color holds no more words
        than a router's buffer, so that a PE which sends more waits.
        """
        if isinstance(stream, str):
            return self._native.receive_port(self._port(stream, "out")[0], count)
        self._check_stream(stream, "out")
        self._check(x, y)
        try:
            return self._native.receive_stream(x, y, stream, count)
        except (IndexError, ValueError) as error:
            raise _wrong_place(error) from error

    # --- what the program tells ---

    def prints(self) -> list[tuple[int, int, int, str]]:
        """Cycle, x, y and text of every line printed so far, by cycle, then row and column."""
        return sorted(self._native.prints(), key=lambda line: (line[0], line[2], line[1]))

    def traces(self, x: int, y: int) -> list[tuple[str, int | float | str | bool]]:
        """Key and value of everything that a PE recorded with <debug>, in order."""
        self._check(x, y)
        if not self._native.has_program(x, y):
            return []
        found: list[tuple[str, int | float | str | bool]] = []
        strings = self._strings(x, y)
        for cycle, key, kind, bits, text in self._native.traces(x, y):
            name = strings[key] if key < len(strings) else str(key)
            found.append((name, _value(PrintKind(kind), cycle, bits, text)))
        return found

    def diagnose(self, *, unblock: bool = True) -> str:
        """Every blocked task, queue and operation, and what it waits for; empty if nothing waits.

        Without `unblock`, functions of the host that have done everything but unblock its commands are not told.
        """
        return self._native.diagnose(unblock)

    def statistics(self, x: int, y: int) -> dict[str, int]:
        """Of one PE: busy and stalled cycles of its main thread and datapath, tasks begun, wavelets in and out."""
        self._check(x, y)
        try:
            return self._native.statistics(x, y)
        except IndexError as error:
            raise _wrong_place(error) from error

    @property
    def hops(self) -> int:
        """Wavelets over links so far."""
        return self._native.hops

    def set_trace(
        self, enabled: bool = True, wavelets: bool = False, passages: bool = False, limit: int = TRACE_LIMIT
    ) -> None:
        """Record what PEs do from now on: tasks, operations, waits.

        wavelets: also each wavelet at a PE's ramp. passages: also each wavelet at each router, which moves no stream as
        one then, and so takes longer; results and cycles stay the same. limit: records that are kept; what comes
        later is only counted.
        """
        self._native.set_trace(enabled=enabled, wavelets=wavelets, passages=passages, limit=limit)

    def trace(self) -> NDArray[np.void]:
        """The records so far: `TRACE_RECORD`s by cycle. Waits that have not ended last until now."""
        return read_trace(self._native.trace_bytes())

    def full_trace(self) -> Trace:
        """The records so far with what they are about: programs, places, names."""
        return Trace(
            facts=TraceFacts.of(self.image, self.timing.profile, self.cycle, self._native.trace_dropped),
            records=self.trace(),
        )

    # --- checks ---

    def _check(self, x: int, y: int, width: int = 1, height: int = 1) -> None:
        right, bottom = self.image.rectangle
        if x < 0 or y < 0 or width < 1 or height < 1 or x + width > right or y + height > bottom:
            raise InputError(
                f"PEs from ({x}, {y}), {width} x {height} of them, are not all in the program's rectangle of {right} x "
                f"{bottom}"
            )

    def _check_stream(self, color: int, direction: str) -> None:
        if self.image.streams.get(color) != direction:
            known = [str(one) for one, way in self.image.streams.items() if way == direction]
            raise InputError(
                f"color {color} is no stream {direction} of the program; it has {', '.join(known) or 'none'}"
            )

    def _port(self, name: str, direction: str) -> tuple[int, image.Port]:
        found = self._ports.get(name)
        if found is None or found[1].direction != direction:
            known = [port.name for _, port in self._ports.values() if port.direction == direction]
            raise InputError(f"no port {name!r} {direction}; the program has {', '.join(known) or 'none'}")
        return found

    def _strings(self, x: int, y: int) -> tuple[str, ...]:
        for tile in self.image.tiles:
            if (tile.x, tile.y) == (x, y) and tile.program is not None:
                return self.image.programs[tile.program].strings
        return ()


def _wrong_place(error: Exception) -> InputError:
    return InputError(f"{error}; check the address, length and PE against the program's symbols")


def _value(kind: PrintKind, cycle: int, bits: int, text: str) -> int | float | str | bool:
    match kind:
        case PrintKind.STRING:
            return text
        case PrintKind.F16:
            return float(text)
        case PrintKind.F32:
            return float(struct.unpack("<f", struct.pack("<I", bits))[0])
        case PrintKind.BOOL:
            return bits != 0
        case PrintKind.TIMESTAMP:
            return cycle
        case PrintKind.I16:
            return (bits & 0xFFFF) - ((bits & 0x8000) << 1)
        case PrintKind.I32:
            return bits - ((bits & 0x80000000) << 1)
        case PrintKind.U16 | PrintKind.HEX16:
            return bits & 0xFFFF
        case _:
            return bits
