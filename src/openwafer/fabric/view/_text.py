"""A trace as text lines, in the grammar that tools for existing simulators' logs read.

    @CYCLE PX.Y (hwtile) landing CN from link W
    @CYCLE PX.Y (hwtile) wavelet CN ctrl=0, idx=0001, data=0002 (2), half=0, ident=00000000 landing=W departing=/ER/
    @CYCLE PX.Y (hwtile) [IS OP] ^ pe.csl:12:5: T08 FMACS
    @CYCLE PX.Y (hwtile) [EX OP] ^ pe.csl:12:5: T08 FMACS
    @CYCLE PX.Y (hwtile) Pipe: 0, Msg: stall: @fmacs waits for a wavelet of color 3 (pe.csl:12:5), T08, 17 cycles

X and Y are the fabric's. Threads T00 to T07 are microthreads and T08 is the main thread. IS OP is where an operation begins
and EX OP where it ends. Operations have a source line in place of an address in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from openwafer.base import StorageError
from openwafer.fabric._trace import TraceKind
from openwafer.fabric._trace_file import Trace
from openwafer.fabric._trace_spans import KINDS, make_spans

_LINKS = "WESNRR"  # by the number of the side
_DEPARTING = ((1, "E"), (3, "N"), (0, "W"), (2, "S"), (4, "R"))


def text_lines(trace: Trace, *, instructions: bool = True, landings: bool = True) -> Iterator[str]:
    """The lines of a trace by cycle: of operations and waits, and of wavelets at routers."""
    made: list[tuple[int, str]] = []
    left, top = trace.facts.offset
    if instructions:
        made += _operations(trace)
    if landings:
        chosen = trace.records[trace.records["kind"] == TraceKind.PASSAGE]
        for cycle, x, y, _, a, data, sides in chosen.tolist():
            color, link = a & 255, _LINKS[a >> 8]
            where = f"@{cycle} P{left + x}.{top + y} (hwtile)"
            departing = "".join(letter for side, letter in _DEPARTING if sides >> side & 1)
            made.append((cycle, f"{where} landing C{color} from link {link}"))
            made.append(
                (
                    cycle,
                    f"{where} wavelet C{color} ctrl={sides >> 8 & 1}, idx={data >> 16:04x}, data={data & 0xFFFF:04x} "
                    f"({data & 0xFFFF}), half=0, ident={data:08x} landing={link} departing=/{departing}/",
                )
            )
    made.sort(key=lambda line: line[0])
    return (text for _, text in made)


def _operations(trace: Trace) -> Iterator[tuple[int, str]]:
    found = make_spans(trace)
    left, top = trace.facts.offset
    chosen = found.spans[np.isin(found.spans["kind"], (KINDS.index("operation"), KINDS.index("wait")))]
    for x, y, thread, kind, name, start, end in chosen.tolist():
        what, where = found.names[name], f"P{left + x}.{top + y} (hwtile)"
        if KINDS[kind] == "wait":
            yield start, f"@{start} {where} Pipe: 0, Msg: stall: {what}, T{thread:02}, {end - start} cycles"
            continue
        text = f"{what.place or trace.facts.programs[int(trace.program_at[y, x])].name}: T{thread:02} {what.text[1:].upper()}"
        yield start, f"@{start} {where} [IS OP] ^ {text}"
        yield end, f"@{end} {where} [EX OP] ^ {text}"


def append_text(trace: Trace, path: Path, *, instructions: bool = True, landings: bool = True) -> None:
    """Add `text_lines` to the end of a file. Raises StorageError if that is not possible."""
    _write(trace, path, "a", instructions=instructions, landings=landings)


def write_text(trace: Trace, path: Path) -> None:
    """Write all `text_lines` to a file, in place of what it held. Raises StorageError if that is not possible."""
    _write(trace, path, "w", instructions=True, landings=True)


def _write(trace: Trace, path: Path, mode: str, *, instructions: bool, landings: bool) -> None:
    try:
        with path.open(mode, encoding="utf-8") as file:
            for line in text_lines(trace, instructions=instructions, landings=landings):
                file.write(line + "\n")
    except OSError as error:
        raise StorageError(
            f"{path} cannot be written: {error.strerror}; choose a file in a folder that can be written to"
        ) from error
